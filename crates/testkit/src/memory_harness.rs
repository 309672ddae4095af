//! Tests of the conformance suite itself. A correct provider passes every item. Each of several broken
//! providers fails the item that must detect its defect.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use secretwell_core::backend::{Capabilities, ChangeStream};
use secretwell_core::{
    Error, ErrorKind, KeyPrefix, MemoryProvider, Origin, Secret, SecretKey, SecretProvider,
    SecretProviderExt, SecretValue, Version,
};

use crate::conformance::{self, Outcome, caught};
use crate::{
    Action, CORRUPT_MARKER, Calls, FaultyProvider, ForeignResponse, Harness, Supports,
    conformance_tests,
};

const LIMIT: usize = 100 * 1024;
const DEADLINE: Duration = Duration::from_millis(100);

conformance_tests!(memory, Memory::new(None));

/// The defect of a broken provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Defect {
    TrimsValues,
    ReportsFailureAsNotFound,
    WrongOrder,
    OmitsLastResult,
    LeaksInDebug,
    LeaksInLog,
    LeaksInError,
    LeaksResponseBody,
    ClaimsList,
    ClaimsWatch,
    ReadsInHealthCheck,
    ReturnsStaleValue,
    DecodesNames,
    ReportsEmptyAsAbsent,
    LogsInForEachRead,
    RepeatsVersion,
    LeaksTask,
    RetriesNotFound,
    SkipsHealthCheck,
    DeletesDiscardedKey,
    OmitsContentType,
}

/// An in-memory provider with a size limit, a login that can expire and keys that can be denied.
struct GuardedMemory {
    memory: MemoryProvider,
    access: Arc<Access>,
    defect: Option<Defect>,
    login_token: tokio::sync::Mutex<usize>,
    last_read: Mutex<Option<Secret>>,
}

#[derive(Default)]
struct Access {
    denied: Mutex<BTreeSet<SecretKey>>,
    /// The number of the current token. It increases when a token expires.
    token: AtomicUsize,
    logins: AtomicUsize,
}

impl GuardedMemory {
    fn has(&self, defect: Defect) -> bool {
        self.defect == Some(defect)
    }

    async fn log_in(&self) {
        let token = self.access.token.load(Ordering::SeqCst);
        let cached = *self.login_token.lock().await;
        if cached == token && !self.has(Defect::LogsInForEachRead) {
            return;
        }
        let mut cached = self.login_token.lock().await;
        if *cached != token || self.has(Defect::LogsInForEachRead) {
            tokio::task::yield_now().await;
            self.access.logins.fetch_add(1, Ordering::SeqCst);
            *cached = token;
        }
    }

    fn fail(&self, kind: ErrorKind, message: &'static str, key: &SecretKey) -> Error {
        Error::new(kind, message)
            .with_origin(self.origin())
            .with_key(key)
    }

    async fn read(&self, key: &SecretKey) -> Result<Secret, Error> {
        self.log_in().await;
        if self.access.denied.lock().unwrap().contains(key) {
            return Err(self.fail(ErrorKind::Denied, "the login may not read it", key));
        }
        let mut requested = key.clone();
        if self.has(Defect::DecodesNames) {
            requested = SecretKey::parse(key.as_str().replace("%2F", "/"))?;
        }
        let mut secret = self
            .memory
            .get(&requested)
            .await
            .map_err(|error| error.with_key(key))?;
        if secret.value.len() > LIMIT {
            return Err(self.fail(
                ErrorKind::TooLarge,
                "the value is above the size limit",
                key,
            ));
        }
        self.apply_defect(&mut secret, key)?;
        Ok(secret)
    }

    fn apply_defect(&self, secret: &mut Secret, key: &SecretKey) -> Result<(), Error> {
        let text = String::from_utf8_lossy(secret.value.expose_bytes()).into_owned();
        match self.defect {
            Some(Defect::TrimsValues) => secret.value = text.trim().into(),
            Some(Defect::LeaksInLog) => tracing::trace!(value = text, "read"),
            Some(Defect::LeaksInError) if key.as_str() == "A" => {
                let source = std::io::Error::other(text);
                let error = self.fail(ErrorKind::Malformed, "unexpected value", key);
                return Err(error.with_source(source));
            }
            Some(Defect::RepeatsVersion) => secret.version = Some(Version::numbered(1)),
            Some(Defect::ReportsEmptyAsAbsent) if text.is_empty() => {
                return Err(self.fail(ErrorKind::NotFound, "the value is empty", key));
            }
            Some(Defect::ReturnsStaleValue) => {
                let mut last = self.last_read.lock().unwrap();
                *secret = last.get_or_insert_with(|| secret.clone()).clone();
            }
            Some(Defect::LeaksInDebug) => *self.last_read.lock().unwrap() = Some(secret.clone()),
            _ => {}
        }
        Ok(())
    }
}

