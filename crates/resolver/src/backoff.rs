//! How long to wait before to_fetch again.

use std::time::Duration;

use tokio::time::Instant;

/// The shortest wait before the same question is asked again.
pub(crate) const FLOOR: Duration = Duration::from_secs(1);

/// When to ask again, at `now`, what has failed since `since`: after an eighth of the time that the
/// failure has lasted, at least a second and at most `cap`, times `jitter`.
///
/// So whatever recovers is noticed after at most an eighth more of its outage (11 s after 90), and a
/// source that is down for a day is asked some 260 times with a cap of seven minutes. Doubling would
/// ask as rarely and notice a recovery only after up to as much time again as the outage took.
pub(crate) fn retry_at(now: Instant, since: Instant, cap: Duration, jitter: f64) -> Instant {
    let lasted = now.saturating_duration_since(since);
    now + (lasted / 8).clamp(FLOOR, cap.max(FLOOR)).mul_f64(jitter)
}

/// A random factor between `low` and `high`.
pub(crate) fn between(low: f64, high: f64) -> f64 {
    low + (high - low) * fastrand::f64()
}

/// The factor of a retry: give or take a tenth.
pub(crate) fn jitter() -> f64 {
    between(0.9, 1.1)
}

/// A bucket of retries that all keys of a provider share: as many secrets may fail as like, the
/// source is not asked for them again more often than this.
#[derive(Debug)]
pub(crate) struct RetryBudget {
    tokens: f64,
    burst: f64,
    per_second: f64,
    counted_at: Instant,
}

impl RetryBudget {
    pub(crate) fn new((burst, per_minute): (u32, u32), now: Instant) -> Self {
        let burst = f64::from(burst);
        Self {
            tokens: burst,
            burst,
            per_second: f64::from(per_minute) / 60.0,
            counted_at: now,
        }
    }

    /// Takes one retry out, if there is one.
    pub(crate) fn try_acquire(&mut self, now: Instant) -> bool {
        self.refill(now);
        let enough = self.tokens >= 1.0;
        if enough {
            self.tokens -= 1.0;
        }
        enough
    }

    /// When the next retry is there.
    pub(crate) fn next_at(&mut self, now: Instant) -> Instant {
        self.refill(now);
        let missing = (1.0 - self.tokens).max(0.0);
        now + Duration::try_from_secs_f64(missing / self.per_second)
            .unwrap_or(Duration::from_secs(60))
    }

    fn refill(&mut self, now: Instant) {
        let gained = now.saturating_duration_since(self.counted_at).as_secs_f64() * self.per_second;
        self.tokens = (self.tokens + gained).min(self.burst);
        self.counted_at = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAP: Duration = Duration::from_secs(420);

    #[tokio::test(start_paused = true)]
    async fn the_wait_is_an_eighth_of_the_outage_within_its_bounds() {
        let since = Instant::now();
        for (lasted, expected) in [
            (0, 1.0),
            (8, 1.0),
            (80, 10.0),
            (800, 100.0),
            (100_000, 420.0),
        ] {
            let now = since + Duration::from_secs(lasted);
            let wait = (retry_at(now, since, CAP, jitter()) - now).as_secs_f64();
            assert!(
                (0.89..=1.11).contains(&(wait / expected)),
                "{lasted} s: {wait} s"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_dead_day_costs_a_bounded_number_of_tries() {
        let since = Instant::now();
        let (mut now, mut attempts) = (since, 0);
        while now < since + Duration::from_secs(86_400) {
            now = retry_at(now, since, CAP, jitter());
            attempts += 1;
        }
        assert!((220..320).contains(&attempts), "{attempts}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_budget_refills_with_time() {
        let start = Instant::now();
        let mut budget = RetryBudget::new((2, 60), start);
        assert!(
            budget.try_acquire(start) && budget.try_acquire(start) && !budget.try_acquire(start)
        );
        assert_eq!(budget.next_at(start), start + Duration::from_secs(1));
        assert!(budget.try_acquire(start + Duration::from_secs(1)));
    }
}
