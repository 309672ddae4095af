//! The provider.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::Metadata;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use secretwell_core::backend::{Capabilities, ChangeStream};
use secretwell_core::{
    Error, ErrorKind, KeyPrefix, Origin, Secret, SecretKey, SecretProvider, Version,
};

use crate::config::{Config, Format, Layout};
use crate::document::{self, Node};
use crate::dotenv;
use crate::open::{self, Place, open_to_others};
use crate::watch;

/// How deep and how far a directory is listed.
const MAX_DEPTH: usize = 16;
const MAX_ENTRIES: usize = 10_000;

/// Secrets from files. See the [crate](crate) for what may stand where.
#[derive(Clone)]
pub struct FileProvider {
    reader: Arc<Reader>,
}

/// What reads, on threads that may block.
pub(crate) struct Reader {
    origin: Origin,
    config: Config,
    /// Whether too open permissions have been warned about.
    warned: AtomicBool,
}

impl FileProvider {
    /// A directory in which each secret is a file: Docker secrets, a Kubernetes volume, systemd
    /// credentials. A key's segments are the path below it.
    pub fn directory(path: impl Into<PathBuf>) -> Self {
        Self::from_config(Config::new(path.into(), Layout::Directory))
    }

    /// One document that holds all secrets, in the format that its name tells or that
    /// [`format`](Self::format) says. In JSON, YAML and TOML a key's segments are nested names; in
    /// `.env` they are joined by `_`.
    pub fn document(path: impl Into<PathBuf>) -> Self {
        Self::from_config(Config::new(path.into(), Layout::Document(None)))
    }

    /// A document where the name of `path` tells a format, a directory otherwise.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        match Format::of(&path) {
            Some(_) => Self::document(path),
            None => Self::directory(path),
        }
    }

    /// The directory of the credentials that systemd hands to the service, by `LoadCredential=` and
    /// its kin.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`] when `CREDENTIALS_DIRECTORY` is not set.
    pub fn systemd_credentials() -> Result<Self, Error> {
        match std::env::var_os("CREDENTIALS_DIRECTORY") {
            Some(path) if !path.is_empty() => Ok(Self::directory(path)),
            _ => Err(Error::new(
                ErrorKind::InvalidConfig,
                "`CREDENTIALS_DIRECTORY` is not set",
            )
            .with_hint("start the service by systemd, with `LoadCredential=` in its unit")),
        }
    }

    /// Reads a document as `format`, whatever its name tells.
    #[must_use]
    pub fn format(self, format: Format) -> Self {
        self.with(|config| config.layout = Layout::Document(Some(format)))
    }

    /// Keeps the newline at the end of a directory's files. By default one is taken off, `\n` or
    /// `\r\n`, because editors and `echo` put it there.
    #[must_use]
    pub fn keep_trailing_newline(self) -> Self {
        self.with(|config| config.trim_newline = false)
    }

    /// The largest file to read, in bytes. Default: 1 MiB for a file of a directory, 16 MiB for a
    /// document.
    #[must_use]
    pub fn max_bytes(self, bytes: u64) -> Self {
        self.with(|config| config.max_bytes = Some(bytes))
    }

    /// Refuses files that anybody but their owner may read, write or run. By default they are warned
    /// about, once. (Unix only.)
    #[must_use]
    pub fn strict_permissions(self) -> Self {
        self.with(|config| config.strict_permissions = true)
    }

    fn from_config(config: Config) -> Self {
        let origin = Origin::new("file", config.path.display().to_string().escape_debug());
        Self {
            reader: Arc::new(Reader {
                origin,
                config,
                warned: AtomicBool::new(false),
            }),
        }
    }

    fn with(self, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = self.reader.config.clone();
        change(&mut config);
        Self::from_config(config)
    }

    /// Runs `read` where it may block.
    async fn blocking<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Reader) -> T + Send + 'static,
    ) -> Result<T, Error> {
        let reader = self.reader.clone();
        tokio::task::spawn_blocking(move || read(&reader))
            .await
            .map_err(|error| {
                Error::new(ErrorKind::Unavailable, "the reading thread ended early")
                    .with_origin(&self.reader.origin)
                    .with_source(error)
            })
    }
}

