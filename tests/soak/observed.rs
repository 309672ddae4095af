//! The process of the service: its requests, its log, its memory and its clock.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use reqwest::Client;
use secretwell_testkit::Canary;
use serde_json::Value;
use tempfile::NamedTempFile;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::{Soak, lock};
use crate::support::{secs, tool};

/// The size of the parts of the log that are searched for secrets.
const PART: usize = 1 << 20;
/// The time between two looks at the process, and the number of them in the interval of the budgets.
const INTERVAL: Duration = secs(2);
const IN_TEN_SECONDS: usize = 5;

/// The limits of the process. Memory counts from the start of the schedule.
const MAX_GROWTH: usize = 48 << 20;
const MAX_DESCRIPTORS: usize = 160;
const MAX_THREADS: usize = 48;
const MAX_TASKS: usize = 300;
/// The limits of the requests in 10 s: reads of a source, and logins of a source with one server. A source with more
/// servers may have as many logins for each of them. Without a fault, there are at most 7 reads and one login. During
/// one, a call is repeated after a second, and has up to three attempts, at one server after the other. While a cluster
/// elects a leader, each server can redirect a login to another one.
const MAX_READS: usize = 90;
const MAX_LOGINS: usize = 20;

/// The part that the secrets of a run have in common, and how other secrets can be recognized.
#[derive(Debug)]
pub(super) struct Marks {
    mark: Canary,
    /// Secrets that the servers have created.
    others: Mutex<Vec<Canary>>,
}

impl Marks {
    pub(super) fn new() -> Self {
        let text: String = (0..24).map(|_| fastrand::alphanumeric()).collect();
        Self {
            mark: Canary::from_text(text),
            others: Mutex::default(),
        }
    }

    /// Returns a new signing secret.
    pub(super) fn strong(&self) -> String {
        let random: String = (0..24).map(|_| fastrand::alphanumeric()).collect();
        self.secret(&format!("\"+/={random}"))
    }

    /// Returns a secret that starts and ends with the mark.
    pub(super) fn secret(&self, text: &str) -> String {
        let mark = self.mark.text();
        format!("{mark}{text}{mark}")
    }

    /// Returns a secret that is too short for signing.
    pub(super) fn weak(&self) -> String {
        let random: String = (0..4).map(|_| fastrand::alphanumeric()).collect();
        format!("{}{random}", self.mark.text())
    }

    /// Adds a secret that was created elsewhere.
    pub(super) fn add(&self, text: &str) {
        lock(&self.others).push(Canary::from_text(text));
    }

    /// Returns the form of a secret that `text` contains.
    pub(super) fn find(&self, text: &str) -> Option<&'static str> {
        let others = lock(&self.others);
        let mut all = others.iter().chain([&self.mark]);
        all.find_map(|canary| canary.found_in(text))
            .or_else(|| has_token(text).then_some("a token"))
            .or_else(|| has_password(text).then_some("a password of the database"))
    }
}

/// Returns whether `text` has a token of OpenBao (`s.` and 24 letters and digits) or of Infisical (a JWT).
fn has_token(text: &str) -> bool {
    let is_openbao = text.match_indices("s.").any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let after = text[at + 2..].bytes().take(24);
        !before.is_some_and(|before| before.is_ascii_alphanumeric())
            && after.filter(u8::is_ascii_alphanumeric).count() == 24
    });
    is_openbao || text.contains("eyJ")
}

/// The letters of all passwords of the database. No word consists of them.
pub(super) const PASSWORD_LETTERS: &str = "qxzQXZ";

fn has_password(text: &str) -> bool {
    let mut parts = text.split(|letter| !PASSWORD_LETTERS.contains(letter));
    parts.any(|part| part.len() >= 16)
}

/// Returns the path of the log of a run.
pub(super) fn log_path(seed: u64) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("soak-{seed}.log"))
}

/// The service. It ends with this process.
pub(super) struct Process {
    child: Mutex<Child>,
    id: u32,
    _stdin: ChildStdin,
    base: String,
    client: Client,
    clock: NamedTempFile,
    /// The number of bytes that were searched for secrets.
    searched: Arc<Mutex<usize>>,
}

