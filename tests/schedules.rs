//! Runs random schedules, each from a seed of its own. The tests against reference models share this.

pub(crate) mod recorder;

use std::collections::BTreeSet;
use std::env;
use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use proptest::strategy::Strategy;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};

/// The number of schedules, and the seed of the first one. Each schedule has a seed of its own, the next number.
const SCHEDULES: (&str, u64) = ("SECRETWELL_MODEL_SCHEDULES", 1_000);
const SEED: (&str, u64) = ("SECRETWELL_MODEL_SEED", 1);

/// The longest time for one schedule, and for the simplification of a failing one.
const PATIENCE: Duration = Duration::from_secs(120);

/// Calls `check` for each seed, on all processors. Panics with the report of the first failure.
pub(crate) fn check_all(check: fn(u64) -> Result<(), String>) {
    let (schedules, first) = (number(SCHEDULES), number(SEED));
    let seeds = first..first.saturating_add(schedules);
    let next = Arc::new(AtomicU64::new(first));
    let (sender, results) = mpsc::channel();
    for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
        let (next, sender, seeds) = (next.clone(), sender.clone(), seeds.clone());
        // Not a scoped thread: a schedule that never ends must not keep the test from failing.
        thread::spawn(move || {
            let seeds = std::iter::repeat_with(|| next.fetch_add(1, Ordering::Relaxed))
                .take_while(|seed| seeds.contains(seed));
            for seed in seeds {
                let _ = sender.send((seed, None));
                let _ = sender.send((seed, Some(check(seed))));
            }
        });
    }
    drop(sender);
    let mut running = BTreeSet::new();
    loop {
        match results.recv_timeout(PATIENCE) {
            Ok((seed, None)) => drop(running.insert(seed)),
            Ok((seed, Some(Ok(())))) => drop(running.remove(&seed)),
            Ok((seed, Some(Err(failure)))) => panic!(
                "schedule {seed} violates the model; {}={seed} {}=1 runs it again\n\n{failure}",
                SEED.0, SCHEDULES.0
            ),
            Err(RecvTimeoutError::Timeout) => {
                panic!("one of the schedules {running:?} does not end")
            }
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    assert!(
        running.is_empty(),
        "the threads of the schedules {running:?} have panicked"
    );
}

/// Generates the input of `seed` and calls `check` with it.
///
/// # Errors
/// Returns the simplest input for which `check` fails, and its failure.
pub(crate) fn check_seed<S: Strategy>(
    seed: u64,
    inputs: &S,
    check: impl Fn(&S::Value) -> Result<(), String>,
) -> Result<(), (S::Value, String)>
where
    S::Value: Debug,
{
    let config = Config {
        cases: 1,
        failure_persistence: None,
        max_shrink_iters: 3_000,
        ..Config::default()
    };
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let result = runner.run(inputs, |input| check(&input).map_err(TestCaseError::fail));
    match result {
        Ok(()) => Ok(()),
        Err(TestError::Fail(failure, input)) => Err((input, failure.to_string())),
        Err(TestError::Abort(reason)) => panic!("schedule {seed}: {reason}"),
    }
}

/// Returns the text of a schedule that violates the model.
pub(crate) fn report(setup: &impl Debug, steps: &[impl Debug], violation: &str) -> String {
    let steps = steps.iter().map(|step| format!("{step:?}\n"));
    let steps: String = steps.collect();
    format!("{setup:?}\n{steps}\n{violation}")
}

/// Lets `duration` pass. A duration of zero does not yield.
pub(crate) async fn pause(duration: Duration) {
    if !duration.is_zero() {
        tokio::time::sleep(duration).await;
    }
}

/// Returns the number in an environment variable, or the default.
fn number((name, default): (&str, u64)) -> u64 {
    let text = env::var(name);
    text.map_or(default, |text| {
        text.parse().expect("the variable must be a number")
    })
}
