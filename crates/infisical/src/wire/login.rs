//! What the server says to a login.

use std::time::Duration;

use secretwell_core::{Error, ErrorKind, SecretValue};
use secretwell_http::Response;
use serde::Deserialize;

use super::{Failure, malformed};

/// For how long newer servers lock a login out, after three wrong ones.
const LOCKOUT: Duration = Duration::from_secs(5 * 60);

/// What a login or a renewal brought.
pub(crate) struct Granted {
    pub(crate) token: SecretValue,
    /// For how long, unless it is renewed; `None` without an end.
    pub(crate) lifetime: Option<Duration>,
    /// For how long at most since the login; `None` without an end.
    pub(crate) maximum: Option<Duration>,
}

/// The token that a login or a renewal brought.
///
/// # Errors
/// Why it was refused.
pub(crate) fn granted(response: &Response) -> Result<Granted, Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct ResponseBody {
        access_token: SecretValue,
        expires_in: u64,
        #[serde(default, rename = "accessTokenMaxTTL")]
        maximum: u64,
    }

    if !response.status.is_success() {
        return Err(refused(response));
    }
    let answer: ResponseBody =
        serde_json::from_slice(&response.body).map_err(|_| malformed("it is no login's answer"))?;
    let time = |seconds| (seconds > 0).then(|| Duration::from_secs(seconds));
    Ok(Granted {
        token: answer.access_token,
        lifetime: time(answer.expires_in),
        maximum: time(answer.maximum),
    })
}

/// Why a login was refused. The server's words are matched and never repeated.
fn refused(response: &Response) -> Error {
    const KNOWN: &[(&str, &str)] = &[
        (
            "Invalid credentials",
            "client id or client secret is not good",
        ),
        ("specified client ID", "there is no such client id"),
        ("usage limit reached", "the client secret has been used up"),
        ("expired client secret", "the client secret has expired"),
        (
            "auth method not found",
            "the machine identity has no such login",
        ),
        ("past its Max TTL", "the token cannot be renewed any more"),
        ("No identity access token found", "the token is gone"),
        ("Your token has expired", "the token has come to its end"),
        (
            "Access denied",
            "what the identity is bound to does not fit",
        ),
    ];
    let body = Failure::of(response);
    if response.status.is_server_error() {
        return super::own_error();
    }
    if body.says("locked") {
        return locked(LOCKOUT);
    }
    if body.is_about_the_form() || response.status.as_u16() == 422 {
        return Error::new(
            ErrorKind::Unauthenticated,
            "the server does not take the form of the login",
        )
        .with_hint("is the client or identity id a whole one?");
    }
    let known = KNOWN.iter().find(|(text, _)| body.says(text));
    let seen = known.map_or("the login was refused", |(_, meaning)| meaning);
    let error = Error::new(ErrorKind::Unauthenticated, seen)
        .with_hint("give it another credential; this one is not sent again for a while");
    match body.error.as_ref() {
        // Also what it says when the cluster's own API fails.
        "KubernetesTokenReviewError" => error
            .with_hint(
                "is the service account the one that is allowed, and is the cluster's API up?",
            )
            .temporary(),
        "" => super::malformed_status(response.status.as_u16()),
        _ => error,
    }
}

/// That a login is taken no more for as long.
pub(crate) fn locked(wait: Duration) -> Error {
    let kind = ErrorKind::RateLimited {
        retry_after: Some(wait),
    };
    Error::new(kind, "the login is locked after wrong ones")
        .with_hint("correct the credential, and wait or unlock it")
}
