//! Responses to logins, and to requests about tokens.

use http::StatusCode;
use secretwell_core::{Error, ErrorKind, SecretValue};
use secretwell_http::{Response, TokenLease};
use serde::Deserialize;

use super::{Envelope, Forbidden, forbidden, lifetime, malformed, malformed_status};

#[derive(Deserialize)]
struct Auth {
    client_token: SecretValue,
    #[serde(default)]
    lease_duration: u64,
    #[serde(default)]
    renewable: bool,
}

/// Parses the response to a successful login or renewal.
pub(crate) fn token_lease(response: &Response) -> Result<TokenLease, Error> {
    let envelope = Envelope::of(response)?;
    let auth = envelope
        .auth
        .ok_or_else(|| malformed("the token is missing"))?;
    let auth: Auth = serde_json::from_str(auth.get())
        .map_err(|_| malformed("it is not the response to a login"))?;
    let mut lease = TokenLease::new(auth.client_token);
    lease.lifetime = lifetime(auth.lease_duration);
    lease.renewable = auth.renewable;
    Ok(lease)
}

#[derive(Deserialize)]
struct LookedUp {
    #[serde(default)]
    ttl: u64,
    #[serde(default)]
    renewable: bool,
}

/// Parses the response to a lookup of `token`, and returns its lease.
pub(crate) fn looked_up_token(
    response: &Response,
    token: &SecretValue,
) -> Result<TokenLease, Error> {
    let (lifetime, renewable) = match (response.status.as_u16(), forbidden(response)) {
        (200, _) => {
            let envelope = Envelope::of(response)?;
            let data = envelope
                .data
                .ok_or_else(|| malformed("the data is missing"))?;
            let token: LookedUp = serde_json::from_str(data.get())
                .map_err(|_| malformed("it does not describe a token"))?;
            (lifetime(token.ttl), token.renewable)
        }
        // A valid token without the default policy, which does not allow a lookup.
        (_, Some(Forbidden::NoPermission)) => (None, false),
        (_, Some(Forbidden::BadToken)) => {
            return Err(Error::new(
                ErrorKind::Unauthenticated,
                "the token is not valid or has expired",
            )
            .with_hint("configure another token"));
        }
        (status, None) => return Err(malformed_status(status)),
    };
    let mut lease = TokenLease::new(token.clone());
    lease.lifetime = lifetime;
    lease.renewable = renewable;
    Ok(lease)
}

/// Parses the response to unwrapping the secret id of an AppRole.
pub(crate) fn unwrapped_secret_id(response: &Response) -> Result<SecretValue, Error> {
    #[derive(Deserialize)]
    struct Wrapped {
        secret_id: SecretValue,
    }

    if !response.status.is_success() {
        return Err(Error::new(
            ErrorKind::Unauthenticated,
            "the wrapping token is not valid: it has expired, or it was used already",
        )
        .with_hint("find out who unwrapped it before you create another"));
    }
    let envelope = Envelope::of(response)?;
    let data = envelope
        .data
        .ok_or_else(|| malformed("the data is missing"))?;
    serde_json::from_str(data.get())
        .map(|wrapped: Wrapped| wrapped.secret_id)
        .map_err(|_| malformed("the wrapped data is not a secret id"))
}

/// Returns the error of a refused login. The server's messages are matched, but never quoted.
pub(crate) fn login_refused(response: &Response) -> Error {
    const KNOWN: &[(&str, &str)] = &[
        (
            "invalid role or secret ID",
            "the role id or the secret id is wrong",
        ),
        (
            "invalid username or password",
            "the user name or the password is wrong",
        ),
        ("invalid audience", "the JWT is for another audience"),
        ("invalid issuer", "the JWT is from another issuer"),
        ("token is expired", "the JWT has expired"),
        ("not yet valid", "the JWT is not valid yet"),
        ("could not be found", "the role does not exist"),
        ("invalid role name", "the role does not exist"),
        ("CIDR", "logins from this machine's address are not allowed"),
        (
            "client certificate",
            "the client certificate is missing or not accepted",
        ),
        (
            "no chain matching all constraints",
            "the client certificate is not accepted",
        ),
        ("invalid lease ID", "this token cannot be renewed"),
    ];
    let body = Envelope::of_error(response);
    let known = KNOWN.iter().find(|(text, _)| body.mentions(text));
    let message = known.map_or("the login was refused", |(_, message)| message);
    let error = Error::new(ErrorKind::Unauthenticated, message);
    match response.status.as_u16() {
        // The server also responds with 403 if the user is locked out, and if no login method is at the mount.
        403 => error.with_hint("check that the login method is enabled at this mount, and that the user is not locked out"),
        _ => error.with_hint("configure another credential; this one is not sent again for five minutes"),
    }
}

/// Returns whether the server denies the request without a reason.
pub(crate) fn is_bare_denial(response: &Response) -> bool {
    let body = Envelope::of_error(response);
    let bare = body
        .errors
        .as_deref()
        .is_some_and(|errors| errors == ["permission denied"]);
    response.status == StatusCode::FORBIDDEN && bare
}
