//! `cargo xtask fuzz`: input for each parser of foreign bytes, from libFuzzer.

use std::fs;

use crate::shell::{cargo_with_env, root, run, text};

/// The targets in `tests/fuzz/targets`.
const TARGETS: &[&str] = &[
    "token",
    "cookie",
    "csrf",
    "better_token",
    "better_cache",
    "strength",
    "dotenv",
    "document",
    "vault",
    "infisical",
    "http",
];

/// The instrumentation that guides libFuzzer.
const FUZZ_FLAGS: &str = "--cfg fuzzing -Cpasses=sancov-module \
     -Cllvm-args=-sanitizer-coverage-level=4 \
     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
     -Cllvm-args=-sanitizer-coverage-pc-table \
     -Cllvm-args=-sanitizer-coverage-trace-compares \
     -Cdebug-assertions -Ccodegen-units=1";

/// Runs all targets for this number of seconds in total.
///
/// # Errors
/// The same as for [`run_all`], and an error for text that is not a number.
pub(crate) fn run_for(seconds: &str) -> Result<(), String> {
    let seconds = seconds.parse();
    run_all(seconds.map_err(|error| format!("the number of seconds is not valid: {error}"))?)
}

/// Runs each target for a minute.
///
/// # Errors
/// Returns an error if a target cannot be compiled, or with the first target that fails.
pub(crate) fn run_each_for_a_minute() -> Result<(), String> {
    run_all(60 * TARGETS.len())
}

/// Runs all targets, for `seconds` in total.
///
/// The flags are those of `cargo fuzz` without AddressSanitizer, so a stable compiler is enough. New input is stored below
/// `target/fuzz/corpus`, and input that fails below `target/fuzz/failures`.
///
/// # Errors
/// Returns an error if a target cannot be compiled, or with the first target that fails.
pub(crate) fn run_all(seconds: usize) -> Result<(), String> {
    let version = run("rustc", &["-vV"])?;
    let host = version
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .ok_or("rustc prints no host")?;
    for target in TARGETS {
        run_target(target, host, seconds / TARGETS.len())?;
    }
    Ok(())
}

/// Compiles a target and runs it, with its corpus and what earlier runs have found.
fn run_target(target: &str, host: &str, seconds: usize) -> Result<(), String> {
    let directory = root().join("target/fuzz");
    let corpus = root().join("tests/fuzz/corpus").join(target);
    let (found, failures) = (
        directory.join("corpus").join(target),
        directory.join("failures"),
    );
    for path in [&corpus, &found, &failures] {
        fs::create_dir_all(path)
            .map_err(|error| format!("cannot create {}: {error}", text(path)))?;
    }
    let manifest = text(&root().join("tests/fuzz/Cargo.toml"));
    let directory = text(&directory);
    let build = ["run", "--quiet", "--release", "--manifest-path"];
    let place = [
        "--target-dir",
        &directory,
        "--target",
        host,
        "--bin",
        target,
    ];
    let cargo = [&build[..], &[&manifest], &place, &["--"]].concat();
    let libfuzzer = |arguments: &[&str]| {
        cargo_with_env(
            &[&cargo[..], arguments].concat(),
            &[("RUSTFLAGS", FUZZ_FLAGS)],
        )
    };
    libfuzzer(&[
        &text(&found),
        &text(&corpus),
        &format!("-max_total_time={seconds}"),
        "-timeout=10",
        "-print_final_stats=1",
        &format!("-artifact_prefix={}/{target}-", text(&failures)),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_complete_and_their_corpora_are_small() {
        let files = |path: &str| {
            let entries = fs::read_dir(root().join("tests/fuzz").join(path)).unwrap();
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap())
        };
        let mut sources: Vec<String> = files("targets").collect();
        sources.sort();
        let mut targets: Vec<String> = TARGETS.iter().map(|name| format!("{name}.rs")).collect();
        targets.sort();
        assert_eq!(sources, targets);
        for target in TARGETS {
            let count = files(&format!("corpus/{target}")).count();
            assert!((1..=100).contains(&count), "{target}: {count} files");
        }
    }
}
