//! Interpretation of the server's responses.
//!
//! Everything about version 3 of the API was observed on a self-hosted server of October 2024. Version 4
//! follows the source code and the documentation of newer servers.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use secretwell_core::{Error, ErrorKind};
use secretwell_http::{Outcome, Protocol, Response, retry_after};
use serde::{Deserialize, Serialize};

use crate::budget::Pause;

mod login;
mod secrets;
#[cfg(test)]
mod tests;

pub(crate) use login::{LoginResponse, locked_out, parse_login};
pub(crate) use secrets::{Entry, Listing, find_reference, folder_names, parse_single, project_id};

/// A version of the API for secrets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum ApiVersion {
    /// `/api/v3/secrets/raw`. Every server has it.
    #[serde(rename = "3", alias = "v3")]
    V3,
    /// `/api/v4/secrets`. Only newer servers have it.
    #[serde(rename = "4", alias = "v4")]
    V4,
}

/// The body of an error response. Every field is optional, because it differs between server versions.
#[derive(Deserialize, Default)]
struct ErrorBody<'a> {
    /// The error's name, such as `NotFound`.
    #[serde(borrow, default)]
    error: Cow<'a, str>,
    #[serde(borrow, default)]
    message: Message<'a>,
}

/// A text, or the list of all validation issues of a request.
#[derive(Deserialize)]
#[serde(untagged)]
enum Message<'a> {
    Text(#[serde(borrow)] Cow<'a, str>),
    List(serde::de::IgnoredAny),
}

impl Default for Message<'_> {
    fn default() -> Self {
        Self::Text(Cow::Borrowed(""))
    }
}

impl<'a> ErrorBody<'a> {
    /// Parses the body of an error response. Returns an empty body for a successful response, because that
    /// might be large. Also returns an empty body if another program has responded.
    fn parse(response: &'a Response) -> Self {
        match response.status.is_success() {
            true => Self::default(),
            false => serde_json::from_slice(&response.body).unwrap_or_default(),
        }
    }

    fn message_contains(&self, text: &str) -> bool {
        matches!(&self.message, Message::Text(message) if message.contains(text))
    }

    /// Returns whether the server rejected the form of the request. Its message is then a list of issues.
    fn is_validation_error(&self) -> bool {
        self.error == "ValidationFailure" || matches!(self.message, Message::List(_))
    }

    /// Returns whether the login is valid, but has no permission for the request.
    fn is_permission_error(&self) -> bool {
        const NAMES: [&str; 3] = ["PermissionDenied", "ForbiddenError", "PolicyViolationError"];
        NAMES.contains(&self.error.as_ref()) || self.is_not_a_member()
    }

    /// Returns whether the server reported a failure without a cause.
    fn is_internal_error(&self) -> bool {
        self.error == "InternalServerError"
    }

    fn is_not_a_member(&self) -> bool {
        self.error.contains("not a member") || self.message_contains("not a member")
    }
}

/// The classification of responses for the HTTP client.
#[derive(Debug, Default)]
pub(crate) struct InfisicalProtocol {
    pub(crate) pause: Arc<Pause>,
}

impl Protocol for InfisicalProtocol {
    fn classify(&self, response: &Response) -> Outcome {
        let body = ErrorBody::parse(response);
        let unavailable = |message| Error::new(ErrorKind::Unavailable, message);
        match response.status.as_u16() {
            // The meaning of these depends on the request, so the caller interprets them.
            200..=299 | 304 | 400 | 401 | 403 | 404 | 410 | 422 => Outcome::Success,
            429 => {
                let reset = response.headers.get("x-ratelimit-reset");
                let reset = reset.and_then(|value| value.to_str().ok()?.trim().parse().ok());
                let wait = retry_after(&response.headers).or(reset.map(Duration::from_secs));
                // Concurrent requests of the provider must wait as well.
                self.pause.extend(wait.unwrap_or_default());
                let kind = ErrorKind::RateLimited { retry_after: wait };
                let error = Error::new(kind, "the server's rate limit is reached")
                    .with_hint(RATE_LIMIT_HINT);
                Outcome::RetryAfter(wait, error)
            }
            431 => Outcome::Fatal(Error::new(
                ErrorKind::InvalidKey,
                "the name is too long for the server",
            )),
            500 if body.error.to_ascii_lowercase().contains("project by slug") => {
                Outcome::Fatal(no_such_project())
            }
            502..=504 => Outcome::NextEndpoint(unavailable("the server is not ready")),
            // The caller interprets this one as well.
            500 if body.is_internal_error() => Outcome::Success,
            // The server also responds with 500 to an invalid path. Another address would not help.
            500..=599 => Outcome::Fatal(internal_error()),
            status => Outcome::Fatal(unexpected_status(status)),
        }
    }
}

