//! The times that are measured.

use std::hint::black_box;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// Returns the CPU time that this process has used. Other processes do not affect it, so it is more stable than
/// the time of a clock.
pub fn process_cpu_time() -> Duration {
    cpu_time(ClockId::ProcessCPUTime)
}

/// Returns the CPU time that this thread has used. It is the cost of a client whose server runs in another thread.
pub fn thread_cpu_time() -> Duration {
    cpu_time(ClockId::ThreadCPUTime)
}

fn cpu_time(clock: ClockId) -> Duration {
    Duration::try_from(clock_gettime(clock)).expect("CPU time is not negative")
}

/// Returns how long `calls` calls of `work` take.
pub fn wall_time<R>(calls: u64, mut work: impl FnMut() -> R) -> Duration {
    let started = Instant::now();
    for _ in 0..calls {
        black_box(work());
    }
    started.elapsed()
}

/// Returns the CPU time of this thread for `calls` calls of `work`.
pub fn client_time<R>(calls: u64, mut work: impl FnMut() -> R) -> Duration {
    let before = thread_cpu_time();
    for _ in 0..calls {
        black_box(work());
    }
    thread_cpu_time() - before
}

/// Runs `work` in `threads` threads at once, and returns the longest time that it returns.
pub fn in_parallel(threads: usize, work: impl Fn() -> Duration + Sync) -> Duration {
    if threads == 1 {
        return work();
    }
    let ready = Barrier::new(threads);
    let timed = || {
        ready.wait();
        work()
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(timed)).collect();
        let times = threads
            .into_iter()
            .map(|thread| thread.join().expect("no thread panics"));
        times.max().unwrap_or_default()
    })
}
