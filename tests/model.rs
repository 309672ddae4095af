//! A test of the resolver with random schedules, against a reference model.
//!
//! A schedule is a sequence of reads, changes, faults and jumps of the clock, on a paused clock and one or two
//! runtimes. The model knows the values of the sources and the results of all calls to them. From these, it
//! derives which result a read can have at which time. It knows nothing of the resolver's implementation.
//!
//! | module | content |
//! | --- | --- |
//! | `schedule` | the settings and steps of a run, and their generation |
//! | `source` | a source that follows the schedule |
//! | `run` | the execution of a schedule |
//! | `trace` | what happened during a run |
//! | `rules` | which results a read can have |
//! | `limits` | the rules about the calls, the watches and the end of a run |

mod limits;
mod rules;
mod run;
mod schedule;
mod source;
mod trace;

use std::collections::BTreeSet;
use std::env;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};

use rules::Model;
use schedule::Schedule;

/// The number of schedules, and the seed of the first one. Each schedule has a seed of its own, the next number.
const SCHEDULES: (&str, u64) = ("SECRETWELL_MODEL_SCHEDULES", 1_000);
const SEED: (&str, u64) = ("SECRETWELL_MODEL_SEED", 1);

/// The longest time for one schedule, and for the simplification of a failing one.
const PATIENCE: Duration = Duration::from_secs(120);

#[test]
fn results_conform_to_the_reference_model_for_random_schedules() {
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
                let _ = sender.send((seed, Some(check_seed(seed))));
            }
        });
    }
    drop(sender);
    let mut running = BTreeSet::new();
    loop {
        match results.recv_timeout(PATIENCE) {
            Ok((seed, None)) => drop(running.insert(seed)),
            Ok((seed, Some(Ok(())))) => drop(running.remove(&seed)),
            Ok((_, Some(Err(failure)))) => panic!("{failure}"),
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

/// Runs the schedule of `seed`.
///
/// # Errors
/// Returns a report about the simplest schedule that fails.
fn check_seed(seed: u64) -> Result<(), String> {
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
    let result = runner.run(&schedule::schedules(), |schedule| {
        check(&schedule, seed).map_err(TestCaseError::fail)
    });
    match result {
        Ok(()) => Ok(()),
        Err(TestError::Fail(_, schedule)) => Err(report(&schedule, seed)),
        Err(TestError::Abort(reason)) => Err(format!("schedule {seed}: {reason}")),
    }
}

fn check(schedule: &Schedule, seed: u64) -> Result<(), String> {
    // The resolver's jitter.
    fastrand::seed(seed);
    let run = run::run(schedule);
    let model = Model::new(schedule, &run);
    model.check_reads().map_err(|(number, violation)| {
        let read = &run.trace.reads[number];
        let end = read.end.map_or(u64::MAX, |end| end.order);
        let trace = run.trace.until(end);
        format!(
            "read {number} returned {:?}: {violation}\n\n{trace}",
            read.result
        )
    })?;
    let limits = model.check_limits();
    limits.map_err(|violation| format!("{violation}\n\n{}", run.trace.until(u64::MAX)))
}

fn report(schedule: &Schedule, seed: u64) -> String {
    let mut report = format!(
        "schedule {seed} violates the model; {}={seed} {}=1 runs it again\n\n{:?}\n",
        SEED.0, SCHEDULES.0, schedule.setup
    );
    for step in &schedule.steps {
        let _ = writeln!(report, "{step:?}");
    }
    let violation = check(schedule, seed).err();
    let violation =
        violation.unwrap_or_else(|| "the simplified schedule does not fail each time".into());
    let _ = writeln!(report, "\n{violation}");
    report
}

/// Returns the number in an environment variable, or the default.
fn number((name, default): (&str, u64)) -> u64 {
    let text = env::var(name);
    text.map_or(default, |text| {
        text.parse().expect("the variable must be a number")
    })
}
