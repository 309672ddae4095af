//! [`Pulse`], with which a rebuild task shows that it runs.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use crate::shared::Shared;

/// Shows that a rebuild task runs, during an attempt.
pub(crate) struct Pulse<A> {
    pub(crate) id: u64,
    pub(crate) shared: Arc<Shared<A>>,
    pub(crate) wake: Arc<Notify>,
    pub(crate) interval: Duration,
    /// The number of the last revocation before the attempt.
    pub(crate) revision: u64,
    /// Whether the attempt confirms that revocation, so that a flood of later ones must not stop it.
    pub(crate) confirms: bool,
}

impl<A> Pulse<A> {
    /// Awaits `attempt`. Returns `None` if it was superseded by a revocation.
    pub(crate) async fn during<F: Future>(&self, attempt: F) -> Option<F::Output> {
        let mut attempt = pin!(attempt);
        while !self.is_superseded() {
            // After a pause of the process, the current build might be outdated. A reader then takes over and waits
            // for an attempt, so this task promises nothing before its attempt has ended.
            if !self.shared.is_paused() {
                self.shared.promise(self.id, self.interval * 2);
            }
            tokio::select! {
                biased;
                () = self.wake.notified() => {}
                output = &mut attempt => return Some(output),
                () = tokio::time::sleep(self.interval) => {}
            }
        }
        None
    }

    /// The attempt might use a secret that was revoked, or its read might have started before the
    /// revocation.
    fn is_superseded(&self) -> bool {
        let memory = self.shared.memory();
        memory.was_revoked_after(self.revision)
            || (!self.confirms && memory.rotation.revision > self.revision)
    }
}
