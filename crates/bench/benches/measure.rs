//! Measurement of the time per call with one and two threads, and of the allocations per call.

use std::pin::pin;
use std::sync::Barrier;
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId};

/// Measures an expression that is evaluated in a loop inside one task. The statement after `with` runs once
/// per thread.
macro_rules! measure {
    ($group:ident, $name:literal, $call:expr $(, with $setup:stmt)?) => {
        $crate::measure::calls(&mut $group, $name, &async |calls: u64| {
            $($setup)?
            for _ in 0..calls {
                std::hint::black_box($call);
            }
        })
    };
}
pub(crate) use measure;

/// Measures `make`, which makes the given number of calls, with one thread and with two threads in parallel.
/// Prints how often one call allocates.
///
/// # Panics
/// Panics if `make` is pending, because the measured calls must never wait.
pub(crate) fn calls(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    make: &(impl AsyncFn(u64) + Sync),
) {
    run(make(1));
    let allocations = |calls| allocation_counter::measure(|| run(make(calls))).count_total;
    let per_call = allocations(2) - allocations(1);
    println!("{name}: {per_call} allocations per call");
    for threads in [1, 2] {
        group.bench_function(BenchmarkId::new(name, threads), |bencher| {
            bencher.iter_custom(|calls| in_parallel(threads, || run(make(calls))));
        });
    }
}

/// Returns how long `threads` threads take to run `work` in parallel.
fn in_parallel(threads: usize, work: impl Fn() + Sync) -> Duration {
    let ready = Barrier::new(threads + 1);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                ready.wait();
                work();
            });
        }
        ready.wait();
        Instant::now()
    })
    .elapsed()
}

fn run(work: impl Future<Output = ()>) {
    let poll = pin!(work).poll(&mut Context::from_waker(Waker::noop()));
    assert_eq!(poll, Poll::Ready(()), "measured calls must not wait");
}
