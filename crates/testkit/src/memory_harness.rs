//! The suite against itself: a provider that keeps the contract passes every item, and each of
//! several broken ones fails the item that is meant to find it.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use secretwell_core::backend::{Capabilities, ChangeStream};
use secretwell_core::{
    Error, ErrorKind, KeyPrefix, MemoryProvider, Origin, Secret, SecretKey, SecretProvider,
    SecretProviderExt, Version,
};

use crate::conformance::{self, Outcome, caught};
use crate::{Calls, FaultyProvider, GARBAGE, Harness, Step, Supports, conformance_tests};

const LIMIT: usize = 100 * 1024;
const DEADLINE: Duration = Duration::from_millis(100);

conformance_tests!(memory, Memory::new(None));

/// What a broken provider does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flaw {
    TrimsValues,
    FailureIsNotFound,
    WrongOrder,
    OneTooFew,
    LeaksInDebug,
    LeaksInLog,
    LeaksInError,
    ShowsBody,
    ClaimsList,
    ClaimsWatch,
    ReadsForHealth,
    KeepsOldValue,
    DecodesNames,
    EmptyIsAbsent,
    LogsInForEach,
    SameVersion,
    LeavesTask,
    AsksAgain,
    LooksAway,
}

/// A memory with a limit, a login that may end and keys that may be denied.
struct Gate {
    memory: MemoryProvider,
    stage: Arc<Stage>,
    flaw: Option<Flaw>,
    logged_in: tokio::sync::Mutex<usize>,
    seen: Mutex<Option<Secret>>,
}

#[derive(Default)]
struct Stage {
    denied: Mutex<BTreeSet<SecretKey>>,
    /// Counts up whenever a token ends.
    token: AtomicUsize,
    logins: AtomicUsize,
}

impl Gate {
    fn has(&self, flaw: Flaw) -> bool {
        self.flaw == Some(flaw)
    }

    async fn log_in(&self) {
        let token = self.stage.token.load(Ordering::SeqCst);
        let known = *self.logged_in.lock().await;
        if known == token && !self.has(Flaw::LogsInForEach) {
            return;
        }
        let mut held = self.logged_in.lock().await;
        if *held != token || self.has(Flaw::LogsInForEach) {
            tokio::task::yield_now().await;
            self.stage.logins.fetch_add(1, Ordering::SeqCst);
            *held = token;
        }
    }

    fn fail(&self, kind: ErrorKind, message: &'static str, key: &SecretKey) -> Error {
        Error::new(kind, message)
            .with_origin(self.origin())
            .with_key(key)
    }

    async fn read(&self, key: &SecretKey) -> Result<Secret, Error> {
        self.log_in().await;
        if self.stage.denied.lock().unwrap().contains(key) {
            return Err(self.fail(ErrorKind::Denied, "it may not be read", key));
        }
        let mut asked = key.clone();
        if self.has(Flaw::DecodesNames) {
            asked = SecretKey::parse(key.as_str().replace("%2F", "/"))?;
        }
        let mut secret = self
            .memory
            .get(&asked)
            .await
            .map_err(|error| error.with_key(key))?;
        if secret.value.len() > LIMIT {
            return Err(self.fail(ErrorKind::TooLarge, "it is beyond the limit", key));
        }
        self.spoil(&mut secret, key)?;
        Ok(secret)
    }

