//! Development tasks of the workspace. `cargo xtask test` runs all tests.

// The output of this program is for developers at a terminal, and for CI logs.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::env;
use std::io::{BufRead, BufReader};
use std::process::{Command, ExitCode, Stdio};
use std::sync::mpsc;
use std::thread;

mod api;
mod bench;
mod budgets;
mod comparison;
mod coverage;
mod dashboard;
mod figures;
mod fleet;
mod full;
mod fuzz;
#[cfg(test)]
mod imports;
mod install;
mod instructions;
mod links;
mod msrv;
mod mutants;
mod package;
mod performance;
mod plot;
mod sbom;
mod shell;
mod soak;
#[cfg(test)]
mod threats;
#[cfg(test)]
mod words;

use install::{
    install_for_authjs, install_for_betterauth, install_for_cli, install_for_clients,
    install_for_infisical, install_for_operations, install_for_soak, install_for_values,
    install_for_vault,
};

/// Installs tools below `target/tools`, unless they are there.
type Install = fn() -> Result<(), String>;

/// A part of the tests that can be run on its own.
struct Part {
    name: &'static str,
    description: &'static str,
    /// Installs the tools that the tests of this part need.
    install: Option<Install>,
    /// The arguments of cargo, one string for each call.
    cargo_calls: &'static [&'static str],
    suite: Option<Suite>,
}

/// The tests of some modules of `tests/main.rs`.
struct Suite {
    modules: &'static [&'static str],
    /// Other modules, in which a name of `modules` occurs as well.
    skip: &'static [&'static str],
    threads: Threads,
}

/// The number of tests that run at a time.
#[derive(Clone, Copy)]
enum Threads {
    /// One for each core, for tests that compute.
    Cores,
    /// More than that, for tests that mostly wait for servers and programs.
    Waiting(usize),
}

/// Builds the command with its own features, so without `test-util` of the resolver, which reads another clock. The
/// resolver is tested in this way as well. Both share the compiled dependencies.
const BUILD_COMMAND: &str =
    "build --package secretwell-cli --package secretwell-resolver --bins --tests";

/// Builds the programs whose memory is read. They share the compiled dependencies of the suite.
const BUILD_MEMORY_PROGRAMS: &str =
    "build --workspace --all-features --bin memory --bin memory-zeroing";

