//! [`EnvProvider`]: the settings and the reads.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use secretwell_core::backend::{
    Capabilities, Notice, NoticeKind, collect_notices, join_bounded, refuse_encrypted,
};
use secretwell_core::{
    Error, ErrorKind, KeyPrefix, Origin, Secret, SecretKey, SecretProvider, SecretValue, Version,
};
use zeroize::Zeroizing;

use crate::config::Config;
use crate::environment::{Environment, ProcessEnvironment, bytes};
use crate::named_file;
use crate::names::Listed;

/// How many named files are read at the same time.
const CONCURRENCY: usize = 16;

/// A provider that reads environment variables. See the [crate](crate) for the mapping of keys to names.
pub struct EnvProvider {
    origin: Origin,
    config: Config,
    environment: Box<dyn Environment>,
}

impl EnvProvider {
    /// Creates a provider for all variables of the process.
    pub fn new() -> Self {
        Self::with_environment(ProcessEnvironment, "")
    }

    /// Creates a provider for the variables of the process that start with `prefix`. Keys do not contain
    /// the prefix.
    pub fn with_prefix(prefix: impl Into<String>) -> Self {
        Self::with_environment(ProcessEnvironment, prefix)
    }

    /// Creates a provider for another environment. `prefix` can be empty.
    pub fn with_environment(environment: impl Environment, prefix: impl Into<String>) -> Self {
        let config = Config::new(prefix.into());
        Self {
            origin: Origin::new("env", config.prefix.escape_debug()),
            config,
            environment: Box::new(environment),
        }
    }

    /// Returns a variable that is set but empty as a value of zero bytes.
    ///
    /// Default: such a variable is absent, because Docker Compose and CI systems set variables to the empty text if
    /// they have no value.
    #[must_use]
    pub fn keep_empty(mut self) -> Self {
        self.config.keep_empty = true;
        self
    }

    /// Reads the value of a key from a file, if the variable of the key with `suffix` at its end contains a path. With
    /// `_FILE`, the key `DB_PASSWORD` is read from the file that `DB_PASSWORD_FILE` names.
    ///
    /// One newline at the end of the file is removed. The path must be absolute. Setting both variables is an error, and
    /// so is a file that does not exist or is empty: the next source of a chain is not read. Set a prefix, because
    /// otherwise unrelated variables such as `SSL_CERT_FILE` are listed as secrets, too. Reads must happen within a
    /// tokio runtime.
    ///
    /// Default: no files are read. The suffix consists of ASCII letters, digits, `_`, `-` and `.`.
    #[must_use]
    pub fn file_suffix(mut self, suffix: impl Into<String>) -> Self {
        self.config.file_suffix = Some(suffix.into());
        self
    }

    /// Sets the text that joins the segments of a key. With `__`, the key `db/PASSWORD` is the variable
    /// `db__PASSWORD`, and the variable is listed as that key.
    ///
    /// Default: `_`, which does not split names in a list. The text consists of ASCII letters, digits, `_`, `-` and `.`.
    #[must_use]
    pub fn separator(mut self, separator: impl Into<String>) -> Self {
        self.config.separator = separator.into();
        self
    }

    /// Accepts values that a tool left encrypted, for a service that stores ciphertexts on purpose.
    ///
    /// Default: such a value is [`ErrorKind::Invalid`].
    #[must_use]
    pub fn accept_encrypted(mut self) -> Self {
        self.config.accept_encrypted = true;
        self
    }

    async fn read(&self, key: &SecretKey) -> Result<Secret, Error> {
        let read = async {
            self.config.check()?;
            self.read_variable(&self.config.variable_name(key)?).await
        };
        let result = read.await;
        result.map_err(|error| error.with_origin(&self.origin).with_key(key))
    }

    async fn read_variable(&self, name: &str) -> Result<Secret, Error> {
        let value = self.environment.value(OsStr::new(name));
        let value = value.map(|value| Zeroizing::new(bytes(value)));
        let file_variable = self.config.file_variable_name(name);
        let named = file_variable.and_then(|variable| {
            let path = self.non_empty(OsStr::new(&variable))?;
            Some((variable, path))
        });
        match (value, named) {
            (Some(value), Some((variable, _))) if !value.is_empty() => Err(Error::new(
                ErrorKind::InvalidConfig,
                format!("both `{name}` and `{variable}` are set"),
            )
            .with_hint("unset one of them")),
            (_, Some((variable, path))) => self.read_file(&variable, path.into()).await,
            (Some(mut value), None) if !value.is_empty() || self.config.keep_empty => {
                self.secret(std::mem::take(&mut *value))
            }
            (Some(_), None) => Err(Error::new(
                ErrorKind::NotFound,
                format!("variable `{name}` is set but empty"),
            )
            .with_hint("set a value, add a source that has it, or use `keep_empty`")),
            (None, None) => Err(Error::new(
                ErrorKind::NotFound,
                format!("variable `{name}` is not set"),
            )
            .with_hint("set it, or add a source that has it")),
        }
    }

    /// Returns the path of the file that contains the value of `key`, if a variable names one.
    fn path(&self, key: &SecretKey) -> Option<PathBuf> {
        let name = self.config.variable_name(key).ok()?;
        let variable = self.config.file_variable_name(&name)?;
        self.non_empty(OsStr::new(&variable)).map(PathBuf::from)
    }

