//! The worker without HTTP.

use std::io::{BufRead, BufReader, Write};
use std::process::{ChildStdin, ChildStdout, Command};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::process::{Process, Secrets, await_value, eventually};
use crate::{FIRST, SECOND};

/// A worker with its input and output.
struct Worker {
    process: Process,
    jobs: ChildStdin,
    results: BufReader<ChildStdout>,
}

impl Worker {
    fn start(secrets: &Secrets) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_worker"));
        let mut process = Process::start(command.env("SECRETWELL_FROM", secrets.url()));
        let jobs = process.child.stdin.take().unwrap();
        Self {
            jobs,
            results: process.stdout(),
            process,
        }
    }

    fn send(&mut self, job: &str) {
        writeln!(self.jobs, "{job}").unwrap();
    }

    fn result(&mut self) -> String {
        let mut line = String::new();
        self.results.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    fn run(&mut self, job: &str) -> String {
        self.send(job);
        self.result()
    }
}

fn signed(secret: &str, job: &str) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(job.as_bytes());
    let signature = mac.finalize().into_bytes();
    let signature: String = signature.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{job} {signature}")
}

#[test]
fn worker_keeps_a_job_until_the_secret_exists_and_uses_the_newest_one() {
    let secrets = Secrets::new();
    let mut worker = Worker::start(&secrets);
    worker.send("early");
    eventually("the worker reports the missing secret", || {
        worker
            .process
            .log()
            .contains("WEBHOOK_SECRET")
            .then_some(())
    });
    secrets.set("WEBHOOK_SECRET", FIRST);
    assert_eq!(worker.result(), signed(FIRST, "early"));
    assert_eq!(worker.run("first"), signed(FIRST, "first"));

    secrets.set("WEBHOOK_SECRET", SECOND);
    await_value(signed(SECOND, "second"), || worker.run("second"));
    // While it waits for a job, with the input still open.
    worker.process.end();
}

#[test]
fn worker_ends_while_its_secret_is_missing() {
    let worker = Worker::start(&Secrets::new());
    eventually("the worker reports the missing secret", || {
        worker
            .process
            .log()
            .contains("WEBHOOK_SECRET")
            .then_some(())
    });
    let Worker {
        process,
        jobs: _jobs,
        ..
    } = worker;
    process.end();
}

#[test]
fn worker_ends_when_there_are_no_more_jobs() {
    let secrets = Secrets::new();
    secrets.set("WEBHOOK_SECRET", FIRST);
    let mut worker = Worker::start(&secrets);
    worker.send("last");
    drop(worker.jobs);
    let mut line = String::new();
    worker.results.read_line(&mut line).unwrap();
    assert_eq!(line.trim(), signed(FIRST, "last"));
    let status = eventually("the worker ends", || {
        worker.process.child.try_wait().unwrap()
    });
    assert!(status.success(), "{status}");
}
