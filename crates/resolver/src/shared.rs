//! The resolver's engine: decides for each key whether to answer, to wait or to ask.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::builder::Config;
use crate::cache::{Cache, EntryState};
use crate::fetch::FetchTask;
use crate::refresher::Refresher;
use crate::state::{InFlight, ResolverState};
use crate::{Freshness, Resolved};
use secretwell_core::{Error, ErrorKind, SecretKey, SecretProvider};

/// A refresh by force within this time of the last one is an ordinary read.
pub(crate) const FORCE_INTERVAL: Duration = Duration::from_secs(1);
/// How often a caller whose fetch was lost with its runtime sets out again.
const MAX_ATTEMPTS: usize = 3;

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) provider: Arc<dyn SecretProvider>,
    pub(crate) config: Config,
    pub(crate) cache: Cache,
    state: Mutex<ResolverState>,
    /// The refresher and the in_flight. They end with the resolver. Locked after the state, never within:
    /// a runtime that takes no more tasks drops them at once, and they clear up in the state.
    tasks: Mutex<JoinSet<()>>,
    /// Counts up when something happened that a watch may want to snapshot at.
    changes: watch::Sender<u64>,
    /// Wakes the refresher to snapshot at its clock again.
    pub(crate) wake: Arc<Notify>,
}

/// What to do about one key.
enum Decision {
    Return(Result<Resolved, Error>),
    /// Answer, and ask the provider behind the caller's back.
    ReturnAndRefresh(Resolved),
    Wait(InFlight),
    Fetch,
}

