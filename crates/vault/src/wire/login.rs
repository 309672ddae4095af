//! Responses to logins, and to requests about tokens.

use http::StatusCode;
use secretwell_core::{Error, ErrorKind, SecretValue};
use secretwell_http::{LoginFailure, Response, TokenLease, parse_object};
use serde::Deserialize;

use super::envelope::{Envelope, lifetime, malformed, parse_data, unexplained};
use super::failure::{Forbidden, forbidden};

/// Parses the response to a successful login or renewal.
pub(crate) fn token_lease(response: &Response) -> Result<TokenLease, Error> {
    #[derive(Deserialize)]
    struct Auth {
        client_token: SecretValue,
        #[serde(default)]
        lease_duration: u64,
        #[serde(default)]
        renewable: bool,
        #[serde(default)]
        num_uses: u64,
    }

    let envelope = Envelope::of(response)?;
    let auth = envelope
        .auth
        .ok_or_else(|| malformed("the token is missing"))?;
    let auth: Auth = parse_object(auth.get().as_bytes())
        .ok_or_else(|| malformed("it is not the response to a login"))?;
    if auth.client_token.is_empty() {
        let message = "the login needs a second factor (MFA), so the server issued no token";
        return Err(Error::new(ErrorKind::Unauthenticated, message)
            .with_hint("exempt the login of this service from MFA"));
    }
    let mut lease = TokenLease::new(auth.client_token);
    lease.lifetime = lifetime(auth.lease_duration);
    lease.renewable = auth.renewable;
    lease.uses = Some(auth.num_uses).filter(|uses| *uses > 0);
    Ok(lease)
}

/// Parses the response to a lookup of `token`, and returns its lease.
pub(crate) fn looked_up_token(
    response: &Response,
    token: &SecretValue,
) -> Result<TokenLease, Error> {
    #[derive(Deserialize)]
    struct LookedUp {
        #[serde(default)]
        ttl: u64,
        /// `None` if the token does not expire.
        #[serde(default)]
        expire_time: Option<String>,
        #[serde(default)]
        renewable: bool,
        #[serde(default)]
        num_uses: i64,
    }

    if is_outside_of_api(response) {
        return Err(no_api());
    }
    let mut lease = TokenLease::new(token.clone());
    match forbidden(response) {
        None if response.status.is_success() => {
            let token: LookedUp = parse_data(response, "it does not describe a token")?;
            // In its last second, the lifetime of a token is rounded to zero.
            let least = u64::from(token.expire_time.is_some());
            lease.lifetime = lifetime(token.ttl.max(least));
            lease.renewable = token.renewable;
            lease.uses = token.num_uses.try_into().ok().filter(|uses| *uses > 0);
            Ok(lease)
        }
        // A valid token without the default policy, which does not allow a lookup.
        Some(Forbidden::NoPermission) => Ok(lease),
        Some(Forbidden::BadToken) => Err(refused_token(None)),
        Some(Forbidden::Unknown) | None => Err(unexplained(response)),
    }
}

/// Returns an error if the response to a request with a token shows that the token is not valid.
pub(crate) fn check_token(response: &Response) -> Result<(), Error> {
    match forbidden(response) {
        Some(Forbidden::BadToken) => Err(Error::new(
            ErrorKind::Unauthenticated,
            "the token of the login is not valid or has expired",
        )
        .with_hint("configure another credential")),
        Some(Forbidden::NoPermission) => Ok(()),
        None if response.status.is_success() => Ok(()),
        Some(Forbidden::Unknown) | None => Err(unexplained(response)),
    }
}

/// Returns the error for a token of the configuration that the server refuses. `place` is where it is configured.
pub(crate) fn refused_token(place: Option<&str>) -> Error {
    let message = "the token is not valid, has expired, or has no uses left";
    let hint = match place {
        Some(place) => format!("configure another token; this one is from {place}"),
        None => "configure another token".into(),
    };
    Error::new(ErrorKind::Unauthenticated, message).with_hint(hint)
}

/// Returns the wrapping token in `text`, which is the token itself or the JSON that the `vault` command prints.
pub(crate) fn wrapping_token(text: &SecretValue) -> Result<SecretValue, Error> {
    #[derive(Deserialize)]
    struct Wrapped {
        wrap_info: WrapInfo,
    }

    #[derive(Deserialize)]
    struct WrapInfo {
        token: SecretValue,
    }

    let bytes = text.expose_bytes();
    if !bytes.starts_with(b"{") {
        return Ok(text.clone());
    }
    let wrapped: Option<Wrapped> = parse_object(bytes);
    wrapped
        .map(|wrapped| wrapped.wrap_info.token)
        .ok_or_else(|| {
            let message = "the wrapping token is JSON without `wrap_info.token`";
            Error::new(ErrorKind::Unauthenticated, message).with_hint(
            "store the token itself, or the whole output of `vault write -wrap-ttl=… -format=json`",
        )
        })
}

