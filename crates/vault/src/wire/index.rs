//! How far a server's data goes, and the way to the one whose data goes the furthest.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use http::{HeaderMap, HeaderName, HeaderValue};
use secretwell_http::{Request, Response};
use serde::{Deserialize, Serialize};

/// The header by which a replicated server tells how far its data goes.
pub(crate) const INDEX: HeaderName = HeaderName::from_static("x-vault-index");
/// What a server is to do that has not come as far as the index asks.
const INCONSISTENT: HeaderName = HeaderName::from_static("x-vault-inconsistent");

/// Where a server tells whether it is a standby, and of which cluster, with status 200 in any case.
pub(crate) const HEALTH: &str = "/v1/sys/health?standbyok=true&perfstandbyok=true";

/// The furthest that was seen, so that the next server asked is not behind it. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Index(Arc<Mutex<Option<(HeaderValue, Position)>>>);

#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Position {
    cluster: String,
    value: String,
}

impl Index {
    /// Takes note of an answer's index, unless a later one of the same cluster is known.
    pub(crate) fn note(&self, headers: &HeaderMap) {
        let Some(value) = headers.get(INDEX) else {
            return;
        };
        let Some(position) = Position::parse(value) else {
            return;
        };
        let mut held = self.held();
        if let Some((_, known)) = &*held
            && known.cluster == position.cluster
            && known.number() >= position.number()
        {
            return;
        }
        *held = Some((value.clone(), position));
    }

    pub(crate) fn header(&self) -> Option<HeaderValue> {
        self.held().as_ref().map(|(header, _)| header.clone())
    }

    /// An index that only the active server is not behind; none where no server tells any.
    pub(crate) fn ahead(&self) -> Option<HeaderValue> {
        let cluster = self.held().as_ref()?.1.cluster.clone();
        Position::ahead(cluster)
    }

    fn held(&self) -> MutexGuard<'_, Option<(HeaderValue, Position)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Position {
    fn parse(value: &HeaderValue) -> Option<Self> {
        let text = value.to_str().ok()?.trim_end_matches('=');
        serde_json::from_slice(&STANDARD_NO_PAD.decode(text).ok()?).ok()
    }

    fn number(&self) -> u64 {
        self.value.parse().unwrap_or(0)
    }

    fn ahead(cluster: String) -> Option<HeaderValue> {
        let value = i64::MAX.to_string();
        let position = serde_json::to_vec(&Self { cluster, value }).ok()?;
        STANDARD.encode(position).try_into().ok()
    }
}

/// The index that a standby passes on to the active server whatever is asked with it, if it is a standby
/// that this answer of [`HEALTH`] is from.
pub(crate) fn ahead_of_standby(health: &Response) -> Option<HeaderValue> {
    #[derive(Deserialize)]
    struct Health {
        standby: bool,
        cluster_id: String,
    }

    let health: Health = serde_json::from_slice(&health.body).ok()?;
    health
        .standby
        .then(|| Position::ahead(health.cluster_id))
        .flatten()
}

/// The request, for the active server only: a standby passes it on because it is behind `ahead`, and the
/// active server takes no notice of that.
pub(crate) fn at_the_active(request: Request, ahead: HeaderValue) -> Request {
    request.header(INDEX, ahead).header(
        INCONSISTENT,
        HeaderValue::from_static("forward-active-node"),
    )
}
