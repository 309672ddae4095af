//! The blocking reads of a provider.

use std::collections::HashSet;
use std::error::Error as _;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, SystemTime};

use secretwell_core::backend::refuse_encrypted;
use secretwell_core::{
    Error, ErrorKind, KeyPrefix, Origin, Secret, SecretKey, SecretValue, Version,
};
use tokio::time::Instant;
use zeroize::Zeroizing;

use crate::config::{Config, Format, Layout};
use crate::directory::Directory;
use crate::document::{self, Document};
use crate::identity::Identity;
use crate::memory::Memory;
use crate::open::{self, Contents, OpenError, shown};
use crate::place;
use crate::rewrite::{COARSE, Condition, Look, STABLE, Seen, Stamp, Verdict, is_coarse};
use crate::volume::Tree;

/// The longest backoff after a read during a rewrite, because most rewrites take less.
const REWRITE_BACKOFF: Duration = Duration::from_secs(1);

/// The number of attempts to read a batch from a volume that is replaced meanwhile.
pub(crate) const BATCH_ATTEMPTS: usize = 16;

/// The blocking part of the provider, which runs on blocking threads.
pub(crate) struct Reader {
    pub(crate) origin: Origin,
    pub(crate) config: Config,
    pub(crate) memory: Memory,
    /// Whether the warning about open permissions has been logged.
    pub(crate) warned: AtomicBool,
}

/// The start of a read.
struct Moment {
    instant: Instant,
    system: SystemTime,
}

impl Moment {
    fn now() -> Self {
        Self {
            instant: Instant::now(),
            system: SystemTime::now(),
        }
    }
}

/// The result of a read.
pub(crate) struct Reading<T> {
    pub(crate) result: T,
    /// The time after which another read might return a better result, because a file is being written.
    pub(crate) wait: Option<Duration>,
}

impl<T> Reading<T> {
    pub(crate) fn map<U>(self, map: impl FnOnce(T) -> U) -> Reading<U> {
        Reading {
            result: map(self.result),
            wait: self.wait,
        }
    }
}

/// A document, and the hashes of the names that are missing since it was rewritten.
struct Entries {
    document: Document,
    missing: HashSet<u64>,
}

/// A read of one file, before it is judged.
struct Attempt<T> {
    /// The parsed content, or the reason why it cannot be used.
    result: Result<T, Error>,
    look: Look,
    /// Whether the file was modified less than [`STABLE`] ago.
    is_young: bool,
}

impl Reader {
    pub(crate) fn new(config: Config) -> Self {
        Self {
            origin: Origin::new("file", shown(&config.path)),
            config,
            memory: Memory::new(),
            warned: AtomicBool::new(false),
        }
    }

    /// Reads several keys. A document is read once for all of them, and the files of a volume are of one generation.
    pub(crate) fn read_all(&self, keys: &[SecretKey]) -> Reading<Vec<Result<Secret, Error>>> {
        let reading = match self.config.layout {
            Layout::Directory => self.read_files(keys),
            Layout::Document(_) => self.read_entries(keys),
        };
        reading.map(|results| {
            let with_context = |(result, key): (Result<Secret, Error>, &SecretKey)| {
                let usable = result.and_then(|secret| self.refuse_encrypted(secret));
                usable.map_err(|error| error.with_origin(&self.origin).with_key(key))
            };
            results.into_iter().zip(keys).map(with_context).collect()
        })
    }

    fn read_files(&self, keys: &[SecretKey]) -> Reading<Vec<Result<Secret, Error>>> {
        let began = Moment::now();
        let contents = match self.open_files(keys) {
            Ok(contents) => contents,
            Err(error) => {
                // Nothing in the directory is known any more, so each file is judged.
                let error = place::explain(&self.config, error);
                keys.iter().map(|_| Err(error.clone())).collect()
            }
        };
        let ended = Instant::now();
        let mut wait = None;
        let judge = |(key, contents): (&SecretKey, Result<Contents, Error>)| {
            let reading = self.judge_file(key.as_str(), contents, &began, ended);
            wait = wait.max(reading.wait);
            reading.result
        };
        let result = keys.iter().zip(contents).map(judge).collect();
        Reading { result, wait }
    }

