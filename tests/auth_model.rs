//! A test of `LazyAuth` with random schedules, against a reference model.
//!
//! A schedule is a sequence of calls, changes of secrets, revocations, faults and jumps of the clock, on a paused
//! clock and one or two runtimes. The model knows the versions of the source, the results of all reads of it,
//! and the inputs of all builds. From these, it derives which secrets a ring can contain at which time. It knows
//! nothing of the implementation.
//!
//! The wall clock does not advance during a schedule, as in a process whose clock lags behind the clock of the
//! source. This only makes secrets from the version history sign and verify later.
//!
//! | module | content |
//! | --- | --- |
//! | `schedule` | the settings and steps of a run, and their generation |
//! | `source` | a source that follows the schedule |
//! | `builder` | a builder that follows the schedule |
//! | `runtimes` | runtimes whose paused clocks show the same time |
//! | `run` | the execution of a schedule |
//! | `trace` | what happened during a run |
//! | `model` | the published builds, and the revoked secrets |
//! | `rings` | which secrets a ring can contain |
//! | `calls` | which results a call can have, and which states |

mod builder;
mod calls;
mod model;
mod rings;
mod run;
mod runtimes;
mod schedule;
mod source;
mod trace;

use model::Model;
use schedule::Schedule;

use crate::schedules;

#[test]
fn rings_and_states_conform_to_the_reference_model_for_random_schedules() {
    schedules::check_all(|seed| {
        let checked = schedules::check_seed(seed, &schedule::schedules(), |it| check(it, seed));
        checked.map_err(|(it, violation)| schedules::report(&it.setup, &it.steps, &violation))
    });
}

fn check(schedule: &Schedule, seed: u64) -> Result<(), String> {
    // The resolver's jitter.
    fastrand::seed(seed);
    let run = run::run(schedule);
    let model = Model::new(&schedule.setup, &run);
    let checked = model.check_rings().and_then(|()| model.check_calls());
    checked.map_err(|violation| {
        let trace = run.trace.until(violation.order);
        format!("{}\n\n{trace}", violation.text)
    })
}
