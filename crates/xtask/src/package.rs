//! Packages all crates, and tests the facade from its package, as a user of a registry gets it.

use std::fs;
use std::process::Command;

use crate::shell::{PUBLISHED, cargo, root, run, text};

/// Packages the workspace, unpacks the published crates, and runs the tests of the unpacked facade. Its
/// dependencies on the other crates lead to their unpacked packages.
pub(crate) fn check() -> Result<(), String> {
    cargo(&["package", "--workspace", "--quiet"])?;
    let packages = root().join("target/package");
    let home = root().join("target/packaged");
    let _ = fs::remove_dir_all(&home);
    fs::create_dir_all(&home).map_err(|error| format!("{}: {error}", text(&home)))?;
    let version = env!("CARGO_PKG_VERSION");
    let mut patches = Vec::new();
    for package in PUBLISHED {
        let file = packages.join(format!("{package}-{version}.crate"));
        run("tar", &["-xzf", &text(&file), "-C", &text(&home)])?;
        let unpacked = home.join(format!("{package}-{version}"));
        for needed in ["README.md", "LICENSE-MIT", "LICENSE-APACHE", "CHANGELOG.md"] {
            if !unpacked.join(needed).is_file() {
                return Err(format!("the package of {package} has no {needed}"));
            }
        }
        if package != "secretwell" {
            patches.push("--config".to_owned());
            patches.push(format!(
                "patch.crates-io.{package}.path={:?}",
                text(&unpacked)
            ));
        }
    }
    let facade = home.join(format!("secretwell-{version}"));
    // The unpacked crate is inside the folder of the workspace, but is not one of its members.
    let manifest = facade.join("Cargo.toml");
    let mut text_of_manifest =
        fs::read_to_string(&manifest).map_err(|error| format!("{}: {error}", text(&manifest)))?;
    text_of_manifest += "\n[workspace]\n";
    fs::write(&manifest, text_of_manifest)
        .map_err(|error| format!("{}: {error}", text(&manifest)))?;
    let status = Command::new("cargo")
        .args(["test", "--quiet", "--all-features"])
        .args(&patches)
        .current_dir(&facade)
        .env("CARGO_TARGET_DIR", root().join("target/packaged-target"))
        .status()
        .map_err(|error| format!("cargo cannot be started: {error}"))?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("the tests of the packaged facade failed: {status}"))
    }
}