    async fn read_file(&self, variable: &str, path: PathBuf) -> Result<Secret, Error> {
        let read = named_file::read(path).await;
        let mut content = read.map_err(|error| {
            let message = format!("the file that `{variable}` names: {}", error.message());
            error.with_message(message)
        })?;
        if content.is_empty() && !self.config.keep_empty {
            let message = format!("the file that `{variable}` names is empty");
            // Its writer might not have written the value yet.
            return Err(Error::new(ErrorKind::InvalidConfig, message)
                .temporary()
                .with_hint("write the value to it, or use `keep_empty`"));
        }
        self.secret(std::mem::take(&mut *content))
    }

    fn secret(&self, bytes: Vec<u8>) -> Result<Secret, Error> {
        let value = SecretValue::from(bytes);
        let version = Version::from_content(value.expose_bytes());
        let secret = Secret::new(value).with_version(version);
        match self.config.accept_encrypted {
            true => Ok(secret.accept_encrypted()),
            false => refuse_encrypted(secret),
        }
    }

    fn non_empty(&self, name: &OsStr) -> Option<OsString> {
        let value = self.environment.value(name);
        value.filter(|value| !value.is_empty())
    }

    /// Returns whether the variable is set to a text that is not empty.
    fn has_value(&self, name: &OsStr) -> bool {
        let value = self.environment.value(name);
        value.is_some_and(|value| !Zeroizing::new(bytes(value)).is_empty())
    }

    /// Returns the names of the variables of secrets, without the suffix of files, and as they are. Absent variables are
    /// left out.
    fn names(&self) -> impl Iterator<Item = (OsString, OsString)> {
        let names = self.environment.names().into_iter();
        // Windows has hidden variables such as `=C:` for the current directory of each drive.
        let is_hidden = |name: &OsString| cfg!(windows) && name.to_string_lossy().starts_with('=');
        names
            .filter(move |name| !is_hidden(name))
            .filter_map(|name| {
                let named = name.to_str().and_then(|name| self.config.named_by(name));
                let is_file = named.is_some();
                let read = named.map_or_else(|| name.clone(), OsString::from);
                let is_present = !is_file && self.config.keep_empty || self.has_value(&name);
                is_present.then_some((read, name))
            })
    }

    fn listed(&self, name: &OsStr, prefix: &KeyPrefix) -> Listed {
        match name.to_str() {
            Some(name) => self.config.listed(name, prefix),
            None if self.starts_with(name, prefix) => Listed::NotAKey,
            None => Listed::Outside,
        }
    }

    /// Returns whether a name that is not Unicode is below `prefix`.
    fn starts_with(&self, name: &OsStr, prefix: &KeyPrefix) -> bool {
        // The characters before the first invalid one are those of the name.
        let name = name.to_string_lossy();
        self.config.listed(&name, prefix) != Listed::Outside
    }
}

#[async_trait]
impl SecretProvider for EnvProvider {
    fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Returns a ttl of 1 s, because reading a variable is cheap.
    fn capabilities(&self) -> Capabilities {
        Capabilities::none()
            .with_versions()
            .with_batch()
            .with_list()
            .with_ttl(Duration::from_secs(1))
    }

    async fn get(&self, key: &SecretKey) -> Result<Secret, Error> {
        self.read(key).await
    }

    /// Named files of one volume of Kubernetes are read from one generation of it.
    async fn get_many(&self, keys: &[SecretKey]) -> Vec<Result<Secret, Error>> {
        let read_all = || join_bounded(CONCURRENCY, keys.iter().map(|key| self.read(key)));
        let paths: Vec<PathBuf> = keys.iter().filter_map(|key| self.path(key)).collect();
        if paths.len() < 2 {
            return read_all().await;
        }
        let mut generations = named_file::generations(paths.clone()).await;
        for _ in 0..named_file::MAX_GENERATIONS {
            let results = read_all().await;
            let after = named_file::generations(paths.clone()).await;
            if after == generations {
                return results;
            }
            generations = after;
        }
        let changed = |key| {
            let message = "the volume of the named files was replaced during each read";
            Err(Error::new(ErrorKind::Unavailable, message)
                .with_origin(&self.origin)
                .with_key(key))
        };
        keys.iter().map(changed).collect()
    }

    /// Lists one key for each variable that has a value.
    ///
    /// With the separator `_`, names are not split: `DB_PASSWORD` is listed as that key from the root, and as
    /// `DB/PASSWORD` below the prefix `DB`. [`notices`](SecretProvider::notices) reports variables whose names are not
    /// valid keys.
    async fn list(&self, prefix: &KeyPrefix) -> Result<Vec<SecretKey>, Error> {
        self.health().await?;
        let keys: BTreeSet<SecretKey> = self
            .names()
            .filter_map(|(name, _)| match self.listed(&name, prefix) {
                Listed::Key(key) => Some(key),
                Listed::Outside | Listed::NotAKey => None,
            })
            .collect();
        Ok(keys.into_iter().collect())
    }

    /// Returns one notice for each variable whose name cannot be a key.
    async fn notices(&self, prefix: &KeyPrefix) -> Result<Vec<Notice>, Error> {
        self.health().await?;
        let names: BTreeSet<OsString> = self
            .names()
            .filter(|(name, _)| self.listed(name, prefix) == Listed::NotAKey)
            .map(|(_, variable)| variable)
            .collect();
        let notice = |name: OsString| {
            let message = "the name of the variable cannot be a key";
            Notice::new(NoticeKind::NotAKey, name.display(), message)
                .with_hint("rename the variable")
        };
        Ok(collect_notices(names.into_iter().map(notice)))
    }

    /// Checks the settings. The environment can always be read.
    async fn health(&self) -> Result<(), Error> {
        let checked = self.config.check();
        checked.map_err(|error| error.with_origin(&self.origin))
    }
}

impl Default for EnvProvider {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for EnvProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EnvProvider")
            .field("source", &self.origin)
            .finish_non_exhaustive()
    }
}
