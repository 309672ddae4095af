//! With `--watch`, the command looks after the program.

use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};
use tokio::time::timeout;

use super::Secrets;

/// Says which secret it was given and who it is, and each signal that it gets but the one that stops it.
const PROGRAM: &str = "
    trap 'echo stopped; exit 0' TERM
    for signal in HUP INT USR1 USR2 WINCH QUIT; do trap \"echo $signal\" $signal; done
    echo \"$A $$\"
    while :; do sleep 0.02; done";

/// A supervised program, and what the supervisor logs.
struct Supervised {
    process: Child,
    lines: Lines<BufReader<ChildStdout>>,
    log: Lines<BufReader<ChildStderr>>,
}

impl Supervised {
    fn start(secrets: &Secrets, options: &[&str], script: &str) -> Self {
        let options = [options, &["-v"]].concat();
        Self::of(Command::from(secrets.run(&options, &["sh", "-c", script])))
    }

    fn of(mut command: Command) -> Self {
        let mut process = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let log = BufReader::new(process.stderr.take().unwrap()).lines();
        Self {
            process,
            lines,
            log,
        }
    }

    /// Waits until this is in the log.
    async fn logged(&mut self, text: &str) {
        let logged = async {
            while let Some(line) = self.log.next_line().await.unwrap() {
                if line.contains(text) {
                    return;
                }
            }
            panic!("it has ended, and never logged {text}");
        };
        timeout(Duration::from_secs(60), logged).await.unwrap();
    }

    /// What the program says next.
    async fn line(&mut self) -> String {
        let line = timeout(Duration::from_secs(60), self.lines.next_line());
        line.await.unwrap().unwrap().expect("it has ended")
    }

    /// The secret that the program was started with, and its process.
    async fn started(&mut self) -> (String, String) {
        let line = self.line().await;
        let (secret, process) = line.split_once(' ').expect(&line);
        (secret.to_owned(), process.to_owned())
    }

    fn signal(&self, signal: &str) {
        let process = self.process.id().unwrap().to_string();
        kill(signal, &process);
    }

    /// The children of the supervisor, living or not buried.
    fn children(&self) -> Vec<String> {
        children(&self.process.id().unwrap().to_string())
    }

    async fn ends(mut self) -> std::process::ExitStatus {
        timeout(Duration::from_secs(60), self.process.wait())
            .await
            .unwrap()
            .unwrap()
    }
}

/// By the shell's own `kill`, which is there where there is a shell.
fn kill(signal: &str, process: &str) {
    let status = std::process::Command::new("sh")
        .args(["-c", "kill -s \"$0\" \"$1\"", signal, process])
        .status();
    assert!(status.unwrap().success());
}

fn children(process: &str) -> Vec<String> {
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).unwrap();
    let lists =
        tasks.map(|task| std::fs::read_to_string(task.unwrap().path().join("children")).unwrap());
    let lists: Vec<String> = lists.collect();
    let processes = lists.iter().flat_map(|list| list.split_whitespace());
    processes.map(str::to_owned).collect()
}

fn is_alive(process: &str) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{process}/stat"));
    status.is_ok_and(|status| !status.contains(") Z "))
}

async fn until_gone(process: &str) {
    let gone = async {
        while is_alive(process) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(60), gone).await.unwrap();
}

#[tokio::test]
async fn signals_reach_the_program() {
    let secrets = Secrets::new(&[("A", "1")]);
    let mut supervised = Supervised::start(&secrets, &["--watch"], PROGRAM);
    supervised.started().await;
    for signal in ["HUP", "INT", "USR1", "USR2", "WINCH", "QUIT"] {
        supervised.signal(signal);
        assert_eq!(supervised.line().await, signal);
    }
    supervised.signal("TERM");
    assert_eq!(supervised.line().await, "stopped");
    assert_eq!(supervised.ends().await.code(), Some(0));
}

