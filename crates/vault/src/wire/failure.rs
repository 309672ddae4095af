//! Responses to failed reads.

use http::StatusCode;
use secretwell_core::{Error, ErrorKind};
use secretwell_http::{Response, parse_object};
use serde::Deserialize;

use super::envelope::{Envelope, unexplained};

/// The reason for a 403 response to a request with a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Forbidden {
    /// The token is valid, but its policies do not allow the request.
    NoPermission,
    /// The token is not valid, or the response does not show which of the two reasons applies.
    BadToken,
    /// The response has an unknown text.
    Unknown,
}

/// Returns the reason for a 403 response, or `None` for another status. Only the error text differs.
pub(crate) fn forbidden(response: &Response) -> Option<Forbidden> {
    if response.status != StatusCode::FORBIDDEN {
        return None;
    }
    let body = Envelope::of_error(response);
    Some(
        if body.mentions("invalid token") || body.says_only("permission denied") {
            Forbidden::BadToken
        } else if body.mentions("permission denied") || body.mentions("preflight capability check")
        {
            Forbidden::NoPermission
        } else {
            Forbidden::Unknown
        },
    )
}

const NO_MOUNT: &str = "the mount does not exist";

/// Returns whether the server reported that no mount exists for the path of a request.
pub(crate) fn is_missing_mount(error: &Error) -> bool {
    error.message() == NO_MOUNT
}

/// Returns the error of a mount with KV version 2 that was read as version 1.
pub(crate) fn wrong_version_1() -> Error {
    let message = "the mount has KV version 2, but was read as version 1";
    Error::new(ErrorKind::InvalidConfig, message)
        .with_hint("set `kv=2`, or leave the setting out to detect the version")
}

/// Returns the error of a mount with KV version 1 that was read as version 2. The server's response to such a
/// read is the same as for a missing secret.
pub(crate) fn wrong_version_2() -> Error {
    let message = "the mount has KV version 1, but was read as version 2";
    Error::new(ErrorKind::InvalidConfig, message)
        .with_hint("set `kv=1`, or leave the setting out to detect the version")
}

/// Returns the error of a failed read of `path`, which is the path in the server's policies.
///
/// A 404 has several meanings. Only an empty list of errors, and a deleted version, mean that the secret does
/// not exist.
pub(crate) fn read_error(response: &Response, path: &str) -> Error {
    #[derive(Deserialize)]
    struct Deleted {
        metadata: Metadata,
    }

    #[derive(Deserialize)]
    struct Metadata {
        destroyed: bool,
        deletion_time: String,
    }

    let body = Envelope::of_error(response);
    let deleted: Option<Deleted> = body
        .data
        .and_then(|data| parse_object(data.get().as_bytes()));
    let shown = path.escape_debug();
    let absent = |message| Error::new(ErrorKind::NotFound, message);
    let misconfigured = |message| Error::new(ErrorKind::InvalidConfig, message);
    match (response.status.as_u16(), deleted) {
        (404, _) if body.mentions("Invalid path for a versioned K/V") => wrong_version_1(),
        (404, _) if body.mentions("no handler for route") => {
            misconfigured(NO_MOUNT).with_hint("check its name with `vault secrets list`")
        }
        (404, _) if body.mentions("unsupported path") => {
            misconfigured("the engine at the mount has no such path")
                .with_hint("check the path, and the type of the engine")
        }
        (404, Some(deleted)) if deleted.metadata.destroyed => {
            absent(format!("this version of `{shown}` was destroyed"))
                .with_hint("write the secret again, or read another version")
        }
        (404, Some(deleted)) if !deleted.metadata.deletion_time.is_empty() => {
            absent(format!("this version of `{shown}` was deleted"))
                .with_hint("undelete it, or write the secret again")
        }
        (404, None) if body.has_no_reason() => {
            absent(format!("the secret `{shown}` does not exist"))
                .with_hint("create it, or add a source that has it")
        }
        (403, _) if forbidden(response) != Some(Forbidden::Unknown) => {
            denied("reading", "read", path)
        }
        (405, _) => misconfigured("the path does not support this request")
            .with_hint("check the path; a dynamic secret that is created by a write needs a body"),
        (400, _) if body.errors.is_none() || body.mentions("relative paths") => Error::new(
            ErrorKind::InvalidKey,
            "the server does not accept this name",
        )
        .with_hint("rename the secret"),
        (400, _) if body.mentions("unknown role") => {
            misconfigured("the role does not exist").with_hint("check the roles of the engine")
        }
        // For example, the role of a dynamic secret does not allow the requested parameters.
        (400, _) => misconfigured("the server rejected the request")
            .with_hint("check the path, its role, and the body of a dynamic secret"),
        _ => unexplained(response),
    }
}

/// Returns the error for a path that is written with a body, and whose policies do not allow that.
pub(crate) fn denied_write(path: &str) -> Error {
    denied("writing", "update", path)
}

/// Returns the error for a path that the policies of the login do not allow. `verb` describes what the policies
/// do not allow, and `capability` allows it.
pub(super) fn denied(verb: &str, capability: &str, path: &str) -> Error {
    let path = path.escape_debug();
    let message = format!("the policy does not allow {verb} `{path}`");
    Error::new(ErrorKind::Denied, message).with_hint(format!(
        "grant `{capability}` on the path to the login's policy"
    ))
}
