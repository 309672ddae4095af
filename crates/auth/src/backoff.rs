//! [`Backoff`], the time of the next attempt after a failure that the resolver does not retry.

use std::time::Duration;

use tokio::time::Instant;

/// Maximum delay before something that failed is tried again.
const MAX_RETRY_DELAY: Duration = Duration::from_secs(300);

/// Consecutive failures.
#[derive(Default)]
pub(crate) struct Backoff {
    since: Option<Instant>,
    count: u32,
}

impl Backoff {
    /// Counts a failure and returns the time of the next attempt. The first retry is immediate. Later
    /// retries wait for one eighth of the time since the first failure, at least 1 s and at most
    /// [`MAX_RETRY_DELAY`].
    pub(crate) fn retry_at(&mut self, now: Instant) -> Instant {
        let since = *self.since.get_or_insert(now);
        self.count = self.count.saturating_add(1);
        match self.count {
            1 => now,
            _ => now + ((now - since) / 8).clamp(Duration::from_secs(1), MAX_RETRY_DELAY),
        }
    }

    /// Returns whether nothing has failed since the last success.
    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }
}
