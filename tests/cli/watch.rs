//! Tests of `run --watch`, which supervises the program.

use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};
use tokio::time::timeout;

use super::{Secrets, secretwell};

/// Prints its secret and its process ID, and then each signal that it receives. It exits on TERM.
const PROGRAM: &str = "
    trap 'echo stopped; exit 0' TERM
    for signal in HUP INT USR1 USR2 WINCH QUIT; do trap \"echo $signal\" $signal; done
    echo \"$A $$\"
    while :; do sleep 0.02; done";

/// A supervisor with its program.
struct Supervised {
    supervisor: Child,
    /// The standard output of the program.
    stdout: Lines<BufReader<ChildStdout>>,
    /// The log of the supervisor.
    log: Lines<BufReader<ChildStderr>>,
}

impl Supervised {
    fn start(secrets: &Secrets, options: &[&str], script: &str) -> Self {
        let options = [options, &["-v"]].concat();
        Self::spawn(Command::from(secrets.run(&options, &["sh", "-c", script])))
    }

    fn spawn(mut command: Command) -> Self {
        let mut supervisor = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let stdout = BufReader::new(supervisor.stdout.take().unwrap()).lines();
        let log = BufReader::new(supervisor.stderr.take().unwrap()).lines();
        Self {
            supervisor,
            stdout,
            log,
        }
    }

    /// Waits until a log line contains `text`.
    async fn wait_for_log(&mut self, text: &str) {
        let found = async {
            while let Some(line) = self.log.next_line().await.unwrap() {
                if line.contains(text) {
                    return;
                }
            }
            panic!("the supervisor exited without the log message {text:?}");
        };
        timeout(Duration::from_secs(60), found).await.unwrap();
    }

    /// Returns the next line that the program prints.
    async fn next_line(&mut self) -> String {
        let line = timeout(Duration::from_secs(60), self.stdout.next_line());
        line.await
            .unwrap()
            .unwrap()
            .expect("the program must not exit")
    }

    /// Waits for a start of the program. Returns its secret and its process ID.
    async fn wait_for_start(&mut self) -> (String, String) {
        let line = self.next_line().await;
        let (secret, pid) = line.split_once(' ').expect(&line);
        (secret.to_owned(), pid.to_owned())
    }

    /// Sends a signal to the supervisor.
    fn signal(&self, signal: &str) {
        let pid = self.supervisor.id().unwrap().to_string();
        kill(signal, &pid);
    }

    /// Returns the children of the supervisor, including zombies.
    fn children(&self) -> Vec<String> {
        children(&self.supervisor.id().unwrap().to_string())
    }

    /// Waits for the exit of the supervisor.
    async fn wait(mut self) -> ExitStatus {
        timeout(Duration::from_secs(60), self.supervisor.wait())
            .await
            .unwrap()
            .unwrap()
    }
}

/// Sends a signal with the `kill` of the shell, because a separate `kill` program might not be installed.
fn kill(signal: &str, pid: &str) {
    let status = std::process::Command::new("sh")
        .args(["-c", "kill -s \"$0\" \"$1\"", signal, pid])
        .status();
    assert!(status.unwrap().success());
}

/// Returns the children of a process, including zombies.
fn children(pid: &str) -> Vec<String> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let lists =
        tasks.map(|task| std::fs::read_to_string(task.unwrap().path().join("children")).unwrap());
    let lists: Vec<String> = lists.collect();
    let pids = lists.iter().flat_map(|list| list.split_whitespace());
    pids.map(str::to_owned).collect()
}

fn is_alive(pid: &str) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    status.is_ok_and(|status| !status.contains(") Z "))
}

async fn wait_for_exit(pid: &str) {
    let exited = async {
        while is_alive(pid) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(60), exited).await.unwrap();
}

#[tokio::test]
async fn signals_are_forwarded_to_the_program() {
    let secrets = Secrets::new(&[("A", "1")]);
    let mut supervised = Supervised::start(&secrets, &["--watch"], PROGRAM);
    supervised.wait_for_start().await;
    for signal in ["HUP", "INT", "USR1", "USR2", "WINCH", "QUIT"] {
        supervised.signal(signal);
        assert_eq!(supervised.next_line().await, signal);
    }
    supervised.signal("TERM");
    assert_eq!(supervised.next_line().await, "stopped");
    assert_eq!(supervised.wait().await.code(), Some(0));
}

