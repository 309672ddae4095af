//! [`RefuseList`], the secrets that the user refuses.

use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::sync::Arc;

use secretwell_core::backend::encrypted_by;
use secretwell_core::{Error, ErrorKind};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::words::text;

/// The largest list in bytes.
const MAX_BYTES: u64 = 64 * 1024 * 1024;
/// The largest number of entries.
const MAX_ENTRIES: usize = 1_000_000;
/// The numbers of hexadecimal digits of a truncated hash and of a whole one.
const HASH_DIGITS: [usize; 2] = [16, 64];

/// Known secrets that are not accepted as signing secrets, such as a published list of leaked ones. Used by
/// [`LazyAuthBuilder::refuse_list`](crate::LazyAuthBuilder::refuse_list) and
/// [`PreflightOptions::refuse_list`](crate::PreflightOptions::refuse_list). Cargo feature `refuse-list`.
///
/// The list is a text with one entry on each line:
///
/// - 64 hexadecimal digits, or the first 16 of them, are the SHA-256 hash of a secret. The case of the digits
///   does not matter. The line can also be one that `sha256sum` or `openssl dgst` prints, or have a comment
///   that begins with a blank and `#`.
/// - Every other text is a secret itself. A line that begins with `#` is one, too, because a secret can begin
///   with it. Blank lines are ignored.
///
/// Lines end with LF or CRLF, and a byte order mark is ignored. A secret is refused if it is equal to an entry.
/// White space and quotes around a secret or around an entry make no difference. A hash is that of the secret
/// with or without them, or with a line end. Clones share the entries, which take 8 bytes each. Another secret is refused by mistake with a
/// probability of less than 1 in 10¹³, even with the longest list.
///
/// ```
/// use secretwell::auth::RefuseList;
///
/// let list = RefuseList::parse(b"correct horse battery staple, at length\n2bb80d537b1da3e3\n")?;
/// assert!(list.contains(b"correct horse battery staple, at length"));
/// assert!(list.contains(b"secret"), "the second entry is the hash of this text");
/// # Ok::<(), secretwell::Error>(())
/// ```
#[derive(Clone, Default)]
pub struct RefuseList(Arc<Vec<u64>>);

impl RefuseList {
    /// Reads a list of at most 64 MiB and 1,000,000 entries from a file. The path can also refer to a pipe,
    /// such as `/dev/stdin`.
    ///
    /// This blocks, and it reads the file once. Create a new auth to use a changed list.
    ///
    /// # Errors
    /// Returns [`InvalidConfig`](ErrorKind::InvalidConfig) if the file cannot be read, has no entry, is too
    /// large, or is not a text, such as a compressed file.
    pub fn read(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let read = File::open(path).map_err(unreadable).and_then(Self::collect);
        read.map_err(|problem| {
            let path = path.display().to_string();
            problem.error(&format!("refuse list `{}`", path.escape_debug()))
        })
    }

    /// Parses the text of a list.
    ///
    /// # Errors
    /// The same as for [`read`](Self::read).
    pub fn parse(text: &[u8]) -> Result<Self, Error> {
        Self::collect(text).map_err(|problem| problem.error("refuse list"))
    }

    /// Returns the number of different entries.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns whether the list has no entry.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns whether `secret` is on the list, also with other white space or quotes around it.
    pub fn contains(&self, secret: &[u8]) -> bool {
        let has = |hash: u64| self.0.binary_search(&hash).is_ok();
        let text = text(secret);
        // The hash in a list can be that of a line with its end, as `echo` prints it.
        let is_listed = |line: &&[u8]| {
            let ends: [&[u8]; 3] = [b"", b"\n", b"\r\n"];
            ends.iter().any(|end| has(hash(&[line, end])))
        };
        let is_digits = text.len() == HASH_DIGITS[1];
        let digits = is_digits.then(|| truncated_hash(text)).flatten();
        // An entry of 64 hexadecimal digits can also be a secret.
        !self.is_empty()
            && ([secret, without_line_end(secret), text]
                .iter()
                .any(is_listed)
                || digits.is_some_and(has))
    }

    fn collect(list: impl Read) -> Result<Self, Problem> {
        let mut list = BufReader::new(list.take(MAX_BYTES + 1));
        let mut hashes = Vec::new();
        let mut bytes = 0;
        // An entry can be a secret that is still in use, so it is wiped.
        let mut line = Zeroizing::new(Vec::with_capacity(1024));
        loop {
            line.clear();
            let read = list.read_until(b'\n', &mut line).map_err(unreadable)?;
            bytes += read as u64;
            if bytes > MAX_BYTES {
                return Err(Problem::content("it has more than 64 MiB"));
            }
            if read == 0 {
                break;
            }
            if bytes == read as u64 {
                check_first(&line)?;
            }
            let entry = text(&line);
            if entry.is_empty() {
                continue;
            }
            if hashes.len() == MAX_ENTRIES {
                return Err(Problem::content("it has more than 1,000,000 entries"));
            }
            hashes.push(listed_hash(entry).unwrap_or_else(|| hash(&[entry])));
        }
        if hashes.is_empty() {
            return Err(Problem::content("it has no entry"));
        }
        hashes.sort_unstable();
        hashes.dedup();
        hashes.shrink_to_fit();
        Ok(Self(Arc::new(hashes)))
    }
}

