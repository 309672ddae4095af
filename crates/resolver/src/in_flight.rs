//! The table of the fetches of one source that are under way.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use secretwell_core::{Error, SecretKey};
use tokio::sync::watch;

use crate::Resolved;
use crate::clock::Time;
use crate::entry::Times;

/// A batch waits for the batch before it, but at most for this long. A slow batch must not hold up others.
const MAX_TURN_WAIT: Duration = Duration::from_millis(250);

/// The task of a fetch that has not run after this time belongs to a runtime that is not running.
const MAX_START: Duration = Duration::from_millis(250);

/// The maximum number of keys with void results. Above it, all results are void.
const MAX_VOID: usize = 1000;

/// The fetches of one source by key, and the batch that has not started yet.
#[derive(Debug, Default)]
pub(crate) struct InFlight {
    /// The newest fetch of each key.
    fetches: HashMap<SecretKey, Fetch, foldhash::fast::RandomState>,
    /// The keys that might have changed since their newest fetch started.
    outdated: HashSet<SecretKey, foldhash::fast::RandomState>,
    /// The numbers of the fetches whose tasks have not ended. Some of them might never run again.
    unended: BTreeSet<u64>,
    /// The newest fetch of each key whose result must not be used, and why. The results of earlier fetches
    /// must not be used either.
    void: HashMap<SecretKey, (u64, Void), foldhash::fast::RandomState>,
    /// No result of a fetch up to this number must be used.
    all_void: u64,
    /// The batch that keys still join.
    waiting: Option<WaitingBatch>,
    /// The batch that has started last.
    running: Option<Fetch>,
    last_id: u64,
}

/// The reason why the result of a fetch that has started must not be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Void {
    Invalidated,
    /// An older version than the result is accepted from now on.
    OlderAccepted,
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
    /// The call must have started by then. A batch waits for the one before it.
    pub(crate) start_by: Time,
    progress: watch::Receiver<Progress>,
}

/// The progress of a fetch, which its task sends to the callers.
#[derive(Debug, Clone)]
pub(crate) enum Progress {
    /// The call has not started yet.
    Created,
    Started,
    Ended(Arc<FetchResults>),
}

/// The results of a fetch, by key.
pub(crate) type FetchResults = HashMap<SecretKey, FetchResult, foldhash::fast::RandomState>;

/// The result of a fetch for one key.
#[derive(Debug, Clone)]
pub(crate) struct FetchResult {
    pub(crate) result: Result<Resolved, Error>,
    /// The times of the answer.
    pub(crate) times: Times,
    /// Whether a newer fetch of the key was started, because the value might have changed.
    pub(crate) superseded: bool,
    /// Whether the key was invalidated during the fetch.
    pub(crate) is_void: bool,
}

/// A new fetch, which the caller must run.
#[derive(Debug)]
pub(crate) struct NewFetch {
    pub(crate) id: u64,
    /// The keys, or `None` if keys join the fetch until it starts.
    pub(crate) keys: Option<Vec<SecretKey>>,
    pub(crate) progress: watch::Sender<Progress>,
}

impl InFlight {
    pub(crate) fn get(&self, key: &SecretKey) -> Option<&Fetch> {
        self.fetches.get(key)
    }

    pub(crate) fn contains(&self, key: &SecretKey) -> bool {
        self.fetches.contains_key(key)
    }

    /// Returns the fetch of `key`, if it has called the provider.
    pub(crate) fn started(&self, key: &SecretKey) -> Option<&Fetch> {
        let fetch = self.fetches.get(key);
        fetch.filter(|fetch| self.has_started(fetch.id))
    }

    /// Returns whether fetch `id` is not the batch that keys still join.
    fn has_started(&self, id: u64) -> bool {
        let waiting = self.waiting.as_ref();
        waiting.is_none_or(|batch| batch.fetch.id != id)
    }

    /// Returns whether the fetch of `key` has started before a change.
    pub(crate) fn is_outdated(&self, key: &SecretKey) -> bool {
        self.outdated.contains(key)
    }

    /// Records that `key` might have changed. A fetch of it that has started is superseded.
    pub(crate) fn outdate(&mut self, key: &SecretKey) {
        if self.started(key).is_some() {
            self.outdated.insert(key.clone());
        }
    }

