//! [`EnvProvider`] and the [`Environment`] that it reads.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use secretwell_core::backend::Capabilities;
use secretwell_core::{
    Error, ErrorKind, KeyPrefix, Origin, Secret, SecretKey, SecretProvider, SecretValue, Version,
};

/// A set of variables that can be read by name.
///
/// The default is the environment of the process. A test, or a program that stores its own settings, can
/// pass another implementation to [`EnvProvider::with_environment`].
pub trait Environment: Send + Sync + 'static {
    /// Returns the value of the variable `name`, or `None` if it is not set.
    fn value(&self, name: &OsStr) -> Option<OsString>;

    /// Returns the names of all variables.
    fn names(&self) -> Vec<OsString>;
}

/// The environment of this process.
struct ProcessEnvironment;

impl Environment for ProcessEnvironment {
    fn value(&self, name: &OsStr) -> Option<OsString> {
        std::env::var_os(name)
    }

    fn names(&self) -> Vec<OsString> {
        std::env::vars_os().map(|(name, _)| name).collect()
    }
}

/// A provider that reads environment variables. See the [crate](crate) for the mapping of keys to names.
pub struct EnvProvider {
    origin: Origin,
    prefix: String,
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

    /// Creates a provider from a URL: `env://` for every variable, `env://APP_` for a prefix.
    ///
    /// # Errors
    /// Returns [`ErrorKind::InvalidConfig`] if the URL has another scheme, or if the prefix contains
    /// anything but ASCII letters, digits, `_`, `-` and `.`. The error does not quote the URL.
    pub fn from_url(url: &str) -> Result<Self, Error> {
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        match url.strip_prefix("env://") {
            Some(prefix) if prefix.chars().all(is_name) => Ok(Self::with_prefix(prefix)),
            _ => Err(Error::new(
                ErrorKind::InvalidConfig,
                "an `env://` URL can contain only a prefix of variable names",
            )
            .with_hint("write it like `env://APP_`")),
        }
    }

    /// Creates a provider for another environment. `prefix` can be empty.
    pub fn with_environment(environment: impl Environment, prefix: impl Into<String>) -> Self {
        let prefix = prefix.into();
        let origin = Origin::new("env", prefix.escape_debug());
        Self {
            origin,
            prefix,
            environment: Box::new(environment),
        }
    }

    /// Returns the name of the variable for `key`.
    fn variable_name(&self, key: &SecretKey) -> Result<String, Error> {
        let name = format!("{}{}", self.prefix, key.as_str().replace('/', "_"));
        match name.contains(['=', '\0']) {
            false => Ok(name),
            true => Err(Error::new(
                ErrorKind::InvalidKey,
                "the name of a variable cannot contain `=` or NUL",
            )
            .with_origin(&self.origin)
            .with_key(key)
            .with_hint("rename the key, or map it to another key with `renamed`")),
        }
    }

    fn read(&self, key: &SecretKey) -> Result<Secret, Error> {
        let name = self.variable_name(key)?;
        let value = self.environment.value(OsStr::new(&name)).ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("variable `{name}` is not set"))
                .with_origin(&self.origin)
                .with_key(key)
                .with_hint("set it, or add a source that has it")
        })?;
        let value = SecretValue::from(bytes(value));
        let version = Version::from_content(value.expose_bytes());
        Ok(Secret::new(value).with_version(version))
    }

    /// Returns the key below `prefix` for the variable `name`. Returns `None` if the name does not correspond
    /// to such a key.
    fn key(&self, name: &OsStr, prefix: &KeyPrefix) -> Option<SecretKey> {
        let unprefixed = name.to_str()?.strip_prefix(self.prefix.as_str())?;
        let text: Cow<'_, str> = match prefix.as_str() {
            "" => unprefixed.into(),
            folder => {
                let rest = unprefixed
                    .strip_prefix(&folder.replace('/', "_"))?
                    .strip_prefix('_')?;
                format!("{folder}/{rest}").into()
            }
        };
        SecretKey::parse(text).ok()
    }
}

#[cfg(unix)]
fn bytes(text: OsString) -> Vec<u8> {
    use std::os::unix::ffi::OsStringExt;

    text.into_vec()
}

