//! What the server says to a login.

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

/// The token that a login or a renewal brought.
pub(crate) fn grant(response: &Response) -> Result<TokenLease, Error> {
    let envelope = Envelope::of(response)?;
    let auth = envelope
        .auth
        .ok_or_else(|| malformed("there is no token"))?;
    let auth: Auth =
        serde_json::from_str(auth.get()).map_err(|_| malformed("it is no login's answer"))?;
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

/// How long the token that was asked about is good.
pub(crate) fn looked_up(response: &Response, token: &SecretValue) -> Result<TokenLease, Error> {
    let (lifetime, renewable) = match (response.status.as_u16(), forbidden(response)) {
        (200, _) => {
            let envelope = Envelope::of(response)?;
            let data = envelope.data.ok_or_else(|| malformed("there is no data"))?;
            let found: LookedUp =
                serde_json::from_str(data.get()).map_err(|_| malformed("it is no token"))?;
            (lifetime(found.ttl), found.renewable)
        }
        // It is good, and may not be asked about: a token without the default policy.
        (_, Some(Forbidden::NoPermission)) => (None, false),
        (_, Some(Forbidden::BadToken)) => {
            return Err(Error::new(
                ErrorKind::Unauthenticated,
                "the token is not, or no longer, good",
            )
            .with_hint("give another"));
        }
        (status, None) => return Err(malformed_status(status)),
    };
    let mut lease = TokenLease::new(token.clone());
    lease.lifetime = lifetime;
    lease.renewable = renewable;
    Ok(lease)
}

/// What a wrapping token holds: the secret id of an AppRole.
pub(crate) fn unwrapped_secret_id(response: &Response) -> Result<SecretValue, Error> {
    #[derive(Deserialize)]
    struct Wrapped {
        secret_id: SecretValue,
    }

    if !response.status.is_success() {
        return Err(Error::new(
            ErrorKind::Unauthenticated,
            "the wrapping token is not good: it has expired, or somebody has used it",
        )
        .with_hint("find out who unwrapped it before you wrap another"));
    }
    let envelope = Envelope::of(response)?;
    let data = envelope.data.ok_or_else(|| malformed("there is no data"))?;
    serde_json::from_str(data.get())
        .map(|wrapped: Wrapped| wrapped.secret_id)
        .map_err(|_| malformed("what was wrapped is no secret id"))
}

/// Why a login was refused. The server's words are matched and never repeated.
pub(crate) fn login_refused(response: &Response) -> Error {
    const KNOWN: &[(&str, &str)] = &[
        (
            "invalid role or secret ID",
            "role id or secret id is not good",
        ),
        (
            "invalid username or password",
            "user name or password is not good",
        ),
        ("invalid audience", "the JWT is for another audience"),
        ("invalid issuer", "the JWT is of another issuer"),
        ("token is expired", "the JWT has expired"),
        ("not yet valid", "the JWT is not valid yet"),
        ("could not be found", "there is no such role"),
        ("invalid role name", "there is no such role"),
        ("CIDR", "this machine's address may not log in"),
        (
            "client certificate",
            "there is no client certificate, or none that is accepted",
        ),
        (
            "no chain matching all constraints",
            "the client certificate is not accepted",
        ),
        ("invalid lease ID", "the token cannot be renewed here"),
    ];
    let body = Envelope::of_error(response);
    let known = KNOWN.iter().find(|(text, _)| body.says(text));
    let seen = known.map_or("the login was refused", |(_, meaning)| meaning);
    let error = Error::new(ErrorKind::Unauthenticated, seen);
    match response.status.as_u16() {
        // Also what it says when the credential is locked, and when there is no such login.
        403 => error.with_hint("does this login exist at this mount, and is it not locked out?"),
        _ => error.with_hint("give it another credential; this one is not sent again for a while"),
    }
}

/// Whether the server denies without a word of why.
pub(crate) fn is_bare_denial(response: &Response) -> bool {
    let body = Envelope::of_error(response);
    let bare = body
        .errors
        .as_deref()
        .is_some_and(|errors| errors == ["permission denied"]);
    response.status == StatusCode::FORBIDDEN && bare
}
