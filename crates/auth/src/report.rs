//! Reports of the state and the builds of an auth through the facade `metrics`.
//!
//! The recorder is code of others, so its panics are caught.

use std::time::Duration;

use metrics::{Unit, gauge, histogram};

use crate::panics::catch;
use crate::state::Generation;

/// The names of all states.
const STATES: [&str; 6] = [
    "idle", "starting", "ready", "rotating", "degraded", "failed",
];

/// Reports the name of the state of the auth `name`, or with `None` that the auth was dropped.
pub(crate) fn state(name: Option<&str>, state: Option<&str>, generation: Generation) {
    let _ = catch(|| {
        for each in STATES {
            let is_current = state == Some(each);
            gauge!(
                description: "1 for the current state of an auth, 0 for the others.",
                "secretwell_auth_state",
                "name" => label(name),
                "type" => each
            )
            .set(f64::from(u8::from(is_current)));
        }
        // The number is exact up to 2^53 builds.
        #[expect(clippy::cast_precision_loss, reason = "nobody makes so many builds")]
        let generation = generation as f64;
        gauge!(
            description: "Number of the current build of an auth.",
            "secretwell_auth_generation",
            "name" => label(name)
        )
        .set(generation);
    });
}

/// Reports an attempt that made a build or failed.
pub(crate) fn attempt(name: Option<&str>, took: Duration, is_failure: bool) {
    let outcome = match is_failure {
        true => "failure",
        false => "success",
    };
    let _ = catch(|| {
        histogram!(
            description: "Attempts to build that made a build or failed.",
            unit: Unit::Seconds,
            "secretwell_auth_build_duration_seconds",
            "name" => label(name),
            "outcome" => outcome
        )
        .record(took);
    });
}

fn label(name: Option<&str>) -> String {
    name.unwrap_or("auth").to_owned()
}