#[tokio::test]
async fn a_hundred_rotations_leave_one_child_and_no_zombie() {
    let secrets = Secrets::new(&[("A", "0")]);
    let mut supervised = Supervised::start(&secrets, &["--watch"], PROGRAM);
    let (_, mut process) = supervised.started().await;
    for rotation in 1..=100 {
        secrets.write("A", rotation.to_string().as_bytes());
        assert_eq!(supervised.line().await, "stopped");
        let (secret, next) = supervised.started().await;
        assert_eq!(secret, rotation.to_string());
        assert!(!is_alive(&process));
        assert_eq!(supervised.children(), std::slice::from_ref(&next));
        process = next;
    }
    supervised.signal("TERM");
    assert_eq!(supervised.line().await, "stopped");
    assert!(supervised.ends().await.success());
    assert!(!is_alive(&process));
}

#[tokio::test]
async fn only_a_changed_value_restarts_and_a_bad_one_never_does() {
    let secrets = Secrets::new(&[("A", "1")]);
    let options = ["--watch", "--only", "A"];
    let mut supervised = Supervised::start(&secrets, &options, PROGRAM);
    let (_, process) = supervised.started().await;
    // The same value in a new file, another key, a value that is empty, and one that no variable can hold.
    secrets.write("A", b"1");
    secrets.write("B", b"2");
    secrets.write("A", b"");
    supervised.logged("it is there and empty").await;
    secrets.write("A", b"a\0b");
    supervised.logged("it holds a NUL").await;
    secrets.write("A", "x".repeat(200_000).as_bytes());
    supervised.logged("no variable can hold so much").await;
    assert_eq!(supervised.children(), std::slice::from_ref(&process));
    secrets.write("A", b"3");
    assert_eq!(supervised.line().await, "stopped");
    assert_eq!(supervised.started().await.0, "3");
}

#[tokio::test]
async fn a_signal_tells_instead_of_a_restart() {
    let secrets = Secrets::new(&[("A", "1")]);
    let mut supervised = Supervised::start(&secrets, &["--watch=signal:HUP"], PROGRAM);
    let (_, process) = supervised.started().await;
    secrets.write("A", b"2");
    assert_eq!(supervised.line().await, "HUP");
    assert_eq!(supervised.children(), [process]);
}

#[tokio::test]
async fn a_program_that_does_not_stop_is_killed_with_what_it_has_left() {
    let secrets = Secrets::new(&[("A", "1")]);
    // It ignores what asks it to stop, and so do two of its own, one in a session of its own.
    let script = "
        trap '' TERM
        sleep 1000 & setsid sleep 1000 &
        echo \"$A $$\"; while :; do sleep 0.02; done";
    let options = ["--watch", "--stop-timeout", "300ms"];
    let mut supervised = Supervised::start(&secrets, &options, script);
    let (_, first) = supervised.started().await;
    let left = children(&first);
    assert!(left.len() >= 2, "{left:?}");
    secrets.write("A", b"2");
    let (secret, second) = supervised.started().await;
    assert_eq!(secret, "2");
    assert!(!is_alive(&first));
    assert!(left.iter().all(|process| !is_alive(process)));
    assert_eq!(supervised.children(), std::slice::from_ref(&second));
    // An end of its own has the same end for what it leaves.
    let left = children(&second);
    kill("KILL", &second);
    assert_eq!(supervised.ends().await.signal(), Some(9));
    assert!(left.iter().all(|process| !is_alive(process)));
}

#[tokio::test]
async fn who_asks_for_an_end_in_the_middle_of_a_restart_gets_it() {
    let secrets = Secrets::new(&[("A", "1")]);
    let script = "trap 'echo stopping; sleep 1; exit 5' TERM
        echo \"$A $$\"; while :; do sleep 0.02; done";
    let mut supervised = Supervised::start(&secrets, &["--watch"], script);
    supervised.started().await;
    secrets.write("A", b"2");
    assert_eq!(supervised.line().await, "stopping");
    supervised.signal("TERM");
    assert_eq!(supervised.ends().await.code(), Some(5));
}

