//! Responses to logins and token renewals.

use std::time::Duration;

use secretwell_core::{Error, ErrorKind, SecretValue};
use secretwell_http::Response;
use serde::Deserialize;

use super::body::ErrorBody;
use super::errors::{internal_error, no_api_route, unknown_response};
use super::success::parse_success;

/// How long a locked login is not attempted. Newer servers lock a login for 30 s to one day, depending on their
/// configuration. They do not count attempts while it is locked, and forget failed ones after 30 s.
const LOCKOUT: Duration = Duration::from_secs(31);

/// The longest lifetime of a token, in seconds: 100 years.
const MAX_LIFETIME: f64 = 100.0 * 365.0 * 24.0 * 60.0 * 60.0;

/// Parts of the server's messages for a wrong credential.
const WRONG_SECRET: &str = "Invalid credentials";
const WRONG_LDAP: &str = "LDAP authentication failed";

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
        expires_in: f64,
        #[serde(default, rename = "accessTokenMaxTTL")]
        max_ttl: f64,
    }

    if !response.status.is_success() {
        return Err(refusal(response));
    }
    let body: ResponseBody = parse_success(response, "a login")?;
    // The rest of a lifetime can have a fraction.
    let duration = |seconds: f64| {
        let seconds = Some(seconds.min(MAX_LIFETIME)).filter(|seconds| *seconds > 0.0);
        seconds.map(Duration::from_secs_f64)
    };
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
        (WRONG_SECRET, "the client id or client secret is wrong"),
        (WRONG_LDAP, "the user name or the password is wrong"),
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
        (
            "has been revoked",
            "the token or its client secret is revoked",
        ),
        ("Your token has expired", "the token has expired"),
        (
            "Access denied",
            "the credential does not match the restrictions of the machine identity",
        ),
    ];
    let body = ErrorBody::parse(response);
    let status = response.status.as_u16();
    if body.is_missing_route() {
        return missing_route(&body);
    }
    if response.status.is_server_error() && !body.is_dead_jwt() {
        return internal_error();
    }
    match body.error.as_ref() {
        // The status is the same as that of a refused token.
        "KubernetesTokenReviewRequestError" => {
            let message = "the cluster's API server did not check the service account's token";
            return Error::new(ErrorKind::Unavailable, message)
                .with_hint("check that Infisical can reach the cluster's API server");
        }
        "KubernetesTokenReviewError" => {
            let message = "the cluster's API server refused the service account's token";
            return Error::new(ErrorKind::Unauthenticated, message)
                .with_hint("check that the token is of this cluster and has not expired");
        }
        _ => {}
    }
    if body.message_contains(" locked") {
        return locked_out(LOCKOUT);
    }
    if body.is_validation_error() || status == 422 {
        return Error::new(
            ErrorKind::Unauthenticated,
            "the server rejected the login request as invalid",
        )
        .with_hint("check that the client id or identity id is complete");
    }
    let reason = REASONS.iter().find(|(text, _)| body.message_contains(text));
    let message = match (reason, status) {
        (Some((_, message)), _) => message,
        (None, 400 | 401 | 403) if body.has_known_name() => "the login was refused",
        (None, 500) => "the login was refused",
        (None, _) => return unknown_response(status),
    };
    let hint = match is_wrong_credential(response) {
        true => "replace the credential; this one is not sent again for five minutes",
        false => "check the credential, and the login method of the machine identity",
    };
    Error::new(ErrorKind::Unauthenticated, message).with_hint(hint)
}

/// Returns the error for a login route that the server does not have. The server is too old for the login
/// method, or the address is wrong.
fn missing_route(body: &ErrorBody<'_>) -> Error {
    match body.path_before_api() {
        Some(_) => no_api_route(body),
        None => Error::new(
            ErrorKind::Unsupported,
            "the server does not have this login method",
        )
        .with_hint("use a newer server, or another login method"),
    }
}

/// Returns whether the server stated that the credential of a login is wrong. Newer servers lock the login after
/// several of these responses.
pub(crate) fn is_wrong_credential(response: &Response) -> bool {
    let body = ErrorBody::parse(response);
    let is_wrong = [WRONG_SECRET, WRONG_LDAP]
        .iter()
        .any(|text| body.message_contains(text));
    response.status.is_client_error() && is_wrong
}

/// Returns the error for a login that is locked for `remaining`.
pub(crate) fn locked_out(remaining: Duration) -> Error {
    let kind = ErrorKind::RateLimited {
        retry_after: Some(remaining),
    };
    Error::new(kind, "the login is locked after failed attempts")
        .with_hint("correct the credential, then wait or unlock the login on the server")
}
