//! `cargo xtask instructions`: the number of instructions of the hot paths, compared with the recorded numbers.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::install::install_for_instructions;
use crate::shell::{root, run, text};

/// A path must not need more than this many percent of instructions in addition to the recorded ones.
const MAX_PERCENT: u64 = 5;
/// How to accept other numbers.
const ADVICE: &str = "run `cargo xtask instructions record` if that is intended";

/// The names of paths with their numbers of instructions, in the order of the benchmark.
type Counts = Vec<(String, u64)>;

/// Compares the counted instructions with the recorded ones, and prints both.
///
/// # Errors
/// Returns the paths that need more instructions than allowed, and those that only one of the two lists has.
pub(crate) fn check() -> Result<(), String> {
    let path = recording();
    let recorded = fs::read_to_string(&path)
        .map_err(|error| format!("cannot read {}: {error}", text(&path)))?;
    let runner = install_for_instructions()?;
    let environment = environment()?;
    if recorded.lines().next() != Some(&environment) {
        return Err(format!(
            "the counts were recorded with other tools; run `cargo xtask instructions record` with these on an unchanged \
             tree first:\n{environment}"
        ));
    }
    let counted = count(&runner)?;
    let comparison = Comparison::new(&parse_recording(&recorded)?, &counted);
    println!("\n{}", comparison.table);
    if !comparison.shrunk.is_empty() {
        println!(
            "fewer instructions than recorded; run `cargo xtask instructions record`, so that they cannot grow again: {}",
            comparison.shrunk.join(", ")
        );
    }
    match comparison.problems.is_empty() {
        true => Ok(()),
        false => Err(format!("{}\n{ADVICE}", comparison.problems.join("\n"))),
    }
}

/// Counts the instructions and records them.
pub(crate) fn record() -> Result<(), String> {
    let runner = install_for_instructions()?;
    let counted = count(&runner)?;
    let mut recording = environment()? + "\n";
    let width = counted.iter().map(|(name, _)| name.len()).max();
    let width = width.unwrap_or_default();
    for (name, count) in counted {
        // Writing to a text does not fail.
        let _ = writeln!(recording, "{name:width$} {count:>10}");
    }
    let path = self::recording();
    fs::write(&path, recording).map_err(|error| format!("cannot write {}: {error}", text(&path)))
}

fn recording() -> PathBuf {
    root().join("crates/xtask/instructions.txt")
}

/// Returns a comment with the tools that the numbers depend on.
fn environment() -> Result<String, String> {
    let (rustc, valgrind) = (run("rustc", &["-V"])?, run("valgrind", &["--version"])?);
    let rustc = rustc.split(' ').nth(1).unwrap_or_default();
    let (valgrind, target) = (valgrind.trim(), std::env::consts::ARCH);
    Ok(format!("# {target}, rustc {rustc}, {valgrind}"))
}

/// Runs the benchmark, which prints a line of JSON for each path.
fn count(runner: &Path) -> Result<Counts, String> {
    let bench = [
        "bench",
        "--profile",
        "instructions",
        "--package",
        "secretwell-bench",
        "--features",
        "instructions",
        "--bench",
        "instructions",
        "--",
        "--output-format=json",
    ];
    println!("$ cargo {}", bench.join(" "));
    let output = Command::new("cargo")
        .args(bench)
        .env("GUNGRAUN_RUNNER", runner)
        .current_dir(root())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| format!("cargo cannot be started: {error}"))?;
    if !output.status.success() {
        return Err(format!("the benchmark failed: {}", output.status));
    }
    let output = String::from_utf8_lossy(&output.stdout);
    let counts: Counts = output
        .lines()
        .filter(|line| line.starts_with('{'))
        .map(parse_summary)
        .collect::<Result<_, _>>()?;
    match counts.is_empty() {
        true => Err("the benchmark has counted nothing".into()),
        false => Ok(counts),
    }
}

/// Parses the result of one path.
fn parse_summary(line: &str) -> Result<(String, u64), String> {
    let unknown = || format!("the result of the benchmark has an unknown form: {line}");
    let summary: Value = serde_json::from_str(line).map_err(|_| unknown())?;
    let name = summary["function_name"].as_str().ok_or_else(unknown)?;
    let id = summary["id"].as_str().ok_or_else(unknown)?;
    let metrics = &summary["profiles"][0]["data"]["total"]["metrics"];
    let count = metrics["Ir"]["values"]["new"].as_u64();
    Ok((format!("{name}::{id}"), count.ok_or_else(unknown)?))
}

/// Parses lines with a name and a number.
fn parse_recording(recording: &str) -> Result<Counts, String> {
    let lines = recording.lines().filter(|line| !line.starts_with('#'));
    let parse = |line: &str| {
        let (name, count) = line.split_once(' ')?;
        Some((name.to_owned(), count.trim().parse().ok()?))
    };
    lines
        .map(|line| parse(line).ok_or_else(|| format!("not a name and a number: {line}")))
        .collect()
}

/// Counted instructions beside the recorded ones.
#[derive(Debug, PartialEq)]
struct Comparison {
    table: String,
    /// The reasons for a failure.
    problems: Vec<String>,
    /// The paths that need fewer instructions, by more than the allowed percentage.
    shrunk: Vec<String>,
}

