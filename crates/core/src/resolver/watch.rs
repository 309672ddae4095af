//! Waiting for secrets to change.

use std::sync::Arc;

use super::shared::Shared;
use crate::{ErrorKind, SecretKey};

/// Keeps some keys fresh and tells when one of them changes. Made by
/// [`Resolver::watch`](super::Resolver::watch).
///
/// For as long as the watch lives, its keys are read again in the background whether anybody uses
/// them or not, absent ones are looked for, and none of them is evicted.
#[derive(Debug)]
pub struct Watch {
    shared: Arc<Shared>,
    news: tokio::sync::watch::Receiver<u64>,
    seen: Vec<(SecretKey, Sight)>,
}

/// What a watch sees of a key: a fingerprint of its value, and whether something is the matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sight {
    value: Option<u64>,
    trouble: Option<ErrorKind>,
}

impl Watch {
    pub(super) fn new(shared: Arc<Shared>, keys: &[SecretKey]) -> Self {
        let news = shared.news();
        {
            let mut ledger = shared.ledger();
            for key in keys {
                *ledger.pins.entry(key.clone()).or_default() += 1;
            }
        }
        shared.wake.notify_one();
        let seen = keys
            .iter()
            .map(|key| (key.clone(), look(&shared, key)))
            .collect();
        Self { shared, news, seen }
    }

    /// Waits until a key has another value than it had when the watch was made or when this was
    /// last called, or until it starts or ceases to be absent, refused or stale. Returns these keys.
    ///
    /// A new version of an equal value is no change. Cancelling the wait loses nothing. Outside of a
    /// tokio runtime nothing is read, so nothing changes.
    pub async fn changed(&mut self) -> Vec<SecretKey> {
        loop {
            self.shared.ensure_keeper(&mut self.shared.ledger());
            self.shared.set_out();
            // After that, so that a runtime that takes no more tasks does not have this spin.
            self.news.borrow_and_update();
            let mut changed = Vec::new();
            for (key, seen) in &mut self.seen {
                let now = look(&self.shared, key);
                if now != *seen {
                    *seen = now;
                    changed.push(key.clone());
                }
            }
            if !changed.is_empty() {
                return changed;
            }
            if self.news.changed().await.is_err() {
                // The sender lives in `shared`, which this watch holds.
                std::future::pending::<()>().await;
            }
        }
    }
}

fn look(shared: &Shared, key: &SecretKey) -> Sight {
    let failure = shared
        .ledger()
        .failures
        .get(key)
        .map(|failure| failure.error.kind());
    let held = shared.cache.peek(key, |entry| {
        (entry.resolved.value.fingerprint(), entry.is_past())
    });
    match held {
        Some((value, past_ttl)) => Sight {
            value: Some(value),
            trouble: failure.filter(|_| past_ttl),
        },
        None => Sight {
            value: None,
            trouble: failure,
        },
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut ledger = self.shared.ledger();
        for (key, _) in &self.seen {
            if let Some(count) = ledger.pins.get_mut(key) {
                *count -= 1;
                if *count == 0 {
                    ledger.pins.remove(key);
                }
            }
        }
    }
}