/// Parses the response to unwrapping the secret id of an AppRole.
pub(crate) fn unwrapped_secret_id(response: &Response) -> Result<SecretValue, LoginFailure> {
    #[derive(Deserialize)]
    struct Wrapped {
        secret_id: SecretValue,
    }

    if response.status.is_success() {
        let wrapped: Wrapped = parse_data(response, "the wrapped data is not a secret id")?;
        return Ok(wrapped.secret_id);
    }
    let body = Envelope::of_error(response);
    if body.mentions("wrapping token is not valid or does not exist") {
        let message = "the wrapping token is not valid: it has expired, or it was used already";
        let error = Error::new(ErrorKind::Unauthenticated, message)
            .with_hint("find out who unwrapped it before you create another");
        // The server never accepts the token again.
        return Err(LoginFailure::wrong_credential(error));
    }
    Err(match response.status.as_u16() {
        400 | 403 => Error::new(
            ErrorKind::Unauthenticated,
            "the server refuses to unwrap the secret id",
        )
        .with_hint("check that the file has the wrapping token of a secret id")
        .into(),
        _ => unexplained(response).into(),
    })
}

/// Returns why the server refused a login at `mount`, or a renewal. The server's messages are matched, but never quoted.
///
/// Only a credential that the server counts as a failed login is held back. An operator can repair everything
/// else on the server, such as a missing role.
pub(crate) fn login_refused(response: &Response, mount: &str) -> LoginFailure {
    /// Texts of the server, their meanings, and whether the server counts the failure and locks the login
    /// after several of them.
    const KNOWN: &[(&str, &str, bool)] = &[
        (
            "invalid role or secret ID",
            "the role id or the secret id is wrong",
            true,
        ),
        (
            "invalid username or password",
            "the user name or the password is wrong",
            true,
        ),
        (
            "failed to bind as user",
            "the user name or the password is wrong",
            true,
        ),
        ("invalid audience", "the JWT is for another audience", false),
        ("invalid issuer", "the JWT is from another issuer", false),
        ("token is expired", "the JWT has expired", false),
        ("not yet valid", "the JWT is not valid yet", false),
        ("could not be found", "the role does not exist", false),
        ("invalid role name", "the role does not exist", false),
        (
            "CIDR",
            "logins from this machine's address are not allowed",
            false,
        ),
        (
            "client certificate",
            "the client certificate is missing or not accepted",
            false,
        ),
        (
            "no chain matching all constraints",
            "the client certificate is not accepted",
            false,
        ),
        ("invalid lease ID", "this token cannot be renewed", false),
        (
            "lease is not renewable",
            "this token cannot be renewed",
            false,
        ),
        (
            "batch tokens cannot be renewed",
            "this token cannot be renewed",
            false,
        ),
    ];
    let status = response.status.as_u16();
    if status == 405 {
        return no_login_method(mount).into();
    }
    if !matches!(status, 400 | 401 | 403 | 404) {
        return unexplained(response).into();
    }
    if is_outside_of_api(response) {
        return no_api().into();
    }
    let body = Envelope::of_error(response);
    if status == 404 {
        let has_no_route =
            body.mentions("no handler for route") || body.mentions("unsupported path");
        return match has_no_route {
            true => no_login_method(mount).into(),
            false => unexplained(response).into(),
        };
    }
    let known = KNOWN.iter().find(|(text, ..)| body.mentions(text));
    let (message, is_counted) = known.map_or(("the login was refused", false), |known| {
        (known.1, known.2 && status == 400)
    });
    let error = Error::new(ErrorKind::Unauthenticated, message);
    if is_counted {
        return LoginFailure::wrong_credential(error.with_hint(
            "configure another credential; this one is not sent again for five minutes",
        ));
    }
    // The server also responds with 403 if the user is locked out, and if no login method is at the mount.
    let hint = match status {
        403 => format!(
            "check that the login method is enabled at `auth/{}`, and that the user is not locked out",
            mount.escape_debug()
        ),
        _ => "check the credential, and the role of the login on the server".into(),
    };
    error.with_hint(hint).into()
}

/// Returns whether the path of a request might not be below `/v1` of the server. The response is the same as for
/// a missing secret, but all other parts of the API, such as a login method, always give a reason.
pub(crate) fn is_outside_of_api(response: &Response) -> bool {
    response.status == StatusCode::NOT_FOUND && Envelope::of_error(response).has_no_reason()
}

fn no_login_method(mount: &str) -> Error {
    let message = "the login method does not exist at this mount";
    Error::new(ErrorKind::InvalidConfig, message).with_hint(format!(
        "check with `vault auth list` that it is enabled at `auth/{}`",
        mount.escape_debug()
    ))
}

