//! Notifications of the fetches, changes and accesses of secrets, for audit logs.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use secretwell_core::{Error, Origin, SecretKey, Version};
use serde::{Serialize, Serializer};

use crate::resolved::{Freshness, Resolved};

/// A fetch, a change or an access of one secret. It contains no value.
///
/// The callbacks of [`ResolverBuilder::on_fetch`](crate::ResolverBuilder::on_fetch),
/// [`on_change`](crate::ResolverBuilder::on_change) and [`on_access`](crate::ResolverBuilder::on_access) receive it.
/// It serializes as one flat object, for a log with one JSON object per line.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct SecretEvent {
    /// The key of the secret.
    pub key: SecretKey,
    /// The origin of the value, or of the answer that there is no value.
    pub origin: Origin,
    /// The version of the value. `None` without a value, or if the source does not keep versions.
    pub version: Option<Version>,
    /// The freshness of the value, or the reason why there is no value.
    #[serde(flatten, serialize_with = "freshness_or_error")]
    pub result: Result<Freshness, Error>,
    /// The name of the reader, from [`Resolver::for_consumer`](crate::Resolver::for_consumer). `None` for fetches and
    /// changes, which all readers share.
    #[serde(serialize_with = "text")]
    pub consumer: Option<Arc<str>>,
}

impl SecretEvent {
    /// Creates the event of a result. `origin` is the origin of an error that has none.
    pub(crate) fn new(key: &SecretKey, origin: &Origin, result: &Result<Resolved, Error>) -> Self {
        let (origin, version, result) = match result {
            Ok(resolved) => {
                let freshness = resolved.freshness.clone();
                (&resolved.origin, resolved.version.clone(), Ok(freshness))
            }
            Err(error) => (error.origin().unwrap_or(origin), None, Err(error.clone())),
        };
        Self {
            key: key.clone(),
            origin: origin.clone(),
            version,
            result,
            consumer: None,
        }
    }
}

type Callback = Arc<dyn Fn(SecretEvent) + Send + Sync>;

/// The callbacks of a resolver. They must be called without a lock, because they are code of the user.
#[derive(Clone, Default)]
pub(crate) struct Audit {
    pub(crate) on_fetch: Option<Callback>,
    pub(crate) on_change: Option<Callback>,
    pub(crate) on_access: Option<Callback>,
}

impl Audit {
    /// Passes an event to a callback.
    pub(crate) fn send(callback: &Callback, event: SecretEvent) {
        let key = event.key.clone();
        if catch_unwind(AssertUnwindSafe(|| callback(event))).is_err() {
            tracing::error!(target: "secretwell::resolver", event = "callback_panicked", %key, "a callback of the resolver panicked");
        }
    }
}

impl fmt::Debug for Audit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Audit")
            .field("on_fetch", &self.on_fetch.is_some())
            .field("on_change", &self.on_change.is_some())
            .field("on_access", &self.on_access.is_some())
            .finish()
    }
}

/// Serializes the freshness like [`Resolved`], and an error as the field `error`.
fn freshness_or_error<S: Serializer>(
    result: &Result<Freshness, Error>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Failed<'a> {
        error: &'a Error,
    }
    match result {
        Ok(freshness) => freshness.serialize(serializer),
        Err(error) => Failed { error }.serialize(serializer),
    }
}

#[expect(clippy::ref_option, reason = "serde passes a reference to the field")]
fn text<S: Serializer>(text: &Option<Arc<str>>, serializer: S) -> Result<S::Ok, S::Error> {
    text.as_deref().serialize(serializer)
}
