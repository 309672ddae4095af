//! [`FileProvider`] and its blocking reads.

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
use crate::open::{self, Location, mode_open_to_others};
use crate::watch;

/// The depth limit of a list.
const MAX_DEPTH: usize = 16;
/// The limit for the number of listed keys.
const MAX_ENTRIES: usize = 10_000;

/// A provider that reads secrets from a directory or a document. See the [crate](crate) for the layouts.
#[derive(Clone)]
pub struct FileProvider {
    reader: Arc<Reader>,
}

/// The blocking part of the provider, which runs on blocking threads.
pub(crate) struct Reader {
    origin: Origin,
    config: Config,
    /// Whether the warning about open permissions has been logged.
    warned: AtomicBool,
}

impl FileProvider {
    /// Creates a provider for a directory in which each secret is one file, such as Docker secrets or a
    /// Kubernetes volume. The segments of a key are the path below the directory.
    pub fn directory(path: impl Into<PathBuf>) -> Self {
        Self::from_config(Config::new(path.into(), Layout::Directory))
    }

    /// Creates a provider for one document that contains all secrets.
    ///
    /// The file name determines the format, unless [`format`](Self::format) sets it. In JSON, YAML and
    /// TOML the segments of a key are nested names. In `.env` they are joined with `_`.
    pub fn document(path: impl Into<PathBuf>) -> Self {
        Self::from_config(Config::new(path.into(), Layout::Document(None)))
    }

    /// Creates a provider for a document if the file name of `path` determines a format, and for a
    /// directory otherwise.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        match Format::from_path(&path) {
            Some(_) => Self::document(path),
            None => Self::directory(path),
        }
    }

    /// Creates a provider for the directory of the credentials that systemd passes to the service, for
    /// example with `LoadCredential=`.
    ///
    /// # Errors
    /// Returns [`ErrorKind::InvalidConfig`] if `CREDENTIALS_DIRECTORY` is not set or empty.
    pub fn systemd_credentials() -> Result<Self, Error> {
        match std::env::var_os("CREDENTIALS_DIRECTORY") {
            Some(path) if !path.is_empty() => Ok(Self::directory(path)),
            _ => Err(Error::new(
                ErrorKind::InvalidConfig,
                "`CREDENTIALS_DIRECTORY` is not set",
            )
            .with_hint("start the service with systemd, and add `LoadCredential=` to its unit")),
        }
    }

    /// Sets the format of a document. Default: the format that the file name determines.
    #[must_use]
    pub fn format(self, format: Format) -> Self {
        self.with(|config| config.layout = Layout::Document(Some(format)))
    }

    /// Keeps a newline at the end of a file in a directory.
    ///
    /// Default: one `\n` or `\r\n` is removed, because editors and `echo` add it.
    #[must_use]
    pub fn keep_trailing_newline(self) -> Self {
        self.with(|config| config.trim_newline = false)
    }

    /// Sets the size limit of a file, in bytes. Default: 1 MiB for a file of a directory, 16 MiB for a
    /// document.
    #[must_use]
    pub fn max_bytes(self, bytes: u64) -> Self {
        self.with(|config| config.max_bytes = Some(bytes))
    }

    /// Rejects a file with [`ErrorKind::Denied`] if users other than its owner have any permission.
    /// Default: a warning is logged once. This setting has an effect on Unix only.
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

    /// Runs `read` on a blocking thread.
    async fn blocking<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Reader) -> T + Send + 'static,
    ) -> Result<T, Error> {
        let reader = self.reader.clone();
        tokio::task::spawn_blocking(move || read(&reader))
            .await
            .map_err(|error| {
                Error::new(
                    ErrorKind::Unavailable,
                    "the blocking read task was canceled or panicked",
                )
                .with_origin(&self.reader.origin)
                .with_source(error)
            })
    }
}

impl Reader {
    fn read_all(&self, keys: &[SecretKey]) -> Vec<Result<Secret, Error>> {
        let with_context = |key: &SecretKey, result: Result<Secret, Error>| {
            result.map_err(|error| error.with_origin(&self.origin).with_key(key))
        };
        match self.config.layout {
            Layout::Directory => keys
                .iter()
                .map(|key| with_context(key, self.read_file(key)))
                .collect(),
            Layout::Document(format) => match self.read_document(format) {
                Ok((format, document)) => {
                    let read = |key| with_context(key, self.read_entry(format, &document, key));
                    keys.iter().map(read).collect()
                }
                Err(error) => keys
                    .iter()
                    .map(|key| with_context(key, Err(error.clone())))
                    .collect(),
            },
        }
    }