/// Returns the error for an address whose path is wrong.
pub(crate) fn no_api() -> Error {
    let message = "the server has no API at the path of the configured address";
    Error::new(ErrorKind::InvalidConfig, message)
        .with_hint("remove the path from the address, or correct it")
}

/// Returns whether the server denies the request without a reason.
pub(crate) fn is_bare_denial(response: &Response) -> bool {
    let body = Envelope::of_error(response);
    response.status == StatusCode::FORBIDDEN && body.says_only("permission denied")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifetime_of_a_token_in_its_last_second_is_not_unlimited() {
        let lifetime = |expire_time: &str| {
            let body = format!(r#"{{"data":{{"ttl":0,"expire_time":{expire_time}}}}}"#);
            let response = Response::new(StatusCode::OK, http::HeaderMap::new(), body.into());
            let lease = looked_up_token(&response, &"token".into()).unwrap();
            lease.lifetime.map(|time| time.as_secs())
        };
        assert_eq!(lifetime("null"), None);
        assert_eq!(lifetime("\"2026-01-01T00:00:00Z\""), Some(1));
    }

    #[test]
    fn wrapping_token_is_found_in_the_output_of_the_command() {
        let json =
            r#"{"request_id": "", "wrap_info": {"token": "hvs.a", "ttl": 60}, "data": null}"#;
        for text in ["hvs.a", json] {
            let token = wrapping_token(&text.into()).unwrap();
            assert_eq!(token.expose_text().unwrap(), "hvs.a");
        }
        for text in [
            "{",
            r#"{"data":{"secret_id":"c4n4ry"}}"#,
            r#"{"wrap_info":null}"#,
        ] {
            let error = wrapping_token(&text.into()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unauthenticated);
            assert!(error.to_string().contains("is JSON"), "{error}");
            assert!(!format!("{error:?}").contains("c4n4ry"));
        }
    }

    fn response(status: u16, body: &str) -> Response {
        let status = StatusCode::from_u16(status).unwrap();
        Response::new(status, http::HeaderMap::new(), body.into())
    }

    /// A wrapping token can be used once. An attacker might have unwrapped it first.
    #[test]
    fn refused_wrapping_token_is_held_back_only_if_it_is_used_up() {
        let used = r#"{"errors": ["wrapping token is not valid or does not exist"]}"#;
        let denied = r#"{"errors": ["permission denied"]}"#;
        for (status, body, kind, hold, is_temporary) in [
            (400, used, ErrorKind::Unauthenticated, true, false),
            (400, denied, ErrorKind::Unauthenticated, false, false),
            (403, denied, ErrorKind::Unauthenticated, false, false),
            (405, denied, ErrorKind::Unavailable, false, true),
            // The token of another secret. Its data must not be quoted.
            (
                200,
                r#"{"data": {"password": "c4n4ry"}}"#,
                ErrorKind::Malformed,
                false,
                false,
            ),
        ] {
            let failure = unwrapped_secret_id(&response(status, body)).unwrap_err();
            let error = failure.error;
            assert_eq!(
                (error.kind(), failure.hold),
                (kind, hold),
                "{status}: {error}"
            );
            assert_eq!(error.is_temporary(), is_temporary, "{status}: {error}");
            assert!(!format!("{error:#?}").contains("c4n4ry"));
        }
        let data = r#"{"data": {"secret_id": "c4n4ry", "secret_id_ttl": 60}}"#;
        let secret_id = unwrapped_secret_id(&response(200, data));
        assert_eq!(secret_id.ok().unwrap().expose_bytes(), b"c4n4ry");
    }

    #[test]
    fn token_is_not_valid_only_if_the_server_states_it() {
        let no_permission = r#"{"errors": ["1 error occurred:\n\t* permission denied\n\n"]}"#;
        let bad_token = r#"{"errors": ["permission denied", "invalid token"]}"#;
        let no_reason = r#"{"errors": []}"#;
        let looked_up = |response: &Response| looked_up_token(response, &"token".into()).map(drop);
        for (status, body, expected) in [
            (403, no_permission, None),
            (403, bad_token, Some(ErrorKind::Unauthenticated)),
            (404, no_reason, Some(ErrorKind::InvalidConfig)),
            (405, no_reason, Some(ErrorKind::Unavailable)),
        ] {
            let response = response(status, body);
            let kind = looked_up(&response).err().map(|error| error.kind());
            assert_eq!(kind, expected, "{status} {body}");
            let kind = check_token(&response).err().map(|error| error.kind());
            let is_path = expected == Some(ErrorKind::InvalidConfig);
            let expected = if is_path {
                Some(ErrorKind::Unavailable)
            } else {
                expected
            };
            assert_eq!(kind, expected, "{status} {body}");
        }
    }
}