    fn spoil(&self, secret: &mut Secret, key: &SecretKey) -> Result<(), Error> {
        let shown = String::from_utf8_lossy(secret.value.expose_bytes()).into_owned();
        match self.flaw {
            Some(Flaw::TrimsValues) => secret.value = shown.trim().into(),
            Some(Flaw::LeaksInLog) => tracing::trace!(value = shown, "read"),
            Some(Flaw::LeaksInError) if key.as_str() == "A" => {
                let cause = std::io::Error::other(shown);
                let error = self.fail(ErrorKind::Malformed, "odd", key);
                return Err(error.with_source(cause));
            }
            Some(Flaw::SameVersion) => secret.version = Some(Version::numbered(1)),
            Some(Flaw::EmptyIsAbsent) if shown.is_empty() => {
                return Err(self.fail(ErrorKind::NotFound, "it is empty", key));
            }
            Some(Flaw::KeepsOldValue) => {
                let mut seen = self.seen.lock().unwrap();
                *secret = seen.get_or_insert_with(|| secret.clone()).clone();
            }
            Some(Flaw::LeaksInDebug) => *self.seen.lock().unwrap() = Some(secret.clone()),
            _ => {}
        }
        Ok(())
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.seen.lock().unwrap() {
            Some(seen) => write!(f, "Gate({:?})", seen.value.expose_bytes()),
            None => f.write_str("Gate"),
        }
    }
}

#[async_trait]
impl SecretProvider for Gate {
    fn origin(&self) -> &Origin {
        self.memory.origin()
    }

    fn capabilities(&self) -> Capabilities {
        self.memory.capabilities()
    }

    async fn get(&self, key: &SecretKey) -> Result<Secret, Error> {
        self.read(key).await
    }

    async fn get_many(&self, keys: &[SecretKey]) -> Vec<Result<Secret, Error>> {
        let mut answers = Vec::new();
        for key in keys {
            answers.push(self.read(key).await);
        }
        match self.flaw {
            Some(Flaw::WrongOrder) => answers.reverse(),
            Some(Flaw::OneTooFew) => drop(answers.pop()),
            _ => {}
        }
        answers
    }

    async fn get_version(&self, key: &SecretKey, version: &Version) -> Result<Secret, Error> {
        self.memory.get_version(key, version).await
    }

    async fn list(&self, prefix: &KeyPrefix) -> Result<Vec<SecretKey>, Error> {
        if self.has(Flaw::ClaimsList) {
            return Err(Error::new(ErrorKind::Unsupported, "no").with_origin(self.origin()));
        }
        self.memory.list(prefix).await
    }

    fn watch(&self) -> Option<ChangeStream> {
        if self.has(Flaw::LeavesTask) {
            tokio::spawn(std::future::pending::<()>());
        }
        (!self.has(Flaw::ClaimsWatch)).then(|| self.memory.watch())?
    }
}

/// Stands outermost, where failures pass by.
#[derive(Debug)]
struct Outer<P> {
    inner: P,
    flaw: Option<Flaw>,
}

impl<P> Outer<P> {
    fn change(&self, error: Error) -> Error {
        match self.flaw {
            Some(Flaw::FailureIsNotFound) => {
                let changed = Error::new(ErrorKind::NotFound, "nothing there");
                match (error.origin(), error.key()) {
                    (Some(origin), Some(key)) => changed.with_origin(origin).with_key(key),
                    _ => changed,
                }
            }
            Some(Flaw::ShowsBody) if error.kind() == ErrorKind::Malformed => {
                error.with_source(format!("unexpected `{GARBAGE}`"))
            }
            _ => error,
        }
    }
}

#[async_trait]
impl<P: SecretProvider> SecretProvider for Outer<P> {
    fn origin(&self) -> &Origin {
        self.inner.origin()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn get(&self, key: &SecretKey) -> Result<Secret, Error> {
        let mut answer = self.inner.get(key).await;
        for _ in 0..2 {
            if self.flaw == Some(Flaw::AsksAgain) && answer.is_err() {
                answer = self.inner.get(key).await;
            }
        }
        answer.map_err(|error| self.change(error))
    }

    async fn get_many(&self, keys: &[SecretKey]) -> Vec<Result<Secret, Error>> {
        self.inner.get_many(keys).await
    }

    async fn get_version(&self, key: &SecretKey, version: &Version) -> Result<Secret, Error> {
        self.inner.get_version(key, version).await
    }

    async fn list(&self, prefix: &KeyPrefix) -> Result<Vec<SecretKey>, Error> {
        self.inner.list(prefix).await
    }

    fn watch(&self) -> Option<ChangeStream> {
        self.inner.watch()
    }

    async fn health(&self) -> Result<(), Error> {
        if self.flaw == Some(Flaw::ReadsForHealth) {
            self.inner.get(&"A".parse()?).await?;
        }
        if self.flaw == Some(Flaw::LooksAway) {
            return Ok(());
        }
        self.inner.health().await
    }
}

/// The harness of all of them.
struct Memory {
    memory: MemoryProvider,
    stage: Arc<Stage>,
    faulty: FaultyProvider<Gate>,
    provider: Arc<dyn SecretProvider>,
    flaw: Option<Flaw>,
}

impl Memory {
    fn new(flaw: Option<Flaw>) -> Self {
        let (memory, stage) = (MemoryProvider::new(), Arc::<Stage>::default());
        let faulty = gate(&memory, &stage, flaw);
        Self {
            provider: handle(faulty.clone(), flaw),
            memory,
            stage,
            faulty,
            flaw,
        }
    }

