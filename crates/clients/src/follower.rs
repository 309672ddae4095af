//! [`Follower`]: the task that acts on rotations while a pool is idle.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use secretwell_auth::{Generation, LazyAuth};
use tokio::runtime::Handle;

/// Starts a task that waits for rotations, at most one at a time.
///
/// The task only closes idle connections early. A pool also compares the generations itself, because the runtime of the
/// task might not be running.
#[derive(Debug, Default)]
pub(crate) struct Follower {
    is_running: Arc<AtomicBool>,
}

impl Follower {
    /// Ensures that `rotated` is called after each rotation since the generation `since`, until it returns
    /// [`ControlFlow::Break`] or the auth is dropped. Does nothing if a task is running already.
    pub(crate) fn ensure<C: Send + Sync + 'static>(
        &self,
        auth: &LazyAuth<C>,
        since: Generation,
        mut rotated: impl FnMut() -> ControlFlow<()> + Send + 'static,
    ) {
        if self.is_running.load(Ordering::Relaxed) {
            return;
        }
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        if self.is_running.swap(true, Ordering::AcqRel) {
            return;
        }
        let running = Running(self.is_running.clone());
        let mut states = auth.watch_state();
        runtime.spawn(async move {
            let _running = running;
            let mut seen = Some(since);
            while let Some(state) = states.wait_for(|state| state.generation() > seen).await {
                seen = state.generation();
                if rotated().is_break() {
                    return;
                }
            }
        });
    }
}

/// Allows another task to start, also if this one is dropped because its runtime ends.
struct Running(Arc<AtomicBool>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}