    /// Reads the files of a batch from one generation of each volume.
    fn open_files(&self, keys: &[SecretKey]) -> Result<Vec<Result<Contents, Error>>, OpenError> {
        let limit = self.config.limit();
        for _ in 0..BATCH_ATTEMPTS {
            let mut tree = Tree::open(&self.config.path)?;
            let mut has_absence = false;
            let mut read = |key: &SecretKey| {
                reject_names(key.as_str())?;
                let file = Path::new(key.as_str());
                let path = self.config.path.join(file);
                let mut generation = None;
                let open = || {
                    let (file, found) = tree.open_file(file)?;
                    generation = found;
                    Ok(file)
                };
                let contents = open::read(open, limit).map_err(|error| {
                    has_absence |= error.is_absence();
                    error.into_error(&path)
                })?;
                self.check_permissions(&path, &contents)?;
                Ok(Contents {
                    generation,
                    ..contents
                })
            };
            let contents = keys.iter().map(&mut read).collect();
            if !has_absence || !tree.has_moved() {
                return Ok(contents);
            }
        }
        Err(OpenError::Changing)
    }

    /// Judges the look at one file of a directory. `path` is relative.
    fn judge_file(
        &self,
        path: &str,
        contents: Result<Contents, Error>,
        began: &Moment,
        ended: Instant,
    ) -> Reading<Result<Secret, Error>> {
        let attempt = self.attempt(began, contents, |mut contents| {
            self.trim_newline(&mut contents.bytes);
            // The files of a volume are never written in place.
            let condition = match contents.bytes.is_empty() && contents.generation.is_none() {
                true => Condition::Blank,
                false => Condition::Good,
            };
            (Ok(std::mem::take(&mut contents.bytes)), condition)
        });
        let is_blank = matches!(attempt.look, Look::Content(_, Condition::Blank));
        let seen = Seen {
            began: began.instant,
            ended,
            look: attempt.look,
            is_doubtful: attempt.is_young && is_blank,
        };
        let grace = self.config.rewrite_grace;
        let (verdict, _) = self.memory.judge(path, &seen, HashSet::new, grace);
        let (result, wait) = self.conclude(Path::new(path), attempt.result, verdict);
        Reading {
            result: result.map(|mut bytes| secret(std::mem::take(&mut *bytes).into())),
            wait,
        }
    }

    fn refuse_encrypted(&self, secret: Secret) -> Result<Secret, Error> {
        match self.config.accept_encrypted {
            true => Ok(secret.accept_encrypted()),
            false => refuse_encrypted(secret),
        }
    }

    fn trim_newline(&self, bytes: &mut Zeroizing<Vec<u8>>) {
        if self.config.trim_newline && bytes.last() == Some(&b'\n') {
            bytes.pop();
            if bytes.last() == Some(&b'\r') {
                bytes.pop();
            }
        }
    }

    fn read_entries(&self, keys: &[SecretKey]) -> Reading<Vec<Result<Secret, Error>>> {
        let is_absent = |document: &Document| {
            let is_absent = |key| matches!(document.get(key), Ok(None));
            keys.iter().any(is_absent)
        };
        self.read_document(is_absent)
            .map(|document| match document {
                Ok(entries) => (keys.iter())
                    .map(|key| self.read_entry(&entries, key))
                    .collect(),
                Err(error) => keys.iter().map(|_| Err(error.clone())).collect(),
            })
    }

    fn read_entry(&self, entries: &Entries, key: &SecretKey) -> Result<Secret, Error> {
        if let Some(value) = entries.document.get(key)? {
            return Ok(secret(value));
        }
        if entries.missing.contains(&self.name(key.as_str())) {
            return Err(self.rewriting(Path::new(""), "this key is missing since it was rewritten"));
        }
        Err(Error::new(
            ErrorKind::NotFound,
            "the document has no entry for this key, or the entry is `null`",
        )
        .with_hint("add it, or add a source that has it"))
    }