#[tokio::test]
async fn hundred_rotations_leave_one_child_and_no_zombie() {
    let secrets = Secrets::new(&[("A", "0")]);
    let mut supervised = Supervised::start(&secrets, &["--watch"], PROGRAM);
    let (_, mut pid) = supervised.wait_for_start().await;
    for rotation in 1..=100 {
        secrets.write("A", rotation.to_string().as_bytes());
        assert_eq!(supervised.next_line().await, "stopped");
        let (secret, next_pid) = supervised.wait_for_start().await;
        assert_eq!(secret, rotation.to_string());
        assert!(!is_alive(&pid));
        assert_eq!(supervised.children(), std::slice::from_ref(&next_pid));
        pid = next_pid;
    }
    supervised.signal("TERM");
    assert_eq!(supervised.next_line().await, "stopped");
    assert!(supervised.wait().await.success());
    assert!(!is_alive(&pid));
}

#[tokio::test]
async fn only_a_valid_new_value_restarts_the_program() {
    let secrets = Secrets::new(&[("A", "1")]);
    // An emptied file counts at once.
    let url = format!("{}?rewrite_grace=0s", secrets.url());
    let options = ["run", "--from", &url, "--watch", "--only", "A", "-v"];
    let mut command = secretwell(options);
    command.args(["--", "sh", "-c", PROGRAM]);
    let mut supervised = Supervised::spawn(Command::from(command));
    let (_, pid) = supervised.wait_for_start().await;
    // The same value in a new file and a new secret that is not selected must not cause a restart.
    secrets.write("A", b"1");
    secrets.write("B", b"2");
    // Neither must values that are empty or that do not fit in a variable.
    secrets.write("A", b"");
    supervised.wait_for_log("the value is empty").await;
    secrets.write("A", b"a\0b");
    supervised
        .wait_for_log("the value contains a NUL byte")
        .await;
    secrets.write("A", "x".repeat(200_000).as_bytes());
    supervised
        .wait_for_log("the value does not fit in a variable")
        .await;
    assert_eq!(supervised.children(), std::slice::from_ref(&pid));
    secrets.write("A", b"3");
    assert_eq!(supervised.next_line().await, "stopped");
    assert_eq!(supervised.wait_for_start().await.0, "3");
}

#[tokio::test]
async fn program_can_be_signalled_instead_of_restarted() {
    let secrets = Secrets::new(&[("A", "1")]);
    let mut supervised = Supervised::start(&secrets, &["--watch=signal:HUP"], PROGRAM);
    let (_, pid) = supervised.wait_for_start().await;
    secrets.write("A", b"2");
    assert_eq!(supervised.next_line().await, "HUP");
    assert_eq!(supervised.children(), [pid]);
}

#[tokio::test]
async fn program_that_does_not_exit_is_killed_with_its_orphans() {
    let secrets = Secrets::new(&[("A", "1")]);
    // The program and its two children ignore the stop signal. One child has its own session.
    let script = "
        trap '' TERM
        sleep 1000 & setsid sleep 1000 &
        echo \"$A $$\"; while :; do sleep 0.02; done";
    let options = ["--watch", "--stop-timeout", "300ms"];
    let mut supervised = Supervised::start(&secrets, &options, script);
    let (_, first) = supervised.wait_for_start().await;
    let orphans = children(&first);
    assert!(orphans.len() >= 2, "{orphans:?}");
    secrets.write("A", b"2");
    let (secret, second) = supervised.wait_for_start().await;
    assert_eq!(secret, "2");
    assert!(!is_alive(&first));
    assert!(orphans.iter().all(|pid| !is_alive(pid)));
    assert_eq!(supervised.children(), std::slice::from_ref(&second));
    // Orphans are also killed if the program exits by itself.
    let orphans = children(&second);
    kill("KILL", &second);
    assert_eq!(supervised.wait().await.signal(), Some(9));
    assert!(orphans.iter().all(|pid| !is_alive(pid)));
}

#[tokio::test]
async fn term_signal_during_a_restart_prevents_the_new_start() {
    let secrets = Secrets::new(&[("A", "1")]);
    let script = "trap 'echo stopping; sleep 1; exit 5' TERM
        echo \"$A $$\"; while :; do sleep 0.02; done";
    let mut supervised = Supervised::start(&secrets, &["--watch"], script);
    supervised.wait_for_start().await;
    secrets.write("A", b"2");
    assert_eq!(supervised.next_line().await, "stopping");
    supervised.signal("TERM");
    assert_eq!(supervised.wait().await.code(), Some(5));
}

#[tokio::test]
async fn stop_signal_is_configurable() {
    let secrets = Secrets::new(&[("A", "1")]);
    let script = "trap 'echo interrupted; exit 0' INT
        echo \"$A $$\"; while :; do sleep 0.02; done";
    let options = ["--watch", "--stop-signal", "SIGINT"];
    let mut supervised = Supervised::start(&secrets, &options, script);
    supervised.wait_for_start().await;
    secrets.write("A", b"2");
    assert_eq!(supervised.next_line().await, "interrupted");
    assert_eq!(supervised.wait_for_start().await.0, "2");
}