/// Returns a value that is not Unicode in the platform's own superset of UTF-8.
#[cfg(not(unix))]
fn bytes(text: OsString) -> Vec<u8> {
    text.into_encoded_bytes()
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
        self.read(key)
    }

    async fn get_many(&self, keys: &[SecretKey]) -> Vec<Result<Secret, Error>> {
        keys.iter().map(|key| self.read(key)).collect()
    }

    /// Lists one key for each variable.
    ///
    /// Names of variables have no separator. `DB_PASSWORD` is listed as that key from the root, and as
    /// `DB/PASSWORD` below the prefix `DB`. Variables whose names are not valid keys are omitted.
    async fn list(&self, prefix: &KeyPrefix) -> Result<Vec<SecretKey>, Error> {
        let names = self.environment.names();
        let keys: BTreeSet<SecretKey> = names
            .iter()
            .filter_map(|name| self.key(name, prefix))
            .collect();
        Ok(keys.into_iter().collect())
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

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    struct FixedEnvironment(HashMap<OsString, OsString>);

    impl Environment for FixedEnvironment {
        fn value(&self, name: &OsStr) -> Option<OsString> {
            self.0.get(name).cloned()
        }

        fn names(&self) -> Vec<OsString> {
            self.0.keys().cloned().collect()
        }
    }

    fn provider(prefix: &str, variables: &[(&str, &str)]) -> EnvProvider {
        let pairs = variables
            .iter()
            .map(|(name, value)| (OsString::from(name), OsString::from(value)));
        EnvProvider::with_environment(FixedEnvironment(pairs.collect()), prefix)
    }

    async fn text(provider: &EnvProvider, key: &str) -> Result<String, Error> {
        let secret = provider.get(&SecretKey::parse(key)?).await?;
        Ok(secret.value.expose_text()?.to_owned())
    }

    #[tokio::test]
    async fn segments_are_joined_behind_the_prefix_and_case_is_kept() {
        let provider = provider(
            "APP_",
            &[("APP_db_PASSWORD", "p"), ("db_PASSWORD", "other")],
        );
        assert_eq!(text(&provider, "db/PASSWORD").await.unwrap(), "p");
        assert_eq!(text(&provider, "db_PASSWORD").await.unwrap(), "p");
        let error = text(&provider, "DB/PASSWORD").await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "DB/PASSWORD from env://APP_: not found: variable `APP_DB_PASSWORD` is not set; \
             set it, or add a source that has it",
        );
    }

    #[tokio::test]
    async fn values_are_returned_unchanged() {
        for value in [
            "",
            " padded\r\n",
            "$(id) `id` $HOME \"quoted\"",
            "{\"json\":\"inside\"}",
            "schlüssel",
        ] {
            assert_eq!(
                text(&provider("", &[("KEY", value)]), "KEY").await.unwrap(),
                value
            );
        }
        let big = "x".repeat(1 << 20);
        assert_eq!(
            text(&provider("", &[("KEY", &big)]), "KEY").await.unwrap(),
            big
        );
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn value_that_is_not_unicode_is_returned_as_bytes() {
        use std::os::unix::ffi::OsStringExt;

        let value = OsString::from_vec(vec![0xff, 0xfe, b'x']);
        let provider =
            EnvProvider::with_environment(FixedEnvironment([("KEY".into(), value)].into()), "");
        let secret = provider
            .get(&SecretKey::parse("KEY").unwrap())
            .await
            .unwrap();
        assert_eq!(secret.value.expose_bytes(), [0xff, 0xfe, b'x']);
        assert_eq!(
            secret.value.expose_text().unwrap_err().kind(),
            ErrorKind::Malformed
        );
    }

    #[tokio::test]
    async fn key_with_equals_sign_is_invalid() {
        let error = text(&provider("", &[]), "a=b").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidKey);
    }

    #[tokio::test]
    async fn listed_keys_can_be_read() {
        let variables = [
            ("APP_A", "1"),
            ("APP_DB_USER", "2"),
            ("APP_DB_", "3"),
            ("OTHER", "4"),
            ("APP_", "5"),
        ];
        let provider = provider("APP_", &variables);
        let listed = |prefix: &'static str| {
            let provider = &provider;
            async move {
                let keys = provider
                    .list(&KeyPrefix::parse(prefix).unwrap())
                    .await
                    .unwrap();
                for key in &keys {
                    assert!(provider.get(key).await.is_ok(), "{key}");
                }
                keys.iter().map(ToString::to_string).collect::<Vec<_>>()
            }
        };
        assert_eq!(listed("").await, ["A", "DB_", "DB_USER"]);
        assert_eq!(listed("DB").await, ["DB/USER"]);
        assert!(listed("NONE").await.is_empty());
    }

    #[tokio::test]
    async fn process_environment_is_the_default() {
        let provider = EnvProvider::with_prefix("CARGO_PKG_");
        assert_eq!(text(&provider, "NAME").await.unwrap(), "secretwell-env");
        assert_eq!(
            format!("{provider:?}"),
            "EnvProvider { source: Origin(env://CARGO_PKG_), .. }"
        );
    }

    #[test]
    fn url_accepts_only_a_prefix_of_names() {
        for (url, origin) in [("env://", "env://"), ("env://APP_", "env://APP_")] {
            assert_eq!(
                EnvProvider::from_url(url).unwrap().origin().as_str(),
                origin
            );
        }
        for url in [
            "env://user:c4n4ry@host",
            "env://A/B",
            "env://A?b",
            "file:///a",
            "env:// ",
        ] {
            let error = EnvProvider::from_url(url).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidConfig);
            assert!(!format!("{error} {error:#?}").contains("c4n4ry"), "{url}");
        }
    }
}
