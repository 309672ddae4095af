//! What the server says, and what it means.
//!
//! Of version 3 of the API all is as observed on a self-hosted server of October 2024; of version 4 it is
//! as newer sources and documents have it.

use std::borrow::Cow;
use std::sync::Arc;

use http::StatusCode;
use secretwell_core::{Error, ErrorKind};
use secretwell_http::{Outcome, Protocol, Response, retry_after};
use serde::{Deserialize, Serialize};

use crate::budget::Pause;

mod login;
mod secrets;
#[cfg(test)]
mod tests;

pub(crate) use login::{Granted, granted, locked};
pub(crate) use secrets::{Entry, Listing, folder_names, leftover, project_id, single};

/// The version of the API for secrets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum ApiVersion {
    /// `/api/v3/secrets/raw`, which every server has.
    V3,
    /// `/api/v4/secrets`, of newer servers.
    V4,
}

/// What every error looks like. Servers of other versions leave out or add fields.
#[derive(Deserialize, Default)]
struct Failure<'a> {
    #[serde(borrow, default)]
    error: Cow<'a, str>,
    #[serde(borrow, default)]
    message: Message<'a>,
}

/// A text, or the list of everything that is wrong with a request.
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

impl<'a> Failure<'a> {
    /// What the body tells; nothing where it is none of this server's, or a success, which may be large.
    fn of(response: &'a Response) -> Self {
        match response.status.is_success() {
            true => Self::default(),
            false => serde_json::from_slice(&response.body).unwrap_or_default(),
        }
    }

    fn says(&self, text: &str) -> bool {
        matches!(&self.message, Message::Text(message) if message.contains(text))
    }

    /// Whether the request is not as it should be; then all that is wrong is listed.
    fn is_about_the_form(&self) -> bool {
        self.error == "ValidationFailure" || matches!(self.message, Message::List(_))
    }

    /// Whether it is a good login's that may not do this.
    fn is_about_permission(&self) -> bool {
        const NAMES: [&str; 3] = ["PermissionDenied", "ForbiddenError", "PolicyViolationError"];
        NAMES.contains(&self.error.as_ref()) || self.is_no_member()
    }

    /// Whether the server says no more than that it failed.
    fn is_own_error(&self) -> bool {
        self.error == "InternalServerError"
    }

    fn is_no_member(&self) -> bool {
        self.error.contains("not a member") || self.says("not a member")
    }
}

/// Which server to ask, and when to ask again.
#[derive(Debug, Default)]
pub(crate) struct Infisical {
    pub(crate) pause: Arc<Pause>,
}

