//! The conformance tests: one function for each item of the contract of a [`SecretProvider`].
//!
//! Each function takes a fresh [`Harness`] and returns an [`Outcome`]. It panics with the reason if the
//! provider violates the item. [`conformance_tests!`](crate::conformance_tests) generates one `#[test]`
//! for each function. [`run_all`] runs all of them in sequence.
//!
//! # Not tested here
//! - The difference between a bad token and a missing permission, redirects, and late responses. They
//!   need the protocol of a remote backend or the resolver, and are tested there.
//! - The memory that a response above the size limit uses. The suite tests only that it is rejected.
//! - Leased credentials. The suite tests only that a provider without the `lease` capability returns
//!   no lifetime.
//! - The absence of events. No test waits to observe that nothing happens. A forbidden event is
//!   detected between two required events.
//!
//! [`SecretProvider`]: secretwell_core::SecretProvider

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use secretwell_core::{Error, ErrorKind, Secret, SecretKey, SecretProvider};

use crate::Harness;

mod capabilities;
mod faults;
mod load;
mod reads;
mod redaction;

pub use capabilities::{
    capabilities_are_true, delete_seen, health, old_version, same_error_twice, update_seen,
};
pub use faults::{
    bad_login, deadline, denied, expired_login, foreign_response, malformed_response,
    missing_is_not_failed, throttled,
};
pub use load::{concurrent_use, drop_leaves_nothing, independent_handles};
pub use reads::{
    absent_in_all_forms, binary_and_big_values, discard, empty_value, get_existing, get_many,
    get_missing, non_text_values, odd_names,
};
pub use redaction::redaction;

/// The time limit of every operation that must complete.
const TIME_LIMIT: Duration = Duration::from_secs(120);

/// The result of a conformance test that did not panic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// The provider satisfies this item.
    Passed,
    /// The provider or the harness lacks an ability that the test needs. The text names it.
    NotApplicable(&'static str),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Passed => f.write_str("passed"),
            Self::NotApplicable(reason) => write!(f, "not applicable: {reason}"),
        }
    }
}

/// The future of a conformance test. It does not need to be `Send`.
pub type ItemFuture<'a> = Pin<Box<dyn Future<Output = Outcome> + 'a>>;

/// One item of the contract, with the function that tests it.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Item {
    /// The name of the test function, such as `get_existing`.
    pub name: &'static str,
    /// Runs the test function with a fresh harness.
    pub run: for<'a> fn(&'a dyn Harness) -> ItemFuture<'a>,
}