#[tokio::test]
async fn another_signal_may_stop_it() {
    let secrets = Secrets::new(&[("A", "1")]);
    let script = "trap 'echo interrupted; exit 0' INT
        echo \"$A $$\"; while :; do sleep 0.02; done";
    let options = ["--watch", "--stop-signal", "SIGINT"];
    let mut supervised = Supervised::start(&secrets, &options, script);
    supervised.started().await;
    secrets.write("A", b"2");
    assert_eq!(supervised.line().await, "interrupted");
    assert_eq!(supervised.started().await.0, "2");
}

/// By the death signal of Linux, which ties the program itself to the supervisor.
#[tokio::test]
async fn the_program_dies_with_its_supervisor() {
    let secrets = Secrets::new(&[("A", "1")]);
    for options in [&["--watch"][..], &["--watch", "--pristine"]] {
        let mut supervised = Supervised::start(&secrets, options, PROGRAM);
        let (_, process) = supervised.started().await;
        supervised.signal("KILL");
        assert_eq!(supervised.ends().await.signal(), Some(9));
        until_gone(&process).await;
    }
}

#[tokio::test]
async fn a_late_secret_is_waited_for() {
    let secrets = Secrets::new::<&str>(&[]);
    let options = ["--wait", "60s", "--only", "A", "--watch"];
    let mut supervised = Supervised::start(&secrets, &options, PROGRAM);
    supervised.logged("waiting: A").await;
    assert_eq!(supervised.children(), [] as [String; 0]);
    secrets.write("A", b"late");
    assert_eq!(supervised.started().await.0, "late");
}

#[tokio::test]
async fn a_program_that_heeds_a_signal_is_restarted_all_the_same() {
    let secrets = Secrets::new(&[("A", "1")]);
    let mut supervised = Supervised::start(&secrets, &["--watch"], PROGRAM);
    supervised.started().await;
    supervised.signal("HUP");
    assert_eq!(supervised.line().await, "HUP");
    secrets.write("A", b"2");
    assert_eq!(supervised.line().await, "stopped");
    assert_eq!(supervised.started().await.0, "2");
}

#[tokio::test]
async fn a_program_that_ends_anyway_is_not_restarted() {
    let secrets = Secrets::new(&[("A", "1")]);
    // What it leaves does not let itself be asked, so that there is a while between two programs.
    let script = "trap 'echo stopped; exit 4' TERM
        (trap '' TERM; exec sleep 1000) &
        echo \"$A $$\"; while :; do sleep 0.02; done";
    let options = ["--watch", "--stop-timeout", "5s"];
    let mut supervised = Supervised::start(&secrets, &options, script);
    supervised.started().await;
    secrets.write("A", b"2");
    assert_eq!(supervised.line().await, "stopped");
    supervised.signal("TERM");
    assert_eq!(supervised.lines.next_line().await.unwrap(), None);
    assert_eq!(supervised.ends().await.code(), Some(4));
}

#[tokio::test]
async fn who_was_there_before_the_program_stays() {
    let secrets = Secrets::new(&[("A", "1")]);
    let run = secrets.run(&["--watch"], &["sh", "-c", PROGRAM]);
    let mut command = Command::new("sh");
    command
        .args(["-c", "sleep 1000 & echo \"$!\"; exec \"$0\" \"$@\""])
        .arg(run.get_program())
        .args(run.get_args());
    let mut supervised = Supervised::of(command);
    let before = supervised.line().await;
    supervised.started().await;
    secrets.write("A", b"2");
    assert_eq!(supervised.line().await, "stopped");
    assert_eq!(supervised.started().await.0, "2");
    assert!(is_alive(&before));
    kill("KILL", &before);
}
