//! What the resolver knows beside the values: who asks what, what failed, and who waits.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::Resolved;
use crate::backoff::RetryBudget;
use crate::breaker::Breaker;
use crate::builder::Config;
use crate::fetch::FetchTask;
use secretwell_core::{Error, SecretKey};

/// Everything that is changed under the resolver's one lock. None of it is touched by a cache hit.
#[derive(Debug)]
pub(crate) struct ResolverState {
    /// The newest fetch for each key: the only one whose answer is kept.
    pub(crate) in_flight: HashMap<SecretKey, InFlight>,
    pub(crate) failures: HashMap<SecretKey, Failure>,
    /// How many watches want each key kept fresh.
    pub(crate) watched: HashMap<SecretKey, usize>,
    /// When each key was last refreshed by force.
    pub(crate) forced: HashMap<SecretKey, Instant>,
    pub(crate) breaker: Breaker,
    pub(crate) budget: RetryBudget,
    pub(crate) refresher_running: bool,
    /// Prepared, and to be started by `Shared::spawn_pending`.
    pub(crate) refresher_pending: bool,
    pub(crate) pending_fetches: Vec<FetchTask>,
    last_fetch_id: u64,
}

/// A call to the provider that is under way, for whoever wants to wait for it.
#[derive(Debug, Clone)]
pub(crate) struct InFlight {
    pub(crate) id: u64,
    pub(crate) since: Instant,
    pub(crate) results: watch::Receiver<Option<Arc<FetchResults>>>,
}

/// What a fetch brought, by key.
pub(crate) type FetchResults = HashMap<SecretKey, Result<Resolved, Error>>;

/// The last answer for a key was none.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    pub(crate) error: Error,
    /// The beginning of the failures without a success between.
    pub(crate) since: Instant,
    pub(crate) retry_at: Instant,
    /// When the source itself last said what `error` says.
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
            refresher_running: false,
            refresher_pending: false,
            pending_fetches: Vec::new(),
            last_fetch_id: 0,
        }
    }

    /// Registers a new fetch for `keys`, in place of any that is under way for one of them.
    pub(crate) fn start_fetch(
        &mut self,
        keys: &[SecretKey],
    ) -> (InFlight, watch::Sender<Option<Arc<FetchResults>>>) {
        self.last_fetch_id += 1;
        let (sender, results) = watch::channel(None);
        let fetch = InFlight {
            id: self.last_fetch_id,
            since: Instant::now(),
            results,
        };
        self.in_flight
            .extend(keys.iter().map(|key| (key.clone(), fetch.clone())));
        (fetch, sender)
    }

    /// Whether fetch `id` is still the newest for `key`; if so, it is under way no more.
    pub(crate) fn finish_fetch(&mut self, key: &SecretKey, id: u64) -> bool {
        let newest = self.in_flight.get(key).is_some_and(|fetch| fetch.id == id);
        if newest {
            self.in_flight.remove(key);
        }
        newest
    }

    /// Notes a failure, keeping the number of those that nobody waits for below `max`.
    pub(crate) fn note_failure(&mut self, key: &SecretKey, failure: Failure, max: usize) {
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
    /// What the fetch brings for `key`; `None` when it ended without landing, as it does when its
    /// runtime is shut down.
    pub(crate) async fn outcome(mut self, key: &SecretKey) -> Option<Result<Resolved, Error>> {
        let results = self.results.wait_for(Option::is_some).await.ok()?;
        results.as_ref()?.get(key).cloned()
    }
}
