//! Measurement of short calls: time with one and with two threads, and allocations.

use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use secretwell_bench::clock::in_parallel;
use secretwell_bench::figures;
use secretwell_bench::turns::{Times, Turns, Unit};

const ROUNDS: usize = 40;
const BATCH: Duration = Duration::from_millis(6);

/// Makes a number of calls in each of some threads, and returns how long they took.
type Run<'a> = Box<dyn Fn(usize, u64) -> Duration + 'a>;

/// Calls that are compared with each other.
pub(crate) struct Calls<'a> {
    prefix: &'static str,
    alternatives: Vec<(&'static str, Run<'a>)>,
}

/// Adds an expression, which is evaluated in a loop inside one task. The statement after `with` runs once per
/// batch and thread.
macro_rules! add {
    ($calls:ident, $name:literal, $call:expr $(, with $setup:stmt)?) => {
        $calls.add($name, async |calls: u64| {
            $($setup)?
            let started = std::time::Instant::now();
            for _ in 0..calls {
                std::hint::black_box($call);
            }
            started.elapsed()
        })
    };
}
pub(crate) use add;

impl<'a> Calls<'a> {
    pub(crate) fn new(prefix: &'static str) -> Self {
        Self {
            prefix,
            alternatives: Vec::new(),
        }
    }

    /// Adds `make`, which makes the given number of calls, and reports how often one call allocates.
    ///
    /// # Panics
    /// Panics if `make` is pending, because the measured calls must never wait.
    pub(crate) fn add(
        &mut self,
        name: &'static str,
        make: impl AsyncFn(u64) -> Duration + Sync + 'a,
    ) {
        run(make(1));
        let allocations = |calls| {
            let measured = allocation_counter::measure(|| {
                run(make(calls));
            });
            measured.count_total
        };
        let per_call = allocations(2) - allocations(1);
        figures::add(
            &format!("{}_{name}_allocations", self.prefix),
            per_call as f64,
        );
        let in_threads = move |threads, calls| in_parallel(threads, || run(make(calls)));
        self.alternatives.push((name, Box::new(in_threads)));
    }

    /// Measures all calls with one thread and with two threads. Reports and returns the times.
    pub(crate) fn measure(self) -> [Times; 2] {
        let prefix = self.prefix;
        [(1, prefix.to_owned()), (2, format!("{prefix}_two_threads"))].map(|(threads, prefix)| {
            let mut turns = Turns::new(ROUNDS, BATCH);
            for (name, run) in &self.alternatives {
                turns.add(name, move |calls| run(threads, calls));
            }
            let times = turns.measure();
            times.report(&prefix, Unit::Nanoseconds);
            times
        })
    }
}

fn run(work: impl Future<Output = Duration>) -> Duration {
    match pin!(work).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(time) => time,
        Poll::Pending => panic!("measured calls must not wait"),
    }
}