    /// Reads the document. `has_absence` returns whether a key that is read is absent from it.
    fn read_document(
        &self,
        has_absence: impl FnOnce(&Document) -> bool,
    ) -> Reading<Result<Entries, Error>> {
        let path = &self.config.path;
        let Some(format) = self.config.document_format() else {
            let message = "the file name does not determine a format";
            let error = Error::new(ErrorKind::InvalidConfig, message)
                .with_hint("set the format: env, json, yaml or toml");
            return Reading {
                result: Err(error),
                wait: None,
            };
        };
        let began = Moment::now();
        let open = || open::retry_missing(path, || open::open_path(path));
        let contents = open::read(open, self.config.limit())
            .map_err(|error| place::explain(&self.config, error))
            .and_then(|contents| {
                self.check_permissions(path, &contents)?;
                Ok(contents)
            });
        let ended = Instant::now();
        let mut is_cut = false;
        let attempt = self.attempt(&began, contents, |contents| {
            // Half of a JSON document cannot be parsed. In other formats, the last value might be cut.
            is_cut = format != Format::Json && !contents.bytes.ends_with(b"\n");
            let document = document::parse(self.config.syntax(format), &contents.bytes);
            let condition = match &document {
                _ if is_blank(&contents.bytes) => Condition::Blank,
                Ok(_) => Condition::Good,
                Err(_) => Condition::Malformed,
            };
            (document, condition)
        });
        let is_incomplete = is_cut
            || attempt.result.as_ref().map_or(true, has_absence)
            || matches!(attempt.look, Look::Content(_, Condition::Blank));
        let seen = Seen {
            began: began.instant,
            ended,
            look: attempt.look,
            is_doubtful: attempt.is_young && is_incomplete,
        };
        let names = || match &attempt.result {
            Ok(document) => self.names(document),
            Err(_) => HashSet::new(),
        };
        let (verdict, missing) = (self.memory).judge("", &seen, names, self.config.rewrite_grace);
        let (result, wait) = self.conclude(Path::new(""), attempt.result, verdict);
        Reading {
            result: result.map(|document| Entries { document, missing }),
            wait,
        }
    }

    /// Reads the document for all of its keys.
    ///
    /// # Errors
    /// Returns an error while a key might be missing only because the document was rewritten a short time ago.
    pub(crate) fn read_whole(&self) -> Reading<Result<Document, Error>> {
        self.read_document(|_| true).map(|entries| match entries? {
            entries if entries.missing.is_empty() => Ok(entries.document),
            _ => Err(self.rewriting(Path::new(""), "keys are missing since it was rewritten")),
        })
    }

    /// Checks the directory or reads the whole document, because one defect in it fails every key.
    pub(crate) fn health(&self) -> Reading<Result<(), Error>> {
        let checked = match self.config.layout {
            Layout::Directory => Reading {
                result: Directory::open(&self.config.path)
                    .and_then(|directory| directory.check_access())
                    .map_err(|error| place::explain(&self.config, error)),
                wait: None,
            },
            Layout::Document(_) => self
                .read_document(|_| false)
                .map(|entries| entries.map(drop)),
        };
        checked.map(|result| result.map_err(|error| error.with_origin(&self.origin)))
    }

    /// Looks at a file that was known and is not listed any more.
    pub(crate) fn look_again(&self, key: &SecretKey) -> Reading<Result<(), Error>> {
        self.read_files(std::slice::from_ref(key))
            .map(|results| results.into_iter().try_for_each(|result| result.map(drop)))
    }

    /// Interprets the content of a file.
    fn attempt<T>(
        &self,
        began: &Moment,
        contents: Result<Contents, Error>,
        interpret: impl FnOnce(Contents) -> (Result<T, Error>, Condition),
    ) -> Attempt<T> {
        let contents = match contents {
            Ok(contents) => contents,
            Err(error) => {
                let reason = error.source().and_then(|it| it.downcast_ref());
                return Attempt {
                    look: match reason {
                        Some(OpenError::Changing) => Look::Unstable,
                        _ => Look::Failed(error.kind()),
                    },
                    result: Err(error),
                    is_young: false,
                };
            }
        };
        let modified = contents.metadata.modified().ok();
        let generation = (contents.generation.as_ref()).map(|it| self.memory.hash(it));
        let stamp = Stamp {
            identity: Identity::of(&contents, generation),
            len: contents.metadata.len(),
            modified,
            content: self.memory.hash(contents.bytes.as_slice()),
        };
        let (result, condition) = interpret(contents);
        Attempt {
            result,
            look: Look::Content(stamp, condition),
            is_young: modified.is_none_or(|it| is_young(it, began.system)),
        }
    }

    fn conclude<T>(
        &self,
        path: &Path,
        result: Result<T, Error>,
        verdict: Verdict,
    ) -> (Result<T, Error>, Option<Duration>) {
        match verdict {
            Verdict::Use => (result, None),
            Verdict::Rewriting { reason, wait } => {
                let error = self.rewriting(path, reason);
                let error = match result {
                    Ok(_) => error,
                    Err(cause) => error.with_source(cause),
                };
                (Err(error), wait)
            }
        }
    }