    /// Returns whether there was any fetch.
    pub(crate) fn has_fetched(&self) -> bool {
        self.last_id > 0
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
        // A batch whose task does not run is not joined.
        let lost = self.waiting.take_if(|batch| {
            let fetch = &batch.fetch;
            fetch.is_created() && now >= fetch.start_by
        });
        if let Some(WaitingBatch { fetch, keys }) = lost {
            for key in keys {
                self.finish(&key, fetch.id);
            }
        }
        if let Some(waiting) = &mut self.waiting {
            for key in keys {
                self.outdated.remove(&key);
                self.fetches.insert(key.clone(), waiting.fetch.clone());
                waiting.keys.insert(key);
            }
            return None;
        }
        keys.sort_unstable();
        keys.dedup();
        self.last_id += 1;
        self.unended.insert(self.last_id);
        let (sender, progress) = watch::channel(Progress::Created);
        let fetch = Fetch {
            id: self.last_id,
            created_at: now,
            start_by: match batch {
                true => now.after(MAX_START).after(MAX_TURN_WAIT),
                false => now.after(MAX_START),
            },
            progress,
        };
        for key in &keys {
            self.outdated.remove(key);
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
            progress: sender,
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
        batch.keys.into_iter().collect()
    }

    /// Records that the task of fetch `id` has ended.
    pub(crate) fn end(&mut self, id: u64) {
        self.unended.remove(&id);
        let oldest = self.unended.first().copied().unwrap_or(u64::MAX);
        self.void.retain(|_, (void, _)| *void >= oldest);
        self.running.take_if(|running| running.id == id);
        // The memory of a large fetch is freed.
        if self.fetches.len() < self.fetches.capacity() / 8 {
            self.fetches.shrink_to(2 * self.fetches.len());
        }
    }

    fn is_newest(&self, key: &SecretKey, id: u64) -> bool {
        self.fetches.get(key).is_some_and(|fetch| fetch.id == id)
    }

    /// Removes fetch `id` of `key`. Returns whether it was the newest one, and no change was reported since it
    /// started.
    pub(crate) fn finish(&mut self, key: &SecretKey, id: u64) -> bool {
        if !self.is_newest(key, id) {
            return false;
        }
        self.fetches.remove(key);
        !self.outdated.remove(key)
    }

    /// Forgets fetch `id` of `key`, because its task does not run. If it is a batch that has not started, its
    /// other keys are forgotten too.
    pub(crate) fn lose(&mut self, key: &SecretKey, id: u64) {
        self.finish(key, id);
        let batch = self.waiting.take_if(|batch| batch.fetch.id == id);
        for key in batch.into_iter().flat_map(|batch| batch.keys) {
            self.finish(&key, id);
        }
    }

    /// Returns the number of keys of the batch that has not started.
    pub(crate) fn waiting_keys(&self) -> usize {
        self.waiting.as_ref().map_or(0, |batch| batch.keys.len())
    }

    /// Forgets the fetch of `key`. No result of a fetch that has started is used.
    pub(crate) fn invalidate(&mut self, key: &SecretKey, reason: Void) {
        self.outdated.remove(key);
        if self.started(key).is_some() {
            self.fetches.remove(key);
        }
        // A batch that has not started calls the provider after the invalidation.
        let mut ids = self.unended.iter().rev().copied();
        let Some(newest) = ids.find(|&id| self.has_started(id)) else {
            return;
        };
        let reason = match self.void.get(key) {
            Some((_, Void::OlderAccepted)) => Void::OlderAccepted,
            _ => reason,
        };
        self.void.insert(key.clone(), (newest, reason));
        if self.void.len() > MAX_VOID {
            self.void.clear();
            self.all_void = newest;
        }
    }

    /// Returns why the result of fetch `id` for `key` must not be used.
    pub(crate) fn void(&self, key: &SecretKey, id: u64) -> Option<Void> {
        if id <= self.all_void {
            return Some(Void::OlderAccepted);
        }
        let (void, reason) = self.void.get(key)?;
        (id <= *void).then_some(*reason)
    }

    /// Forgets the fetch of `key` if its task does not run. Returns whether it did.
    pub(crate) fn drop_lost(&mut self, key: &SecretKey, longest_call: Duration, now: Time) -> bool {
        let fetch = self.fetches.get(key);
        let lost = fetch.filter(|fetch| fetch.is_lost(longest_call, now));
        let Some(id) = lost.map(|fetch| fetch.id) else {
            return false;
        };
        self.lose(key, id);
        true
    }
}

impl Fetch {
    /// Waits until the call starts. If it does not start in time, its runtime is not running.
    pub(crate) async fn started(&mut self) {
        let is_started = |progress: &Progress| !matches!(progress, Progress::Created);
        drop(self.progress.wait_for(is_started).await);
    }

