//! The resolver's background task. It refreshes entries before they expire, polls watched keys, and handles
//! the change notifications of the sources.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Weak};
use std::task::Poll;
use std::time::Duration;

use secretwell_core::SecretKey;
use secretwell_core::backend::{Change, ChangeStream};
use tokio::sync::Notify;

use crate::backoff::{MIN_PAUSE, MIN_WAIT};
use crate::clock::{self, Time, require_runtime, sleep_until};
use crate::counters::Count;
use crate::decide::due_at;
use crate::entry::{Failure, Mark};
use crate::link::{FORCE_INTERVAL, LinkState};
use crate::settle::MIN_LEASE_REFRESH;
use crate::shared::{CHUNK, PreparedFetch, Shared};
use crate::signal::Signal;
use crate::source::Source;

/// Change notifications within this time of each other cause only one fetch.
const NOTIFICATION_INTERVAL: Duration = Duration::from_millis(100);
/// The longest sleep of the refresher.
const IDLE: Duration = Duration::from_secs(3600);
/// The longest time for one round of the refresher.
const MAX_ROUND: Duration = Duration::from_secs(5);
/// The longest wait before an ended stream of notifications is opened again.
const MAX_REOPEN_WAIT: Duration = Duration::from_secs(300);

impl Shared {
    /// Starts a refresher on this runtime, unless one is running and on time.
    pub(crate) fn start_refresher(self: &Arc<Self>) {
        // The concurrency test has no timers, so it has no refresher.
        if self.is_closed() || cfg!(all(test, shuttle)) || require_runtime().is_err() {
            return;
        }
        let Some((generation, wake)) = self.new_refresher(clock::now()) else {
            return;
        };
        // The refresher subscribes to change notifications before the first fetch, so that no change is
        // missed in between.
        let refresher = Refresher::new(self, generation, wake);
        self.spawn(refresher.run());
    }

    /// Handles the keys of the source at `link` that need attention now. Returns the time of the next call.
    async fn tick(self: &Arc<Self>, link: usize) -> Time {
        let source = &self.sources[link];
        let now = clock::now();
        let mut due = DueKeys::default();
        let mut more = true;
        while more {
            let (mut signals, mut removed) = (Vec::new(), Vec::new());
            {
                let mut state = source.state();
                for _ in 0..CHUNK {
                    let Some(key) = state.pop(now) else {
                        more = false;
                        break;
                    };
                    let checked = Checked {
                        due: &mut due,
                        signals: &mut signals,
                        removed: &mut removed,
                    };
                    self.check_key(&mut state, link, key, now, checked);
                }
            }
            self.moved(link, &removed, now);
            Self::send(signals);
            if more {
                tokio::task::yield_now().await;
            }
        }
        if source.settings.batch && !due.is_empty() {
            self.add_early_refreshes(link, now, &mut due);
        }
        self.fetch_due(link, due, now).await;
        let next = source.state().next();
        next.map_or(now.after(IDLE), |next| next.min(now.after(IDLE)))
    }

    /// Removes the entry of a key, adds the key to `due`, or plans its next check.
    fn check_key(
        &self,
        state: &mut LinkState,
        link: usize,
        key: SecretKey,
        now: Time,
        checked: Checked<'_>,
    ) {
        let source = &self.sources[link];
        let is_watched = state.is_watched(&key);
        state.drop_lost(&key, now);
        let times = source.cache.peek(&key, |entry| entry.times);
        let mut earliest = now;
        if let Some(times) = times.filter(|times| now >= times.unusable_at) {
            state.remove(&source.cache, &key);
            checked.removed.push(key.clone());
            // A value that was valid for a short time only is not fetched in a loop.
            earliest = earliest.max(times.fetched_at.after(MIN_LEASE_REFRESH));
        }
        if times.is_none_or(|times| now >= times.expires_at) {
            checked.signals.extend_from_slice(state.signals(&key));
        }
        let found_later = self.found_later(link, &key, now);
        let is_due = source.cache.with(&key, |entry| {
            let known = state.known(entry, &key);
            let is_used = is_watched || entry.is_some_and(|entry| entry.is_used());
            is_used && !known.is_settling() && earliest.max(due_at(&known, found_later)) <= now
        });
        if !is_due {
            state.plan(&source.cache, &key, earliest, now, found_later);
        } else if self.reaches(link, &key, now) {
            checked.due.add(state, key, found_later);
        } else {
            // A source before this one has the key. When that changes, another check is planned.
            let cached = source
                .cache
                .peek(&key, |entry| (entry.slot, entry.times.unusable_at));
            if let Some((slot, unusable_at)) = cached {
                state.slots.plan(slot, unusable_at);
            }
        }
    }

