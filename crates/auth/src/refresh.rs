//! [`Refreshes`]: when the secrets are read again because they might have changed.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use secretwell_core::Error;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::source::Results;
use crate::state::Generation;

/// The limits of the time between the starts of two refreshes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    first: Duration,
    longest: Duration,
}

impl Pace {
    /// Forged requests cause at most one read of the source in 10 s.
    pub(crate) const STEADY: Self = Self {
        first: Duration::from_secs(10),
        longest: Duration::from_secs(10),
    };

    /// Two rotations can follow each other, so the second refresh may start after 1 s. A service that rejects valid
    /// credentials soon causes only one read of the source in a minute.
    pub(crate) const DOUBLING: Self = Self {
        first: Duration::from_secs(1),
        longest: Duration::from_secs(60),
    };

    /// Returns the minimum time between a refresh that starts at `now` and the following one. It doubles while each
    /// refresh follows the one before within twice the minimum time. A refresh that has failed does not count, because
    /// the resolver limits the calls of a source that fails.
    fn interval(self, last: Option<&Refresh>, now: Instant) -> Duration {
        match last {
            Some(last) if last.age(now) < 2 * last.interval => match last.has_succeeded() {
                true => (2 * last.interval).min(self.longest),
                false => last.interval,
            },
            _ => self.first,
        }
    }
}

/// The refreshes of one auth for one reason. Concurrent callers share one.
#[derive(Debug)]
pub(crate) struct Refreshes {
    pace: Pace,
    last: Mutex<Option<Refresh>>,
}

/// A refresh that was started.
#[derive(Debug, Clone)]
pub(crate) struct Refresh {
    started: Instant,
    /// The next refresh starts at least this long after this one.
    interval: Duration,
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
    pub(crate) fn new(pace: Pace) -> Self {
        Self {
            pace,
            last: Mutex::default(),
        }
    }

    /// Returns the last refresh. If another one may start, also returns the sender of a new one, which the caller must
    /// start.
    ///
    /// `deadline` is the maximum duration of a refresh. `attempts` is the number of attempts so far.
    pub(crate) fn join(
        &self,
        now: Instant,
        deadline: Duration,
        attempts: u64,
    ) -> (Refresh, Option<watch::Sender<Ended>>) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(refresh) = last
            .as_ref()
            .filter(|refresh| refresh.is_recent(now, deadline))
        {
            return (refresh.clone(), None);
        }
        let (sender, ended) = watch::channel(Ended::default());
        let refresh = Refresh {
            started: now,
            interval: self.pace.interval(last.as_ref(), now),
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
        let is_running = self.ended.has_changed().is_ok();
        // The task might belong to a runtime that does not run it.
        let longest = deadline.saturating_add(Pace::STEADY.longest);
        self.age(now) < self.interval || is_running && self.age(now) < longest
    }

    fn has_succeeded(&self) -> bool {
        let results = &self.ended.borrow().results;
        let is_failure =
            |result: &Result<_, Error>| result.as_ref().is_err_and(Error::is_temporary);
        !results.is_empty() && !results.iter().any(is_failure)
    }

    fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.started)
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