/// The kernel kills the program, because it has set its parent-death signal.
#[tokio::test]
async fn program_dies_with_its_supervisor() {
    let secrets = Secrets::new(&[("A", "1")]);
    for options in [&["--watch"][..], &["--watch", "--pristine"]] {
        let mut supervised = Supervised::start(&secrets, options, PROGRAM);
        let (_, pid) = supervised.wait_for_start().await;
        supervised.signal("KILL");
        assert_eq!(supervised.wait().await.signal(), Some(9));
        wait_for_exit(&pid).await;
    }
}

#[tokio::test]
async fn program_starts_when_a_late_secret_arrives() {
    let secrets = Secrets::new::<&str>(&[]);
    let options = ["--wait", "60s", "--only", "A", "--watch"];
    let mut supervised = Supervised::start(&secrets, &options, PROGRAM);
    supervised.wait_for_log("waiting for at most 60 s: A").await;
    assert_eq!(supervised.children(), [] as [String; 0]);
    secrets.write("A", b"late");
    assert_eq!(supervised.wait_for_start().await.0, "late");
}

#[tokio::test]
async fn forwarded_signal_does_not_prevent_a_later_restart() {
    let secrets = Secrets::new(&[("A", "1")]);
    let mut supervised = Supervised::start(&secrets, &["--watch"], PROGRAM);
    supervised.wait_for_start().await;
    supervised.signal("HUP");
    assert_eq!(supervised.next_line().await, "HUP");
    secrets.write("A", b"2");
    assert_eq!(supervised.next_line().await, "stopped");
    assert_eq!(supervised.wait_for_start().await.0, "2");
}

#[tokio::test]
async fn term_signal_between_two_starts_prevents_the_new_start() {
    let secrets = Secrets::new(&[("A", "1")]);
    // The orphan ignores the stop signal, so the supervisor waits for it after the exit of the program.
    let script = "trap 'echo stopped; exit 4' TERM
        (trap '' TERM; exec sleep 1000) &
        echo \"$A $$\"; while :; do sleep 0.02; done";
    let options = ["--watch", "--stop-timeout", "5s"];
    let mut supervised = Supervised::start(&secrets, &options, script);
    supervised.wait_for_start().await;
    secrets.write("A", b"2");
    assert_eq!(supervised.next_line().await, "stopped");
    supervised.signal("TERM");
    assert_eq!(supervised.stdout.next_line().await.unwrap(), None);
    assert_eq!(supervised.wait().await.code(), Some(4));
}

#[tokio::test]
async fn children_from_before_the_program_are_not_stopped() {
    let secrets = Secrets::new(&[("A", "1")]);
    let run = secrets.run(&["--watch"], &["sh", "-c", PROGRAM]);
    let mut command = Command::new("sh");
    command
        .args(["-c", "sleep 1000 & echo \"$!\"; exec \"$0\" \"$@\""])
        .arg(run.get_program())
        .args(run.get_args());
    let mut supervised = Supervised::spawn(command);
    let sibling = supervised.next_line().await;
    supervised.wait_for_start().await;
    secrets.write("A", b"2");
    assert_eq!(supervised.next_line().await, "stopped");
    assert_eq!(supervised.wait_for_start().await.0, "2");
    assert!(is_alive(&sibling));
    kill("KILL", &sibling);
}

/// Prints all its secrets in one line at each start.
const PRINTS_ALL: &str = "
    trap 'exit 0' TERM
    echo \"A=$A B=$B OLD=$OLD\"
    while :; do sleep 0.02; done";

#[tokio::test]
async fn secret_that_is_deleted_does_not_hold_back_the_others() {
    for (options, rest) in [(&[][..], "old"), (&["--on-missing", "drop"], "")] {
        let secrets = Secrets::new(&[("A", "1"), ("B", "old")]);
        let options = [&["--watch"], options].concat();
        let mut supervised = Supervised::start(&secrets, &options, PRINTS_ALL);
        assert_eq!(supervised.next_line().await, "A=1 B=old OLD=");
        std::fs::remove_file(secrets.path().join("B")).unwrap();
        match rest {
            "" => assert_eq!(supervised.next_line().await, "A=1 B= OLD="),
            _ => {
                supervised
                    .wait_for_log("the program keeps the last value: B")
                    .await
            }
        }
        for value in ["2", "3"] {
            secrets.write("A", value.as_bytes());
            let expected = format!("A={value} B={rest} OLD=");
            assert_eq!(supervised.next_line().await, expected);
        }
    }
}

