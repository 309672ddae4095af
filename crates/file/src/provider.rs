//! [`FileProvider`]: the settings and the asynchronous part.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use secretwell_core::backend::{Capabilities, ChangeStream, Notice};
use secretwell_core::{Error, ErrorKind, KeyPrefix, Origin, Secret, SecretKey, SecretProvider};
use tokio::time::Instant;

use crate::config::{Config, Dialect, Format, Layout, MAX_REWRITE_GRACE};
use crate::reader::{Reader, Reading};
use crate::rewrite::PATIENCE;
use crate::watch;

/// A provider that reads secrets from a directory or a document. See the [crate](crate) for the layouts.
#[derive(Clone)]
pub struct FileProvider {
    reader: Arc<Reader>,
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

    /// Sets the dialect of a `.env` document. Default: [`Dialect::Strict`].
    #[must_use]
    pub fn dialect(self, dialect: Dialect) -> Self {
        self.with(|config| config.dialect = dialect)
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
    ///
    /// On a read-only mount, such as those of Docker and Kubernetes, permission to read does not count.
    #[must_use]
    pub fn strict_permissions(self) -> Self {
        self.with(|config| config.strict_permissions = true)
    }

    /// Sets the time after which a document or a file that was emptied counts as empty. Default: 60 s. A longer time than
    /// 1 h counts as 1 h.
    ///
    /// Many programs empty a file before they write it. Until the time has passed, reads fail with
    /// [`ErrorKind::Unavailable`], so that a resolver keeps the last value and a chain does not continue with a weaker
    /// source. The same time applies to a key that is missing from a document that was rewritten in place, and to a
    /// document that cannot be parsed any more. A document that is replaced by a rename counts at once.
    #[must_use]
    pub fn rewrite_grace(self, grace: Duration) -> Self {
        self.with(|config| config.rewrite_grace = grace.min(MAX_REWRITE_GRACE))
    }

    /// Accepts values that a tool left encrypted, for a service that stores ciphertexts on purpose.
    ///
    /// Default: such a value is [`ErrorKind::Invalid`]. A document that is encrypted as a whole is always refused.
    #[must_use]
    pub fn accept_encrypted(self) -> Self {
        self.with(|config| config.accept_encrypted = true)
    }

    pub(crate) fn config(&self) -> &Config {
        &self.reader.config
    }

    fn from_config(config: Config) -> Self {
        Self {
            reader: Arc::new(Reader::new(config)),
        }
    }

    fn with(self, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = self.reader.config.clone();
        change(&mut config);
        Self::from_config(config)
    }

    /// Runs `read` on a blocking thread, and again while a file is being written, for at most 2 s.
    async fn read<T: Send + 'static>(
        &self,
        read: impl Fn(&Reader) -> Reading<T> + Send + Sync + 'static,
    ) -> Result<T, Error> {
        let end = Instant::now() + PATIENCE;
        let read = Arc::new(read);
        let mut is_first = true;
        loop {
            let (reader, read) = (self.reader.clone(), read.clone());
            let reading = tokio::task::spawn_blocking(move || read(&reader)).await;
            let reading = reading.map_err(|error| self.interrupted(error))?;
            match reading.wait {
                // No blocking thread sleeps, and a caller that is dropped stops waiting. A slow read is repeated once.
                Some(wait) if is_first || Instant::now() + wait <= end => {
                    tokio::time::sleep(wait).await;
                }
                _ => return Ok(reading.result),
            }
            is_first = false;
        }
    }

    fn interrupted(&self, error: tokio::task::JoinError) -> Error {
        let message = "the blocking read task was canceled or panicked";
        Error::new(ErrorKind::Unavailable, message)
            .with_origin(&self.reader.origin)
            .with_source(error)
    }
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
        match self.read(move |reader| reader.read_all(&owned)).await {
            Ok(results) => results,
            Err(error) => keys
                .iter()
                .map(|key| Err(error.clone().with_key(key)))
                .collect(),
        }
    }

    async fn list(&self, prefix: &KeyPrefix) -> Result<Vec<SecretKey>, Error> {
        let prefix = prefix.clone();
        self.read(move |reader| reader.list(&prefix)).await?
    }

    async fn notices(&self, prefix: &KeyPrefix) -> Result<Vec<Notice>, Error> {
        let prefix = prefix.clone();
        self.read(move |reader| reader.notices(&prefix)).await?
    }

    fn watch(&self) -> Option<ChangeStream> {
        Some(watch::start(&self.reader.config))
    }

    async fn health(&self) -> Result<(), Error> {
        self.read(Reader::health).await?
    }
}

impl fmt::Debug for FileProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileProvider")
            .field("config", &self.reader.config)
            .finish_non_exhaustive()
    }
}
