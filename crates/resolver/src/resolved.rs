//! The values that the resolver returns.

use std::time::Duration;

use secretwell_core::{Error, Origin, SecretValue, Version};
use serde::{Serialize, Serializer};

/// A secret from the resolver, with its freshness.
///
/// Serialization omits the value.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Resolved {
    /// The bytes of the secret, redacted in `Debug`.
    #[serde(skip)]
    pub value: SecretValue,
    /// The backend's version of the value. `None` if the backend does not keep versions.
    pub version: Option<Version>,
    /// The origin of the value. For a [`Chain`](secretwell_core::Chain), it is the origin of the
    /// provider that had the secret.
    pub origin: Origin,
    /// Whether the value is fresh or stale.
    #[serde(flatten)]
    pub freshness: Freshness,
}

impl Resolved {
    /// Creates a fresh secret that was not read by a resolver, such as a generated value or a test
    /// fixture.
    pub fn fixed(value: SecretValue, origin: Origin) -> Self {
        Self {
            value,
            version: None,
            origin,
            freshness: Freshness::Fresh,
        }
    }

    /// Returns this value as stale. The age is the larger one if it is stale already.
    pub(crate) fn stale(mut self, since: Duration, reason: Error) -> Self {
        let known = match &self.freshness {
            Freshness::Stale { age, .. } => *age,
            Freshness::Fresh => Duration::ZERO,
        };
        let age = known.max(since);
        self.freshness = Freshness::Stale { age, reason };
        self
    }
}

/// Whether a value was confirmed by its source within the ttl.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "snake_case", tag = "freshness")]
#[non_exhaustive]
pub enum Freshness {
    /// The source returned the value within the ttl.
    Fresh,
    /// The source has not confirmed the value within the ttl, or the value might have changed. The reason states
    /// which: the refresh failed, takes long, is not possible at the moment, or was overtaken by a change.
    Stale {
        /// The time since the source returned the value.
        #[serde(rename = "age_seconds", serialize_with = "seconds")]
        age: Duration,
        /// The error of the last refresh.
        reason: Error,
    },
}

impl Freshness {
    /// Returns whether the value is stale.
    pub fn is_stale(&self) -> bool {
        matches!(self, Self::Stale { .. })
    }
}

fn seconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_secs_f64())
}