impl Comparison {
    fn new(recorded: &Counts, counted: &Counts) -> Self {
        let mut comparison = Self {
            table: format!(
                "{:32} {:>10} {:>10} {:>8}\n",
                "path", "recorded", "counted", "change"
            ),
            problems: Vec::new(),
            shrunk: Vec::new(),
        };
        for (name, counted) in counted {
            match recorded.iter().find(|(known, _)| known == name) {
                Some((_, recorded)) => comparison.add(name, *recorded, *counted),
                None => comparison
                    .problems
                    .push(format!("{name} has no recorded number")),
            }
        }
        for (name, _) in recorded {
            if !counted.iter().any(|(known, _)| known == name) {
                comparison.problems.push(format!(
                    "{name} is recorded, and the benchmark has no such path"
                ));
            }
        }
        comparison
    }

    fn add(&mut self, name: &str, recorded: u64, counted: u64) {
        // Tenths of a percent. Both numbers are far below the limit of the type.
        let permille = |part: u64| part * 1000 / recorded.max(1);
        let (sign, change) = match counted >= recorded {
            true => ('+', permille(counted - recorded)),
            false => ('-', permille(recorded - counted)),
        };
        let change = format!("{sign}{}.{} %", change / 10, change % 10);
        // Writing to a text does not fail.
        let _ = writeln!(
            self.table,
            "{name:32} {recorded:>10} {counted:>10} {change:>8}"
        );
        if counted * 100 > recorded * (100 + MAX_PERCENT) {
            self.problems.push(format!(
                "{name} needs {change} instructions, and the limit is +{MAX_PERCENT} %"
            ));
        }
        if counted * 100 < recorded * (100 - MAX_PERCENT) {
            self.shrunk.push(name.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(counts: &[(&str, u64)]) -> Counts {
        let counts = counts.iter();
        counts
            .map(|(name, count)| ((*name).to_owned(), *count))
            .collect()
    }

    #[test]
    fn recording_is_parsed_without_its_comment() {
        let recording = "# x86_64, rustc 1.0.0, valgrind-3.0.0\nget::built      120\nhit::one 7\n";
        let parsed = parse_recording(recording);
        assert_eq!(parsed, Ok(counts(&[("get::built", 120), ("hit::one", 7)])));
        assert!(parse_recording("get::built\n").is_err());
        assert!(parse_recording("get::built many\n").is_err());
    }

    #[test]
    fn recorded_numbers_can_be_parsed() {
        let recorded = parse_recording(include_str!("../instructions.txt")).unwrap();
        assert!(recorded.len() > 10);
        assert!(recorded.iter().all(|(_, count)| *count > 0));
    }

    #[test]
    fn growth_beyond_the_limit_is_a_problem() {
        for (counted, is_allowed) in [(1050, true), (1051, false), (3000, false)] {
            let counted = counts(&[("a", 1000), ("b", counted)]);
            let comparison = Comparison::new(&counts(&[("a", 1000), ("b", 1000)]), &counted);
            assert_eq!(comparison.problems.is_empty(), is_allowed, "{counted:?}");
            assert!(
                comparison
                    .problems
                    .iter()
                    .all(|text| text.starts_with("b "))
            );
            assert!(comparison.shrunk.is_empty());
        }
    }

    #[test]
    fn fewer_instructions_are_reported_and_no_problem() {
        for (counted, is_reported) in [(1000, false), (950, false), (949, true), (0, true)] {
            let comparison = Comparison::new(&counts(&[("a", 1000)]), &counts(&[("a", counted)]));
            assert_eq!(comparison.problems, [""; 0]);
            assert_eq!(!comparison.shrunk.is_empty(), is_reported, "{counted}");
        }
    }

    #[test]
    fn both_lists_must_have_the_same_paths() {
        let comparison = Comparison::new(
            &counts(&[("a", 1), ("b", 1)]),
            &counts(&[("b", 1), ("c", 1)]),
        );
        let [new, missing] = &comparison.problems[..] else {
            panic!("{comparison:?}");
        };
        assert!(new.starts_with("c has no recorded number"), "{new}");
        assert!(missing.starts_with("a is recorded"), "{missing}");
    }

    #[test]
    fn table_has_a_line_for_each_path() {
        let recorded = counts(&[("a", 1000), ("b", 2000)]);
        let comparison = Comparison::new(&recorded, &counts(&[("a", 1023), ("b", 1999)]));
        let lines: Vec<&str> = comparison.table.lines().collect();
        assert_eq!(lines.len(), 3);
        assert!(
            lines[1].ends_with("      1000       1023   +2.3 %"),
            "{}",
            lines[1]
        );
        assert!(
            lines[2].ends_with("      2000       1999   -0.0 %"),
            "{}",
            lines[2]
        );
    }

    #[test]
    fn result_of_a_path_is_parsed() {
        let line = r#"{"function_name":"get","id":"built","profiles":[{"data":{"total":{"metrics":{"Ir":{"values":{"new":42}}}}}}]}"#;
        assert_eq!(parse_summary(line), Ok(("get::built".to_owned(), 42)));
        assert!(parse_summary("{}").is_err());
    }
}
