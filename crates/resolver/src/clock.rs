//! The coarse clock that cache hits compare with.
//!
//! The module is public for `secretwell-auth`. It is not part of the stable API.
//!
//! The resolver keeps its times as tokio's `Instant`. Reading that clock costs more than the rest of a cache
//! hit. A hit therefore reads the coarse monotonic clock of Linux, which the kernel advances every 1 to 10 ms.
//! Other systems read tokio's clock.
//!
//! With the feature `test-util`, this module reads tokio's clock too, so that a paused clock also expires
//! cached values.

use std::time::Duration;

/// A time of the coarse clock, in nanoseconds. Only differences have a meaning.
pub type Ticks = i64;

/// Returns the current time of the coarse clock.
#[cfg(all(target_os = "linux", not(feature = "test-util")))]
#[inline]
pub fn ticks() -> Ticks {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::MonotonicCoarse);
    now.tv_sec * 1_000_000_000 + now.tv_nsec
}

/// Returns the current time of tokio's clock.
#[cfg(any(not(target_os = "linux"), feature = "test-util"))]
pub fn ticks() -> Ticks {
    use std::sync::LazyLock;

    use tokio::time::Instant;

    static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);
    let origin = *ORIGIN;
    let now = Instant::now();
    // The paused clock of one test can be behind that of another test.
    match now.checked_duration_since(origin) {
        Some(elapsed) => nanos(elapsed),
        None => -nanos(origin - now),
    }
}

/// Returns the time that is `wait` after `now`.
pub fn after(now: Ticks, wait: Duration) -> Ticks {
    now.saturating_add(nanos(wait))
}

fn nanos(duration: Duration) -> Ticks {
    Ticks::try_from(duration.as_nanos()).unwrap_or(Ticks::MAX)
}

#[cfg(all(test, target_os = "linux", not(feature = "test-util")))]
mod tests {
    use super::*;

    #[test]
    fn coarse_clock_follows_the_exact_one_and_is_never_ahead() {
        let exact = || {
            let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
            now.tv_sec * 1_000_000_000 + now.tv_nsec
        };
        for _ in 0..10 {
            let start = exact();
            // The kernel advances it every 1 to 10 ms. On a busy machine, this takes longer.
            loop {
                let coarse = ticks();
                assert!(coarse <= exact());
                if coarse > start {
                    break;
                }
                assert!(
                    exact() - start < 20_000_000_000,
                    "the coarse clock stands still"
                );
            }
        }
    }
}
