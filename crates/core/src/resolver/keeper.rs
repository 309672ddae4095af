//! The resolver's one background task: keeps the time for every entry, so that no reader has to.

use std::collections::BTreeSet;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::cache::State;
use super::ledger::Ledger;
use super::shared::Shared;
use crate::{Change, ChangeStream, SecretKey};

/// Notices that follow each other within this time lead to one reading.
const NOTICE_INTERVAL: Duration = Duration::from_millis(100);
/// How long the keeper sleeps when there is nothing to keep.
const IDLE: Duration = Duration::from_secs(3600);

impl Shared {
    /// Has the keeper started, unless it runs. It sets out with [`set_out`](Self::set_out).
    pub(crate) fn ensure_keeper(&self, ledger: &mut Ledger) {
        if !ledger.keeper_runs {
            ledger.keeper_runs = true;
            ledger.keeper_wanted = true;
        }
    }

    /// Does what is due at `now` and returns when to look again.
    fn tick(self: &Arc<Self>, now: Instant) -> Instant {
        let mut ledger = self.ledger();
        let mut round = Round {
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
        let mut companions = BTreeSet::new();

        self.cache.for_each(|key, entry| {
            let times = entry.times;
            if now >= times.unusable {
                dead.push(key.clone());
                return;
            }
            if now >= times.expires {
                if !entry.is_past() {
                    entry.set_state(State::Held);
                    aged = true;
                }
            } else {
                round.note(times.expires);
            }
            round.note(times.unusable);
            if ledger.flights.contains_key(key) {
                return;
            }
            let failure = ledger.failures.get(key);
            let due_at = failure.map_or(times.refresh, |failure| failure.retry_at);
            if !entry.is_used() && !ledger.is_pinned(key) {
                if now >= due_at && entry.state() == State::Fresh {
                    entry.set_state(State::Due);
                } else if now < due_at {
                    round.note(due_at);
                }
            } else if !round.take(key, due_at) && failure.is_none() && due_at <= now + early {
                companions.insert(key.clone());
            }
        });
        for key in dead {
            aged |= self.cache.remove(&key);
        }
        for key in ledger.pins.keys() {
            if !ledger.flights.contains_key(key) && self.cache.peek(key, |_| ()).is_none() {
                round.take(
                    key,
                    ledger
                        .failures
                        .get(key)
                        .map_or(now, |failure| failure.retry_at),
                );
            }
        }

        let Round {
            mut next,
            mut batch,
            ..
        } = round;
        if !batch.is_empty() {
            batch.append(&mut companions);
            if self.launch(&mut ledger, batch, now).is_err() {
                let breaker = ledger.breaker.open_until().unwrap_or(now);
                let budget = ledger.budget.next_at(now);
                next = next.min(breaker.max(budget).max(now + super::backoff::FLOOR / 10));
            }
        }
        drop(ledger);
        self.set_out();
        if aged {
            self.tell();
        }
        next
    }

    /// Reads again, at once, what a notice covers and somebody uses; the rest when it is asked for.
    fn on_notice(self: &Arc<Self>, change: &Change) {
        let mut ledger = self.ledger();
        let mut batch: BTreeSet<SecretKey> = ledger
            .pins
            .keys()
            .filter(|key| change.covers(key))
            .cloned()
            .collect();
        self.cache.for_each(|key, entry| {
            if change.covers(key) {
                entry.set_state(State::Suspect);
                if entry.is_used() {
                    batch.insert(key.clone());
                }
            }
        });
        ledger.failures.retain(|key, _| !change.covers(key));
        self.force(&mut ledger, batch);
        drop(ledger);
        self.set_out();
    }

    /// The keeper is gone: nobody keeps the entries' time or hears the source's notices, so every
    /// reader must ask the source first.
    pub(crate) fn orphan(&self) {
        self.ledger().keeper_runs = false;
        self.cache
            .for_each(|_, entry| entry.set_state(State::Suspect));
    }
}

/// What one look at the clock comes to.
struct Round {
    now: Instant,
    next: Instant,
    batch: BTreeSet<SecretKey>,
}

impl Round {
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

pub(crate) struct Keeper {
    shared: Weak<Shared>,
    wake: Arc<Notify>,
    notices: Option<ChangeStream>,
}

impl Keeper {
    /// A keeper that listens from now on.
    pub(crate) fn new(shared: &Arc<Shared>) -> Self {
        let mut keeper = Self {
            shared: Arc::downgrade(shared),
            wake: shared.wake.clone(),
            notices: None,
        };
        // Once it is there, so that a panic in here orphans the resolver instead of fooling it.
        keeper.notices = shared.provider.watch();
        keeper
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
                change = next_notice(&mut self.notices, listen_from) => {
                    listen_from = Instant::now() + NOTICE_INTERVAL;
                    if let Some(shared) = self.shared.upgrade() {
                        shared.on_notice(&change);
                    }
                }
            }
        }
    }
}

/// The next notice from `from` on; never, when there are none to come.
async fn next_notice(notices: &mut Option<ChangeStream>, from: Instant) -> Change {
    tokio::time::sleep_until(from).await;
    while let Some(stream) = notices {
        match stream.next().await {
            Some(Ok(change)) => return change,
            Some(Err(error)) => {
                tracing::warn!(%error, "changes are not told at the moment; looking by the ttl");
            }
            None => *notices = None,
        }
    }
    std::future::pending().await
}

impl Drop for Keeper {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.upgrade() {
            shared.orphan();
            // A watch in a runtime that goes on starts another keeper there.
            shared.tell();
        }
    }
}