#[tokio::test]
async fn secret_that_is_deleted_stops_the_program_on_request() {
    let secrets = Secrets::new(&[("A", "1"), ("B", "2")]);
    let options = ["--watch", "--on-missing", "stop"];
    let mut supervised = Supervised::start(&secrets, &options, PROGRAM);
    let (_, pid) = supervised.wait_for_start().await;
    std::fs::remove_file(secrets.path().join("B")).unwrap();
    assert_eq!(supervised.next_line().await, "stopped");
    assert_eq!(supervised.wait().await.code(), Some(66));
    assert!(!is_alive(&pid));
}

#[tokio::test]
async fn secret_that_is_added_restarts_the_program() {
    let secrets = Secrets::new(&[("A", "1")]);
    let mut supervised = Supervised::start(&secrets, &["--watch"], PRINTS_ALL);
    assert_eq!(supervised.next_line().await, "A=1 B= OLD=");
    secrets.write("B", b"2");
    supervised.wait_for_log("a secret was added: B").await;
    assert_eq!(supervised.next_line().await, "A=1 B=2 OLD=");
}

#[tokio::test]
async fn value_before_a_change_is_passed_in_its_variable() {
    let secrets = Secrets::new(&[("A", "1")]);
    let options = ["--watch", "--previous", "A=OLD"];
    let mut supervised = Supervised::start(&secrets, &options, PRINTS_ALL);
    supervised
        .wait_for_log("the previous value of A is unknown")
        .await;
    assert_eq!(supervised.next_line().await, "A=1 B= OLD=");
    for (before, value) in [("1", "2"), ("2", "3"), ("3", "1")] {
        secrets.write("A", value.as_bytes());
        let expected = format!("A={value} B= OLD={before}");
        assert_eq!(supervised.next_line().await, expected);
    }
}

#[tokio::test]
async fn stored_value_before_is_passed_without_a_watch() {
    let secrets = Secrets::new(&[("A", "2"), ("A_PREVIOUS", "1")]);
    let output = secrets.script(&["--previous", "A=OLD"], "echo \"$A $OLD\"");
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "2 1\n");
    assert!(output.stderr.is_empty());
}

/// Options take precedence over the table `previous` of the profile, and the others of the table remain.
#[test]
fn profile_names_the_variables_of_previous_values() {
    let secrets = Secrets::new(&[
        ("A", "2"),
        ("A_PREVIOUS", "1"),
        ("B", "4"),
        ("B_PREVIOUS", "3"),
    ]);
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("secretwell.toml");
    let table = "previous = { A = \"OLD_A\", B = \"OLD_B\" }";
    let profile = format!("[profile.p]\nfrom = [{:?}]\n{table}\n", secrets.url());
    std::fs::write(&config, profile).unwrap();
    for (options, expected) in [
        (&[][..], "1 3 -"),
        (&["--previous", "A=OTHER"], "- 3 1"),
        (&["--only", "B"], "- 3 -"),
    ] {
        let mut command = secretwell(["run", "--config"]);
        command.arg(&config).args(["--profile", "p"]).args(options);
        let script = "echo ${OLD_A:--} ${OLD_B:--} ${OTHER:--}";
        let output = command.args(["--", "sh", "-c", script]).output().unwrap();
        let stdout = String::from_utf8(output.stdout).unwrap();
        assert_eq!(stdout.trim_end(), expected, "{options:?}");
        assert!(output.stderr.is_empty());
    }
}

#[tokio::test]
async fn restart_is_delayed_and_gets_the_newest_secrets() {
    let secrets = Secrets::new(&[("A", "1")]);
    let options = ["--watch", "--splay", "100ms"];
    let mut supervised = Supervised::start(&secrets, &options, PROGRAM);
    supervised.wait_for_start().await;
    secrets.write("A", b"2");
    supervised.wait_for_log("the program gets them in").await;
    assert_eq!(supervised.next_line().await, "stopped");
    assert_eq!(supervised.wait_for_start().await.0, "2");
}

#[tokio::test]
async fn stop_signal_ends_a_delay_at_once() {
    let secrets = Secrets::new(&[("A", "1")]);
    let options = ["--watch", "--splay", "300days"];
    let mut supervised = Supervised::start(&secrets, &options, PROGRAM);
    supervised.wait_for_start().await;
    secrets.write("A", b"2");
    supervised.wait_for_log("the program gets them in").await;
    supervised.signal("TERM");
    assert_eq!(supervised.next_line().await, "stopped");
    assert_eq!(supervised.wait().await.code(), Some(0));
}
