//! Tests of `run --file`, which passes secrets in files.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use secretwell_testkit::Canary;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

use super::{Secrets, text};

/// Prints the path and the secret, and the secret again on HUP and before it exits on TERM.
const PROGRAM: &str = "
    trap 'echo \"TERM $(cat \"$CA_PATH\")\"; exit 0' TERM
    trap 'echo \"HUP $(cat \"$CA_PATH\")\"' HUP
    echo \"$CA_PATH\"; cat \"$CA_PATH\"; echo
    while :; do sleep 0.02; done";

/// Returns a directory for `XDG_RUNTIME_DIR`. Its path has no symbolic links.
fn runtime_directory() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().canonicalize().unwrap();
    (directory, path)
}

fn entries(directory: &Path) -> usize {
    directory.read_dir().unwrap().count()
}

/// A command with its program.
struct Running {
    command: Child,
    stdout: Lines<BufReader<ChildStdout>>,
}

impl Running {
    fn start(secrets: &Secrets, runtime: &Path, options: &[&str]) -> Self {
        let options = [&["--file", "db/CA=CA_PATH"], options].concat();
        let mut command = Command::from(secrets.run(&options, &["sh", "-c", PROGRAM]));
        let mut command = command
            .env("XDG_RUNTIME_DIR", runtime)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let stdout = BufReader::new(command.stdout.take().unwrap()).lines();
        Self { command, stdout }
    }

    /// Waits until a line of the log contains `text`.
    async fn wait_for_log(&mut self, text: &str) {
        let log = self.command.stderr.as_mut().unwrap();
        let mut lines = BufReader::new(log).lines();
        let found = async {
            while let Some(line) = lines.next_line().await.unwrap() {
                if line.contains(text) {
                    return;
                }
            }
            panic!("the command exited without the log message {text:?}");
        };
        timeout(Duration::from_secs(60), found).await.unwrap();
    }

    async fn next_line(&mut self) -> String {
        let line = timeout(Duration::from_secs(60), self.stdout.next_line());
        let line = line.await.unwrap().unwrap();
        line.expect("the program must not exit")
    }

    /// Sends a signal to the command with the `kill` of the shell.
    fn signal(&self, signal: &str) {
        let pid = self.command.id().unwrap().to_string();
        let status = std::process::Command::new("sh")
            .args(["-c", "kill -s \"$0\" \"$1\"", signal, &pid])
            .status();
        assert!(status.unwrap().success());
    }

    async fn wait(&mut self) -> std::process::ExitStatus {
        let status = timeout(Duration::from_secs(60), self.command.wait());
        status.await.unwrap().unwrap()
    }
}

#[test]
fn program_reads_the_exact_bytes_and_the_files_are_removed_at_the_end() {
    let secrets = Secrets::new(&[("db/CA", &b"\0\xffCERT"[..]), ("A", b"1")]);
    let (_guard, runtime) = runtime_directory();
    let script = "
        stat -c '%a %F' \"$CA_PATH\" \"${CA_PATH%/*}\"
        echo \"A=$A, db_CA=[$db_CA]\"; cat \"$CA_PATH\"; ";
    for watch in [&[][..], &["--watch"], &["--pristine"]] {
        for (end, code, signal) in [("exit 7", Some(7), None), ("kill -9 $$", None, Some(9))] {
            let options = [&["--file", "db/CA=CA_PATH"], watch].concat();
            let script = format!("{script}{end}");
            let mut command = secrets.run(&options, &["sh", "-c", &script]);
            let output = command.env("XDG_RUNTIME_DIR", &runtime).output().unwrap();
            assert_eq!(
                (output.status.code(), output.status.signal()),
                (code, signal)
            );
            let expected = b"400 regular file\n700 directory\nA=1, db_CA=[]\n\0\xffCERT";
            assert_eq!(output.stdout, expected, "{}", text(&output.stderr));
            assert_eq!(entries(&runtime), 0);
        }
    }
    // The program cannot be started.
    let mut command = secrets.run(&["--file", "db/CA=CA_PATH"], &["no-such-program"]);
    let output = command.env("XDG_RUNTIME_DIR", &runtime).output().unwrap();
    assert_eq!(output.status.code(), Some(127));
    assert_eq!(entries(&runtime), 0);
}

#[tokio::test]
async fn rotation_replaces_the_file_before_the_signal() {
    let secrets = Secrets::new(&[("db/CA", "first")]);
    let (_guard, runtime) = runtime_directory();
    let mut running = Running::start(&secrets, &runtime, &["--watch=signal:HUP"]);
    let path = running.next_line().await;
    assert_eq!(running.next_line().await, "first");
    for value in ["second", "third"] {
        secrets.write("db/CA", value.as_bytes());
        assert_eq!(running.next_line().await, format!("HUP {value}"));
        assert_eq!(fs::read_to_string(&path).unwrap(), value);
    }
    running.signal("TERM");
    assert_eq!(running.next_line().await, "TERM third");
    assert_eq!(running.wait().await.code(), Some(0));
    assert_eq!(entries(&runtime), 0);
}

