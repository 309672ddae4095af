//! When a token is renewed or replaced before it expires.

use std::time::Duration;

use tokio::time::Instant;

use super::login::{Token, TokenLease};

/// The first and the longest wait before a failed request is repeated.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// The waits after failures in a row, with jitter.
pub(super) struct Backoff(Duration);

impl Backoff {
    pub(super) fn new() -> Self {
        Self(BACKOFF.0)
    }

    /// Returns the wait after one more failure.
    pub(super) fn next(&mut self) -> Duration {
        let wait = self.0.mul_f64(random_between(0.75, 1.25));
        self.0 = (self.0 * 2).min(BACKOFF.1);
        wait
    }
}

/// The times at which a token is renewed as long as possible, and then replaced by a new login.
pub(super) struct Schedule {
    lifetime: Duration,
    renewable: bool,
    backoff: Backoff,
}

impl Schedule {
    pub(super) fn new(lifetime: Duration, renewable: bool) -> Self {
        Self {
            lifetime,
            renewable,
            backoff: Backoff::new(),
        }
    }

    pub(super) fn is_renewable(&self) -> bool {
        self.renewable
    }

    /// Records that the token can only be replaced.
    pub(super) fn end_renewals(&mut self) {
        self.renewable = false;
    }

    /// Records a renewal. Returns whether it changes when the token expires.
    ///
    /// Near the maximum lifetime of a token, a renewal succeeds but returns a shorter lifetime, which can be rounded to
    /// zero. The token is then replaced by a new login.
    pub(super) fn record_renewal(&mut self, lease: &TokenLease) -> bool {
        self.backoff = Backoff::new();
        let Some(lifetime) = lease.lifetime else {
            self.renewable = false;
            return false;
        };
        self.renewable = lease.renewable && lifetime > self.lifetime / 2;
        self.lifetime = lifetime;
        true
    }

    /// Returns when to renew or replace the token. The remaining lifetime is enough for several attempts.
    /// The random part spreads the renewals of many instances.
    pub(super) fn due(&self, token: &Token) -> Option<Instant> {
        let share = match self.renewable {
            true => random_between(0.6, 0.7),
            false => random_between(0.8, 0.9),
        };
        token.issued.checked_add(self.lifetime.mul_f64(share))
    }

    /// Returns when to repeat a renewal or a replacement that has failed.
    pub(super) fn retry_at(&mut self) -> Option<Instant> {
        Instant::now().checked_add(self.backoff.next())
    }
}

fn random_between(low: f64, high: f64) -> f64 {
    low + (high - low) * fastrand::f64()
}
