//! Interpretation of the server's responses.
//!
//! Everything about version 3 of the API was observed on a self-hosted server of October 2024. Version 4
//! follows the source code, the tests and the documentation of newer servers.

use std::sync::Arc;

use http::Method;
use secretwell_core::{Error, ErrorKind};
use secretwell_http::{Outcome, Protocol, Request, Response, retry_after};

use crate::budget::{Pause, window_reset};

mod body;
mod errors;
mod login;
mod recognition;
mod secrets;
mod success;
#[cfg(test)]
mod tests;

use body::ErrorBody;
pub(crate) use errors::{
    RATE_LIMIT_HINT, is_internal_error, is_missing_place, is_permission_refusal,
    is_reference_refusal, is_unknown_route, no_personal_value, no_such_folder, no_such_secret,
    not_returned, other_secret, unexpanded_import, unreadable_import, unresolved_reference,
};
pub(crate) use login::{LoginResponse, is_wrong_credential, locked_out, parse_login};
pub(crate) use recognition::is_list_head;
pub(crate) use secrets::{
    Entry, ImportedFolder, Listing, Scope, SecretType, View, folder_names, imports, parse_single,
    project_id,
};

/// The path that reports, without a login, that the server runs.
pub(crate) const STATUS: &str = "/api/status";

/// The classification of responses for the HTTP client.
#[derive(Debug, Default)]
pub(crate) struct InfisicalProtocol {
    pub(crate) pause: Arc<Pause>,
}

impl Protocol for InfisicalProtocol {
    fn server(&self) -> &'static str {
        "Infisical"
    }

    fn recognizes(&self, request: &Request, response: &Response) -> bool {
        recognition::recognizes(request, response)
    }

    fn probe(&self) -> Option<Request> {
        Some(Request::new(Method::GET, STATUS))
    }

    fn classify(&self, _: &Request, response: &Response) -> Outcome {
        let body = ErrorBody::parse(response);
        let unavailable = |message| Error::new(ErrorKind::Unavailable, message);
        match response.status.as_u16() {
            // The meaning of these depends on the request, so the caller interprets them.
            200..=299 | 400 | 401 | 403 | 404 | 410 | 422 => Outcome::Success,
            429 => {
                let wait = retry_after(&response.headers);
                let wait = wait.or_else(|| window_reset(&response.headers));
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
                Outcome::Fatal(errors::no_such_project())
            }
            // The caller interprets these as well.
            500 if body.is_internal_error()
                || body.is_dead_jwt()
                || body.is_missing_environment() =>
            {
                Outcome::Success
            }
            502..=504 => Outcome::NextEndpoint(unavailable("the server is not ready")),
            500..=599 => Outcome::ServerError(errors::internal_error()),
            status => Outcome::Fatal(errors::unknown_response(status)),
        }
    }
}

/// Returns whether the server refused a request because its token is invalid or expired.
///
/// The server responds 401 to a dead token and to a bad query, and 403 to a dead token and to a missing
/// permission. Servers before August 2024 use the two statuses the other way round, and respond 400 or 500
/// to some dead tokens. The error's name therefore takes precedence over the status.
pub(crate) fn is_token_rejected(response: &Response) -> bool {
    let body = ErrorBody::parse(response);
    match response.status.as_u16() {
        401 | 403 => {
            let is_unknown_name = !body.has_known_name();
            body.is_token_error()
                || is_unknown_name && body.error.to_ascii_lowercase().contains("token")
        }
        400 => body.message_contains("number of uses limit reached"),
        404 => body.message_contains("Service token with ID"),
        500 => body.is_dead_jwt(),
        _ => false,
    }
}
