//! Watches, which wait for secrets to change.

use std::sync::Arc;

use secretwell_core::{ErrorKind, SecretKey};

use crate::shared::Shared;

/// A watch on some keys. Created by [`Resolver::watch`](crate::Resolver::watch).
///
/// While the watch exists, its keys are refreshed in the background even if they are not read. Absent
/// keys are polled. Cached values of watched keys are never evicted.
#[derive(Debug)]
pub struct Watch {
    shared: Arc<Shared>,
    changes: tokio::sync::watch::Receiver<u64>,
    snapshots: Vec<(SecretKey, Snapshot)>,
}

/// The state of a key that a watch compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Snapshot {
    /// The fingerprint of the cached value.
    value: Option<u64>,
    /// The kind of the last error, if no fresh value is cached.
    failure: Option<ErrorKind>,
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
        let snapshots = keys
            .iter()
            .map(|key| (key.clone(), snapshot(&shared, key)))
            .collect();
        Self {
            shared,
            changes,
            snapshots,
        }
    }

    /// Waits until at least one key has changed, and returns the changed keys.
    ///
    /// A key changes when its value changes. It also changes when it becomes absent, refused or stale,
    /// and when it recovers. A new version with an equal value is not a change. Changes are relative to
    /// the last call, or to the creation of the watch.
    ///
    /// Cancellation is safe: no change is lost. Outside of a tokio runtime, secrets are not refreshed,
    /// so no change is detected.
    pub async fn changed(&mut self) -> Vec<SecretKey> {
        loop {
            self.shared.ensure_refresher(&mut self.shared.state());
            self.shared.spawn_pending();
            // This must follow `spawn_pending`. If the runtime is shutting down, the dropped refresher
            // increments the counter, and this loop would spin.
            self.changes.borrow_and_update();
            let mut changed = Vec::new();
            for (key, last) in &mut self.snapshots {
                let current = snapshot(&self.shared, key);
                if current != *last {
                    *last = current;
                    changed.push(key.clone());
                }
            }
            if !changed.is_empty() {
                return changed;
            }
            let due = self.shared.refresher_overdue_at();
            match due {
                // The refresher might belong to a runtime that is not running.
                Some(due) => drop(tokio::time::timeout_at(due, self.changes.changed()).await),
                None => drop(self.changes.changed().await),
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
        (entry.resolved.value.fingerprint(), entry.is_outdated())
    });
    match cached {
        Some((value, outdated)) => Snapshot {
            value: Some(value),
            failure: failure.filter(|_| outdated),
        },
        None => Snapshot {
            value: None,
            failure,
        },
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        for (key, _) in &self.snapshots {
            if let Some(count) = state.watched.get_mut(key) {
                *count -= 1;
                if *count == 0 {
                    state.watched.remove(key);
                }
            }
        }
    }
}
