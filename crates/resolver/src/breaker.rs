//! The circuit breaker of one provider.

use std::time::Duration;

use secretwell_core::{Error, SecretKey};

use crate::backoff::{MIN_WAIT, retry_at, retry_jitter};
use crate::clock::Time;

/// The number of consecutive failures that open the breaker.
const THRESHOLD: u32 = 3;
/// The longest wait that a source can request with `retry_after`. Longer waits are shortened to it.
pub(crate) const MAX_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// A circuit breaker that blocks calls to a source while it is unavailable.
///
/// It is closed while the source responds. It opens after three consecutive temporary failures of at least
/// two keys, or immediately if the source requests a wait. A single key that fails has its own backoff, and
/// does not block the others. While the breaker is open, calls are blocked until the wait is over. Then one
/// probe call is admitted. Its result closes the breaker or keeps it open.
#[derive(Debug, Default)]
pub(crate) struct Breaker {
    failures: u32,
    /// The first key of these failures.
    failed: Option<SecretKey>,
    /// Whether another key has failed as well.
    several_failed: bool,
    since: Option<Time>,
    open: Option<Open>,
    /// The time of the last forced call while the source failed.
    forced_at: Option<Time>,
    /// The last failure.
    error: Option<Error>,
}

#[derive(Debug)]
struct Open {
    until: Time,
    /// Whether the source requested the wait with `retry_after`.
    requested_by_source: bool,
    /// The end of the probe that was admitted. A probe that was lost admits another one after it.
    probe_until: Option<Time>,
}

impl Open {
    fn is_probing(&self, now: Time) -> bool {
        self.probe_until.is_some_and(|until| now < until)
    }
}

impl Breaker {
    /// Checks whether a call is admitted now. If the breaker is open, the admitted call is the probe, which
    /// ends after `longest_call` at the latest.
    ///
    /// # Errors
    /// Returns the failure that opened the breaker.
    pub(crate) fn admit(&mut self, now: Time, longest_call: Duration) -> Result<(), Error> {
        let Some(open) = &mut self.open else {
            return Ok(());
        };
        match (&self.error, open.is_probing(now) || now < open.until) {
            (Some(error), true) => Err(error.clone()),
            _ => {
                open.probe_until = Some(now.after(longest_call));
                Ok(())
            }
        }
    }

    /// Like [`admit`](Self::admit), for a refresh that must not wait for the backoff. It keeps a wait that
    /// the source requested, and admits at most one call per [`MIN_WAIT`] while the source fails.
    ///
    /// # Errors
    /// Returns the last failure.
    pub(crate) fn admit_forced(&mut self, now: Time, longest_call: Duration) -> Result<(), Error> {
        if !self.is_admitted(now)
            && let Some(error) = &self.error
        {
            return Err(error.clone());
        }
        if self.failures >= THRESHOLD || self.open.is_some() {
            self.forced_at = Some(now);
        }
        if let Some(open) = &mut self.open {
            open.until = now;
        }
        self.admit(now, longest_call)
    }

    /// Returns whether [`admit_forced`](Self::admit_forced) would admit a call.
    pub(crate) fn is_admitted(&self, now: Time) -> bool {
        let is_limited = self.forced_until().is_some_and(|until| now < until);
        match &self.open {
            None => !is_limited,
            Some(open) if open.requested_by_source => now >= open.until && !open.is_probing(now),
            Some(open) => !is_limited && !open.is_probing(now),
        }
    }

    /// Returns the time until which no other forced call is admitted, because the source fails.
    pub(crate) fn forced_until(&self) -> Option<Time> {
        self.forced_at.map(|at| at.after(MIN_WAIT))
    }

    /// Records that the source responded. A refusal is also a response. A wait that the source requested
    /// is kept, because the response might belong to an earlier call.
    pub(crate) fn record_response(&mut self, now: Time) {
        let open = self.open.take();
        let open = open.filter(|open| open.requested_by_source && now < open.until);
        *self = Self {
            error: self.error.take().filter(|_| open.is_some()),
            open,
            ..Self::default()
        };
    }

    /// Records that the source did not respond properly.
    pub(crate) fn record_failure(
        &mut self,
        keys: &[SecretKey],
        error: &Error,
        now: Time,
        cap: Duration,
    ) {
        self.failures = self.failures.saturating_add(1);
        self.error = Some(error.clone());
        for key in keys {
            let first = self.failed.get_or_insert_with(|| key.clone());
            self.several_failed |= first != key;
            if self.several_failed {
                break;
            }
        }
        let has_failed = self.failures >= THRESHOLD && self.several_failed;
        let since = *self.since.get_or_insert(now);
        let requested_wait = error.retry_after();
        let cap = cap.min(error.backoff_limit().unwrap_or(Duration::MAX));
        let until = match requested_wait {
            Some(wait) => {
                let requested = now.after(wait.clamp(MIN_WAIT, MAX_RETRY_AFTER));
                let backoff_ends = match has_failed {
                    true => retry_at(now, since, cap, retry_jitter()),
                    false => requested,
                };
                requested.max(backoff_ends)
            }
            // A failed probe keeps the breaker open.
            None if has_failed || self.open.is_some() => retry_at(now, since, cap, retry_jitter()),
            None => return,
        };
        // A call that started before the source requested a wait must not shorten that wait.
        let until = match &self.open {
            Some(open) if open.requested_by_source => open.until.max(until),
            _ => until,
        };
        self.open = Some(Open {
            until,
            requested_by_source: requested_wait.is_some()
                || self
                    .open
                    .as_ref()
                    .is_some_and(|open| open.requested_by_source && open.until > now),
            probe_until: None,
        });
    }

