//! [`RefuseList`], the secrets that the user refuses.

use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::sync::Arc;

use secretwell_core::{Error, ErrorKind};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// The largest list in bytes.
const MAX_BYTES: u64 = 64 * 1024 * 1024;
/// The largest number of entries.
const MAX_ENTRIES: usize = 1_000_000;
/// The number of hexadecimal digits of a truncated hash.
const HASH_DIGITS: usize = 16;

/// Known secrets that are not accepted as signing secrets, such as a published list of leaked ones. Used by
/// [`LazyAuthBuilder::refuse_list`](crate::LazyAuthBuilder::refuse_list) and
/// [`PreflightOptions::refuse_list`](crate::PreflightOptions::refuse_list). Cargo feature `refuse-list`.
///
/// The list is a text with one entry on each line:
///
/// - 16 hexadecimal digits are the beginning of the SHA-256 hash of a secret.
/// - Every other text is a secret itself, byte by byte. There are no comments, because a secret can begin with
///   `#`. Empty lines are ignored.
///
/// Lines end with LF or CRLF. A secret is refused if it is equal to an entry, also if it has one line end
/// more. Clones share the entries, which take 8 bytes each. Another secret is refused by mistake with a
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
    /// Returns [`InvalidConfig`](ErrorKind::InvalidConfig) if the file cannot be read, has no entry or is too
    /// large.
    pub fn read(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let read = File::open(path).map_err(unreadable).and_then(Self::collect);
        read.map_err(|problem| {
            let error = invalid(format!("refuse list `{}`: {}", path.display(), problem.0));
            match problem.1 {
                Some(source) => error.with_source(source),
                None => error,
            }
        })
    }

    /// Parses the text of a list.
    ///
    /// # Errors
    /// The same as for [`read`](Self::read).
    pub fn parse(text: &[u8]) -> Result<Self, Error> {
        Self::collect(text)
            .map_err(|Problem(problem, _)| invalid(format!("refuse list: {problem}")))
    }

    /// Returns the number of different entries.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns whether the list has no entry.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns whether `secret` is on the list, also if it has one line end more than the entry.
    pub fn contains(&self, secret: &[u8]) -> bool {
        let has = |secret: &[u8]| self.0.binary_search(&hash(secret)).is_ok();
        let shorter = secret.strip_suffix(b"\n");
        !self.is_empty()
            && (has(secret) || shorter.is_some_and(|line| has(line) || has(without_cr(line))))
    }

    fn collect(text: impl Read) -> Result<Self, Problem> {
        let mut text = BufReader::new(text.take(MAX_BYTES + 1));
        let mut hashes = Vec::new();
        let mut bytes = 0;
        // An entry can be a secret that is still in use, so it is wiped.
        let mut line = Zeroizing::new(Vec::with_capacity(1024));
        loop {
            line.clear();
            let read = text.read_until(b'\n', &mut line).map_err(unreadable)?;
            bytes += read as u64;
            if bytes > MAX_BYTES {
                return Err(Problem("it has more than 64 MiB".into(), None));
            }
            if read == 0 {
                break;
            }
            let entry = without_cr(line.strip_suffix(b"\n").unwrap_or(&line));
            if entry.is_empty() {
                continue;
            }
            if hashes.len() == MAX_ENTRIES {
                return Err(Problem("it has more than 1,000,000 entries".into(), None));
            }
            hashes.push(truncated_hash(entry).unwrap_or_else(|| hash(entry)));
        }
        if hashes.is_empty() {
            return Err(Problem("it has no entry".into(), None));
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
struct Problem(String, Option<std::io::Error>);

fn unreadable(error: std::io::Error) -> Problem {
    Problem(format!("it cannot be read: {}", error.kind()), Some(error))
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::InvalidConfig, message).with_hint(
        "a list has one secret, or the first 16 hexadecimal digits of its SHA-256, on each line",
    )
}

fn without_cr(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// Returns the hash that `entry` consists of, if it is one.
fn truncated_hash(entry: &[u8]) -> Option<u64> {
    let is_hash = entry.len() == HASH_DIGITS && entry.iter().all(u8::is_ascii_hexdigit);
    let digits = is_hash.then(|| std::str::from_utf8(entry).ok()).flatten()?;
    u64::from_str_radix(digits, 16).ok()
}

fn hash(secret: &[u8]) -> u64 {
    let digest = Sha256::digest(secret);
    digest
        .iter()
        .take(8)
        .fold(0, |hash, byte| hash << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_values_or_hashes_with_any_line_end() {
        let list = RefuseList::parse(
            b"plain value \r\ncarriage return\r\r\n#not a comment\n\n\r\n2BB80D537B1DA3E3\n\xff\xfe\nplain value \nlast",
        );
        let list = list.unwrap();
        assert_eq!(list.len(), 6);
        for refused in [
            &b"plain value "[..],
            b"plain value \n",
            b"plain value \r\n",
            b"carriage return\r\n",
            b"#not a comment",
            b"secret",
            b"\xff\xfe",
            b"last",
        ] {
            assert!(list.contains(refused), "{refused:?}");
        }
        for other in [
            &b""[..],
            b"\n",
            b"plain value",
            b"plain value \n\n",
            b"plain value \r",
            b"2BB80D537B1DA3E3",
            b"Last",
        ] {
            assert!(!list.contains(other), "{other:?}");
        }
        assert_eq!(format!("{list:?}"), "RefuseList { len: 6, .. }");
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