    fn read_file(&self, key: &SecretKey) -> Result<Secret, Error> {
        reject_volume_names(key.as_str())?;
        let location = Location::Below(self.config.path.clone(), key.as_str().into());
        let mut bytes = self.read(&location)?;
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
        let format = format.or_else(|| Format::from_path(path)).ok_or_else(|| {
            Error::new(
                ErrorKind::InvalidConfig,
                "the file name does not determine a format",
            )
            .with_hint("set the format: env, json, yaml or toml")
        })?;
        let bytes = self.read(&Location::Path(path.clone()))?;
        Ok((format, document::parse(format, &bytes)?))
    }

    fn read_entry(
        &self,
        format: Format,
        document: &Node,
        key: &SecretKey,
    ) -> Result<Secret, Error> {
        if format == Format::Env && !dotenv::is_name(key.as_str()) {
            let message = "a name in `.env` cannot contain white space, quotes, `=` or `#`";
            return Err(Error::new(ErrorKind::InvalidKey, message).with_hint("rename the key"));
        }
        let node = document.get(format, key).ok_or_else(|| {
            Error::new(
                ErrorKind::NotFound,
                "the document has no entry for this key, or the entry is `null`",
            )
            .with_hint("add it, or add a source that has it")
        })?;
        node.to_bytes().map(secret)
    }

    fn read(&self, location: &Location) -> Result<zeroize::Zeroizing<Vec<u8>>, Error> {
        let (bytes, metadata) = open::read(location, self.config.limit())
            .map_err(|error| self.explain_missing_root(error.into_error(&location.path())))?;
        self.check_permissions(&location.path(), &metadata)?;
        Ok(bytes)
    }

    /// Replaces the error of a missing secret if the root directory itself is missing.
    fn explain_missing_root(&self, error: Error) -> Error {
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
        let Some(mode) = mode_open_to_others(metadata) else {
            return Ok(());
        };
        if self.config.strict_permissions {
            let path = path.display().to_string();
            let message = format!(
                "other users can access `{}` (mode {mode:o})",
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
                reject_volume_names(prefix.as_str())
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

    /// Adds the files below `path`.
    ///
    /// Names that start with a dot are omitted, because they belong to the file system or to the volume.
    /// Links that point out of the root are omitted too.
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
                return Err(Error::new(
                    ErrorKind::TooLarge,
                    "the directory has more than 10,000 files",
                )
                .with_origin(&self.origin)
                .with_hint("list only a part, with a prefix"));
            }
            if metadata.is_file() {
                keys.extend(SecretKey::parse(below));
            } else if metadata.is_dir() && depth < MAX_DEPTH && !is_link {
                self.list_directory(&below, depth + 1, keys)?;
            }
        }
        Ok(())
    }

    /// Checks the directory or reads the whole document, because one defect in it fails every key.
    fn health(&self) -> Result<(), Error> {
        let checked = match self.config.layout {
            // The `.` entry needs the same search permission as reading a file in the directory.
            Layout::Directory => std::fs::metadata(self.config.path.join("."))
                .map(drop)
                .map_err(|error| open::OpenError::from(error).into_error(&self.config.path)),
            Layout::Document(format) => self.read_document(format).map(drop),
        };
        checked.map_err(|error| error.with_origin(&self.origin))
    }
}

/// Rejects names that start with `..`, because a Kubernetes volume stores its versions under them.
fn reject_volume_names(path: &str) -> Result<(), Error> {
    if path.split('/').any(|segment| segment.starts_with("..")) {
        return Err(Error::new(
            ErrorKind::InvalidKey,
            "names that start with `..` are reserved for the volume",
        )
        .with_hint("use the name of the secret"));
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

    /// Returns a ttl of 60 s. The watch reports changes earlier.
    fn capabilities(&self) -> Capabilities {
        Capabilities::none()
            .with_versions()
            .with_batch()
            .with_list()
            .with_watch()
            .with_ttl(Duration::from_secs(60))
    }

    async fn get(&self, key: &SecretKey) -> Result<Secret, Error> {
        let mut results = self.get_many(std::slice::from_ref(key)).await;
        results.pop().unwrap_or_else(|| {
            Err(Error::new(
                ErrorKind::Unavailable,
                "the read returned no result",
            ))
        })
    }

    /// Reads several keys. A document is read once for all of them.
    async fn get_many(&self, keys: &[SecretKey]) -> Vec<Result<Secret, Error>> {
        let owned = keys.to_vec();
        match self.blocking(move |reader| reader.read_all(&owned)).await {
            Ok(results) => results,
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
