//! How many reads the server still allows.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::HeaderMap;
use tokio::time::Instant;

/// From this share of the limit on, what is left is spread over the rest of the window.
const LOW: u32 = 4;

/// The reads that are left in the server's window, shared by all keys of a provider. Servers count by
/// address and route: default self-hosted ones allow 40 a minute, and answers without a body count.
#[derive(Debug, Default)]
pub(crate) struct Budget(Mutex<Option<Window>>);

#[derive(Debug, Clone, Copy)]
struct Window {
    limit: u32,
    left: u32,
    ends: Instant,
    /// When the next read may go out, where they are few.
    next: Instant,
}

impl Budget {
    /// Takes note of what an answer says is left.
    pub(crate) fn note(&self, headers: &HeaderMap) {
        let number = |name| headers.get(name)?.to_str().ok()?.trim().parse().ok();
        let (Some(limit), Some(left), Some(reset)) = (
            number("x-ratelimit-limit"),
            number("x-ratelimit-remaining"),
            number("x-ratelimit-reset"),
        ) else {
            return;
        };
        let now = Instant::now();
        let mut window = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *window = Some(Window {
            limit,
            left,
            ends: now + Duration::from_secs(u64::from(reset)),
            next: window.map_or(now, |window| window.next),
        });
    }

    /// Takes a place, and tells how long to wait for it. Nothing to wait for while there is plenty; one that
    /// is further away than `most` is left to others.
    pub(crate) fn take(&self, most: Duration) -> Duration {
        let now = Instant::now();
        let mut guard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(window) = guard.as_mut() else {
            return Duration::ZERO;
        };
        if now >= window.ends || window.left > window.limit / LOW {
            window.left = window.left.saturating_sub(1);
            return Duration::ZERO;
        }
        let place = match window.left {
            0 => window.ends,
            _ => window.next.max(now),
        };
        let wait = place - now;
        if window.left > 0 && wait <= most {
            window.next = place + (window.ends - now) / window.left;
            window.left -= 1;
        }
        wait
    }
}

/// The wait that the server has asked for, which holds for everything that the provider asks.
#[derive(Debug, Default)]
pub(crate) struct Pause(Mutex<Option<Instant>>);

impl Pause {
    /// Takes note of a wait. It makes none shorter that was told before.
    pub(crate) fn note(&self, wait: Duration) {
        let mut end = self.end();
        *end = (*end).max(Instant::now().checked_add(wait));
    }

    /// What is left of it.
    pub(crate) fn left(&self) -> Duration {
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

    fn headers(limit: u32, left: u32, reset: u32) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert("x-ratelimit-limit", limit.into());
        headers.insert("x-ratelimit-remaining", left.into());
        headers.insert("x-ratelimit-reset", reset.into());
        headers
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_reads_are_spread_over_the_window() {
        let most = Duration::from_secs(20);
        let budget = Budget::default();
        assert_eq!(budget.take(most), Duration::ZERO);
        budget.note(&headers(40, 30, 50));
        assert_eq!(budget.take(most), Duration::ZERO);

        budget.note(&headers(40, 10, 50));
        let waits = |most| [0; 3].map(|_| budget.take(most).as_secs());
        assert_eq!(waits(most), [0, 5, 10]);
        // Who does not wait takes no place.
        assert_eq!(waits(Duration::from_secs(1)), [16, 16, 16]);
        budget.note(&headers(40, 0, 20));
        assert_eq!(budget.take(most), Duration::from_secs(20));

        tokio::time::advance(Duration::from_secs(20)).await;
        assert_eq!(budget.take(most), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_that_was_told_holds_to_its_end() {
        let pause = Pause::default();
        assert_eq!(pause.left(), Duration::ZERO);
        pause.note(Duration::from_secs(30));
        pause.note(Duration::from_secs(10));
        assert_eq!(pause.left(), Duration::from_secs(30));
        tokio::time::advance(Duration::from_secs(31)).await;
        assert_eq!(pause.left(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_says_nothing_has_no_limit() {
        let budget = Budget::default();
        budget.note(&HeaderMap::new());
        assert!((0..1_000).all(|_| budget.take(Duration::ZERO).is_zero()));
    }
}
