//! The circuit breaker of one provider.

use std::time::Duration;

use tokio::time::Instant;

use crate::backoff::{jitter, retry_at};
use secretwell_core::{Error, ErrorKind};

/// How many calls in a row must fail before the rest are spared.
const THRESHOLD: u32 = 3;
/// The longest that a source's own `retry_after` is believed.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// Closed while the source answers. After three temporary failures in a row it opens: no calls until
/// the wait is over, then one probe, whose outcome closes it or opens it for longer.
///
/// A source that says how long to wait opens it at once.
#[derive(Debug, Default)]
pub(crate) struct Breaker {
    failures: u32,
    since: Option<Instant>,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    until: Instant,
    /// Whether the source said itself how long to wait.
    stated_wait: bool,
    probing: bool,
    error: Error,
}

impl Breaker {
    /// Whether a call may go out now; the call that may is then the probe.
    ///
    /// # Errors
    /// The failure that opened the breaker.
    pub(crate) fn admit(&mut self, now: Instant) -> Result<(), Error> {
        match &mut self.open {
            None => Ok(()),
            Some(open) if open.probing || now < open.until => Err(open.error.clone()),
            Some(open) => {
                open.probing = true;
                Ok(())
            }
        }
    }

    /// The source answered, if only to say no.
    pub(crate) fn succeeded(&mut self) {
        *self = Self::default();
    }

    /// The source could not answer.
    pub(crate) fn failed(&mut self, error: &Error, now: Instant, cap: Duration) {
        self.failures = self.failures.saturating_add(1);
        let since = *self.since.get_or_insert(now);
        let stated_wait = match error.kind() {
            ErrorKind::RateLimited { retry_after } => retry_after,
            _ => None,
        };
        let until = match stated_wait {
            Some(wait) => now + wait.min(LONGEST_RETRY_AFTER),
            None if self.failures >= THRESHOLD => retry_at(now, since, cap, jitter()),
            None => return,
        };
        // A call that set out before the wait was stated_wait must not shorten it.
        let until = match &self.open {
            Some(open) if open.stated_wait => open.until.max(until),
            _ => until,
        };
        self.open = Some(Open {
            until,
            stated_wait: stated_wait.is_some()
                || self
                    .open
                    .as_ref()
                    .is_some_and(|open| open.stated_wait && open.until > now),
            probing: false,
            error: error.clone(),
        });
    }

    /// Somebody has a reason to ask at once. What the source itself has asked for stands.
    pub(crate) fn reset(&mut self) {
        let open = self.open.take().filter(|open| open.stated_wait);
        *self = Self {
            open,
            ..Self::default()
        };
    }

    /// The probe ended without an outcome.
    pub(crate) fn abandoned(&mut self) {
        if let Some(open) = &mut self.open {
            open.probing = false;
        }
    }

    /// When the next call may go out, if not now.
    pub(crate) fn open_until(&self) -> Option<Instant> {
        self.open.as_ref().map(|open| open.until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAP: Duration = Duration::from_secs(420);

    fn down() -> Error {
        Error::new(ErrorKind::Unavailable, "down")
    }

    #[tokio::test(start_paused = true)]
    async fn opens_after_three_failures_and_lets_one_probe_through() {
        let (mut breaker, now) = (Breaker::default(), Instant::now());
        for _ in 0..THRESHOLD {
            assert!(breaker.admit(now).is_ok());
            breaker.failed(&down(), now, CAP);
        }
        assert!(breaker.admit(now).is_err());

        let later = now + Duration::from_secs(2);
        assert!(breaker.admit(later).is_ok());
        assert!(breaker.admit(later).is_err(), "only one probe at a time");
        breaker.failed(&down(), later, CAP);
        assert!(breaker.admit(later).is_err());

        let again = later + Duration::from_secs(2);
        assert!(breaker.admit(again).is_ok());
        breaker.succeeded();
        assert!(breaker.admit(again).is_ok() && breaker.admit(again).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_stated_wait_opens_it_at_once_and_is_capped() {
        let (mut breaker, now) = (Breaker::default(), Instant::now());
        let limited = |wait| {
            Error::new(
                ErrorKind::RateLimited {
                    retry_after: Some(wait),
                },
                "slow down",
            )
        };
        breaker.failed(&limited(Duration::from_secs(60)), now, CAP);
        assert_eq!(breaker.open_until(), Some(now + Duration::from_secs(60)));
        breaker.failed(&limited(Duration::MAX), now, CAP);
        assert_eq!(breaker.open_until(), Some(now + LONGEST_RETRY_AFTER));
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_probe_makes_room_for_the_next() {
        let (mut breaker, now) = (Breaker::default(), Instant::now());
        for _ in 0..THRESHOLD {
            breaker.failed(&down(), now, CAP);
        }
        let later = now + Duration::from_secs(2);
        assert!(breaker.admit(later).is_ok());
        breaker.abandoned();
        assert!(breaker.admit(later).is_ok());
    }
}
