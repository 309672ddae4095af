//! `cargo xtask coverage`: the lines of the crates that read and keep secrets which the tests run.

use std::collections::BTreeMap;
use std::fs;

use crate::install::install_cargo_llvm_cov;
use crate::mutants::copy_without_facade;
use crate::shell::{cargo_with_env, root, text};

/// The measured crates.
const CRATES: [&str; 6] = ["core", "resolver", "auth", "http", "vault", "infisical"];
/// The share of the lines that the tests of each crate must run.
const MIN_PERCENT: usize = 92;

/// The number of lines of a crate, and the numbers of those in each file that no test runs.
#[derive(Debug, Default, PartialEq)]
struct Coverage {
    lines: usize,
    missed: BTreeMap<String, Vec<usize>>,
}

impl Coverage {
    fn missed(&self) -> usize {
        self.missed.values().map(Vec::len).sum()
    }

    fn percent(&self) -> f64 {
        let missed = u32::try_from(self.missed()).unwrap_or(u32::MAX);
        let lines = u32::try_from(self.lines).unwrap_or(u32::MAX);
        100.0 - 100.0 * f64::from(missed) / f64::from(lines.max(1))
    }

    fn is_sufficient(&self) -> bool {
        self.missed() * 100 <= self.lines * (100 - MIN_PERCENT)
    }
}

/// Runs the unit tests of the measured crates, and prints the share of the lines that they run. The missed lines are
/// stored in `target/coverage/missed.txt`.
///
/// # Errors
/// Returns the crates whose tests run less than [`MIN_PERCENT`] of the lines.
pub(crate) fn check() -> Result<(), String> {
    let path = install_cargo_llvm_cov()?;
    let directory = root().join("target/coverage");
    let tree = directory.join("tree");
    copy_without_facade(&tree)?;
    let report = directory.join("lines.lcov");
    let (manifest, output) = (text(&tree.join("Cargo.toml")), text(&report));
    let packages = CRATES.map(|name| format!("--package=secretwell-{name}"));
    let packages: Vec<&str> = packages.iter().map(String::as_str).collect();
    let test = ["llvm-cov", "test", "--manifest-path", &manifest];
    let tests = [
        "--all-features",
        "--lib",
        "--lcov",
        "--output-path",
        &output,
    ];
    cargo_with_env(
        &[&test[..], &tests, &packages].concat(),
        &[
            ("PATH", path.as_str()),
            ("CARGO_LLVM_COV_TARGET_DIR", &text(&directory.join("build"))),
            ("CARGO_PROFILE_DEV_DEBUG", "0"),
        ],
    )?;
    let report = fs::read_to_string(&report)
        .map_err(|error| format!("cannot read the report of the coverage: {error}"))?;
    let coverages = CRATES.map(|name| (name, coverage(&report, name)));
    let mut missed = String::new();
    let mut insufficient = Vec::new();
    for (name, coverage) in &coverages {
        println!(
            "{name:10} {:5.1} % of {} lines",
            coverage.percent(),
            coverage.lines
        );
        for (file, lines) in &coverage.missed {
            missed += &format!("{file}: {lines:?}\n");
        }
        if !coverage.is_sufficient() {
            insufficient.push(*name);
        }
    }
    fs::write(directory.join("missed.txt"), missed).map_err(|error| error.to_string())?;
    match insufficient.is_empty() {
        true => Ok(()),
        false => Err(format!(
            "tests run less than {MIN_PERCENT} % of the lines of {}; target/coverage/missed.txt lists the others",
            insufficient.join(", ")
        )),
    }
}

/// Returns the coverage of a crate from a report in the format of `lcov`. Tests are not counted.
fn coverage(report: &str, name: &str) -> Coverage {
    let mut coverage = Coverage::default();
    for record in report.split("end_of_record") {
        let lines = || record.lines();
        let Some(path) = lines().find_map(|line| line.strip_prefix("SF:")) else {
            continue;
        };
        let source = format!("crates/{name}/src/");
        let Some(start) = path.find(&source).filter(|_| !is_test_file(path)) else {
            continue;
        };
        let tests_start = tests_start(&fs::read_to_string(path).unwrap_or_default());
        let counts = lines().filter_map(|line| {
            let (line, count) = line.strip_prefix("DA:")?.split_once(',')?;
            Some((line.parse::<usize>().ok()?, count != "0"))
        });
        for (line, is_run) in counts.filter(|(line, _)| *line < tests_start) {
            coverage.lines += 1;
            if !is_run {
                let missed = coverage.missed.entry(path[start..].to_owned());
                missed.or_default().push(line);
            }
        }
    }
    coverage
}

fn is_test_file(path: &str) -> bool {
    let is_test = |part: &str| part.trim_end_matches(".rs").ends_with("tests");
    path.split('/').any(is_test)
}

/// Returns the number of the line at which the tests of a file begin.
fn tests_start(source: &str) -> usize {
    let module = source.lines().position(|line| line == "mod tests {");
    module.unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_a_crate_are_counted_without_tests() {
        let report = "SF:/x/crates/auth/src/a.rs\nDA:1,0\nDA:2,7\nLF:2\nend_of_record\n\
                      SF:/x/crates/auth/src/a/tests.rs\nDA:1,0\nend_of_record\n\
                      SF:/x/crates/core/src/a.rs\nDA:1,0\nend_of_record\n";
        let coverage = coverage(report, "auth");
        let missed = BTreeMap::from([("crates/auth/src/a.rs".to_owned(), vec![1])]);
        assert_eq!(coverage, Coverage { lines: 2, missed });
        assert!(!coverage.is_sufficient());
    }

    #[test]
    fn tests_begin_at_their_attribute() {
        assert_eq!(
            tests_start("fn f() {}\n\n#[cfg(test)]\nmod tests {\n}\n"),
            3
        );
        assert_eq!(
            tests_start("#[cfg(test)]\nuse a::B;\n\nfn f() {}\n#[cfg(test)]\nmod tests;\n"),
            usize::MAX
        );
    }

    #[test]
    fn limit_is_reached_with_the_same_share() {
        let missed = |count| BTreeMap::from([("a".to_owned(), vec![0; count])]);
        let coverage = |count| Coverage {
            lines: 100,
            missed: missed(count),
        };
        assert!(coverage(8).is_sufficient() && !coverage(9).is_sufficient());
    }
}
