//! The resolver's one background task: keeps the time for every entry, so that no reader has to.

use std::collections::BTreeSet;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::cache::EntryState;
use crate::shared::Shared;
use crate::state::ResolverState;
use secretwell_core::SecretKey;
use secretwell_core::backend::{Change, ChangeStream};

/// Notices that follow each other within this time lead to one reading.
const NOTIFICATION_INTERVAL: Duration = Duration::from_millis(100);
/// How long the refresher sleeps when there is nothing to keep.
const IDLE: Duration = Duration::from_secs(3600);

impl Shared {
    /// Has the refresher started, unless it runs. It sets out with [`spawn_pending`](Self::spawn_pending).
    pub(crate) fn ensure_refresher(&self, state: &mut ResolverState) {
        if !state.refresher_running {
            state.refresher_running = true;
            state.refresher_pending = true;
        }
    }

    /// Does what is due at `now` and returns when to snapshot again.
    fn tick(self: &Arc<Self>, now: Instant) -> Instant {
        let mut state = self.state();
        let mut round = Sweep {
            next: now + IDLE,
            now,
            batch: BTreeSet::new(),
        };
        let mut dead = Vec::new();
        let mut aged = false;
        // Where a batch costs one round trip, what is due soon comes along.
        let early = if self.provider.capabilities().batch {
            self.config.ttl / 8
        } else {
            Duration::ZERO
        };
        let mut early_refreshes = BTreeSet::new();

        self.cache.for_each(|key, entry| {
            let times = entry.times;
            if now >= times.unusable {
                dead.push(key.clone());
                return;
            }
            if now >= times.expires {
                if !entry.is_past() {
                    entry.set_state(EntryState::Expired);
                    aged = true;
                }
            } else {
                round.note(times.expires);
            }
            round.note(times.unusable);
            if state.in_flight.contains_key(key) {
                return;
            }
            let failure = state.failures.get(key);
            let due_at = failure.map_or(times.refresh, |failure| failure.retry_at);
            if !entry.is_used() && !state.is_watched(key) {
                if now >= due_at && entry.state() == EntryState::Fresh {
                    entry.set_state(EntryState::Due);
                } else if now < due_at {
                    round.note(due_at);
                }
            } else if !round.take(key, due_at) && failure.is_none() && due_at <= now + early {
                early_refreshes.insert(key.clone());
            }
        });
        for key in dead {
            aged |= self.cache.remove(&key);
        }
        for key in state.watched.keys() {
            if !state.in_flight.contains_key(key) && self.cache.peek(key, |_| ()).is_none() {
                round.take(
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
        } = round;
        if !batch.is_empty() {
            batch.append(&mut early_refreshes);
            if self.launch(&mut state, batch, now).is_err() {
                let breaker = state.breaker.open_until().unwrap_or(now);
                let budget = state.budget.next_at(now);
                next = next.min(breaker.max(budget).max(now + crate::backoff::FLOOR / 10));
            }
        }
        drop(state);
        self.spawn_pending();
        if aged {
            self.notify_watches();
        }
        next
    }

    /// Reads again, at once, what a notice covers and somebody uses; the rest when it is asked for.
    fn on_notification(self: &Arc<Self>, change: &Change) {
        let mut state = self.state();
        let mut batch: BTreeSet<SecretKey> = state
            .watched
            .keys()
            .filter(|key| change.covers(key))
            .cloned()
            .collect();
        self.cache.for_each(|key, entry| {
            if change.covers(key) {
                entry.set_state(EntryState::Invalidated);
                if entry.is_used() {
                    batch.insert(key.clone());
                }
            }
        });
        state.failures.retain(|key, _| !change.covers(key));
        self.force(&mut state, batch);
        drop(state);
        self.spawn_pending();
    }

    /// The refresher is gone: nobody keeps the entries' time or hears the source's notifications, so every
    /// reader must ask the source first.
    pub(crate) fn refresher_stopped(&self) {
        self.state().refresher_running = false;
        self.cache
            .for_each(|_, entry| entry.set_state(EntryState::Invalidated));
    }
}

/// What one snapshot at the clock comes to.
struct Sweep {
    now: Instant,
    next: Instant,
    batch: BTreeSet<SecretKey>,
}

impl Sweep {
    fn note(&mut self, at: Instant) {
        if at > self.now {
            self.next = self.next.min(at);
        }
    }

    fn take(&mut self, key: &SecretKey, due_at: Instant) -> bool {
        let due = due_at <= self.now;
        if due {
            self.batch.insert(key.clone());
        } else {
            self.note(due_at);
        }
        due
    }
}

pub(crate) struct Refresher {
    shared: Weak<Shared>,
    wake: Arc<Notify>,
    notifications: Option<ChangeStream>,
}

impl Refresher {
    /// A refresher that listens from now on.
    pub(crate) fn new(shared: &Arc<Shared>) -> Self {
        let mut refresher = Self {
            shared: Arc::downgrade(shared),
            wake: shared.wake.clone(),
            notifications: None,
        };
        // Once it is there, so that a panic in here orphans the resolver instead of fooling it.
        refresher.notifications = shared.provider.watch();
        refresher
    }

    pub(crate) async fn run(mut self) {
        let mut listen_from = Instant::now();
        loop {
            let Some(next) = self
                .shared
                .upgrade()
                .map(|shared| shared.tick(Instant::now()))
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

/// The next notice from `from` on; never, when there are none to come.
async fn next_notification(notifications: &mut Option<ChangeStream>, from: Instant) -> Change {
    tokio::time::sleep_until(from).await;
    while let Some(stream) = notifications {
        match stream.next().await {
            Some(Ok(change)) => return change,
            Some(Err(error)) => {
                tracing::warn!(target: "secretwell::resolver", event = "watch_failed", %error, "change notifications failed; secrets are refreshed by their ttl");
            }
            None => *notifications = None,
        }
    }
    std::future::pending().await
}

impl Drop for Refresher {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.upgrade() {
            shared.refresher_stopped();
            // A watch in a runtime that goes on starts another refresher there.
            shared.notify_watches();
        }
    }
}
