//! The resolver's background task, which refreshes entries and updates their states over time.

use std::collections::BTreeSet;
use std::sync::{Arc, Weak};
use std::time::Duration;

use secretwell_core::SecretKey;
use secretwell_core::backend::{Change, ChangeStream};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::backoff::MIN_WAIT;
use crate::cache::EntryState;
use crate::shared::{Shared, missing_runtime};
use crate::state::ResolverState;

/// Change notifications within this time of each other cause only one fetch.
const NOTIFICATION_INTERVAL: Duration = Duration::from_millis(100);
/// The longest sleep of the refresher, if no entry changes its state earlier.
const IDLE: Duration = Duration::from_secs(3600);
/// A refresher that is this late is replaced by one on the runtime of a reader.
const OVERDUE: Duration = Duration::from_secs(1);

impl Shared {
    /// Prepares the start of the refresher, unless it is running and on time. A refresher is late if its
    /// runtime is not running. It then ends when it runs again. The caller must then call
    /// [`spawn_pending`](Self::spawn_pending).
    pub(crate) fn ensure_refresher(&self, state: &mut ResolverState) {
        let overdue = Instant::now() > state.refresher_due_at + OVERDUE;
        if !state.refresher_running || overdue {
            state.refresher_running = true;
            state.refresher_pending = true;
            state.refresher_generation += 1;
            state.refresher_due_at = Instant::now();
        }
    }

    /// Returns the time at which a refresher that did not act must be replaced. Returns `None` in a
    /// runtime that cannot run one.
    pub(crate) fn refresher_overdue_at(&self) -> Option<Instant> {
        let due = self.state().refresher_due_at;
        missing_runtime().is_none().then(|| due + OVERDUE * 2)
    }

    /// Updates the entries at time `now` and starts the fetches that are due. Returns the time of the
    /// next call, or `None` if a newer refresher has replaced this one.
    fn tick(self: &Arc<Self>, now: Instant, generation: u64) -> Option<Instant> {
        let mut state = self.state();
        if state.refresher_generation != generation {
            return None;
        }
        let mut sweep = Sweep {
            next: now + IDLE,
            now,
            batch: BTreeSet::new(),
        };
        let mut unusable = Vec::new();
        let mut states_changed = false;
        // If a batch needs only one round trip, refreshes that are due soon join the batch.
        let early = if self.provider.capabilities().batch {
            self.config.ttl / 8
        } else {
            Duration::ZERO
        };
        let mut early_refreshes = BTreeSet::new();

        self.cache.for_each(|key, entry| {
            let times = entry.times;
            if now >= times.unusable_at {
                unusable.push(key.clone());
                return;
            }
            if now >= times.expires_at {
                if !entry.is_outdated() {
                    entry.set_state(EntryState::Expired);
                    states_changed = true;
                }
            } else {
                sweep.wake_at(times.expires_at);
            }
            sweep.wake_at(times.unusable_at);
            if state.in_flight.contains_key(key) {
                return;
            }
            let failure = state.failures.get(key);
            let due_at = failure.map_or(times.refresh_at, |failure| failure.retry_at);
            if !entry.is_used() && !state.is_watched(key) {
                if now >= due_at && entry.state() == EntryState::Fresh {
                    entry.set_state(EntryState::Due);
                } else if now < due_at {
                    sweep.wake_at(due_at);
                }
            } else if !sweep.fetch_if_due(key, due_at) && failure.is_none() && due_at <= now + early
            {
                early_refreshes.insert(key.clone());
            }
        });
        for key in unusable {
            states_changed |= self.cache.remove(&key);
        }
        for key in state.watched.keys() {
            if !state.in_flight.contains_key(key) && self.cache.peek(key, |_| ()).is_none() {
                sweep.fetch_if_due(
                    key,
                    state
                        .failures
                        .get(key)
                        .map_or(now, |failure| failure.retry_at),
                );
            }
        }

        let Sweep {
            mut next,
            mut batch,
            ..
        } = sweep;
        if !batch.is_empty() {
            batch.append(&mut early_refreshes);
            if self.prepare_allowed_fetch(&mut state, batch, now).is_err() {
                let breaker = state.breaker.open_until().unwrap_or(now);
                let budget = state.budget.next_at(now);
                next = next.min(breaker.max(budget).max(now + MIN_WAIT / 10));
            }
        }
        state.refresher_due_at = next;
        drop(state);
        self.spawn_pending();
        if states_changed {
            self.notify_watches();
        }
        Some(next)
    }