impl Process {
    pub(super) fn start(soak: &Arc<Soak>, config: &Value) -> Self {
        let clock = NamedTempFile::new().unwrap();
        let mut child = Command::new(program())
            .env("LD_PRELOAD", tool("faketime/libfaketimeMT.so.1"))
            .env("FAKETIME_TIMESTAMP_FILE", clock.path())
            .env("FAKETIME_NO_CACHE", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .env("FAKETIME_DONT_RESET", "1")
            .env_remove("SECRETWELL_MODE")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let searched = Arc::default();
        search(
            soak.clone(),
            child.stderr.take().unwrap(),
            Arc::clone(&searched),
        );
        writeln!(stdin, "{config}").unwrap();
        let mut address = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        stdout.read_line(&mut address).unwrap();
        let log = log_path(soak.seed);
        assert_ne!(address, "", "the service has ended: {}", log.display());
        let process = Self {
            id: child.id(),
            child: Mutex::new(child),
            _stdin: stdin,
            base: format!("http://{}", address.trim()),
            client: Client::builder().timeout(secs(60)).build().unwrap(),
            clock,
            searched,
        };
        process.set_clock("+0");
        process
    }

    pub(super) async fn get(&self, path: &str) -> Result<(u16, String), reqwest::Error> {
        let response = self.client.get(format!("{}/{path}", self.base)).send();
        let response = response.await?;
        Ok((response.status().as_u16(), response.text().await?))
    }

    /// Revokes the previous secrets of a source.
    pub(super) async fn revoke(&self, source: &str) -> Result<(), String> {
        let url = format!("{}/revoke/{source}", self.base);
        let response = self.client.post(url).send().await;
        let response = response.map_err(|error| error.to_string())?;
        match response.status().as_u16() {
            200 => Ok(()),
            status => Err(format!(
                "{status} {}",
                response.text().await.unwrap_or_default()
            )),
        }
    }

    /// Moves the wall clock of the service by `offset` from the real one, such as `+3600`.
    pub(super) fn set_clock(&self, offset: &str) {
        std::fs::write(self.clock.path(), format!("{offset}\n")).unwrap();
    }

    pub(super) fn signal(&self, name: &str) {
        signal(&self.id.to_string(), name);
    }

    /// Returns the resident memory in bytes.
    pub(super) fn memory(&self) -> usize {
        self.status("VmRSS:") << 10
    }

    /// Returns a number of `/proc/ID/status`.
    fn status(&self, name: &str) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id));
        let status = status.unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let number = line.and_then(|line| line.split_whitespace().next());
        number
            .and_then(|number| number.parse().ok())
            .unwrap_or_default()
    }

    /// Returns the numbers of open file descriptors, and of sockets among them.
    fn descriptors(&self) -> (usize, usize) {
        let Ok(entries) = std::fs::read_dir(format!("/proc/{}/fd", self.id)) else {
            return (0, 0);
        };
        let targets = entries.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
        let targets: Vec<_> = targets.collect();
        let is_socket = |target: &&PathBuf| target.to_string_lossy().starts_with("socket:");
        (targets.len(), targets.iter().filter(is_socket).count())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let mut child = lock(&self.child);
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// Sends a signal to a process. A separate program for it might not be installed.
pub(super) fn signal(id: &str, name: &str) {
    let kill = ["-c", "kill -s \"$0\" \"$1\"", name, id];
    let status = Command::new("sh").args(kill).status();
    assert!(status.unwrap().success(), "kill -s {name} {id}");
}

/// Returns the path of the service, which `cargo xtask test soak` builds.
fn program() -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let program = tests.ancestors().nth(2).unwrap().join("soak-service");
    assert!(
        program.exists(),
        "{} does not exist: run `cargo xtask test soak`",
        program.display()
    );
    program
}

/// Searches the log of the service for secrets, and stores it.
fn search(soak: Arc<Soak>, mut log: impl Read + Send + 'static, searched: Arc<Mutex<usize>>) {
    let mut file = std::fs::File::create(log_path(soak.seed)).unwrap();
    std::thread::spawn(move || {
        let mut part = Vec::new();
        let mut buffer = [0; 64 << 10];
        loop {
            let length = log.read(&mut buffer).unwrap_or_default();
            let _ = file.write_all(&buffer[..length]);
            part.extend_from_slice(&buffer[..length]);
            if length > 0 && part.len() < PART {
                continue;
            }
            if let Some(leak) = soak.marks.find(&String::from_utf8_lossy(&part)) {
                soak.violation("log", format_args!("the log has a secret: {leak}"));
            }
            *lock(&searched) += part.len();
            // A secret might begin in one part and end in the next one.
            part.drain(..part.len().saturating_sub(4 << 10));
            if length == 0 {
                return;
            }
        }
    });
}

/// The requests that a source has received.
pub(super) struct Traffic {
    pub(super) name: &'static str,
    pub(super) servers: usize,
    /// Returns the number of logins, and of reads.
    pub(super) count: Box<dyn Fn() -> (usize, usize) + Send + Sync>,
}

#[derive(Debug)]
pub(super) struct TrafficReport {
    pub(super) name: &'static str,
    servers: usize,
    pub(super) logins: usize,
    pub(super) reads: usize,
    pub(super) most_reads: usize,
    pub(super) most_logins: usize,
}

/// What the process has used at most.
#[derive(Debug, Default)]
pub(super) struct Report {
    pub(super) memory: usize,
    pub(super) most_memory: usize,
    pub(super) descriptors: usize,
    pub(super) sockets: usize,
    pub(super) threads: usize,
    pub(super) tasks: usize,
    pub(super) searched: usize,
    pub(super) traffic: Vec<TrafficReport>,
}

