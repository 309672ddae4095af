//! Sessions that a service shares with Auth.js: tokens as next-auth 4, next-auth 5 and `@auth/core` write
//! and read them.
//!
//! For a Rust service beside a Next.js application that knows who is logged in there. Keys are derived
//! once for each ring of secrets, so that a request pays for one decryption and nothing else.
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
//! A service wants [`Sessions`], which put the token and its cookie together, built by a
//! [`LazyAuth`](crate::LazyAuth) from a ring in the packages' own order, [`SecretOrder`]; and around its
//! routes the layer of `LazyAuth::session_layer`.
//!
//! # Differences from the packages
//! Times are 64 bits wide, where the packages' tokens are born expired from 2038 on. Compressed tokens,
//! which the packages read and never write, are refused, and so is all base64 that could be written
//! otherwise, and claims that nest deeper than 128 or have numbers that no 64-bit float holds. Half a
//! surrogate pair in a claim is read as U+FFFD.

mod cookie;
mod csrf;
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
#[cfg(feature = "tower")]
pub use layer::{SessionLayer, SessionService};
pub use order::SecretOrder;
pub use sessions::Sessions;

use crate::KeyRing;
use crate::hex::hex;
use keys::{Format, Keys};

/// By how many seconds clocks may differ.
const TOLERANCE: f64 = 15.0;

/// Why a token is no session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// It is none of these tokens, or what it says makes no sense.
    #[error("it is no session token")]
    Malformed,
    /// None of the secrets made it, or somebody has changed it. Which of the two is told to nobody.
    #[error("it was not made with any of the secrets")]
    Forged,
    /// It was good once.
    #[error("it has expired")]
    Expired,
}

/// What a token says.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Session<C> {
    /// Its claims.
    pub claims: C,
    /// When it ends, if it does.
    pub expires: Option<SystemTime>,
}

/// Makes and reads the tokens of one cookie, with the secrets of one ring.
pub struct SessionTokens {
    format: Format,
    /// The one to encrypt with first.
    keys: Vec<Keys>,
}

impl SessionTokens {
    /// Those of `@auth/core` and next-auth 5. The name of the cookie goes into the key: with the prefix
    /// `__Secure-` where the cookie has it.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`](secretwell_core::ErrorKind::Invalid): a secret is empty.
    pub fn v5(cookie_name: &str, secrets: &KeyRing) -> Result<Self, Error> {
        Self::new(Format::V5, cookie_name, secrets)
    }

    /// Those of next-auth 4.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`](secretwell_core::ErrorKind::Invalid): a secret is empty.
    pub fn v4(secrets: &KeyRing) -> Result<Self, Error> {
        Self::new(Format::V4, "", secrets)
    }

    /// Those of next-auth 4 in its cookies that are no sessions (`next-auth.state`,
    /// `next-auth.pkce.code_verifier`, `next-auth.nonce`). The name of the cookie goes into the key, as in
    /// version 5.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`](secretwell_core::ErrorKind::Invalid): a secret is empty.
    pub fn v4_named(cookie_name: &str, secrets: &KeyRing) -> Result<Self, Error> {
        Self::new(Format::V4, cookie_name, secrets)
    }

    fn new(format: Format, salt: &str, secrets: &KeyRing) -> Result<Self, Error> {
        let keys = Keys::of(secrets, format, salt)?;
        Ok(Self { format, keys })
    }

    /// What `token` says, if it is good.
    ///
    /// # Errors
    /// Why it is not. Nothing is decrypted before it is known to be made with one of the secrets.
    pub fn decode<C: DeserializeOwned>(&self, token: &str) -> Result<Session<C>, TokenError> {
        self.decode_at(token, SystemTime::now())
    }

    /// Like [`decode`](Self::decode), at another time than now.
    ///
    /// # Errors
    /// As [`decode`](Self::decode).
    pub fn decode_at<C: DeserializeOwned>(
        &self,
        token: &str,
        now: SystemTime,
    ) -> Result<Session<C>, TokenError> {
        let opened = jwe::open(token, &self.keys, self.format)?;
        let text = text::json(opened.text, self.format).ok_or(TokenError::Malformed)?;
        let times: Times = serde_json::from_str(&text).map_err(|_| TokenError::Malformed)?;
        let expires = times.check(seconds(now))?;
        if let Some(header) = opened.header
            && !agree(&header, &text)
        {
            return Err(TokenError::Malformed);
        }
        let claims = serde_json::from_str(&text).map_err(|_| TokenError::Malformed)?;
        Ok(Session { claims, expires })
    }

