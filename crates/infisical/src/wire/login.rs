//! Responses to logins and token renewals.

use std::time::Duration;

use secretwell_core::{Error, ErrorKind, SecretValue};
use secretwell_http::Response;
use serde::Deserialize;

use super::{ErrorBody, malformed};

/// How long newer servers lock a login after three failed attempts.
const LOCKOUT: Duration = Duration::from_secs(5 * 60);

/// The token of a successful login or renewal.
pub(crate) struct LoginResponse {
    pub(crate) token: SecretValue,
    /// The time until the token expires, unless it is renewed. `None`: it does not expire.
    pub(crate) lifetime: Option<Duration>,
    /// The maximum time from the login to the expiry, including renewals. `None`: there is no maximum.
    pub(crate) max_lifetime: Option<Duration>,
}

/// Parses the response to a login or a renewal.
///
/// # Errors
/// Returns the reason if the server refused the request.
pub(crate) fn parse_login(response: &Response) -> Result<LoginResponse, Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct ResponseBody {
        access_token: SecretValue,
        expires_in: u64,
        #[serde(default, rename = "accessTokenMaxTTL")]
        max_ttl: u64,
    }

    if !response.status.is_success() {
        return Err(refusal(response));
    }
    let body: ResponseBody =
        serde_json::from_slice(&response.body).map_err(|_| malformed("a login"))?;
    let duration = |seconds| (seconds > 0).then(|| Duration::from_secs(seconds));
    Ok(LoginResponse {
        token: body.access_token,
        lifetime: duration(body.expires_in),
        max_lifetime: duration(body.max_ttl),
    })
}

/// Returns the error for a refused login. The server's message is matched, and never quoted.
fn refusal(response: &Response) -> Error {
    /// Parts of the server's messages, with our message for each.
    const REASONS: &[(&str, &str)] = &[
        (
            "Invalid credentials",
            "the client id or client secret is wrong",
        ),
        ("specified client ID", "the client id does not exist"),
        (
            "usage limit reached",
            "the client secret has reached its usage limit",
        ),
        ("expired client secret", "the client secret has expired"),
        (
            "auth method not found",
            "the machine identity does not have this login method",
        ),
        (
            "past its Max TTL",
            "the token has reached its maximum lifetime and cannot be renewed",
        ),
        (
            "No identity access token found",
            "the token is revoked or unknown",
        ),
        ("Your token has expired", "the token has expired"),
        (
            "Access denied",
            "the credential does not match the restrictions of the machine identity",
        ),
    ];
    let body = ErrorBody::parse(response);
    if response.status.is_server_error() {
        return super::internal_error();
    }
    if body.message_contains("locked") {
        return locked_out(LOCKOUT);
    }
    if body.is_validation_error() || response.status.as_u16() == 422 {
        return Error::new(
            ErrorKind::Unauthenticated,
            "the server rejected the login request as invalid",
        )
        .with_hint("check that the client id or identity id is complete");
    }
    let reason = REASONS.iter().find(|(text, _)| body.message_contains(text));
    let message = reason.map_or("the login was refused", |(_, message)| message);
    let error = Error::new(ErrorKind::Unauthenticated, message)
        .with_hint("replace the credential; this one is not sent again for five minutes");
    match body.error.as_ref() {
        // The server also responds with this name when the cluster's API server fails.
        "KubernetesTokenReviewError" => error
            .with_hint(
                "check that the service account is allowed, and that the cluster's API server works",
            )
            .temporary(),
        "" => super::unexpected_status(response.status.as_u16()),
        _ => error,
    }
}

/// Returns the error for a login that is locked for `remaining`.
pub(crate) fn locked_out(remaining: Duration) -> Error {
    let kind = ErrorKind::RateLimited {
        retry_after: Some(remaining),
    };
    Error::new(kind, "the login is locked after failed attempts")
        .with_hint("correct the credential, then wait or unlock the login on the server")
}
