//! The table of the fetches of one source that are under way.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use secretwell_core::{Error, SecretKey};
use tokio::sync::watch;

use crate::Resolved;
use crate::clock::Time;

/// A batch waits for the batch before it, but at most for this long. A slow batch must not hold up others.
pub(crate) const MAX_TURN_WAIT: Duration = Duration::from_millis(250);

/// The fetches of one source by key, and the batch that has not started yet.
#[derive(Debug, Default)]
pub(crate) struct InFlight {
    /// The newest fetch of each key.
    fetches: HashMap<SecretKey, Fetch, foldhash::fast::RandomState>,
    /// The batch that keys still join.
    waiting: Option<WaitingBatch>,
    /// The batch that has started last.
    running: Option<Fetch>,
    last_id: u64,
}

#[derive(Debug)]
struct WaitingBatch {
    fetch: Fetch,
    keys: BTreeSet<SecretKey>,
}

/// A call to the provider that was started or will be. Callers wait on it for the results.
#[derive(Debug, Clone)]
pub(crate) struct Fetch {
    pub(crate) id: u64,
    pub(crate) created_at: Time,
    results: watch::Receiver<Option<Arc<FetchResults>>>,
}

/// The sender of the results of a fetch.
pub(crate) type ResultSender = watch::Sender<Option<Arc<FetchResults>>>;

/// The results of a fetch, by key.
pub(crate) type FetchResults = HashMap<SecretKey, FetchResult, foldhash::fast::RandomState>;

/// The result of a fetch for one key.
#[derive(Debug, Clone)]
pub(crate) struct FetchResult {
    pub(crate) result: Result<Resolved, Error>,
    /// Whether a newer fetch of the key was started, because the value might have changed.
    pub(crate) superseded: bool,
}

/// A new fetch, which the caller must run.
#[derive(Debug)]
pub(crate) struct NewFetch {
    pub(crate) id: u64,
    /// The keys, or `None` if keys join the fetch until it starts.
    pub(crate) keys: Option<Vec<SecretKey>>,
    pub(crate) results: ResultSender,
}

impl InFlight {
    pub(crate) fn get(&self, key: &SecretKey) -> Option<&Fetch> {
        self.fetches.get(key)
    }

    pub(crate) fn contains(&self, key: &SecretKey) -> bool {
        self.fetches.contains_key(key)
    }

    /// Returns whether a fetch of `key` is under way that has called the provider.
    pub(crate) fn has_started(&self, key: &SecretKey) -> bool {
        let waiting = self.waiting.as_ref().map(|batch| batch.fetch.id);
        self.fetches
            .get(key)
            .is_some_and(|fetch| waiting != Some(fetch.id))
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &SecretKey> {
        self.fetches.keys()
    }

    /// Adds `keys` to a fetch that starts after this call. It replaces fetches of the same keys that have
    /// started. Returns the fetch if it is new.
    pub(crate) fn add(
        &mut self,
        mut keys: Vec<SecretKey>,
        batch: bool,
        now: Time,
    ) -> Option<NewFetch> {
        if let Some(waiting) = &mut self.waiting {
            for key in keys {
                self.fetches.insert(key.clone(), waiting.fetch.clone());
                waiting.keys.insert(key);
            }
            return None;
        }
        keys.sort_unstable();
        keys.dedup();
        self.last_id += 1;
        let (sender, results) = watch::channel(None);
        let fetch = Fetch {
            id: self.last_id,
            created_at: now,
            results,
        };
        for key in &keys {
            self.fetches.insert(key.clone(), fetch.clone());
        }
        let id = fetch.id;
        let keys = match batch {
            true => {
                let keys = keys.into_iter().collect();
                self.waiting = Some(WaitingBatch { fetch, keys });
                None
            }
            false => Some(keys),
        };
        Some(NewFetch {
            id,
            keys,
            results: sender,
        })
    }

    /// Returns the batch before, if the waiting one must still wait for it.
    pub(crate) fn predecessor(&self, now: Time) -> Option<(Fetch, Time)> {
        let running = self.running.as_ref()?;
        let until = running.created_at.after(MAX_TURN_WAIT);
        let ended = running.has_ended();
        (now < until && !ended).then(|| (running.clone(), until))
    }

    /// Starts the waiting batch `id`, and returns its keys. Later keys form the next batch.
    pub(crate) fn start(&mut self, id: u64, now: Time) -> Vec<SecretKey> {
        let is_meant = |batch: &mut WaitingBatch| batch.fetch.id == id;
        let Some(batch) = self.waiting.take_if(is_meant) else {
            return Vec::new();
        };
        self.running = Some(Fetch {
            created_at: now,
            ..batch.fetch
        });
        let is_newest = |key: &SecretKey| self.is_newest(key, id);
        batch.keys.into_iter().filter(is_newest).collect()
    }

    fn is_newest(&self, key: &SecretKey, id: u64) -> bool {
        self.fetches.get(key).is_some_and(|fetch| fetch.id == id)
    }

    /// Removes fetch `id` of `key`. Returns whether it was the newest one.
    pub(crate) fn finish(&mut self, key: &SecretKey, id: u64) -> bool {
        let newest = self.is_newest(key, id);
        if newest {
            self.fetches.remove(key);
        }
        newest
    }

    /// Forgets fetch `id` of `key`, because its task does not run.
    pub(crate) fn lose(&mut self, key: &SecretKey, id: u64) {
        self.finish(key, id);
        self.waiting.take_if(|batch| batch.fetch.id == id);
    }

    /// Forgets the fetch of `key`. Its result supersedes nothing.
    pub(crate) fn forget(&mut self, key: &SecretKey) {
        self.fetches.remove(key);
    }
}

impl Fetch {
    /// Waits for the results. Returns `None` if the fetch ended without results, for example because its
    /// runtime was shut down.
    pub(crate) async fn results(mut self) -> Option<Arc<FetchResults>> {
        let results = self.results.wait_for(Option::is_some).await.ok()?;
        results.clone()
    }

    fn has_ended(&self) -> bool {
        self.results.borrow().is_some() || self.results.has_changed().is_err()
    }
}
