//! What the resolver knows beside the values: who asks what, what failed, and who waits.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::Instant;

use super::Resolved;
use super::backoff::RetryBudget;
use super::breaker::Breaker;
use super::config::Config;
use super::crew::Crew;
use crate::{Error, SecretKey};

/// Everything that is changed under the resolver's one lock. None of it is touched by a cache hit.
#[derive(Debug)]
pub(crate) struct Ledger {
    /// The newest flight for each key: the only one whose answer is kept.
    pub(crate) flights: HashMap<SecretKey, Flight>,
    pub(crate) failures: HashMap<SecretKey, Failure>,
    /// How many watches want each key kept fresh.
    pub(crate) pins: HashMap<SecretKey, usize>,
    /// When each key was last refreshed by force.
    pub(crate) forced: HashMap<SecretKey, Instant>,
    pub(crate) breaker: Breaker,
    pub(crate) budget: RetryBudget,
    pub(crate) keeper_runs: bool,
    /// Prepared, and to be started by `Shared::set_out`.
    pub(crate) keeper_wanted: bool,
    pub(crate) departing: Vec<Crew>,
    last_flight: u64,
}

/// A call to the provider that is under way, for whoever wants to wait for it.
#[derive(Debug, Clone)]
pub(crate) struct Flight {
    pub(crate) id: u64,
    pub(crate) since: Instant,
    pub(crate) landed: watch::Receiver<Option<Arc<Landed>>>,
}

/// What a flight brought, by key.
pub(crate) type Landed = HashMap<SecretKey, Result<Resolved, Error>>;

/// The last answer for a key was none.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    pub(crate) error: Error,
    /// The beginning of the failures without a success between.
    pub(crate) since: Instant,
    pub(crate) retry_at: Instant,
    /// When the source itself last said what `error` says.
    pub(crate) said_at: Instant,
}

impl Ledger {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            flights: HashMap::new(),
            failures: HashMap::new(),
            pins: HashMap::new(),
            forced: HashMap::new(),
            breaker: Breaker::default(),
            budget: RetryBudget::new(config.retry_budget(), Instant::now()),
            keeper_runs: false,
            keeper_wanted: false,
            departing: Vec::new(),
            last_flight: 0,
        }
    }

    /// Registers a new flight for `keys`, in place of any that is under way for one of them.
    pub(crate) fn take_off(
        &mut self,
        keys: &[SecretKey],
    ) -> (Flight, watch::Sender<Option<Arc<Landed>>>) {
        self.last_flight += 1;
        let (sender, landed) = watch::channel(None);
        let flight = Flight {
            id: self.last_flight,
            since: Instant::now(),
            landed,
        };
        self.flights
            .extend(keys.iter().map(|key| (key.clone(), flight.clone())));
        (flight, sender)
    }

    /// Whether flight `id` is still the newest for `key`; if so, it is under way no more.
    pub(crate) fn touch_down(&mut self, key: &SecretKey, id: u64) -> bool {
        let newest = self.flights.get(key).is_some_and(|flight| flight.id == id);
        if newest {
            self.flights.remove(key);
        }
        newest
    }

    /// Notes a failure, keeping the number of those that nobody waits for below `max`.
    pub(crate) fn note_failure(&mut self, key: &SecretKey, failure: Failure, max: usize) {
        if self.failures.len() >= max && !self.failures.contains_key(key) {
            let now = Instant::now();
            let pins = &self.pins;
            self.failures
                .retain(|key, failure| pins.contains_key(key) || failure.retry_at > now);
            if self.failures.len() >= max {
                self.failures.retain(|key, _| pins.contains_key(key));
            }
        }
        self.failures.insert(key.clone(), failure);
    }

    pub(crate) fn is_pinned(&self, key: &SecretKey) -> bool {
        self.pins.contains_key(key)
    }
}

impl Flight {
    /// What the flight brings for `key`; `None` when it ended without landing, as it does when its
    /// runtime is shut down.
    pub(crate) async fn outcome(mut self, key: &SecretKey) -> Option<Result<Resolved, Error>> {
        let landed = self.landed.wait_for(Option::is_some).await.ok()?;
        landed.as_ref()?.get(key).cloned()
    }
}
