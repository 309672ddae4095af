//! [`Refreshes`]: when the secrets are read again because they might have changed.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::source::Results;
use crate::state::Generation;

/// The minimum time between the starts of two refreshes. Forged requests, and a service that rejects valid
/// credentials, cause at most one read of the source in this time.
pub(crate) const REFRESH_INTERVAL: Duration = Duration::from_secs(10);

/// The refreshes of one auth for one reason. Concurrent callers share one.
#[derive(Debug, Default)]
pub(crate) struct Refreshes(Mutex<Option<Refresh>>);

/// A refresh that was started.
#[derive(Debug, Clone)]
pub(crate) struct Refresh {
    started: Instant,
    /// The number of attempts of the rebuild task before this refresh.
    pub(crate) attempts: u64,
    /// The sender is dropped when the refresh ends, also if its runtime is shut down.
    ended: watch::Receiver<Ended>,
}

/// What a refresh has found. The results are empty if it was not completed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ended {
    pub(crate) results: Results,
    /// The generation of the build when the results were there. Later builds consider these or newer results.
    pub(crate) generation: Generation,
}

impl Refreshes {
    /// Returns the last refresh. If none has started within [`REFRESH_INTERVAL`], also returns the sender of
    /// a new one, which the caller must start.
    ///
    /// `deadline` is the maximum duration of a refresh. `attempts` is the number of attempts so far.
    pub(crate) fn join(
        &self,
        now: Instant,
        deadline: Duration,
        attempts: u64,
    ) -> (Refresh, Option<watch::Sender<Ended>>) {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(refresh) = last
            .as_ref()
            .filter(|refresh| refresh.is_recent(now, deadline))
        {
            return (refresh.clone(), None);
        }
        let (sender, ended) = watch::channel(Ended::default());
        let refresh = Refresh {
            started: now,
            attempts,
            ended,
        };
        let before = last.replace(refresh.clone());
        drop(last);
        // The errors of a source are foreign code.
        drop(before);
        (refresh, Some(sender))
    }
}

impl Refresh {
    /// Returns whether another refresh must not start at `now`.
    fn is_recent(&self, now: Instant, deadline: Duration) -> bool {
        let age = now.saturating_duration_since(self.started);
        let is_running = self.ended.has_changed().is_ok();
        // The task might belong to a runtime that does not run it.
        age < REFRESH_INTERVAL || is_running && age < deadline.saturating_add(REFRESH_INTERVAL)
    }

    /// Waits for the end of the refresh.
    pub(crate) async fn ended(&mut self) -> Ended {
        while self.ended.changed().await.is_ok() {}
        self.ended.borrow().clone()
    }
}

/// Returns whether a read has returned a value that differs from that of an earlier read of the same keys.
pub(crate) fn has_changed(before: &Results, after: &Results) -> bool {
    let mut pairs = before.iter().zip(after);
    pairs.any(|pair| match pair {
        (Ok(before), Ok(after)) => before.value != after.value,
        (Err(_), Ok(_)) => true,
        (_, Err(_)) => false,
    })
}
