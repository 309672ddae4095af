//! [`SessionTokens`]: encodes and decodes the tokens of one cookie.

use std::fmt;
use std::marker::PhantomData;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use secretwell_core::Error;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::renewal::renewed;
use super::session::{Session, SessionTokens};
use crate::KeyRing;
use crate::sessions::TokenError;
use crate::sessions::claims::{TimeClaims, whole_seconds};
use crate::sessions::jwe;
use crate::sessions::keys::{Format, Keys};
use crate::sessions::mismatch::mismatch;
use crate::sessions::text::{self, WipedBytes, WipedText};

/// A session, and what its token reveals about the clocks.
pub(super) struct Decoded<C> {
    pub(super) session: Session<C>,
    /// Whether the token was created in the future.
    pub(super) is_from_future: bool,
}

impl SessionTokens {
    /// Creates the tokens of `@auth/core` and next-auth 5.
    ///
    /// The encryption key depends on the name of the cookie. Include the prefix `__Secure-` if the
    /// cookie has it.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Invalid`](secretwell_core::ErrorKind::Invalid) if the keys cannot be derived.
    pub fn v5(cookie_name: &str, secrets: &KeyRing) -> Result<Self, Error> {
        Self::new(Format::V5, cookie_name, secrets)
    }

    /// Creates the session tokens of next-auth 4.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Invalid`](secretwell_core::ErrorKind::Invalid) if the keys cannot be derived.
    pub fn v4(secrets: &KeyRing) -> Result<Self, Error> {
        Self::new(Format::V4, "", secrets)
    }

    /// Creates the tokens of the other encrypted cookies of next-auth 4: `next-auth.state`,
    /// `next-auth.pkce.code_verifier` and `next-auth.nonce`.
    ///
    /// The encryption key depends on the name of the cookie, as in version 5.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Invalid`](secretwell_core::ErrorKind::Invalid) if the keys cannot be derived.
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
    /// - [`TokenError::Malformed`] if `token` is not a session token
    /// - [`TokenError::UnknownKey`] if no secret of the key ring created it
    /// - [`TokenError::Forged`] if it was modified
    /// - [`TokenError::Expired`] if its `exp` time has passed
    /// - [`TokenError::NotYetValid`] if its `nbf` time is in the future
    /// - [`TokenError::Claims`] if it is valid and its claims do not deserialize into `C`
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
        self.decode_with_clock(token, now)
            .map(|decoded| decoded.session)
    }

    /// Like [`decode_at`](Self::decode_at). Also returns whether the token was created after `now`.
    pub(super) fn decode_with_clock<C: DeserializeOwned>(
        &self,
        token: &str,
        now: SystemTime,
    ) -> Result<Decoded<C>, TokenError> {
        let verified = self.verify(token, now)?;
        let text = verified.text();
        let claims = serde_json::from_str(text).map_err(|_| mismatch::<C>(text))?;
        Ok(Decoded {
            session: Session {
                claims,
                expires: verified.expires,
                auth: PhantomData,
            },
            is_from_future: verified.is_from_future,
        })
    }

    /// Decrypts `token` and checks its times against `now`.
    pub(super) fn verify(&self, token: &str, now: SystemTime) -> Result<Verified, TokenError> {
        let decrypted = jwe::decrypt(token, &self.keys, self.format)?;
        let json = text::decode_text(decrypted.text, self.format).ok_or(TokenError::Malformed)?;
        let replaced = text::without_unpaired_surrogates(&json);
        let text = replaced.as_ref().unwrap_or(&json);
        let times: TimeClaims = serde_json::from_str(text).map_err(|_| TokenError::Malformed)?;
        let now = whole_seconds(now);
        let expires = times.check(now)?;
        if let Some(header) = decrypted.header
            && !header_matches_claims(&header, text)
        {
            return Err(TokenError::Malformed);
        }
        Ok(Verified {
            json,
            replaced,
            expires,
            lifetime: times.lifetime(),
            is_from_future: times.is_from_future(now),
        })
    }

    /// Creates a token with the claims of another one, that expires after `lifetime`.
    ///
    /// The claims `iat`, `exp` and `jti` are new. The others keep their text.
    pub(super) fn renew(
        &self,
        verified: &Verified,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<String, TokenError> {
        self.encrypt(&renewed(&verified.json, unix_seconds(now), lifetime)?)
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
        let claims = text::to_json(claims).ok_or(TokenError::Malformed)?;
        self.encrypt(&renewed(&claims, unix_seconds(now), max_age)?)
    }

    fn encrypt(&self, claims: &WipedBytes) -> Result<String, TokenError> {
        let keys = self.keys.first().ok_or(TokenError::Forged)?;
        jwe::encrypt(claims, keys, self.format)
    }
}

/// The claims of a token that was decrypted and whose times are valid.
pub(super) struct Verified {
    /// The claims as they were encrypted.
    json: WipedText,
    /// The claims without unpaired surrogates. `None` if they have no surrogates.
    replaced: Option<WipedText>,
    pub(super) expires: Option<SystemTime>,
    /// The time between `iat` and `exp`, if the token has both.
    pub(super) lifetime: Option<Duration>,
    is_from_future: bool,
}

impl Verified {
    fn text(&self) -> &str {
        self.replaced.as_ref().unwrap_or(&self.json)
    }
}

fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
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
