//! What a backend implements: the meaning of its responses.

use std::fmt;
use std::time::Duration;

use secretwell_core::Error;

use crate::request::Request;
use crate::response::Response;

/// The meaning of a backend's responses.
pub trait Protocol: fmt::Debug + Send + Sync + 'static {
    /// Returns the name of the server for messages, such as `Vault or OpenBao`.
    fn server(&self) -> &'static str;

    /// Returns whether the backend sent `response`, judged by its shape. A gateway, a proxy or a sign-in page
    /// can respond in its place. Its responses never mean anything about a secret, whatever their status is.
    ///
    /// The client calls this before [`classify`](Self::classify), which it calls only for responses of the
    /// backend. For a large body, [`has_member`](crate::has_member) is cheap.
    fn recognizes(&self, request: &Request, response: &Response) -> bool;

    /// Returns a request without effect and without a token, to which each server responds at once and by
    /// itself. If there are several servers, the client sends it before a
    /// [non-idempotent](Request::non_idempotent) request, to find one that does not hang. Default: `None`.
    fn probe(&self) -> Option<Request> {
        None
    }

    /// Decides what the client does with a response of the backend. The errors must not quote the body of a
    /// successful response.
    fn classify(&self, request: &Request, response: &Response) -> Outcome;

    /// Returns whether it is certain that the server did not execute the request. The client calls this for
    /// responses with the outcome [`Outcome::NextEndpoint`] or [`Outcome::ServerError`]. A
    /// [non-idempotent](Request::non_idempotent) request is sent to the next server only if this returns
    /// `true`. Default: `false`.
    fn did_nothing(&self, _request: &Request, _response: &Response) -> bool {
        false
    }
}

/// What the client does with a response.
#[derive(Debug)]
#[non_exhaustive]
pub enum Outcome {
    /// Returns the response to the caller.
    Success,
    /// Returns the error to the caller. No other server is tried.
    Fatal(Error),
    /// Tries the next server, because this one is not available. If no server is available before the
    /// deadline, the error is returned to the caller.
    NextEndpoint(Error),
    /// Tries the next server, because this one failed for an unknown reason. Each server is tried at most
    /// three times, because the failure might be permanent. Then the error is returned to the caller.
    ServerError(Error),
    /// Tries the next server, because the data of this one is older than the
    /// [consistency header](Request::consistency) requires.
    StaleReplica(Error),
    /// Waits before the next attempt, because the request was rate limited. The duration is from the
    /// response's `Retry-After` header. The wait is at least the usual backoff.
    RetryAfter(Option<Duration>, Error),
}
