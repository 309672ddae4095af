//! What the clones of a resolver, its watches and its background tasks share.

use std::ops::Deref;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use secretwell_core::{Error, ErrorKind, Origin, SecretKey, SecretProvider};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::Resolved;
use crate::audit::{Audit, SecretEvent};
use crate::clock::{self, Time};
use crate::decide::{Reply, peek};
use crate::entry::Entry;
use crate::in_flight::{NewFetch, Void};
use crate::link::LinkState;
use crate::signal::Signal;
use crate::source::Source;
use crate::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use crate::sync::{Mutex, MutexGuard};
use crate::trail::Trail;

/// At most this many keys are handled in one go. Then the lock is released, and other tasks run.
pub(crate) const CHUNK: usize = 1000;
/// A refresher that is this late is replaced by one on the runtime of a reader.
const OVERDUE: Duration = Duration::from_secs(1);

/// The time between two reports of metrics.
const REPORT_INTERVAL: Duration = Duration::from_secs(5);
/// The longest wait for the end of the tasks. A task of a runtime that is not running does not end.
const MAX_CLOSE: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) provider: Arc<dyn SecretProvider>,
    pub(crate) origin: Origin,
    /// The sources in the order in which they are read. There is at least one.
    pub(crate) sources: Vec<Source>,
    pub(crate) audit: Audit,
    /// Whether a hit is one lookup: there is one source, and no callback for accesses.
    pub(crate) is_simple: bool,
    /// The newest refresher.
    refresher: Mutex<RefresherState>,
    /// The time by which the refresher acts again. If it does not, its runtime is not running.
    refresher_due: AtomicI64,
    /// The tasks of the refresher and of the fetches. They end when the resolver is dropped.
    tasks: Mutex<JoinSet<()>>,
    closed: AtomicBool,
    /// How often answers were removed, because they were invalidated, or because a source refused the key.
    removals: AtomicU64,
    /// The time of the next report of metrics. It outlives the refresher, because that of a short-lived runtime would
    /// never report.
    report_at: AtomicI64,
    /// Whether gauges were reported.
    #[cfg(feature = "metrics")]
    pub(crate) has_gauges: AtomicBool,
}

#[derive(Debug, Default)]
struct RefresherState {
    running: bool,
    generation: u64,
    /// Wakes this refresher before its next planned time. One of an earlier refresher would wake a task whose
    /// runtime might not be running.
    wake: Arc<Notify>,
}

impl Shared {
    pub(crate) fn new(
        provider: Arc<dyn SecretProvider>,
        sources: Vec<Source>,
        audit: Audit,
    ) -> Self {
        Self {
            origin: provider.origin().clone(),
            provider,
            is_simple: sources.len() == 1 && audit.on_access.is_none(),
            sources,
            audit,
            refresher: Mutex::default(),
            refresher_due: AtomicI64::new(0),
            tasks: Mutex::default(),
            closed: AtomicBool::new(false),
            removals: AtomicU64::new(0),
            report_at: AtomicI64::new(clock::now().after(REPORT_INTERVAL).to_nanos()),
            #[cfg(feature = "metrics")]
            has_gauges: AtomicBool::new(false),
        }
    }

    /// Removes what the cache has of `key`.
    pub(crate) fn invalidate(&self, key: &SecretKey, reason: Void) {
        let now = clock::now();
        for source in &self.sources {
            source.invalidate(key, reason, now);
        }
        self.count_removal();
    }

    pub(crate) fn count_removal(&self) {
        self.removals.fetch_add(1, Ordering::AcqRel);
    }

    /// Returns how often answers were removed so far.
    pub(crate) fn removals(&self) -> u64 {
        self.removals.load(Ordering::Acquire)
    }

    /// Returns whether a source after the one at `link` has a value of `key`.
    pub(crate) fn found_later(&self, link: usize, key: &SecretKey, now: Time) -> bool {
        let mut later = self.sources.iter().skip(link + 1);
        later.any(|source| source.has_value(key, now))
    }

    /// Returns whether the source at `link` has failed to read `key`, and a source that is read after that has a
    /// value.
    pub(crate) fn has_fallback(&self, link: usize, key: &SecretKey, now: Time) -> bool {
        let failed = {
            let state = self.sources[link].state();
            let failure = state.failures.get(key);
            failure.is_some_and(|failure| !failure.error.is_not_found())
        };
        let mut later = self.sources.iter().skip(link + 1);
        let is_fallback =
            |source: &Source| source.link.tolerated().any(|tolerated| tolerated == link);
        failed && later.any(|source| is_fallback(source) && source.has_value(key, now))
    }

