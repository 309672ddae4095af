//! `cargo xtask coverage`: the lines of the crates that read and keep secrets which the tests run.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use crate::install::{install_cargo_llvm_cov, install_for_infisical, install_for_vault};
use crate::shell::{cargo_with_env, root, run, text};
use crate::{Suite, Threads};

/// The measured crates.
const CRATES: [&str; 6] = ["core", "resolver", "auth", "http", "vault", "infisical"];
/// The share of the lines that the tests of each crate must run.
const MIN_PERCENT: usize = 92;

const UNIT_TESTS: &str = "test --workspace --all-features --lib";
/// The tests of the suite that concern the measured crates. None of them runs the command.
const SUITE: Suite = Suite {
    modules: &[
        "auth_model",
        "chains",
        "changes",
        "conformance",
        "freshness",
        "hostile",
        "infisical",
        "lazy",
        "model",
        "operations::audit",
        "operations::spans",
        "outages",
        "previous",
        "reporting",
        "resolver",
        "sessions",
        "vault",
        "web",
    ],
    skip: &["authjs", "betterauth"],
    threads: Threads::Waiting(8),
};

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

/// Runs the unit tests and the tests of the suite that concern the measured crates, and prints the share of the lines
/// that they run. The missed lines are stored in `target/coverage/missed.txt`.
///
/// # Errors
/// Returns the crates whose tests run less than [`MIN_PERCENT`] of the lines.
pub(crate) fn check() -> Result<(), String> {
    install_for_infisical()?;
    install_for_vault()?;
    let path = install_cargo_llvm_cov()?;
    let directory = root().join("target/coverage");
    let build = text(&directory.join("build"));
    let llvm_cov = |arguments: &str| {
        let arguments: Vec<&str> = arguments.split(' ').collect();
        cargo_with_env(
            &[&["llvm-cov"], &arguments[..]].concat(),
            &[
                ("PATH", path.as_str()),
                ("CARGO_LLVM_COV_TARGET_DIR", &build),
                ("CARGO_INCREMENTAL", "0"),
                ("CARGO_PROFILE_DEV_DEBUG", "0"),
            ],
        )
    };
    // Lines of earlier builds would be counted as well.
    llvm_cov("clean --workspace")?;
    for tests in [UNIT_TESTS, &SUITE.cargo_call()] {
        llvm_cov(&tests.replacen("test ", "test --no-report ", 1))?;
    }
    let report = directory.join("lines.lcov");
    llvm_cov(&format!("report --lcov --output-path {}", text(&report)))?;
    let report = fs::read_to_string(&report)
        .map_err(|error| format!("cannot read the report of the coverage: {error}"))?;
    judge(&report, &directory)
}

