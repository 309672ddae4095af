//! Tests of the command on a pseudo-terminal, which Python's `pty` provides.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use super::{RESET_SIGNALS, Secrets, binary};

/// Runs its arguments on a new terminal and exits with the same status. Its standard input is typed there.
const PTY_SCRIPT: &str = "
import os, pty, sys
status = os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:]))
sys.exit(status if status >= 0 else 128 - status)";

struct Terminal {
    process: Child,
    input: ChildStdin,
    output: ChildStdout,
    /// Output after the last expected text.
    pending: String,
    /// Output up to the last expected text.
    matched: String,
}

impl Terminal {
    fn start(arguments: &[&str]) -> Self {
        Self::start_with(arguments, &[])
    }

    fn start_with(arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut process = Command::new("python3")
            .args(["-c", PTY_SCRIPT])
            .args(RESET_SIGNALS)
            .arg(binary())
            .args(arguments)
            .env("TERM", "xterm")
            .env_remove("NO_COLOR")
            .envs(variables.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Self {
            input: process.stdin.take().unwrap(),
            output: process.stdout.take().unwrap(),
            process,
            pending: String::new(),
            matched: String::new(),
        }
    }

    async fn type_keys(&mut self, keys: &str) {
        self.input.write_all(keys.as_bytes()).await.unwrap();
        self.input.flush().await.unwrap();
    }

    /// Waits until the output contains `text`, and consumes the output up to there.
    async fn expect(&mut self, text: &str) {
        let read = async {
            while !self.pending.contains(text) {
                let mut bytes = [0; 1000];
                let read = self.output.read(&mut bytes).await.unwrap();
                assert!(
                    read > 0,
                    "the output ends without {text:?}: {}",
                    self.pending
                );
                self.pending += &String::from_utf8_lossy(&bytes[..read]);
            }
        };
        let found = timeout(Duration::from_secs(60), read).await;
        found.unwrap_or_else(|_| panic!("no {text:?} within 60 s: {}", self.pending));
        let end = self.pending.find(text).unwrap() + text.len();
        self.matched.extend(self.pending.drain(..end));
    }

    /// Waits for the exit of the command and returns its status.
    async fn exit_code(mut self) -> Option<i32> {
        let mut rest = String::new();
        let _ = self.output.read_to_string(&mut rest).await;
        let status = timeout(Duration::from_secs(60), self.process.wait()).await;
        status.unwrap().unwrap().code()
    }
}

/// Counts interrupts and repeats lines. It waits for signals in a thread of its own, because a program that handles them
/// between two reads can miss one: bash does so about once in 5,000 times.
const INTERRUPT_SCRIPT: &str = "
import os, signal, sys, threading
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
def repeat_lines():
    for line in sys.stdin:
        os.write(1, b'read ' + line.encode())
    os._exit(6)
if all(os.isatty(stream) for stream in range(3)):
    print('terminal', flush=True)
threading.Thread(target=repeat_lines).start()
interrupts = 0
while signal.sigwait([signal.SIGINT]):
    interrupts += 1
    os.write(1, b'interrupted %d\\n' % interrupts)";

#[tokio::test]
async fn program_uses_the_terminal_and_receives_each_interrupt_once() {
    let secrets = Secrets::new(&[("A", "1")]);
    let url = secrets.url();
    for watch in [&[][..], &["--watch"]] {
        let from = ["run", "--from", &url];
        let program = ["--", "python3", "-c", INTERRUPT_SCRIPT];
        let arguments = [&from[..], watch, &program].concat();
        let mut terminal = Terminal::start(&arguments);
        terminal.expect("terminal").await;
        terminal.type_keys("hello\n").await;
        terminal.expect("read hello").await;
        // On Ctrl-C the terminal sends SIGINT to the program, and the supervisor must not send another.
        terminal.type_keys("\x03").await;
        terminal.expect("interrupted 1").await;
        terminal.type_keys("again\n").await;
        terminal.expect("read again").await;
        assert!(!terminal.matched.contains("interrupted 2"), "{watch:?}");
        terminal.type_keys("\x03").await;
        terminal.expect("interrupted 2").await;
        terminal.type_keys("\x04").await;
        assert_eq!(terminal.exit_code().await, Some(6), "{watch:?}");
    }
}

#[tokio::test]
async fn secrets_are_not_written_to_a_terminal_without_reveal() {
    let secrets = Secrets::new(&[("A", "secret value")]);
    let from = secrets.url();
    for command in [&["get", "A"][..], &["export"]] {
        let arguments = [command, &["--from", &from]].concat();
        let mut terminal = Terminal::start(&arguments);
        terminal.expect("add --reveal").await;
        assert!(!terminal.matched.contains("secret value"));
        assert!(!terminal.pending.contains("secret value"));
        assert_eq!(terminal.exit_code().await, Some(64));
        let arguments = [&arguments[..], &["--reveal"]].concat();
        let mut terminal = Terminal::start(&arguments);
        terminal.expect("secret value").await;
        assert_eq!(terminal.exit_code().await, Some(0));
    }
}

#[tokio::test]
async fn progress_message_is_shown_during_a_wait() {
    let secrets = Secrets::new::<&str>(&[]);
    let from = secrets.url();
    let arguments = [
        "run", "--from", &from, "--only", "A", "--wait", "60s", "--", "echo", "done",
    ];
    let mut terminal = Terminal::start(&arguments);
    terminal
        .expect(&format!("reading secrets from {from} ("))
        .await;
    secrets.write("A", b"1");
    terminal.expect("done").await;
    assert_eq!(terminal.exit_code().await, Some(0));
}

#[tokio::test]
async fn interrupt_during_a_restart_prevents_the_new_start() {
    let secrets = Secrets::new(&[("A", "1")]);
    let url = secrets.url();
    let directory = tempfile::tempdir().unwrap();
    let may_exit = directory.path().join("may-exit");
    let script = format!(
        "trap 'echo stopping; while test ! -e {0}; do sleep 0.05; done; exit 5' TERM
        trap 'touch {0}' INT
        echo \"started $A\"; while :; do sleep 0.05; done",
        may_exit.display()
    );
    let arguments = [
        "run", "--from", &url, "--watch", "--", "bash", "-c", &script,
    ];
    let mut terminal = Terminal::start(&arguments);
    terminal.expect("started 1").await;
    secrets.write("A", b"2");
    terminal.expect("stopping").await;
    terminal.type_keys("\x03").await;
    assert_eq!(terminal.exit_code().await, Some(5));
}

#[tokio::test]
async fn log_is_colored_unless_colors_are_disabled() {
    let secrets = Secrets::new(&[("A", "1")]);
    let from = secrets.url();
    let arguments = ["run", "-v", "--from", &from, "--", "echo", "done"];
    for (variables, is_colored) in [
        (&[][..], true),
        (&[("NO_COLOR", "1")], false),
        (&[("TERM", "dumb")], false),
    ] {
        let mut terminal = Terminal::start_with(&arguments, variables);
        terminal.expect("done").await;
        assert_eq!(
            terminal.matched.contains("\x1b["),
            is_colored,
            "{variables:?}"
        );
        assert!(terminal.matched.contains("secret read"));
    }
}