impl Reader {
    fn read_all(&self, keys: &[SecretKey]) -> Vec<Result<Secret, Error>> {
        let named = |key: &SecretKey, outcome: Result<Secret, Error>| {
            outcome.map_err(|error| error.with_origin(&self.origin).with_key(key))
        };
        match self.config.layout {
            Layout::Directory => keys
                .iter()
                .map(|key| named(key, self.read_file(key)))
                .collect(),
            Layout::Document(format) => match self.read_document(format) {
                Ok((format, document)) => {
                    let read = |key| named(key, self.read_entry(format, &document, key));
                    keys.iter().map(read).collect()
                }
                Err(error) => keys
                    .iter()
                    .map(|key| named(key, Err(error.clone())))
                    .collect(),
            },
        }
    }

    fn read_file(&self, key: &SecretKey) -> Result<Secret, Error> {
        refuse_own_names(key.as_str())?;
        let place = Place::Below(self.config.path.clone(), key.as_str().into());
        let mut bytes = self.read(&place)?;
        if self.config.trim_newline && bytes.last() == Some(&b'\n') {
            bytes.pop();
            if bytes.last() == Some(&b'\r') {
                bytes.pop();
            }
        }
        Ok(secret(std::mem::take(&mut *bytes)))
    }

    fn read_document(&self, format: Option<Format>) -> Result<(Format, Node), Error> {
        let path = &self.config.path;
        let format = format.or_else(|| Format::of(path)).ok_or_else(|| {
            Error::new(
                ErrorKind::InvalidConfig,
                "the document's name tells no format",
            )
            .with_hint("say it: env, json, yaml or toml")
        })?;
        let bytes = self.read(&Place::At(path.clone()))?;
        Ok((format, document::parse(format, &bytes)?))
    }

    fn read_entry(
        &self,
        format: Format,
        document: &Node,
        key: &SecretKey,
    ) -> Result<Secret, Error> {
        if format == Format::Env && !dotenv::is_name(key.as_str()) {
            let message = "a name in `.env` may hold no white space, quote, `=` or `#`";
            return Err(Error::new(ErrorKind::InvalidKey, message).with_hint("rename the key"));
        }
        let node = document.at(format, key).ok_or_else(|| {
            Error::new(
                ErrorKind::NotFound,
                "the document has no such entry, or `null` there",
            )
            .with_hint("add it, or add a source that has it")
        })?;
        node.to_bytes().map(secret)
    }

    fn read(&self, place: &Place) -> Result<zeroize::Zeroizing<Vec<u8>>, Error> {
        let (bytes, metadata) = open::read(place, self.config.limit())
            .map_err(|error| self.explain(error.into_error(&place.path())))?;
        self.check_permissions(&place.path(), &metadata)?;
        Ok(bytes)
    }

    /// Tells a missing root from a missing secret.
    fn explain(&self, error: Error) -> Error {
        let root = &self.config.path;
        if !error.is_not_found() || self.config.layout != Layout::Directory || root.exists() {
            return error;
        }
        let root = root.display().to_string();
        Error::new(
            ErrorKind::NotFound,
            format!("the directory `{}` does not exist", root.escape_debug()),
        )
        .with_hint("create or mount it, or add a source that has the secret")
    }

