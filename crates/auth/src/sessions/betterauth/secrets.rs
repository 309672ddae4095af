//! [`BetterAuthSecrets`]: the secrets of a Better Auth application as a key ring with versions.

use std::collections::HashMap;

use secretwell_core::{Error, ErrorKind, SecretKey, SecretValue};

use crate::secret_list::{ListEntry, parse};
use crate::strength::is_default_of_better_auth;
use crate::{BuildContext, KeyRing};

const LIST: &str = "BETTER_AUTH_SECRETS";
const SECRET: &str = "BETTER_AUTH_SECRET";
const SHARED_SECRET: &str = "AUTH_SECRET";
const PREVIOUS: &str = "BETTER_AUTH_SECRET_PREVIOUS";

/// The secrets of a Better Auth application: the current secret, which signs and encrypts, and the other
/// secrets, which verify and decrypt.
///
/// | key | meaning |
/// | --- | --- |
/// | `BETTER_AUTH_SECRETS` | list with versions, such as `2:newer,1:older`; the first entry is current, whatever its number |
/// | `BETTER_AUTH_SECRET`, or else `AUTH_SECRET` | the current secret; beside a list, it is the legacy secret, which only verifies |
/// | `BETTER_AUTH_SECRET_PREVIOUS` | the previous secret, which only verifies; the package does not read it |
///
/// The previous values of each key that the source reports are part of the ring until their grace period
/// ends. During the activation delay of a new secret, both it and the secret that still signs are current.
///
/// The default secrets that Better Auth has published are refused in every [`Mode`](crate::Mode).
///
/// ```
/// use secretwell::auth::sessions::betterauth::BetterAuthSecrets;
/// use secretwell::auth::{BuildContext, LazyAuth};
/// use secretwell::{MemoryProvider, Resolver, SecretString};
/// use serde::Deserialize;
///
/// #[derive(Deserialize)]
/// #[serde(rename_all = "SCREAMING_SNAKE_CASE")]
/// struct Secrets {
///     #[expect(dead_code, reason = "the build uses its key ring")]
///     better_auth_secrets: SecretString,
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let memory = MemoryProvider::from_iter([(
///     "BETTER_AUTH_SECRETS",
///     "2:K7gNU3sdo+OL0wNhqoVWhr3g6s1xYv72,1:vUe1Fq4t9sLxPz0RkWc7YdNmHb3JaG6T",
/// )]);
/// let auth = LazyAuth::new(Resolver::new(memory), |_: Secrets, cx: BuildContext| async move {
///     Ok(BetterAuthSecrets::from_context(&cx)?)
/// });
/// let secrets = auth.get().await?;
/// assert_eq!(secrets.current_version(), Some(2));
/// assert_eq!(secrets.version(1).unwrap().expose_text()?, "vUe1Fq4t9sLxPz0RkWc7YdNmHb3JaG6T");
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct BetterAuthSecrets {
    /// The secrets that an instance of the application might sign with now. The first signs here.
    current: Vec<SecretValue>,
    /// The other secrets, in the order in which the package tries them.
    older: Vec<SecretValue>,
    versions: Vec<(u64, SecretValue)>,
    legacy: Option<SecretValue>,
}

impl BetterAuthSecrets {
    /// The keys of the secrets that the package reads, for
    /// [`LazyAuthBuilder::signing`](crate::LazyAuthBuilder::signing).
    pub const KEYS: [&'static str; 3] = [LIST, SECRET, SHARED_SECRET];

    /// Creates a ring of one secret without a version.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Invalid`] if the secret is empty or a published default secret. Its strength is
    /// not checked.
    pub fn new(secret: impl Into<SecretValue>) -> Result<Self, Error> {
        let secret = secret.into();
        check(SECRET, "the secret", secret.expose_bytes())?;
        Ok(Self {
            current: vec![secret],
            older: Vec::new(),
            versions: Vec::new(),
            legacy: None,
        })
    }

    /// Creates a ring from a list in the form of `BETTER_AUTH_SECRETS`, such as `2:newer,1:older`.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Invalid`] if the text is not such a list, or if an entry is a published default
    /// secret. The error names the position or the version of the entry. The strength of the secrets is
    /// not checked.
    pub fn from_list(list: impl Into<SecretValue>) -> Result<Self, Error> {
        let list = list.into();
        let entries = parse(list.expose_bytes()).map_err(|error| {
            invalid(LIST, error.to_string())
                .with_hint("write the list in the form `2:newer,1:older`")
        })?;
        for entry in &entries {
            let subject = format!("the secret of version {}", entry.version);
            check(LIST, &subject, entry.secret.as_bytes())?;
        }
        let (first, others) = entries
            .split_first()
            .ok_or_else(|| invalid(LIST, "the list of secrets is empty"))?;
        let mut secrets = Self::new(first.secret)?;
        secrets.versions = entries.iter().map(versioned).collect();
        for entry in others {
            secrets.add_older(entry.secret.into());
        }
        Ok(secrets)
    }

    /// Adds the secret that the application had before it used a list. It only verifies.
    ///
    /// # Errors
    /// The same as [`new`](Self::new).
    pub fn with_legacy(mut self, secret: impl Into<SecretValue>) -> Result<Self, Error> {
        let secret = secret.into();
        check(SECRET, "the legacy secret", secret.expose_bytes())?;
        self.add_older(secret.clone());
        self.legacy = Some(secret);
        Ok(self)
    }

    /// Adds a previous secret. It only verifies.
    ///
    /// # Errors
    /// The same as [`new`](Self::new).
    pub fn with_previous(mut self, secret: impl Into<SecretValue>) -> Result<Self, Error> {
        let secret = secret.into();
        check(PREVIOUS, "the previous secret", secret.expose_bytes())?;
        self.add_older(secret);
        Ok(self)
    }

    /// Creates the ring from the secrets of a build. Keys that the build does not have are omitted.
    ///
    /// In [`Mode::Production`](crate::Mode::Production), each secret must be suitable for signing, also
    /// within a list. See [`SecretPolicy`](crate::SecretPolicy).
    ///
    /// # Errors
    /// - [`ErrorKind::NotFound`] if the build has none of the keys
    /// - [`ErrorKind::Invalid`] if a secret is weak, or as in [`from_list`](Self::from_list)
    pub fn from_context(context: &BuildContext) -> Result<Self, Error> {
        // All of them are signing secrets, also while another one has precedence.
        let mut rings: HashMap<&str, KeyRing> = HashMap::new();
        for name in Self::KEYS {
            match context.key_ring(name) {
                Ok(ring) => drop(rings.insert(name, ring)),
                Err(absent) if absent.is_not_found() => {}
                Err(unusable) => return Err(unusable),
            }
        }
        let previous = context.stored_previous(PREVIOUS)?;
        let single = [SECRET, SHARED_SECRET]
            .into_iter()
            .find_map(|name| Some((name, rings.get(name)?)));
        let secrets = match (rings.get(LIST), single) {
            (Some(lists), None) => Self::from_lists(lists)?,
            (Some(lists), Some((name, legacy))) => {
                check(name, "the legacy secret", legacy.primary().expose_bytes())?;
                let mut secrets = Self::from_lists(lists)?;
                secrets = secrets.with_legacy(legacy.newest().clone())?;
                secrets.add_previous_of(legacy);
                secrets
            }
            (None, Some((name, ring))) => Self::from_ring(name, ring)?,
            (None, None) => {
                return Err(Error::new(
                    ErrorKind::NotFound,
                    "this build loads no secret that Better Auth uses",
                )
                .with_hint("add a field for `BETTER_AUTH_SECRET` or `BETTER_AUTH_SECRETS` to the struct of secrets, and check that the source has a value"));
            }
        };
        previous.into_iter().try_fold(secrets, Self::with_previous)
    }

    fn from_ring(name: &str, ring: &KeyRing) -> Result<Self, Error> {
        for secret in [ring.primary(), ring.newest()] {
            check(name, "the secret", secret.expose_bytes())?;
        }
        let mut secrets = Self::new(ring.primary().clone())?;
        secrets.add_current(ring.newest());
        secrets.add_previous_of(ring);
        Ok(secrets)
    }

    /// Creates a ring from the newest list and the previous lists of one key.
    fn from_lists(lists: &KeyRing) -> Result<Self, Error> {
        let mut secrets = Self::from_list(lists.primary().clone())?;
        if lists.newest() != lists.primary() {
            let staged = Self::from_list(lists.newest().clone())?;
            secrets.add_current(staged.current());
            for secret in &staged.older {
                secrets.add_older(secret.clone());
            }
            let signing = std::mem::replace(&mut secrets.versions, staged.versions);
            secrets.add_versions(signing);
        }
        for list in lists.iter() {
            // A previous list with errors was never in use.
            let Ok(previous) = Self::from_list(list.clone()) else {
                continue;
            };
            for (_, secret) in &previous.versions {
                secrets.add_older(secret.clone());
            }
            secrets.add_versions(previous.versions);
        }
        Ok(secrets)
    }

    fn add_current(&mut self, secret: &SecretValue) {
        if !self.current.contains(secret) {
            self.older.retain(|older| older != secret);
            self.current.push(secret.clone());
        }
    }

    fn add_older(&mut self, secret: SecretValue) {
        if self.iter().all(|known| *known != secret) {
            self.older.push(secret);
        }
    }

    fn add_previous_of(&mut self, ring: &KeyRing) {
        for secret in ring.iter() {
            // Nobody can have signed in with a secret that was refused.
            if !is_default_of_better_auth(secret.expose_bytes()) {
                self.add_older(secret.clone());
            }
        }
    }

    /// Adds the versions that are not known yet.
    fn add_versions(&mut self, versions: Vec<(u64, SecretValue)>) {
        for (version, secret) in versions {
            if self.version(version).is_none() {
                self.versions.push((version, secret));
            }
        }
    }

    /// Returns the secret to sign and encrypt with.
    pub fn current(&self) -> &SecretValue {
        // Every constructor adds a current secret.
        &self.current[0]
    }

    /// Returns the version of the current secret, or `None` if it is not from a list.
    pub fn current_version(&self) -> Option<u64> {
        let mut versions = self.versions();
        let (version, _) = versions.find(|(_, secret)| *secret == self.current())?;
        Some(version)
    }

    /// Returns the secret of a version. If several lists have the version, it is that of the newest list.
    pub fn version(&self, version: u64) -> Option<&SecretValue> {
        let (_, secret) = self.versions().find(|(known, _)| *known == version)?;
        Some(secret)
    }

    /// Returns all versions with their secrets, in the order of the lists. The newest list comes first.
    pub fn versions(&self) -> impl Iterator<Item = (u64, &SecretValue)> {
        self.versions
            .iter()
            .map(|(version, secret)| (*version, secret))
    }

    /// Returns the secret that the application had before it used a list.
    pub fn legacy(&self) -> Option<&SecretValue> {
        self.legacy.as_ref()
    }

    /// Returns all secrets in the order in which the package tries them. The current secret is the first.
    pub fn iter(&self) -> impl Iterator<Item = &SecretValue> {
        self.current.iter().chain(&self.older)
    }

    /// Returns the secrets that an instance of the application might sign with now. The first signs here.
    pub(super) fn current_secrets(&self) -> &[SecretValue] {
        &self.current
    }

    /// Returns the secrets that only verify.
    pub(super) fn older_secrets(&self) -> &[SecretValue] {
        &self.older
    }
}

fn versioned(entry: &ListEntry<'_>) -> (u64, SecretValue) {
    (entry.version, entry.secret.into())
}

/// Refuses an empty secret and the default secrets of the package. `subject` describes the secret.
fn check(key: &str, subject: &str, secret: &[u8]) -> Result<(), Error> {
    let problem = if secret.is_empty() {
        "is empty"
    } else if is_default_of_better_auth(secret) {
        "is the published default secret of Better Auth"
    } else {
        return Ok(());
    };
    Err(invalid(key, format!("{subject} {problem}"))
        .with_hint("generate a secret with `openssl rand -base64 32`"))
}

fn invalid(key: &str, message: impl Into<String>) -> Error {
    let error = Error::new(ErrorKind::Invalid, message.into());
    match SecretKey::parse(key) {
        Ok(key) => error.with_key(&key),
        Err(_) => error,
    }
}

#[cfg(test)]
mod tests;
