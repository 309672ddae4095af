//! The inputs of a builder closure ([`BuildContext`]) and its error ([`BuildError`]).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use secretwell_core::{Error, ErrorKind, SecretKey, SecretValue};
use secretwell_resolver::Resolved;

use crate::key_ring::KeyRing;
use crate::mode::Mode;
use crate::policy::{Finding, Policies};
use crate::scrub::scrub;
use crate::state::Generation;

/// Limit for the `source()` chain of a builder's error, because a chain can be endless.
const MAX_SOURCES: usize = 16;

/// Information about a build, passed to the builder closure together with the secrets.
#[derive(Debug, Clone)]
pub struct BuildContext {
    pub(crate) mode: Mode,
    pub(crate) generation: Generation,
    pub(crate) secrets: Vec<(SecretKey, Resolved)>,
    /// The keys of all fields, including those without a secret.
    pub(crate) fields: Vec<SecretKey>,
    pub(crate) rings: HashMap<SecretKey, KeyRing>,
    /// The secrets of each key that can verify if the key stores previous secrets.
    pub(crate) stored_previous: HashMap<SecretKey, Vec<SecretValue>>,
    pub(crate) policies: Arc<Policies>,
    pub(crate) requests: RingRequests,
}

/// The key rings that a builder closure has requested. Clones share the requests.
#[derive(Debug, Clone, Default)]
pub(crate) struct RingRequests(Arc<Mutex<Requested>>);

#[derive(Debug, Default)]
pub(crate) struct Requested {
    pub(crate) keys: BTreeSet<SecretKey>,
    /// The keys that store previous secrets.
    pub(crate) previous_keys: BTreeSet<SecretKey>,
    /// The weaknesses of requested secrets.
    pub(crate) findings: BTreeMap<SecretKey, Finding>,
}

impl BuildContext {
    /// Returns the mode that the secrets of this build were checked in.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Returns the generation that this build gets if it succeeds.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// Returns the secrets of this build with their versions and origins, in the order of the
    /// fields.
    pub fn secrets(&self) -> &[(SecretKey, Resolved)] {
        &self.secrets
    }

    /// Returns the key ring of `key`: the secret that signs and all secrets that verify.
    ///
    /// A builder that takes the ring of a key makes its secret a signing secret. From then on, its
    /// previous secrets are kept, and a new build starts whenever the ring changes. Take the ring during
    /// the build, not later from a clone of this context.
    ///
    /// On the first build, the ring has previous secrets from the version history of the source if the
    /// key is named with [`LazyAuthBuilder::signing`](crate::LazyAuthBuilder::signing), if it has a
    /// [name of a signing secret](crate::SecretPolicy::of_key), or if no key is named and the field has a
    /// secret type. Otherwise they follow with the next build, in the background.
    ///
    /// # Errors
    /// - [`ErrorKind::NotFound`] if this build has no secret of this key.
    /// - [`ErrorKind::Invalid`] if the secret is too weak to sign with, in
    ///   [`Mode::Production`]. The build then fails, even if the closure ignores the error. See
    ///   [`SecretPolicy`](crate::SecretPolicy).
    pub fn key_ring(&self, key: &str) -> Result<KeyRing, Error> {
        self.request(key, |requested| &mut requested.keys)?;
        self.rings.get(key).cloned().ok_or_else(|| {
            Error::new(
                ErrorKind::NotFound,
                format!("this build has no secret with the key `{key}`"),
            )
            .with_hint("use the key of a field of the loaded type")
        })
    }

