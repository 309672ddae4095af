//! The provider.

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

/// Variables by name. The process has one; a test, or a program that keeps settings of its own, may
/// bring another to [`EnvProvider::with_environment`].
pub trait Environment: Send + Sync + 'static {
    /// The value of the variable `name`, if it is set.
    fn value(&self, name: &OsStr) -> Option<OsString>;

    /// The names of all variables.
    fn names(&self) -> Vec<OsString>;
}

/// The environment of this process.
struct Process;

impl Environment for Process {
    fn value(&self, name: &OsStr) -> Option<OsString> {
        std::env::var_os(name)
    }

    fn names(&self) -> Vec<OsString> {
        std::env::vars_os().map(|(name, _)| name).collect()
    }
}

/// Secrets from environment variables. See the [crate](crate) for how keys become names.
pub struct EnvProvider {
    origin: Origin,
    prefix: String,
    environment: Box<dyn Environment>,
}

impl EnvProvider {
    /// Every variable of the process.
    pub fn new() -> Self {
        Self::with_environment(Process, "")
    }

    /// The variables of the process whose names begin with `prefix`, which keys leave out.
    pub fn with_prefix(prefix: impl Into<String>) -> Self {
        Self::with_environment(Process, prefix)
    }

    /// Creates a provider from a URL: `env://` for every variable, `env://APP_` for a prefix.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`] if the URL contains anything but a prefix.
    pub fn from_url(url: &str) -> Result<Self, Error> {
        match url.strip_prefix("env://") {
            Some(prefix) if !prefix.contains(['/', '?']) => Ok(Self::with_prefix(prefix)),
            _ => Err(Error::new(
                ErrorKind::InvalidConfig,
                "`env://` takes a prefix of variable names and nothing else",
            )
            .with_hint("write it like `env://APP_`")),
        }
    }

    /// Variables of an environment of your own, behind a prefix that may be empty.
    pub fn with_environment(environment: impl Environment, prefix: impl Into<String>) -> Self {
        let prefix = prefix.into();
        let origin = Origin::new("env", prefix.escape_debug());
        Self {
            origin,
            prefix,
            environment: Box::new(environment),
        }
    }

    /// The variable that holds `key`.
    fn name(&self, key: &SecretKey) -> Result<String, Error> {
        let name = format!("{}{}", self.prefix, key.as_str().replace('/', "_"));
        match name.contains(['=', '\0']) {
            false => Ok(name),
            true => Err(Error::new(
                ErrorKind::InvalidKey,
                "no variable's name may hold `=` or NUL",
            )
            .with_origin(&self.origin)
            .with_key(key)
            .with_hint("rename the key, or map it to another with `renamed`")),
        }
    }

    fn read(&self, key: &SecretKey) -> Result<Secret, Error> {
        let name = self.name(key)?;
        let value = self.environment.value(OsStr::new(&name)).ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("no variable `{name}` is set"))
                .with_origin(&self.origin)
                .with_key(key)
                .with_hint("set it, or add a source that has it")
        })?;
        let value = SecretValue::from(bytes(value));
        let version = Version::from_content(value.expose_bytes());
        Ok(Secret::new(value).with_version(version))
    }

    /// The key below `prefix` that the variable `name` holds.
    fn key(&self, name: &OsStr, prefix: &KeyPrefix) -> Option<SecretKey> {
        let own = name.to_str()?.strip_prefix(self.prefix.as_str())?;
        let text: Cow<'_, str> = match prefix.as_str() {
            "" => own.into(),
            directory => {
                let rest = own
                    .strip_prefix(&directory.replace('/', "_"))?
                    .strip_prefix('_')?;
                format!("{directory}/{rest}").into()
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

/// Elsewhere, a value that is not Unicode comes in the platform's own superset of UTF-8.
#[cfg(not(unix))]
fn bytes(text: OsString) -> Vec<u8> {
    text.into_encoded_bytes()
}

#[async_trait]
impl SecretProvider for EnvProvider {
    fn origin(&self) -> &Origin {
        &self.origin
    }

    /// A ttl of one second: reading a variable costs nothing.
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

    /// One key for each variable: where a name begins has no mark, so `DB_PASSWORD` is listed as the
    /// one segment that it is, and as `DB/PASSWORD` when asked for what is below `DB`.
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

    struct Fixed(HashMap<OsString, OsString>);

    impl Environment for Fixed {
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
        EnvProvider::with_environment(Fixed(pairs.collect()), prefix)
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
            "DB/PASSWORD from env://APP_: not found: no variable `APP_DB_PASSWORD` is set; \
             set it, or add a source that has it",
        );
    }

    #[tokio::test]
    async fn values_are_kept_to_the_byte() {
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
    async fn what_is_not_unicode_comes_as_bytes() {
        use std::os::unix::ffi::OsStringExt;

        let value = OsString::from_vec(vec![0xff, 0xfe, b'x']);
        let provider = EnvProvider::with_environment(Fixed([("KEY".into(), value)].into()), "");
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
    async fn names_that_cannot_be_are_refused_without_a_look() {
        let error = text(&provider("", &[]), "a=b").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidKey);
    }

    #[tokio::test]
    async fn what_is_listed_can_be_read() {
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
    async fn the_process_is_the_default() {
        let provider = EnvProvider::with_prefix("CARGO_PKG_");
        assert_eq!(text(&provider, "NAME").await.unwrap(), "secretwell-env");
        assert_eq!(
            format!("{provider:?}"),
            "EnvProvider { source: Origin(env://CARGO_PKG_), .. }"
        );
    }
}
