//! A record of what happened during a run, in one order.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The place of an event in the order of all events, and its time since the start of the run.
#[derive(Clone, Copy, PartialEq)]
pub(crate) struct At {
    pub(crate) order: u64,
    pub(crate) time: Duration,
}

/// A shared trace of type `T`, which reads tokio's clock.
#[derive(Debug)]
pub(crate) struct Recorder<T> {
    trace: Arc<Mutex<T>>,
    last_order: Arc<AtomicU64>,
    started: Instant,
}

impl<T: Default> Recorder<T> {
    /// Creates an empty trace, whose time begins now. Must be called within the runtime in which the run begins.
    pub(crate) fn new() -> Self {
        Self {
            trace: Arc::default(),
            last_order: Arc::default(),
            started: Instant::now(),
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.trace.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn take(&self) -> T {
        std::mem::take(&mut *self.lock())
    }

    pub(crate) fn now(&self) -> Duration {
        Instant::now().duration_since(self.started)
    }

    /// Returns the instant of `time` on tokio's clock.
    pub(crate) fn instant(&self, time: Duration) -> Instant {
        self.started + time
    }

    /// Returns the current time as the next place in the order.
    pub(crate) fn at(&self) -> At {
        At {
            order: self.last_order.fetch_add(1, Ordering::SeqCst) + 1,
            time: self.now(),
        }
    }
}

impl<T> Clone for Recorder<T> {
    fn clone(&self) -> Self {
        Self {
            trace: self.trace.clone(),
            last_order: self.last_order.clone(),
            started: self.started,
        }
    }
}

impl fmt::Debug for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.6} s", self.time.as_secs_f64())
    }
}

/// Returns the lines in their order, up to the place `last`.
pub(crate) fn until(last: u64, mut lines: Vec<(At, String)>) -> String {
    lines.retain(|(at, _)| at.order <= last);
    lines.sort_by_key(|(at, _)| at.order);
    let lines = lines.into_iter();
    lines
        .map(|(at, line)| format!("{at:?}  {line}\n"))
        .collect()
}
