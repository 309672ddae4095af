//! [`KeyRing`]: the secret that signs, and all secrets that verify.

use secretwell_core::{Error, ErrorKind, SecretValue};

/// The secrets of one key at one point of a rotation.
///
/// - A new secret verifies immediately, because another instance might already sign with it.
/// - It signs only after the activation delay, when every instance has had time to read it.
/// - The previous secret verifies until its grace period ends.
///
/// No secret of a ring is empty, because anybody can sign with an empty secret.
///
/// A ring does not change. [`LazyAuth`](crate::LazyAuth) rebuilds with a new ring when a secret
/// becomes active and when a grace period ends.
///
/// ```
/// use secretwell::auth::{BuildContext, KeyRing, LazyAuth};
/// use secretwell::{MemoryProvider, Resolver, SecretString};
/// use serde::Deserialize;
///
/// #[derive(Deserialize)]
/// #[serde(rename_all = "SCREAMING_SNAKE_CASE")]
/// struct Secrets {
///     #[expect(dead_code, reason = "the build uses its key ring")]
///     auth_secret: SecretString,
/// }
///
/// struct Sessions {
///     keys: KeyRing,
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let memory = MemoryProvider::from_iter([(
///     "AUTH_SECRET",
///     "correct horse battery staple, at length",
/// )]);
/// let sessions = LazyAuth::new(
///     Resolver::new(memory),
///     |_: Secrets, context: BuildContext| async move {
///         let keys = context.key_ring("AUTH_SECRET")?;
///         Ok(Sessions { keys })
///     },
/// );
///
/// let sessions = sessions.get().await?;
/// let signs_with = sessions.keys.primary();
/// assert!(sessions.keys.iter().any(|verifies_with| verifies_with == signs_with));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct KeyRing {
    pub(crate) primary: SecretValue,
    /// Whether the activation delay of the primary secret is over.
    pub(crate) is_active: bool,
    /// The secrets to verify with, newest first. They include the primary secret.
    pub(crate) all: Vec<SecretValue>,
}

impl KeyRing {
    /// Creates a ring of one secret, for use without a [`LazyAuth`](crate::LazyAuth).
    ///
    /// # Errors
    /// Returns [`ErrorKind::Invalid`] if the secret is empty. The other rules for signing secrets apply
    /// only to a [`LazyAuth`](crate::LazyAuth): see [`SecretPolicy`](crate::SecretPolicy).
    pub fn new(secret: impl Into<SecretValue>) -> Result<Self, Error> {
        let secret = not_empty(secret.into())?;
        Ok(Self {
            primary: secret.clone(),
            is_active: true,
            all: vec![secret],
        })
    }

    /// Merges the rings of several keys, in order of preference, into one. Returns `None` if there
    /// are no rings.
    ///
    /// The primary secret is that of the first ring whose primary secret is active, or that of the
    /// first ring if no primary secret is active.
    pub fn merge(rings: impl IntoIterator<Item = Self>) -> Option<Self> {
        let rings: Vec<Self> = rings.into_iter().collect();
        let active = rings.iter().find(|ring| ring.is_active);
        let first = active.or(rings.first())?;
        let mut merged = Self {
            primary: first.primary.clone(),
            is_active: first.is_active,
            all: Vec::new(),
        };
        // The current secrets of all keys come before the previous ones, because other programs
        // that read the same keys have the current secrets in this order.
        let depth = rings.iter().map(|ring| ring.all.len()).max()?;
        for age in 0..depth {
            for value in rings.iter().filter_map(|ring| ring.all.get(age)) {
                if !merged.all.contains(value) {
                    merged.all.push(value.clone());
                }
            }
        }
        Some(merged)
    }

    /// Adds a previous secret as the last one of the ring. It only verifies. A secret that is in the ring
    /// already is not added again.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Invalid`] if the secret is empty.
    pub fn with_previous(mut self, secret: impl Into<SecretValue>) -> Result<Self, Error> {
        let secret = not_empty(secret.into())?;
        if !self.all.contains(&secret) {
            self.all.push(secret);
        }
        Ok(self)
    }

    /// Returns the secret to sign and encrypt with.
    pub fn primary(&self) -> &SecretValue {
        &self.primary
    }

    /// Returns all secrets to verify and decrypt with, newest first. They include the primary
    /// secret.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &SecretValue> {
        self.all.iter()
    }

    /// Returns the newest secret. It differs from the primary secret during the activation delay.
    #[cfg(feature = "betterauth")]
    pub(crate) fn newest(&self) -> &SecretValue {
        self.all.first().unwrap_or(&self.primary)
    }

    /// Returns the primary secret, followed by the other secrets in their order.
    #[cfg(any(feature = "authjs", feature = "cookies"))]
    pub(crate) fn primary_first(&self) -> impl Iterator<Item = &SecretValue> {
        let others = self.iter().filter(|secret| **secret != self.primary);
        std::iter::once(&self.primary).chain(others)
    }
}

fn not_empty(secret: SecretValue) -> Result<SecretValue, Error> {
    match secret.is_empty() {
        true => Err(Error::new(ErrorKind::Invalid, "the secret is empty")
            .with_hint("generate one with `openssl rand -base64 33`")),
        false => Ok(secret),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secrets(ring: &KeyRing) -> Vec<&str> {
        ring.iter()
            .map(|secret| secret.expose_text().unwrap())
            .collect()
    }

    #[test]
    fn empty_secret_is_refused_in_every_position() {
        assert_eq!(KeyRing::new("").unwrap_err().kind(), ErrorKind::Invalid);
        assert_eq!(
            KeyRing::new(Vec::new()).unwrap_err().kind(),
            ErrorKind::Invalid
        );
        let ring = KeyRing::new("current").unwrap();
        let error = ring.with_previous("").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
    }

    #[test]
    fn previous_secret_that_is_in_the_ring_is_not_added_again() {
        let ring = KeyRing::new("new").unwrap().with_previous("old").unwrap();
        let again = ring.with_previous("new").unwrap();
        let again = again.with_previous("old").unwrap();
        assert_eq!(secrets(&again), ["new", "old"]);
    }

    #[cfg(any(feature = "authjs", feature = "cookies"))]
    #[test]
    fn primary_secret_comes_first_and_once() {
        let mut ring = KeyRing::new("new").unwrap();
        for previous in ["signs", "old"] {
            ring = ring.with_previous(previous).unwrap();
        }
        ring.primary = "signs".into();
        let ordered = ring.primary_first();
        let ordered: Vec<&str> = ordered.map(|it| it.expose_text().unwrap()).collect();
        assert_eq!(ordered, ["signs", "new", "old"]);
    }
}
