//! A service with all backends at once, under constant requests, while everything around it fails in a seeded schedule.
//!
//! | module | content |
//! | --- | --- |
//! | `truth` | what a source has contained at which time, and the rules for the responses of the service |
//! | `requests` | the requests, and what they have shown |
//! | `schedule` | the order of the events, from a seed |
//! | `cluster`, `server`, `folder`, `surroundings` | the events of OpenBao, Infisical, the files and the process |
//! | `process` | the process of the service: its log, memory, sockets and clock |
//!
//! `cargo xtask soak --minutes 30 --seed 42` runs a schedule again. A failure prints its events.

// The table of the run is part of the log of CI.
#![allow(clippy::print_stdout)]

use std::fmt::Write as _;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use crate::support::{replace, secs};

mod cluster;
mod folder;
mod observed;
mod requests;
mod schedule;
mod server;
mod surroundings;
mod truth;

use cluster::Cluster;
use folder::Folder;
use observed::{Marks, Process};
use requests::Requests;
use schedule::Schedule;
use server::Server;
use truth::{ACTIVATION_DELAY, GRACE_PERIOD, MAX_STALE, TTL, Truth};

/// The variables of `cargo xtask soak`.
const SECONDS: &str = "SECRETWELL_SOAK_SECONDS";
const SEED: &str = "SECRETWELL_SOAK_SEED";
/// From this length on, each kind of event must occur.
const COMPLETE: Duration = secs(900);
/// The longest time until a service has recovered after a disturbance.
const RECOVERY: Duration = secs(120);

/// What all parts of a run share.
struct Soak {
    seed: u64,
    start: Instant,
    end: Instant,
    log: Mutex<Vec<String>>,
    violations: Mutex<Vec<String>>,
    /// The values of the secrets contain it.
    marks: Marks,
}

/// A source of the service.
struct Source {
    name: &'static str,
    soak: Arc<Soak>,
    truth: Mutex<Truth>,
    recoveries: Mutex<Vec<Duration>>,
}

impl Soak {
    /// Returns whether the run has a violation.
    fn has_failed(&self) -> bool {
        !lock(&self.violations).is_empty()
    }

    fn is_over(&self) -> bool {
        Instant::now() >= self.end || self.has_failed()
    }

    /// Adds an event to the log of the run.
    fn log(&self, who: &str, what: impl std::fmt::Display) {
        let time = self.start.elapsed().as_secs_f64();
        lock(&self.log).push(format!("{time:9.3} {who:13} {what}"));
    }

    /// Reports a violation, which ends the run.
    fn violation(&self, who: &str, what: impl std::fmt::Display) {
        self.log(who, format_args!("VIOLATION: {what}"));
        lock(&self.violations).push(format!("{who}: {what}"));
    }

    /// Panics with the events and violations of the run, if it has violations.
    fn assert_clean(&self, seconds: u64) {
        let violations = lock(&self.violations);
        if violations.is_empty() {
            return;
        }
        panic!(
            "{}\nrun it again: {SECONDS}={seconds} {SEED}={}, or cargo xtask soak --seed {} \
             --minutes {}; the log of the service is {}",
            violations.join("\n"),
            self.seed,
            self.seed,
            seconds.div_ceil(60),
            observed::log_path(self.seed).display(),
        );
    }
}

/// Prints the events of a run that fails.
struct PrintEvents(Arc<Soak>);

impl Drop for PrintEvents {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("{}", lock(&self.0.log).join("\n"));
        }
    }
}

impl Source {
    fn new(soak: &Arc<Soak>, name: &'static str) -> Arc<Self> {
        let source = Self {
            name,
            soak: soak.clone(),
            truth: Mutex::default(),
            recoveries: Mutex::default(),
        };
        Arc::new(source)
    }

