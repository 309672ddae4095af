//! The requests to the service. Each response is checked against the [`Truth`](super::truth::Truth) of its source.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::observed::Process;
use super::truth::Token;
use super::{Soak, Source, lock};
use crate::support::secs;

/// The number of requests at a time, for each source.
const CALLERS: usize = 2;
const PAUSE: Duration = Duration::from_millis(25);
/// A request that takes longer is refused. It includes a pause of the process.
const PATIENCE: Duration = secs(20);
/// The time in which the pool has newer credentials, after the leases have ended.
const RELOGIN: Duration = secs(6);
/// The message of PostgreSQL if a role was dropped after its connection was checked, and before the query.
const ROLE_DROPPED: &str = "invalid role OID";
/// After one rejected login, the credentials are not read again for 1 s, and for up to 4 s after several ones.
const REJECTIONS: Duration = secs(4);

/// What the requests have shown that no source knows.
#[derive(Debug, Default, Clone)]
pub(super) struct Counts {
    pub(super) queries: usize,
    pub(super) refused_queries: usize,
    pub(super) users: usize,
    pub(super) longest: Duration,
}

/// The tasks that send requests.
pub(super) struct Requests {
    tasks: JoinSet<()>,
    shared: Arc<Shared>,
}

struct Shared {
    soak: Arc<Soak>,
    process: Arc<Process>,
    is_over: AtomicBool,
    counts: Mutex<Counts>,
    users: Mutex<BTreeSet<String>>,
    /// The time of the first query with the newest user.
    newest_user: Mutex<Instant>,
    numbers: AtomicU64,
}

impl Requests {
    pub(super) fn start(soak: &Arc<Soak>, process: &Arc<Process>, sources: &[Arc<Source>]) -> Self {
        let shared = Arc::new(Shared {
            soak: soak.clone(),
            process: process.clone(),
            is_over: AtomicBool::new(false),
            counts: Mutex::default(),
            users: Mutex::default(),
            newest_user: Mutex::new(soak.start),
            numbers: AtomicU64::new(0),
        });
        let mut tasks = JoinSet::new();
        for source in sources {
            for _ in 0..CALLERS {
                tasks.spawn(shared.clone().request(source.clone()));
            }
        }
        for _ in 0..CALLERS {
            tasks.spawn(shared.clone().query(sources[0].clone()));
        }
        Self { tasks, shared }
    }

    /// Ends all tasks. A task that has ended before is a violation.
    pub(super) async fn end(mut self) -> Counts {
        if !self.shared.soak.has_failed() && self.tasks.try_join_next().is_some() {
            self.shared.soak.violation("requests", "a task has ended");
        }
        self.shared.is_over.store(true, Ordering::Relaxed);
        while let Some(result) = self.tasks.join_next().await {
            if let Err(error) = result {
                self.shared.soak.violation("requests", error);
            }
        }
        let mut counts = lock(&self.shared.counts).clone();
        counts.users = lock(&self.shared.users).len();
        counts
    }
}

impl Shared {
    async fn request(self: Arc<Self>, source: Arc<Source>) {
        let mut number = 0;
        while !self.is_over() {
            number += 1;
            let checked = match number % 3 {
                0 => self.value(&source).await,
                1 => self.sign(&source).await,
                _ => self.verify(&source).await,
            };
            if let Err(violation) = checked {
                self.soak.violation(source.name, violation);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn value(&self, source: &Source) -> Result<(), String> {
        let (newest, _) = source.truth().newest();
        let message = self.message();
        let path = format!("value/{}?message={message}", source.name);
        let (span, status, body) = self.get(&path).await?;
        let mut truth = source.truth();
        let checked = match status {
            200 => {
                let body: Value = serde_json::from_str(&body).map_err(|error| error.to_string())?;
                let mac = body["mac"].as_str().ok_or("no MAC")?;
                truth.check_value(span, newest, Some((&message, mac)), body["stale"].is_null())
            }
            404 => truth.check_value(span, newest, None, true),
            503 => truth.check_unavailable(span),
            _ => Err(format!("status {status}")),
        };
        checked.map_err(|violation| format!("{violation} ({body})"))
    }

    async fn sign(&self, source: &Source) -> Result<(), String> {
        let (_, newest) = source.truth().newest();
        let message = self.message();
        let path = format!("sign/{}?message={message}", source.name);
        let (span, status, body) = self.get(&path).await?;
        match status {
            200 => {
                let mut truth = source.truth();
                truth.check_signer(span, newest, &message, &body)
            }
            _ => Err(format!("refused to sign: {status} {body}")),
        }
    }

    async fn verify(&self, source: &Source) -> Result<(), String> {
        let Some(token) = source.truth().token(fastrand::usize(..)) else {
            return Ok(());
        };
        let Token { message, mac, .. } = &token;
        let path = format!("verify/{}?message={message}&mac={mac}", source.name);
        let (span, status, body) = self.get(&path).await?;
        match status {
            200 | 401 => {
                let mut truth = source.truth();
                truth.check_verification(span, &token, status == 200)
            }
            _ => Err(format!("refused to verify: {status} {body}")),
        }
    }

    /// Queries the database with the credentials of `source`.
    async fn query(self: Arc<Self>, source: Arc<Source>) {
        while !self.is_over() {
            match self.get("database").await {
                Ok(((start, _), 200, user)) => {
                    source.truth().queried(start);
                    lock(&self.counts).queries += 1;
                    if lock(&self.users).insert(user) {
                        *lock(&self.newest_user) = start;
                    }
                }
                Ok(((start, end), status, body)) => {
                    lock(&self.counts).refused_queries += 1;
                    let since = source.truth().disturbed_since((start, end));
                    let is_outage = since.is_some_and(|since| end >= since + RELOGIN);
                    let is_dropped = since.is_some() && body.contains(ROLE_DROPPED);
                    let is_new = end <= *lock(&self.newest_user) + REJECTIONS;
                    if !(is_outage || is_dropped || is_new) {
                        let text = format!("refused: {status} {body}");
                        self.soak.violation("database", text);
                    }
                }
                Err(violation) => self.soak.violation("database", violation),
            }
            tokio::time::sleep(4 * PAUSE).await;
        }
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed) || self.soak.has_failed()
    }

    fn message(&self) -> String {
        format!("m{}", self.numbers.fetch_add(1, Ordering::Relaxed))
    }

    async fn get(&self, path: &str) -> Result<((Instant, Instant), u16, String), String> {
        let start = Instant::now();
        let response = self.process.get(path).await;
        let end = Instant::now();
        let (status, body) = response.map_err(|error| format!("no response: {error}"))?;
        let took = end - start;
        if took > PATIENCE {
            return Err(format!("{path} took {took:?}"));
        }
        if let Some(leak) = self.soak.marks.find(&body) {
            return Err(format!("a response has a secret: {leak}"));
        }
        let mut counts = lock(&self.counts);
        counts.longest = counts.longest.max(took);
        Ok(((start, end), status, body))
    }
}
