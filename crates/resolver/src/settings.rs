//! The settings of a resolver.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use secretwell_core::SecretKey;
use serde::{Deserialize, Serialize};

/// What the resolver does with a cached value when the source refuses the secret.
///
/// A source refuses a secret if it is absent, if the permission to read it is missing, or if the login
/// is rejected. See [`Error::is_refusal`](secretwell_core::Error::is_refusal).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum OnDenied {
    /// Removes the value from the cache, so that a revoked secret is no longer used. The default.
    #[default]
    Purge,
    /// Keeps the value as stale until [`max_stale`](crate::ResolverBuilder::max_stale). Use it if a mistake in
    /// a policy is a greater risk than the use of a revoked secret.
    KeepUntilMaxStale,
}

/// The settings of one link. A resolver of one source has one link.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) ttl: Duration,
    pub(crate) max_stale: Duration,
    /// The maximum duration of one call to the provider.
    pub(crate) deadline: Duration,
    pub(crate) max_backoff: Duration,
    /// The maximum wait before a refused key is read again.
    pub(crate) negative_ttl: Duration,
    pub(crate) max_entries: usize,
    /// The burst and the rate per minute of the retry budget.
    pub(crate) retry_budget: (u32, u32),
    pub(crate) on_denied: OnDenied,
    /// The keys whose values can be ciphertexts of a tool.
    pub(crate) accept_encrypted: Arc<BTreeSet<SecretKey>>,
    /// Whether the source reads many keys in one round trip.
    pub(crate) batch: bool,
}

impl Settings {
    /// Returns the time after which a call to the provider that has not ended is lost.
    pub(crate) fn longest_call(&self) -> Duration {
        /// The time that the end of a call might take on a busy machine.
        const MARGIN: Duration = Duration::from_millis(100);
        self.deadline.saturating_add(MARGIN)
    }
}