#[tokio::test]
async fn rotation_replaces_the_file_before_the_restart() {
    let secrets = Secrets::new(&[("db/CA", "first")]);
    let (_guard, runtime) = runtime_directory();
    let mut running = Running::start(&secrets, &runtime, &["--watch"]);
    let path = running.next_line().await;
    assert_eq!(running.next_line().await, "first");
    secrets.write("db/CA", b"second");
    assert_eq!(running.next_line().await, "TERM second");
    assert_eq!(running.next_line().await, path);
    assert_eq!(running.next_line().await, "second");
}

/// The new file cannot be created, because another program has created a directory in its place.
#[tokio::test]
async fn file_that_cannot_be_written_is_written_later() {
    let secrets = Secrets::new(&[("db/CA", "first")]);
    let (_guard, runtime) = runtime_directory();
    let mut running = Running::start(&secrets, &runtime, &["--watch=signal:HUP"]);
    let path = PathBuf::from(running.next_line().await);
    assert_eq!(running.next_line().await, "first");
    let obstacle = path.parent().unwrap().join(".new-CA_PATH");
    fs::create_dir(&obstacle).unwrap();
    secrets.write("db/CA", b"second");
    running.wait_for_log("files_not_written").await;
    assert_eq!(fs::read_to_string(&path).unwrap(), "first");
    fs::remove_dir(&obstacle).unwrap();
    assert_eq!(running.next_line().await, "HUP second");
}

#[tokio::test]
async fn files_of_a_killed_command_are_removed_by_the_next_one() {
    let secrets = Secrets::new(&[("db/CA", "x")]);
    let (_guard, runtime) = runtime_directory();
    let mut other = Running::start(&secrets, &runtime, &["--watch"]);
    let other_path = other.next_line().await;
    let mut killed = Running::start(&secrets, &runtime, &[]);
    let killed_path = killed.next_line().await;
    killed.signal("KILL");
    assert_eq!(killed.wait().await.signal(), Some(9));
    assert!(Path::new(&killed_path).exists());

    let mut next = Running::start(&secrets, &runtime, &[]);
    let next_path = next.next_line().await;
    assert!(!Path::new(&killed_path).parent().unwrap().exists());
    for path in [other_path, next_path] {
        assert!(Path::new(&path).exists());
    }
    assert_eq!(entries(&runtime), 2);
}

#[test]
fn hostile_directories_are_refused_and_not_changed() {
    let secrets = Secrets::new(&[("db/CA", "x")]);
    let (_guard, runtime) = runtime_directory();
    let directory = |name: &str, mode| {
        let path = runtime.join(name);
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        path
    };
    let target = directory("target", 0o700);
    let link = runtime.join("link");
    symlink(&target, &link).unwrap();
    let shared = directory("shared", 0o777);
    let foreign = directory("foreign", 0o700);
    let mut refused = vec![
        (link, "symbolic link"),
        (shared, "other users can replace files"),
        (runtime.join("missing"), "the directory does not exist"),
    ];
    // Only root can give a directory to another user.
    match chown(&foreign, Some(65534), None) {
        Ok(()) => refused.push((foreign, "belongs to another user")),
        Err(error) => println!("a directory of another user is not tested: {error}"),
    }
    for (path, expected) in &refused {
        let mut command = secrets.run(&["--file", "db/CA=CA_PATH"], &["echo", "started"]);
        let output = command.env("XDG_RUNTIME_DIR", path).output().unwrap();
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(78), "{stderr}");
        assert!(stderr.contains(expected), "{stderr}");
        assert!(output.stdout.is_empty());
        assert!(!path.exists() || entries(path) == 0);
    }
}

/// The secret is in the file, and in no variable, command line or log.
#[test]
fn secret_is_only_in_its_file() {
    let canary = Canary::new("CA");
    let secrets = Secrets::new(&[("db/CA", canary.text())]);
    let (_guard, runtime) = runtime_directory();
    let script =
        "env; cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '; cat \"$CA_PATH\" | wc -c";
    for watch in [&[][..], &["--watch"]] {
        let options = [&["--file", "db/CA=CA_PATH", "-vvv"], watch].concat();
        let mut command = secrets.run(&options, &["sh", "-c", script]);
        let output = command.env("XDG_RUNTIME_DIR", &runtime).output().unwrap();
        let printed = text(&output.stdout) + &text(&output.stderr);
        assert!(printed.contains("CA_PATH=/"), "{printed}");
        assert_eq!(canary.found_in(&printed), None);
    }
}
