//! Session tokens, session cookies and CSRF tokens that are compatible with next-auth 4, next-auth 5
//! and `@auth/core`.
//!
//! This module is for a Rust service that shares its login with a Next.js application. The encryption
//! keys are derived once for each [`KeyRing`], so a request costs one decryption.
//!
//! ```
//! use std::time::Duration;
//!
//! use secretwell::auth::KeyRing;
//! use secretwell::auth::authjs::SessionTokens;
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Serialize, Deserialize)]
//! struct User {
//!     name: String,
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let ring = KeyRing::new("a secret of thirty-two bytes or more");
//! let tokens = SessionTokens::v5("authjs.session-token", &ring)?;
//! let ada = User { name: "Ada".into() };
//! let token = tokens.encode(&ada, Duration::from_secs(30 * 24 * 60 * 60))?;
//!
//! let session = tokens.decode::<User>(&token)?;
//! assert_eq!(session.claims.name, "Ada");
//! # Ok(())
//! # }
//! ```
//!
//! Most services use [`Sessions`], which combines the token with its cookie. A
//! [`LazyAuth`](crate::LazyAuth) builds it from the key ring that [`SecretOrder`] returns. With the
//! feature `tower`, `LazyAuth::session_layer` adds the response headers.
//!
//! # Differences from the packages
//! - Times have 64 bits. The packages use 32 bits, so tokens that they create from 2038 on are expired
//!   at once.
//! - Compressed tokens are rejected. The packages decode them, but do not create them.
//! - Base64 must be canonical: without padding, other alphabets or unused trailing bits.
//! - Claims must not nest deeper than 128 levels, and each number must fit into a 64-bit float.
//! - An unpaired surrogate in a claim is decoded as U+FFFD.

mod cookie;
mod csrf;
mod error;
mod jwe;
mod keys;
#[cfg(feature = "tower")]
mod layer;
mod order;
mod sessions;
#[cfg(test)]
mod tests;
mod text;
#[cfg(test)]
mod vectors;

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use secretwell_core::Error;
use serde::de::{DeserializeOwned, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Number, Value};
use zeroize::Zeroizing;

pub use cookie::{Scheme, SessionCookie};
pub use csrf::{Csrf, CsrfCookie, CsrfTokens};
pub use error::TokenError;
#[cfg(feature = "tower")]
pub use layer::{SessionLayer, SessionService};
pub use order::SecretOrder;
pub use sessions::Sessions;

use crate::KeyRing;
use crate::hex::hex;
use keys::{Format, Keys};

/// Accepted clock difference between the creator of a token and this host, in seconds.
const CLOCK_TOLERANCE: f64 = 15.0;

/// The decoded content of a session token.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Session<C> {
    /// The claims of the token, deserialized from its JSON object.
    pub claims: C,
    /// The end of the session.
    ///
    /// `None` if the token has no `exp` claim, or if [`SystemTime`] cannot represent that time.
    pub expires: Option<SystemTime>,
}

/// Encoder and decoder for the tokens of one cookie, with the secrets of one [`KeyRing`].
pub struct SessionTokens {
    format: Format,
    /// The first entry encrypts; all entries decrypt.
    keys: Vec<Keys>,
}

impl SessionTokens {
    /// Creates the tokens of `@auth/core` and next-auth 5.
    ///
    /// The encryption key depends on the name of the cookie. Include the prefix `__Secure-` if the
    /// cookie has it.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Invalid`](secretwell_core::ErrorKind::Invalid) if a secret is empty.
    pub fn v5(cookie_name: &str, secrets: &KeyRing) -> Result<Self, Error> {
        Self::new(Format::V5, cookie_name, secrets)
    }

    /// Creates the session tokens of next-auth 4.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Invalid`](secretwell_core::ErrorKind::Invalid) if a secret is empty.
    pub fn v4(secrets: &KeyRing) -> Result<Self, Error> {
        Self::new(Format::V4, "", secrets)
    }

