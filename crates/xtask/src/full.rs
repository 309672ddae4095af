//! `cargo xtask full`: the checks that take too long for every change and run before a release.

use std::time::Instant;

use crate::install::{build_static_command, install_cargo_tools, install_for_cli};
use crate::shell::{cargo, cargo_with_env, root, run as output_of, text};
use crate::{
    api, comparison, coverage, fleet, fuzz, instructions, links, msrv, package, sbom, soak,
};

/// A check, with its name, its purpose and the function that runs it.
struct Step {
    name: &'static str,
    about: &'static str,
    run: fn() -> Result<(), String>,
}

const STEPS: &[Step] = &[
    Step {
        name: "powerset",
        about: "every pair of features compiles without warnings",
        run: powerset,
    },
    Step {
        name: "badges",
        about: "the documentation builds with the badges of features, as on docs.rs",
        run: badges,
    },
    Step {
        name: "links",
        about: "every link to the rendered documentation has a target",
        run: links::check,
    },
    Step {
        name: "api",
        about: "the public API of each published crate is the recorded one",
        run: api::check,
    },
    Step {
        name: "msrv",
        about: "a fresh resolve selects only dependencies that the declared Rust version supports",
        run: msrv::check,
    },
    Step {
        name: "minimal-versions",
        about: "the declared minimum versions of all dependencies compile",
        run: msrv::check_minimal_versions,
    },
    Step {
        name: "static",
        about: "the static binary of the command works in an empty root directory",
        run: static_command,
    },
    Step {
        name: "sbom",
        about: "the CycloneDX documents are valid, complete, reproducible, and those of the compiled command",
        run: sbom::check,
    },
    Step {
        name: "platforms",
        about: "all features without C code compile for macOS and Windows without warnings",
        run: platforms,
    },
    Step {
        name: "model",
        about: "the resolver and LazyAuth conform to their reference models in 10,000 random schedules each",
        run: model,
    },
    Step {
        name: "fleet",
        about: "10,000 instances in a simulation keep the promises of docs/reliability.md",
        run: fleet::check,
    },
    Step {
        name: "strength",
        about: "100,000 random secrets of each encoding are accepted as signing secrets",
        run: strength,
    },
    Step {
        name: "concurrency",
        about: "the resolver is correct under 2,000 interleavings of its threads for each test",
        run: concurrency,
    },
    Step {
        name: "soak",
        about: "a service keeps its promises for 30 minutes in which everything around it fails",
        run: soak::run_default,
    },
    Step {
        name: "fuzz",
        about: "each fuzz target accepts its corpus and a minute of new input",
        run: fuzz::run_each_for_a_minute,
    },
    Step {
        name: "coverage",
        about: "tests run at least 92 % of the lines of each crate that reads and keeps secrets",
        run: coverage::check,
    },
    Step {
        name: "instructions",
        about: "no hot path needs more instructions than recorded, by more than 5 %",
        run: instructions::check,
    },
    Step {
        name: "comparison",
        about: "the command and other tools behave as docs/comparison.md describes",
        run: comparison::check,
    },
    Step {
        name: "package",
        about: "all crates can be packaged, each package compiles, and the tests of the packaged facade pass",
        run: package::check,
    },
];

/// The compiler does not need a linker or a C compiler of these systems.
const PLATFORMS: [&str; 2] = ["x86_64-apple-darwin", "x86_64-pc-windows-gnu"];

/// All features of the facade whose dependencies contain no C code.
const FEATURES_WITHOUT_C: &str =
    "env,file,auth,authjs,betterauth,refuse-list,tower,axum,cookies,blocking,notify,metrics";

/// Runs all checks, or the one with this name, and returns how many passed and failed. `None` if no
/// check has this name.
pub(crate) fn run(name: Option<&str>) -> Option<(usize, usize)> {
    let steps: Vec<&Step> = STEPS
        .iter()
        .filter(|step| name.is_none_or(|name| name == step.name))
        .collect();
    if steps.is_empty() {
        return None;
    }
    let (mut passed, mut failed) = (0, 0);
    for step in steps {
        println!("\n== {}: {}", step.name, step.about);
        #[expect(clippy::disallowed_methods, reason = "these checks run in real time")]
        let started = Instant::now();
        match (step.run)() {
            Ok(()) => {
                passed += 1;
                println!("ok after {} s", started.elapsed().as_secs());
            }
            Err(error) => {
                failed += 1;
                eprintln!("{error}");
            }
        }
    }
    Some((passed, failed))
}

