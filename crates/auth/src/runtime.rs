//! What a tokio runtime must have, and waits in one that might be shutting down.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use secretwell_resolver::clock;

use crate::panics::catch;
use crate::state::NotReady;

/// Returns an error if no tokio runtime is running, or if it has no timer.
pub(crate) fn require_runtime() -> Result<(), NotReady> {
    let failure = if !is_in_runtime() {
        NotReady::unavailable(
            "no tokio runtime is running, so the build cannot start",
            "call this within a tokio runtime",
        )
    } else if let Err(problem) = clock::require_runtime() {
        NotReady::new(vec![problem], None)
    } else {
        return Ok(());
    };
    failure.print_without_subscriber();
    Err(failure)
}

/// Returns whether the caller is in a tokio runtime that has a timer.
pub(crate) fn has_timer() -> bool {
    is_in_runtime() && clock::require_runtime().is_ok()
}

/// Returns whether the caller is in a tokio runtime.
pub(crate) fn is_in_runtime() -> bool {
    tokio::runtime::Handle::try_current().is_ok()
}

/// Why [`timeout`] has no result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expired {
    Elapsed,
    /// The runtime is shutting down. Its timers no longer work.
    ShuttingDown,
}

impl Expired {
    /// Returns the failure of a caller, which is `elapsed` if its deadline has passed.
    pub(crate) fn failure(self, elapsed: impl FnOnce() -> NotReady) -> NotReady {
        match self {
            Self::Elapsed => elapsed(),
            Self::ShuttingDown => NotReady::unavailable(
                "the tokio runtime is shutting down",
                "call this within a running tokio runtime",
            ),
        }
    }
}

/// Waits for `future` for at most `time`. Unlike the function of tokio, it does not panic in a runtime
/// that is shutting down.
pub(crate) async fn timeout<F: Future>(time: Duration, future: F) -> Result<F::Output, Expired> {
    let mut timer = pin!(tokio::time::sleep(time));
    let mut future = pin!(future);
    poll_fn(|context| {
        // Tokio offers no other way to find out than the panic of the timer. It is polled first, because
        // `future` might be ready again and again in such a runtime.
        let Ok(timer) = catch(|| timer.as_mut().poll(context)) else {
            return Poll::Ready(Err(Expired::ShuttingDown));
        };
        match future.as_mut().poll(context) {
            Poll::Ready(output) => Poll::Ready(Ok(output)),
            Poll::Pending => timer.map(|()| Err(Expired::Elapsed)),
        }
    })
    .await
}