/// Returns whether the server refused a request because its token is invalid or expired.
///
/// The server responds 401 to a dead token and to a bad query, and 403 to a dead token and to a missing
/// permission. Servers before August 2024 use the two statuses the other way round. The error's name
/// therefore takes precedence over the status.
pub(crate) fn is_token_rejected(response: &Response) -> bool {
    let body = ErrorBody::parse(response);
    match (response.status.as_u16(), body.error.as_ref()) {
        (401 | 403, "TokenError" | "UnauthorizedError") => true,
        // The response has no error name, so a proxy might have sent it.
        (401, "") => false,
        (401, _) => !body.is_validation_error() && !body.is_permission_error(),
        (404, _) => body.message_contains("Service token with ID"),
        _ => false,
    }
}

/// Returns whether the server reported an internal error without a cause. It responds like this to a
/// reference into a missing environment or folder. The error of a failed database has another name.
pub(crate) fn is_internal_error(response: &Response) -> bool {
    response.status == StatusCode::INTERNAL_SERVER_ERROR
        && ErrorBody::parse(response).is_internal_error()
}

/// Returns whether the server does not have the requested route.
pub(crate) fn is_unknown_route(response: &Response) -> bool {
    let body = ErrorBody::parse(response);
    let no_route = body.error == "Not Found" && body.message_contains("Route ");
    no_route && response.status == StatusCode::NOT_FOUND || response.status == StatusCode::GONE
}

/// Returns the error for a failed request for secrets, folders or projects.
fn request_error(response: &Response) -> Error {
    let body = ErrorBody::parse(response);
    let denied = || {
        let message = "the login has no permission to read this";
        Error::new(ErrorKind::Denied, message)
            .with_hint("grant its role the permission to read secrets here")
    };
    let invalid_request = || {
        let message = "the server rejected the request as invalid";
        Error::new(ErrorKind::InvalidConfig, message)
            .with_hint("check the project, the environment and the folder")
    };
    match response.status.as_u16() {
        404 if body.message_contains("Project with") => no_such_project(),
        404 if body.message_contains("Secret with name") => no_such_secret(),
        // Every environment has a root folder, so the environment is missing.
        404 if body.message_contains("Folder with path '/' in") => no_such_environment(),
        404 if body.message_contains("Folder with path") => no_such_folder(),
        404 if is_unknown_route(response) => Error::new(
            ErrorKind::InvalidConfig,
            "the server does not have this API route",
        )
        .with_hint(ADDRESS_HINT),
        400 | 401 | 403 | 410 | 422 if body.is_validation_error() => invalid_request(),
        401 | 403 if body.message_contains("reference") => Error::new(
            ErrorKind::Denied,
            "the login has no permission to read a referenced secret",
        )
        .with_hint("grant its role the permission to read the secret that the reference names"),
        401 | 403 if body.is_not_a_member() => Error::new(
            ErrorKind::Denied,
            "the machine identity is not a member of the project",
        )
        .with_hint("add it to the project, with a role that can read secrets"),
        401 if body.is_permission_error() => denied(),
        403 if !body.error.is_empty() => denied(),
        400 | 401 | 410 | 422 if !body.error.is_empty() => invalid_request(),
        500..=599 => internal_error(),
        status => unexpected_status(status),
    }
}

/// The hint of an error about the rate limit.
pub(crate) const RATE_LIMIT_HINT: &str = "raise the ttl, or the server's rate limit";
/// The hint of an error about a response that an Infisical server would not send.
const ADDRESS_HINT: &str = "check that the address is that of an Infisical server";

fn internal_error() -> Error {
    let message = "the server reported an internal error";
    Error::new(ErrorKind::Unavailable, message).with_hint("check the server's log")
}

/// Returns the error for a value that still contains `reference` after expansion.
pub(crate) fn unresolved_reference(reference: &str) -> Error {
    let message = format!("the reference `{reference}` in the value cannot be resolved");
    Error::new(ErrorKind::Invalid, message)
        .with_hint("correct the reference, or turn off reference expansion")
}

fn no_such_project() -> Error {
    Error::new(ErrorKind::InvalidConfig, "the project does not exist")
        .with_hint("use the id or slug from the project's settings")
}

fn no_such_environment() -> Error {
    Error::new(
        ErrorKind::InvalidConfig,
        "the project does not have this environment",
    )
    .with_hint("use the environment's slug, such as `prod`, which is case-sensitive")
}

pub(crate) fn no_such_secret() -> Error {
    Error::new(ErrorKind::NotFound, "the secret does not exist")
        .with_hint("create it, or add a source that has it")
}

pub(crate) fn no_such_folder() -> Error {
    Error::new(ErrorKind::NotFound, "the folder does not exist")
        .with_hint("create it, or check the path, which is case-sensitive")
}

fn unexpected_status(status: u16) -> Error {
    let message = format!("the server responded with status {status}");
    Error::new(ErrorKind::Malformed, message).with_hint(ADDRESS_HINT)
}

/// Returns the error for a successful response whose body is not `expected`.
fn malformed(expected: &'static str) -> Error {
    let message = format!("the response is not {expected}");
    Error::new(ErrorKind::Malformed, message).with_hint(ADDRESS_HINT)
}
