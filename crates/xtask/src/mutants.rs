//! `cargo xtask mutants`: changes the code in small ways, and reports the changes that no unit test notices.

use std::fs;
use std::path::Path;

use crate::install::install_cargo_mutants;
use crate::shell::{cargo_with_env, root, run, text};

/// The mutated files below `crates/`, and the unit tests that must notice their mutants. `.cargo/mutants.toml` leaves
/// out some mutants.
const FILES: &[(&str, &[&str])] = &[
    ("resolver/src/decide.rs", &["decide::"]),
    ("resolver/src/settle.rs", &["settle::"]),
    ("resolver/src/link.rs", &["link::"]),
    ("resolver/src/load/number.rs", &["load::"]),
    (
        "auth/src/ring.rs",
        &["ring::", "history::", "revocation::", "decide::"],
    ),
    ("auth/src/key_ring.rs", &["ring::", "context::"]),
    ("auth/src/sessions/authjs/tokens.rs", &["sessions::"]),
    ("auth/src/sessions/betterauth/signed.rs", &["sessions::"]),
    ("auth/src/sessions/betterauth/mac.rs", &["sessions::"]),
    ("auth/src/sessions/betterauth/jwt.rs", &["sessions::"]),
    ("http/src/recognition.rs", &["recognition::"]),
    ("vault/src/wire/recognition.rs", &["wire::"]),
    ("infisical/src/wire/recognition.rs", &["wire::"]),
    ("file/src/document/node.rs", &["document::"]),
    ("file/src/dotenv/docker.rs", &["dotenv::"]),
    ("file/src/dotenv/strict.rs", &["dotenv::"]),
];

/// Tests the mutants of every `n`-th file, beginning with the `k`-th, if `shard` is `k/n`. Files whose package has not
/// changed since their last complete run are not tested again.
///
/// # Errors
/// Returns the mutants that survived.
pub(crate) fn test(shard: Option<&str>) -> Result<(), String> {
    let (first, count) = match shard {
        Some(shard) => parse_shard(shard)?,
        None => (1, 1),
    };
    let path = install_cargo_mutants()?;
    // Two runs would overwrite each other's mutants.
    let directory = root().join("target/mutants");
    write(&directory.join("lock"), "")?;
    let lock = fs::File::open(directory.join("lock")).map_err(|error| error.to_string())?;
    lock.try_lock()
        .map_err(|error| format!("another run tests mutants: {error}"))?;
    let tree = directory.join("tree");
    copy_without_facade(&tree)?;
    let mut survivors = String::new();
    for (file, tests) in FILES.iter().skip(first - 1).step_by(count) {
        survivors += &test_file(file, tests, &tree, &path)?;
    }
    match survivors.is_empty() {
        true => Ok(()),
        false => Err(format!(
            "no unit test fails with these changes:\n{survivors}"
        )),
    }
}

/// Parses `k/n`.
fn parse_shard(shard: &str) -> Result<(usize, usize), String> {
    let numbers = shard.split_once('/').and_then(|(first, count)| {
        let (first, count) = (first.parse().ok()?, count.parse().ok()?);
        (1..=count).contains(&first).then_some((first, count))
    });
    numbers.ok_or_else(|| format!("{shard}: not a shard; write it as 1/4 to 4/4"))
}

/// Tests the mutants of a file. Returns the survivors.
fn test_file(file: &str, tests: &[&str], tree: &Path, path: &str) -> Result<String, String> {
    let package = file.split('/').next().unwrap_or_default();
    let results = root().join("target/mutants").join(file.replace('/', "-"));
    let complete = results.join("complete");
    let script = "git ls-files -z .cargo/mutants.toml crates/$0 | xargs -0 sha256sum | sha256sum";
    let sources = run("sh", &["-c", script, package])?;
    if fs::read_to_string(&complete).unwrap_or_default() != sources {
        let started = results.join("started");
        if fs::read_to_string(&started).unwrap_or_default() != sources {
            // The names of mutants contain line numbers, so results of other sources have no meaning.
            let _ = fs::remove_dir_all(&results);
            write(&started, &sources)?;
        }
        let package = format!("secretwell-{package}");
        let (tree, output, file) = (text(tree), text(&results), format!("crates/{file}"));
        let mode = ["mutants", "--in-place", "--iterate", "--dir", &tree];
        let scope = ["--output", &output, "--package", &package, "--file", &file];
        let filter = ["--", "--lib", "--"];
        let tested = cargo_with_env(
            &[&mode[..], &scope, &filter, tests].concat(),
            &[
                ("PATH", path),
                (
                    "CARGO_TARGET_DIR",
                    &text(&root().join("target/mutants/build")),
                ),
                ("CARGO_INCREMENTAL", "1"),
                ("CARGO_PROFILE_DEV_DEBUG", "0"),
            ],
        );
        let outcomes = results.join("mutants.out/outcomes.json");
        if !fs::read_to_string(&outcomes)
            .is_ok_and(|outcomes| outcomes.contains("\"end_time\": \""))
        {
            return tested.and(Err(format!("{file}: the tests of the mutants did not end")));
        }
        write(&complete, &sources)?;
    }
    let missed = results.join("mutants.out/missed.txt");
    fs::read_to_string(&missed).map_err(|error| format!("cannot read {}: {error}", text(&missed)))
}

/// Copies the sources of the workspace to a directory below `target`, so that no mutant is ever in the work tree.
/// Unchanged files keep their times, and so their compiled crates.
///
/// The dependency of each crate on the facade is left out. Only documentation examples need it, and with it, the
/// tests of a crate compile all other crates.
fn copy_without_facade(tree: &Path) -> Result<(), String> {
    for path in run("git", &["ls-files"])?.lines() {
        let Ok(mut bytes) = fs::read(root().join(path)) else {
            continue;
        };
        if path.starts_with("crates/") && path.ends_with("/Cargo.toml") {
            let manifest = String::from_utf8_lossy(&bytes);
            let is_kept =
                |line: &&str| !line.starts_with("secretwell = { path = \"../secretwell\"");
            let lines = manifest.lines().filter(is_kept);
            bytes = lines
                .map(|line| format!("{line}\n"))
                .collect::<String>()
                .into_bytes();
        }
        let copy = tree.join(path);
        if fs::read(&copy).ok().as_deref() != Some(&bytes) {
            write(&copy, &bytes)?;
        }
    }
    Ok(())
}

/// Writes a file, and creates its directory.
fn write(path: &Path, content: impl AsRef<[u8]>) -> Result<(), String> {
    let created = fs::create_dir_all(path.parent().unwrap_or(path));
    let written = created.and_then(|()| fs::write(path, content));
    written.map_err(|error| format!("cannot write {}: {error}", text(path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shard_is_two_numbers() {
        assert_eq!(parse_shard("2/4"), Ok((2, 4)));
        for shard in ["", "1", "0/4", "5/4", "0/0", "a/b", "1/2/3"] {
            assert!(parse_shard(shard).is_err(), "{shard}");
        }
    }

    #[test]
    fn mutated_files_exist() {
        for (file, _) in FILES {
            assert!(root().join("crates").join(file).exists(), "{file}");
        }
    }
}
