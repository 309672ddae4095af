//! The declared Rust version and the declared minimum versions of dependencies.
//!
//! An older compiler is not installed for the tests. Clippy's `incompatible_msrv` keeps our own code to the
//! declared version; the `rust-version` of each dependency shows that it supports the version too.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::shell::{PUBLISHED, cargo, cargo_with_env, root, run, text};

/// Resolves the dependencies of a fresh crate that enables all features, and compares the `rust-version`
/// of each selected package with ours.
pub(crate) fn check() -> Result<(), String> {
    let home = root().join("target/msrv");
    let facade = root().join("crates/secretwell");
    let explain = |error| format!("{}: {error}", text(&home));
    fs::create_dir_all(home.join("src")).map_err(explain)?;
    fs::write(home.join("src/lib.rs"), "").map_err(explain)?;
    let manifest = format!(
        "[package]\nname = \"fresh\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\
         rust-version = \"{}\"\n[workspace]\n[dependencies]\n\
         secretwell = {{ path = {facade:?}, features = [\"full\"] }}\n",
        env!("CARGO_PKG_RUST_VERSION"),
    );
    fs::write(home.join("Cargo.toml"), manifest).map_err(explain)?;
    let _ = fs::remove_file(home.join("Cargo.lock"));
    let manifest = text(&home.join("Cargo.toml"));
    let metadata = run(
        "cargo",
        &[
            "metadata",
            "--format-version",
            "1",
            "--manifest-path",
            &manifest,
        ],
    )?;
    let metadata: Value = serde_json::from_str(&metadata).map_err(|error| error.to_string())?;
    let packages = metadata["packages"].as_array().cloned().unwrap_or_default();
    let ours = version(env!("CARGO_PKG_RUST_VERSION"));
    let newer: Vec<String> = packages
        .iter()
        .filter_map(|package| {
            let needed = package["rust_version"].as_str()?;
            let name = package["name"].as_str()?;
            (version(needed) > ours).then(|| format!("{name} needs Rust {needed}"))
        })
        .collect();
    println!("{} packages, {} too new", packages.len(), newer.len());
    if packages.len() > 100 && newer.is_empty() {
        Ok(())
    } else {
        Err(format!(
            "a fresh resolve selects packages that are too new: {}",
            newer.join(", ")
        ))
    }
}

/// Compiles a copy of the workspace with the oldest versions that its manifests declare.
pub(crate) fn check_minimal_versions() -> Result<(), String> {
    let home = root().join("target/minimal-versions");
    let _ = fs::remove_dir_all(&home);
    fs::create_dir_all(&home).map_err(|error| format!("{}: {error}", text(&home)))?;
    copy_sources(&home)?;
    keep_published_crates(&home)?;
    let manifest = text(&home.join("Cargo.toml"));
    let target = text(&root().join("target/minimal-versions-target"));
    let unstable = [("RUSTC_BOOTSTRAP", "1")];
    cargo_with_env(
        &[
            "update",
            "--quiet",
            "-Z",
            "direct-minimal-versions",
            "--manifest-path",
            &manifest,
        ],
        &unstable,
    )?;
    let mut arguments = vec!["check", "--quiet", "--manifest-path", &manifest];
    arguments.extend(["--target-dir", &target, "--all-features"]);
    for package in PUBLISHED {
        arguments.extend(["--package", package]);
    }
    // Runs in the root, because a file in the copy might select another compiler.
    cargo(&arguments)
}

/// Copies the files that git tracks, or would track, to `home`. Symbolic links stay links.
pub(crate) fn copy_sources(home: &Path) -> Result<(), String> {
    let files = run(
        "git",
        &["ls-files", "--cached", "--others", "--exclude-standard"],
    )?;
    for file in files.lines() {
        let (from, to) = (root().join(file), home.join(file));
        let explain = |error| format!("{}: {error}", text(&from));
        if let Some(directory) = to.parent() {
            fs::create_dir_all(directory).map_err(explain)?;
        }
        if from.is_symlink() {
            let target = fs::read_link(&from).map_err(explain)?;
            std::os::unix::fs::symlink(target, &to).map_err(explain)?;
        } else if from.is_file() {
            fs::copy(&from, &to).map_err(explain)?;
        }
    }
    Ok(())
}

/// Removes the crates that are not published from a copy of the workspace. Users never build these, so
/// their minimum versions need not compile.
fn keep_published_crates(copy: &Path) -> Result<(), String> {
    for directory in ["crates/bench", "crates/fleet", "crates/xtask", "tests"] {
        let directory = copy.join(directory);
        fs::remove_dir_all(&directory).map_err(|error| format!("{}: {error}", text(&directory)))?;
    }
    let manifest = copy.join("Cargo.toml");
    let explain = |error| format!("{}: {error}", text(&manifest));
    let workspace = fs::read_to_string(&manifest).map_err(explain)?;
    let (before, rest) = workspace
        .split_once("members = [")
        .ok_or("the workspace has no members")?;
    let (_, after) = rest
        .split_once("[workspace.package]")
        .ok_or("the workspace has no package settings")?;
    let workspace = format!("{before}members = [\"crates/*\"]\n\n[workspace.package]{after}");
    fs::write(&manifest, workspace).map_err(explain)
}

/// Returns a version such as `1.89` or `1.89.0` as numbers.
fn version(text: &str) -> Vec<u32> {
    let mut numbers: Vec<u32> = text
        .split('.')
        .filter_map(|part| part.parse().ok())
        .collect();
    numbers.resize(3, 0);
    numbers
}
