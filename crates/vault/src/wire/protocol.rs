//! The classification of responses for the HTTP client.

use http::Method;
use secretwell_core::{Error, ErrorKind};
use secretwell_http::{Outcome, Protocol, Request, Response, parse_object, retry_after};
use serde::Deserialize;

use super::envelope::Envelope;
use super::index::HEALTH;
use super::recognition::{PLAIN_HTTP, recognizes};
use crate::header::NAMESPACE;

/// The path that reports, without a login, whether a server was ever initialized.
pub(crate) const SEAL_STATUS: &str = "/v1/sys/seal-status";
const SEALED: &str = "the server is sealed";

pub(crate) fn is_sealed(error: &Error) -> bool {
    error.message() == SEALED
}

/// Returns a more specific error for a server that seems to be sealed, if `response` from [`SEAL_STATUS`]
/// reports that it is not initialized.
pub(crate) fn seal_status(response: &Response) -> Option<Error> {
    #[derive(Deserialize)]
    struct Status {
        initialized: bool,
    }

    let status: Status = parse_object(&response.body)?;
    (!status.initialized).then(not_initialized)
}

fn not_initialized() -> Error {
    Error::new(ErrorKind::Unavailable, "the server is not initialized")
        .with_hint("initialize and unseal it")
}

/// The classification of Vault's responses for the HTTP client.
#[derive(Debug)]
pub(crate) struct Vault;

impl Protocol for Vault {
    fn server(&self) -> &'static str {
        "Vault or OpenBao"
    }

    fn recognizes(&self, request: &Request, response: &Response) -> bool {
        recognizes(request, response)
    }

    fn probe(&self) -> Option<Request> {
        Some(Request::new(Method::GET, HEALTH))
    }

    fn classify(&self, request: &Request, response: &Response) -> Outcome {
        if response.status.is_success() {
            return Outcome::Success;
        }
        let unavailable = |message| Error::new(ErrorKind::Unavailable, message);
        let body = Envelope::of_error(response);
        match response.status.as_u16() {
            404 if body.mentions("namespace not found") => Outcome::Fatal(no_namespace(request)),
            400 if body.mentions("cannot write to readonly storage") => {
                Outcome::NextEndpoint(unavailable("the server is a standby, which cannot do this"))
            }
            // A key-value mount whose version 1 is being changed to version 2.
            400 if body.mentions("will be unavailable for a brief period")
                || body.mentions("Waiting for the primary to upgrade") =>
            {
                Outcome::NextEndpoint(unavailable("the server is being upgraded"))
            }
            400 if response.body.starts_with(PLAIN_HTTP) => {
                let message = "the server requires TLS, but is addressed with plain HTTP";
                Outcome::Fatal(Error::new(ErrorKind::InvalidConfig, message).with_hint(
                    "begin the address with `https://`, or the URL of the source with `vault://`",
                ))
            }
            // The requests know which reasons they have. Plugins of the server choose some statuses themselves.
            400..=411 | 414..=428 | 430..=499 => Outcome::Success,
            300..=399 => Outcome::NextEndpoint(unavailable(
                "the server is a standby and does not know an active server",
            )),
            412 => Outcome::StaleReplica(unavailable("the data of the server is stale")),
            // OpenBao's response if it has not reached the requested index yet.
            429 if body.has_no_reason() => {
                Outcome::StaleReplica(unavailable("the data of the server is stale"))
            }
            429 => {
                let wait = retry_after(&response.headers);
                let kind = ErrorKind::RateLimited { retry_after: wait };
                let error = Error::new(kind, "a rate limit quota is exceeded")
                    .with_hint("raise the quota, or raise the ttl to send fewer requests");
                Outcome::RetryAfter(wait, error)
            }
            500 if body.mentions("local node not active") || body.mentions("leadership lost") => {
                Outcome::NextEndpoint(unavailable("the cluster has no active server"))
            }
            500 | 503 if is_sealed_text(&body) => {
                Outcome::NextEndpoint(unavailable(SEALED).with_hint("unseal it"))
            }
            500 if is_stopping(&body) => {
                Outcome::NextEndpoint(unavailable("the server is shutting down"))
            }
            501 => Outcome::NextEndpoint(not_initialized()),
            502..=504 => Outcome::NextEndpoint(unavailable("the server is not ready")),
            // The server's message is not quoted, because it might contain the host and user of a database.
            500..=599 => Outcome::ServerError(
                unavailable("the server reported an internal error").with_hint("check its log"),
            ),
            413 => Outcome::Fatal(Error::new(
                ErrorKind::TooLarge,
                "the request is too large for the server",
            )),
            status => Outcome::Fatal(
                Error::new(
                    ErrorKind::Malformed,
                    format!("the server responded with the unexpected status {status}"),
                )
                .with_hint("check that the address is that of a Vault or OpenBao server"),
            ),
        }
    }

    /// Returns `false` for a lost leadership, which can follow a successful write.
    fn did_nothing(&self, _: &Request, response: &Response) -> bool {
        let body = Envelope::of_error(response);
        match response.status.as_u16() {
            300..=400 | 501 => true,
            500 => body.mentions("local node not active") || is_sealed_text(&body),
            503 => is_sealed_text(&body),
            _ => false,
        }
    }
}

/// Returns whether the server is sealed, or is being sealed.
fn is_sealed_text(body: &Envelope<'_>) -> bool {
    body.mentions("sealed") || body.mentions("barrier")
}

/// Returns whether the server stopped during the request, so that the next request can succeed.
fn is_stopping(body: &Envelope<'_>) -> bool {
    let texts = ["shutting down", "context canceled", "leadership"];
    texts.iter().any(|text| body.mentions(text))
}

/// Returns the error for the namespace of a request that does not exist.
fn no_namespace(request: &Request) -> Error {
    let name = request
        .get_header(&NAMESPACE)
        .and_then(|name| name.to_str().ok());
    let message = match name {
        Some(name) => format!("the namespace `{}` does not exist", name.escape_debug()),
        None => "the namespace does not exist".to_owned(),
    };
    Error::new(ErrorKind::InvalidConfig, message)
        .with_hint("check its name, including upper and lower case")
}
