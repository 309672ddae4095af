//! Running other programs, and the paths of the workspace.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The crates that are published, in the order of their dependencies.
pub(crate) const PUBLISHED: [&str; 13] = [
    "secretwell-core",
    "secretwell-resolver",
    "secretwell-http",
    "secretwell-env",
    "secretwell-file",
    "secretwell-infisical",
    "secretwell-vault",
    "secretwell-auth",
    "secretwell-clients",
    "secretwell-notify",
    "secretwell-testkit",
    "secretwell",
    "secretwell-cli",
];

/// Returns the root of the workspace.
pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_owned()
}

/// Returns a path as text, for arguments and messages.
pub(crate) fn text(path: &Path) -> String {
    path.display().to_string()
}

/// Runs a command that must succeed, and returns its standard output.
pub(crate) fn run(command: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(command)
        .args(arguments)
        .current_dir(root())
        .output()
        .map_err(|error| format!("{command} cannot be started: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    Err(format!(
        "{command} {} failed:\n{stderr}",
        arguments.join(" ")
    ))
}

/// Runs cargo in the root of the workspace and shows its output.
pub(crate) fn cargo(arguments: &[&str]) -> Result<(), String> {
    cargo_with_env(arguments, &[])
}

/// Runs cargo like [`cargo`], with further environment variables.
pub(crate) fn cargo_with_env(arguments: &[&str], variables: &[(&str, &str)]) -> Result<(), String> {
    println!("$ cargo {}", arguments.join(" "));
    // Not the path in the variable `CARGO`: subcommands such as `cargo deny` are found by the wrapper.
    let status = Command::new("cargo")
        .args(arguments)
        .envs(variables.iter().copied())
        .current_dir(root())
        .status()
        .map_err(|error| format!("cargo cannot be started: {error}"))?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("cargo {} failed: {status}", arguments.join(" ")))
    }
}
