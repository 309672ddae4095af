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
//! | `versions` | the rule about older versions |
//! | `limits` | the rules about the calls, the watches and the end of a run |

mod limits;
mod rules;
mod run;
mod schedule;
mod source;
mod trace;
mod versions;

use rules::Model;
use schedule::Schedule;

use crate::schedules;

#[test]
fn results_conform_to_the_reference_model_for_random_schedules() {
    schedules::check_all(|seed| {
        let checked = schedules::check_seed(seed, &schedule::schedules(), |it| check(it, seed));
        checked.map_err(|(it, violation)| schedules::report(&it.setup, &it.steps, &violation))
    });
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