impl fmt::Debug for GuardedMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.last_read.lock().unwrap() {
            Some(last) => write!(f, "GuardedMemory({:?})", last.value.expose_bytes()),
            None => f.write_str("GuardedMemory"),
        }
    }
}

#[async_trait]
impl SecretProvider for GuardedMemory {
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
        let mut results = Vec::new();
        for key in keys {
            results.push(self.read(key).await);
        }
        match self.defect {
            Some(Defect::WrongOrder) => results.reverse(),
            Some(Defect::OmitsLastResult) => drop(results.pop()),
            _ => {}
        }
        results
    }

    async fn get_version(&self, key: &SecretKey, version: &Version) -> Result<Secret, Error> {
        self.memory.get_version(key, version).await
    }

    async fn list(&self, prefix: &KeyPrefix) -> Result<Vec<SecretKey>, Error> {
        if self.has(Defect::ClaimsList) {
            return Err(
                Error::new(ErrorKind::Unsupported, "lists no keys").with_origin(self.origin())
            );
        }
        self.memory.list(prefix).await
    }

    fn watch(&self) -> Option<ChangeStream> {
        if self.has(Defect::LeaksTask) {
            tokio::spawn(std::future::pending::<()>());
        }
        (!self.has(Defect::ClaimsWatch)).then(|| self.memory.watch())?
    }

    fn discard(&self, key: &SecretKey, rejected: Option<&SecretValue>) {
        if self.has(Defect::DeletesDiscardedKey) && rejected.is_some() {
            self.memory.remove(key).unwrap();
        }
    }
}

/// The outermost wrapper. It adds defects to errors and health checks.
#[derive(Debug)]
struct DefectiveWrapper<P> {
    inner: P,
    defect: Option<Defect>,
}

impl<P> DefectiveWrapper<P> {
    fn modify(&self, error: Error) -> Error {
        match self.defect {
            Some(Defect::ReportsFailureAsNotFound) => {
                let changed = Error::new(ErrorKind::NotFound, "the key does not exist");
                match (error.origin(), error.key()) {
                    (Some(origin), Some(key)) => changed.with_origin(origin).with_key(key),
                    _ => changed,
                }
            }
            Some(Defect::LeaksResponseBody) if !error.message().contains("not exist") => {
                error.with_source(format!("unexpected `{CORRUPT_MARKER}`"))
            }
            _ => error,
        }
    }
}