impl fmt::Debug for RefuseList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut list = f.debug_struct("RefuseList");
        list.field("len", &self.len()).finish_non_exhaustive()
    }
}

/// Why a list is not usable.
struct Problem {
    message: String,
    hint: &'static str,
    source: Option<std::io::Error>,
}

impl Problem {
    fn content(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            hint: "a list is a text with one secret, or the SHA-256 of one, on each line",
            source: None,
        }
    }

    fn error(self, list: &str) -> Error {
        let message = format!("{list}: {}", self.message);
        let error = Error::new(ErrorKind::InvalidConfig, message).with_hint(self.hint);
        match self.source {
            Some(source) => error.with_source(source),
            None => error,
        }
    }
}

fn unreadable(error: std::io::Error) -> Problem {
    Problem {
        message: format!("it cannot be read: {}", error.kind()),
        hint: match error.kind() {
            std::io::ErrorKind::PermissionDenied => {
                "give the user of this process read permission for the file"
            }
            _ => "set the list to the path of an existing file",
        },
        source: Some(error),
    }
}

/// The beginnings of compressed files.
const COMPRESSED: [&[u8]; 4] = [
    b"\x1f\x8b",
    b"PK\x03\x04",
    b"\x28\xb5\x2f\xfd",
    b"\xfd7zXZ\0",
];

/// Checks the first line of a list. The lines of another format are not the secrets of anyone, so such
/// a list would refuse nothing.
fn check_first(line: &[u8]) -> Result<(), Problem> {
    let starts_with = |start: &[u8]| line.starts_with(start);
    let is_html = |tag: &str| {
        let start = line.trim_ascii_start().get(..tag.len());
        start.is_some_and(|start| start.eq_ignore_ascii_case(tag.as_bytes()))
    };
    let is_utf16 = starts_with(b"\xff\xfe") || starts_with(b"\xfe\xff");
    let lines = line.trim_ascii_end().split(|byte| *byte == b'\r').count();
    let problem = if is_utf16 && line.contains(&0) {
        "it is UTF-16 text; save it as UTF-8".into()
    } else if COMPRESSED.iter().any(|start| starts_with(start)) {
        "it is compressed; decompress it".into()
    } else if is_html("<!doctype html") || is_html("<html") {
        "it is an HTML page; check its download".into()
    } else if !line.ends_with(b"\n") && lines > 1 {
        "its lines end with CR; save it with LF".into()
    } else if let Some(tool) = encrypted_by(line) {
        format!("it is encrypted by {tool}, or a pointer of it")
    } else {
        return Ok(());
    };
    Err(Problem::content(problem))
}