    fn truth(&self) -> MutexGuard<'_, Truth> {
        lock(&self.truth)
    }

    fn log(&self, what: impl std::fmt::Display) {
        self.soak.log(self.name, what);
    }

    /// Writes a value with `write`.
    fn write(&self, text: &str, is_strong: bool, write: impl FnOnce(&str)) {
        self.truth().begin(Some(text), is_strong);
        write(text);
        self.truth().complete();
    }

    /// Removes the secret with `remove`.
    fn remove(&self, remove: impl FnOnce()) {
        self.truth().begin(None, false);
        remove();
        self.truth().complete();
    }

    /// Revokes all secrets but the newest one.
    async fn revoke(&self, process: &Process) {
        self.truth().begin_revocation();
        match process.revoke(self.name).await {
            Ok(()) => self.truth().complete_revocation(),
            Err(error) => self.soak.violation(self.name, error),
        }
    }

    /// Waits until the service uses what the source contains.
    async fn recovered(&self) {
        let start = Instant::now();
        while !self.truth().is_up_to_date(start) {
            if start.elapsed() > RECOVERY {
                return self
                    .soak
                    .violation(self.name, format_args!("no recovery within {RECOVERY:?}"));
            }
            if self.soak.has_failed() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let took = start.elapsed();
        self.log(format_args!("up to date after {took:.1?}"));
        lock(&self.recoveries).push(took);
    }

    /// Runs `fault`, which makes the source unavailable, until the service has recovered.
    async fn disturbed(&self, fault: impl Future) {
        let disturbance = self.truth().disturb();
        fault.await;
        self.recovered().await;
        self.truth().end(disturbance);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn variable(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn service_keeps_its_promises_while_everything_around_it_fails() {
    let (seconds, seed) = (variable(SECONDS, 60), variable(SEED, 1));
    let marks = Marks::new();
    let mut cluster = Cluster::start(&marks).await;
    let (newest, older) = Server::start_both(&marks).await;
    let folder = Folder::new();
    let fallback = tempfile::tempdir().unwrap();
    replace(
        &fallback.path().join("AUTH_SECRET"),
        marks.secret("a weaker source").as_bytes(),
    );

    let start = Instant::now();
    let soak = Arc::new(Soak {
        seed,
        start,
        end: start + secs(seconds),
        log: Mutex::default(),
        violations: Mutex::default(),
        marks,
    });
    let _guard = PrintEvents(soak.clone());
    let names = ["openbao", "infisical", "infisical-2024", "file"];
    let sources = names.map(|name| Source::new(&soak, name));
    cluster.write_first(&sources[0]).await;
    newest.write_first(&sources[1]);
    older.write_first(&sources[2]);
    folder.write_first(&sources[3]);

    let config = json!({
        "ttl": TTL,
        "max_stale": MAX_STALE,
        "activation_delay": ACTIVATION_DELAY,
        "grace_period": GRACE_PERIOD,
        "openbao": cluster.config(),
        "infisical": {
            "infisical": newest.config(true),
            "infisical-2024": older.config(false),
        },
        "file": folder.path(),
        "fallback": fallback.path(),
        "postgres": cluster.postgres.socket,
    });
    let process = Arc::new(Process::start(&soak, &config));
    let requests = Requests::start(&soak, &process, &sources);
    for source in &sources {
        source.recovered().await;
    }
    soak.log("run", "the service is ready");
    let memory = process.memory();
    let budgets = [cluster.traffic(), newest.traffic(), older.traffic()];
    let watch = observed::watch(soak.clone(), process.clone(), budgets);

    let schedule = |number| Schedule::new(seed, number);
    let postgres = cluster.postgres_id();
    let [first, second, third, fourth] = &sources;
    let lanes = tokio::join!(
        cluster.run(first, &process, schedule(0)),
        newest.run(second, &process, schedule(1), true),
        older.run(third, &process, schedule(2), false),
        folder.run(fourth, &process, schedule(3)),
        surroundings::run(&sources, &process, &postgres, schedule(4)),
    );
    let kinds = [lanes.0, lanes.1, lanes.2, lanes.3, lanes.4].concat();
    let report = watch.end().await;
    let counts = requests.end().await;
    soak.assert_clean(seconds);
    let table = table(&sources, &counts, &report, memory, &kinds);
    println!("seed {seed}, {seconds} s\n{table}");
    assert_everything_happened(&soak, &sources, &counts, &kinds);
    soak.assert_clean(seconds);
}

/// The number of events of each kind, by the name of what it happened to.
type Kinds = Vec<(&'static str, String, usize)>;

/// A run in which nothing happens proves nothing.
fn assert_everything_happened(
    soak: &Soak,
    sources: &[Arc<Source>],
    counts: &requests::Counts,
    kinds: &Kinds,
) {
    let length = soak.end - soak.start;
    let seconds = usize::try_from(length.as_secs()).unwrap();
    let is_complete = length >= COMPLETE;
    for source in sources {
        let truth = source.truth();
        let name = source.name;
        for (what, count) in [
            ("values", truth.values),
            ("signed", truth.signed),
            ("verified", truth.verified),
        ] {
            if count < seconds {
                soak.violation(name, format_args!("only {count} {what}"));
            }
        }
        if is_complete && truth.rejected == 0 {
            soak.violation(name, "no token was old or revoked");
        }
        if lock(&source.recoveries).is_empty() {
            soak.violation(name, "no recovery");
        }
    }
    let refused: usize = sources
        .iter()
        .map(|source| source.truth().unavailable)
        .sum();
    if is_complete && refused == 0 {
        soak.violation("run", "no outage was longer than max_stale");
    }
    if counts.queries < seconds || (is_complete && counts.users < 5) {
        let (queries, users) = (counts.queries, counts.users);
        soak.violation(
            "database",
            format_args!("{queries} queries of {users} users"),
        );
    }
    for (who, kind, count) in kinds {
        if is_complete && *count == 0 {
            soak.violation(who, format_args!("{kind} did not happen"));
        }
    }
    if kinds.iter().map(|(_, _, count)| count).sum::<usize>() < 8 {
        soak.violation("run", "too few events");
    }
}

/// Returns the table of the run, as in `docs/reliability.md`.
fn table(
    sources: &[Arc<Source>],
    counts: &requests::Counts,
    report: &observed::Report,
    memory: usize,
    kinds: &Kinds,
) -> String {
    let mut table = "| source | requests | refused | rotations | events | longest use of a replaced value | longest recovery | logins | reads, most in 10 s |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n"
        .to_owned();
    for source in sources {
        let truth = source.truth();
        let requests = truth.values + truth.absent + truth.unavailable;
        let requests = requests + truth.signed + truth.verified + truth.rejected;
        let events = kinds.iter().filter(|(who, ..)| *who == source.name);
        let recovery = lock(&source.recoveries).iter().max().copied();
        let traffic = report.traffic.iter().find(|one| one.name == source.name);
        let traffic = traffic.map_or_else(
            || "| | |".to_owned(),
            |one| format!("| {} | {}, {} |", one.logins, one.reads, one.most_reads),
        );
        let _ = writeln!(
            table,
            "| {} | {requests} | {} | {} | {} | {:.1} s | {:.1} s {traffic}",
            source.name,
            truth.unavailable,
            truth.rotations(),
            events.map(|(_, _, count)| count).sum::<usize>(),
            truth.longest_staleness.as_secs_f64(),
            recovery.unwrap_or_default().as_secs_f64(),
        );
    }
    let _ = writeln!(
        table,
        "\n{} queries with the credentials of {} users, {} refused. Longest response {:.1} s. Memory {} MiB at the start, \
         {} MiB at the end, {} MiB at most. At most {} file descriptors, {} of them sockets, {} threads and {} tasks. \
         {} MiB of log and debug output without a secret.",
        counts.queries,
        counts.users,
        counts.refused_queries,
        counts.longest.as_secs_f64(),
        memory >> 20,
        report.memory >> 20,
        report.most_memory >> 20,
        report.descriptors,
        report.sockets,
        report.threads,
        report.tasks,
        report.searched >> 20,
    );
    for one in kinds.chunk_by(|(one, ..), (other, ..)| one == other) {
        let counts = one.iter().map(|(_, kind, count)| format!("{count} {kind}"));
        let counts: Vec<_> = counts.collect();
        let _ = writeln!(table, "{}: {}", one[0].0, counts.join(", "));
    }
    table
}

/// Writes a file that is complete at once.
fn write(path: &Path, text: &str) {
    replace(path, text.as_bytes());
}
