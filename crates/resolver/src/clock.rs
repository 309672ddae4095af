//! The monotonic time of the resolver. No other file of this crate reads a clock.
//!
//! The module is public for `secretwell-auth`. It is not part of the stable API.
//!
//! A cache hit reads the coarse clock of Linux, because the exact clock costs more than the rest of the hit.
//! The kernel advances the coarse clock every 1 to 10 ms. Other systems read tokio's clock.
//!
//! The clocks of the process stop while the machine is suspended. On Linux, the time of the suspension is added to
//! them as soon as it is noticed, from the difference to `CLOCK_BOOTTIME`.
//!
//! With the feature `test-util`, both readings come from tokio's clock, so that a paused clock also expires
//! cached values. A test can add a suspension, and let the wall clock follow tokio's clock.

use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use secretwell_core::{Error, ErrorKind, suspension};
use tokio::time::Instant;

/// A wait is limited to 100 years, to avoid an overflow of the clock.
const MAX_WAIT: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// A time of the monotonic clock, in nanoseconds. Only differences have a meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(i64);

/// Returns the exact time, from tokio's clock. Notices a suspension of the machine.
pub fn now() -> Time {
    let suspended = suspension::notice();
    let (instant, time) = *ORIGIN;
    let now = Instant::now();
    // The paused clock of one test can be behind that of another test.
    let awake = match now.checked_duration_since(instant) {
        Some(elapsed) => time.after(elapsed),
        None => Time(time.0.saturating_sub(nanos(instant - now))),
    };
    awake.after(suspended)
}

/// Returns the time of the coarse clock, which is up to 10 ms behind the exact one. Does not notice a suspension of
/// the machine.
#[cfg(all(target_os = "linux", not(feature = "test-util")))]
#[inline]
pub fn coarse() -> Time {
    Time(read(rustix::time::ClockId::MonotonicCoarse) + suspension::nanos())
}

/// Returns the time of the coarse clock. Notices a suspension of the machine, which costs about 5 ns more.
///
/// The wall clock shows it. If that was set back during the suspension, [`now`] notices it later.
#[cfg(all(target_os = "linux", not(feature = "test-util")))]
#[inline]
pub fn coarse_and_suspension() -> Time {
    use rustix::time::ClockId;

    let awake = read(ClockId::MonotonicCoarse);
    suspension::notice_jump(read(ClockId::RealtimeCoarse) - awake);
    Time(awake + suspension::nanos())
}

/// Returns the exact time.
#[cfg(any(not(target_os = "linux"), feature = "test-util"))]
pub fn coarse() -> Time {
    now()
}

/// Returns the exact time.
#[cfg(any(not(target_os = "linux"), feature = "test-util"))]
pub fn coarse_and_suspension() -> Time {
    now()
}

/// A reading of tokio's clock, and the [`Time`] that it corresponds to.
static ORIGIN: LazyLock<(Instant, Time)> = LazyLock::new(|| (Instant::now(), origin()));

#[cfg(all(target_os = "linux", not(feature = "test-util")))]
fn origin() -> Time {
    Time(read(rustix::time::ClockId::Monotonic))
}

#[cfg(any(not(target_os = "linux"), feature = "test-util"))]
fn origin() -> Time {
    Time(0)
}

#[cfg(all(target_os = "linux", not(feature = "test-util")))]
#[inline]
fn read(clock: rustix::time::ClockId) -> i64 {
    let now = rustix::time::clock_gettime(clock);
    now.tv_sec * 1_000_000_000 + now.tv_nsec
}

#[cfg(feature = "test-util")]
pub use secretwell_core::suspension::suspend;

#[cfg(feature = "test-util")]
thread_local! {
    /// A time, and what the simulated wall clock of this thread shows then.
    static SIMULATED_WALL: std::cell::Cell<Option<(Time, SystemTime)>> = const { std::cell::Cell::new(None) };
}

/// Sets the wall clock of this thread to `start`. From then on, it follows tokio's clock.
#[cfg(feature = "test-util")]
pub fn simulate_wall(start: SystemTime) {
    SIMULATED_WALL.set(Some((now(), start)));
}

/// Returns the time of the wall clock, for the ages of versions that a source has dated.
pub fn wall() -> SystemTime {
    #[cfg(feature = "test-util")]
    if let Some((time, start)) = SIMULATED_WALL.get() {
        return start + now().since(time);
    }
    SystemTime::now()
}