    /// Invalidates the entries that `change` covers. Fetches used and watched ones immediately, and the
    /// others on the next read.
    fn on_notification(self: &Arc<Self>, change: &Change) {
        let mut state = self.state();
        let mut batch: BTreeSet<SecretKey> = state
            .watched
            .keys()
            .filter(|key| change.covers(key))
            .cloned()
            .collect();
        // A fetch that started before the change might return the old value.
        batch.extend(
            state
                .in_flight
                .keys()
                .filter(|key| change.covers(key))
                .cloned(),
        );
        self.cache.for_each(|key, entry| {
            if change.covers(key) {
                entry.set_state(EntryState::Invalidated);
                if entry.is_used() {
                    batch.insert(key.clone());
                }
            }
        });
        state.failures.retain(|key, _| !change.covers(key));
        self.prepare_forced_fetch(&mut state, batch);
        drop(state);
        self.spawn_pending();
    }

    /// Invalidates all entries after the refresher has stopped. Without it, entries do not expire and
    /// change notifications are not received, so every read must fetch from the source.
    pub(crate) fn refresher_stopped(&self, generation: u64) {
        let mut state = self.state();
        if state.refresher_generation != generation {
            return;
        }
        state.refresher_running = false;
        drop(state);
        self.cache
            .for_each(|_, entry| entry.set_state(EntryState::Invalidated));
    }
}

/// The result of one pass over the entries.
struct Sweep {
    now: Instant,
    /// The earliest time at which an entry needs attention.
    next: Instant,
    /// The keys that are due for a fetch.
    batch: BTreeSet<SecretKey>,
}

impl Sweep {
    fn wake_at(&mut self, at: Instant) {
        if at > self.now {
            self.next = self.next.min(at);
        }
    }

    /// Adds `key` to the batch if `due_at` has passed. Returns whether it has.
    fn fetch_if_due(&mut self, key: &SecretKey, due_at: Instant) -> bool {
        let due = due_at <= self.now;
        if due {
            self.batch.insert(key.clone());
        } else {
            self.wake_at(due_at);
        }
        due
    }
}

pub(crate) struct Refresher {
    shared: Weak<Shared>,
    generation: u64,
    wake: Arc<Notify>,
    notifications: Option<ChangeStream>,
}

impl Refresher {
    /// Creates the refresher and subscribes to the provider's change notifications.
    pub(crate) fn new(shared: &Arc<Shared>, generation: u64) -> Self {
        let mut refresher = Self {
            shared: Arc::downgrade(shared),
            generation,
            wake: shared.wake.clone(),
            notifications: None,
        };
        // The refresher must exist before this call. If `watch` panics, its `Drop` marks the refresher
        // as stopped.
        refresher.notifications = shared.provider.watch();
        refresher
    }

    pub(crate) async fn run(mut self) {
        let mut listen_from = Instant::now();
        loop {
            let Some(next) = self
                .shared
                .upgrade()
                .and_then(|shared| shared.tick(Instant::now(), self.generation))
            else {
                return;
            };
            tokio::select! {
                () = tokio::time::sleep_until(next) => {}
                () = self.wake.notified() => {}
                change = next_notification(&mut self.notifications, listen_from) => {
                    listen_from = Instant::now() + NOTIFICATION_INTERVAL;
                    if let Some(shared) = self.shared.upgrade() {
                        shared.on_notification(&change);
                    }
                }
            }
        }
    }
}

/// Waits until `from`, then for the next change notification. Never returns if there is no stream or
/// the stream has ended.
async fn next_notification(notifications: &mut Option<ChangeStream>, from: Instant) -> Change {
    tokio::time::sleep_until(from).await;
    while let Some(stream) = notifications {
        match stream.next().await {
            Some(Ok(change)) => return change,
            Some(Err(error)) => {
                tracing::warn!(target: "secretwell::resolver", event = "watch_failed", %error, "change notifications were lost; all secrets are read again");
                return Change::All;
            }
            None => *notifications = None,
        }
    }
    std::future::pending().await
}

impl Drop for Refresher {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.upgrade() {
            shared.refresher_stopped(self.generation);
            // A watch in another, running runtime starts a new refresher there.
            shared.notify_watches();
        }
    }
}