impl Protocol for Infisical {
    fn classify(&self, response: &Response) -> Outcome {
        let body = Failure::of(response);
        let unavailable = |message| Error::new(ErrorKind::Unavailable, message);
        match response.status.as_u16() {
            // What these say depends on what was asked, and so does an error of the server's own.
            200..=299 | 304 | 400 | 401 | 403 | 404 | 410 | 422 => Outcome::Success,
            429 => {
                let reset = response.headers.get("x-ratelimit-reset");
                let reset = reset.and_then(|value| value.to_str().ok()?.trim().parse().ok());
                let wait =
                    retry_after(&response.headers).or(reset.map(std::time::Duration::from_secs));
                // Also for whoever asks meanwhile.
                self.pause.note(wait.unwrap_or_default());
                let kind = ErrorKind::RateLimited { retry_after: wait };
                let error = Error::new(kind, "the server's rate limit is reached")
                    .with_hint("raise the ttl, or the limit");
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
            500 if body.is_own_error() => Outcome::Success,
            // Also what it says of a path that leads nowhere.
            500..=599 => Outcome::Fatal(own_error()),
            status => Outcome::Fatal(malformed_status(status)),
        }
    }
}

/// Whether a request was refused because its token is no good, or no longer. The server says 401 of a dead
/// token and of a bad query, and 403 of a dead token and of a missing permission; servers before August
/// 2024 have the two the other way round. So the name counts before the status.
pub(crate) fn is_dead_token(response: &Response) -> bool {
    let body = Failure::of(response);
    match (response.status.as_u16(), body.error.as_ref()) {
        (401 | 403, "TokenError" | "UnauthorizedError") => true,
        // Not a word, as from a proxy or without a body.
        (401, "") => false,
        (401, _) => !body.is_about_the_form() && !body.is_about_permission(),
        (404, _) => body.says("Service token with ID"),
        _ => false,
    }
}

/// Whether the server failed by itself, which is what it says of a reference into an environment or folder
/// that there is none of. What is said of a database that fails has another name.
pub(crate) fn is_own_error(response: &Response) -> bool {
    response.status == StatusCode::INTERNAL_SERVER_ERROR && Failure::of(response).is_own_error()
}

/// Whether the server has no such route at all.
pub(crate) fn is_unknown_route(response: &Response) -> bool {
    let body = Failure::of(response);
    let route = body.error == "Not Found" && body.says("Route ");
    route && response.status == StatusCode::NOT_FOUND || response.status == StatusCode::GONE
}

/// Why a request for secrets was not answered with any.
fn why_not(response: &Response) -> Error {
    let body = Failure::of(response);
    let denied = || {
        Error::new(ErrorKind::Denied, "the login may not read this")
            .with_hint("give its role the permission to read secrets here")
    };
    let not_taken = || {
        let message = "the server does not take the request";
        Error::new(ErrorKind::InvalidConfig, message)
            .with_hint("are project, environment and folder right?")
    };
    match response.status.as_u16() {
        404 if body.says("Project with") => no_such_project(),
        404 if body.says("Secret with name") => no_such_secret(),
        // The root folder is there whenever its environment is.
        404 if body.says("Folder with path '/' in") => no_such_environment(),
        404 if body.says("Folder with path") => no_such_folder(),
        404 if is_unknown_route(response) => Error::new(
            ErrorKind::InvalidConfig,
            "the server does not have this API",
        )
        .with_hint("is the address that of an Infisical server?"),
        400 | 401 | 403 | 410 | 422 if body.is_about_the_form() => not_taken(),
        401 | 403 if body.says("reference") => Error::new(
            ErrorKind::Denied,
            "the login may not read what this refers to",
        )
        .with_hint("grant its role to read the secret that the reference names"),
        401 | 403 if body.is_no_member() => Error::new(
            ErrorKind::Denied,
            "the machine identity is no member of the project",
        )
        .with_hint("add it to the project, with a role that may read secrets"),
        401 if body.is_about_permission() => denied(),
        403 if !body.error.is_empty() => denied(),
        400 | 401 | 410 | 422 if !body.error.is_empty() => not_taken(),
        500..=599 => own_error(),
        status => malformed_status(status),
    }
}

fn own_error() -> Error {
    let message = "the server had an error of its own";
    Error::new(ErrorKind::Unavailable, message).with_hint("look at its log")
}

/// That a reference is left in a value that should have none.
pub(crate) fn unresolved(reference: &str) -> Error {
    let message = format!("its reference `{reference}` leads to no secret");
    Error::new(ErrorKind::Invalid, message)
        .with_hint("correct the reference, or read without expanding references")
}

fn no_such_project() -> Error {
    Error::new(ErrorKind::InvalidConfig, "there is no such project")
        .with_hint("give the project's id or slug, as in its settings")
}

pub(crate) fn no_such_environment() -> Error {
    Error::new(
        ErrorKind::InvalidConfig,
        "the project has no such environment",
    )
    .with_hint("give the environment's slug, such as `prod`; its case matters")
}

pub(crate) fn no_such_secret() -> Error {
    Error::new(ErrorKind::NotFound, "there is no such secret")
        .with_hint("write it, or add a source that has it")
}

pub(crate) fn no_such_folder() -> Error {
    Error::new(ErrorKind::NotFound, "there is no such folder")
        .with_hint("make it, or look at the path; its case matters")
}

fn malformed_status(status: u16) -> Error {
    Error::new(
        ErrorKind::Malformed,
        format!("the server answers with status {status}"),
    )
    .with_hint("is the address that of an Infisical server?")
}

fn malformed(what: &'static str) -> Error {
    Error::new(
        ErrorKind::Malformed,
        format!("the answer makes no sense: {what}"),
    )
    .with_hint("is the address that of an Infisical server?")
}
