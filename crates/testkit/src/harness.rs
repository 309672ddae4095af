//! What a backend's author writes, so that the conformance tests can set the stage.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use secretwell_core::{SecretKey, SecretProvider};

/// The text that [`Harness::garble`] puts into an answer that makes no sense. No error may show it.
pub const GARBAGE: &str = "secretwell-testkit-garbage-0f1e2d";

/// What a harness can do to its source. A test that needs more is not applicable.
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
    /// [`break_network`](Harness::break_network) works.
    pub network: bool,
    /// [`deny`](Harness::deny) works.
    pub deny: bool,
    /// [`revoke_login`](Harness::revoke_login) and [`fix_login`](Harness::fix_login) work.
    pub login: bool,
    /// [`expire_token`](Harness::expire_token) works.
    pub expire: bool,
    /// [`throttle`](Harness::throttle) works.
    pub throttle: bool,
    /// [`garble`](Harness::garble) works.
    pub garble: bool,
    /// The health check looks at all that a read would, so that a garbled source is unhealthy.
    pub whole_health: bool,
    /// [`stall`](Harness::stall) works.
    pub stall: bool,
    /// The source can hold any bytes, not only text without NUL.
    pub binary_values: bool,
    /// The source can hold a value of no bytes.
    pub empty_values: bool,
    /// The source trims white space around values, but for one line end.
    pub trims_values: bool,
    /// The source holds JSON, and [`seed_json`](Harness::seed_json) works.
    pub json_values: bool,
    /// The source keeps numbers as floating point, so that large integers lose their last digits.
    pub float_numbers: bool,
    /// [`calls`](Harness::calls) counts.
    pub calls: bool,
    /// The source cannot tell `a` from `A`, as the environment of Windows.
    pub case_insensitive: bool,
    /// The source's names have no hierarchy: `db/PASSWORD` is kept as one name, such as
    /// `db_PASSWORD`, so that the list of everything may show it as that.
    pub flat_names: bool,
    /// Nothing but the provider starts tasks in the test's runtime, so that a task that is left over
    /// is the provider's. Leave it `false` when a mock server runs in it.
    pub quiet_runtime: bool,
}

/// How often the source was asked since the harness was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(
    clippy::exhaustive_structs,
    reason = "a harness writes it as a literal, with `..Default::default()`"
)]
pub struct Calls {
    /// Requests that read secrets; health checks and logins are none.
    pub reads: usize,
    /// Logins, also those that were refused.
    pub logins: usize,
}

/// A source that the tests may write to and break, and a provider on it.
///
/// Three methods are required; the others are for the supports that [`supports`](Self::supports)
/// claims. Each test gets a harness of its own, and what one writes another must not see: on a shared
/// server, let each harness have a folder of its own.
///
/// Configure the provider with a short deadline, such as one second: some tests wait for it.
///
/// A method that changes the source returns when the next read would see the change.
#[async_trait]
pub trait Harness: Send + Sync {
    /// The provider under test: the same shared handle for each call.
    fn provider(&self) -> Arc<dyn SecretProvider>;

    /// Writes a value, or a new version of it. Only keys that the provider did not call invalid are
    /// written, and only values that the supports allow.
    async fn seed(&self, key: &SecretKey, value: &[u8]);

    /// Deletes a key that was written.
    async fn delete(&self, key: &SecretKey);

    /// A new provider on the same source, configured alike and sharing nothing with the first.
    /// Default: `None`.
    fn another(&self) -> Option<Arc<dyn SecretProvider>> {
        None
    }

    /// What this harness can do. Default: nothing beyond the required methods.
    fn supports(&self) -> Supports {
        Supports::default()
    }

    /// Writes the JSON text `json` as a value that is no string: a number, a boolean, an object.
    async fn seed_json(&self, key: &SecretKey, json: &str) {
        let _ = (key, json);
        lacks("json_values")
    }

    /// From now on the source cannot be reached.
    async fn break_network(&self) {
        lacks("network")
    }

    /// Ends what `break_network`, `throttle`, `garble` and `stall` did.
    async fn heal(&self) {
        lacks("heal, which every fault needs")
    }

    /// From now on the login may not read `key`.
    async fn deny(&self, key: &SecretKey) {
        let _ = key;
        lacks("deny")
    }

    /// From now on neither the token nor a fresh login is accepted.
    async fn revoke_login(&self) {
        lacks("login")
    }

    /// Ends what `revoke_login` did. The token of before need not work again.
    async fn fix_login(&self) {
        lacks("login")
    }

    /// The token that is in use is no longer accepted; a fresh login is.
    async fn expire_token(&self) {
        lacks("expire")
    }

    /// From now on the source answers that it should be asked again after `wait`.
    async fn throttle(&self, wait: Duration) {
        let _ = wait;
        lacks("throttle")
    }

    /// From now on the source answers with success and a body that is not what its protocol says and
    /// that holds [`GARBAGE`].
    async fn garble(&self) {
        lacks("garble")
    }

    /// From now on the source accepts requests and never answers them.
    async fn stall(&self) {
        lacks("stall")
    }

    /// How often the source was asked. Default: zeros.
    fn calls(&self) -> Calls {
        Calls::default()
    }

    /// The secret texts of the login (password, token, signed assertion), as far as they are known by
    /// now. They must never show. Default: none.
    fn tokens(&self) -> Vec<String> {
        Vec::new()
    }

    /// The longest value in bytes that the provider accepts, where it is so small that a test may go
    /// beyond it. Default: `None`.
    fn max_value(&self) -> Option<usize> {
        None
    }

    /// Names that this source must be able to hold, all at the same time.
    fn good_keys(&self) -> Vec<&'static str> {
        vec!["A", "AUTH_SECRET", "db/PASSWORD", "a.b-c"]
    }
}

#[track_caller]
fn lacks(ability: &str) -> ! {
    panic!("the harness claims what it does not have: {ability}")
}
