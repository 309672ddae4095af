//! [`Progress`] of the rebuild task, and the state subscription [`StateWatch`].

use std::fmt;
use std::sync::Arc;

use tokio::sync::watch;

use crate::built::Lateness;
use crate::state::{NotReady, State};

/// Progress of the rebuild task, observed by the callers that wait for it.
#[derive(Debug, Clone)]
pub(crate) struct Progress {
    pub(crate) state: State,
    /// Number of finished attempts to read the source.
    pub(crate) attempts: u64,
    /// The failure of the last attempt, or `None` if it succeeded.
    pub(crate) failure: Option<NotReady>,
    /// How many of the requested rebuilds these attempts have completed.
    pub(crate) completed_rebuilds: u64,
    /// The failure of the attempt that completed the last of them. A retry that succeeds does not change it.
    pub(crate) rebuild_failure: Option<NotReady>,
    /// How many of the requested revocations the current build contains.
    pub(crate) applied_revocations: u64,
    /// The number of requested revocations before the last attempt to read the source.
    pub(crate) confirmed_revocations: u64,
    /// The failure of that attempt.
    pub(crate) confirmation_failure: Option<NotReady>,
    /// Whether the last clone of the auth was dropped.
    pub(crate) is_closed: bool,
}

impl Progress {
    pub(crate) fn idle() -> Self {
        Self {
            state: State::Idle,
            attempts: 0,
            failure: None,
            completed_rebuilds: 0,
            rebuild_failure: None,
            applied_revocations: 0,
            confirmed_revocations: 0,
            confirmation_failure: None,
            is_closed: false,
        }
    }

    /// Returns the state. While no rebuild task runs, a build is not known to be up to date.
    pub(crate) fn observe(&self, task: &dyn Lateness) -> State {
        match self.state {
            State::Ready {
                generation,
                history,
            }
            | State::Rotating {
                generation,
                history,
            } if !self.is_closed && task.is_overdue() => State::Degraded {
                generation,
                history,
                failure: NotReady::unavailable(
                    "the rebuild task is not running, so the build might be outdated",
                    "use the auth within a tokio runtime that is running",
                ),
            },
            ref state => state.clone(),
        }
    }

    /// Returns the name of the state in metrics, or `None` after the auth was dropped.
    ///
    /// A further attempt after a failure does not change it. Otherwise an alert for a state that lasts would never
    /// fire, because each attempt would interrupt that state.
    #[cfg(feature = "metrics")]
    pub(crate) fn reported_state(&self, task: &dyn Lateness) -> Option<&'static str> {
        let state = match (&self.failure, self.observe(task)) {
            (Some(_), State::Starting) => "failed",
            (Some(_), State::Rotating { .. }) => "degraded",
            (_, state) => state.name(),
        };
        (!self.is_closed).then_some(state)
    }
}

/// Subscription to the state of a [`LazyAuth`](crate::LazyAuth). Created by
/// [`LazyAuth::watch_state`](crate::LazyAuth::watch_state).
#[derive(Clone)]
pub struct StateWatch {
    /// The state that was returned last.
    last: State,
    progress: watch::Receiver<Progress>,
    task: Arc<dyn Lateness + Send + Sync>,
}

impl StateWatch {
    pub(crate) fn new(
        progress: watch::Receiver<Progress>,
        task: Arc<dyn Lateness + Send + Sync>,
    ) -> Self {
        let last = progress.borrow().observe(task.as_ref());
        Self {
            last,
            progress,
            task,
        }
    }

    /// Returns the current state.
    pub fn current(&self) -> State {
        self.progress.borrow().observe(self.task.as_ref())
    }

    /// Waits until the state differs from the state that this watch returned last, and returns the
    /// new state. The first call compares with the state at the time of
    /// [`watch_state`](crate::LazyAuth::watch_state).
    ///
    /// Intermediate states can be skipped. Returns `None` after the auth was dropped.
    pub async fn changed(&mut self) -> Option<State> {
        let last = self.last.clone();
        self.wait_for(|state| *state != last).await
    }

    /// Waits until `condition` returns true for the state, and returns that state. Returns `None`
    /// after the auth was dropped.
    pub async fn wait_for(&mut self, mut condition: impl FnMut(&State) -> bool) -> Option<State> {
        loop {
            // The condition is user code, so it must not run while the state is borrowed.
            let (state, is_closed) = {
                let progress = self.progress.borrow_and_update();
                (progress.observe(self.task.as_ref()), progress.is_closed)
            };
            if is_closed {
                return None;
            }
            if condition(&state) {
                self.last = state.clone();
                return Some(state);
            }
            self.progress.changed().await.ok()?;
        }
    }
}

impl fmt::Debug for StateWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StateWatch")
            .field("last", &self.last)
            .finish_non_exhaustive()
    }
}