/// Passes the names of all items to another macro, so that they are listed only once.
#[doc(hidden)]
#[macro_export]
macro_rules! __conformance_items {
    ($then:ident $($before:tt)*) => {
        $crate::$then! { $($before)* [
            get_existing get_missing missing_is_not_failed denied bad_login expired_login throttled
            get_many update_seen delete_seen old_version same_error_twice binary_and_big_values
            odd_names malformed_response foreign_response deadline concurrent_use independent_handles redaction
            capabilities_are_true health drop_leaves_nothing absent_in_all_forms empty_value
            non_text_values discard
        ] }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __conformance_table {
    ([$($item:ident)*]) => {
        &[$(Item { name: stringify!($item), run: |harness| Box::pin($item(harness)) }),*]
    };
}

/// All items, in the order of the contract.
pub const ALL: &[Item] = crate::__conformance_items!(__conformance_table);

/// Generates a module with one `#[test]` for each item of the contract.
///
/// The expression creates the harness. It is evaluated once for each test, inside the current-thread
/// runtime of that test, and it can use `.await`.
///
/// ```
/// use std::sync::Arc;
///
/// use secretwell::{MemoryProvider, SecretKey, SecretProvider};
/// use secretwell_testkit::{Harness, conformance_tests};
///
/// struct Memory(Arc<MemoryProvider>);
///
/// #[async_trait::async_trait]
/// impl Harness for Memory {
///     fn provider(&self) -> Arc<dyn SecretProvider> {
///         self.0.clone()
///     }
///
///     async fn seed(&self, key: &SecretKey, value: &[u8]) {
///         self.0.set(key, value).unwrap();
///     }
///
///     async fn delete(&self, key: &SecretKey) {
///         self.0.remove(key).unwrap();
///     }
/// }
///
/// conformance_tests!(memory, Memory(Arc::default()));
/// # fn main() {}
/// ```
#[macro_export]
macro_rules! conformance_tests {
    ($name:ident, $harness:expr $(,)?) => {
        mod $name {
            #[allow(unused_imports)]
            use super::*;

            $crate::__conformance_items!(__conformance_functions($harness));
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __conformance_functions {
    (($harness:expr) [$($item:ident)*]) => {
        $(
            #[test]
            fn $item() {
                $crate::conformance::run_one(stringify!($item), async {
                    let harness = $harness;
                    $crate::conformance::$item(&harness).await
                });
            }
        )*
    };
}

/// Runs one test in its own runtime and prints its outcome.
#[doc(hidden)]
pub fn run_one(name: &str, test: impl Future<Output = Outcome>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime starts");
    let outcome = runtime.block_on(test);
    println!("{name}: {outcome}");
}

/// The results of [`run_all`]. Its `Display` output is a table.
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct ConformanceReport {
    entries: Vec<(&'static str, Result<Outcome, String>)>,
}

impl ConformanceReport {
    /// Returns the name of each item with its outcome, or with the message of its panic.
    pub fn entries(&self) -> &[(&'static str, Result<Outcome, String>)] {
        &self.entries
    }

    /// Returns whether the provider violates no item.
    pub fn is_passed(&self) -> bool {
        self.entries.iter().all(|(_, outcome)| outcome.is_ok())
    }

    /// Asserts that the provider violates no item.
    ///
    /// # Panics
    /// Panics with the table if it violates one.
    #[track_caller]
    pub fn assert_passed(&self) {
        assert!(
            self.is_passed(),
            "the provider violates the contract:\n{self}"
        );
    }
}

impl fmt::Display for ConformanceReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, outcome) in &self.entries {
            match outcome {
                Ok(outcome) => writeln!(f, "{name:<24}{outcome}")?,
                Err(message) => writeln!(f, "{name:<24}FAILED: {message}")?,
            }
        }
        Ok(())
    }
}

/// Runs all items in sequence on the runtime of the caller, each with a fresh harness.
///
/// A panic of a test is recorded in the report and does not end the run.
pub async fn run_all<H: Harness>(new: impl AsyncFn() -> H) -> ConformanceReport {
    let mut report = ConformanceReport::default();
    for item in ALL {
        let outcome = caught(async {
            let harness = new().await;
            (item.run)(&harness).await
        });
        report.entries.push((item.name, outcome.await));
    }
    report
}

pub(crate) async fn caught(test: impl Future<Output = Outcome>) -> Result<Outcome, String> {
    let mut test = Box::pin(test);
    std::future::poll_fn(|context| {
        // The state of a test is not used after it panicked.
        let polled = catch_unwind(AssertUnwindSafe(|| test.as_mut().poll(context)));
        polled.map_or_else(
            |panic| Poll::Ready(Err(message(&*panic))),
            |poll| poll.map(Ok),
        )
    })
    .await
}

fn message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a text message".to_owned())
}

fn key(text: &str) -> SecretKey {
    SecretKey::parse(text).expect("the tests use valid keys")
}

/// Returns the first `N` valid keys of the harness.
fn valid_keys<const N: usize>(h: &dyn Harness) -> [SecretKey; N] {
    let names = h.valid_keys();
    assert!(
        names.len() >= N,
        "the harness must return at least {N} valid keys"
    );
    std::array::from_fn(|index| key(names[index]))
}

/// Fails the test if `operation` does not complete within the time limit.
#[track_caller]
fn within<'a, T>(
    what: &'a str,
    operation: impl Future<Output = T> + 'a,
) -> impl Future<Output = T> + 'a {
    let caller = std::panic::Location::caller();
    async move {
        let result = tokio::time::timeout(TIME_LIMIT, operation).await;
        result.unwrap_or_else(|_| panic!("{what} took longer than {TIME_LIMIT:?} ({caller})"))
    }
}

async fn read(provider: &Arc<dyn SecretProvider>, key: &SecretKey) -> Result<Secret, Error> {
    within("a read", provider.get(key)).await
}

async fn assert_reads(provider: &Arc<dyn SecretProvider>, key: &SecretKey, value: &[u8]) {
    assert_value(&read(provider, key).await, key, value);
}

/// The message shows the start of both values. They are test data, not secrets.
#[track_caller]
fn assert_value(result: &Result<Secret, Error>, key: &SecretKey, value: &[u8]) {
    match result {
        Ok(secret) => {
            let found = secret.value.expose_bytes();
            assert!(
                found == value,
                "`{key}` must have the {} bytes `{}`, but has the {} bytes `{}`",
                value.len(),
                shown(value),
                found.len(),
                shown(found),
            );
        }
        Err(error) => panic!("a read of `{key}` must succeed, but fails: {error}"),
    }
}

fn shown(bytes: &[u8]) -> String {
    let start = &bytes[..bytes.len().min(60)];
    start.escape_ascii().to_string()
}

async fn assert_fails(
    provider: &Arc<dyn SecretProvider>,
    key: &SecretKey,
    kind: ErrorKind,
    operation: &str,
) -> Error {
    let error = expect_failure(read(provider, key).await, operation);
    assert_error(&error, Some(key), kind, operation);
    error
}

#[track_caller]
fn expect_failure<T>(result: Result<T, Error>, operation: &str) -> Error {
    match result {
        Ok(_) => panic!("{operation}: must fail, but succeeds"),
        Err(error) => error,
    }
}

/// Checks kind, origin, key and message of an error, and that its text is one line.
#[track_caller]
fn assert_error(error: &Error, key: Option<&SecretKey>, kind: ErrorKind, operation: &str) {
    let found = error.kind();
    assert!(
        found == kind,
        "{operation}: the error must be `{kind}`, but is `{found}`: {error}"
    );
    assert!(
        error.origin().is_some(),
        "{operation}: the error must name its origin: {error}"
    );
    if key.is_some() {
        assert!(
            error.key() == key,
            "{operation}: the error must name the requested key: {error}"
        );
    }
    assert!(
        !error.message().trim().is_empty(),
        "{operation}: the error must have a message"
    );
    assert!(
        !error.to_string().contains('\n'),
        "{operation}: the error must be one line: {error}"
    );
    let temporary = matches!(
        kind,
        ErrorKind::Unavailable | ErrorKind::RateLimited { .. } | ErrorKind::Timeout
    );
    assert!(
        error.is_temporary() == temporary,
        "{operation}: the error must be {}: {error}",
        if temporary { "temporary" } else { "permanent" },
    );
}