    /// Adds the refreshes that are due soon, because a batch needs only one round trip.
    fn add_early_refreshes(&self, link: usize, now: Time, due: &mut DueKeys) {
        let source = &self.sources[link];
        let early = now.after(source.settings.ttl / 8);
        let state = source.state();
        for key in state.slots.planned(early).take(CHUNK) {
            let found_later = self.found_later(link, key, now);
            let joins = source.cache.with(key, |entry| {
                let known = state.known(entry, key);
                let is_used = entry.is_some_and(|entry| entry.is_used() || state.is_watched(key));
                let is_absence = |failure: &Failure| failure.error.is_not_found();
                let is_refresh = known
                    .failure
                    .is_none_or(|failure| found_later && is_absence(failure));
                is_used && is_refresh && !known.fetching && early >= due_at(&known, found_later)
            });
            if joins && self.reaches(link, key, now) {
                due.add(&state, key.clone(), found_later);
            }
        }
    }

    /// Fetches the keys that are due. If no fetch is possible now, plans another check of them.
    async fn fetch_due(self: &Arc<Self>, link: usize, due: DueKeys, now: Time) {
        let source = &self.sources[link];
        let mut retries = Some(due.retries);
        let mut chunks: Vec<&[SecretKey]> = due.refreshes.chunks(CHUNK).collect();
        if chunks.is_empty() {
            chunks.push(&[]);
        }
        for (index, refreshes) in chunks.into_iter().enumerate() {
            if index > 0 {
                tokio::task::yield_now().await;
            }
            let retries = retries.take().unwrap_or_default();
            if refreshes.is_empty() && retries.is_empty() {
                continue;
            }
            let prepared = {
                let mut state = source.state();
                let prepared =
                    state.prepare_fetch(&source.cache, refreshes.to_vec(), retries.clone(), now);
                let blocked_until = prepared.is_err().then(|| {
                    let breaker = state.breaker.open_until().unwrap_or(now);
                    let budget = state.budget.next_at(now);
                    breaker.max(budget).max(now.after(MIN_PAUSE))
                });
                let earliest = blocked_until.unwrap_or(now);
                for key in refreshes.iter().chain(&retries) {
                    let found_later = self.found_later(link, key, now);
                    state.plan(&source.cache, key, earliest, now, found_later);
                }
                prepared
            };
            let prepared = prepared.ok().flatten();
            self.run(prepared.map(|fetch| PreparedFetch { link, fetch }));
        }
    }

    /// Marks the entries that `change` covers. Fetches used and watched ones immediately, and the others on
    /// the next read.
    async fn on_notification(self: &Arc<Self>, link: usize, change: &Change) {
        let source = &self.sources[link];
        match change {
            Change::Keys(keys) => {
                let keys: Vec<&SecretKey> = keys.iter().collect();
                for keys in keys.chunks(CHUNK) {
                    self.mark_changed(link, keys.iter().map(|key| (*key).clone()).collect());
                    tokio::task::yield_now().await;
                }
            }
            _ => {
                let others: Vec<SecretKey> = {
                    let state = source.state();
                    state
                        .watched()
                        .chain(state.in_flight.keys())
                        .cloned()
                        .collect()
                };
                for keys in others.chunks(CHUNK) {
                    self.mark_changed(link, keys.to_vec());
                    tokio::task::yield_now().await;
                }
                for first in (0..).step_by(CHUNK) {
                    let cached = source.state().slots.keys(first, CHUNK);
                    let Some(keys) = cached else { break };
                    self.mark_changed(link, keys);
                    tokio::task::yield_now().await;
                }
                let mut numbers = 0..source.state().failures.next_number();
                loop {
                    let failed = source.state().failures.keys(numbers.clone(), CHUNK);
                    let Some((last, _)) = failed.last() else {
                        break;
                    };
                    numbers.start = last + 1;
                    self.mark_changed(link, failed.into_iter().map(|(_, key)| key).collect());
                    tokio::task::yield_now().await;
                }
            }
        }
        self.wake_refresher();
    }

