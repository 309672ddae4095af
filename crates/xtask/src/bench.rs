//! `cargo xtask bench`: the benchmarks, with everything that they need.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::budgets::{NOT_MET, judge};
use crate::figures::{Figures, parse_lines};
use crate::install::{install_node_packages, install_openbao};
use crate::performance;
use crate::shell::{cargo, root, text};

/// One benchmark program of the package `secretwell-bench`.
struct Part {
    name: &'static str,
    about: &'static str,
    /// Installs and builds what the benchmark compares with.
    prepare: Option<fn() -> Result<(), String>>,
    /// Adds figures, also if the benchmark fails later.
    run: fn(&Part, &Programs, &mut Lines) -> Result<(), String>,
}

/// Figures in the order of their measurement.
type Lines = Vec<(String, f64)>;

const PARTS: &[Part] = &[
    Part {
        name: "ready",
        about: "reading a built value, also with arc-swap",
        prepare: None,
        run: run_part,
    },
    Part {
        name: "hit",
        about: "reading one of 100 cached secrets, also with secret-vault, moka and quick_cache",
        prepare: None,
        run: run_part,
    },
    Part {
        name: "metrics",
        about: "both reads with the feature `metrics` and without it",
        prepare: None,
        run: run_metrics,
    },
    Part {
        name: "scale",
        about: "the resolver with 1,000 to 1,000,000 keys",
        prepare: None,
        run: run_part,
    },
    Part {
        name: "documents",
        about: "reading one of 10,000 secrets from a document",
        prepare: None,
        run: run_part,
    },
    Part {
        name: "rotation",
        about: "latency during a rotation",
        prepare: None,
        run: run_part,
    },
    Part {
        name: "authjs",
        about: "session tokens of Auth.js, also with its Node package and jose",
        prepare: Some(prepare_node_packages),
        run: run_part,
    },
    Part {
        name: "betterauth",
        about: "sessions of Better Auth, also with its Node package",
        prepare: Some(prepare_node_packages),
        run: run_part,
    },
    Part {
        name: "command",
        about: "the command, also with the agent of OpenBao",
        prepare: Some(prepare_command),
        run: run_part,
    },
    Part {
        name: "infisical",
        about: "reading a folder from Infisical, also with its SDK",
        prepare: None,
        run: run_part,
    },
    Part {
        name: "vault",
        about: "reading keys from Vault, also with reqwest, vaultrs and vault-client-rs",
        prepare: None,
        run: run_part,
    },
    Part {
        name: "cold",
        about: "from the start of a service to its first response, lazy and eager",
        prepare: None,
        run: run_part,
    },
];

/// Runs all benchmarks in order, or the one with this name. If one cannot run, the others still do. Prints the budgets.
/// A run of all benchmarks writes the figures to `target/bench.json`, and generates `docs/performance.md`.
///
/// Returns `None` if no benchmark has this name.
///
/// # Errors
/// Returns the reason for each benchmark that could not run.
pub(crate) fn run(name: Option<&str>) -> Option<Result<(), String>> {
    let parts: Vec<&Part> = PARTS
        .iter()
        .filter(|part| name.is_none_or(|name| name == part.name))
        .collect();
    if parts.is_empty() {
        return None;
    }
    Some(run_parts(&parts, name.is_none()))
}

#[expect(
    clippy::disallowed_methods,
    reason = "the duration of the runs is printed, and no test pauses the clock"
)]
fn run_parts(parts: &[&Part], is_complete: bool) -> Result<(), String> {
    let mut failures = Vec::new();
    for part in parts {
        if let Some(Err(reason)) = part.prepare.map(|prepare| prepare()) {
            failures.push(format!("{} compares with less: {reason}", part.name));
        }
    }
    let programs = Programs::build(parts)?;
    let mut figures = Figures::default();
    let started = Instant::now();
    for part in parts {
        println!("\n== {}: {}", part.name, part.about);
        let part_started = Instant::now();
        let mut lines = Lines::new();
        let result = (part.run)(part, &programs, &mut lines);
        let added = lines.iter().map(|(name, value)| figures.add(name, *value));
        for reason in added.chain([result]).filter_map(Result::err) {
            eprintln!("{reason}");
            failures.push(reason);
        }
        println!("{} took {}", part.name, seconds(part_started.elapsed()));
    }
    let total = started.elapsed();
    print_budgets(&figures);
    println!("\nthe runs took {} in total", seconds(total));
    if is_complete {
        let file = root().join("target/bench.json");
        fs::write(&file, figures.to_json())
            .map_err(|error| format!("cannot write {}: {error}", text(&file)))?;
        println!("the figures are in {}", text(&file));
        if failures.is_empty() {
            performance::write(&figures)?;
        }
    }
    match failures.is_empty() {
        true => Ok(()),
        false => Err(format!("\n{}", failures.join("\n"))),
    }
}

fn seconds(time: Duration) -> String {
    format!("{:.0} s", time.as_secs_f64())
}

