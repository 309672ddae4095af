//! Tests of the command `secretwell` as a user runs it.

mod deploy;
mod end_to_end;
mod exec;
mod files;
mod nextjs;
mod terminal;
mod transcripts;
mod watch;

use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

use crate::support::replace;

/// Starts a program with the default action for all signals. The tests themselves might run with ignored
/// signals, for example under `nohup`, and their children would inherit that.
const RESET_SIGNALS: [&str; 2] = ["env", "--default-signal"];

/// Returns the path of the command, which `cargo xtask test cli` builds.
fn binary() -> PathBuf {
    let tests = env::current_exe().unwrap();
    let directory = tests.ancestors().nth(2).unwrap();
    let binary = directory.join("secretwell");
    assert!(
        binary.exists(),
        "{} does not exist: run `cargo build --package secretwell-cli`, or `cargo xtask test cli`",
        binary.display()
    );
    binary
}

/// Returns the command with these arguments. Its environment contains only PATH.
pub(crate) fn secretwell<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Command {
    let [program, option] = RESET_SIGNALS;
    let mut command = Command::new(program);
    command
        .arg(option)
        .arg(binary())
        .args(arguments)
        .env_clear()
        .env("PATH", env::var_os("PATH").unwrap());
    command
}

/// A temporary directory of secrets, one file for each.
struct Secrets(TempDir);

impl Secrets {
    fn new<V: AsRef<[u8]>>(secrets: &[(&str, V)]) -> Self {
        let directory = Self(tempfile::tempdir().unwrap());
        for (name, value) in secrets {
            directory.write(name, value.as_ref());
        }
        directory
    }

    fn write(&self, name: &str, value: &[u8]) {
        replace(&self.path().join(name), value);
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn url(&self) -> String {
        format!("file://{}", self.path().display())
    }

    /// Returns `secretwell run` with these options and this program.
    fn run(&self, options: &[&str], program: &[&str]) -> Command {
        let mut command = secretwell(["run", "--from", &self.url()]);
        command.args(options).arg("--").args(program);
        command
    }

    /// Runs a shell script with the secrets in its environment.
    fn script(&self, options: &[&str], script: &str) -> Output {
        self.run(options, &["sh", "-c", script]).output().unwrap()
    }
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