/// Prints the names of all checks.
pub(crate) fn print_names() {
    for step in STEPS {
        eprintln!("  {:16} {}", step.name, step.about);
    }
}

fn platforms() -> Result<(), String> {
    for platform in PLATFORMS {
        output_of("rustup", &["target", "add", platform])?;
        let features = ["--no-default-features", "--features", FEATURES_WITHOUT_C];
        let target = ["--target", platform, "--target-dir", "target/platforms"];
        let check = ["check", "--quiet", "--package", "secretwell"];
        let arguments = [&check[..], &features, &target].concat();
        cargo_with_env(&arguments, &[("RUSTFLAGS", "-D warnings")])?;
    }
    Ok(())
}

fn powerset() -> Result<(), String> {
    let path = install_cargo_tools()?;
    for package in [
        "secretwell",
        "secretwell-auth",
        "secretwell-resolver",
        "secretwell-testkit",
    ] {
        cargo_with_env(
            &[
                "hack",
                "clippy",
                "--quiet",
                "--package",
                package,
                "--no-dev-deps",
                "--feature-powerset",
                "--depth",
                "2",
                "--",
                "-D",
                "warnings",
            ],
            &[("PATH", &path)],
        )?;
    }
    Ok(())
}

/// Builds the static binary, which takes minutes, and runs the tests that are skipped without it.
fn static_command() -> Result<(), String> {
    install_for_cli()?;
    build_static_command()?;
    // The tests find the static binary beside this one.
    cargo(&["build", "--quiet", "--package", "secretwell-cli"])?;
    let suite = ["--workspace", "--all-features", "--test", "suite"];
    let filter = ["--", "cli::deploy::docker"];
    cargo_with_env(&[&["test"], &suite[..], &filter[..]].concat(), &[])
}

/// Runs the concurrency test of the resolver with shuttle, which controls the order of the threads.
fn concurrency() -> Result<(), String> {
    let target = text(&root().join("target/concurrency"));
    cargo_with_env(
        &[
            "test",
            "--quiet",
            "--package",
            "secretwell-resolver",
            "--lib",
            "concurrency::",
        ],
        &[
            ("RUSTFLAGS", "--cfg shuttle"),
            ("CARGO_TARGET_DIR", &target),
        ],
    )
}

/// Runs other schedules than the tests, which run the first 1,000.
fn model() -> Result<(), String> {
    cargo_with_env(
        &[
            "test",
            "--quiet",
            "--package",
            "secretwell-tests",
            "--",
            "model::",
        ],
        &[
            ("SECRETWELL_MODEL_SEED", "1001"),
            ("SECRETWELL_MODEL_SCHEDULES", "10000"),
        ],
    )
}

fn strength() -> Result<(), String> {
    cargo_with_env(
        &[
            "test",
            "--quiet",
            "--release",
            "--package",
            "secretwell-auth",
            "--lib",
            "strength::",
        ],
        &[("SECRETWELL_STRENGTH_SAMPLES", "100000")],
    )
}

fn badges() -> Result<(), String> {
    let target = text(&root().join("target/badges"));
    cargo_with_env(
        &[
            "doc",
            "--quiet",
            "--workspace",
            "--all-features",
            "--no-deps",
            "--target-dir",
            &target,
        ],
        // Feature badges are unstable in rustdoc. docs.rs uses a nightly compiler; here, the stable one
        // is allowed to use the feature.
        &[
            ("RUSTC_BOOTSTRAP", "1"),
            ("RUSTDOCFLAGS", "--cfg secretwell_docs -D warnings"),
        ],
    )
}

/// Runs `cargo deny` on licences, sources and banned crates. Advisories are left out, because they need a
/// database that is not in a package registry.
pub(crate) fn deny() -> Result<(), String> {
    let path = install_cargo_tools()?;
    cargo_with_env(
        &[
            "deny",
            "--log-level",
            "error",
            "check",
            "bans",
            "licenses",
            "sources",
        ],
        &[("PATH", &path)],
    )
}
