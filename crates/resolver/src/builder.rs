//! The builder and the settings of the resolver.

use std::sync::Arc;
use std::time::Duration;

use secretwell_core::SecretProvider;
use serde::{Deserialize, Serialize};

use crate::Resolver;

/// What the resolver does with a cached value when the source refuses the secret.
///
/// A source refuses a secret if it is absent, if the permission to read it is missing, or if the login
/// is rejected. See [`Error::is_refusal`](secretwell_core::Error::is_refusal).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum OnDenied {
    /// Removes the value from the cache, so that a revoked secret is no longer used. The default.
    #[default]
    Purge,
    /// Keeps the value as stale until [`max_stale`](ResolverBuilder::max_stale). Use it if a mistake in
    /// a policy is a greater risk than the use of a revoked secret.
    KeepUntilMaxStale,
}

const MIN_TTL: Duration = Duration::from_millis(1);

#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) ttl: Duration,
    pub(crate) max_stale: Duration,
    pub(crate) deadline: Duration,
    pub(crate) max_backoff: Duration,
    negative_ttl: Option<Duration>,
    pub(crate) max_entries: usize,
    retry_budget: Option<(u32, u32)>,
    pub(crate) on_denied: OnDenied,
}

impl Config {
    /// Returns the maximum wait before a refused key is read again.
    pub(crate) fn negative_ttl(&self) -> Duration {
        self.negative_ttl
            .unwrap_or(self.ttl.min(Duration::from_secs(30)))
    }

    /// Returns the burst and the rate per minute of the retry budget. The default is larger for a short
    /// ttl, because reads of such sources are cheap.
    pub(crate) fn retry_budget(&self) -> (u32, u32) {
        let ttl = u32::try_from(self.ttl.as_secs()).unwrap_or(u32::MAX).max(1);
        let default = (20 * 60 / ttl).max(60);
        self.retry_budget.unwrap_or((default, default))
    }
}

/// The settings of a [`Resolver`]. Created by [`Resolver::builder`]. The defaults suit most services.
#[derive(Debug)]
pub struct ResolverBuilder {
    provider: Arc<dyn SecretProvider>,
    config: Config,
}

impl ResolverBuilder {
    pub(crate) fn new(provider: Arc<dyn SecretProvider>) -> Self {
        let ttl = provider.capabilities().ttl.max(MIN_TTL);
        let config = Config {
            ttl,
            max_stale: Duration::from_secs(24 * 3600),
            deadline: Duration::from_secs(30),
            max_backoff: Duration::from_secs(7 * 60),
            negative_ttl: None,
            max_entries: 1000,
            retry_budget: None,
            on_denied: OnDenied::default(),
        };
        Self { provider, config }
    }

    /// Sets the time for which a fetched value is fresh. The minimum is 1 ms.
    ///
    /// Keys in use are refreshed in the background after 75 % to 87.5 % of the ttl.
    ///
    /// Default: the ttl in the provider's capabilities. It is 1 s for the environment, 60 s for watched
    /// files and 300 s for remote sources.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.config.ttl = ttl.max(MIN_TTL);
        self
    }

    /// Sets the time after the ttl for which a value is still returned as stale if its refresh fails.
    /// With zero, stale values are never returned. Default: one day.
    #[must_use]
    pub fn max_stale(mut self, max_stale: Duration) -> Self {
        self.config.max_stale = max_stale;
        self
    }

    /// Sets the maximum duration of one call to the provider. Default: 30 s.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.config.deadline = deadline;
        self
    }

    /// Sets the maximum wait between two attempts during an outage. Default: 7 min.
    ///
    /// The wait is an eighth of the duration of the outage so far, and at least 1 s.
    #[must_use]
    pub fn max_backoff(mut self, max_backoff: Duration) -> Self {
        self.config.max_backoff = max_backoff;
        self
    }

    /// Sets the maximum wait before an absent or denied secret is read again. The first wait is 1 s.
    ///
    /// Default: 30 s, or the ttl if it is shorter.
    #[must_use]
    pub fn negative_ttl(mut self, negative_ttl: Duration) -> Self {
        self.config.negative_ttl = Some(negative_ttl);
        self
    }

    /// Sets the maximum number of cached values. Above it, the least recently used value is evicted.
    /// Values of watched keys are never evicted. Default: 1,000.
    #[must_use]
    pub fn max_entries(mut self, max_entries: usize) -> Self {
        self.config.max_entries = max_entries.max(1);
        self
    }

    /// Sets the retry budget that all keys share: `burst` retries at once, and `per_minute` retries in
    /// the long run. The minimum of both is 1.
    ///
    /// Default: 60 and 60. With a ttl below 20 s, both are 1,200 divided by the ttl in seconds. That is
    /// a rate of 20 retries per ttl.
    #[must_use]
    pub fn retry_budget(mut self, burst: u32, per_minute: u32) -> Self {
        self.config.retry_budget = Some((burst.max(1), per_minute.max(1)));
        self
    }

    /// Sets what happens to a cached value when the source refuses the secret. Default:
    /// [`OnDenied::Purge`].
    #[must_use]
    pub fn on_denied(mut self, on_denied: OnDenied) -> Self {
        self.config.on_denied = on_denied;
        self
    }

    /// Creates the resolver. This performs no I/O and does not need a tokio runtime.
    pub fn build(self) -> Resolver {
        Resolver::with(self.provider, self.config)
    }
}
