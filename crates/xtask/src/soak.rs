//! `cargo xtask soak`: a service under constant requests, while everything around it fails in a seeded schedule.

use crate::install::install_for_soak;
use crate::shell::cargo_with_env;

/// Builds the service without `test-util` of the resolver, so that it reads the clocks of the system. With `use-libc`, it
/// reads them through functions that libfaketime replaces.
pub(crate) const BUILD_SERVICE: &str = "build --package secretwell-soak --features rustix/use-libc";

const MINUTES: u64 = 30;
const SEED: u64 = 1;

/// Runs the schedule of `--seed` for `--minutes`.
pub(crate) fn run(arguments: &[&str]) -> Result<(), String> {
    let (mut minutes, mut seed) = (MINUTES, SEED);
    for option in arguments.chunks(2) {
        let [name, value] = option else {
            return Err(format!("{} has no value", option.concat()));
        };
        let value = value.parse();
        let value = value.map_err(|error| format!("{name} is not a number: {error}"))?;
        match *name {
            "--minutes" => minutes = value,
            "--seed" => seed = value,
            _ => return Err(format!("{name} is not an option of `cargo xtask soak`")),
        }
    }
    install_for_soak()?;
    let build: Vec<&str> = BUILD_SERVICE.split(' ').collect();
    cargo_with_env(&build, &[])?;
    let suite = ["--workspace", "--all-features", "--test", "suite"];
    let filter = ["--", "--nocapture", "soak::service"];
    let seconds = (60 * minutes).to_string();
    cargo_with_env(
        &[&["test"], &suite[..], &filter[..]].concat(),
        &[
            ("SECRETWELL_SOAK_SECONDS", &seconds),
            ("SECRETWELL_SOAK_SEED", &seed.to_string()),
        ],
    )
}

/// Runs the default schedule.
pub(crate) fn run_default() -> Result<(), String> {
    run(&[])
}