/// Prints the coverage of each crate from a report in the format of `lcov`.
fn judge(report: &str, directory: &Path) -> Result<(), String> {
    let mut missed = String::new();
    let mut insufficient = Vec::new();
    for name in CRATES {
        let coverage = coverage(report, name)?;
        println!(
            "{name:10} {:5.1} % of {} lines",
            coverage.percent(),
            coverage.lines
        );
        for (file, lines) in &coverage.missed {
            missed += &format!("{file}: {lines:?}\n");
        }
        if !coverage.is_sufficient() {
            insufficient.push(name);
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

/// Returns the coverage of a crate from a report in the format of `lcov`. Test code is not counted.
fn coverage(report: &str, name: &str) -> Result<Coverage, String> {
    let directory = format!("crates/{name}/src/");
    let test_code = TestCode::find(&directory)?;
    let mut coverage = Coverage::default();
    for record in report.split("end_of_record") {
        let path = record.lines().find_map(|line| line.strip_prefix("SF:"));
        let Some(path) = path.and_then(|path| Some(&path[path.find(&directory)?..])) else {
            continue;
        };
        let counts = record.lines().filter_map(|line| {
            let (line, count) = line.strip_prefix("DA:")?.split_once(',')?;
            Some((line.parse::<usize>().ok()?, count != "0"))
        });
        for (line, is_run) in counts.filter(|(line, _)| !test_code.contains(path, *line)) {
            coverage.lines += 1;
            if !is_run {
                let missed = coverage.missed.entry(path.to_owned());
                missed.or_default().push(line);
            }
        }
    }
    Ok(coverage)
}

/// The code of a crate that is compiled for tests only.
#[derive(Default)]
struct TestCode {
    /// The lines of such items, by the path of their file.
    items: BTreeMap<String, Vec<RangeInclusive<usize>>>,
    /// The paths of such modules in other files, without their extension.
    modules: Vec<PathBuf>,
}

impl TestCode {
    fn find(directory: &str) -> Result<Self, String> {
        let mut found = Self::default();
        for path in run("git", &["ls-files", directory])?.lines() {
            let source = fs::read_to_string(root().join(path)).unwrap_or_default();
            let (items, modules) = test_items(&source);
            found.items.insert(path.to_owned(), items);
            let path = Path::new(path);
            let parent = match path.file_stem().and_then(OsStr::to_str) {
                Some("lib" | "mod") => path.with_file_name(""),
                _ => path.with_extension(""),
            };
            let modules = modules.iter().map(|name| parent.join(name));
            found.modules.extend(modules);
        }
        Ok(found)
    }

    fn contains(&self, path: &str, line: usize) -> bool {
        let module = Path::new(path).with_extension("");
        // The modules of a module are below it.
        self.modules.iter().any(|test| module.starts_with(test))
            || (self.items.get(path)).is_some_and(|items| items.iter().any(|it| it.contains(&line)))
    }
}

/// Returns the lines of each item with the attribute `cfg(test)`, and the names of those that are modules in other
/// files. The source is formatted by rustfmt, so an item ends at its own indentation.
fn test_items(source: &str) -> (Vec<RangeInclusive<usize>>, Vec<String>) {
    let (mut ranges, mut modules) = (Vec::new(), Vec::new());
    let mut lines = (1..).zip(source.lines());
    while let Some((first, line)) = lines.next() {
        let Some(indentation) = line.strip_suffix("#[cfg(test)]") else {
            continue;
        };
        let mut item = lines
            .by_ref()
            .filter_map(|(number, line)| Some((number, line.strip_prefix(indentation)?)));
        let end = item.find(|(_, line)| !line.starts_with(' ') && line.ends_with(['}', ';']));
        let (last, line) = end.unwrap_or((usize::MAX, ""));
        ranges.push(first..=last);
        let module = line
            .rsplit(' ')
            .next()
            .and_then(|name| name.strip_suffix(';'));
        modules.extend(module.filter(|_| line.contains("mod ")).map(str::to_owned));
    }
    (ranges, modules)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_a_crate_are_counted_without_tests() {
        let record = |file: &str, lines: &[(usize, u32)]| {
            let path = text(&root().join("crates").join(file));
            let count = |(line, count)| format!("DA:{line},{count}\n");
            let counts: String = lines.iter().copied().map(count).collect();
            format!("SF:{path}\n{counts}LF:2\nend_of_record\n")
        };
        let source = fs::read_to_string(root().join("crates/http/src/url.rs")).unwrap();
        let test_line = source.lines().count() - 1;
        let report = [
            record("http/src/servers.rs", &[(1, 0), (2, 7)]),
            record("http/src/servers/tests/mod.rs", &[(1, 0)]),
            record("http/src/url.rs", &[(1, 1), (test_line, 0)]),
            record("resolver/src/fixtures.rs", &[(1, 0)]),
        ];
        let coverage = coverage(&report.concat(), "http").unwrap();
        let missed = ("crates/http/src/servers.rs".to_owned(), vec![1]);
        assert_eq!(coverage.missed, BTreeMap::from([missed]));
        assert!(!coverage.is_sufficient());
        let coverage = super::coverage(&report.concat(), "resolver").unwrap();
        assert_eq!(coverage, Coverage::default());
    }

    #[test]
    fn items_for_tests_end_at_their_indentation() {
        let source = "#[cfg(test)]\nmod vectors;\n\nimpl A {\n    #[cfg(test)]\n    fn f() {\n        g();\n    }\n}\n\n\
                      #[cfg(not(test))]\nfn h() {}\n\n#[cfg(test)]\nmod tests {\n    use super::*;\n}\n";
        let ranges = vec![1..=2, 5..=8, 14..=17];
        assert_eq!(test_items(source), (ranges, vec!["vectors".to_owned()]));
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
