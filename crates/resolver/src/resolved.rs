//! What the resolver answers.

use std::time::Duration;

use secretwell_core::{Error, Origin, SecretValue, Version};
use serde::{Serialize, Serializer};

/// A secret as the resolver hands it out: the value, and how far it can be relied on.
/// Serializing it leaves the value out.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Resolved {
    /// The bytes.
    #[serde(skip)]
    pub value: SecretValue,
    /// What the backend calls this revision.
    pub version: Option<Version>,
    /// Which source had it.
    pub origin: Origin,
    /// Whether the source still stands behind it.
    pub freshness: Freshness,
}

impl Resolved {
    /// A fresh secret that came from no resolver: one that the caller made up, or a fixture.
    pub fn fixed(value: SecretValue, origin: Origin) -> Self {
        Self {
            value,
            version: None,
            origin,
            freshness: Freshness::Fresh,
        }
    }
}

/// How far a value can be relied on.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Freshness {
    /// The source answered with it within the ttl.
    Fresh,
    /// The source could not be asked again since.
    Stale {
        /// How long ago the source answered with it.
        #[serde(rename = "age_seconds", serialize_with = "seconds")]
        age: Duration,
        /// Why it could not be asked again.
        reason: Error,
    },
}

impl Freshness {
    /// Whether the source could not be asked again.
    pub fn is_stale(&self) -> bool {
        matches!(self, Self::Stale { .. })
    }
}

fn seconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_secs_f64())
}
