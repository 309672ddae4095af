//! The resolver's mutable state apart from the cached values: in-flight fetches, failures and watches.

use std::collections::HashMap;
use std::sync::Arc;

use secretwell_core::{Error, Origin, SecretKey, Version};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::Resolved;
use crate::backoff::RetryBudget;
use crate::breaker::Breaker;
use crate::builder::Config;
use crate::fetch::FetchTask;

/// The state behind the resolver's one lock. A cache hit does not take this lock.
#[derive(Debug)]
pub(crate) struct ResolverState {
    /// The newest fetch for each key. Only the results of the newest fetch are cached.
    pub(crate) in_flight: HashMap<SecretKey, InFlight>,
    pub(crate) failures: HashMap<SecretKey, Failure>,
    /// The number of watches for each key.
    pub(crate) watched: HashMap<SecretKey, usize>,
    /// The time of the last forced refresh of each key.
    pub(crate) forced: HashMap<SecretKey, Instant>,
    pub(crate) breaker: Breaker,
    pub(crate) budget: RetryBudget,
    /// The newest version of each key, so that a stale replica cannot bring back an older value. It
    /// outlives the cached value.
    pub(crate) guards: HashMap<SecretKey, VersionGuard>,
    pub(crate) refresher_running: bool,
    /// The number of refreshers that were started. Only the newest one acts.
    pub(crate) refresher_generation: u64,
    /// The time by which the refresher acts again. If it does not, its runtime is not running.
    pub(crate) refresher_due_at: Instant,
    /// Whether `Shared::spawn_pending` must start the refresher.
    pub(crate) refresher_pending: bool,
    /// Fetches that `Shared::spawn_pending` must start.
    pub(crate) pending_fetches: Vec<FetchTask>,
    last_fetch_id: u64,
}

/// A running call to the provider. Callers wait on it for the results.
#[derive(Debug, Clone)]
pub(crate) struct InFlight {
    pub(crate) id: u64,
    pub(crate) started_at: Instant,
    pub(crate) results: watch::Receiver<Option<Arc<FetchResults>>>,
}

/// The results of a fetch, by key.
pub(crate) type FetchResults = HashMap<SecretKey, FetchResult>;

/// The result of a fetch for one key.
#[derive(Debug, Clone)]
pub(crate) struct FetchResult {
    pub(crate) result: Result<Resolved, Error>,
    /// Whether a newer fetch of the key was started, because the value might have changed.
    pub(crate) superseded: bool,
}

/// The newest version of a key that was seen, and the place that it belongs to.
#[derive(Debug, Clone)]
pub(crate) struct VersionGuard {
    pub(crate) origin: Origin,
    pub(crate) newest: Version,
    /// An older version that the source returns, since when, and how often.
    pub(crate) older: Option<(Version, Instant, u32)>,
}

/// The failure of the last fetch of a key.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    pub(crate) error: Error,
    /// The time of the first failure since the last success.
    pub(crate) since: Instant,
    pub(crate) retry_at: Instant,
    /// The last time at which the source itself reported `error`.
    pub(crate) confirmed_at: Instant,
}

impl ResolverState {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            in_flight: HashMap::new(),
            failures: HashMap::new(),
            watched: HashMap::new(),
            forced: HashMap::new(),
            breaker: Breaker::default(),
            budget: RetryBudget::new(config.retry_budget(), Instant::now()),
            guards: HashMap::new(),
            refresher_running: false,
            refresher_generation: 0,
            refresher_due_at: Instant::now(),
            refresher_pending: false,
            pending_fetches: Vec::new(),
            last_fetch_id: 0,
        }
    }

    /// Registers a new fetch for `keys`. It replaces in-flight fetches of the same keys.
    pub(crate) fn start_fetch(
        &mut self,
        keys: &[SecretKey],
    ) -> (InFlight, watch::Sender<Option<Arc<FetchResults>>>) {
        self.last_fetch_id += 1;
        let (sender, results) = watch::channel(None);
        let fetch = InFlight {
            id: self.last_fetch_id,
            started_at: Instant::now(),
            results,
        };
        self.in_flight
            .extend(keys.iter().map(|key| (key.clone(), fetch.clone())));
        (fetch, sender)
    }

    /// Returns whether fetch `id` is the newest one for `key`. If it is, removes it from the in-flight
    /// fetches.
    pub(crate) fn finish_fetch(&mut self, key: &SecretKey, id: u64) -> bool {
        let newest = self.in_flight.get(key).is_some_and(|fetch| fetch.id == id);
        if newest {
            self.in_flight.remove(key);
        }
        newest
    }

    /// Records `version` as the newest one of `key` at `origin`. Keeps the number of guards in
    /// proportion to `max` cached values.
    pub(crate) fn set_guard(
        &mut self,
        key: &SecretKey,
        origin: &Origin,
        version: &Version,
        max: usize,
    ) {
        if self.guards.len() >= max.saturating_mul(2) && !self.guards.contains_key(key) {
            let watched = &self.watched;
            self.guards.retain(|key, _| watched.contains_key(key));
        }
        let guard = VersionGuard {
            origin: origin.clone(),
            newest: version.clone(),
            older: None,
        };
        self.guards.insert(key.clone(), guard);
    }

    /// Adds a failure. Removes failures of unwatched keys to keep their number below `max`.
    pub(crate) fn insert_failure(&mut self, key: &SecretKey, failure: Failure, max: usize) {
        if self.failures.len() >= max && !self.failures.contains_key(key) {
            let now = Instant::now();
            let watched = &self.watched;
            self.failures
                .retain(|key, failure| watched.contains_key(key) || failure.retry_at > now);
            if self.failures.len() >= max {
                self.failures.retain(|key, _| watched.contains_key(key));
            }
        }
        self.failures.insert(key.clone(), failure);
    }

    pub(crate) fn is_watched(&self, key: &SecretKey) -> bool {
        self.watched.contains_key(key)
    }
}

impl InFlight {
    /// Waits for the result of `key`. Returns `None` if the fetch ended without results, for example
    /// because its runtime was shut down.
    pub(crate) async fn result(mut self, key: &SecretKey) -> Option<FetchResult> {
        let results = self.results.wait_for(Option::is_some).await.ok()?;
        results.as_ref()?.get(key).cloned()
    }
}