    fn check_permissions(&self, path: &Path, metadata: &Metadata) -> Result<(), Error> {
        let Some(mode) = open_to_others(metadata) else {
            return Ok(());
        };
        if self.config.strict_permissions {
            let path = path.display().to_string();
            let message = format!(
                "`{}` is open to others (mode {mode:o})",
                path.escape_debug()
            );
            return Err(Error::new(ErrorKind::Denied, message).with_hint("run `chmod 600` on it"));
        }
        if !self.warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                target: "secretwell::file",
                event = "open_permissions",
                path = %path.display(),
                mode = format_args!("{mode:o}"),
                "other users can access a file with secrets; run `chmod 600` on it, or mount it for its own user only",
            );
        }
        Ok(())
    }

    fn list(&self, prefix: &KeyPrefix) -> Result<Vec<SecretKey>, Error> {
        let mut keys = BTreeSet::new();
        match self.config.layout {
            Layout::Directory => {
                refuse_own_names(prefix.as_str())
                    .map_err(|error| error.with_origin(&self.origin))?;
                self.list_directory(prefix.as_str(), 0, &mut keys)?;
            }
            Layout::Document(format) => match self.read_document(format) {
                Ok((format, document)) => keys = document.keys(format, prefix),
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error.with_origin(&self.origin)),
            },
        }
        Ok(keys.into_iter().collect())
    }

    /// Adds the files below `path`. What begins with a dot is the file system's or the volume's own and
    /// is left out, and so is what a link leads to outside of the root.
    fn list_directory(
        &self,
        path: &str,
        depth: usize,
        keys: &mut BTreeSet<SecretKey>,
    ) -> Result<(), Error> {
        let root = &self.config.path;
        let opened = open::resolve_below(root, Path::new(path))
            .and_then(|directory| Ok(std::fs::read_dir(directory)?));
        let entries = match opened {
            Ok(entries) => entries,
            Err(open::OpenError::Missing) => return Ok(()),
            Err(error) => return Err(error.into_error(&root.join(path)).with_origin(&self.origin)),
        };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let Some(name) = name.to_str().filter(|name| !name.starts_with('.')) else {
                continue;
            };
            let separator = if path.is_empty() { "" } else { "/" };
            let below = format!("{path}{separator}{name}");
            let is_link = entry.path().is_symlink();
            if is_link && open::resolve_below(root, Path::new(&below)).is_err() {
                continue;
            }
            let Ok(metadata) = std::fs::metadata(entry.path()) else {
                continue;
            };
            if keys.len() >= MAX_ENTRIES {
                return Err(
                    Error::new(ErrorKind::TooLarge, "there are more than 10,000 files")
                        .with_origin(&self.origin)
                        .with_hint("list a part of them, by a prefix"),
                );
            }
            if metadata.is_file() {
                keys.extend(SecretKey::parse(below));
            } else if metadata.is_dir() && depth < MAX_DEPTH && !is_link {
                self.list_directory(&below, depth + 1, keys)?;
            }
        }
        Ok(())
    }

    /// A document is read as a whole, since whatever is wrong with it fails each key.
    fn health(&self) -> Result<(), Error> {
        let looked = match self.config.layout {
            // To look at the directory's own entry takes what reading a file in it takes.
            Layout::Directory => std::fs::metadata(self.config.path.join("."))
                .map(drop)
                .map_err(|error| open::OpenError::from(error).into_error(&self.config.path)),
            Layout::Document(format) => self.read_document(format).map(drop),
        };
        looked.map_err(|error| error.with_origin(&self.origin))
    }
}

/// A Kubernetes volume keeps its versions under names that begin with `..`.
fn refuse_own_names(path: &str) -> Result<(), Error> {
    if path.split('/').any(|segment| segment.starts_with("..")) {
        return Err(Error::new(
            ErrorKind::InvalidKey,
            "names that begin with `..` are the volume's own",
        )
        .with_hint("use the name of the secret itself"));
    }
    Ok(())
}

fn secret(bytes: Vec<u8>) -> Secret {
    let version = Version::from_content(&bytes);
    Secret::new(bytes).with_version(version)
}

#[async_trait]
impl SecretProvider for FileProvider {
    fn origin(&self) -> &Origin {
        &self.reader.origin
    }

    /// A ttl of one minute, as a safety net behind the watch.
    fn capabilities(&self) -> Capabilities {
        Capabilities::none()
            .with_versions()
            .with_batch()
            .with_list()
            .with_watch()
            .with_ttl(Duration::from_secs(60))
    }

    async fn get(&self, key: &SecretKey) -> Result<Secret, Error> {
        let mut answers = self.get_many(std::slice::from_ref(key)).await;
        answers
            .pop()
            .unwrap_or_else(|| Err(Error::new(ErrorKind::Unavailable, "no answer")))
    }

    /// A document is read once for all keys.
    async fn get_many(&self, keys: &[SecretKey]) -> Vec<Result<Secret, Error>> {
        let owned = keys.to_vec();
        match self.blocking(move |reader| reader.read_all(&owned)).await {
            Ok(answers) => answers,
            Err(error) => keys
                .iter()
                .map(|key| Err(error.clone().with_key(key)))
                .collect(),
        }
    }

    async fn list(&self, prefix: &KeyPrefix) -> Result<Vec<SecretKey>, Error> {
        let prefix = prefix.clone();
        self.blocking(move |reader| reader.list(&prefix)).await?
    }

    fn watch(&self) -> Option<ChangeStream> {
        Some(watch::start(&self.reader.config))
    }

    async fn health(&self) -> Result<(), Error> {
        self.blocking(Reader::health).await?
    }
}

impl fmt::Debug for FileProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileProvider")
            .field("config", &self.reader.config)
            .finish_non_exhaustive()
    }
}
