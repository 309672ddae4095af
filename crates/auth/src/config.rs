//! [`LazyAuthBuilder`], the settings of a [`LazyAuth`].

use std::sync::Arc;
use std::time::Duration;

use secretwell_core::{Error, SecretKey};
use secretwell_resolver::Resolver;
use serde::de::DeserializeOwned;

use crate::context::{BuildContext, BuildError};
use crate::lazy::LazyAuth;
use crate::mode::Mode;
use crate::policy::{Policies, SecretPolicy};
use crate::ring::Timing;
use crate::shared::Settings;
use crate::spec::TypedSpec;
#[cfg(feature = "refuse-list")]
use crate::strength::RefuseList;

/// Smallest default number of previous secrets of one key.
const MIN_DEFAULT_PREVIOUS: u64 = 8;

/// Largest default number of previous secrets of one key. As many are read from a version history.
const MAX_DEFAULT_PREVIOUS: u64 = 49;

/// Returns the default number of previous secrets: enough for one rotation per day.
fn default_max_previous(grace_period: Duration) -> usize {
    let days = grace_period.as_secs() / (24 * 3600);
    let number = (days + 1).clamp(MIN_DEFAULT_PREVIOUS, MAX_DEFAULT_PREVIOUS);
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// Settings of a [`LazyAuth`]. Created by [`LazyAuth::builder`].
///
/// ```
/// use std::time::Duration;
///
/// use secretwell::auth::{BuildError, LazyAuth, Mode};
/// use secretwell::{MemoryProvider, Resolver, SecretString};
/// use serde::Deserialize;
///
/// #[derive(Deserialize)]
/// #[serde(rename_all = "SCREAMING_SNAKE_CASE")]
/// struct Secrets {
///     auth_secret: SecretString,
/// }
///
/// struct Signer(SecretString);
///
/// let auth = LazyAuth::builder(Resolver::new(MemoryProvider::new()))
///     .mode(Mode::Production)
///     .grace_period(Duration::from_secs(30 * 24 * 3600))
///     .build(|secrets: Secrets, _| async move {
///         Ok::<_, BuildError>(Signer(secrets.auth_secret))
///     });
/// assert!(auth.peek().is_none(), "the first use starts the build");
/// ```
#[derive(Debug)]
pub struct LazyAuthBuilder {
    resolver: Resolver,
    settings: Settings,
    policies: Policies,
    max_previous: Option<usize>,
}

impl LazyAuthBuilder {
    fn new(resolver: Resolver) -> Self {
        let mode = Mode::from_env().unwrap_or_else(|error| {
            tracing::error!(target: "secretwell::auth", event = "unknown_mode", %error, "SECRETWELL_MODE is invalid; production mode is used");
            Mode::Production
        });
        let settings = Settings {
            mode,
            deadline: Duration::from_secs(10),
            build_deadline: Duration::from_secs(30),
            timing: Timing {
                activation_delay: resolver.ttl(),
                grace_period: Duration::from_secs(24 * 3600),
                max_previous: 0,
            },
            policies: Arc::default(),
            revocation_key: None,
            name: None,
        };
        Self {
            resolver,
            settings,
            policies: Policies::default(),
            max_previous: None,
        }
    }

    /// Sets a name that distinguishes this auth from others in the log, in metrics and in
    /// [access events](secretwell_resolver::ResolverBuilder::on_access). Default: no name.
    ///
    /// Each event of this auth then has the field `name`. The messages use it too: `db is ready` in
    /// place of `auth is ready`.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.settings.name = Some(name.into());
        self
    }

    /// Sets how strictly the secrets are checked. Default: the value of the environment variable
    /// `SECRETWELL_MODE`, or [`Mode::Production`] if it is unset or invalid.
    #[must_use]
    pub fn mode(mut self, mode: Mode) -> Self {
        self.settings.mode = mode;
        self
    }

    /// Sets how long [`get`](LazyAuth::get) and [`rebuild`](LazyAuth::rebuild) wait for a build.
    /// Default: 10 s.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.settings.deadline = deadline;
        self
    }

    /// Sets the time limit of one call of the builder closure. Default: 30 s.
    #[must_use]
    pub fn build_deadline(mut self, deadline: Duration) -> Self {
        self.settings.build_deadline = deadline;
        self
    }

    /// Sets how long a new secret only verifies before it also signs. Default: the resolver's
    /// `ttl`, because another instance might read the new secret that much later.
    ///
    /// A process that reads a new secret while it runs counts from that read. A process that starts
    /// counts from the creation time of the version, if the source reports one, so its clock and that of
    /// the source must be synchronized. If its clock is ahead by more than the delay, a secret that was
    /// just written signs at once, and other instances might reject what it signs until they have read
    /// it. If its clock is behind, the secret signs later.
    #[must_use]
    pub fn activation_delay(mut self, delay: Duration) -> Self {
        self.settings.timing.activation_delay = delay;
        self
    }

    /// Sets how long the previous secret still verifies after the new secret has become active.
    /// Default: one day.
    ///
    /// Set it to the longest lifetime of anything that is signed, such as a session cookie. If secrets
    /// rotate more often than once per day, also set [`max_previous`](Self::max_previous).
    #[must_use]
    pub fn grace_period(mut self, grace_period: Duration) -> Self {
        self.settings.timing.grace_period = grace_period;
        self
    }

    /// Sets the maximum number of previous secrets of each key that still verify. Default: one for each day of
    /// the [`grace_period`](Self::grace_period) plus one, at least 8 and at most 49.
    ///
    /// It limits both what is kept in memory and what is read from the version history of the source. The
    /// default suffices for one rotation per day and a grace period of up to 48 days. At start, at most 50
    /// versions of a key are read.
    ///
    /// Beyond the limit, the oldest secret no longer verifies, although its grace period has not ended.
    /// The state then has [`VersionHistory::Incomplete`](crate::VersionHistory::Incomplete), and the event
    /// `previous_secrets_dropped` is logged. The secret that signs during an activation delay is always
    /// kept. With 0, a new secret replaces the previous one at once.
    #[must_use]
    pub fn max_previous(mut self, max_previous: usize) -> Self {
        self.max_previous = Some(max_previous);
        self
    }

    /// Names keys whose secrets sign or encrypt. Repeated calls add keys.
    ///
    /// Their previous secrets are kept and read from the version history of the source, and their
    /// secrets are checked as [`SecretPolicy::SigningKey`]. For a key whose ring the builder takes with
    /// [`BuildContext::key_ring`], the same happens after the first build. Name it here as well, so that
    /// [`preflight`](LazyAuth::preflight) checks it and its previous secrets are known from the first
    /// build on. Also name a secret that the builder signs with directly.
    ///
    /// For the first build, the version history is also read for the
    /// [names of signing secrets](SecretPolicy::of_key) and, if no key is named here, for all fields with a
    /// secret type, such as `SecretString`.
    ///
    /// # Errors
    /// Returns [`InvalidKey`](secretwell_core::ErrorKind::InvalidKey) if one of `keys` is not a valid
    /// key.
    pub fn signing<K: AsRef<str>>(
        mut self,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<Self, Error> {
        for key in keys {
            self.policies.signing.insert(SecretKey::parse(key)?);
        }
        Ok(self)
    }

    /// Sets the key of a revocation time, an optional secret in the same source. Default: none.
    ///
    /// Its value is an RFC 3339 time or Unix seconds. All previous secrets that were replaced at or
    /// before that time are revoked: they do not verify any more, in this process and in all others
    /// that use the same key. The newest secret stays valid. After a leak, write a new secret first, and
    /// then the current time to this key.
    ///
    /// - The key is read and watched together with the other keys. An absent key revokes nothing.
    /// - A value that is not a time, or a key that cannot be read, is a problem: the state is
    ///   [`Degraded`](crate::State::Degraded), and the last known time stays in force. A process that
    ///   has not read a time yet uses no version history until then.
    /// - A secret was replaced at the creation time of the next version, so the clock of the source
    ///   counts. If versions in between were not read, the earliest possible time counts. If the source
    ///   reports no creation times, all previous secrets are revoked when the time is first read and
    ///   whenever it changes.
    /// - A time in the future also revokes what is replaced until then, without a grace period.
    ///
    /// # Errors
    /// Returns [`InvalidKey`](secretwell_core::ErrorKind::InvalidKey) if `key` is not a valid key.
    pub fn revocation_key(mut self, key: &str) -> Result<Self, Error> {
        self.settings.revocation_key = Some(SecretKey::parse(key)?);
        Ok(self)
    }

    /// Sets the policy for the secret of `key`. It replaces the default, which depends on whether the
    /// secret signs: see [`SecretPolicy`].
    ///
    /// # Errors
    /// Returns [`InvalidKey`](secretwell_core::ErrorKind::InvalidKey) if `key` is not a valid key.
    pub fn secret_policy(mut self, key: &str, policy: SecretPolicy) -> Result<Self, Error> {
        self.policies.set(SecretKey::parse(key)?, policy);
        Ok(self)
    }

    /// Sets the signing secrets that are refused, in addition to those that are weak. Default: none.
    ///
    /// In [`Mode::Development`], they only cause a warning. Secrets with the policy
    /// [`Unchecked`](SecretPolicy::Unchecked) and previous secrets are not compared with the list.
    #[cfg(feature = "refuse-list")]
    #[must_use]
    pub fn refuse_list(mut self, list: RefuseList) -> Self {
        self.policies.refused.list = list;
        self
    }

    /// Creates the [`LazyAuth`], which builds its value with `build`.
    ///
    /// This does no I/O and cannot fail. If the keys cannot be derived from the type `T`, then the
    /// first use and [`preflight`](LazyAuth::preflight) report it.
    pub fn build<A, T, F, B>(mut self, build: F) -> LazyAuth<A>
    where
        T: DeserializeOwned + Send + 'static,
        F: Fn(T, BuildContext) -> B + Clone + Send + Sync + 'static,
        B: Future<Output = Result<A, BuildError>> + Send + 'static,
        A: Send + Sync + 'static,
    {
        if let Some(name) = &self.settings.name {
            self.resolver = self.resolver.for_consumer(name);
        }
        self.settings.policies = Arc::new(self.policies);
        let timing = &mut self.settings.timing;
        let default = default_max_previous(timing.grace_period);
        timing.max_previous = self.max_previous.unwrap_or(default);
        LazyAuth::assemble(
            self.resolver,
            Box::new(TypedSpec::<T, F>::new(build)),
            self.settings,
        )
    }
}