impl Time {
    /// The earliest time.
    pub const MIN: Self = Self(i64::MIN);

    /// Returns the time that is `wait`, but at most 100 years, after this one.
    #[must_use]
    pub fn after(self, wait: Duration) -> Self {
        Self(self.0.saturating_add(nanos(wait)))
    }

    /// Returns the duration from `earlier` to this time, or zero if `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or_default())
    }

    /// Returns this time in nanoseconds, to store it in an atomic integer.
    pub fn to_nanos(self) -> i64 {
        self.0
    }

    /// Returns the time that [`to_nanos`](Self::to_nanos) has returned `nanos` for.
    pub fn from_nanos(nanos: i64) -> Self {
        Self(nanos)
    }

    /// Returns this time on tokio's clock, if the machine is not suspended until then.
    pub fn to_instant(self) -> Instant {
        let (instant, time) = *ORIGIN;
        let time = time.after(suspension::total());
        match self >= time {
            true => instant + self.since(time).min(MAX_WAIT),
            false => instant.checked_sub(time.since(self)).unwrap_or(instant),
        }
    }
}

/// Waits until `time`. Panics in a runtime without a timer: see [`require_runtime`].
pub(crate) async fn sleep_until(time: Time) {
    tokio::time::sleep_until(time.to_instant()).await;
}

/// Returns the output of `future`, or `None` if it is not ready at `time`.
#[cfg(not(all(test, shuttle)))]
pub(crate) async fn timeout_at<F: Future>(time: Time, future: F) -> Option<F::Output> {
    tokio::time::timeout_at(time.to_instant(), future)
        .await
        .ok()
}

/// Returns the output of `future`. In the concurrency test, no time passes.
#[cfg(all(test, shuttle))]
pub(crate) async fn timeout_at<F: Future>(_: Time, future: F) -> Option<F::Output> {
    Some(future.await)
}

/// Requires a tokio runtime with a timer.
///
/// # Errors
/// Returns an error if this thread is not in a tokio runtime, or if the runtime has no timer.
pub fn require_runtime() -> Result<(), Error> {
    if cfg!(all(test, shuttle)) {
        return Ok(());
    }
    if tokio::runtime::Handle::try_current().is_err() {
        return Err(runtime_ended());
    }
    // Tokio offers no other way to find out. The panic hook might print the panic.
    let timer = std::panic::catch_unwind(|| drop(tokio::time::sleep(Duration::ZERO)));
    timer.map_err(|_| {
        Error::new(ErrorKind::InvalidConfig, "the tokio runtime has no timer")
            .with_hint("build the runtime with `enable_time` or `enable_all`")
    })
}

pub(crate) fn runtime_ended() -> Error {
    Error::new(
        ErrorKind::Unavailable,
        "no tokio runtime is running, or it was shut down during the read",
    )
    .with_hint("read secrets within a running tokio runtime")
}

fn nanos(duration: Duration) -> i64 {
    i64::try_from(duration.min(MAX_WAIT).as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(all(test, target_os = "linux", not(feature = "test-util")))]
mod tests {
    use super::*;

    #[test]
    fn coarse_clock_follows_the_exact_one_and_is_never_ahead() {
        for _ in 0..10 {
            let start = now();
            // The kernel advances it every 1 to 10 ms. On a busy machine, this takes longer.
            loop {
                let coarse = coarse();
                assert!(coarse <= now());
                if coarse > start {
                    break;
                }
                let waited = now().since(start);
                assert!(
                    waited < Duration::from_secs(20),
                    "the coarse clock does not advance"
                );
            }
        }
    }

    #[test]
    fn clocks_agree_while_the_machine_is_not_suspended() {
        for _ in 0..1000 {
            let start = now();
            let coarse = coarse_and_suspension();
            assert!(coarse <= now());
            let late = start.since(coarse);
            assert!(late < Duration::from_secs(1), "the clock is {late:?} late");
        }
        // An interruption of the first measurement is counted as well.
        assert!(suspension::total() < Duration::from_secs(60));
    }

    #[test]
    fn jump_of_the_wall_clock_alone_ages_nothing() {
        let start = now();
        for hours in [1, -1, 24 * 365, 0] {
            suspension::notice_jump(hours * 3_600_000_000_000);
        }
        let passed = coarse_and_suspension().since(start);
        assert!(passed < Duration::from_secs(60), "{passed:?}");
    }
}
