//! A request to a backend.

use std::fmt;

use bytes::Bytes;
use http::header::{IF_NONE_MATCH, InvalidHeaderValue};
use http::{HeaderName, HeaderValue, Method};
use secretwell_core::{Error, ErrorKind, SecretValue};
use zeroize::Zeroizing;

/// A request to a backend. The [`Client`](crate::Client) chooses the server.
#[derive(Clone)]
pub struct Request {
    method: Method,
    path: String,
    /// Each name occurs once.
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    pub(crate) body: Option<SecretValue>,
    /// Omitted if every server that responds is a stale replica.
    pub(crate) consistency: Option<(HeaderName, HeaderValue)>,
    non_idempotent: bool,
    expectation: Expect,
}

/// The response that a request needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Expect {
    /// A response of the backend.
    #[default]
    Body,
    /// A response that shows whether the server has a route or a version. A response with the status 404,
    /// 405 or 410 is returned to the caller even if the backend did not send it.
    Probe,
    /// A confirmation. It can be an empty response with the status 204.
    NoContent,
}

impl Request {
    /// Creates a request for `path`. The path must begin with a slash and be percent-encoded, and can have a
    /// query.
    pub fn new(method: Method, path: impl Into<String>) -> Self {
        Self {
            method,
            path: path.into(),
            headers: Vec::new(),
            body: None,
            consistency: None,
            non_idempotent: false,
            expectation: Expect::default(),
        }
    }

    /// Adds a header whose value is not secret.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.retain(|(known, _)| *known != name);
        self.headers.push((name, value));
        self
    }

    /// Adds a header with a secret value. The value is marked as sensitive, so that no log prints it. It is
    /// wiped when the last request that contains it is dropped.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Invalid`] if the value contains a line break or another byte that is not allowed
    /// in a header.
    pub fn secret_header(self, name: HeaderName, value: &[u8]) -> Result<Self, Error> {
        let value = secret_header_value(value).map_err(|_| invalid_token())?;
        Ok(self.header(name, value))
    }

    /// Adds a header that requires a replicated server to have reached a certain state of its data. If every
    /// server that responds is a [stale replica](crate::Outcome::StaleReplica), the request is sent without
    /// it.
    #[must_use]
    pub fn consistency(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.consistency = Some((name, value));
        self
    }

    /// Sets a JSON body, and the `Content-Type` header that belongs to it.
    #[must_use]
    pub fn json(mut self, body: SecretValue) -> Self {
        self.body = Some(body);
        let json = HeaderValue::from_static("application/json");
        self.header(http::header::CONTENT_TYPE, json)
    }

    /// Marks the request as one that must not be executed twice. It is not sent again once a server might
    /// have received it.
    #[must_use]
    pub fn non_idempotent(mut self) -> Self {
        self.non_idempotent = true;
        self
    }

    /// Sets which response the request needs. Default: [`Expect::Body`].
    #[must_use]
    pub fn expect(mut self, expectation: Expect) -> Self {
        self.expectation = expectation;
        self
    }

    /// Returns the method.
    pub fn method(&self) -> &Method {
        &self.method
    }

    /// Returns the path and the query.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Returns the value of a header, or `None` if the request does not have it.
    pub fn get_header(&self, name: &HeaderName) -> Option<&HeaderValue> {
        let (_, value) = self.headers.iter().find(|(known, _)| known == name)?;
        Some(value)
    }

    /// Returns which response the request needs.
    pub fn expectation(&self) -> Expect {
        self.expectation
    }

    /// Returns whether the server can respond that the caller's version is current, with the status 304.
    pub fn is_conditional(&self) -> bool {
        self.get_header(&IF_NONE_MATCH).is_some()
    }

    /// Returns whether the request can be sent again although a server might have executed it.
    pub fn is_idempotent(&self) -> bool {
        !self.non_idempotent
    }
}

/// Returns the value of a header that is marked as sensitive, and wiped when its last clone is dropped.
///
/// # Errors
/// Fails if the value contains a line break or another byte that is not allowed in a header.
pub(crate) fn secret_header_value(value: &[u8]) -> Result<HeaderValue, InvalidHeaderValue> {
    let value = Bytes::from_owner(Zeroizing::new(value.to_vec()));
    let mut value = HeaderValue::from_maybe_shared(value)?;
    value.set_sensitive(true);
    Ok(value)
}

/// Returns the error for a token that a header cannot contain.
pub(crate) fn invalid_token() -> Error {
    let message = "the token contains bytes that are not allowed in a header";
    Error::new(ErrorKind::Invalid, message).with_hint("check whether it contains a line break")
}

/// Omits headers and body, which contain tokens and credentials.
impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("method", &self.method)
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}