    fn rewriting(&self, path: &Path, reason: &str) -> Error {
        let path = match self.config.layout {
            Layout::Directory => self.config.path.join(path),
            Layout::Document(_) => self.config.path.clone(),
        };
        Error::new(
            ErrorKind::Unavailable,
            format!("`{}` is being changed: {reason}", shown(&path)),
        )
        .with_hint("write a new file next to it and rename it to this name")
        .with_backoff_limit(REWRITE_BACKOFF)
    }

    /// Returns the hashes of the names in a document, those of its tables included.
    fn names(&self, document: &Document) -> HashSet<u64> {
        let mut names = HashSet::new();
        let keys = document.keys(&KeyPrefix::root()).unwrap_or_default();
        for key in keys {
            let key = key.as_str();
            let ends = key.match_indices('/').map(|(end, _)| end);
            for end in ends.chain([key.len()]) {
                names.insert(self.name(&key[..end]));
            }
        }
        names
    }

    /// Returns the hash of a name. A `.env` document stores the key `db/PASSWORD` as `db_PASSWORD`.
    fn name(&self, path: &str) -> u64 {
        match self.config.document_format() {
            Some(Format::Env) => self.memory.hash(path.replace('/', "_")),
            _ => self.memory.hash(path),
        }
    }
}

/// Rejects names that start with `..`, because a Kubernetes volume stores its versions under them, and names that Windows
/// does not distinguish from other names.
pub(crate) fn reject_names(path: &str) -> Result<(), Error> {
    let message = match () {
        () if path.split('/').any(|name| name.starts_with("..")) => {
            "names that start with `..` are reserved for the volume"
        }
        () if cfg!(windows) && path.split('/').any(is_ambiguous_on_windows) => {
            "Windows has no file with this name"
        }
        () => return Ok(()),
    };
    Err(Error::new(ErrorKind::InvalidKey, message).with_hint("use the name of the secret"))
}

/// Returns whether Windows reads another file under this name: `A.` is `A`, `A:b` is a part of `A`, and `NUL` is a device.
fn is_ambiguous_on_windows(name: &str) -> bool {
    const DEVICES: [&str; 6] = ["CON", "PRN", "AUX", "NUL", "COM", "LPT"];
    let stem = name.split('.').next().unwrap_or_default().trim_end();
    let device = stem.trim_end_matches(|c: char| c.is_ascii_digit());
    name.ends_with(['.', ' '])
        || name.contains(['<', '>', ':', '"', '|', '?', '*'])
        || DEVICES.iter().any(|it| it.eq_ignore_ascii_case(device))
}

/// Returns whether a file might have been written less than [`STABLE`] before `now`.
fn is_young(modified: SystemTime, now: SystemTime) -> bool {
    let resolution = match is_coarse(Some(modified)) {
        true => COARSE,
        false => Duration::ZERO,
    };
    // A later time than now shows that the file is being written or that the clocks differ.
    now.duration_since(modified)
        .map_or(true, |age| age < STABLE + resolution)
}

/// Returns whether a document contains nothing but white space.
fn is_blank(bytes: &[u8]) -> bool {
    let text = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes);
    text.trim_ascii().is_empty()
}

fn secret(value: SecretValue) -> Secret {
    let version = Version::from_content(value.expose_bytes());
    Secret::new(value).with_version(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn age_allows_for_coarse_and_differing_clocks() {
        let second = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let is_young_after =
            |modified, age| is_young(modified, modified + Duration::from_millis(age));
        let fine = second + Duration::from_millis(4);
        assert!(is_young_after(fine, 249) && !is_young_after(fine, 250));
        assert!(is_young_after(second, 2_249) && !is_young_after(second, 2_250));
        assert!(is_young(fine, second), "the clock was set back");
    }

    #[test]
    fn names_that_windows_confuses_are_known() {
        for name in [
            "A.", "A:b", "A::$DATA", "nul", "COM1", "con.txt", "A?", "AUX .x",
        ] {
            assert!(is_ambiguous_on_windows(name), "{name}");
        }
        for name in ["A", "A.b", ".env", "CONFIG", "A-1", "PRNG", "NULL", "db 1"] {
            assert!(!is_ambiguous_on_windows(name), "{name}");
        }
    }
}
