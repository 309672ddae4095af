//! The time for which the machine was suspended. The clocks of the process stop meanwhile.
//!
//! The module is public for the resolver and for backends that keep leases. It is not part of the stable API.
//!
//! On Linux, a suspension is noticed from the difference between `CLOCK_BOOTTIME` and `CLOCK_MONOTONIC`. Other systems
//! notice none. With the feature `test-util`, only a test adds suspensions.

pub use imp::*;

/// The time since this process has called a function of this module first.
#[cfg(all(target_os = "linux", not(feature = "test-util")))]
mod imp {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicI64, Ordering};
    use std::time::Duration;

    use rustix::time::{ClockId, clock_gettime};

    /// A smaller difference is the time between two readings.
    const MIN_SUSPENSION: i64 = 1_000_000;
    /// A smaller jump of the wall clock is an adjustment.
    const JUMP: i64 = 1_000_000_000;

    /// What was noticed so far, in nanoseconds.
    static TOTAL: AtomicI64 = AtomicI64::new(0);
    /// The time before that, since the machine was started.
    static EARLIER: LazyLock<i64> = LazyLock::new(since_boot);
    /// The last known difference between the wall clock and the monotonic one.
    static WALL: AtomicI64 = AtomicI64::new(0);

    /// Returns what was noticed so far, in nanoseconds.
    #[inline]
    pub fn nanos() -> i64 {
        TOTAL.load(Ordering::Relaxed)
    }

    /// Returns what was noticed so far.
    pub fn total() -> Duration {
        Duration::from_nanos(nanos().unsigned_abs())
    }

    /// Notices a suspension, and returns the time of all suspensions.
    pub fn notice() -> Duration {
        // Every cache hit reads it, so it is written only after a suspension.
        let total = since_boot() - *EARLIER;
        if total > nanos() + MIN_SUSPENSION {
            TOTAL.fetch_max(total, Ordering::Relaxed);
        }
        self::total()
    }

    /// Notices a suspension if `wall`, the difference between the wall clock and the monotonic one, has jumped.
    #[inline]
    pub fn notice_jump(wall: i64) {
        if (wall - WALL.load(Ordering::Relaxed)).abs() > JUMP {
            jumped(wall);
        }
    }

    #[cold]
    fn jumped(wall: i64) {
        WALL.store(wall, Ordering::Relaxed);
        notice();
    }

    /// Returns the time for which the machine was suspended since it was started. It is less by the time between the
    /// two readings.
    fn since_boot() -> i64 {
        let (boot, awake) = (
            clock_gettime(ClockId::Boottime),
            clock_gettime(ClockId::Monotonic),
        );
        (boot.tv_sec - awake.tv_sec) * 1_000_000_000 + boot.tv_nsec - awake.tv_nsec
    }
}

/// A suspension that a test has added, for its own thread.
#[cfg(feature = "test-util")]
mod imp {
    use std::cell::Cell;
    use std::time::Duration;

    thread_local! {
        static TOTAL: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    }

    /// Returns the time of all suspensions.
    pub fn total() -> Duration {
        TOTAL.get()
    }

    /// Returns the time of all suspensions.
    pub fn notice() -> Duration {
        total()
    }

    /// Suspends the machine for `time`, as this thread sees it: other clocks advance, and tokio's clock does not.
    pub fn suspend(time: Duration) {
        TOTAL.set(TOTAL.get() + time);
    }
}

/// Other systems have no suspension that can be noticed.
#[cfg(not(any(target_os = "linux", feature = "test-util")))]
mod imp {
    use std::time::Duration;

    /// Returns zero.
    pub fn total() -> Duration {
        Duration::ZERO
    }

    /// Returns zero.
    pub fn notice() -> Duration {
        Duration::ZERO
    }
}
