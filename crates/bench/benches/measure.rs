//! How the benchmarks measure: time per call with one and two threads, and allocations per call.

use std::hint::black_box;
use std::pin::pin;
use std::sync::Barrier;
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId};

/// Measures `call` under `name`, with one thread and with two at once, and says how often it
/// allocates. It must be ready at once, and is awaited in a loop, as in a task.
pub(crate) fn measure<R>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    call: impl AsyncFn() -> R + Sync,
) {
    measure_each(group, name, || &call);
}

/// Like [`measure`], for a call that each thread makes with something of its own.
pub(crate) fn measure_each<R, C: AsyncFnMut() -> R>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    own: impl Fn() -> C + Sync,
) {
    let mut call = own();
    repeat(1, &mut call);
    let allocations = allocation_counter::measure(|| repeat(1, &mut call)).count_total;
    println!("{name}: {allocations} allocations per call");
    for threads in [1, 2] {
        group.bench_function(BenchmarkId::new(name, threads), |bencher| {
            bencher.iter_custom(|calls| at_once(threads, calls, &own));
        });
    }
}

/// How long `threads` threads take for `calls` calls each.
fn at_once<R, C: AsyncFnMut() -> R>(
    threads: usize,
    calls: u64,
    own: &(impl Fn() -> C + Sync),
) -> Duration {
    let ready = Barrier::new(threads + 1);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut call = own();
                repeat(1, &mut call);
                ready.wait();
                repeat(calls, &mut call);
            });
        }
        ready.wait();
        Instant::now()
    })
    .elapsed()
}

fn repeat<R, C: AsyncFnMut() -> R>(calls: u64, call: &mut C) {
    let all = async {
        for _ in 0..calls {
            black_box(call().await);
        }
    };
    let polled = pin!(all).poll(&mut Context::from_waker(Waker::noop()));
    assert_eq!(polled, Poll::Ready(()), "what is measured is ready");
}
