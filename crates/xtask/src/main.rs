//! The chores of the workspace. `cargo xtask test` runs every test there is.

// Its output is for whoever runs it.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::env;
use std::io::{BufRead, BufReader};
use std::process::{Command, ExitCode, Stdio};

mod install;

use install::{install_for_authjs, install_for_cli, install_for_infisical, install_for_vault};

/// A part of the tests: its name, what it covers, what must be installed, and the cargo calls that it
/// takes.
struct Part {
    name: &'static str,
    about: &'static str,
    needs: Option<fn() -> Result<(), String>>,
    calls: &'static [&'static str],
}

const PARTS: &[Part] = &[
    Part {
        name: "unit",
        about: "the unit tests of each crate",
        needs: None,
        calls: &["test --workspace --all-features --lib --bins"],
    },
    Part {
        name: "conformance",
        about: "the contract of a provider, for every provider",
        needs: None,
        calls: &["test --package secretwell-tests -- conformance::"],
    },
    Part {
        name: "behaviour",
        about: "resolver, lazy auth and features: faults, load, a paused clock",
        needs: None,
        calls: &[
            "test --package secretwell-tests -- resolver:: trouble:: lazy:: rotation:: ready:: packaging:: --skip authjs::",
        ],
    },
    Part {
        name: "e2e",
        about: "whole services on real sockets, and the story of the late secret",
        needs: None,
        calls: &[
            "test --package secretwell-tests -- e2e:: sessions:: process::",
            "run --quiet --package secretwell --example late_secret",
        ],
    },
    Part {
        name: "infisical",
        about: "the Infisical backend, on a fake that the official clients are run against too",
        needs: Some(install_for_infisical),
        calls: &["test --package secretwell-tests -- infisical::"],
    },
    Part {
        name: "vault",
        about: "the Vault backend, on a real OpenBao and PostgreSQL, and what takes all backends",
        needs: Some(install_for_vault),
        calls: &["test --package secretwell-tests -- vault:: restart:: matrix::"],
    },
    Part {
        name: "authjs",
        about: "sessions shared with the real packages, in an application of Next.js",
        needs: Some(install_for_authjs),
        calls: &["test --package secretwell-tests -- authjs::"],
    },
    Part {
        name: "cli",
        about: "the command: transcripts, signals, terminals, and real servers and programs",
        needs: Some(install_for_cli),
        calls: &[
            "build --package secretwell-cli",
            "test --package secretwell-tests -- cli::",
        ],
    },
    Part {
        name: "docs",
        about: "the examples of the documentation",
        needs: None,
        calls: &["test --workspace --all-features --doc"],
    },
];

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let parts: Vec<&Part> = match arguments[..] {
        ["test"] => PARTS.iter().collect(),
        ["test", name] => PARTS.iter().filter(|part| part.name == name).collect(),
        _ => Vec::new(),
    };
    if parts.is_empty() {
        eprintln!("usage: cargo xtask test [PART]");
        for part in PARTS {
            eprintln!("  {:12} {}", part.name, part.about);
        }
        return ExitCode::from(2);
    }

    let mut total = Tally::default();
    for part in parts {
        println!("\n== {}: {}", part.name, part.about);
        if let Some(Err(error)) = part.needs.map(|install| install()) {
            eprintln!("{error}");
            total.failed += 1;
            continue;
        }
        for call in part.calls {
            total += cargo(call);
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

/// How many tests did what.
#[derive(Debug, Default, PartialEq)]
struct Tally {
    passed: usize,
    failed: usize,
    skipped: usize,
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

/// Runs cargo, shows what it prints, and counts its tests. A call without a test that it counts
/// itself is a test of its own.
fn cargo(arguments: &str) -> Tally {
    println!("$ cargo {arguments}");
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut tally = Tally::default();
    let started = Command::new(cargo)
        .args(arguments.split(' '))
        .stdout(Stdio::piped())
        .spawn();
    let mut child = match started {
        Ok(child) => child,
        Err(error) => {
            eprintln!("cargo cannot be run: {error}");
            return Tally { failed: 1, ..tally };
        }
    };
    if let Some(output) = child.stdout.take() {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            println!("{line}");
            tally += summary(&line).unwrap_or_default();
        }
    }
    let good = child.wait().is_ok_and(|status| status.success());
    if arguments.starts_with("run ") && good {
        tally.passed += 1;
    }
    if !good && tally.failed == 0 {
        tally.failed = 1;
    }
    tally
}

/// Reads `test result: ok. 3 passed; 0 failed; 1 ignored; …`.
fn summary(line: &str) -> Option<Tally> {
    let counts = line.strip_prefix("test result: ")?;
    let count = |word: &str| {
        let before = counts.split(word).next()?.trim_end();
        before.rsplit([' ', ';']).next()?.parse().ok()
    };
    Some(Tally {
        passed: count("passed")?,
        failed: count("failed")?,
        skipped: count("ignored")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_runners_closing_line_is_read() {
        let line = "test result: ok. 12 passed; 3 failed; 1 ignored; 0 measured; 0 filtered out";
        assert_eq!(
            summary(line),
            Some(Tally {
                passed: 12,
                failed: 3,
                skipped: 1
            })
        );
        assert_eq!(summary("running 3 tests"), None);
    }
}