#[async_trait]
impl<P: SecretProvider> SecretProvider for DefectiveWrapper<P> {
    fn origin(&self) -> &Origin {
        self.inner.origin()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn get(&self, key: &SecretKey) -> Result<Secret, Error> {
        let mut result = self.inner.get(key).await;
        for _ in 0..2 {
            if self.defect == Some(Defect::RetriesNotFound) && result.is_err() {
                result = self.inner.get(key).await;
            }
        }
        result.map_err(|error| self.modify(error))
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

    fn discard(&self, key: &SecretKey, rejected: Option<&SecretValue>) {
        self.inner.discard(key, rejected);
    }

    async fn health(&self) -> Result<(), Error> {
        if self.defect == Some(Defect::ReadsInHealthCheck) {
            self.inner.get(&"A".parse()?).await?;
        }
        if self.defect == Some(Defect::SkipsHealthCheck) {
            return Ok(());
        }
        self.inner.health().await
    }
}

/// The harness for the correct provider and for all broken ones.
struct Memory {
    memory: MemoryProvider,
    access: Arc<Access>,
    faulty: FaultyProvider<GuardedMemory>,
    provider: Arc<dyn SecretProvider>,
    /// The providers of [`Harness::second_provider`].
    others: Mutex<Vec<FaultyProvider<GuardedMemory>>>,
    defect: Option<Defect>,
}

impl Memory {
    fn new(defect: Option<Defect>) -> Self {
        let (memory, access) = (MemoryProvider::new(), Arc::<Access>::default());
        let faulty = guarded(&memory, &access, defect);
        Self {
            provider: with_deadline(faulty.clone(), defect),
            memory,
            access,
            faulty,
            others: Mutex::default(),
            defect,
        }
    }

    fn fail(&self, kind: ErrorKind) {
        self.fail_with(Error::new(kind, "injected by the test"));
    }

    fn fail_with(&self, error: Error) {
        for faulty in self.others.lock().unwrap().iter().chain([&self.faulty]) {
            faulty.always(Action::Fail(error.clone()));
        }
    }
}

fn guarded(
    memory: &MemoryProvider,
    access: &Arc<Access>,
    defect: Option<Defect>,
) -> FaultyProvider<GuardedMemory> {
    access.token.fetch_max(1, Ordering::SeqCst);
    FaultyProvider::new(GuardedMemory {
        memory: memory.clone(),
        access: access.clone(),
        defect,
        login_token: tokio::sync::Mutex::new(0),
        last_read: Mutex::new(None),
    })
}

fn with_deadline(
    faulty: FaultyProvider<GuardedMemory>,
    defect: Option<Defect>,
) -> Arc<dyn SecretProvider> {
    let inner = faulty.with_deadline(DEADLINE);
    Arc::new(DefectiveWrapper { inner, defect })
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

    fn second_provider(&self) -> Option<Arc<dyn SecretProvider>> {
        let faulty = guarded(&self.memory, &self.access, self.defect);
        self.others.lock().unwrap().push(faulty.clone());
        Some(with_deadline(faulty, self.defect))
    }

    fn supports(&self) -> Supports {
        Supports {
            network: true,
            deny: true,
            login: true,
            token_expiry: true,
            rate_limit: true,
            corrupt_responses: true,
            foreign_responses: true,
            full_health_check: true,
            stall: true,
            binary_values: true,
            empty_values: true,
            json_values: true,
            call_counts: true,
            float_numbers: false,
            trims_whitespace: false,
            case_insensitive: false,
            flat_names: false,
            exclusive_runtime: true,
        }
    }

    /// Supports only JSON without white space in its strings.
    async fn seed_json(&self, key: &SecretKey, json: &str) {
        let compact: String = json.split_whitespace().collect();
        self.seed(key, compact.trim_matches('"').as_bytes()).await;
    }

    async fn break_network(&self) {
        self.fail(ErrorKind::Unavailable);
    }

    async fn clear_faults(&self) {
        for faulty in self.others.lock().unwrap().iter().chain([&self.faulty]) {
            faulty.clear_faults();
        }
    }

    async fn deny(&self, key: &SecretKey) {
        self.access.denied.lock().unwrap().insert(key.clone());
    }

    async fn revoke_login(&self) {
        self.fail(ErrorKind::Unauthenticated);
    }

    async fn restore_login(&self) {
        self.faulty.clear_faults();
    }

    async fn expire_token(&self) {
        self.access.token.fetch_add(1, Ordering::SeqCst);
    }

    async fn rate_limit(&self, wait: Duration) {
        let retry_after = Some(wait);
        self.fail(ErrorKind::RateLimited { retry_after });
    }

    async fn corrupt_responses(&self) {
        self.fail(ErrorKind::Malformed);
    }

    async fn respond_with(&self, response: &ForeignResponse) {
        let status = response.status;
        let content = response.header("content-type").unwrap_or("no body");
        let message = match self.defect {
            Some(Defect::OmitsContentType) => format!("status {status}"),
            _ => format!("status {status}, {content}"),
        };
        self.fail_with(Error::new(ErrorKind::Unavailable, message));
    }

    async fn stall(&self) {
        self.faulty.always(Action::Hang);
    }

    fn calls(&self) -> Calls {
        Calls {
            reads: self.faulty.calls(),
            logins: self.access.logins.load(Ordering::SeqCst),
        }
    }

    fn tokens(&self) -> Vec<String> {
        vec!["memory-token-of-the-harness".to_owned()]
    }

    fn max_value_bytes(&self) -> Option<usize> {
        Some(LIMIT)
    }
}

#[tokio::test]
async fn a_correct_provider_passes_every_item() {
    let report = conformance::run_all(async || Memory::new(None)).await;
    report.assert_passed();
    assert_eq!(report.entries().len(), conformance::ALL.len());
    for (name, outcome) in report.entries() {
        assert_eq!(outcome, &Ok(Outcome::Passed), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn each_defect_is_detected_by_its_item() {
    for (defect, item, message) in [
        (Defect::TrimsValues, "get_existing", "ends with a newline"),
        (
            Defect::ReportsFailureAsNotFound,
            "missing_is_not_failed",
            "must be `unavailable`, but is `not found`",
        ),
        (
            Defect::ReportsFailureAsNotFound,
            "denied",
            "must be `denied`",
        ),
        (
            Defect::ReportsFailureAsNotFound,
            "bad_login",
            "must be `not authenticated`",
        ),
        (
            Defect::ReportsFailureAsNotFound,
            "throttled",
            "must fail with `rate limited`",
        ),
        (
            Defect::ReportsFailureAsNotFound,
            "malformed_response",
            "must be `malformed`",
        ),
        (
            Defect::ReportsFailureAsNotFound,
            "deadline",
            "must be `timed out`",
        ),
        (Defect::WrongOrder, "get_many", "must have"),
        (
            Defect::OmitsLastResult,
            "get_many",
            "5 keys must have the same number of results, but have 4",
        ),
        (
            Defect::LeaksInDebug,
            "redaction",
            "debug output leaks the canary",
        ),
        (
            Defect::LeaksInLog,
            "redaction",
            "the log leaks the canary `value`: raw",
        ),
        (
            Defect::LeaksInError,
            "redaction",
            "leaks the canary `value`",
        ),
        (
            Defect::ReportsFailureAsNotFound,
            "foreign_response",
            "must be `unavailable`, but is `not found`",
        ),
        (
            Defect::OmitsContentType,
            "foreign_response",
            "must name the status and the content type",
        ),
        (
            Defect::LeaksResponseBody,
            "foreign_response",
            "leaks the canary `the body of the response`",
        ),
        (
            Defect::LeaksResponseBody,
            "malformed_response",
            "leaks the canary `the body of the response`",
        ),
        (
            Defect::ClaimsList,
            "capabilities_are_true",
            "`list` is claimed, but fails",
        ),
        (
            Defect::ClaimsWatch,
            "capabilities_are_true",
            "`watch` must be claimed if and only if",
        ),
        (
            Defect::RetriesNotFound,
            "get_missing",
            "must not cost 3 calls",
        ),
        (
            Defect::SkipsHealthCheck,
            "health",
            "a health check of a corrupt source",
        ),
        (
            Defect::ReadsInHealthCheck,
            "health",
            "a health check must not read secrets, but caused 1 reads",
        ),
        (
            Defect::DeletesDiscardedKey,
            "discard",
            "a read of `A` must succeed, but fails",
        ),
        (
            Defect::ReturnsStaleValue,
            "update_seen",
            "must have the 5 bytes `other`",
        ),
        (Defect::ReturnsStaleValue, "concurrent_use", "must have"),
        (
            Defect::DecodesNames,
            "odd_names",
            "a read returns the value of another key",
        ),
        (
            Defect::ReportsEmptyAsAbsent,
            "empty_value",
            "must succeed, but fails",
        ),
        (
            Defect::LogsInForEachRead,
            "expired_login",
            "must cause one login, not 100",
        ),
        (
            Defect::RepeatsVersion,
            "update_seen",
            "each update must have a new version",
        ),
        (
            Defect::LeaksTask,
            "drop_leaves_nothing",
            "must end their tasks",
        ),
    ] {
        let item = conformance::ALL.iter().find(|other| other.name == item);
        let harness = Memory::new(Some(defect));
        let outcome = caught((item.unwrap().run)(&harness)).await;
        let reported = outcome.expect_err(&format!("{defect:?} must be detected"));
        assert!(
            reported.contains(message),
            "{defect:?} is reported as: {reported}"
        );
    }
}

#[tokio::test]
async fn the_report_is_displayed_as_a_table() {
    let report =
        conformance::run_all(async || Memory::new(Some(Defect::ReportsEmptyAsAbsent))).await;
    let text = report.to_string();
    assert!(!report.is_passed());
    assert!(text.contains("get_existing            passed\n"), "{text}");
    assert!(
        text.contains("empty_value             FAILED: a read of `A` must succeed"),
        "{text}"
    );
}
