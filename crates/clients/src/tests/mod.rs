//! The pools for PostgreSQL, with a server whose logins can be held, rejected and ended at each step.
//!
//! The server has real sockets, so the clock is not paused. The tests wait for conditions, with a limit that only a
//! failure reaches.

mod pools;
mod server;

use std::time::Duration;

/// Returns the result of `future`, or `None` if it takes so long that it hangs.
pub(crate) async fn within_limit<F: Future>(future: F) -> Option<F::Output> {
    tokio::time::timeout(Duration::from_secs(30), future)
        .await
        .ok()
}