    /// Returns whether a read of `key` reaches the source at `link`: no source before it has the key, and
    /// each of them is known not to have it, or its failure leads to a later source. The caller can hold the state of
    /// the source at `link`, because only the states of earlier sources are locked.
    pub(crate) fn reaches(&self, link: usize, key: &SecretKey, now: Time) -> bool {
        let (earlier, this) = self.sources.split_at(link);
        let tolerated = |position| {
            let mut tolerated = this[0].link.tolerated();
            tolerated.any(|tolerated| tolerated == position)
        };
        earlier.iter().enumerate().all(|(position, source)| {
            let is_value = source.cache.peek(key, |entry| {
                entry.is_usable(now).then(|| entry.value().is_some())
            });
            match is_value.flatten() {
                Some(is_value) => !is_value,
                None => tolerated(position) && source.state().failures.get(key).is_some(),
            }
        })
    }

    /// Returns the answer that a read of `key` would have without a fetch, or `None` while it is not known.
    pub(crate) fn peek(&self, key: &SecretKey, now: Time) -> Option<Reply> {
        let known = self.known(key, now)?;
        Some(known.conclude(&self.origin, key))
    }

    /// Returns the answers of [`peek`](Self::peek) for at most [`CHUNK`] keys, all of the same moment. A fetch of them is
    /// stored before that moment or after it, and never in part.
    pub(crate) fn peek_together(&self, keys: &[SecretKey], now: Time) -> Vec<Option<Reply>> {
        let known: Vec<_> = {
            // The states are locked from the last source to the first. The callers of `reaches` lock them in this
            // order too, so the two never wait for each other.
            let states = self.sources.iter().rev().map(|source| source.state());
            let mut states: Vec<_> = states.collect();
            states.reverse();
            let known = |key| self.known_in(key, now, |link| &*states[link]);
            keys.iter().map(known).collect()
        };
        let replies = keys.iter().zip(known);
        replies
            .map(|(key, known)| Some(known?.conclude(&self.origin, key)))
            .collect()
    }

    /// Returns the answers that a read of `key` would have without a fetch, or `None` while they are not known.
    pub(crate) fn known(&self, key: &SecretKey, now: Time) -> Option<Trail> {
        self.known_in(key, now, |link| self.sources[link].state())
    }

    /// Returns the answers of [`known`](Self::known) from the locked state of each link.
    fn known_in<S: Deref<Target = LinkState>>(
        &self,
        key: &SecretKey,
        now: Time,
        state: impl Fn(usize) -> S,
    ) -> Option<Trail> {
        let mut trail = Trail::default();
        for (link, source) in self.sources.iter().enumerate() {
            if trail.reaches(&source.link) {
                let state = state(link);
                let peek = |entry: Option<&Entry>| peek(&state.known(entry, key), now);
                trail.set(link, source.cache.with(key, peek)?);
            }
        }
        Some(trail)
    }

    /// Returns the time of the next retry of `key`, if a source that a read of it reaches has failed. If no source
    /// has failed and none has the key, it is the time at which the key is read again.
    pub(crate) fn retry_at(&self, key: &SecretKey) -> Option<Time> {
        let now = clock::now();
        let (mut failed, mut absent) = (Vec::new(), Vec::new());
        for (link, source) in self.sources.iter().enumerate() {
            let state = source.state();
            if let Some(failure) = state.failures.get(key) {
                let open_until = state.breaker.open_until().unwrap_or(failure.retry_at);
                let retry_at = failure.retry_at.max(open_until);
                match failure.error.is_not_found() {
                    true if self.found_later(link, key, now) => {}
                    true => absent.push(retry_at),
                    false => failed.push(retry_at),
                }
            }
            drop(state);
            if source.has_value(key, now) {
                break;
            }
        }
        failed.into_iter().min().or(absent.into_iter().min())
    }

    /// Plans reads of watched keys at the sources after `link`, because what that source has of them has
    /// changed.
    pub(crate) fn moved(&self, link: usize, keys: &[SecretKey], now: Time) {
        for (later, source) in self.sources.iter().enumerate().skip(link + 1) {
            let mut state = source.state();
            for key in keys {
                let found_later = self.found_later(later, key, now);
                state.plan(&source.cache, key, now, now, found_later);
            }
        }
    }

    /// Sends `signals` to their watches. Must be called without a lock.
    pub(crate) fn send(signals: Vec<(Arc<Signal>, usize)>) {
        for (signal, position) in signals {
            signal.send(position);
        }
    }

    /// Calls the callback for the access of a reader with the name `consumer`. Must be called without a lock.
    pub(crate) fn accessed(
        &self,
        consumer: Option<&Arc<str>>,
        key: &SecretKey,
        result: &Result<Resolved, Error>,
    ) {
        if let Some(on_access) = &self.audit.on_access {
            let mut event = SecretEvent::new(key, &self.origin, result);
            event.consumer = consumer.cloned();
            Audit::send(on_access, event);
        }
    }