    /// Records that the probe ended without a result, so that another probe is admitted.
    pub(crate) fn abandon_probe(&mut self) {
        if let Some(open) = &mut self.open {
            open.probe_until = None;
        }
    }

    /// Returns the failure with which the source has requested a wait that is not over.
    pub(crate) fn requested_wait(&self, now: Time) -> Option<Error> {
        let open = self.open.as_ref()?;
        let error = self.error.as_ref();
        error
            .filter(|_| open.requested_by_source && now < open.until)
            .cloned()
    }

    /// Returns the last failure.
    pub(crate) fn error(&self) -> Option<&Error> {
        self.error.as_ref()
    }

    /// Returns the time until which calls are blocked, or `None` if the breaker is closed.
    pub(crate) fn open_until(&self) -> Option<Time> {
        self.open.as_ref().map(|open| open.until)
    }
}

#[cfg(test)]
mod tests {
    use secretwell_core::ErrorKind;

    use super::*;
    use crate::clock::now;

    const CALL: Duration = Duration::from_secs(30);
    const CAP: Duration = Duration::from_secs(420);

    fn keys() -> [SecretKey; 2] {
        ["A", "B"].map(|name| SecretKey::parse(name).unwrap())
    }

    fn down() -> Error {
        Error::new(ErrorKind::Unavailable, "down")
    }

    #[tokio::test(start_paused = true)]
    async fn breaker_opens_after_three_failures_and_admits_one_probe() {
        let (mut breaker, now) = (Breaker::default(), now());
        for _ in 0..THRESHOLD {
            assert!(breaker.admit(now, CALL).is_ok());
            breaker.record_failure(&keys(), &down(), now, CAP);
        }
        assert!(breaker.admit(now, CALL).is_err());

        let later = now.after(Duration::from_secs(2));
        assert!(breaker.admit(later, CALL).is_ok());
        assert!(
            breaker.admit(later, CALL).is_err(),
            "only one probe at a time"
        );
        breaker.record_failure(&keys(), &down(), later, CAP);
        assert!(breaker.admit(later, CALL).is_err());

        let again = later.after(Duration::from_secs(2));
        assert!(breaker.admit(again, CALL).is_ok());
        breaker.record_response(again);
        assert!(breaker.admit(again, CALL).is_ok() && breaker.admit(again, CALL).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn single_key_does_not_open_the_breaker() {
        let (mut breaker, now) = (Breaker::default(), now());
        let [first, second] = keys();
        for _ in 0..THRESHOLD * 2 {
            breaker.record_failure(std::slice::from_ref(&first), &down(), now, CAP);
            assert!(breaker.admit(now, CALL).is_ok());
        }
        breaker.record_failure(&[second], &down(), now, CAP);
        assert!(breaker.admit(now, CALL).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn retry_after_opens_the_breaker_immediately_and_is_capped() {
        let (mut breaker, now) = (Breaker::default(), now());
        let limited = |wait| {
            Error::new(
                ErrorKind::RateLimited {
                    retry_after: Some(wait),
                },
                "slow down",
            )
        };
        breaker.record_failure(&keys(), &limited(Duration::from_secs(60)), now, CAP);
        assert_eq!(
            breaker.open_until(),
            Some(now.after(Duration::from_secs(60)))
        );
        breaker.record_failure(&keys(), &limited(Duration::MAX), now, CAP);
        assert_eq!(breaker.open_until(), Some(now.after(MAX_RETRY_AFTER)));
    }

    #[tokio::test(start_paused = true)]
    async fn backoff_limit_caps_the_wait_and_the_breaker() {
        let (mut breaker, start) = (Breaker::default(), now());
        let limit = Duration::from_secs(5);
        let foreign = down().with_backoff_limit(limit);
        let mut time = start;
        for _ in 0..THRESHOLD {
            breaker.record_failure(&keys(), &down(), time, CAP);
            time = time.after(Duration::from_secs(600));
        }
        breaker.record_failure(&keys(), &foreign, time, CAP);
        let latest = time.after(limit.mul_f64(1.1));
        assert!(breaker.open_until().is_some_and(|until| until <= latest));

        let wait = Duration::from_secs(60);
        breaker.record_failure(&keys(), &foreign.with_retry_after(wait), time, CAP);
        assert_eq!(
            breaker.open_until(),
            Some(time.after(wait)),
            "a requested wait is kept"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn abandoned_probe_admits_another_probe() {
        let (mut breaker, now) = (Breaker::default(), now());
        for _ in 0..THRESHOLD {
            breaker.record_failure(&keys(), &down(), now, CAP);
        }
        let later = now.after(Duration::from_secs(2));
        assert!(breaker.admit(later, CALL).is_ok());
        breaker.abandon_probe();
        assert!(breaker.admit(later, CALL).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn lost_probe_and_failed_probe_do_not_block_the_source_forever() {
        let (mut breaker, now) = (Breaker::default(), now());
        let limited = ErrorKind::RateLimited {
            retry_after: Some(Duration::from_secs(2)),
        };
        breaker.record_failure(&keys(), &Error::new(limited, "slow down"), now, CAP);
        let probe = now.after(Duration::from_secs(2));
        assert!(breaker.admit(probe, CALL).is_ok());
        breaker.record_failure(&keys(), &down(), probe, CAP);
        let second = probe.after(Duration::from_secs(2));
        assert!(breaker.admit(second, CALL).is_ok(), "after a failed probe");
        assert!(breaker.admit(second, CALL).is_err());
        let third = second.after(CALL);
        assert!(breaker.admit(third, CALL).is_ok(), "after a lost probe");
    }
}
