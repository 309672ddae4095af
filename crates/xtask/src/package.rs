//! Packages all crates, and builds each from its package, as a user of a registry gets it.

use std::fs;
use std::path::{Path, PathBuf};

use crate::shell::{PUBLISHED, cargo, cargo_with_env, root, run, text};

/// Packages the workspace, unpacks the published crates, checks each of them and runs the tests of the facade. Their
/// dependencies on each other lead to the unpacked packages.
///
/// Cargo's own verification is left out. It stores the unpacked packages by their version in the home of cargo, so it
/// would use those of an earlier run.
pub(crate) fn check() -> Result<(), String> {
    cargo(&["package", "--workspace", "--quiet", "--no-verify"])?;
    let home = root().join("target/packaged");
    let _ = fs::remove_dir_all(&home);
    fs::create_dir_all(&home).map_err(|error| format!("{}: {error}", text(&home)))?;
    for package in PUBLISHED {
        unpack(package, &home)?;
    }
    let target = text(&root().join("target/packaged-target"));
    for package in PUBLISHED {
        let manifest = text(&folder(package, &home).join("Cargo.toml"));
        let action = if package == "secretwell" {
            "test"
        } else {
            "check"
        };
        let arguments = [
            action,
            "--quiet",
            "--all-features",
            "--manifest-path",
            &manifest,
        ];
        let others = PUBLISHED.iter().filter(|other| **other != package);
        let patches: Vec<String> = others
            .map(|other| {
                let path = text(&folder(other, &home));
                format!("--config=patch.crates-io.{other}.path={path:?}")
            })
            .collect();
        let patches = patches.iter().map(String::as_str);
        let arguments: Vec<&str> = arguments.into_iter().chain(patches).collect();
        cargo_with_env(&arguments, &[("CARGO_TARGET_DIR", &target)])?;
    }
    Ok(())
}

fn folder(package: &str, home: &Path) -> PathBuf {
    home.join(format!("{package}-{}", env!("CARGO_PKG_VERSION")))
}

/// Unpacks a package, and checks that it has the files that each package needs.
fn unpack(package: &str, home: &Path) -> Result<(), String> {
    let version = env!("CARGO_PKG_VERSION");
    let file = root().join(format!("target/package/{package}-{version}.crate"));
    run("tar", &["-xzf", &text(&file), "-C", &text(home)])?;
    let unpacked = folder(package, home);
    for needed in ["README.md", "LICENSE-MIT", "LICENSE-APACHE", "CHANGELOG.md"] {
        if !unpacked.join(needed).is_file() {
            return Err(format!("the package of {package} has no {needed}"));
        }
    }
    // The unpacked crate is inside the folder of the workspace, but is not one of its members.
    let manifest = unpacked.join("Cargo.toml");
    let read = fs::read_to_string(&manifest);
    let written = read.and_then(|content| fs::write(&manifest, content + "\n[workspace]\n"));
    written.map_err(|error| format!("{}: {error}", text(&manifest)))
}