    fn fail(&self, kind: ErrorKind) {
        self.faulty
            .always(Step::Fail(Error::new(kind, "as the test wants it")));
    }
}

fn gate(memory: &MemoryProvider, stage: &Arc<Stage>, flaw: Option<Flaw>) -> FaultyProvider<Gate> {
    stage.token.fetch_max(1, Ordering::SeqCst);
    FaultyProvider::new(Gate {
        memory: memory.clone(),
        stage: stage.clone(),
        flaw,
        logged_in: tokio::sync::Mutex::new(0),
        seen: Mutex::new(None),
    })
}

fn handle(faulty: FaultyProvider<Gate>, flaw: Option<Flaw>) -> Arc<dyn SecretProvider> {
    let inner = faulty.with_deadline(DEADLINE);
    Arc::new(Outer { inner, flaw })
}

#[async_trait]
impl Harness for Memory {
    fn provider(&self) -> Arc<dyn SecretProvider> {
        self.provider.clone()
    }

    async fn seed(&self, key: &SecretKey, value: &[u8]) {
        self.memory.set(key, value).unwrap();
    }

    async fn delete(&self, key: &SecretKey) {
        self.memory.remove(key).unwrap();
    }

    fn another(&self) -> Option<Arc<dyn SecretProvider>> {
        let faulty = gate(&self.memory, &self.stage, self.flaw);
        Some(handle(faulty, self.flaw))
    }

    fn supports(&self) -> Supports {
        Supports {
            network: true,
            deny: true,
            login: true,
            expire: true,
            throttle: true,
            garble: true,
            whole_health: true,
            stall: true,
            binary_values: true,
            empty_values: true,
            json_values: true,
            calls: true,
            float_numbers: false,
            trims_values: false,
            case_insensitive: false,
            flat_names: false,
            quiet_runtime: true,
        }
    }

    /// Good enough for JSON without white space inside of its strings.
    async fn seed_json(&self, key: &SecretKey, json: &str) {
        let compact: String = json.split_whitespace().collect();
        self.seed(key, compact.trim_matches('"').as_bytes()).await;
    }

    async fn break_network(&self) {
        self.fail(ErrorKind::Unavailable);
    }

    async fn heal(&self) {
        self.faulty.heal();
    }

    async fn deny(&self, key: &SecretKey) {
        self.stage.denied.lock().unwrap().insert(key.clone());
    }

    async fn revoke_login(&self) {
        self.fail(ErrorKind::Unauthenticated);
    }

    async fn fix_login(&self) {
        self.faulty.heal();
    }

    async fn expire_token(&self) {
        self.stage.token.fetch_add(1, Ordering::SeqCst);
    }

    async fn throttle(&self, wait: Duration) {
        let retry_after = Some(wait);
        self.fail(ErrorKind::RateLimited { retry_after });
    }

    async fn garble(&self) {
        self.fail(ErrorKind::Malformed);
    }

    async fn stall(&self) {
        self.faulty.always(Step::Hang);
    }

    fn calls(&self) -> Calls {
        Calls {
            reads: self.faulty.calls(),
            logins: self.stage.logins.load(Ordering::SeqCst),
        }
    }

