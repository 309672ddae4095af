//! The index of replicated data (`X-Vault-Index`), and forwarding of requests to the active server.

use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use secretwell_http::{Request, Response, parse_object};
use serde::{Deserialize, Serialize};

use super::envelope::Envelope;
use crate::lock::lock;

/// The header with the state of a server's data. In a request, it contains the state that the server must
/// have reached.
pub(crate) const INDEX: HeaderName = HeaderName::from_static("x-vault-index");
/// The header that selects what a server does if it has not reached the index.
const INCONSISTENT: HeaderName = HeaderName::from_static("x-vault-inconsistent");

/// The header that makes a performance standby of HashiCorp Vault forward a request.
const FORWARD: HeaderName = HeaderName::from_static("x-vault-forward");

/// The path that reports the cluster of a server, and whether the server is a standby. The options make the
/// status 200 for standbys too.
pub(crate) const HEALTH: &str = "/v1/sys/health?standbyok=true&perfstandbyok=true";

/// The highest index in a response so far. Requests contain it, so that no server responds with older data.
/// Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Index(Arc<Mutex<Option<(HeaderValue, Position)>>>);

/// The decoded value of the header.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Position {
    cluster: String,
    value: String,
}

impl Index {
    /// Records the index of a response, unless a higher one of the same cluster is known.
    pub(crate) fn record(&self, headers: &HeaderMap) {
        let Some(value) = headers.get(INDEX) else {
            return;
        };
        let Some(position) = Position::parse(value) else {
            return;
        };
        let mut highest = lock(&self.0);
        if let Some((_, known)) = &*highest
            && known.cluster == position.cluster
            && known.number() >= position.number()
        {
            return;
        }
        *highest = Some((value.clone(), position));
    }

    /// Records the index of a response from a server that has reached `required`. If its index is lower, the
    /// cluster was restored from a snapshot, and no standby would reach the known index any more.
    pub(crate) fn record_reached(&self, headers: &HeaderMap, required: &HeaderValue) {
        let position = headers.get(INDEX).and_then(Position::parse);
        let required = Position::parse(required);
        if let (Some(position), Some(required)) = (position, required)
            && position.cluster == required.cluster
            && position.number() < required.number()
        {
            let mut highest = lock(&self.0);
            if highest
                .as_ref()
                .is_some_and(|(_, known)| *known == required)
            {
                *highest = None;
            }
        }
        self.record(headers);
    }

    /// Returns the highest known index as a header value.
    pub(crate) fn header(&self) -> Option<HeaderValue> {
        lock(&self.0).as_ref().map(|(header, _)| header.clone())
    }

    /// Returns an index that no standby has reached, for [`forward_to_active`]. Returns `None` if no server
    /// has reported an index.
    pub(crate) fn forwarding(&self) -> Option<HeaderValue> {
        let cluster = lock(&self.0).as_ref()?.1.cluster.clone();
        Position::unreachable(cluster)
    }
}

impl Position {
    fn parse(value: &HeaderValue) -> Option<Self> {
        let text = value.to_str().ok()?.trim_end_matches('=');
        parse_object(&STANDARD_NO_PAD.decode(text).ok()?)
    }

    fn number(&self) -> u64 {
        self.value.parse().unwrap_or(0)
    }

    /// Returns the header value of the highest possible index.
    fn unreachable(cluster: String) -> Option<HeaderValue> {
        let value = i64::MAX.to_string();
        let position = serde_json::to_vec(&Self { cluster, value }).ok()?;
        STANDARD.encode(position).try_into().ok()
    }
}

/// What a server reports about its cluster at [`HEALTH`].
#[derive(Deserialize)]
pub(crate) struct Health {
    standby: bool,
    /// Only HashiCorp Vault reports it.
    performance_standby: Option<bool>,
    cluster_id: String,
}

impl Health {
    pub(crate) fn parse(response: &Response) -> Option<Self> {
        parse_object(&response.body)
    }

    /// Returns whether the server can respond with stale data. A standby of HashiCorp Vault forwards each request,
    /// unless it is a performance standby. A standby of OpenBao does not report whether it does.
    pub(crate) fn can_be_stale(&self) -> bool {
        self.performance_standby.unwrap_or(self.standby)
    }

    /// Adds headers to a request so that the server forwards it to the active one. Returns `None` if the server of
    /// HashiCorp Vault does so without them, or is the active one.
    pub(crate) fn forward(&self, request: Request) -> Option<Request> {
        match self.performance_standby {
            None => {
                let index = Position::unreachable(self.cluster_id.clone())?;
                Some(forward_to_active(request, index))
            }
            Some(true) => Some(forward_from_performance_standby(request)),
            Some(false) => None,
        }
    }
}

/// Adds headers so that only the active server executes the request. A standby forwards the request because
/// it has not reached `index`. The active server ignores the index.
pub(crate) fn forward_to_active(request: Request, index: HeaderValue) -> Request {
    request.header(INDEX, index).header(
        INCONSISTENT,
        HeaderValue::from_static("forward-active-node"),
    )
}

/// Adds a header so that a performance standby forwards the request to the active server, if its configuration
/// allows this header.
fn forward_from_performance_standby(request: Request) -> Request {
    request.header(FORWARD, HeaderValue::from_static("active-node"))
}

/// Returns whether a performance standby has not executed the request because its configuration does not allow the
/// header of [`forward_from_performance_standby`].
pub(crate) fn refuses_to_forward(response: &Response) -> bool {
    response.status == StatusCode::BAD_REQUEST
        && Envelope::of_error(response).mentions("forwarding via header")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(cluster: &str, value: u64) -> HeaderMap {
        let (cluster, value) = (cluster.to_owned(), value.to_string());
        let position = serde_json::to_vec(&Position { cluster, value }).unwrap();
        let header = STANDARD.encode(position).try_into().unwrap();
        HeaderMap::from_iter([(INDEX, header)])
    }

    #[test]
    fn lower_index_replaces_the_required_one_only_after_a_restored_snapshot() {
        let index = Index::default();
        index.record(&headers("a", 7));
        index.record(&headers("a", 5));
        let required = index.header().unwrap();
        assert_eq!(required, headers("a", 7)[INDEX]);

        // Another response has contained a higher index meanwhile.
        index.record(&headers("a", 8));
        index.record_reached(&headers("a", 5), &required);
        assert_eq!(index.header().unwrap(), headers("a", 8)[INDEX]);

        let required = index.header().unwrap();
        index.record_reached(&headers("a", 9), &required);
        let required = index.header().unwrap();
        assert_eq!(required, headers("a", 9)[INDEX]);
        index.record_reached(&headers("a", 3), &required);
        assert_eq!(index.header().unwrap(), headers("a", 3)[INDEX]);
    }
}
