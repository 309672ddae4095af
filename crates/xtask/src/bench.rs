//! `cargo xtask bench`: the benchmarks, with everything that they need.

use std::collections::BTreeMap;

use crate::install::{install_for_vault, install_node_packages};
use crate::plot;
use crate::shell::{cargo, cargo_with_env, root, run as output_of, text};

/// One benchmark program of the package `secretwell-bench`.
struct Part {
    name: &'static str,
    about: &'static str,
    /// Installs and builds what the benchmark compares with.
    prepare: Option<fn() -> Result<(), String>>,
    run: fn(&str) -> Result<(), String>,
}

const PARTS: &[Part] = &[
    Part {
        name: "ready",
        about: "reading a built value",
        prepare: None,
        run: run_part,
    },
    Part {
        name: "hit",
        about: "reading one of 100 cached secrets",
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
        about: "the resolver with 1,000 to 1,000,000 keys; writes docs/performance-scale.svg",
        prepare: None,
        run: run_scale,
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
        about: "session tokens of Auth.js, also with its Node package",
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
        about: "reading a folder from Infisical",
        prepare: None,
        run: run_part,
    },
    Part {
        name: "vault",
        about: "reading keys from Vault",
        prepare: None,
        run: run_part,
    },
];

/// Runs all benchmarks in order, or the one with this name. If one cannot run, the others still do. `None` if
/// no benchmark has this name.
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
    let mut failures = Vec::new();
    for part in parts {
        println!("\n== {}: {}", part.name, part.about);
        let prepared = part.prepare.map_or(Ok(()), |prepare| prepare());
        if let Err(reason) = prepared.and_then(|()| (part.run)(part.name)) {
            eprintln!("{reason}");
            failures.push(format!("{} did not run: {reason}", part.name));
        }
    }
    Some(match failures.is_empty() {
        true => Ok(()),
        false => Err(format!("\n{}", failures.join("\n"))),
    })
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
    install_for_vault()?;
    cargo(&["build", "--release", "--package", "secretwell-cli"])
}

fn run_part(name: &str) -> Result<(), String> {
    run_with_env(name, &[])
}

/// Runs the benchmark `scale`, and draws its results.
fn run_scale(name: &str) -> Result<(), String> {
    let results = root().join("target/scale.json");
    run_with_env(name, &[("SECRETWELL_SCALE_JSON", &text(&results))])?;
    plot::draw(&results, &root().join("docs/performance-scale.svg"))
}

/// Runs the benchmark `metrics` with its feature and without it, in turns, and prints the medians.
fn run_metrics(name: &str) -> Result<(), String> {
    const ROUNDS: usize = 15;
    let programs = [
        build_bench(name, &[])?,
        build_bench(name, &["--features", "metrics"])?,
    ];
    let mut times: BTreeMap<String, [Vec<f64>; 2]> = BTreeMap::new();
    for _ in 0..ROUNDS {
        for (column, program) in programs.iter().enumerate() {
            for line in output_of(program, &[])?.lines() {
                let (name, time) = line.split_once('\t').ok_or("a line without a time")?;
                let time = time.parse().map_err(|error| format!("{line}: {error}"))?;
                times.entry(name.to_owned()).or_default()[column].push(time);
            }
        }
    }
    println!("\n{:24} {:>12} {:>12}", "nanoseconds", "without", "with");
    for (name, columns) in times {
        let [without, with] = columns.map(median);
        println!("{name:24} {without:12.2} {with:12.2}");
    }
    Ok(())
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Builds a benchmark with `options`, and returns the path of a copy of its program.
fn build_bench(name: &str, options: &[&str]) -> Result<String, String> {
    let mut arguments = vec!["bench", "--package", "secretwell-bench", "--bench", name];
    arguments.extend(["--no-run", "--quiet", "--message-format", "json"]);
    arguments.extend(options);
    let messages = output_of("cargo", &arguments)?;
    let executable = messages.lines().rev().find_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        message["executable"].as_str().map(str::to_owned)
    });
    let executable = executable.ok_or("cargo has built no program")?;
    // The next build can replace the program.
    let copy = root().join(format!("target/{name}-{}", options.len()));
    std::fs::copy(&executable, &copy).map_err(|error| format!("{executable}: {error}"))?;
    Ok(text(&copy))
}

fn run_with_env(name: &str, variables: &[(&str, &str)]) -> Result<(), String> {
    cargo_with_env(
        &["bench", "--package", "secretwell-bench", "--bench", name],
        variables,
    )
}
