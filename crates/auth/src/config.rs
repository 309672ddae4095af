//! Settings of a lazily built auth.

use std::time::Duration;

use secretwell_core::{Error, SecretKey};
use secretwell_resolver::Resolver;
use serde::de::DeserializeOwned;

use crate::lazy::{LazyAuth, Settings};
use crate::policy::{Policies, SecretPolicy};
use crate::ring::RotationTiming;
use crate::spec::TypedSpec;
use crate::{BuildContext, BuildError, Mode};

/// Settings of a [`LazyAuth`], made by [`LazyAuth::builder`].
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

    /// How strict to be. Default: what `SECRETWELL_MODE` says, or else [`Mode::Production`].
    #[must_use]
    pub fn mode(mut self, mode: Mode) -> Self {
        self.settings.mode = mode;
        self
    }

    /// How long [`get`](LazyAuth::get) and [`rebuild`](LazyAuth::rebuild) wait. Default: 10 s.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.settings.deadline = deadline;
        self
    }

    /// How long one build may take. Default: 30 s.
    #[must_use]
    pub fn build_deadline(mut self, deadline: Duration) -> Self {
        self.settings.build_deadline = deadline;
        self
    }

    /// How long a new secret only verifies before it signs. Default: the resolver's ttl, which is how
    /// long other instances may take to learn of it.
    #[must_use]
    pub fn activation_delay(mut self, delay: Duration) -> Self {
        self.settings.timing.activation_delay = delay;
        self
    }

    /// How long a secret goes on verifying after its successor has become active. Default: one day.
    /// It should be as long as the longest life of what was signed.
    #[must_use]
    pub fn grace_period(mut self, grace_period: Duration) -> Self {
        self.settings.timing.grace_period = grace_period;
        self
    }

    /// What to ask of the secret of `key`, in place of what its field's type says.
    ///
    /// # Errors
    /// [`InvalidKey`](secretwell_core::ErrorKind::InvalidKey) when `key` is none.
    pub fn secret_policy(mut self, key: &str, policy: SecretPolicy) -> Result<Self, Error> {
        self.settings.policy.set(SecretKey::parse(key)?, policy);
        Ok(self)
    }

    /// The auth, to be built by `build`. No I/O, and it cannot fail: a type whose secrets cannot be
    /// known is told on first use and by [`preflight`](LazyAuth::preflight).
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
