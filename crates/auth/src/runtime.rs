//! What a tokio runtime must have.

use std::time::Duration;

use secretwell_core::{Error, ErrorKind};

use crate::panics::catch;
use crate::state::NotReady;

/// Returns an error if no tokio runtime is running, or if it has no timer.
pub(crate) fn require_runtime() -> Result<(), NotReady> {
    let failure = if !is_in_runtime() {
        NotReady::unavailable(
            "no tokio runtime is running, so the build cannot start",
            "call this within a tokio runtime",
        )
    } else if catch(|| drop(tokio::time::sleep(Duration::ZERO))).is_err() {
        // Tokio offers no other way to find out. The panic hook might print the panic.
        let problem = Error::new(ErrorKind::InvalidConfig, "the tokio runtime has no timer")
            .with_hint("build the runtime with `enable_time` or `enable_all`");
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
