//! [`LazyAuthBuilder`], the settings of a [`LazyAuth`].

use std::time::Duration;

use secretwell_core::{Error, SecretKey};
use secretwell_resolver::Resolver;
use serde::de::DeserializeOwned;

use crate::lazy::{LazyAuth, Settings};
use crate::policy::{Policies, SecretPolicy};
use crate::ring::RotationTiming;
use crate::spec::TypedSpec;
use crate::{BuildContext, BuildError, Mode};

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
}

impl LazyAuthBuilder {
    pub(crate) fn new(resolver: Resolver) -> Self {
        let mode = Mode::from_env().unwrap_or_else(|error| {
            tracing::error!(target: "secretwell::auth", event = "unknown_mode", %error, "SECRETWELL_MODE is invalid; production mode is used");
            Mode::Production
        });
        let settings = Settings {
            mode,
            deadline: Duration::from_secs(10),
            build_deadline: Duration::from_secs(30),
            timing: RotationTiming {
                activation_delay: resolver.ttl(),
                grace_period: Duration::from_secs(24 * 3600),
            },
            policy: Policies::default(),
        };
        Self { resolver, settings }
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
    #[must_use]
    pub fn activation_delay(mut self, delay: Duration) -> Self {
        self.settings.timing.activation_delay = delay;
        self
    }

    /// Sets how long the previous secret still verifies after the new secret has become active.
    /// Default: one day.
    ///
    /// Set it to the longest lifetime of anything that is signed, such as a session cookie.
    #[must_use]
    pub fn grace_period(mut self, grace_period: Duration) -> Self {
        self.settings.timing.grace_period = grace_period;
        self
    }

    /// Sets the policy for the secret of `key`. It replaces the default that follows from the type
    /// of the field.
    ///
    /// # Errors
    /// Returns [`InvalidKey`](secretwell_core::ErrorKind::InvalidKey) if `key` is not a valid key.
    pub fn secret_policy(mut self, key: &str, policy: SecretPolicy) -> Result<Self, Error> {
        self.settings.policy.set(SecretKey::parse(key)?, policy);
        Ok(self)
    }

    /// Creates the [`LazyAuth`], which builds its value with `build`.
    ///
    /// This does no I/O and cannot fail. If the keys cannot be derived from the type `T`, then the
    /// first use and [`preflight`](LazyAuth::preflight) report it.
    pub fn build<A, T, F, B>(self, build: F) -> LazyAuth<A>
    where
        T: DeserializeOwned + Send + 'static,
        F: Fn(T, BuildContext) -> B + Clone + Send + Sync + 'static,
        B: Future<Output = Result<A, BuildError>> + Send + 'static,
        A: Send + Sync + 'static,
    {
        LazyAuth::assemble(
            self.resolver,
            Box::new(TypedSpec::<T, F>::new(build)),
            self.settings,
        )
    }
}