    /// Waits for the results. Returns `None` if the fetch ended without results, for example because its
    /// runtime was shut down.
    pub(crate) async fn results(mut self) -> Option<Arc<FetchResults>> {
        let is_ended = |progress: &Progress| matches!(progress, Progress::Ended(_));
        match &*self.progress.wait_for(is_ended).await.ok()? {
            Progress::Ended(results) => Some(results.clone()),
            _ => None,
        }
    }

    fn is_created(&self) -> bool {
        matches!(*self.progress.borrow(), Progress::Created)
    }

    /// Returns whether the task of the fetch belongs to a runtime that is not running.
    fn is_lost(&self, longest_call: Duration, now: Time) -> bool {
        now >= self.lost_at(longest_call)
    }

    /// Returns the time from which the runtime of the fetch counts as not running.
    pub(crate) fn lost_at(&self, longest_call: Duration) -> Time {
        match self.is_created() {
            true => self.start_by,
            false => self.overdue_at(longest_call),
        }
    }

    /// Returns the time at which the fetch must have ended.
    pub(crate) fn overdue_at(&self, longest_call: Duration) -> Time {
        self.created_at.after(longest_call).after(MAX_TURN_WAIT)
    }

    fn has_ended(&self) -> bool {
        matches!(*self.progress.borrow(), Progress::Ended(_))
            || self.progress.has_changed().is_err()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    fn keys(count: usize) -> Vec<SecretKey> {
        let key = |number| SecretKey::parse(format!("K{number}")).unwrap();
        (0..count).map(key).collect()
    }

    /// The provider might have read a revoked value before the invalidation.
    #[tokio::test]
    async fn result_of_an_invalidated_key_is_void_however_many_keys_are_invalidated() {
        let now = clock::now();
        for count in [1, MAX_VOID, MAX_VOID + 1, 3 * MAX_VOID] {
            let mut table = InFlight::default();
            let keys = keys(count);
            let old = table.add(keys.clone(), false, now).unwrap();
            for key in &keys {
                table.invalidate(key, Void::Invalidated);
                assert!(table.get(key).is_none(), "nobody joins the old fetch");
            }
            let new = table.add(keys.clone(), false, now).unwrap();
            for key in &keys {
                assert!(table.void(key, old.id).is_some(), "{count} keys");
                assert!(table.void(key, new.id).is_none(), "{count} keys");
                // The old result does not end the new fetch.
                assert!(!table.finish(key, old.id));
                assert!(table.finish(key, new.id));
            }
            table.end(old.id);
            table.end(new.id);
            let later = table.add(keys.clone(), false, now).unwrap();
            assert!(keys.iter().all(|key| table.void(key, later.id).is_none()));
            assert!(table.void.is_empty(), "the memory is freed");
        }
    }

    #[tokio::test]
    async fn accepted_older_version_is_not_forgotten_by_an_invalidation() {
        let [key] = &keys(1)[..] else {
            panic!("one key")
        };
        let mut table = InFlight::default();
        let fetch = table.add(vec![key.clone()], false, clock::now()).unwrap();
        table.invalidate(key, Void::OlderAccepted);
        table.invalidate(key, Void::Invalidated);
        assert_eq!(table.void(key, fetch.id), Some(Void::OlderAccepted));
    }

    /// The runtime of a batch might end or block before the batch starts. Its keys must not wait for it forever.
    #[tokio::test]
    async fn batch_that_does_not_start_is_forgotten_with_all_its_keys() {
        let now = clock::now();
        let keys = keys(3);
        let mut table = InFlight::default();
        let lost = table.add(vec![keys[0].clone()], true, now).unwrap();
        assert!(table.add(vec![keys[1].clone()], true, now).is_none());
        let late = now.after(MAX_START).after(MAX_TURN_WAIT);
        let next = table.add(vec![keys[2].clone()], true, late).unwrap();
        assert_ne!(next.id, lost.id);
        assert!(!table.contains(&keys[0]) && !table.contains(&keys[1]));
        // It runs after all, when nobody waits any more.
        assert!(table.start(lost.id, late).is_empty());
        assert_eq!(table.start(next.id, late), [keys[2].clone()]);

        let waiting = table.add(keys[..2].to_vec(), true, late).unwrap();
        let longest_call = Duration::from_secs(30);
        assert!(!table.drop_lost(&keys[0], longest_call, late));
        let later = late.after(MAX_START).after(MAX_TURN_WAIT);
        assert!(table.drop_lost(&keys[0], longest_call, later));
        assert!(!table.contains(&keys[1]));
        assert!(table.start(waiting.id, later).is_empty());
    }
}