    /// Returns the key ring of `key` with the secrets of `previous_key` added, which only verify.
    ///
    /// Use it for a source without a version history, such as files and environment variables. At a
    /// rotation, the operator writes the old secret to `previous_key` and then the new one to `key`. A
    /// process that starts afterwards still accepts what the old secret has signed, until `previous_key`
    /// is removed from the source.
    ///
    /// - The field of `previous_key` is an `Option`. The ring has no further secrets if it is `None`.
    /// - The secrets of `previous_key` are previous secrets in every respect:
    ///   [`revoke_previous`](crate::LazyAuth::revoke_previous) revokes them, and so does a
    ///   [revocation time](crate::LazyAuthBuilder::revocation_key) that is not older than they are. If the
    ///   source reports no creation time of the secret, or stores both in one document, then any
    ///   revocation time revokes it.
    ///
    /// ```
    /// use secretwell::auth::{BuildContext, KeyRing, LazyAuth};
    /// use secretwell::{MemoryProvider, Resolver, SecretString};
    /// use serde::Deserialize;
    ///
    /// #[derive(Deserialize)]
    /// #[expect(dead_code, reason = "the build uses the key ring")]
    /// struct Secrets {
    ///     token_secret: SecretString,
    ///     token_secret_previous: Option<SecretString>,
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let memory = MemoryProvider::from_iter([
    ///     ("token_secret", "new-K7gNU3sdo+OL0wNhqoVWhr3g6s1x"),
    ///     ("token_secret_previous", "old-K7gNU3sdo+OL0wNhqoVWhr3g6s1x"),
    /// ]);
    /// let keys = LazyAuth::new(Resolver::new(memory), |_: Secrets, cx: BuildContext| async move {
    ///     Ok(cx.key_ring_with_previous("token_secret", "token_secret_previous")?)
    /// });
    /// let keys = keys.get().await?;
    /// assert_eq!(keys.primary().expose_text()?, "new-K7gNU3sdo+OL0wNhqoVWhr3g6s1x");
    /// assert_eq!(keys.iter().count(), 2);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// The same as [`key_ring`](Self::key_ring). An absent secret of `previous_key` is not an error, a weak
    /// one is. Also returns [`ErrorKind::InvalidConfig`] if no field has the key `previous_key`.
    pub fn key_ring_with_previous(&self, key: &str, previous_key: &str) -> Result<KeyRing, Error> {
        let ring = self.key_ring(key);
        if !self
            .fields
            .iter()
            .any(|field| field.as_str() == previous_key)
        {
            let message = format!(
                "the loaded type has no field with the key `{previous_key}` of the previous secrets"
            );
            return Err(Error::new(ErrorKind::InvalidConfig, message)
                .with_hint("add it as an `Option`, or use the key of a field"));
        }
        let previous = self.stored_previous(previous_key)?;
        previous.into_iter().try_fold(ring?, KeyRing::with_previous)
    }

    /// Returns the secrets of `key`, which stores previous secrets, newest first. The list is empty if this
    /// build has no secret of this key, or if they are revoked.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Invalid`] if the secret is too weak to sign with, in [`Mode::Production`].
    pub(crate) fn stored_previous(&self, key: &str) -> Result<Vec<SecretValue>, Error> {
        self.request(key, |requested| &mut requested.previous_keys)?;
        Ok(self.stored_previous.get(key).cloned().unwrap_or_default())
    }

    /// Adds `key` to a list of requested keys, and checks its secret as a signing secret.
    fn request(
        &self,
        key: &str,
        list: impl Fn(&mut Requested) -> &mut BTreeSet<SecretKey>,
    ) -> Result<(), Error> {
        let Ok(key) = SecretKey::parse(key) else {
            return Ok(());
        };
        let mut requests = self.requests.lock();
        list(&mut requests).insert(key.clone());
        let secret = self.secrets.iter().find(|(known, _)| *known == key);
        if let Some((key, secret)) = secret
            && let Some(finding) = self.policies.check(key, secret, true, self.mode)
        {
            requests.findings.insert(key.clone(), finding.clone());
            if let Finding::Problem(weak) = finding {
                return Err(weak);
            }
        }
        Ok(())
    }
}

impl RingRequests {
    /// Returns all requests so far.
    pub(crate) fn take(&self) -> Requested {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Requested> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Error of a builder closure. The `?` operator converts every [`std::error::Error`] into it.
///
/// Because of that conversion, this type does not implement [`std::error::Error`] itself. Secret
/// values are removed from its text and from the text of its sources, before they appear in a
/// [`NotReady`](crate::NotReady) or in the log. A value is recognized as it is, and in escaped,
/// percent-encoded, hexadecimal and Base64 form. A part of a value, or a value that was changed in
/// another way, is not recognized, so a closure must not put values into messages itself.
///
/// ```
/// use secretwell::auth::BuildError;
///
/// fn port(text: &str) -> Result<u16, BuildError> {
///     let port = text.parse()?;
///     if port == 0 {
///         return Err(BuildError::msg("port 0 is reserved"));
///     }
///     Ok(port)
/// }
/// assert!(port("0").is_err() && port("http").is_err());
/// ```
pub struct BuildError(Box<dyn std::error::Error + Send + Sync>);

impl BuildError {
    /// Creates an error that consists of `message`.
    pub fn msg(message: impl Into<String>) -> Self {
        Self(message.into().into())
    }

    /// Returns the text of the error and of its sources, with every secret of the build removed.
    /// The error of a library might quote its input, verbatim or encoded.
    pub(crate) fn scrubbed(
        &self,
        secrets: &[(SecretKey, Resolved)],
        rings: &HashMap<SecretKey, KeyRing>,
    ) -> ScrubbedError {
        let values = || {
            let current = secrets.iter().map(|(key, secret)| (key, &secret.value));
            let in_rings = rings
                .iter()
                .flat_map(|(key, ring)| ring.iter().map(move |value| (key, value)));
            current.chain(in_rings)
        };
        let mut texts = vec![scrub(self.0.to_string(), values())];
        let mut source = self.0.source();
        while let Some(error) = source.filter(|_| texts.len() < MAX_SOURCES) {
            texts.push(scrub(error.to_string(), values()));
            source = error.source();
        }
        let mut chain = None;
        for text in texts.drain(1..).rev() {
            chain = Some(Box::new(ScrubbedError {
                text,
                source: chain,
            }));
        }
        ScrubbedError {
            text: texts.swap_remove(0),
            source: chain,
        }
    }
}

/// The text of a builder's error, or of one of its sources, without secret values.
pub(crate) struct ScrubbedError {
    pub(crate) text: String,
    pub(crate) source: Option<Box<ScrubbedError>>,
}

impl ScrubbedError {
    /// Returns the text of the error and of all its sources, because an error such as "db error" says
    /// nothing without them.
    pub(crate) fn chain(&self) -> String {
        let mut text = self.text.clone();
        let mut source = self.source.as_deref();
        while let Some(error) = source {
            // Some libraries repeat the source in the text of the error.
            if !text.contains(&error.text) {
                text.push_str(": ");
                text.push_str(&error.text);
            }
            source = error.source.as_deref();
        }
        text
    }
}

impl fmt::Display for ScrubbedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for ScrubbedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for ScrubbedError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

impl<E: std::error::Error + Send + Sync + 'static> From<E> for BuildError {
    fn from(error: E) -> Self {
        Self(Box::new(error))
    }
}

impl fmt::Debug for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The text might contain a secret, because it is not scrubbed yet.
        f.debug_struct("BuildError").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use secretwell_core::MemoryProvider;
    use secretwell_resolver::Resolver;
    use serde::Deserialize;

    use super::*;
    use crate::{LazyAuth, NotReady};

    const SECRETS: [&str; 3] = [
        "K7gNU3sdo+OL0wNhqoVWhr3g6s1xYv72ol/pe/Unols=",
        "3g6s1xYv72ol/pe/Unols+K7gNU3sdo+OL0wNhqoVWhr=",
        "qoVWhr3g6s1xYv72ol/pe/UnolsK7gNU3sdo+OL0wNh=",
    ];

    #[derive(Deserialize)]
    #[expect(dead_code, reason = "the builds use the key rings")]
    struct Secrets {
        one: String,
        two: Option<String>,
    }

    type TwoRings = (KeyRing, Option<KeyRing>);

    /// Takes the ring of `one` with the secrets of `previous_key`, and the ring of `own`.
    fn lazy(
        memory: &MemoryProvider,
        previous_key: &'static str,
        own: Option<&'static str>,
    ) -> LazyAuth<TwoRings> {
        let resolver = Resolver::new(memory.clone());
        LazyAuth::new(
            resolver,
            move |_: Secrets, context: BuildContext| async move {
                let ring = context.key_ring_with_previous("one", previous_key)?;
                Ok((ring, own.map(|own| context.key_ring(own)).transpose()?))
            },
        )
    }

    fn names_revocation(failure: &NotReady) -> bool {
        failure.to_string().contains("revoked")
    }

    #[tokio::test]
    async fn key_of_previous_secrets_without_a_field_is_an_error_and_not_an_absent_secret() {
        let memory = MemoryProvider::from_iter([("one", SECRETS[0]), ("tow", SECRETS[1])]);
        for wrong in ["tow", "TWO", "", "/"] {
            let failure = lazy(&memory, wrong, None).get().await.unwrap_err();
            let text = failure.to_string();
            assert!(
                text.contains(&format!("no field with the key `{wrong}`")),
                "{text}"
            );
        }
        let ring = lazy(&memory, "two", None).get().await.unwrap();
        assert_eq!(ring.0.iter().count(), 1, "an absent one is not an error");
    }

    #[tokio::test]
    async fn revoked_secret_is_refused_for_a_key_that_also_signs() {
        for (key, previous_key, own) in [("two", "two", Some("two")), ("one", "one", None)] {
            let memory = MemoryProvider::from_iter([("one", SECRETS[2]), ("two", SECRETS[0])]);
            memory.set(key, SECRETS[0]).unwrap();
            let auth = lazy(&memory, previous_key, own);
            auth.get().await.unwrap();
            memory.set(key, SECRETS[1]).unwrap();
            auth.rebuild().await.unwrap();
            auth.revoke_previous().await.unwrap();
            // The secret that signs is not revoked.
            auth.rebuild().await.unwrap();
            memory.set(key, SECRETS[0]).unwrap();
            let failure = auth.rebuild().await.unwrap_err();
            assert!(names_revocation(&failure), "{failure}");
        }
    }

    #[tokio::test]
    async fn revoked_secret_of_a_key_that_only_stores_previous_ones_is_not_a_problem() {
        let memory = MemoryProvider::from_iter([("one", SECRETS[0]), ("two", SECRETS[1])]);
        let auth = lazy(&memory, "two", None);
        assert_eq!(auth.get().await.unwrap().0.iter().count(), 2);
        auth.revoke_previous().await.unwrap();
        memory.set("two", SECRETS[2]).unwrap();
        assert_eq!(auth.rebuild().await.unwrap().0.iter().count(), 2);
        memory.set("two", SECRETS[1]).unwrap();
        let rings = auth.rebuild().await.unwrap();
        assert!(
            rings
                .0
                .iter()
                .all(|secret| secret.expose_text().unwrap() != SECRETS[1])
        );
    }
}
