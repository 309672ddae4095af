//! The time between retries, and the retry budget.

use std::time::Duration;

use crate::clock::Time;

/// The minimum wait before a retry.
pub(crate) const MIN_WAIT: Duration = Duration::from_secs(1);
/// The minimum time until the resolver tries again what it could not do now.
pub(crate) const MIN_PAUSE: Duration = Duration::from_millis(100);

/// Returns the time of the next retry after a failure that started at `since`.
///
/// The wait is an eighth of the duration of the failure, at least 1 s and at most `cap`, multiplied by
/// `jitter`.
///
/// A recovery is therefore detected within an eighth of the duration of the outage, for example within
/// 11 s after 90 s. A source that is down for a day receives about 260 requests with a cap of 7 min.
/// Exponential backoff by doubling sends about as many requests. But after a recovery, its next request can
/// be as far away as the outage has lasted.
pub(crate) fn retry_at(now: Time, since: Time, cap: Duration, jitter: f64) -> Time {
    let outage = now.since(since);
    let wait = (outage / 8).clamp(MIN_WAIT, cap.max(MIN_WAIT));
    now.after(wait.mul_f64(jitter))
}

/// Returns a random factor between `low` and `high`.
pub(crate) fn random_between(low: f64, high: f64) -> f64 {
    low + (high - low) * fastrand::f64()
}

/// When a value is refreshed after a first or a forced read, as a fraction of the ttl. Such reads can happen in many
/// processes at once: after a deployment, an outage or a change notification. Their next refreshes must not.
///
/// Reads within an eighth of the ttl share the fraction, so that one batch refreshes their keys. Later reads draw another
/// one. Otherwise, after a second read of all processes, those with a similar fraction would refresh together.
#[derive(Debug, Default)]
pub(crate) struct FirstRefresh(Option<(f64, Time)>);

impl FirstRefresh {
    pub(crate) fn fraction(&mut self, now: Time, ttl: Duration) -> f64 {
        match self.0 {
            Some((fraction, until)) if now < until => fraction,
            _ => {
                let fraction = first_refresh();
                self.0 = Some((fraction, now.after(ttl / 8)));
                fraction
            }
        }
    }
}

/// Returns another random fraction for a first refresh.
pub(crate) fn first_refresh() -> f64 {
    random_between(0.125, 0.875)
}

/// Returns the random factor for the wait before a retry: 0.9 to 1.1.
pub(crate) fn retry_jitter() -> f64 {
    random_between(0.9, 1.1)
}

/// A token bucket for retries. All keys of a provider share it, so the rate of retries does not grow
/// with the number of failed keys.
#[derive(Debug)]
pub(crate) struct RetryBudget {
    tokens: f64,
    burst: f64,
    per_second: f64,
    refilled_at: Time,
}

impl RetryBudget {
    pub(crate) fn new((burst, per_minute): (u32, u32), now: Time) -> Self {
        let burst = f64::from(burst);
        Self {
            tokens: burst,
            burst,
            per_second: f64::from(per_minute) / 60.0,
            refilled_at: now,
        }
    }

    /// Takes one token if one is available. Returns whether it was.
    pub(crate) fn try_acquire(&mut self, now: Time) -> bool {
        self.refill(now);
        let available = self.tokens >= 1.0;
        if available {
            self.tokens -= 1.0;
        }
        available
    }

    /// Returns the time at which the next token is available, at least [`MIN_PAUSE`] after `now`.
    pub(crate) fn next_at(&mut self, now: Time) -> Time {
        self.refill(now);
        let missing = (1.0 - self.tokens).max(0.0);
        let wait = Duration::try_from_secs_f64(missing / self.per_second);
        now.after(wait.map_or(Duration::from_secs(60), |wait| wait.max(MIN_PAUSE)))
    }

    /// Returns the part of the burst that is available.
    #[cfg(feature = "metrics")]
    pub(crate) fn remaining(&mut self, now: Time) -> f64 {
        self.refill(now);
        self.tokens / self.burst
    }

    fn refill(&mut self, now: Time) {
        let elapsed = now.since(self.refilled_at);
        self.tokens = (self.tokens + elapsed.as_secs_f64() * self.per_second).min(self.burst);
        self.refilled_at = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::now;

    const CAP: Duration = Duration::from_secs(420);

    #[tokio::test(start_paused = true)]
    async fn first_reads_share_their_fraction_for_an_eighth_of_the_ttl() {
        let (ttl, start) = (Duration::from_secs(80), now());
        let fractions = |seconds: &[u64]| -> Vec<f64> {
            let mut first = FirstRefresh::default();
            let times = seconds.iter().map(|s| start.after(Duration::from_secs(*s)));
            times.map(|time| first.fraction(time, ttl)).collect()
        };
        // Two fractions can be equal by chance.
        let is_drawn_again = (0..100).any(|_| {
            let [first, second, third, fourth] = fractions(&[0, 9, 10, 19])[..] else {
                panic!("four fractions")
            };
            assert!(first == second && third == fourth);
            assert!((0.125..0.875).contains(&first) && (0.125..0.875).contains(&third));
            first != third
        });
        assert!(is_drawn_again);
    }

    #[tokio::test(start_paused = true)]
    async fn wait_is_an_eighth_of_the_outage_within_limits() {
        let since = now();
        for (outage, expected) in [
            (0, 1.0),
            (8, 1.0),
            (80, 10.0),
            (800, 100.0),
            (100_000, 420.0),
        ] {
            let now = since.after(Duration::from_secs(outage));
            let wait = retry_at(now, since, CAP, retry_jitter())
                .since(now)
                .as_secs_f64();
            assert!(
                (0.89..=1.11).contains(&(wait / expected)),
                "outage of {outage} s: wait of {wait} s"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn attempts_during_an_outage_of_one_day_are_bounded() {
        let since = now();
        let (mut now, mut attempts) = (since, 0);
        while now < since.after(Duration::from_secs(86_400)) {
            now = retry_at(now, since, CAP, retry_jitter());
            attempts += 1;
        }
        assert!((220..320).contains(&attempts), "{attempts}");
    }

    #[tokio::test(start_paused = true)]
    async fn budget_refills_over_time() {
        let start = now();
        let mut budget = RetryBudget::new((2, 60), start);
        assert!(
            budget.try_acquire(start) && budget.try_acquire(start) && !budget.try_acquire(start)
        );
        assert_eq!(budget.next_at(start), start.after(Duration::from_secs(1)));
        assert!(budget.try_acquire(start.after(Duration::from_secs(1))));
    }
}
