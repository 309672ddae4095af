//! The public API of each published library, compared with a recorded listing below `api/`.

use std::fs;
use std::path::PathBuf;

use crate::shell::{PUBLISHED, cargo_with_env, root, text};

/// Compares the public API of each published library with its recorded listing.
pub(crate) fn check() -> Result<(), String> {
    let mut differences = String::new();
    for package in libraries() {
        let current = listing(package)?;
        let recorded = fs::read_to_string(recording(package)).unwrap_or_default();
        if current != recorded {
            differences += &format!("{package}:\n{}", difference(&recorded, &current));
        }
    }
    if differences.is_empty() {
        return Ok(());
    }
    Err(format!(
        "the public API has changed; run `cargo xtask api` if that is intended, and update the \
         changelog:\n{differences}"
    ))
}

/// Records the public API of each published library.
pub(crate) fn record() -> Result<(), String> {
    for package in libraries() {
        let path = recording(package);
        fs::write(&path, listing(package)?).map_err(|error| format!("{}: {error}", text(&path)))?;
    }
    Ok(())
}

/// Returns all published crates except the command, which has no library.
fn libraries() -> impl Iterator<Item = &'static str> {
    PUBLISHED
        .into_iter()
        .filter(|package| *package != "secretwell-cli")
}

fn recording(package: &str) -> PathBuf {
    root().join(format!("crates/xtask/api/{package}.txt"))
}

fn listing(package: &str) -> Result<String, String> {
    let target = root().join("target/api");
    cargo_with_env(
        &[
            "rustdoc",
            "--quiet",
            "--package",
            package,
            "--lib",
            "--all-features",
            "--target-dir",
            &text(&target),
            "--",
            "-Z",
            "unstable-options",
            "--output-format",
            "json",
        ],
        // The JSON output of rustdoc is unstable; this allows the stable compiler to write it.
        &[("RUSTC_BOOTSTRAP", "1")],
    )?;
    let json = target.join(format!("doc/{}.json", package.replace('-', "_")));
    let api = public_api::Builder::from_rustdoc_json(&json)
        .omit_blanket_impls(true)
        .omit_auto_trait_impls(true)
        .build()
        .map_err(|error| format!("{}: {error}", text(&json)))?;
    Ok(api.items().map(|item| format!("{item}\n")).collect())
}

/// Returns the lines that only one of two listings has.
fn difference(recorded: &str, current: &str) -> String {
    let only = |one: &str, other: &str, sign: char| {
        one.lines()
            .filter(|line| !other.lines().any(|known| known == *line))
            .map(|line| format!("{sign} {line}\n"))
            .collect::<String>()
    };
    only(recorded, current, '-') + &only(current, recorded, '+')
}
