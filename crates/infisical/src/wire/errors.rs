//! The errors of requests for secrets, folders and projects.

use http::StatusCode;
use secretwell_core::{Error, ErrorKind};
use secretwell_http::Response;

use super::body::ErrorBody;

/// The hint of an error about the rate limit.
pub(crate) const RATE_LIMIT_HINT: &str = "raise the ttl, or the server's rate limit";
/// The hint of an error about a response that an Infisical server would not send.
const ADDRESS_HINT: &str = "check that the address is that of an Infisical server";

/// The maximum length of a reference that an error quotes.
const MAX_QUOTED_CHARS: usize = 100;

/// Returns the error for a failed request for secrets, folders or projects. A response whose meaning is not
/// known is neither an absence nor a refusal.
pub(super) fn request_error(response: &Response) -> Error {
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
        400 | 404 | 500 if body.is_missing_environment() => no_such_environment(),
        404 if body.message_contains("Project with") => no_such_project(),
        404 if body.message_contains("Secret with name") => no_such_secret(),
        404 if body.is_missing_folder() => no_such_folder(),
        404 if body.is_missing_route() => no_api_route(&body),
        400 | 401 | 403 | 410 | 422 if body.is_validation_error() => invalid_request(),
        401 | 403 if body.is_about_reference() => Error::new(
            ErrorKind::Denied,
            "the login has no permission to read a referenced secret",
        )
        .with_hint("grant its role the permission to read the secret that the reference names"),
        401 | 403 if body.is_not_a_member() => Error::new(
            ErrorKind::Denied,
            "the machine identity is not a member of the project",
        )
        .with_hint("add it to the project, with a role that can read secrets"),
        401 | 403 if body.is_permission_error() => denied(),
        400 | 422 => invalid_request(),
        500..=599 => internal_error(),
        status => unknown_response(status),
    }
}

/// Returns whether the server reported an internal error without a cause. It responds like this to a
/// reference into a missing environment or folder. The error of a failed database has another name.
pub(crate) fn is_internal_error(response: &Response) -> bool {
    response.status == StatusCode::INTERNAL_SERVER_ERROR
        && ErrorBody::parse(response).is_internal_error()
}

/// Returns whether the server does not have the requested route. If another program responded to a probe,
/// the result is `true`: the official image of 2024 serves its web application for unknown routes.
pub(crate) fn is_unknown_route(response: &Response) -> bool {
    match response.status {
        StatusCode::NOT_FOUND if response.is_recognized() => {
            ErrorBody::parse(response).is_missing_route()
        }
        StatusCode::NOT_FOUND | StatusCode::GONE => true,
        StatusCode::METHOD_NOT_ALLOWED => !response.is_recognized(),
        _ => false,
    }
}

/// Returns whether the folder or its environment does not exist. The response does not show which one.
pub(crate) fn is_missing_place(response: &Response) -> bool {
    let body = ErrorBody::parse(response);
    response.status == StatusCode::NOT_FOUND
        && (body.is_missing_folder() || body.is_missing_environment())
}

/// Returns whether the server refused a request because of a missing permission.
pub(crate) fn is_permission_refusal(response: &Response) -> bool {
    let body = ErrorBody::parse(response);
    let is_refusal = matches!(response.status.as_u16(), 401 | 403);
    is_refusal && body.is_permission_error() && !body.is_not_a_member()
}

/// Returns whether the server refused a request because of a secret that the requested ones refer to.
pub(crate) fn is_reference_refusal(response: &Response) -> bool {
    let is_refusal = matches!(response.status.as_u16(), 401 | 403);
    is_refusal && ErrorBody::parse(response).is_about_reference()
}

pub(super) fn internal_error() -> Error {
    let message = "the server reported an internal error";
    Error::new(ErrorKind::Unavailable, message).with_hint("check the server's log")
}

/// Returns how an error names a reference. Text between braces is not always a reference. Only a text that could
/// name a secret is quoted, because another one might be a part of a secret value.
fn describe(reference: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-./@".contains(c);
    match reference.len() <= MAX_QUOTED_CHARS && reference.chars().all(is_plain) {
        true => format!("the reference `{reference}`"),
        false => "a reference".into(),
    }
}

/// Returns the error for a value that still contains `reference` after expansion.
pub(crate) fn unresolved_reference(reference: &str) -> Error {
    let message = format!("{} in the value cannot be resolved", describe(reference));
    Error::new(ErrorKind::Invalid, message)
        .with_hint("correct the reference, or turn off reference expansion")
}

/// Returns the error for an imported secret with `reference`, whose folder the server lists only without expansion.
pub(crate) fn unexpanded_import(reference: &str) -> Error {
    let message = format!(
        "{} of an imported secret is resolved only in a list of the folder, which the server refuses",
        describe(reference)
    );
    Error::new(ErrorKind::Invalid, message).with_hint(
        "grant the login's role the permission to read every secret of the folder and every secret that the \
         folder's references name",
    )
}

/// Returns the error for a personal value that only a list of the folder has.
pub(crate) fn no_personal_value() -> Error {
    let message = "the server does not return the login's own value in a read of one secret";
    Error::new(ErrorKind::Unsupported, message)
        .with_hint("grant its role the permission to read every value of the folder")
}

/// Returns the error for a secret that a list contains and that the server does not return by itself. That is not an
/// absence. The next list shows whether the secret was deleted.
pub(crate) fn not_returned() -> Error {
    let message = "the list of the folder contains the secret, but the server does not return it";
    Error::new(ErrorKind::Unavailable, message)
        .with_hint("repeat the read, because the secret might have been deleted a moment ago")
}

/// Returns the error for a secret that might be in an imported folder that the login must not read.
pub(crate) fn unreadable_import(environment: &str, path: &str) -> Error {
    let message = format!(
        "the login has no permission to read the imported folder `{}` of the environment `{}`, which might contain \
         the secret",
        path.escape_debug(),
        environment.escape_debug(),
    );
    Error::new(ErrorKind::Denied, message)
        .with_hint("grant its role the permission to read that folder, or turn off imports")
}

/// Returns the error for a version of a secret that was deleted or is overridden by another one of the same name.
pub(crate) fn other_secret() -> Error {
    let message = "the version does not belong to the current secret of this name";
    Error::new(ErrorKind::NotFound, message)
        .with_hint("versions of a secret that was deleted or is overridden are not returned")
}

pub(super) fn no_such_project() -> Error {
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

/// Returns the error for a route that the server does not have.
pub(super) fn no_api_route(body: &ErrorBody<'_>) -> Error {
    match body.path_before_api() {
        Some(path) => {
            let message = format!("the server has no Infisical API at the path `{path}`");
            Error::new(ErrorKind::InvalidConfig, message)
                .with_hint(format!("use the server's address without `{path}`"))
        }
        None => Error::new(
            ErrorKind::InvalidConfig,
            "the server does not have this API route",
        )
        .with_hint(ADDRESS_HINT),
    }
}

/// Returns the error for a response of the server whose meaning is not known.
pub(super) fn unknown_response(status: u16) -> Error {
    let message = format!("the server responded with status {status} and an unknown error");
    Error::new(ErrorKind::Unavailable, message).with_hint("check the server's log")
}

/// Returns the error for a successful response whose body is not `expected`.
pub(super) fn malformed(expected: &'static str) -> Error {
    let message = format!("the response is not {expected}");
    Error::new(ErrorKind::Malformed, message).with_hint(ADDRESS_HINT)
}