/// The task that watches the process.
pub(super) struct Watch {
    task: JoinHandle<Report>,
    end: watch::Sender<bool>,
}

impl Watch {
    /// Ends the watch. If its task has ended before, that is a failure.
    pub(super) async fn end(self) -> Report {
        self.end.send_replace(true);
        self.task.await.unwrap()
    }
}

/// Compares the process with its limits all the time.
pub(super) fn watch<const N: usize>(
    soak: Arc<Soak>,
    process: Arc<Process>,
    traffic: [Traffic; N],
) -> Watch {
    let (end, mut is_over) = watch::channel(false);
    let task = tokio::spawn(async move {
        let mut report = Report::default();
        let start = process.memory();
        let mut counts: Vec<Vec<(usize, usize)>> = Vec::new();
        loop {
            let ended = tokio::time::timeout(INTERVAL, is_over.changed()).await;
            report.look(&soak, &process, start).await;
            counts.push(traffic.iter().map(|one| (one.count)()).collect());
            report.traffic = traffic
                .iter()
                .enumerate()
                .map(|(index, one)| most(one, counts.iter().map(|counts| counts[index])))
                .collect();
            report.check_traffic(&soak);
            if ended.is_ok() {
                report.searched += *lock(&process.searched);
                return report;
            }
        }
    });
    Watch { task, end }
}

/// Returns the totals, and the most requests in 10 s.
fn most(source: &Traffic, counts: impl Iterator<Item = (usize, usize)>) -> TrafficReport {
    let counts: Vec<_> = counts.collect();
    let mut report = TrafficReport {
        name: source.name,
        servers: source.servers,
        logins: counts.last().map_or(0, |last| last.0),
        reads: counts.last().map_or(0, |last| last.1),
        most_reads: 0,
        most_logins: 0,
    };
    for window in counts.windows(IN_TEN_SECONDS + 1) {
        let (first, last) = (window[0], window[IN_TEN_SECONDS]);
        report.most_logins = report.most_logins.max(last.0 - first.0);
        report.most_reads = report.most_reads.max(last.1 - first.1);
    }
    report
}

impl Report {
    async fn look(&mut self, soak: &Soak, process: &Process, start: usize) {
        let text = match process.get("report").await {
            Ok((200, text)) => text,
            other => return soak.violation("process", format_args!("no report: {other:?}")),
        };
        if let Some(leak) = soak.marks.find(&text) {
            soak.violation("report", format_args!("debug output or metrics: {leak}"));
        }
        for needed in ["secretwell_", "LazyAuth", "infisical-2024"] {
            if !text.contains(needed) {
                soak.violation("report", format_args!("has no {needed}"));
            }
        }
        self.searched += text.len();
        let tasks = text.lines().next().unwrap_or_default().parse();
        let tasks = tasks.unwrap_or(usize::MAX);
        let (descriptors, sockets) = process.descriptors();
        let threads = process.status("Threads:");
        self.memory = process.memory();
        let growth = self.memory.saturating_sub(start);
        for (what, number, limit) in [
            ("bytes more memory", growth, MAX_GROWTH),
            ("file descriptors", descriptors, MAX_DESCRIPTORS),
            ("threads", threads, MAX_THREADS),
            ("tasks", tasks, MAX_TASKS),
        ] {
            if number > limit {
                soak.violation("process", format_args!("{number} {what}"));
            }
        }
        if [self.memory, descriptors, threads, tasks].contains(&0) {
            soak.violation("process", "its numbers cannot be read");
        }
        self.most_memory = self.most_memory.max(self.memory);
        self.descriptors = self.descriptors.max(descriptors);
        self.sockets = self.sockets.max(sockets);
        self.threads = self.threads.max(threads);
        self.tasks = self.tasks.max(tasks);
    }

    fn check_traffic(&self, soak: &Soak) {
        for one in &self.traffic {
            if one.most_reads > MAX_READS || one.most_logins > MAX_LOGINS * one.servers {
                soak.violation("traffic", format_args!("{one:?}"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_secret_is_found() {
        let marks = Marks::new();
        marks.add("an-id-of-a-server");
        for secret in [marks.strong(), marks.weak(), marks.secret("text")] {
            assert!(marks.find(&format!("before {secret} after")).is_some());
            assert!(marks.find(&format!("{:?}", secret.as_bytes())).is_some());
        }
        let token = "token s.AbCdEfGhIjKlMnOpQrStUvWx";
        for secret in [
            token,
            "bearer eyJhbGciOi",
            "password=qxzQXZqxzQXZqxzQXZ,",
            "an-id-of-a-server",
        ] {
            assert!(marks.find(secret).is_some(), "{secret}");
        }
        let clean = "DEBUG hyper_util::client: pooling idle connection for http://127.0.0.1:80, items.connections";
        assert_eq!(marks.find(clean), None);
    }
}
