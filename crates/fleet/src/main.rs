//! Runs the simulation: `secretwell-fleet INSTANCES SEED RESULTS`. Prints a table, and writes the results as JSON.

#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::env;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [instances, seed, results] = &arguments[..] else {
        eprintln!("usage: secretwell-fleet INSTANCES SEED RESULTS");
        return ExitCode::from(2);
    };
    let (Ok(instances), Ok(seed)) = (instances.parse(), seed.parse()) else {
        eprintln!("INSTANCES and SEED are numbers");
        return ExitCode::from(2);
    };
    let report = secretwell_fleet::run(instances, seed);
    println!("{report}");
    if let Err(error) = std::fs::write(results, report.to_json()) {
        eprintln!("cannot write {results}: {error}");
        return ExitCode::FAILURE;
    }
    match report.promises.iter().all(|promise| promise.is_kept) {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}