const PARTS: &[Part] = &[
    Part {
        name: "unit",
        description: "the unit tests of each crate",
        install: None,
        cargo_calls: &[
            "test --workspace --all-features --lib --bins",
            "test --package secretwell-cli --package secretwell-resolver --lib --bins",
        ],
        suite: None,
    },
    Part {
        name: "conformance",
        description: "the provider contract, for every provider",
        install: None,
        cargo_calls: &[],
        suite: Some(Suite {
            modules: &["conformance"],
            skip: &[],
            threads: Threads::Waiting(16),
        }),
    },
    Part {
        name: "behaviour",
        description: "resolver, LazyAuth and cargo features: outages, load, expiry with a paused clock",
        install: None,
        cargo_calls: &[],
        suite: Some(Suite {
            modules: &[
                "auth_model",
                "chains",
                "changes",
                "freshness",
                "hostile",
                "lazy",
                "model",
                "notify",
                "outages",
                "packaging",
                "previous",
                "ready",
                "reporting",
                "resolver",
                "rotation",
                "simulation",
                "web",
            ],
            skip: &["authjs", "betterauth", "infisical"],
            threads: Threads::Cores,
        }),
    },
    Part {
        name: "e2e",
        description: "complete services on real sockets, the services of the guide, and the example late_secret",
        install: None,
        cargo_calls: &[
            "test --workspace --all-features --example late_secret",
            "test --workspace --all-features --test services",
        ],
        suite: Some(Suite {
            modules: &["blocking", "e2e", "process", "sessions"],
            skip: &[],
            threads: Threads::Cores,
        }),
    },
    Part {
        name: "operations",
        description: "metrics with a real Prometheus, spans, callbacks for audit logs",
        install: Some(install_for_operations),
        cargo_calls: &[],
        suite: Some(Suite {
            modules: &["operations"],
            skip: &[],
            threads: Threads::Cores,
        }),
    },
    Part {
        name: "values",
        description: "values to the letter, compared with other readers of the same documents",
        install: Some(install_for_values),
        cargo_calls: &[BUILD_COMMAND],
        suite: Some(Suite {
            modules: &["values"],
            skip: &["conformance"],
            threads: Threads::Waiting(8),
        }),
    },
    Part {
        name: "infisical",
        description: "the Infisical backend, with a fake server that is also tested with the official clients",
        install: Some(install_for_infisical),
        cargo_calls: &[],
        suite: Some(Suite {
            modules: &["infisical"],
            skip: &[],
            threads: Threads::Waiting(8),
        }),
    },
    Part {
        name: "vault",
        description: "the Vault backend, with real OpenBao and PostgreSQL servers, and tests of all backends together",
        install: Some(install_for_vault),
        cargo_calls: &[BUILD_COMMAND],
        suite: Some(Suite {
            modules: &["gateways", "matrix", "restart", "transport", "vault"],
            skip: &[],
            threads: Threads::Waiting(8),
        }),
    },
    Part {
        name: "memory",
        description: "copies of secrets in the memory of a process, after they were dropped; on Linux",
        install: Some(install_for_clients),
        cargo_calls: &[BUILD_COMMAND, BUILD_MEMORY_PROGRAMS],
        suite: Some(Suite {
            modules: &["memory"],
            skip: &[],
            threads: Threads::Waiting(4),
        }),
    },
    Part {
        name: "clients",
        description: "database pools and Redis connections during rotations, with real OpenBao, PostgreSQL, Redis and Valkey servers",
        install: Some(install_for_clients),
        cargo_calls: &[],
        suite: Some(Suite {
            modules: &["pools", "redis"],
            skip: &[],
            threads: Threads::Waiting(4),
        }),
    },
    Part {
        name: "soak",
        description: "a minute of `cargo xtask soak`, which disturbs a service with all backends",
        install: Some(install_for_soak),
        cargo_calls: &[soak::BUILD_SERVICE],
        suite: Some(Suite {
            modules: &["soak"],
            skip: &[],
            threads: Threads::Cores,
        }),
    },
    Part {
        name: "authjs",
        description: "sessions that are shared with the Auth.js packages, in a Next.js application",
        install: Some(install_for_authjs),
        cargo_calls: &[],
        suite: Some(Suite {
            modules: &["authjs"],
            skip: &[],
            threads: Threads::Waiting(4),
        }),
    },
    Part {
        name: "betterauth",
        description: "sessions that are shared with Better Auth, and the programs of its guide",
        install: Some(install_for_betterauth),
        cargo_calls: &[BUILD_COMMAND],
        suite: Some(Suite {
            modules: &["betterauth"],
            skip: &[],
            threads: Threads::Waiting(4),
        }),
    },
    Part {
        name: "cli",
        description: "the command: transcripts, signals, terminals, real servers and programs",
        install: Some(install_for_cli),
        cargo_calls: &[BUILD_COMMAND],
        suite: Some(Suite {
            modules: &["cli"],
            skip: &[],
            threads: Threads::Waiting(4),
        }),
    },
    Part {
        name: "examples",
        description: "the programs of the README and the guides, in fresh crates",
        install: None,
        cargo_calls: &[],
        suite: Some(Suite {
            modules: &["examples"],
            skip: &[],
            threads: Threads::Cores,
        }),
    },
    Part {
        name: "docs",
        description: "the examples in the documentation",
        install: None,
        cargo_calls: &["test --workspace --all-features --doc"],
        suite: None,
    },
];

