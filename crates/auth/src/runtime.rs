//! What a tokio runtime must have.

use secretwell_resolver::clock;

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

/// Returns whether the caller is in a tokio runtime.
pub(crate) fn is_in_runtime() -> bool {
    tokio::runtime::Handle::try_current().is_ok()
}