    /// Handles that the values of `keys` might have changed.
    pub(crate) fn mark_changed(self: &Arc<Self>, link: usize, keys: Vec<SecretKey>) {
        let source = &self.sources[link];
        let now = clock::now();
        let (mut fetches, mut later) = (Vec::new(), Vec::new());
        let mut state = source.state();
        for key in &keys {
            let is_used = state.mark(&source.cache, key, Mark::Changed);
            state.recover(key);
            // A fetch that started before the change might return the old value.
            let started = state.in_flight.started(key).map(|fetch| fetch.created_at);
            state.in_flight.outdate(key);
            let is_needed = (is_used || state.is_watched(key)) && self.reaches(link, key, now);
            match started {
                // A source that hangs is called again at most once per second.
                Some(at) if now < at.after(FORCE_INTERVAL) => {
                    later.push((key, at.after(FORCE_INTERVAL)));
                }
                None if !is_needed => {}
                _ => fetches.push(key.clone()),
            }
        }
        let prepared = state.prepare_forced_fetch(fetches.clone(), now);
        let mut earliest = now;
        if prepared.is_err() {
            let breaker = &state.breaker;
            let until = breaker.open_until().or(breaker.forced_until());
            earliest = now.after(MIN_PAUSE).max(until.unwrap_or(now));
        }
        later.extend(fetches.iter().map(|key| (key, earliest)));
        for (key, earliest) in later {
            state.plan(&source.cache, key, earliest, now, false);
        }
        drop(state);
        let prepared = prepared.ok().flatten();
        self.run(prepared.map(|fetch| PreparedFetch { link, fetch }));
    }
}

/// What a check of some keys collects.
struct Checked<'a> {
    due: &'a mut DueKeys,
    signals: &'a mut Vec<(Arc<Signal>, usize)>,
    /// The keys whose entries were removed.
    removed: &'a mut Vec<SecretKey>,
}

/// The keys that are fetched now.
#[derive(Default)]
struct DueKeys {
    refreshes: Vec<SecretKey>,
    /// Keys whose last fetch failed. The retry budget limits them.
    retries: Vec<SecretKey>,
}

impl DueKeys {
    fn is_empty(&self) -> bool {
        self.refreshes.is_empty() && self.retries.is_empty()
    }

    fn add(&mut self, state: &LinkState, key: SecretKey, found_later: bool) {
        let is_retry = state
            .failures
            .get(&key)
            .is_some_and(|failure| !(found_later && failure.error.is_not_found()));
        match is_retry {
            true => self.retries.push(key),
            false => self.refreshes.push(key),
        }
    }
}

struct Refresher {
    shared: Weak<Shared>,
    generation: u64,
    wake: Arc<Notify>,
    subscriptions: Vec<Subscription>,
}

impl Refresher {
    fn new(shared: &Arc<Shared>, generation: u64, wake: Arc<Notify>) -> Self {
        // Another refresher has listened before. Changes might have been missed since.
        let missed = generation > 1;
        Self {
            shared: Arc::downgrade(shared),
            generation,
            wake,
            subscriptions: shared
                .sources
                .iter()
                .map(|source| Subscription::new(source, missed))
                .collect(),
        }
    }

    async fn run(mut self) {
        loop {
            let (next, report_at) = {
                let Some(shared) = self.shared.upgrade() else {
                    return;
                };
                if !shared.is_newest_refresher(self.generation) {
                    return;
                }
                let now = clock::now();
                shared.promise(now.after(MAX_ROUND));
                let mut next = now.after(IDLE);
                for link in 0..shared.sources.len() {
                    next = next.min(shared.tick(link).await);
                }
                shared.promise(next);
                // Keys might have been planned meanwhile.
                for source in &shared.sources {
                    next = next.min(source.state().next().unwrap_or(next));
                }
                shared.expect_by(next);
                (next, shared.next_report())
            };
            tokio::select! {
                () = sleep_until(next) => {}
                () = self.wake.notified() => {}
                () = report_due(report_at) => {
                    #[cfg(feature = "metrics")]
                    if let Some(shared) = self.shared.upgrade() {
                        shared.report().await;
                    }
                }
                (link, notification) = next_notification(&mut self.subscriptions) => {
                    let Some(shared) = self.shared.upgrade() else {
                        return;
                    };
                    let counts = &shared.sources[link].counts;
                    let change = match notification {
                        Notification::Changed(change @ Change::Keys(_)) => {
                            counts.add(Count::ChangedKeys);
                            change
                        }
                        Notification::Changed(change) => {
                            counts.add(Count::ChangedAll);
                            change
                        }
                        Notification::Lost => {
                            counts.add(Count::LostChanges);
                            Change::All
                        }
                        Notification::Reopen if !shared.is_newest_refresher(self.generation) => {
                            return;
                        }
                        Notification::Reopen => {
                            self.subscriptions[link].open(&shared.sources[link]);
                            continue;
                        }
                    };
                    shared.on_notification(link, &change).await;
                }
            }
        }
    }
}

