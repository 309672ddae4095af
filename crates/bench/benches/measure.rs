//! How the benchmarks measure: time per call with one and two threads, and allocations per call.

use std::pin::pin;
use std::sync::Barrier;
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId};

/// Measures an expression, evaluated in a loop within a task. What follows `with` is made once for
/// each thread.
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

/// Measures what makes as many calls as it is told, with one thread and with two at once, and says
/// how often a call allocates. It must never wait.
pub(crate) fn calls(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    make: &(impl AsyncFn(u64) + Sync),
) {
    run(make(1));
    let allocations = |calls| allocation_counter::measure(|| run(make(calls))).count_total;
    let each = allocations(2) - allocations(1);
    println!("{name}: {each} allocations per call");
    for threads in [1, 2] {
        group.bench_function(BenchmarkId::new(name, threads), |bencher| {
            bencher.iter_custom(|calls| at_once(threads, || run(make(calls))));
        });
    }
}

/// How long `threads` threads take that do the same at once.
fn at_once(threads: usize, work: impl Fn() + Sync) -> Duration {
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
    let polled = pin!(work).poll(&mut Context::from_waker(Waker::noop()));
    assert_eq!(polled, Poll::Ready(()), "what is measured never waits");
}
