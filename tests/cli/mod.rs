//! The command `secretwell`, as whoever types it meets it.

mod exec;
mod story;
mod terminal;
mod transcripts;
mod watch;

use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

use crate::support::replace;

/// The command, which `cargo xtask test cli` has built.
pub(crate) fn binary() -> PathBuf {
    let tests = env::current_exe().unwrap();
    let folder = tests.ancestors().nth(2).unwrap();
    let binary = folder.join("secretwell");
    let hint = "run `cargo build --package secretwell-cli`, or `cargo xtask test cli`";
    assert!(binary.exists(), "there is no command: {hint}");
    binary
}

/// The command with these arguments, in an environment with a PATH and nothing else.
pub(crate) fn secretwell<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Command {
    let mut command = Command::new(binary());
    command
        .args(arguments)
        .env_clear()
        .env("PATH", env::var_os("PATH").unwrap());
    command
}

/// A folder of secrets.
struct Secrets(TempDir);

impl Secrets {
    fn new<V: AsRef<[u8]>>(secrets: &[(&str, V)]) -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        for (name, value) in secrets {
            folder.write(name, value.as_ref());
        }
        folder
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

    /// `secretwell run` with these options, of this program.
    fn run(&self, options: &[&str], program: &[&str]) -> Command {
        let mut command = secretwell(["run", "--from", &self.url()]);
        command.args(options).arg("--").args(program);
        command
    }

    /// What a shell script says that is given the secrets.
    fn script(&self, options: &[&str], script: &str) -> Output {
        self.run(options, &["sh", "-c", script]).output().unwrap()
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
