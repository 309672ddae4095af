//! Runtimes with paused clocks that show the same time. One of them is driven at a time.

use std::pin::pin;
use std::task::{Context, Waker};
use std::time::Duration;

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::yield_now;
use tokio::time::{Instant, advance, sleep};

/// The runtime that is driven, and at most one that is idle.
pub(super) struct Runtimes {
    driven: Numbered,
    idle: Option<Numbered>,
    last: usize,
}

struct Numbered {
    number: usize,
    runtime: Runtime,
}

impl Runtimes {
    pub(super) fn new() -> Self {
        Self {
            driven: Numbered::new(0),
            idle: None,
            last: 0,
        }
    }

    /// Returns the number of the runtime that is driven.
    pub(super) fn number(&self) -> usize {
        self.driven.number
    }

    pub(super) fn handle(&self) -> Handle {
        self.driven.runtime.handle().clone()
    }

    /// Calls `code` in the context of the runtime that is driven.
    pub(super) fn enter<R>(&self, code: impl FnOnce() -> R) -> R {
        let _context = self.driven.runtime.enter();
        code()
    }

    /// Drives the runtime for this time.
    pub(super) fn pass(&self, duration: Duration) {
        self.driven.runtime.block_on(async {
            if duration.is_zero() {
                for _ in 0..5 {
                    yield_now().await;
                }
            } else {
                sleep(duration).await;
            }
        });
    }

    /// Advances the clock, without running a task.
    pub(super) fn advance(&self, duration: Duration) {
        self.driven.advance(duration);
    }

    /// Continues on the idle runtime, or on a new one.
    pub(super) fn switch(&mut self) {
        let now = self.driven.now();
        let next = self.idle.take().unwrap_or_else(|| {
            self.last += 1;
            Numbered::new(self.last)
        });
        next.advance_to(now);
        self.idle = Some(std::mem::replace(&mut self.driven, next));
    }

    /// Ends the runtime that is driven, and continues on another one. Returns the number of the ended one.
    pub(super) fn end(&mut self) -> usize {
        self.switch();
        self.end_idle().unwrap_or_default()
    }

    /// Ends the idle runtime, and returns its number.
    pub(super) fn end_idle(&mut self) -> Option<usize> {
        let ended = self.idle.take()?;
        ended.advance_to(self.driven.now());
        Some(ended.number)
    }
}

impl Numbered {
    fn new(number: usize) -> Self {
        let mut builder = Builder::new_current_thread();
        let runtime = builder.enable_time().start_paused(true).build();
        let runtime = runtime.expect("a runtime without I/O needs nothing of the system");
        Self { number, runtime }
    }

    fn now(&self) -> Instant {
        let _context = self.runtime.enter();
        Instant::now()
    }

    /// Advances the clock to `instant`, unless it has passed.
    fn advance_to(&self, instant: Instant) {
        self.advance(instant.saturating_duration_since(self.now()));
    }

    fn advance(&self, duration: Duration) {
        let _context = self.runtime.enter();
        let mut context = Context::from_waker(Waker::noop());
        // The first poll advances the clock. The second one would let other tasks run.
        let _ = pin!(advance(duration)).poll(&mut context);
    }
}
