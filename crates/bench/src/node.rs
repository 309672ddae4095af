//! Operations of JavaScript packages, measured in a process of Node.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

/// A process of Node that runs a script of `tests/clients`. It is stopped on drop.
pub struct Node {
    process: Child,
    pipes: Mutex<(ChildStdin, BufReader<ChildStdout>)>,
}

impl Node {
    /// Starts a script with these variables. Returns `None` if the packages are not installed.
    ///
    /// # Panics
    /// Panics if Node cannot be started.
    pub fn start(script: &str, variables: &[(&str, &str)]) -> Option<Self> {
        let clients = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/tools/clients");
        let script = clients.join(script);
        if !script.exists() {
            println!("the Node packages are not installed: run `cargo xtask bench`");
            return None;
        }
        let mut process = Command::new("node")
            .arg(script)
            .envs(variables.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("Node starts");
        let input = process.stdin.take().expect("the input is a pipe");
        let output = process.stdout.take().expect("the output is a pipe");
        let node = Self {
            process,
            pipes: Mutex::new((input, BufReader::new(output))),
        };
        if node.read_line() != "ready" {
            println!("the Node packages are not installed: run `cargo xtask bench`");
            return None;
        }
        Some(node)
    }

    /// Makes `calls` calls of an operation of the script, and returns how long they took.
    ///
    /// # Panics
    /// Panics if the script has ended.
    pub fn run(&self, operation: &str, calls: u64) -> Duration {
        writeln!(
            self.pipes.lock().expect("not poisoned").0,
            "{operation} {calls}"
        )
        .expect("the script reads its input");
        let nanoseconds = self.read_line().parse().expect("a number of nanoseconds");
        Duration::from_nanos(nanoseconds)
    }

    fn read_line(&self) -> String {
        let mut line = String::new();
        let output = &mut self.pipes.lock().expect("not poisoned").1;
        output.read_line(&mut line).expect("the script responds");
        line.trim_end().to_owned()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