impl Suite {
    /// Returns the arguments of cargo that run these tests. The features are those of the unit tests, so that both share
    /// the compiled dependencies.
    fn cargo_call(&self) -> String {
        let mut call = "test --workspace --all-features --test suite --".to_owned();
        if let Threads::Waiting(threads) = self.threads {
            call += &format!(" --test-threads {threads}");
        }
        for module in self.modules {
            call += &format!(" {module}::");
        }
        for module in self.skip {
            call += &format!(" --skip {module}::");
        }
        call
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["test"] => test(None),
        ["test", name] => test(Some(name)),
        ["bench"] => bench(None),
        ["bench", name] => bench(Some(name)),
        ["performance"] => exit_code(performance::write_from_last_run()),
        ["soak", ref options @ ..] => exit_code(soak::run(options)),
        ["full"] => full(None),
        ["full", name] => full(Some(name)),
        ["coverage"] => exit_code(coverage::check()),
        ["fuzz", "--seconds", seconds] => exit_code(fuzz::run_for(seconds)),
        ["mutants"] => exit_code(mutants::test(None)),
        ["mutants", "--shard", shard] => exit_code(mutants::test(Some(shard))),
        ["instructions"] => exit_code(instructions::check()),
        ["instructions", "record"] => exit_code(instructions::record()),
        ["deny"] => exit_code(full::deny()),
        ["links"] => exit_code(links::check()),
        ["fleet"] => exit_code(fleet::run(None)),
        ["fleet", seed] => exit_code(fleet::run(Some(seed))),
        ["dashboard"] => exit_code(dashboard::run()),
        ["api"] => exit_code(api::record()),
        ["sbom"] => exit_code(sbom::write().map(drop)),
        _ => usage(),
    }
}

fn usage() -> ExitCode {
    eprintln!("usage: cargo xtask test [PART]      runs the tests, or one part of them");
    for part in PARTS {
        eprintln!("  {:16} {}", part.name, part.description);
    }
    eprintln!("usage: cargo xtask bench [PART]     runs the benchmarks, or one of them");
    bench::print_names();
    eprintln!(
        "usage: cargo xtask performance      writes docs/performance.md from the last figures"
    );
    eprintln!("usage: cargo xtask soak [--minutes 30] [--seed 1]");
    eprintln!("                                 disturbs a service in the schedule of the seed");
    eprintln!("usage: cargo xtask full [CHECK]     runs the longer checks, or one of them");
    full::print_names();
    eprintln!(
        "usage: cargo xtask mutants [--shard K/N]  tests that unit tests notice changed code"
    );
    eprintln!(
        "usage: cargo xtask coverage         measures which lines of six crates the tests run"
    );
    eprintln!("usage: cargo xtask instructions [record]");
    eprintln!(
        "                                 compares the instructions of hot paths with recorded numbers"
    );
    eprintln!("usage: cargo xtask dashboard        draws the pictures of the dashboard");
    eprintln!(
        "usage: cargo xtask fleet [SEED]     simulates 10,000 instances, and draws their requests"
    );
    eprintln!("usage: cargo xtask deny             checks licences, sources and banned crates");
    eprintln!("usage: cargo xtask links            checks the links of the documentation");
    eprintln!("usage: cargo xtask api              records the public API of each crate");
    eprintln!(
        "usage: cargo xtask sbom             writes the packages of each crate as CycloneDX documents"
    );
    ExitCode::from(2)
}

