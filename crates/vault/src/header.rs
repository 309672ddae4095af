//! The headers of requests.

use http::{HeaderName, HeaderValue};
use secretwell_core::Error;
use secretwell_http::Request;

use crate::error::invalid;

pub(crate) const TOKEN: HeaderName = HeaderName::from_static("x-vault-token");
pub(crate) const NAMESPACE: HeaderName = HeaderName::from_static("x-vault-namespace");
/// A proxy with `require_request_header` rejects requests without this header.
const REQUEST: HeaderName = HeaderName::from_static("x-vault-request");

/// Returns the header value for a namespace.
pub(crate) fn namespace(name: &str) -> Result<HeaderValue, Error> {
    HeaderValue::from_str(name.trim_matches('/'))
        .map_err(|_| invalid("the namespace contains a character that is not allowed in a header"))
}

/// Adds the headers of every request. Without a `namespace`, the request is for the root namespace.
pub(crate) fn with_headers(request: Request, namespace: Option<&HeaderValue>) -> Request {
    let request = request.header(REQUEST, HeaderValue::from_static("true"));
    match namespace {
        Some(namespace) => request.header(NAMESPACE, namespace.clone()),
        None => request,
    }
}