    /// A token that says `claims`, which must be an object, and is good for `max_age` from now on.
    ///
    /// # Errors
    /// [`TokenError::Malformed`]: the claims are no object, or the system has no random numbers.
    pub fn encode(&self, claims: &impl Serialize, max_age: Duration) -> Result<String, TokenError> {
        self.encode_at(claims, max_age, SystemTime::now())
    }

    /// Like [`encode`](Self::encode), at another time than now.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
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
        let end = now.saturating_add(max_age.as_secs());
        claims.insert("exp".into(), Number::from(end).into());
        claims.insert("jti".into(), id()?.into());
        let text = serde_json::to_vec(&claims).map_err(|_| TokenError::Malformed)?;
        let keys = self.keys.first().ok_or(TokenError::Forged)?;
        jwe::seal(&Zeroizing::new(text), keys, self.format)
    }
}

/// Without the keys.
impl fmt::Debug for SessionTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionTokens")
            .field("format", &self.format)
            .field("secrets", &self.keys.len())
            .finish_non_exhaustive()
    }
}

/// Whether the claims that a token's header repeats are those of its text.
fn agree(header: &Map<String, Value>, text: &str) -> bool {
    let repeated = ["iss", "sub", "aud"];
    if !repeated.iter().any(|name| header.contains_key(*name)) {
        return true;
    }
    let Ok(claims) = serde_json::from_str::<Map<String, Value>>(text) else {
        return false;
    };
    repeated.into_iter().all(|name| {
        header.get(name).is_none_or(|repeated| {
            // In JavaScript no object is equal to another, and the texts of audiences that are
            // compared depend on the order of their names.
            let is_comparable = !repeated.is_object() && (name == "aud" || !repeated.is_array());
            is_comparable && claims.get(name) == Some(repeated)
        })
    })
}

/// What a token says of its times, in seconds since 1970.
#[derive(Default)]
struct Times {
    issued: Option<Time>,
    begin: Option<Time>,
    end: Option<Time>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(untagged)]
enum Time {
    Seconds(f64),
    None(IgnoredAny),
}

impl Time {
    fn seconds(self) -> Result<f64, TokenError> {
        match self {
            Self::Seconds(seconds) => Ok(seconds),
            Self::None(_) => Err(TokenError::Malformed),
        }
    }
}

impl Times {
    /// When the token ends, if it is good now. One without an end is, as the packages have it.
    fn check(&self, now: f64) -> Result<Option<SystemTime>, TokenError> {
        let seconds = |time: Option<Time>| time.map(Time::seconds).transpose();
        seconds(self.issued)?;
        if seconds(self.begin)?.is_some_and(|begin| begin > now + TOLERANCE) {
            return Err(TokenError::Malformed);
        }
        match seconds(self.end)? {
            Some(end) if end <= now - TOLERANCE => Err(TokenError::Expired),
            Some(end) => Ok(Duration::try_from_secs_f64(end)
                .ok()
                .and_then(|end| UNIX_EPOCH.checked_add(end))),
            None => Ok(None),
        }
    }
}

/// Not derived: a name that is said twice is what it was said to be last, as in JavaScript.
impl<'de> Deserialize<'de> for Times {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(field_identifier, rename_all = "lowercase")]
        enum Name {
            Exp,
            Iat,
            Nbf,
            Other(IgnoredAny),
        }

        struct Claims;

        impl<'de> Visitor<'de> for Claims {
            type Value = Times;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of claims")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Times, M::Error> {
                let mut times = Times::default();
                while let Some(name) = map.next_key()? {
                    match name {
                        Name::Exp => times.end = Some(map.next_value()?),
                        Name::Nbf => times.begin = Some(map.next_value()?),
                        Name::Iat => times.issued = Some(map.next_value()?),
                        Name::Other(_) => drop(map.next_value::<IgnoredAny>()?),
                    }
                }
                Ok(times)
            }
        }

        deserializer.deserialize_map(Claims)
    }
}

/// Whole seconds, as the packages count them.
#[allow(clippy::cast_precision_loss)]
fn seconds(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs() as f64
}

/// A random UUID.
fn id() -> Result<String, TokenError> {
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
