//! On a terminal, which Python's `pty` stands for.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use super::{Secrets, binary};

/// Runs its arguments on a terminal of their own and ends as they do; what it reads is typed there.
const TERMINAL: &str = "
import os, pty, sys
status = os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:]))
sys.exit(status if status >= 0 else 128 - status)";

struct Terminal {
    process: Child,
    keyboard: ChildStdin,
    screen: ChildStdout,
    seen: String,
    /// All that was cleared.
    shown: String,
}

impl Terminal {
    fn start(words: &[&str]) -> Self {
        Self::start_with(words, &[])
    }

    fn start_with(words: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut process = Command::new("python3")
            .args(["-c", TERMINAL])
            .arg(binary())
            .args(words)
            .env("TERM", "xterm")
            .env_remove("NO_COLOR")
            .envs(variables.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Self {
            keyboard: process.stdin.take().unwrap(),
            screen: process.stdout.take().unwrap(),
            process,
            seen: String::new(),
            shown: String::new(),
        }
    }

    async fn types(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).await.unwrap();
        self.keyboard.flush().await.unwrap();
    }

    /// Waits until this is on the screen, and clears the screen up to there.
    async fn shows(&mut self, text: &str) {
        let read = async {
            while !self.seen.contains(text) {
                let mut bytes = [0; 1000];
                let read = self.screen.read(&mut bytes).await.unwrap();
                assert!(read > 0, "it ends before it shows {text}: {}", self.seen);
                self.seen += &String::from_utf8_lossy(&bytes[..read]);
            }
        };
        let shown = timeout(Duration::from_secs(60), read).await;
        shown.unwrap_or_else(|_| panic!("it never shows {text}: {}", self.seen));
        let end = self.seen.find(text).unwrap() + text.len();
        self.shown.extend(self.seen.drain(..end));
    }

    async fn ends(mut self) -> Option<i32> {
        let mut rest = String::new();
        let _ = self.screen.read_to_string(&mut rest).await;
        let ended = timeout(Duration::from_secs(60), self.process.wait()).await;
        ended.unwrap().unwrap().code()
    }
}

#[tokio::test]
async fn the_terminal_is_the_programs() {
    let secrets = Secrets::new(&[("A", "1")]);
    let url = secrets.url();
    for watch in [&[][..], &["--watch"]] {
        let script = "trap 'echo interrupted $((n=n+1))' INT
            test -t 0 && test -t 1 && test -t 2 && echo terminal
            while read line; do echo \"read $line\"; done; exit 6";
        let from = ["run", "--from", &url];
        let words = [&from[..], watch, &["--", "bash", "-c", script]].concat();
        let mut terminal = Terminal::start(&words);
        terminal.shows("terminal").await;
        terminal.types("hello\n").await;
        terminal.shows("read hello").await;
        // Control-C goes to the program once, by the terminal.
        terminal.types("\x03").await;
        terminal.shows("interrupted 1").await;
        terminal.types("\n\x03").await;
        terminal.shows("interrupted 2").await;
        terminal.types("\n\x04").await;
        assert_eq!(terminal.ends().await, Some(6), "{watch:?}");
    }
}

#[tokio::test]
async fn a_terminal_is_shown_no_secret_unless_it_is_asked_for() {
    let secrets = Secrets::new(&[("A", "to be seen")]);
    let from = secrets.url();
    for words in [&["get", "A"][..], &["export"]] {
        let words = [words, &["--from", &from]].concat();
        let mut terminal = Terminal::start(&words);
        terminal.shows("say --reveal").await;
        assert!(!terminal.seen.contains("to be seen"));
        assert_eq!(terminal.ends().await, Some(64));
        let words = [&words[..], &["--reveal"]].concat();
        let mut terminal = Terminal::start(&words);
        terminal.shows("to be seen").await;
        assert_eq!(terminal.ends().await, Some(0));
    }
}

#[tokio::test]
async fn who_waits_is_told_what_for() {
    let secrets = Secrets::new::<&str>(&[]);
    let from = secrets.url();
    let words = [
        "run", "--from", &from, "--only", "A", "--wait", "60s", "--", "echo", "done",
    ];
    let mut terminal = Terminal::start(&words);
    terminal
        .shows(&format!("reading the secrets from {from} ("))
        .await;
    secrets.write("A", b"1");
    terminal.shows("done").await;
    assert_eq!(terminal.ends().await, Some(0));
}

#[tokio::test]
async fn who_interrupts_a_restart_ends_it() {
    let secrets = Secrets::new(&[("A", "1")]);
    let url = secrets.url();
    let go = tempfile::tempdir().unwrap();
    let go = go.path().join("go");
    let script = format!(
        "trap 'echo stopping; while test ! -e {0}; do sleep 0.05; done; exit 5' TERM
        trap 'touch {0}' INT
        echo \"started $A\"; while :; do sleep 0.05; done",
        go.display()
    );
    let words = [
        "run", "--from", &url, "--watch", "--", "bash", "-c", &script,
    ];
    let mut terminal = Terminal::start(&words);
    terminal.shows("started 1").await;
    secrets.write("A", b"2");
    terminal.shows("stopping").await;
    terminal.types("\x03").await;
    assert_eq!(terminal.ends().await, Some(5));
}

#[tokio::test]
async fn the_log_has_colours_unless_they_are_unwanted() {
    let secrets = Secrets::new(&[("A", "1")]);
    let from = secrets.url();
    let words = ["run", "-v", "--from", &from, "--", "echo", "done"];
    for (variables, colours) in [
        (&[][..], true),
        (&[("NO_COLOR", "1")], false),
        (&[("TERM", "dumb")], false),
    ] {
        let mut terminal = Terminal::start_with(&words, variables);
        terminal.shows("done").await;
        assert_eq!(terminal.shown.contains("\x1b["), colours, "{variables:?}");
        assert!(terminal.shown.contains("secret read"));
    }
}