impl<A: Send + Sync + 'static> LazyAuth<A> {
    /// Creates an auth whose value is built by `build` from a struct `T` of secrets, with the
    /// default settings.
    ///
    /// The keys of the secrets are the field names of `T`: see
    /// [`Plan`](secretwell_resolver::load::Plan).
    pub fn new<T, F, B>(resolver: Resolver, build: F) -> Self
    where
        T: DeserializeOwned + Send + 'static,
        F: Fn(T, BuildContext) -> B + Clone + Send + Sync + 'static,
        B: Future<Output = Result<A, BuildError>> + Send + 'static,
    {
        LazyAuthBuilder::new(resolver).build(build)
    }

    /// Like [`new`](Self::new), for a builder closure that is synchronous and cannot fail.
    pub fn infallible<T, F>(resolver: Resolver, build: F) -> Self
    where
        T: DeserializeOwned + Send + 'static,
        F: Fn(T, BuildContext) -> A + Clone + Send + Sync + 'static,
    {
        LazyAuthBuilder::new(resolver).build(move |secrets, context| {
            let built = build(secrets, context);
            async move { Ok(built) }
        })
    }
}

impl LazyAuth<()> {
    /// Returns a builder with the default settings. The type of the auth is the output type of the
    /// closure that [`LazyAuthBuilder::build`] takes.
    pub fn builder(resolver: Resolver) -> LazyAuthBuilder {
        LazyAuthBuilder::new(resolver)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_number_of_previous_secrets_suffices_for_daily_rotations() {
        let days = |days: u64| default_max_previous(Duration::from_secs(days * 24 * 3600));
        assert_eq!([0, 1, 7, 8, 30].map(days), [8, 8, 8, 9, 31]);
        assert_eq!([48, 1000].map(days), [49, 49]);
        assert_eq!(default_max_previous(Duration::MAX), 49);
    }
}
