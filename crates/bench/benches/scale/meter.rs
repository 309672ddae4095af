//! Meters: CPU time, and the pauses of a runtime.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use secretwell_bench::clock::process_cpu_time;
use tokio::runtime::{Builder, Runtime};
use tokio::time::{MissedTickBehavior, interval, sleep};

/// How often the pauses of a runtime are measured.
const TICK: Duration = Duration::from_millis(1);
/// The resolver is idle if this much time passes with less than [`IDLE_CPU`] of CPU time.
const IDLE_TIME: Duration = Duration::from_millis(30);
const IDLE_CPU: Duration = Duration::from_millis(2);

/// Returns `total` divided by `count`.
pub(crate) fn per(total: Duration, count: usize) -> Duration {
    total.div_f64(count as f64)
}

/// Creates a runtime with one thread, on which nothing else runs.
pub(crate) fn single_thread() -> Runtime {
    Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("the runtime starts")
}

/// Waits until this process uses nearly no CPU time.
pub(crate) async fn until_idle() {
    loop {
        let before = process_cpu_time();
        sleep(IDLE_TIME).await;
        if process_cpu_time() - before < IDLE_CPU {
            return;
        }
    }
}

/// Returns the smallest result of `runs` calls of `measure`. Other work on the machine makes results larger,
/// never smaller.
pub(crate) fn smallest(runs: usize, mut measure: impl FnMut() -> f64) -> f64 {
    (0..runs).map(|_| measure()).fold(f64::INFINITY, f64::min)
}

/// Measures pauses: for how long other tasks of the same thread keep a task from running that wakes every
/// millisecond.
///
/// A pause is measured as the CPU time between two runs of the task, because other processes would disturb
/// the time of a clock.
pub(crate) struct Ticker {
    longest: Rc<Cell<Duration>>,
    task: tokio::task::JoinHandle<()>,
}

impl Ticker {
    /// Starts the task in the current [`tokio::task::LocalSet`].
    pub(crate) fn start() -> Self {
        let longest = Rc::new(Cell::new(Duration::ZERO));
        let shared = longest.clone();
        let task = tokio::task::spawn_local(async move {
            let mut ticks = interval(TICK);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut before = process_cpu_time();
            loop {
                ticks.tick().await;
                let now = process_cpu_time();
                shared.set(shared.get().max(now - before));
                before = now;
            }
        });
        Self { longest, task }
    }

    /// Returns the longest pause since the last call.
    pub(crate) async fn take(&self) -> Duration {
        // The task measures the pause that ends now.
        sleep(2 * TICK).await;
        self.longest.take()
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.task.abort();
    }
}