impl Drop for Refresher {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.upgrade() {
            shared.refresher_stopped(self.generation);
            // A watch in another, running runtime starts a new refresher there.
            shared.wake_watches();
        }
    }
}

/// The subscription to the change notifications of one source.
struct Subscription {
    stream: Option<ChangeStream>,
    /// Notifications are not read before this time.
    listen_from: Time,
    /// The time at which an ended stream is opened again.
    reopen_at: Option<Time>,
    reopen_wait: Duration,
    /// Whether changes might have been missed before the stream was opened.
    missed: bool,
}

enum Notification {
    Changed(Change),
    /// Notifications were lost, or might have been.
    Lost,
    Reopen,
}

impl Subscription {
    fn new(source: &Source, missed: bool) -> Self {
        let mut subscription = Self {
            stream: None,
            listen_from: clock::now(),
            reopen_at: None,
            reopen_wait: MIN_WAIT,
            missed,
        };
        if source.notifies {
            subscription.open(source);
            // Another thread might have read keys while this one subscribed.
            subscription.missed |= source.state().in_flight.has_fetched();
        }
        subscription
    }

    /// Opens the stream. If the provider panics, it is opened again later.
    fn open(&mut self, source: &Source) {
        let opened = catch_unwind(AssertUnwindSafe(|| source.provider().watch()));
        match opened {
            Ok(Some(stream)) => {
                self.stream = Some(stream);
                self.reopen_at = None;
            }
            // The source has no notifications after all.
            Ok(None) if !self.missed => self.reopen_at = None,
            Ok(None) => self.reopen_later(),
            Err(_) => {
                tracing::error!(target: "secretwell::resolver", event = "provider_panicked", origin = %source.origin, "the provider panicked in `watch`; it is called again later");
                self.reopen_later();
            }
        }
    }

    fn reopen_later(&mut self) {
        self.stream = None;
        self.missed = true;
        self.reopen_at = Some(clock::now().after(self.reopen_wait));
        self.reopen_wait = (self.reopen_wait * 2).min(MAX_REOPEN_WAIT);
    }

    /// Waits for the next notification. Never returns if the source has none.
    async fn next(&mut self) -> Notification {
        loop {
            let Some(stream) = &mut self.stream else {
                return match self.reopen_at {
                    Some(at) => {
                        sleep_until(at).await;
                        Notification::Reopen
                    }
                    None => std::future::pending().await,
                };
            };
            if std::mem::take(&mut self.missed) {
                return Notification::Lost;
            }
            sleep_until(self.listen_from).await;
            match stream.next().await {
                Some(Ok(change)) => {
                    self.reopen_wait = MIN_WAIT;
                    self.listen_from = clock::now().after(NOTIFICATION_INTERVAL);
                    return Notification::Changed(change);
                }
                Some(Err(error)) => {
                    tracing::warn!(target: "secretwell::resolver", event = "watch_failed", %error, "change notifications were lost; all secrets are read again");
                    self.listen_from = clock::now().after(NOTIFICATION_INTERVAL);
                    return Notification::Lost;
                }
                None => self.reopen_later(),
            }
        }
    }
}

/// Waits until `time`. Without the feature `metrics`, never returns, because nothing is reported.
async fn report_due(time: Time) {
    match cfg!(feature = "metrics") {
        true => sleep_until(time).await,
        false => std::future::pending().await,
    }
}

/// Waits for the next notification of any source. Cancellation loses no notification.
async fn next_notification(subscriptions: &mut [Subscription]) -> (usize, Notification) {
    let mut waits: Vec<_> = subscriptions
        .iter_mut()
        .map(|subscription| Box::pin(subscription.next()))
        .collect();
    std::future::poll_fn(|context| {
        for (link, wait) in waits.iter_mut().enumerate() {
            if let Poll::Ready(notification) = wait.as_mut().poll(context) {
                return Poll::Ready((link, notification));
            }
        }
        Poll::Pending
    })
    .await
}