    /// Spawns a background task. Does nothing if there is no runtime or the resolver was closed.
    ///
    /// Must be called without the lock of a state. A runtime that is shutting down drops a new task
    /// immediately, and the drop of a fetch locks the state.
    #[cfg(not(all(test, shuttle)))]
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks();
        if self.is_closed() || tokio::runtime::Handle::try_current().is_err() {
            drop(tasks);
            return;
        }
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task);
    }

    #[cfg(all(test, shuttle))]
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        drop(shuttle::future::spawn(task));
    }

    fn tasks(&self) -> MutexGuard<'_, JoinSet<()>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refresher(&self) -> MutexGuard<'_, RefresherState> {
        self.refresher
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the number of a new refresher that the caller must start, and what wakes it, unless one is
    /// running and on time. A refresher is late if its runtime is not running. It then ends when it runs again.
    pub(crate) fn new_refresher(&self, now: Time) -> Option<(u64, Arc<Notify>)> {
        let mut refresher = self.refresher();
        let overdue = now > self.refresher_due().after(OVERDUE);
        if refresher.running && !overdue {
            return None;
        }
        refresher.running = true;
        refresher.generation += 1;
        refresher.wake = Arc::default();
        self.refresher_due.store(now.to_nanos(), Ordering::Relaxed);
        Some((refresher.generation, refresher.wake.clone()))
    }

    /// Wakes the refresher before its next planned time.
    pub(crate) fn wake_refresher(&self) {
        let wake = self.refresher().wake.clone();
        wake.notify_one();
    }

    /// Returns whether no other refresher has replaced the one with the number `generation`.
    pub(crate) fn is_newest_refresher(&self, generation: u64) -> bool {
        self.refresher().generation == generation
    }

    pub(crate) fn refresher_stopped(&self, generation: u64) {
        let mut refresher = self.refresher();
        if refresher.generation == generation {
            refresher.running = false;
        }
    }

    fn refresher_due(&self) -> Time {
        Time::from_nanos(self.refresher_due.load(Ordering::Relaxed))
    }

    /// The refresher promises to act before `due`.
    pub(crate) fn promise(&self, due: Time) {
        self.refresher_due.store(due.to_nanos(), Ordering::Relaxed);
    }

    /// The refresher is expected to act before `due`, if it has not promised an earlier time.
    pub(crate) fn expect_by(&self, due: Time) {
        self.refresher_due
            .fetch_min(due.to_nanos(), Ordering::Relaxed);
    }

    /// Returns the time at which a refresher that did not act must be replaced.
    pub(crate) fn refresher_overdue_at(&self) -> Time {
        self.refresher_due().after(OVERDUE * 2)
    }

    pub(crate) fn next_report(&self) -> Time {
        Time::from_nanos(self.report_at.load(Ordering::Relaxed))
    }

    #[cfg(feature = "metrics")]
    pub(crate) fn plan_report(&self) {
        let next = clock::now().after(REPORT_INTERVAL);
        self.report_at.store(next.to_nanos(), Ordering::Relaxed);
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Wakes all watches, which then check the resolver again.
    pub(crate) fn wake_watches(&self) {
        for source in &self.sources {
            let signals = source.state().all_signals();
            signals.iter().for_each(|signal| signal.wake());
        }
    }

    /// Ends all tasks, and waits for them. Later reads return only what is cached.
    pub(crate) async fn close(&self) {
        let mut tasks = {
            let mut tasks = self.tasks();
            // With the lock, so that no task is spawned afterwards.
            self.closed.store(true, Ordering::Release);
            std::mem::take(&mut *tasks)
        };
        tasks.abort_all();
        self.wake_watches();
        let ended = async { while tasks.join_next().await.is_some() {} };
        if clock::require_runtime().is_ok() {
            clock::timeout_at(clock::now().after(MAX_CLOSE), ended).await;
        }
        #[cfg(feature = "metrics")]
        self.report_end();
    }
}

/// The error of a read that needs the source after the resolver was closed.
pub(crate) fn closed() -> Error {
    Error::new(ErrorKind::Unavailable, "the resolver was closed")
        .with_hint("create another resolver")
}

/// A fetch that must be run, of the source at position `link`.
#[derive(Debug)]
pub(crate) struct PreparedFetch {
    pub(crate) link: usize,
    pub(crate) fetch: NewFetch,
}

/// Lets other tasks run after each [`CHUNK`] of keys.
pub(crate) async fn pause(count: usize) {
    if count % CHUNK == CHUNK - 1 {
        tokio::task::yield_now().await;
    }
}

/// Collects `items`, and lets other tasks run after each [`CHUNK`] of them.
pub(crate) async fn collect<T>(items: impl ExactSizeIterator<Item = T>) -> Vec<T> {
    let mut collected = Vec::with_capacity(items.len());
    for item in items {
        pause(collected.len()).await;
        collected.push(item);
    }
    collected
}
