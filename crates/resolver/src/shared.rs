//! The core of the resolver. It decides for each key whether to return the cached value, to wait for an
//! in-flight fetch, or to start a fetch.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use secretwell_core::{Error, ErrorKind, SecretKey, SecretProvider};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::builder::Config;
use crate::cache::{Cache, EntryState};
use crate::fetch::FetchTask;
use crate::refresher::Refresher;
use crate::state::{FetchResult, InFlight, ResolverState};
use crate::{Freshness, Resolved};

/// The minimum time between two forced refreshes of a key. Within that time, a further refresh is treated
/// as an ordinary read.
pub(crate) const FORCE_INTERVAL: Duration = Duration::from_secs(1);
/// The maximum number of fetches for one call. A fetch is repeated if it ended without a result, because
/// its runtime was shut down.
const MAX_ATTEMPTS: usize = 3;

/// A caller that has a usable value waits for at most this long for a refresh.
const MAX_WAIT_FOR_REFRESH: Duration = Duration::from_secs(1);
/// A fetch is lost if it has not ended this long after its deadline.
const DEADLINE_MARGIN: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) provider: Arc<dyn SecretProvider>,
    pub(crate) config: Config,
    pub(crate) cache: Cache,
    state: Mutex<ResolverState>,
    /// The tasks of the refresher and of the fetches. They end when the resolver is dropped.
    ///
    /// The state must not be locked while tasks are spawned. A runtime that is shutting down drops a new
    /// task immediately, and the drop locks the state.
    tasks: Mutex<JoinSet<()>>,
    /// A counter that is incremented when watches must compare their snapshots.
    changes: watch::Sender<u64>,
    /// Wakes the refresher before its next planned time.
    pub(crate) wake: Arc<Notify>,
}

/// The action for one requested key.
enum Decision {
    Return(Result<Resolved, Error>),
    /// Return the value and refresh it in the background.
    ReturnAndRefresh(Resolved),
    Wait(InFlight),
    Fetch,
}

/// The end of a wait for an in-flight fetch.
enum Waited {
    Result(Result<Resolved, Error>),
    /// A newer fetch was started, because the value might have changed. This is the older result, as
    /// stale.
    Superseded(Result<Resolved, Error>),
    /// The fetch ended without a result, or its task is not running.
    Lost(Error),
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

    /// Returns the cached values of `keys`. Fetches the missing ones in one batch.
    pub(crate) async fn get_many(
        self: &Arc<Self>,
        keys: &[SecretKey],
    ) -> Vec<Result<Resolved, Error>> {
        let mut results: Vec<Option<Result<Resolved, Error>>> = vec![None; keys.len()];
        let mut superseded = vec![false; keys.len()];
        let mut lost = None;
        for _ in 0..MAX_ATTEMPTS {
            let missing: Vec<usize> = (0..keys.len()).filter(|&i| results[i].is_none()).collect();
            if missing.is_empty() {
                break;
            }
            if let Some(error) = missing_runtime() {
                lost = Some(error);
                break;
            }
            let started = Instant::now();
            for (index, fetch) in self.serve_or_fetch(keys, &missing, &mut results) {
                let key = &keys[index];
                match self.wait(key, fetch, started).await {
                    Waited::Result(result) => results[index] = Some(result),
                    // One more attempt. The source might change faster than it can be read.
                    Waited::Superseded(_) if !superseded[index] => superseded[index] = true,
                    Waited::Superseded(result) => results[index] = Some(result),
                    Waited::Lost(error) => lost = Some(error),
                }
            }
        }
        results
            .into_iter()
            .zip(keys)
            .map(|(result, key)| {
                result.unwrap_or_else(|| {
                    let error = lost.clone().unwrap_or_else(runtime_ended);
                    let error = error.with_origin(self.provider.origin()).with_key(key);
                    self.stale_or(key, error, Instant::now())
                })
            })
            .collect()
    }

    /// Waits for an in-flight fetch of `key`. The wait ends on the clock of the caller, because the task
    /// of the fetch might belong to a runtime that is not running. A caller that has a usable value waits
    /// for at most [`MAX_WAIT_FOR_REFRESH`].
    async fn wait(&self, key: &SecretKey, fetch: InFlight, started: Instant) -> Waited {
        let (id, fetch_started) = (fetch.id, fetch.started_at);
        let usable = self.is_usable(key);
        let until = match usable {
            true => started + MAX_WAIT_FOR_REFRESH,
            false => fetch_started + self.config.deadline + DEADLINE_MARGIN,
        };
        match tokio::time::timeout_at(until, fetch.result(key)).await {
            Ok(Some(FetchResult { result, superseded })) => {
                let result = match (result, superseded) {
                    (Ok(resolved), true) => Ok(stale(resolved, fetch_started.elapsed(), changed())),
                    (result, _) => result.or_else(|error| self.stale_or(key, error, fetch_started)),
                };
                match superseded {
                    true => Waited::Superseded(result),
                    false => Waited::Result(result),
                }
            }
            Ok(None) => Waited::Lost(runtime_ended()),
            Err(_) if usable => {
                let error = Error::new(ErrorKind::Unavailable, "the refresh is still in progress")
                    .with_origin(self.provider.origin())
                    .with_key(key)
                    .with_hint("check that the source responds");
                Waited::Result(self.stale_or(key, error, fetch_started))
            }
            Err(_) => {
                // The next caller, or this one, starts a fetch on its own runtime.
                self.state().finish_fetch(key, id);
                Waited::Lost(Error::timed_out(self.config.deadline))
            }
        }
    }

