//! The resolver's settings.

use std::sync::Arc;
use std::time::Duration;

use crate::Resolver;
use secretwell_core::SecretProvider;
use serde::{Deserialize, Serialize};

/// What to do with a cached value when the source says no: the secret is gone, may not be read any
/// more, or the login is refused.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum OnDenied {
    /// Forget it. A secret that was taken away must stop working. The default.
    #[default]
    Purge,
    /// Keep it as stale until `max_stale`, for those who fear a mistyped policy more than a revoked
    /// secret.
    KeepUntilMaxStale,
}

const SHORTEST_TTL: Duration = Duration::from_millis(1);

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
    /// The longest wait before what was refused is asked again.
    pub(crate) fn negative_ttl(&self) -> Duration {
        self.negative_ttl
            .unwrap_or(self.ttl.min(Duration::from_secs(30)))
    }

    /// How many retries at once, and how many a minute. Sources with a short ttl are cheap to ask.
    pub(crate) fn retry_budget(&self) -> (u32, u32) {
        let ttl = u32::try_from(self.ttl.as_secs()).unwrap_or(u32::MAX).max(1);
        let default = (20 * 60 / ttl).max(60);
        self.retry_budget.unwrap_or((default, default))
    }
}

/// Settings of a [`Resolver`], made by [`Resolver::builder`]. Every default is meant to be kept.
#[derive(Debug)]
pub struct ResolverBuilder {
    provider: Arc<dyn SecretProvider>,
    config: Config,
}

impl ResolverBuilder {
    pub(crate) fn new(provider: Arc<dyn SecretProvider>) -> Self {
        let ttl = provider.capabilities().ttl.max(SHORTEST_TTL);
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

    /// For how long an answer counts as fresh. A key in use is read again in the background between
    /// three quarters and seven eighths of it. Default: what the provider's capabilities suggest
    /// (1 s for the environment, 60 s for watched files, 300 s for remote sources).
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.config.ttl = ttl.max(SHORTEST_TTL);
        self
    }

    /// For how long after its ttl a value is still handed out, marked as stale, when the source
    /// cannot be asked. Default: one day. Zero: never.
    #[must_use]
    pub fn max_stale(mut self, max_stale: Duration) -> Self {
        self.config.max_stale = max_stale;
        self
    }

    /// How long one call to the provider may take. Default: 30 s.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.config.deadline = deadline;
        self
    }

    /// The longest wait between two attempts of a source that does not answer. Default: 7 min. The
    /// wait is an eighth of the time that the outage has lasted, and at least 1 s.
    #[must_use]
    pub fn max_backoff(mut self, max_backoff: Duration) -> Self {
        self.config.max_backoff = max_backoff;
        self
    }

    /// The longest wait before a secret that was absent or denied is looked for again; the first
    /// wait is 1 s. Default: 30 s, or the ttl where that is shorter.
    #[must_use]
    pub fn negative_ttl(mut self, negative_ttl: Duration) -> Self {
        self.config.negative_ttl = Some(negative_ttl);
        self
    }

    /// How many values are kept; one more puts out the one that was read the longest ago. Watched
    /// keys stay. Default: 1,000.
    #[must_use]
    pub fn max_entries(mut self, max_entries: usize) -> Self {
        self.config.max_entries = max_entries.max(1);
        self
    }

    /// How often what failed may be asked again, over all keys together: `burst` times at once, and
    /// `per_minute` in the long run. Default: 60 and 60; with a ttl below 20 s, 20 for each ttl.
    #[must_use]
    pub fn retry_budget(mut self, burst: u32, per_minute: u32) -> Self {
        self.config.retry_budget = Some((burst.max(1), per_minute.max(1)));
        self
    }

    /// What to do with a cached value when the source says no. Default: [`OnDenied::Purge`].
    #[must_use]
    pub fn on_denied(mut self, on_denied: OnDenied) -> Self {
        self.config.on_denied = on_denied;
        self
    }

    /// The resolver. Does no I/O and needs no runtime.
    pub fn build(self) -> Resolver {
        Resolver::with(self.provider, self.config)
    }
}
