//! The contract of a [`SecretProvider`], one function for each of its items.
//!
//! Each takes a fresh [`Harness`], returns whether the item applies to it, and panics with the reason
//! when the provider breaks it. [`conformance_tests!`](crate::conformance_tests) makes a test of each;
//! [`run_all`] runs them one after the other.
//!
//! # What is left out
//! - Telling a bad token from a missing permission, redirects, and answers that come too late: they
//!   take a remote backend's protocol or the resolver, and are tested there.
//! - How much memory an answer takes that is too large: only that it is refused.
//! - Leased credentials: only that a provider that claims none promises no lifetime.
//! - Silence. No test waits to see that nothing happens; what must not happen is looked for
//!   between two things that must.
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
    bad_login, deadline, denied, expired_login, malformed_answer, missing_is_not_failed, throttled,
};
pub use load::{concurrent_use, drop_leaves_nothing, independent_handles};
pub use reads::{
    absent_in_all_forms, binary_and_big_values, empty_value, get_existing, get_many, get_missing,
    non_text_values, odd_names,
};
pub use redaction::redaction;

/// How long anything may take that must happen.
const PATIENCE: Duration = Duration::from_secs(120);

/// What a test that did not panic says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// The provider keeps to this item.
    Passed,
    /// The provider or the harness has no such ability; the reason says which.
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

/// A test under way. It need not move between threads.
pub type Running<'a> = Pin<Box<dyn Future<Output = Outcome> + 'a>>;

/// One item of the contract.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Item {
    /// The name of its function.
    pub name: &'static str,
    /// Its function.
    pub run: for<'a> fn(&'a dyn Harness) -> Running<'a>,
}

/// Hands the names of all items to a macro, so that they are listed once.
#[doc(hidden)]
#[macro_export]
macro_rules! __conformance_items {
    ($then:ident $($before:tt)*) => {
        $crate::$then! { $($before)* [
            get_existing get_missing missing_is_not_failed denied bad_login expired_login throttled
            get_many update_seen delete_seen old_version same_error_twice binary_and_big_values
            odd_names malformed_answer deadline concurrent_use independent_handles redaction
            capabilities_are_true health drop_leaves_nothing absent_in_all_forms empty_value
            non_text_values
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

/// Makes a module of tests, one for each item of the contract.
///
/// The expression makes the harness. It is evaluated anew for each test, inside of the test's
/// current-thread runtime, and may await.
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

/// Runs one test in a runtime of its own and prints its outcome.
#[doc(hidden)]
pub fn run_one(name: &str, test: impl Future<Output = Outcome>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime starts");
    let outcome = runtime.block_on(test);
    println!("{name}: {outcome}");
}

/// What [`run_all`] found. Its `Display` is a table.
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct ConformanceReport {
    entries: Vec<(&'static str, Result<Outcome, String>)>,
}

impl ConformanceReport {
    /// Each item's name, and its outcome or the message of its panic.
    pub fn entries(&self) -> &[(&'static str, Result<Outcome, String>)] {
        &self.entries
    }

    /// Whether no item is broken.
    pub fn is_passed(&self) -> bool {
        self.entries.iter().all(|(_, outcome)| outcome.is_ok())
    }

    /// Asserts that no item is broken.
    ///
    /// # Panics
    /// With the table, when one is.
    #[track_caller]
    pub fn assert_passed(&self) {
        assert!(
            self.is_passed(),
            "the provider breaks its contract:\n{self}"
        );
    }
}

impl fmt::Display for ConformanceReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, outcome) in &self.entries {
            match outcome {
                Ok(outcome) => writeln!(f, "{name:<24}{outcome}")?,
                Err(message) => writeln!(f, "{name:<24}BROKEN: {message}")?,
            }
        }
        Ok(())
    }
}

/// Runs all items one after the other, each with a fresh harness, in the caller's runtime. A panic
/// is an entry of the report and does not end the run.
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
        // Nothing of the test is looked at after it panicked.
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
        .unwrap_or_else(|| "a panic without a message".to_owned())
}

fn key(text: &str) -> SecretKey {
    SecretKey::parse(text).expect("the tests ask for valid keys")
}

/// The first `count` names that the source must be able to hold.
fn good_keys<const N: usize>(h: &dyn Harness) -> [SecretKey; N] {
    let names = h.good_keys();
    assert!(
        names.len() >= N,
        "the harness must name {N} good keys or more"
    );
    std::array::from_fn(|place| key(names[place]))
}

/// Ends the test when something that must happen does not.
#[track_caller]
fn within<'a, T>(
    what: &'a str,
    doing: impl Future<Output = T> + 'a,
) -> impl Future<Output = T> + 'a {
    let caller = std::panic::Location::caller();
    async move {
        let done = tokio::time::timeout(PATIENCE, doing).await;
        done.unwrap_or_else(|_| panic!("{what} took longer than {PATIENCE:?} ({caller})"))
    }
}

async fn read(provider: &Arc<dyn SecretProvider>, key: &SecretKey) -> Result<Secret, Error> {
    within("a read", provider.get(key)).await
}

async fn assert_reads(provider: &Arc<dyn SecretProvider>, key: &SecretKey, value: &[u8]) {
    assert_value(&read(provider, key).await, key, value);
}

/// The values are the tests' own, so a message may tell how they differ, but for long ones.
#[track_caller]
fn assert_value(answer: &Result<Secret, Error>, key: &SecretKey, value: &[u8]) {
    match answer {
        Ok(secret) => {
            let found = secret.value.expose_bytes();
            assert!(
                found == value,
                "`{key}` must be the {} bytes `{}`, and is the {} bytes `{}`",
                value.len(),
                shown(value),
                found.len(),
                shown(found),
            );
        }
        Err(error) => panic!("`{key}` must be read, and fails: {error}"),
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
    why: &str,
) -> Error {
    let error = failure(read(provider, key).await, why);
    assert_error(&error, Some(key), kind, why);
    error
}

#[track_caller]
fn failure<T>(answer: Result<T, Error>, why: &str) -> Error {
    match answer {
        Ok(_) => panic!("{why}: must fail, and succeeds"),
        Err(error) => error,
    }
}

/// An error of the right kind that says where and for which key, in words and on one line.
#[track_caller]
fn assert_error(error: &Error, key: Option<&SecretKey>, kind: ErrorKind, why: &str) {
    let found = error.kind();
    assert!(
        found == kind,
        "{why}: must be `{kind}`, and is `{found}`: {error}"
    );
    assert!(
        error.origin().is_some(),
        "{why}: the error must name the source: {error}"
    );
    if key.is_some() {
        assert!(
            error.key() == key,
            "{why}: the error must name the key that was asked: {error}"
        );
    }
    assert!(
        !error.message().trim().is_empty(),
        "{why}: the error must say what was seen"
    );
    assert!(
        !error.to_string().contains('\n'),
        "{why}: the error must be one line: {error}"
    );
    let temporary = matches!(
        kind,
        ErrorKind::Unavailable | ErrorKind::RateLimited { .. } | ErrorKind::Timeout
    );
    assert!(
        error.is_temporary() == temporary,
        "{why}: the error must be {}: {error}",
        if temporary { "temporary" } else { "permanent" },
    );
}