    /// Creates the tokens of the other encrypted cookies of next-auth 4: `next-auth.state`,
    /// `next-auth.pkce.code_verifier` and `next-auth.nonce`.
    ///
    /// The encryption key depends on the name of the cookie, as in version 5.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Invalid`](secretwell_core::ErrorKind::Invalid) if a secret is empty.
    pub fn v4_with_cookie_name(cookie_name: &str, secrets: &KeyRing) -> Result<Self, Error> {
        Self::new(Format::V4, cookie_name, secrets)
    }

    fn new(format: Format, salt: &str, secrets: &KeyRing) -> Result<Self, Error> {
        let keys = Keys::derive_all(secrets, format, salt)?;
        Ok(Self { format, keys })
    }

    /// Decodes `token` and checks its times against the current time.
    ///
    /// The authentication tag is checked before anything is decrypted. Times are accepted with a
    /// tolerance of 15 seconds.
    ///
    /// # Errors
    /// - [`TokenError::Malformed`] if `token` is not a session token, its claims do not deserialize
    ///   into `C`, or its `nbf` time is in the future
    /// - [`TokenError::Forged`] if it matches no secret of the key ring
    /// - [`TokenError::Expired`] if its `exp` time has passed
    pub fn decode<C: DeserializeOwned>(&self, token: &str) -> Result<Session<C>, TokenError> {
        self.decode_at(token, SystemTime::now())
    }

    /// Like [`decode`](Self::decode), but checks the times of the token against `now`.
    ///
    /// # Errors
    /// The same as [`decode`](Self::decode).
    pub fn decode_at<C: DeserializeOwned>(
        &self,
        token: &str,
        now: SystemTime,
    ) -> Result<Session<C>, TokenError> {
        let decrypted = jwe::decrypt(token, &self.keys, self.format)?;
        let text = text::decode_json(decrypted.text, self.format).ok_or(TokenError::Malformed)?;
        let times: TimeClaims = serde_json::from_str(&text).map_err(|_| TokenError::Malformed)?;
        let expires = times.check(whole_seconds(now))?;
        if let Some(header) = decrypted.header
            && !header_matches_claims(&header, &text)
        {
            return Err(TokenError::Malformed);
        }
        let claims = serde_json::from_str(&text).map_err(|_| TokenError::Malformed)?;
        Ok(Session { claims, expires })
    }

    /// Creates a token with `claims` that expires after `max_age`.
    ///
    /// `claims` must serialize to a JSON object. The claims `iat`, `exp` and `jti` are overwritten.
    ///
    /// # Errors
    /// Returns [`TokenError::Malformed`] if the claims are not an object, or if the system's random
    /// number generator fails.
    pub fn encode(&self, claims: &impl Serialize, max_age: Duration) -> Result<String, TokenError> {
        self.encode_at(claims, max_age, SystemTime::now())
    }

    /// Like [`encode`](Self::encode), but takes `now` as the time of creation.
    ///
    /// # Errors
    /// The same as [`encode`](Self::encode).
    pub fn encode_at(
        &self,
        claims: &impl Serialize,
        max_age: Duration,
        now: SystemTime,
    ) -> Result<String, TokenError> {
        let Ok(Value::Object(mut claims)) = serde_json::to_value(claims) else {
            return Err(TokenError::Malformed);
        };
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        claims.insert("iat".into(), Number::from(now).into());
        let expires = now.saturating_add(max_age.as_secs());
        claims.insert("exp".into(), Number::from(expires).into());
        claims.insert("jti".into(), random_uuid()?.into());
        let text = serde_json::to_vec(&claims).map_err(|_| TokenError::Malformed)?;
        let keys = self.keys.first().ok_or(TokenError::Forged)?;
        jwe::encrypt(&Zeroizing::new(text), keys, self.format)
    }
}

