//! Rate limits: the requests that remain in the server's window, and the wait that a 429 demands.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::HeaderMap;
use tokio::time::Instant;

/// When at most the limit divided by this number remains, requests are spread over the rest of the window.
const SPREAD_DIVISOR: u32 = 4;
/// The longest credible rest of a window. The server's window lasts one minute. A gateway in front of it can
/// rewrite the header, for example as the time of the reset.
const MAX_RESET: Duration = Duration::from_secs(5 * 60);

/// The requests that remain in the server's rate-limit window, shared by all keys of a provider. Servers
/// count requests per client address and route, including those whose response has no body. A default
/// self-hosted server allows 40 per minute.
#[derive(Debug, Default)]
pub(crate) struct Budget(Mutex<Option<Window>>);

#[derive(Debug, Clone, Copy)]
struct Window {
    limit: u32,
    remaining: u32,
    resets_at: Instant,
    /// The earliest time of the next request while requests are spread.
    next_slot: Instant,
}

impl Budget {
    /// Updates the window from the `x-ratelimit-…` headers of a response, if all three are present and credible.
    pub(crate) fn record(&self, headers: &HeaderMap) {
        let number = |name| headers.get(name)?.to_str().ok()?.trim().parse().ok();
        let (Some(limit), Some(remaining), Some(reset)) = (
            number("x-ratelimit-limit"),
            number("x-ratelimit-remaining"),
            window_reset(headers),
        ) else {
            return;
        };
        let now = Instant::now();
        let mut window = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *window = Some(Window {
            limit,
            remaining,
            resets_at: now + reset,
            next_slot: window.map_or(now, |window| window.next_slot),
        });
    }

    /// Returns whether requests are spread over the rest of the window.
    pub(crate) fn is_nearly_exhausted(&self) -> bool {
        let window = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        window.is_some_and(|window| window.is_nearly_exhausted())
    }

    /// Reserves a slot for one request and returns how long to wait for it. The wait is zero while more
    /// than a quarter of the limit remains. A slot that is further away than `max_wait` is not reserved,
    /// so that another caller can use it.
    pub(crate) fn reserve(&self, max_wait: Duration) -> Duration {
        let now = Instant::now();
        let mut guard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(window) = guard.as_mut() else {
            return Duration::ZERO;
        };
        if !window.is_nearly_exhausted() {
            window.remaining = window.remaining.saturating_sub(1);
            return Duration::ZERO;
        }
        let slot = match window.remaining {
            0 => window.resets_at,
            _ => window.next_slot.max(now),
        };
        let wait = slot - now;
        if window.remaining > 0 && wait <= max_wait {
            window.next_slot = slot + (window.resets_at - now) / window.remaining;
            window.remaining -= 1;
        }
        wait
    }
}

impl Window {
    fn is_nearly_exhausted(&self) -> bool {
        Instant::now() < self.resets_at && self.remaining <= self.limit / SPREAD_DIVISOR
    }
}

/// Returns the time until the rate-limit window ends, if the response states a credible one.
pub(crate) fn window_reset(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("x-ratelimit-reset")?.to_str().ok()?;
    let reset = Duration::from_secs(text.trim().parse().ok()?);
    (reset <= MAX_RESET).then_some(reset)
}

/// The wait that the server demanded with a 429. It applies to every request of the provider.
#[derive(Debug, Default)]
pub(crate) struct Pause(Mutex<Option<Instant>>);

impl Pause {
    /// Extends the pause to `wait` from now. It never shortens an earlier pause.
    pub(crate) fn extend(&self, wait: Duration) {
        let mut end = self.end();
        *end = (*end).max(Instant::now().checked_add(wait));
    }

    /// Returns the rest of the pause.
    pub(crate) fn remaining(&self) -> Duration {
        let end = *self.end();
        end.map_or(Duration::ZERO, |end| {
            end.saturating_duration_since(Instant::now())
        })
    }

    fn end(&self) -> MutexGuard<'_, Option<Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(limit: u32, remaining: u32, reset: u32) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert("x-ratelimit-limit", limit.into());
        headers.insert("x-ratelimit-remaining", remaining.into());
        headers.insert("x-ratelimit-reset", reset.into());
        headers
    }

    #[tokio::test(start_paused = true)]
    async fn last_requests_are_spread_over_the_window() {
        let max_wait = Duration::from_secs(20);
        let budget = Budget::default();
        assert_eq!(budget.reserve(max_wait), Duration::ZERO);
        budget.record(&headers(40, 30, 50));
        assert_eq!(budget.reserve(max_wait), Duration::ZERO);

        budget.record(&headers(40, 10, 50));
        let waits = |max_wait| [0; 3].map(|_| budget.reserve(max_wait).as_secs());
        assert_eq!(waits(max_wait), [0, 5, 10]);
        // A caller that does not wait reserves no slot.
        assert_eq!(waits(Duration::from_secs(1)), [16, 16, 16]);
        budget.record(&headers(40, 0, 20));
        assert_eq!(budget.reserve(max_wait), Duration::from_secs(20));

        tokio::time::advance(Duration::from_secs(20)).await;
        assert_eq!(budget.reserve(max_wait), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn window_of_years_is_not_credible() {
        let budget = Budget::default();
        budget.record(&headers(40, 0, 300));
        assert_eq!(budget.reserve(MAX_RESET), MAX_RESET);
        let budget = Budget::default();
        for reset in [301, 1_790_000_000, u32::MAX] {
            budget.record(&headers(40, 0, reset));
            assert_eq!(budget.reserve(MAX_RESET), Duration::ZERO, "{reset}");
            assert_eq!(window_reset(&headers(40, 0, reset)), None);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn pause_is_not_shortened_by_a_later_shorter_wait() {
        let pause = Pause::default();
        assert_eq!(pause.remaining(), Duration::ZERO);
        pause.extend(Duration::from_secs(30));
        pause.extend(Duration::from_secs(10));
        assert_eq!(pause.remaining(), Duration::from_secs(30));
        tokio::time::advance(Duration::from_secs(31)).await;
        assert_eq!(pause.remaining(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn response_without_rate_limit_headers_means_no_limit() {
        let budget = Budget::default();
        budget.record(&HeaderMap::new());
        assert!((0..1_000).all(|_| budget.reserve(Duration::ZERO).is_zero()));
    }
}