    fn tokens(&self) -> Vec<String> {
        vec!["memory-token-of-the-harness".to_owned()]
    }

    fn max_value(&self) -> Option<usize> {
        Some(LIMIT)
    }
}

#[tokio::test]
async fn a_good_provider_passes_every_item() {
    let report = conformance::run_all(async || Memory::new(None)).await;
    report.assert_passed();
    assert_eq!(report.entries().len(), conformance::ALL.len());
    for (name, outcome) in report.entries() {
        assert_eq!(outcome, &Ok(Outcome::Passed), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn each_flaw_is_found_by_its_item() {
    for (flaw, item, message) in [
        (
            Flaw::TrimsValues,
            "get_existing",
            "with a newline at its end",
        ),
        (
            Flaw::FailureIsNotFound,
            "missing_is_not_failed",
            "must be `unavailable`, and is `not found`",
        ),
        (Flaw::FailureIsNotFound, "denied", "must be `denied`"),
        (
            Flaw::FailureIsNotFound,
            "bad_login",
            "must be `not authenticated`",
        ),
        (Flaw::FailureIsNotFound, "throttled", "must be rate limited"),
        (
            Flaw::FailureIsNotFound,
            "malformed_answer",
            "must be `malformed`",
        ),
        (Flaw::FailureIsNotFound, "deadline", "must be `timed out`"),
        (Flaw::WrongOrder, "get_many", "must be"),
        (
            Flaw::OneTooFew,
            "get_many",
            "5 keys must have as many results, and have 4",
        ),
        (
            Flaw::LeaksInDebug,
            "redaction",
            "debug output leaks the canary",
        ),
        (
            Flaw::LeaksInLog,
            "redaction",
            "the log leaks the canary `value`: raw",
        ),
        (Flaw::LeaksInError, "redaction", "leaks the canary `value`"),
        (
            Flaw::ShowsBody,
            "malformed_answer",
            "leaks the canary `the body of the answer`",
        ),
        (
            Flaw::ClaimsList,
            "capabilities_are_true",
            "a list is claimed, and fails",
        ),
        (
            Flaw::ClaimsWatch,
            "capabilities_are_true",
            "`watch` must be claimed exactly",
        ),
        (
            Flaw::AsksAgain,
            "get_missing",
            "must not be asked for 3 times",
        ),
        (
            Flaw::LooksAway,
            "health",
            "the health of a source that makes no sense",
        ),
        (
            Flaw::ReadsForHealth,
            "health",
            "a health check must be no read, and is 1",
        ),
        (
            Flaw::KeepsOldValue,
            "update_seen",
            "must be the 5 bytes `other`",
        ),
        (Flaw::KeepsOldValue, "concurrent_use", "must be"),
        (
            Flaw::DecodesNames,
            "odd_names",
            "read as if it were another key",
        ),
        (
            Flaw::EmptyIsAbsent,
            "empty_value",
            "must be read, and fails",
        ),
        (
            Flaw::LogsInForEach,
            "expired_login",
            "must cost one login, not 100",
        ),
        (
            Flaw::SameVersion,
            "update_seen",
            "each update must have a version of its own",
        ),
        (
            Flaw::LeavesTask,
            "drop_leaves_nothing",
            "must end their tasks",
        ),
    ] {
        let item = conformance::ALL.iter().find(|other| other.name == item);
        let harness = Memory::new(Some(flaw));
        let outcome = caught((item.unwrap().run)(&harness)).await;
        let found = outcome.expect_err(&format!("{flaw:?} must be found"));
        assert!(found.contains(message), "{flaw:?} is found as: {found}");
    }
}

#[tokio::test]
async fn a_report_is_a_table() {
    let report = conformance::run_all(async || Memory::new(Some(Flaw::EmptyIsAbsent))).await;
    let text = report.to_string();
    assert!(!report.is_passed());
    assert!(text.contains("get_existing            passed\n"), "{text}");
    assert!(
        text.contains("empty_value             BROKEN: `A` must be"),
        "{text}"
    );
}
