//! Starts the services of `docs/guides/services.md`: they run before their secret exists, follow a rotation, and end
//! on SIGTERM.

#![allow(clippy::unwrap_used)]
// The tests wait for processes, in real time.
#![allow(clippy::disallowed_methods)]

mod grpc;
mod lambda;
mod process;
mod web;
mod worker;

/// The secrets of the services have at least 32 bytes, as production requires.
const FIRST: &str = "nMgbjTaOD2EGq9WGw52mlMbkiCk84lnM4NSVwJfBhTc=";
const SECOND: &str = "Pxg/a/jTHVqumA53HjqDDponLd7wAD4jqUX8CcWHgAc=";

#[test]
fn guide_shows_the_tested_code() {
    let guide = include_str!("../../../../docs/guides/services.md");
    for code in [
        include_str!("../../src/bin/actix.rs"),
        include_str!("../../src/bin/poem.rs"),
        include_str!("../../src/bin/tonic.rs"),
        include_str!("../../src/bin/hyper.rs"),
        include_str!("../../src/bin/lambda.rs"),
        include_str!("../../src/bin/worker.rs"),
    ] {
        let lines = code.lines().skip_while(|line| line.starts_with("//!"));
        let code: Vec<&str> = lines.collect();
        let code = code.join("\n");
        assert!(
            guide.contains(code.trim()),
            "copy the code into the guide:\n{code}"
        );
    }
}

#[test]
fn documented_numbers_of_crates_are_current() {
    let page = include_str!("../../../../docs/features.md");
    let (_, table) = page.split_once("## Whole services").unwrap();
    for (program, feature) in [
        ("worker without HTTP", "worker"),
        ("hyper", "hyper"),
        ("tonic", "tonic"),
        ("poem", "poem"),
        ("actix-web", "actix-web"),
        ("AWS Lambda", "lambda"),
    ] {
        let tree = std::process::Command::new(env!("CARGO"))
            .args([
                "tree",
                "--package",
                env!("CARGO_PKG_NAME"),
                "--prefix",
                "none",
            ])
            .args([
                "--no-default-features",
                "--edges",
                "normal",
                "--features",
                feature,
            ])
            .output()
            .unwrap();
        assert!(tree.status.success(), "{tree:?}");
        let tree = String::from_utf8(tree.stdout).unwrap();
        // A repeated crate is marked.
        let crates: std::collections::BTreeSet<&str> = tree
            .lines()
            .map(|line| line.trim_end_matches(" (*)"))
            .collect();
        let row = table
            .lines()
            .find(|line| line.starts_with(&format!("| {program} |")));
        let count = row.unwrap().split('|').nth(3).unwrap().trim();
        assert_eq!(crates.len().to_string(), count, "{program}");
    }
}