/// Omits the keys.
impl fmt::Debug for SessionTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionTokens")
            .field("format", &self.format)
            .field("secrets", &self.keys.len())
            .finish_non_exhaustive()
    }
}

/// Compares the claims in a token's header, if it has any, with those in the token's text. Returns whether
/// they are equal.
fn header_matches_claims(header: &Map<String, Value>, text: &str) -> bool {
    let repeatable = ["iss", "sub", "aud"];
    if !repeatable.iter().any(|name| header.contains_key(*name)) {
        return true;
    }
    let Ok(claims) = serde_json::from_str::<Map<String, Value>>(text) else {
        return false;
    };
    repeatable.into_iter().all(|name| {
        header.get(name).is_none_or(|repeated| {
            // The packages compare with `===`, which is false for two objects or two arrays. They
            // compare audiences as JSON text. For an object that text depends on the order of its
            // names, so an object never matches here.
            let is_comparable = !repeated.is_object() && (name == "aud" || !repeated.is_array());
            is_comparable && claims.get(name) == Some(repeated)
        })
    })
}

/// The time claims of a token, in seconds since 1970.
#[derive(Default)]
struct TimeClaims {
    issued_at: Option<TimeClaim>,
    not_before: Option<TimeClaim>,
    expires: Option<TimeClaim>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(untagged)]
enum TimeClaim {
    Seconds(f64),
    NotANumber(IgnoredAny),
}

impl TimeClaim {
    fn seconds(self) -> Result<f64, TokenError> {
        match self {
            Self::Seconds(seconds) => Ok(seconds),
            Self::NotANumber(_) => Err(TokenError::Malformed),
        }
    }
}

impl TimeClaims {
    /// Checks that the token is valid at `now`, and returns its expiry.
    ///
    /// A token without `exp` is valid, as in the packages.
    fn check(&self, now: f64) -> Result<Option<SystemTime>, TokenError> {
        let seconds = |time: Option<TimeClaim>| time.map(TimeClaim::seconds).transpose();
        seconds(self.issued_at)?;
        if seconds(self.not_before)?.is_some_and(|start| start > now + CLOCK_TOLERANCE) {
            return Err(TokenError::Malformed);
        }
        match seconds(self.expires)? {
            Some(end) if end <= now - CLOCK_TOLERANCE => Err(TokenError::Expired),
            Some(end) => Ok(Duration::try_from_secs_f64(end)
                .ok()
                .and_then(|end| UNIX_EPOCH.checked_add(end))),
            None => Ok(None),
        }
    }
}

/// Implemented by hand, because a derived implementation rejects duplicate names. As in JavaScript, the
/// last of them is used.
impl<'de> Deserialize<'de> for TimeClaims {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(field_identifier, rename_all = "lowercase")]
        enum Name {
            Exp,
            Iat,
            Nbf,
            Other(IgnoredAny),
        }

        struct ClaimsVisitor;

        impl<'de> Visitor<'de> for ClaimsVisitor {
            type Value = TimeClaims;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of claims")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<TimeClaims, M::Error> {
                let mut times = TimeClaims::default();
                while let Some(name) = map.next_key()? {
                    match name {
                        Name::Exp => times.expires = Some(map.next_value()?),
                        Name::Nbf => times.not_before = Some(map.next_value()?),
                        Name::Iat => times.issued_at = Some(map.next_value()?),
                        Name::Other(_) => drop(map.next_value::<IgnoredAny>()?),
                    }
                }
                Ok(times)
            }
        }

        deserializer.deserialize_map(ClaimsVisitor)
    }
}

/// Returns the seconds since 1970 without their fraction, as the packages do.
#[allow(clippy::cast_precision_loss)]
fn whole_seconds(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs() as f64
}

/// Returns a random UUID (version 4).
fn random_uuid() -> Result<String, TokenError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|_| TokenError::Malformed)?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex = hex(&bytes);
    let parts = [
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..],
    ];
    Ok(parts.join("-"))
}
