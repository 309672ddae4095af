//! The trait that connects the conformance tests to a source.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use secretwell_core::{SecretKey, SecretProvider};

use crate::ForeignResponse;

/// The text in responses that a provider cannot use: those of [`Harness::corrupt_responses`], and those that
/// the tests pass to [`Harness::respond_with`]. An error must not contain it.
pub const CORRUPT_MARKER: &str = "secretwell-testkit-garbage-0f1e2d";

/// The abilities of a harness and the properties of its source.
///
/// A conformance test that needs an ability which is `false` reports
/// [`NotApplicable`](crate::conformance::Outcome::NotApplicable).
///
/// ```
/// use secretwell_testkit::Supports;
///
/// let file = Supports { binary_values: true, empty_values: true, ..Supports::default() };
/// assert!(!file.network);
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(
    clippy::exhaustive_structs,
    reason = "a harness writes it as a literal, with `..Default::default()`"
)]
pub struct Supports {
    /// The harness implements [`break_network`](Harness::break_network).
    pub network: bool,
    /// The harness implements [`deny`](Harness::deny).
    pub deny: bool,
    /// The harness implements [`revoke_login`](Harness::revoke_login) and
    /// [`restore_login`](Harness::restore_login).
    pub login: bool,
    /// The harness implements [`expire_token`](Harness::expire_token).
    pub token_expiry: bool,
    /// The harness implements [`rate_limit`](Harness::rate_limit).
    pub rate_limit: bool,
    /// The harness implements [`corrupt_responses`](Harness::corrupt_responses).
    pub corrupt_responses: bool,
    /// The harness implements [`respond_with`](Harness::respond_with).
    pub foreign_responses: bool,
    /// The health check parses the same data as a read, so it fails for a corrupt source.
    pub full_health_check: bool,
    /// The harness implements [`stall`](Harness::stall).
    pub stall: bool,
    /// The source can store any bytes, not only text without NUL.
    pub binary_values: bool,
    /// The source can store a value of zero bytes, and the provider does not treat it as absent.
    pub empty_values: bool,
    /// The source trims white space around values, except one line ending.
    pub trims_whitespace: bool,
    /// The source stores JSON values, and the harness implements [`seed_json`](Harness::seed_json).
    pub json_values: bool,
    /// The source stores numbers as floating point, so large integers lose their last digits.
    pub float_numbers: bool,
    /// The harness implements [`calls`](Harness::calls).
    pub call_counts: bool,
    /// The source treats `a` and `A` as the same name, like the environment on Windows.
    pub case_insensitive: bool,
    /// The source has no hierarchy of names. `db/PASSWORD` is stored as one name, such as
    /// `db_PASSWORD`, and a list from the root can show that name.
    pub flat_names: bool,
    /// Only the provider spawns tasks on the test's runtime, so the test can detect leaked tasks.
    /// Leave it `false` if a mock server runs on the same runtime.
    pub exclusive_runtime: bool,
}

/// The number of requests that the source has received since the harness was created.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(
    clippy::exhaustive_structs,
    reason = "a harness writes it as a literal, with `..Default::default()`"
)]
pub struct Calls {
    /// Requests that read secrets. Health checks and logins are not counted.
    pub reads: usize,
    /// Requests that log in, including refused ones.
    pub logins: usize,
}

/// A source that the tests can write to and break, and a provider that reads from it.
///
/// Three methods are required. The others are needed only for the abilities that
/// [`supports`](Self::supports) claims.
///
/// - Each test creates its own harness. Harnesses must not share data: on a shared server, give each
///   harness its own folder.
/// - Configure the provider with a short deadline, such as one second, because some tests wait for it.
/// - A method that changes the source returns when the next read would see the change.
#[async_trait]
pub trait Harness: Send + Sync {
    /// Returns the provider under test. Every call returns the same shared handle.
    fn provider(&self) -> Arc<dyn SecretProvider>;

    /// Writes a value, or a new version of it.
    ///
    /// The tests write only keys that the provider has not rejected with `InvalidKey`, and only values
    /// that [`supports`](Self::supports) allows.
    async fn seed(&self, key: &SecretKey, value: &[u8]);

    /// Deletes a key that was written before.
    async fn delete(&self, key: &SecretKey);

    /// Returns a new provider for the same source with the same configuration. It must share no state
    /// with the first provider. Default: `None`.
    fn second_provider(&self) -> Option<Arc<dyn SecretProvider>> {
        None
    }

    /// Returns the abilities of this harness. Default: only the required methods.
    fn supports(&self) -> Supports {
        Supports::default()
    }

    /// Writes the JSON text `json` as a value, such as a number, a boolean or an object.
    async fn seed_json(&self, key: &SecretKey, json: &str) {
        let _ = (key, json);
        not_implemented("json_values")
    }

    /// Makes the source unreachable until [`clear_faults`](Self::clear_faults).
    async fn break_network(&self) {
        not_implemented("network")
    }

    /// Ends the effects of `break_network`, `rate_limit`, `corrupt_responses`, `respond_with` and `stall`.
    async fn clear_faults(&self) {
        not_implemented("clear_faults, which every fault needs")
    }

    /// Takes away the permission of the login to read `key`.
    async fn deny(&self, key: &SecretKey) {
        let _ = key;
        not_implemented("deny")
    }

    /// Makes the source reject the current token and every new login until
    /// [`restore_login`](Self::restore_login).
    async fn revoke_login(&self) {
        not_implemented("login")
    }

    /// Makes the source accept logins again. Tokens from before
    /// [`revoke_login`](Self::revoke_login) can stay invalid.
    async fn restore_login(&self) {
        not_implemented("login")
    }

    /// Makes the source reject the current token. New logins still succeed.
    async fn expire_token(&self) {
        not_implemented("token_expiry")
    }

    /// Makes the source reject every request with the instruction to retry after `wait`.
    async fn rate_limit(&self, wait: Duration) {
        let _ = wait;
        not_implemented("rate_limit")
    }

    /// Makes the source respond with success, and with a body that has the shape of its responses and
    /// violates its protocol. The body must contain [`CORRUPT_MARKER`].
    async fn corrupt_responses(&self) {
        not_implemented("corrupt_responses")
    }

    /// Makes another program respond in the place of the source, to every request of every provider of this
    /// harness.
    async fn respond_with(&self, response: &ForeignResponse) {
        let _ = response;
        not_implemented("foreign_responses")
    }

    /// Makes the source accept requests and never respond.
    async fn stall(&self) {
        not_implemented("stall")
    }

    /// Returns how many requests the source has received. Default: zeros.
    fn calls(&self) -> Calls {
        Calls::default()
    }

    /// Returns the secret texts of the login that are known so far, such as a password, a token or a
    /// signed assertion. The tests search all output for them. Default: an empty list.
    fn tokens(&self) -> Vec<String> {
        Vec::new()
    }

    /// Returns the longest value in bytes that the provider accepts, if a test can write a longer one.
    /// Default: `None`.
    fn max_value_bytes(&self) -> Option<usize> {
        None
    }

    /// Returns keys that this source can store, all at the same time.
    fn valid_keys(&self) -> Vec<&'static str> {
        vec!["A", "AUTH_SECRET", "db/PASSWORD", "a.b-c"]
    }
}

#[track_caller]
fn not_implemented(ability: &str) -> ! {
    panic!("the harness claims an ability that it does not implement: {ability}")
}