fn without_line_end(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// Returns the truncated hash in `entry`, if it is a hash alone or in a line that a tool prints.
fn listed_hash(entry: &[u8]) -> Option<u64> {
    // What `openssl dgst` prints: `SHA2-256(stdin)= ` and the hash.
    if entry.starts_with(b"SHA2") {
        let start = entry.windows(2).position(|bytes| bytes == b"= ")?;
        return truncated_hash(&entry[start + 2..]);
    }
    let entry = entry.strip_prefix(b"sha256:").unwrap_or(entry);
    let end = entry.iter().position(u8::is_ascii_whitespace);
    let (digits, rest) = entry.split_at(end.unwrap_or(entry.len()));
    // What `sha256sum` prints: two blanks, or a blank and an asterisk, and a name.
    let is_printed = rest.starts_with(b"  ") || rest.starts_with(b" *");
    let is_comment = rest.trim_ascii_start().starts_with(b"#");
    (rest.is_empty() || is_printed || is_comment)
        .then(|| truncated_hash(digits))
        .flatten()
}

/// Returns the beginning of the hash that `digits` are, if they are one.
fn truncated_hash(digits: &[u8]) -> Option<u64> {
    let is_hash = HASH_DIGITS.contains(&digits.len()) && digits.iter().all(u8::is_ascii_hexdigit);
    let digits = is_hash.then(|| std::str::from_utf8(&digits[..HASH_DIGITS[0]]).ok());
    u64::from_str_radix(digits.flatten()?, 16).ok()
}

/// Returns the truncated hash of `parts` in a row.
fn hash(parts: &[&[u8]]) -> u64 {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update(part);
    }
    let digest = hasher.finalize();
    digest
        .iter()
        .take(8)
        .fold(0, |hash, byte| hash << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: impl AsRef<[u8]>) -> RefuseList {
        RefuseList::parse(text.as_ref()).unwrap()
    }

    #[test]
    fn entries_are_values_or_hashes_with_any_line_end() {
        let list = list(
            b"plain value \r\ncarriage\rreturn\r\r\n#not a comment\n\n\r\n \t\n2BB80D537B1DA3E3\n\xff\xfe\nplain value\nlast",
        );
        assert_eq!(list.len(), 6);
        for refused in [
            &b"plain value"[..],
            b" plain value \r\n",
            b"\"plain value\"",
            b"\xef\xbb\xbfplain value",
            b"carriage\rreturn",
            b"#not a comment",
            b"secret",
            b"secret\r\n",
            b" secret",
            b"\xff\xfe",
            b"last",
        ] {
            assert!(list.contains(refused), "{refused:?}");
        }
        for other in [
            &b""[..],
            b"\n",
            b"plain",
            b"plain  value",
            b"2BB80D537B1DA3E3",
            b"Last",
        ] {
            assert!(!list.contains(other), "{other:?}");
        }
        assert_eq!(format!("{list:?}"), "RefuseList { len: 6, .. }");
    }

    /// The hash of `secret`.
    const HASH: &str = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";

    #[test]
    fn hash_is_found_in_every_form_that_tools_print() {
        let hash = HASH;
        let upper = hash.to_ascii_uppercase();
        for line in [
            hash.to_owned(),
            upper.clone(),
            upper[..16].to_owned(),
            format!("{hash}  -"),
            format!("{hash} *leaked.txt"),
            format!("SHA2-256(stdin)= {hash}"),
            format!("SHA256(leaked.txt)= {hash}"),
            format!("sha256:{hash}"),
            format!("\u{feff}{}  # leaked in 2024\r\n", &hash[..16]),
            format!("  \"{hash}\" "),
        ] {
            let list = list(&line);
            assert!(list.contains(b"secret"), "{line}");
            assert!(list.contains(b"secret\n"), "{line}");
            assert_eq!(list.len(), 1);
        }
        // Of `echo secret`.
        let echoed = hash_of("secret\n");
        assert!(list(&echoed).contains(b"secret"));
        assert!(!list(&echoed).contains(b"secre"));
    }

    fn hash_of(text: &str) -> String {
        format!("{:016x}", hash(&[text.as_bytes()]))
    }

    #[test]
    fn secret_of_64_hexadecimal_digits_is_an_entry_as_well() {
        let secret = HASH;
        let list = list(secret);
        assert!(list.contains(secret.as_bytes()));
        assert!(list.contains(format!("{secret}\n").as_bytes()));
        assert!(!list.contains(&secret.as_bytes()[1..]));
        // Sixteen digits and words are a text.
        let text = "0123456789abcdef is the secret";
        assert!(
            RefuseList::parse(text.as_bytes())
                .unwrap()
                .contains(text.as_bytes())
        );
    }

    #[test]
    fn list_of_another_format_is_a_misconfiguration() {
        for (content, reason) in [
            (&b"\xff\xfes\0e\0\n\0"[..], "UTF-16"),
            (b"\xfe\xff\0s\0e\0\n", "UTF-16"),
            (b"\x1f\x8b\x08\0\0", "compressed"),
            (b"PK\x03\x04list", "compressed"),
            (b"<!DOCTYPE html>\n<html>", "HTML"),
            (b" <html lang=en>", "HTML"),
            (b"first\rsecond\r", "CR"),
            (
                b"version https://git-lfs.github.com/spec/v1\noid",
                "Git LFS",
            ),
            (b"\0GITCRYPT\0\x12", "git-crypt"),
            (b"", "no entry"),
            (b"\xef\xbb\xbf\r\n \n\"\"\n", "no entry"),
        ] {
            let error = RefuseList::parse(content).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidConfig);
            assert!(error.to_string().contains(reason), "{error}");
        }
        // The beginning of another line is not checked.
        assert!(list(b"a\n<html>\n\x1f\x8b\n").contains(b"<html>"));
    }

    #[test]
    fn unusable_lists_are_a_misconfiguration_that_names_the_file() {
        let folder = std::env::temp_dir().join(format!("secretwell-refuse-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = |name: &str| folder.join(name);
        std::fs::write(path("empty"), "\n\r\n").unwrap();
        let long: Vec<u8> = (0..=MAX_ENTRIES)
            .flat_map(|number| format!("{number}\n").into_bytes())
            .collect();
        std::fs::write(path("long"), long).unwrap();
        File::create(path("large"))
            .unwrap()
            .set_len(MAX_BYTES + 1)
            .unwrap();
        for (name, reason) in [
            ("missing", "cannot be read: entity not found"),
            ("", "cannot be read: is a directory"),
            ("empty", "no entry"),
            ("long", "more than 1,000,000 entries"),
            ("large", "more than 64 MiB"),
        ] {
            let error = RefuseList::read(path(name)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidConfig);
            let text = error.to_string();
            assert!(
                text.contains(reason) && text.contains(&format!("/{name}`")),
                "{text}"
            );
        }
        std::fs::remove_dir_all(folder).unwrap();
        assert!(RefuseList::parse(b"").is_err());
    }
}