fn exit_code(result: Result<(), String>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs all tests first, because the longer checks are of no use for code that fails them.
fn full(name: Option<&str>) -> ExitCode {
    if name.is_none() && test(None) != ExitCode::SUCCESS {
        return ExitCode::FAILURE;
    }
    let Some((passed, failed)) = full::run(name) else {
        return usage();
    };
    println!("\n{passed} passed, {failed} failed");
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn bench(name: Option<&str>) -> ExitCode {
    match bench::run(name) {
        Some(result) => exit_code(result),
        None => usage(),
    }
}

fn test(name: Option<&str>) -> ExitCode {
    let parts: Vec<&Part> = PARTS
        .iter()
        .filter(|part| name.is_none_or(|name| name == part.name))
        .collect();
    if parts.is_empty() {
        return usage();
    }
    // Downloads take long, so they run while earlier parts are compiled and tested.
    let (sender, installed) = mpsc::channel();
    let installs: Vec<Install> = parts.iter().filter_map(|part| part.install).collect();
    thread::spawn(move || {
        for install in installs {
            let _ = sender.send(install());
        }
    });
    let mut total = TestCounts::default();
    for part in parts {
        println!("\n== {}: {}", part.name, part.description);
        if part.install.is_some()
            && let Err(error) = installed
                .recv()
                .unwrap_or(Err("the installer has panicked".into()))
        {
            eprintln!("{error}");
            total.failed += 1;
            continue;
        }
        for call in part.cargo_calls {
            total += cargo(call);
        }
        if let Some(suite) = &part.suite {
            total += cargo(&suite.cargo_call());
        }
    }
    println!(
        "\n{} passed, {} failed, {} skipped",
        total.passed, total.failed, total.skipped
    );
    if total.failed == 0 && total.passed > 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// The number of tests by result.
#[derive(Debug, Default, PartialEq)]
struct TestCounts {
    passed: usize,
    failed: usize,
    skipped: usize,
}

impl std::ops::AddAssign for TestCounts {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

/// Runs cargo, prints its output and counts the results of its tests.
///
/// An example that succeeds counts as one passed test. A failure without failed tests, such as a compile
/// error, counts as one failed test.
fn cargo(arguments: &str) -> TestCounts {
    println!("$ cargo {arguments}");
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut counts = TestCounts::default();
    let spawned = Command::new(cargo)
        .args(arguments.split(' '))
        .stdout(Stdio::piped())
        .spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) => {
            eprintln!("cannot run cargo: {error}");
            return TestCounts {
                failed: 1,
                ..counts
            };
        }
    };
    if let Some(output) = child.stdout.take() {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            println!("{line}");
            counts += parse_summary(&line).unwrap_or_default();
        }
    }
    let succeeded = child.wait().is_ok_and(|status| status.success());
    if arguments.contains(" --example ") && succeeded {
        counts.passed += 1;
    }
    if !succeeded && counts.failed == 0 {
        counts.failed = 1;
    }
    counts
}

/// Parses a line such as `test result: ok. 3 passed; 0 failed; 1 ignored; …`.
fn parse_summary(line: &str) -> Option<TestCounts> {
    let counts = line.strip_prefix("test result: ")?;
    let count = |word: &str| {
        let before = counts.split(word).next()?.trim_end();
        before.rsplit([' ', ';']).next()?.parse().ok()
    };
    Some(TestCounts {
        passed: count("passed")?,
        failed: count("failed")?,
        skipped: count("ignored")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summary_line_of_the_test_runner_is_parsed() {
        let line = "test result: ok. 12 passed; 3 failed; 1 ignored; 0 measured; 0 filtered out";
        assert_eq!(
            parse_summary(line),
            Some(TestCounts {
                passed: 12,
                failed: 3,
                skipped: 1
            })
        );
        assert_eq!(parse_summary("running 3 tests"), None);
    }

    #[test]
    fn each_module_with_tests_belongs_to_one_part() {
        const HELPERS: [&str; 5] = ["aws", "chromium", "schedules", "subdomains", "support"];
        let suites = || PARTS.iter().filter_map(|part| part.suite.as_ref());
        let tested: Vec<&str> = suites().flat_map(|suite| suite.modules).copied().collect();
        for module in modules() {
            let parts = tested.iter().filter(|tested| **tested == module);
            let expected = usize::from(!HELPERS.contains(&module));
            assert_eq!(parts.count(), expected, "{module}");
        }
    }

    /// The test runner compares names by their parts, so that `rotation::` selects `authjs::rotation::` as well.
    #[test]
    fn part_does_not_run_a_module_of_another_part_because_of_its_name() {
        for suite in PARTS.iter().filter_map(|part| part.suite.as_ref()) {
            let others = modules()
                .filter(|module| !suite.modules.contains(module) && !suite.skip.contains(module));
            for other in others {
                let directory = shell::root().join("tests").join(other);
                for module in suite.modules {
                    let file = directory.join(format!("{module}.rs"));
                    assert!(!file.exists(), "{} needs `skip`", file.display());
                    assert!(!directory.join(module).exists(), "{other}::{module}");
                }
            }
        }
    }

    fn modules() -> impl Iterator<Item = &'static str> {
        include_str!("../../../tests/main.rs")
            .lines()
            .filter_map(|line| line.strip_prefix("mod ")?.strip_suffix(';'))
    }
}
