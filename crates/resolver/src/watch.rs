//! Waiting for secrets to change.

use std::sync::Arc;

use crate::shared::Shared;
use secretwell_core::{ErrorKind, SecretKey};

/// Keeps some keys fresh and tells when one of them changes. Made by
/// [`Resolver::watch`](crate::Resolver::watch).
///
/// For as long as the watch lives, its keys are read again in the background whether anybody uses
/// them or not, absent ones are looked for, and none of them is evicted.
#[derive(Debug)]
pub struct Watch {
    shared: Arc<Shared>,
    changes: tokio::sync::watch::Receiver<u64>,
    seen: Vec<(SecretKey, Snapshot)>,
}

/// What a watch sees of a key: a fingerprint of its value, and whether something is the matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Snapshot {
    value: Option<u64>,
    trouble: Option<ErrorKind>,
}

impl Watch {
    pub(crate) fn new(shared: Arc<Shared>, keys: &[SecretKey]) -> Self {
        let changes = shared.changes();
        {
            let mut state = shared.state();
            for key in keys {
                *state.watched.entry(key.clone()).or_default() += 1;
            }
        }
        shared.wake.notify_one();
        let seen = keys
            .iter()
            .map(|key| (key.clone(), snapshot(&shared, key)))
            .collect();
        Self {
            shared,
            changes,
            seen,
        }
    }

    /// Waits until a key has another value than it had when the watch was made or when this was
    /// last called, or until it starts or ceases to be absent, refused or stale. Returns these keys.
    ///
    /// A new version of an equal value is no change. Cancelling the wait loses nothing. Outside of a
    /// tokio runtime nothing is read, so nothing changes.
    pub async fn changed(&mut self) -> Vec<SecretKey> {
        loop {
            self.shared.ensure_refresher(&mut self.shared.state());
            self.shared.spawn_pending();
            // After that, so that a runtime that takes no more tasks does not have this spin.
            self.changes.borrow_and_update();
            let mut changed = Vec::new();
            for (key, seen) in &mut self.seen {
                let now = snapshot(&self.shared, key);
                if now != *seen {
                    *seen = now;
                    changed.push(key.clone());
                }
            }
            if !changed.is_empty() {
                return changed;
            }
            if self.changes.changed().await.is_err() {
                // The sender lives in `shared`, which this watch holds.
                std::future::pending::<()>().await;
            }
        }
    }
}

fn snapshot(shared: &Shared, key: &SecretKey) -> Snapshot {
    let failure = shared
        .state()
        .failures
        .get(key)
        .map(|failure| failure.error.kind());
    let cached = shared.cache.peek(key, |entry| {
        (entry.resolved.value.fingerprint(), entry.is_past())
    });
    match cached {
        Some((value, past_ttl)) => Snapshot {
            value: Some(value),
            trouble: failure.filter(|_| past_ttl),
        },
        None => Snapshot {
            value: None,
            trouble: failure,
        },
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        for (key, _) in &self.seen {
            if let Some(count) = state.watched.get_mut(key) {
                *count -= 1;
                if *count == 0 {
                    state.watched.remove(key);
                }
            }
        }
    }
}
