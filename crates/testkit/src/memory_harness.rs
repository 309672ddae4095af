//! Tests of the conformance suite itself. A correct provider passes every item. Each of several broken
//! providers fails the item that must detect its defect.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use secretwell_core::{
    Error, ErrorKind, MemoryProvider, SecretKey, SecretProvider, SecretProviderExt,
};

use crate::conformance::{self, Outcome, caught};
use crate::{Action, Calls, FaultyProvider, ForeignResponse, Harness, Supports, conformance_tests};

mod defects;

use defects::{Access, Defect, DefectiveWrapper, GuardedMemory, LIMIT};

const DEADLINE: Duration = Duration::from_millis(100);

conformance_tests!(memory, Memory::new(None));

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
