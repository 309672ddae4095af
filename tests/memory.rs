//! Copies of secrets in the memory of a process.
//!
//! The secrets are random. A program of its own reads them from a source, so that its memory contains only the copies
//! that the library and its dependencies make. The tests read that memory while the secrets are in use, which shows
//! that they are found, and after they were dropped.

mod claims;
mod clients;
mod command;
mod remote;
mod rings;
mod scan;
mod sources;

use std::env;
use std::io::{BufRead, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use scan::{Found, Needles, canary};

use crate::support::{replace, secs};

/// Background tasks and connections end some time after their owner was dropped.
const LIMIT: Duration = secs(5);

/// The allocator of a program of `memory/program`.
#[derive(Debug, Clone, Copy)]
enum Allocator {
    System,
    /// Wipes what is freed.
    Zeroing,
}

/// A process whose memory is read. It is killed when this is dropped.
struct Program {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Program {
    /// Starts the program of `memory/program` with the allocator of the system.
    fn start(arguments: &[&str]) -> Self {
        Self::with(Allocator::System, arguments, &[])
    }

    fn with(allocator: Allocator, arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut command = Command::new(program(match allocator {
            Allocator::System => "memory",
            Allocator::Zeroing => "memory-zeroing",
        }));
        command
            .args(arguments)
            .env_clear()
            .envs(variables.iter().copied());
        Self::spawn(command)
    }

    fn spawn(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { child, output }
    }

    /// Waits until the program is at its next step.
    fn reach(&mut self, step: &str) {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        assert_eq!(line.trim_end(), step);
    }

    /// Lets the program go on to its next step.
    fn go_on(&mut self, step: &str) {
        self.child.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
        self.reach(step);
    }

    /// Asserts that the secrets are found while they are in use.
    #[track_caller]
    fn assert_found(&self, needles: &Needles, name: &str) {
        let found = needles.find_in(self.child.id());
        assert!(
            found.iter().any(|found| found.name == name),
            "{name}: {found:?}"
        );
    }

    /// Returns what is still in memory when the background tasks have ended.
    #[expect(
        clippy::disallowed_methods,
        reason = "the background tasks of another process end in real time"
    )]
    fn remaining(&self, needles: &Needles) -> Vec<Found> {
        let start = Instant::now();
        loop {
            let found = needles.find_in(self.child.id());
            if found.is_empty() || start.elapsed() > LIMIT {
                return found;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Asserts that no copy of a secret is left.
    #[track_caller]
    fn assert_clean(&self, needles: &Needles, what: &str) {
        let found = self.remaining(needles);
        assert!(found.is_empty(), "{what}: {found:#?}");
    }
}

/// Runs a scenario until its last step. Asserts that no copy of the secret is left if the program wipes what it frees.
/// Returns and prints the copies that are left otherwise.
#[expect(
    clippy::print_stdout,
    reason = "the numbers are part of the documentation"
)]
fn freed_copies(arguments: &[&str], variables: &[(&str, &str)], needles: &Needles) -> Vec<Found> {
    let mut copies = Vec::new();
    for allocator in [Allocator::Zeroing, Allocator::System] {
        let mut program = Program::with(allocator, arguments, variables);
        program.reach("alive");
        program.assert_found(needles, "secret");
        program.go_on("dropped");
        match allocator {
            Allocator::Zeroing => program.assert_clean(needles, &arguments.join(" ")),
            Allocator::System => copies = program.remaining(needles),
        }
    }
    println!(
        "{}: {} copies in freed memory",
        arguments.join(" "),
        copies.len()
    );
    copies
}

/// Returns the path of a program that `cargo xtask test memory` has built.
fn program(name: &str) -> PathBuf {
    let tests = env::current_exe().unwrap();
    let program = tests.ancestors().nth(2).unwrap().join(name);
    assert!(
        program.exists(),
        "run `cargo xtask test memory`, which builds `{name}`"
    );
    program
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