fn print_budgets(figures: &Figures) {
    println!("\n{:8} {:26} {:>28}", "", "measured", "budget");
    for outcome in judge(figures) {
        let (status, measured, budget) = (outcome.status, outcome.measured, outcome.budget);
        println!("{status:8} {measured:26} {budget:>28}   {}", outcome.about);
    }
    let missed = judge(figures)
        .iter()
        .filter(|outcome| outcome.status == NOT_MET)
        .count();
    println!("{missed} budgets are not met");
}

/// Prints the names of all benchmarks.
pub(crate) fn print_names() {
    for part in PARTS {
        eprintln!("  {:16} {}", part.name, part.about);
    }
}

fn prepare_node_packages() -> Result<(), String> {
    install_node_packages().map(drop)
}

fn prepare_command() -> Result<(), String> {
    install_openbao()?;
    cargo(&["build", "--release", "--package", "secretwell-cli"])
}

/// The paths of the compiled benchmarks, by name.
struct Programs {
    default: BTreeMap<String, PathBuf>,
    with_metrics: BTreeMap<String, PathBuf>,
}

impl Programs {
    fn build(parts: &[&Part]) -> Result<Self, String> {
        let names: Vec<&str> = parts.iter().map(|part| part.name).collect();
        let with_metrics = match names.contains(&"metrics") {
            true => build(&["metrics"], &["--features", "metrics"])?,
            false => BTreeMap::new(),
        };
        Ok(Self {
            default: build(&names, &[])?,
            with_metrics,
        })
    }
}

/// Builds benchmarks with `options`. Returns their paths by name.
fn build(names: &[&str], options: &[&str]) -> Result<BTreeMap<String, PathBuf>, String> {
    let mut arguments = vec!["bench", "--package", "secretwell-bench", "--no-run"];
    for name in names {
        arguments.extend(["--bench", name]);
    }
    arguments.extend(options);
    println!("$ cargo {}", arguments.join(" "));
    let output = Command::new("cargo")
        .args(&arguments)
        .args(["--message-format", "json-render-diagnostics"])
        .current_dir(root())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| format!("cargo cannot be started: {error}"))?;
    if !output.status.success() {
        return Err("the benchmarks do not compile".into());
    }
    let messages = String::from_utf8_lossy(&output.stdout);
    Ok(messages.lines().filter_map(parse_message).collect())
}

/// Returns the name and the path of a compiled program, if a message of cargo is about one.
fn parse_message(line: &str) -> Option<(String, PathBuf)> {
    let message: serde_json::Value = serde_json::from_str(line).ok()?;
    let path = message["executable"].as_str()?;
    Some((message["target"]["name"].as_str()?.to_owned(), path.into()))
}

fn run_part(part: &Part, programs: &Programs, lines: &mut Lines) -> Result<(), String> {
    run_program(&programs.default, part.name, Stdio::inherit(), lines)
}

/// Runs a benchmark, and adds its figures to `lines`.
fn run_program(
    programs: &BTreeMap<String, PathBuf>,
    name: &str,
    stdout: Stdio,
    lines: &mut Lines,
) -> Result<(), String> {
    let program = programs.get(name).ok_or("cargo has built no program")?;
    let file = root().join("target/bench-figures.txt");
    let _ = fs::remove_file(&file);
    let status = Command::new(program)
        .current_dir(root())
        .env("SECRETWELL_BENCH_FILE", &file)
        .stdout(stdout)
        .status()
        .map_err(|error| format!("{} cannot be started: {error}", text(program)))?;
    let written = fs::read_to_string(&file)
        .map_err(|error| format!("cannot read {}: {error}", text(&file)))?;
    lines.extend(parse_lines(&written)?);
    match status.success() {
        true => Ok(()),
        false => Err(format!("{name} failed: {status}")),
    }
}

/// Runs the benchmark `metrics` with its feature and without it, in turns, and prints the medians.
fn run_metrics(part: &Part, programs: &Programs, lines: &mut Lines) -> Result<(), String> {
    const ROUNDS: usize = 15;
    let builds = [("off", &programs.default), ("on", &programs.with_metrics)];
    let mut times: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for _ in 0..ROUNDS {
        for (suffix, programs) in builds {
            let mut run = Lines::new();
            run_program(programs, part.name, Stdio::null(), &mut run)?;
            for (name, time) in run {
                let name = format!("{}_{suffix}_ns", name.trim_end_matches("_ns"));
                times.entry(name).or_default().push(time);
            }
        }
    }
    for (name, times) in times {
        let median = median(times);
        println!("{name}\t{median}");
        lines.push((name, median));
    }
    Ok(())
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn program_is_found_in_the_messages_of_cargo() {
        let line =
            r#"{"reason":"compiler-artifact","target":{"name":"hit"},"executable":"/x/hit-1"}"#;
        let expected = ("hit".to_owned(), PathBuf::from("/x/hit-1"));
        assert_eq!(parse_message(line), Some(expected));
        let library = r#"{"reason":"compiler-artifact","target":{"name":"hit"},"executable":null}"#;
        assert_eq!(parse_message(library), None);
        assert_eq!(parse_message("other output"), None);
    }
}