    /// Returns whether the cached value can be returned as stale. A value that was
    /// [invalidated](Self::invalidate) is no longer cached.
    fn is_usable(&self, key: &SecretKey) -> bool {
        let now = Instant::now();
        let usable = self.cache.peek(key, |entry| now < entry.times.unusable_at);
        usable.unwrap_or(false)
    }

    /// Fills in the results that are available immediately. Returns the fetches to wait for, with the
    /// indexes of their keys.
    fn serve_or_fetch(
        self: &Arc<Self>,
        keys: &[SecretKey],
        missing: &[usize],
        results: &mut [Option<Result<Resolved, Error>>],
    ) -> Vec<(usize, InFlight)> {
        let now = Instant::now();
        let mut state = self.state();
        self.ensure_refresher(&mut state);
        let mut waits = Vec::new();
        let mut to_fetch = Vec::new();
        let mut batch = BTreeSet::new();
        for &index in missing {
            match self.decide(&state, &keys[index], now) {
                Decision::Return(result) => results[index] = Some(result),
                Decision::ReturnAndRefresh(resolved) => {
                    results[index] = Some(Ok(resolved));
                    batch.insert(keys[index].clone());
                }
                Decision::Wait(fetch) => waits.push((index, fetch)),
                Decision::Fetch => {
                    to_fetch.push(index);
                    batch.insert(keys[index].clone());
                }
            }
        }
        let blocked = self.prepare_allowed_fetch(&mut state, batch, now).err();
        for index in to_fetch {
            let key = &keys[index];
            if let Some(fetch) = state.in_flight.get(key) {
                waits.push((index, fetch.clone()));
                continue;
            }
            // The last error of this key takes precedence over the reason why no fetch is allowed.
            let last_error = state.failures.get(key).map(|failure| failure.error.clone());
            let error = last_error
                .or_else(|| blocked.clone())
                .unwrap_or_else(|| self.not_attempted());
            results[index] = Some(self.stale_or(key, error.with_key(key), now));
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
            let fresh = now < entry.times.expires_at && entry.state() != EntryState::Invalidated;
            let due = now >= entry.times.refresh_at;
            (
                fresh,
                due,
                now < entry.times.unusable_at,
                entry.resolved.clone(),
                entry.times.fetched_at,
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
            // The last fetch failed, so the stale value is returned without waiting for another one.
            (Some((false, _, true, resolved, fetched_at)), Some(failure)) => {
                let stale = stale(resolved, now - fetched_at, failure.error.clone());
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

    /// Returns the cached value as stale with the reason `error`. `started_at` is the start of the
    /// failed fetch. A value that was cached after it is returned as fresh.
    ///
    /// # Errors
    /// Returns `error` if no usable value is cached.
    fn stale_or(
        &self,
        key: &SecretKey,
        error: Error,
        started_at: Instant,
    ) -> Result<Resolved, Error> {
        let now = Instant::now();
        let cached = self
            .cache
            .peek(key, |entry| (entry.resolved.clone(), entry.times));
        match cached {
            // Another fetch cached the value during the failed fetch.
            Some((resolved, times)) if times.fetched_at > started_at && now < times.expires_at => {
                Ok(resolved)
            }
            Some((resolved, times)) if now < times.unusable_at => {
                Ok(stale(resolved, now - times.fetched_at, error))
            }
            _ => Err(error),
        }
    }

    /// Fetches `keys` regardless of the cache and of earlier failures. Within 1 s of the last forced
    /// refresh of a key, this is an ordinary read.
    pub(crate) async fn refresh(
        self: &Arc<Self>,
        keys: &[SecretKey],
    ) -> Vec<Result<Resolved, Error>> {
        if missing_runtime().is_some() {
            return self.get_many(keys).await;
        }
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
            self.prepare_forced_fetch(&mut state, due);
        }
        self.spawn_pending();
        let in_flight: Vec<Option<InFlight>> = {
            let state = self.state();
            keys.iter()
                .map(|key| state.in_flight.get(key).cloned())
                .collect()
        };
        let mut results = Vec::with_capacity(keys.len());
        for (key, fetch) in keys.iter().zip(in_flight) {
            let started_at = fetch
                .as_ref()
                .map_or_else(Instant::now, |fetch| fetch.started_at);
            let until = started_at + self.config.deadline + DEADLINE_MARGIN;
            let result = match fetch {
                Some(fetch) => tokio::time::timeout_at(until, fetch.result(key)).await,
                None => Ok(None),
            };
            match result {
                Ok(Some(FetchResult {
                    result,
                    superseded: false,
                })) => {
                    results.push(result.or_else(|error| self.stale_or(key, error, started_at)));
                }
                _ => results.extend(self.get_many(std::slice::from_ref(key)).await),
            }
        }
        results
    }

    /// Prepares a fetch of `keys` regardless of backoff and in-flight fetches, and of the breaker unless
    /// the source itself requested a wait. An in-flight
    /// fetch might have started before the change that caused this refresh. The caller must then call
    /// [`spawn_pending`](Self::spawn_pending).
    pub(crate) fn prepare_forced_fetch(
        self: &Arc<Self>,
        state: &mut ResolverState,
        keys: BTreeSet<SecretKey>,
    ) {
        if keys.is_empty() {
            return;
        }
        for key in &keys {
            state.failures.remove(key);
        }
        state.breaker.reset();
        // A wait that the source requested is kept. Reads during it return the cached values.
        if state.breaker.admit(Instant::now()).is_ok() {
            self.prepare_fetch(state, keys);
        }
    }

    /// Prepares one fetch of the `keys` that the breaker and the retry budget allow. The caller must
    /// then call [`spawn_pending`](Self::spawn_pending).
    ///
    /// # Errors
    /// Returns an error if no fetch is prepared: the failure that opened the breaker, or a note that no
    /// request was sent.
    pub(crate) fn prepare_allowed_fetch(
        self: &Arc<Self>,
        state: &mut ResolverState,
        keys: BTreeSet<SecretKey>,
        now: Instant,
    ) -> Result<(), Error> {
        if keys.is_empty() {
            return Err(self.not_attempted());
        }
        state.breaker.admit(now)?;
        let (retries, mut allowed): (BTreeSet<_>, BTreeSet<_>) = keys
            .into_iter()
            .partition(|key| state.failures.contains_key(key));
        if retries.is_empty() || state.budget.try_acquire(now) {
            allowed.extend(retries);
        } else {
            let next = state.budget.next_at(now);
            for key in &retries {
                if let Some(failure) = state.failures.get_mut(key) {
                    failure.retry_at = failure.retry_at.max(next);
                }
            }
        }
        if allowed.is_empty() {
            state.breaker.abandon_probe();
            return Err(self.not_attempted());
        }
        self.prepare_fetch(state, allowed);
        Ok(())
    }

    fn not_attempted(&self) -> Error {
        Error::new(
            ErrorKind::Unavailable,
            "no request was sent, because the retry budget is exhausted",
        )
        .with_origin(self.provider.origin())
        .with_hint("read it again later, or raise the retry budget")
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

    /// Spawns the tasks that were prepared under the lock. Must be called without the lock.
    pub(crate) fn spawn_pending(self: &Arc<Self>) {
        let (start_refresher, generation, pending_fetches) = {
            let mut state = self.state();
            let start_refresher = std::mem::take(&mut state.refresher_pending);
            let pending_fetches = std::mem::take(&mut state.pending_fetches);
            (start_refresher, state.refresher_generation, pending_fetches)
        };
        if tokio::runtime::Handle::try_current().is_err() {
            if start_refresher {
                self.refresher_stopped(generation);
            }
            return;
        }
        // The refresher subscribes to change notifications before the first fetch, so that no change
        // is missed in between.
        let refresher = start_refresher.then(|| Refresher::new(self, generation));
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        if let Some(refresher) = refresher {
            tasks.spawn(refresher.run());
        }
        for task in pending_fetches {
            tasks.spawn(task.run(self.provider.clone(), self.config.deadline));
        }
    }

    /// Removes the cached value, the failure and the in-flight fetch of `key`.
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

/// Returns an error if this thread has no runtime that can wait for a fetch.
pub(crate) fn missing_runtime() -> Option<Error> {
    if tokio::runtime::Handle::try_current().is_err() {
        return Some(runtime_ended());
    }
    // Tokio offers no other way to find out. The panic hook might print the panic.
    let timer = std::panic::catch_unwind(|| drop(tokio::time::sleep(Duration::ZERO)));
    timer.err().map(|_| {
        Error::new(ErrorKind::InvalidConfig, "the tokio runtime has no timer")
            .with_hint("build the runtime with `enable_time` or `enable_all`")
    })
}

fn runtime_ended() -> Error {
    Error::new(
        ErrorKind::Unavailable,
        "no tokio runtime is running, or it was shut down during the read",
    )
    .with_hint("read secrets within a running tokio runtime")
}

fn changed() -> Error {
    Error::new(
        ErrorKind::Unavailable,
        "the source reported another change during the read",
    )
    .with_hint("read it again")
}