impl Shared {
    pub(crate) fn new(provider: Arc<dyn SecretProvider>, config: Config) -> Self {
        let state = Mutex::new(ResolverState::new(&config));
        let (changes, _) = watch::channel(0);
        Self {
            provider,
            config,
            cache: Cache::new(),
            state,
            tasks: Mutex::default(),
            changes,
            wake: Arc::default(),
        }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, ResolverState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    pub(crate) fn notify_watches(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    /// Answers `keys` from what is cached, and asks for the rest in one batch.
    pub(crate) async fn get_many(
        self: &Arc<Self>,
        keys: &[SecretKey],
    ) -> Vec<Result<Resolved, Error>> {
        let mut answers: Vec<Option<Result<Resolved, Error>>> = vec![None; keys.len()];
        for _ in 0..MAX_ATTEMPTS {
            let open: Vec<usize> = (0..keys.len()).filter(|&i| answers[i].is_none()).collect();
            if open.is_empty() {
                break;
            }
            let waits = self.serve_or_fetch(keys, &open, &mut answers);
            for (index, fetch) in waits {
                let (key, since) = (&keys[index], fetch.since);
                if let Some(outcome) = fetch.outcome(key).await {
                    answers[index] =
                        Some(outcome.or_else(|error| self.stale_or(key, error, since)));
                }
            }
        }
        let lost = |key: &SecretKey| {
            Error::new(
                ErrorKind::Unavailable,
                "there is no tokio runtime to ask in, or it has ended",
            )
            .with_origin(self.provider.origin())
            .with_key(key)
        };
        answers
            .into_iter()
            .zip(keys)
            .map(|(answer, key)| answer.unwrap_or_else(|| Err(lost(key))))
            .collect()
    }

    /// Answers what can be answered at once; returns whom to wait for about the rest.
    fn serve_or_fetch(
        self: &Arc<Self>,
        keys: &[SecretKey],
        open: &[usize],
        answers: &mut [Option<Result<Resolved, Error>>],
    ) -> Vec<(usize, InFlight)> {
        let now = Instant::now();
        let mut state = self.state();
        self.ensure_refresher(&mut state);
        let mut waits = Vec::new();
        let mut to_fetch = Vec::new();
        let mut batch = BTreeSet::new();
        for &index in open {
            match self.decide(&state, &keys[index], now) {
                Decision::Return(answer) => answers[index] = Some(answer),
                Decision::ReturnAndRefresh(resolved) => {
                    answers[index] = Some(Ok(resolved));
                    batch.insert(keys[index].clone());
                }
                Decision::Wait(fetch) => waits.push((index, fetch)),
                Decision::Fetch => {
                    to_fetch.push(index);
                    batch.insert(keys[index].clone());
                }
            }
        }
        let refused = self.launch(&mut state, batch, now).err();
        for index in to_fetch {
            let key = &keys[index];
            if let Some(fetch) = state.in_flight.get(key) {
                waits.push((index, fetch.clone()));
                continue;
            }
            // What the source last said of this very key comes before what is the matter with it.
            let own = state.failures.get(key).map(|failure| failure.error.clone());
            let error = own
                .or_else(|| refused.clone())
                .unwrap_or_else(|| self.not_attempted());
            answers[index] = Some(self.stale_or(key, error.with_key(key), now));
        }
        drop(state);
        self.spawn_pending();
        waits
    }

    fn decide(&self, state: &ResolverState, key: &SecretKey, now: Instant) -> Decision {
        let failure = state.failures.get(key);
        let retry_due = failure.is_none_or(|failure| now >= failure.retry_at);
        let fetch = state.in_flight.get(key);
        let cached = self.cache.read(key.as_str(), |entry| {
            let fresh = now < entry.times.expires && entry.state() != EntryState::Invalidated;
            let due = now >= entry.times.refresh;
            (
                fresh,
                due,
                now < entry.times.unusable,
                entry.resolved.clone(),
                entry.times.fetched,
            )
        });
        match (cached, failure) {
            (Some((true, due, _, resolved, _)), _) => {
                if due && retry_due && fetch.is_none() {
                    Decision::ReturnAndRefresh(resolved)
                } else {
                    Decision::Return(Ok(resolved))
                }
            }
            // The source is known to be in trouble: nobody waits for it while there is a value.
            (Some((false, _, true, resolved, fetched)), Some(failure)) => {
                let stale = stale(resolved, now - fetched, failure.error.clone());
                if retry_due && fetch.is_none() {
                    Decision::ReturnAndRefresh(stale)
                } else {
                    Decision::Return(Ok(stale))
                }
            }
            (_, Some(failure)) if !retry_due && fetch.is_none() => {
                Decision::Return(Err(failure.error.clone()))
            }
            _ => fetch.cloned().map_or(Decision::Fetch, Decision::Wait),
        }
    }

    /// The cached value marked as stale because of `error`, which began at `since`, or `error` if there
    /// is none.
    fn stale_or(&self, key: &SecretKey, error: Error, since: Instant) -> Result<Resolved, Error> {
        let now = Instant::now();
        let cached = self
            .cache
            .peek(key, |entry| (entry.resolved.clone(), entry.times));
        match cached {
            // Another fetch has brought it, while the one that failed was still under way.
            Some((resolved, times)) if times.fetched > since && now < times.expires => Ok(resolved),
            Some((resolved, times)) if now < times.unusable => {
                Ok(stale(resolved, now - times.fetched, error))
            }
            _ => Err(error),
        }
    }

    /// Reads `keys` again whatever is cached or has failed. Within a second of the last time, that is
    /// an ordinary read.
    pub(crate) async fn refresh(
        self: &Arc<Self>,
        keys: &[SecretKey],
    ) -> Vec<Result<Resolved, Error>> {
        {
            let now = Instant::now();
            let mut state = self.state();
            self.ensure_refresher(&mut state);
            state.forced.retain(|_, at| now < *at + FORCE_INTERVAL);
            let due: BTreeSet<SecretKey> = keys
                .iter()
                .filter(|key| !state.forced.contains_key(*key))
                .cloned()
                .collect();
            state
                .forced
                .extend(due.iter().map(|key| (key.clone(), now)));
            self.force(&mut state, due);
        }
        self.spawn_pending();
        let in_flight: Vec<Option<InFlight>> = {
            let state = self.state();
            keys.iter()
                .map(|key| state.in_flight.get(key).cloned())
                .collect()
        };
        let mut answers = Vec::with_capacity(keys.len());
        for (key, fetch) in keys.iter().zip(in_flight) {
            let since = fetch
                .as_ref()
                .map_or_else(Instant::now, |fetch| fetch.since);
            let results = match fetch {
                Some(fetch) => fetch.outcome(key).await,
                None => None,
            };
            match results {
                Some(outcome) => {
                    answers.push(outcome.or_else(|error| self.stale_or(key, error, since)));
                }
                None => answers.extend(self.get_many(std::slice::from_ref(key)).await),
            }
        }
        answers
    }

    /// Asks for `keys` in spite of backoff, breaker and in_flight that are under way already: these
    /// may have set out before whatever is the reason to ask again. The fetch sets out with
    /// [`spawn_pending`](Self::spawn_pending).
    pub(crate) fn force(self: &Arc<Self>, state: &mut ResolverState, keys: BTreeSet<SecretKey>) {
        if keys.is_empty() {
            return;
        }
        for key in &keys {
            state.failures.remove(key);
        }
        state.breaker.reset();
        self.prepare_fetch(state, keys);
    }

    /// Prepares one fetch for those of `keys` that breaker and budget let out. It sets out with
    /// [`spawn_pending`](Self::spawn_pending).
    ///
    /// # Errors
    /// Why nothing at all is asked at the moment.
    pub(crate) fn launch(
        self: &Arc<Self>,
        state: &mut ResolverState,
        keys: BTreeSet<SecretKey>,
        now: Instant,
    ) -> Result<(), Error> {
        if keys.is_empty() {
            return Err(self.not_attempted());
        }
        state.breaker.admit(now)?;
        let (again, mut out): (BTreeSet<_>, BTreeSet<_>) = keys
            .into_iter()
            .partition(|key| state.failures.contains_key(key));
        if again.is_empty() || state.budget.try_acquire(now) {
            out.extend(again);
        } else {
            let next = state.budget.next_at(now);
            for key in &again {
                if let Some(failure) = state.failures.get_mut(key) {
                    failure.retry_at = failure.retry_at.max(next);
                }
            }
        }
        if out.is_empty() {
            state.breaker.abandoned();
            return Err(self.not_attempted());
        }
        self.prepare_fetch(state, out);
        Ok(())
    }

    fn not_attempted(&self) -> Error {
        Error::new(ErrorKind::Unavailable, "it is not asked for at the moment")
            .with_origin(self.provider.origin())
    }

    fn prepare_fetch(self: &Arc<Self>, state: &mut ResolverState, keys: BTreeSet<SecretKey>) {
        let batch: Vec<SecretKey> = keys.into_iter().collect();
        let (fetch, results) = state.start_fetch(&batch);
        let task = FetchTask {
            shared: Arc::downgrade(self),
            id: fetch.id,
            batch,
            results,
        };
        state.pending_fetches.push(task);
    }

    /// Starts what was prepared under the lock. Whoever prepared something calls this without it.
    pub(crate) fn spawn_pending(self: &Arc<Self>) {
        let (starts_keeper, pending_fetches) = {
            let mut state = self.state();
            let starts_keeper = std::mem::take(&mut state.refresher_pending);
            (starts_keeper, std::mem::take(&mut state.pending_fetches))
        };
        if tokio::runtime::Handle::try_current().is_err() {
            if starts_keeper {
                self.refresher_stopped();
            }
            return;
        }
        // It subscribes to the source's notifications before anything is read, so that no change falls
        // between.
        let refresher = starts_keeper.then(|| Refresher::new(self));
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        if let Some(refresher) = refresher {
            tasks.spawn(refresher.run());
        }
        for task in pending_fetches {
            tasks.spawn(task.run(self.provider.clone(), self.config.deadline));
        }
    }

    /// Forgets what is cached of `key` and what has failed, and what is under way as well.
    pub(crate) fn invalidate(&self, key: &SecretKey) {
        let mut state = self.state();
        state.in_flight.remove(key);
        state.failures.remove(key);
        self.cache.remove(key);
        drop(state);
        self.notify_watches();
        self.wake.notify_one();
    }
}

fn stale(resolved: Resolved, age: Duration, reason: Error) -> Resolved {
    Resolved {
        freshness: Freshness::Stale { age, reason },
        ..resolved
    }
}
