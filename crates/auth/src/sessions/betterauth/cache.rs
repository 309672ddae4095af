//! [`SessionCache`]: the cookie cache `session_data` in its three strategies.

use std::fmt;
use std::time::{Duration, SystemTime};

use secretwell_core::Error;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::date::{time_of_milliseconds, to_milliseconds};
use super::json::write_number;
use super::mac::{Accept, MacKeys};
use super::object::{ClaimTexts, Object};
use super::payload::{CachedSession, Claims, DEFAULT_VERSION, Payload, SessionRow};
use super::secrets::BetterAuthSecrets;
use super::signed::VerifiedToken;
use super::user::User;
use super::{compact, jwt};
use crate::sessions::TokenError;
use crate::sessions::claims::{
    CLOCK_TOLERANCE, TimeClaims, random_uuid, system_time, whole_seconds,
};
use crate::sessions::jwe;
use crate::sessions::keys::{Format, Keys};
use crate::sessions::text::{WipedBytes, WipedText, decode_json, to_json};

/// Salt of the key of the strategy `jwe`.
const SALT: &str = "better-auth-session";
/// Maximum length of a cache in bytes: about a hundred cookies.
const MAX_CACHE: usize = 400_000;

/// The strategy of the cookie cache, `session.cookieCache.strategy` in the options of the application.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum CacheStrategy {
    /// Signed JSON. The default of an application with a database.
    Compact,
    /// A JWT with HS256.
    Jwt,
    /// An encrypted JWT. The default of an application without a database.
    Jwe,
}

/// Reads and writes the cookie cache `session_data`.
///
/// A cache is accepted only beside the [`VerifiedToken`] of the same session. Otherwise the cache of one
/// person beside the token of another would be accepted as that person.
///
/// ```
/// use std::time::{Duration, SystemTime};
///
/// use secretwell::auth::sessions::betterauth::{
///     BetterAuthSecrets, CacheStrategy, SessionCache, SessionRow, TokenSigner,
/// };
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct User {
///     id: String,
///     email: String,
///     name: String,
/// }
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let secrets = BetterAuthSecrets::new("a secret of thirty-two bytes or more")?;
/// let cache = SessionCache::new(CacheStrategy::Compact, &secrets)?;
/// let week = Duration::from_secs(7 * 24 * 60 * 60);
/// let session = SessionRow::new("session-1", "user-1", "a-token", SystemTime::now() + week);
/// let ada = User { id: "user-1".into(), email: "ada@example.test".into(), name: "Ada".into() };
/// let session_data = cache.encode(&session, &ada, Duration::from_secs(300))?;
///
/// let signer = TokenSigner::new(&secrets)?;
/// let token = signer.verify(signer.sign("a-token")?.expose())?;
/// let cached = cache.decode::<User>(&session_data, &token)?;
/// assert_eq!(cached.user.name, "Ada");
/// # Ok(())
/// # }
/// ```
pub struct SessionCache {
    strategy: CacheStrategy,
    version: String,
    macs: MacKeys,
    /// Empty for other strategies than `jwe`.
    keys: Vec<Keys>,
    accept: Accept,
}

/// The content of a cache whose signature or tag is valid.
pub(super) struct Verified {
    claims: WipedText,
    /// The end of a compact cache. The caches of the other strategies have a claim.
    compact_expires: Option<SystemTime>,
}

impl SessionCache {
    /// Creates a reader and writer of caches in `strategy`.
    ///
    /// As in the package, the strategy `jwe` accepts the caches of all secrets, and the others accept those
    /// of the current secret.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Invalid`](secretwell_core::ErrorKind::Invalid) if a secret cannot be used as a
    /// key.
    pub fn new(strategy: CacheStrategy, secrets: &BetterAuthSecrets) -> Result<Self, Error> {
        let derive = |secret| Keys::derive(secret, Format::BetterAuth, SALT);
        let keys = match strategy {
            CacheStrategy::Jwe => secrets.iter().map(derive).collect::<Result<_, _>>()?,
            CacheStrategy::Compact | CacheStrategy::Jwt => Vec::new(),
        };
        Ok(Self {
            strategy,
            version: DEFAULT_VERSION.to_owned(),
            macs: MacKeys::new(secrets)?,
            keys,
            accept: Accept::Current,
        })
    }

    /// Sets the version, `session.cookieCache.version` in the options of the application. Caches of another
    /// version are refused. Default: `1`.
    #[must_use]
    pub fn with_version(mut self, version: impl Into<String>) -> Self {
        self.version = version.into();
        self
    }

    /// Accepts the caches of all secrets in the strategies `compact` and `jwt` as well. Default: those of
    /// the current secret.
    ///
    /// The application does not read such a cache. It reads its database instead.
    #[must_use]
    pub fn accept_previous_caches(mut self) -> Self {
        self.accept = Accept::All;
        self
    }

    /// Returns the strategy.
    pub fn strategy(&self) -> CacheStrategy {
        self.strategy
    }

    /// Decodes the cache of the session that `token` belongs to.
    ///
    /// The signature or the tag is checked first, in constant time. Then follow the end of the cache, the end
    /// of the session, the version, the token and the types of the columns.
    ///
    /// # Errors
    /// - [`TokenError::Malformed`] if the text is not a cache, or the package would refuse its columns
    /// - [`TokenError::UnknownKey`] if it was not created with an accepted secret
    /// - [`TokenError::Forged`] if a cache of the strategy `jwe` was modified
    /// - [`TokenError::Expired`] if the cache or the session has ended
    /// - [`TokenError::OtherVersion`] if it has another version
    /// - [`TokenError::OtherToken`] if it belongs to another session than `token`
    pub fn decode<U: DeserializeOwned>(
        &self,
        cache: &str,
        token: &VerifiedToken,
    ) -> Result<CachedSession<U>, TokenError> {
        self.decode_at(cache, token, SystemTime::now())
    }

    /// Like [`decode`](Self::decode), but checks the times against `now`.
    ///
    /// # Errors
    /// The same as [`decode`](Self::decode).
    pub fn decode_at<U: DeserializeOwned>(
        &self,
        cache: &str,
        token: &VerifiedToken,
        now: SystemTime,
    ) -> Result<CachedSession<U>, TokenError> {
        let verified = self.verify(cache, now)?;
        let (payload, expires) = self.open(&verified, token, now)?;
        payload.into_session(expires)
    }

    /// Checks the signature or the tag of a cache, and the end of a compact cache.
    pub(super) fn verify(&self, cache: &str, now: SystemTime) -> Result<Verified, TokenError> {
        if cache.len() > MAX_CACHE {
            return Err(TokenError::Malformed);
        }
        let mut compact_expires = None;
        let text = match self.strategy {
            CacheStrategy::Compact => {
                let (text, expires) = compact::open(cache, &self.macs, self.accept)?;
                if expires < milliseconds(now) {
                    return Err(TokenError::Expired);
                }
                compact_expires = time_of_milliseconds(expires);
                text
            }
            CacheStrategy::Jwt => jwt::open(cache, &self.macs, self.accept)?,
            CacheStrategy::Jwe => {
                let decrypted = jwe::decrypt(cache, &self.keys, Format::BetterAuth)?;
                // The package compares these members with claims that it never writes.
                let repeated = ["iss", "sub", "aud"];
                if let Some(header) = decrypted.header
                    && repeated.iter().any(|name| header.contains_key(*name))
                {
                    return Err(TokenError::Malformed);
                }
                decrypted.text
            }
        };
        Ok(Verified {
            claims: decode_json(text, Format::BetterAuth).ok_or(TokenError::Malformed)?,
            compact_expires,
        })
    }

    /// Checks the claims of a cache, and returns its content and its end.
    pub(super) fn open<'a>(
        &self,
        verified: &'a Verified,
        token: &VerifiedToken,
        now: SystemTime,
    ) -> Result<(Payload<'a>, SystemTime), TokenError> {
        let claims = serde_json::from_str(&verified.claims);
        let claims: ClaimTexts<'a> = claims.map_err(|_| TokenError::Malformed)?;
        let times = || TimeClaims::new(|name| claims.others.get(name));
        let expires = match self.strategy {
            CacheStrategy::Compact => verified.compact_expires,
            CacheStrategy::Jwt => {
                let seconds = whole_seconds(now);
                let expires = times().check_with(seconds, |end| end <= seconds)?;
                expires.and_then(system_time)
            }
            CacheStrategy::Jwe => {
                let start = whole_seconds(now) + CLOCK_TOLERANCE;
                let milliseconds = milliseconds(now);
                let expires = times().check_with(start, |end| end * 1000.0 < milliseconds)?;
                expires.and_then(system_time)
            }
        };
        // The package accepts a cache without an end for the rest of the millisecond.
        let expires = expires.ok_or(TokenError::Malformed)?;
        let payload = Payload::from_claims(claims).ok_or(TokenError::Malformed)?;
        payload.check(token, &self.version, now)?;
        Ok((payload, expires))
    }

    /// Creates a cache of `session` and `user` that ends after `max_age`.
    ///
    /// `user` must serialize to an object with the texts `id`, `email` and `name`, because the package refuses
    /// a cache without them.
    ///
    /// # Errors
    /// Returns [`TokenError::Malformed`] if the package would refuse the cache, or if the system's random
    /// number generator fails.
    pub fn encode(
        &self,
        session: &SessionRow,
        user: &impl Serialize,
        max_age: Duration,
    ) -> Result<String, TokenError> {
        self.encode_at(session, user, max_age, SystemTime::now())
    }

    /// Like [`encode`](Self::encode), but takes `now` as the time of creation.
    ///
    /// # Errors
    /// The same as [`encode`](Self::encode).
    pub fn encode_at(
        &self,
        session: &SessionRow,
        user: &impl Serialize,
        max_age: Duration,
        now: SystemTime,
    ) -> Result<String, TokenError> {
        let user = to_json(user).ok_or(TokenError::Malformed)?;
        let user = Object::parse(&user).and_then(User::new);
        let user = user.ok_or(TokenError::Malformed)?;
        let claims = Claims::new(session, &user, &self.version, now);
        self.seal(claims.ok_or(TokenError::Malformed)?, max_age, now)
    }

    /// Returns a cache with the content of `cache` that ends after `max_age`. The session keeps its own end.
    ///
    /// # Errors
    /// The same as [`decode`](Self::decode). Returns [`TokenError::Malformed`] as well if the system's
    /// random number generator fails.
    pub fn refresh(
        &self,
        cache: &str,
        token: &VerifiedToken,
        max_age: Duration,
    ) -> Result<String, TokenError> {
        let now = SystemTime::now();
        self.renew(&self.verify(cache, now)?, token, max_age, now)
    }

    /// Creates a cache with the content of another one that ends after `max_age`.
    pub(super) fn renew(
        &self,
        verified: &Verified,
        token: &VerifiedToken,
        max_age: Duration,
        now: SystemTime,
    ) -> Result<String, TokenError> {
        let (payload, _) = self.open(verified, token, now)?;
        let claims = Claims::renewed(&payload, &self.version, now);
        self.seal(claims.ok_or(TokenError::Malformed)?, max_age, now)
    }

    fn seal(
        &self,
        claims: Claims<'_>,
        max_age: Duration,
        now: SystemTime,
    ) -> Result<String, TokenError> {
        if self.strategy == CacheStrategy::Compact {
            let max_age = i64::try_from(max_age.as_millis()).unwrap_or(i64::MAX);
            let expires = to_milliseconds(now).saturating_add(max_age);
            return Ok(compact::seal(claims, expires, &self.macs));
        }
        let since = now.duration_since(SystemTime::UNIX_EPOCH);
        let issued = since.unwrap_or_default().as_secs();
        let expires = issued.saturating_add(max_age.as_secs());
        let mut json = WipedBytes::for_claims();
        claims.write(&mut json);
        for (name, time) in [("iat", issued), ("exp", expires)] {
            for part in [",\"", name, "\":"] {
                json += part;
            }
            write_number(&time.into(), &mut json);
        }
        if self.strategy == CacheStrategy::Jwt {
            json += "}";
            return Ok(jwt::seal(&json, &self.macs));
        }
        for part in [r#","jti":""#, &random_uuid()?, "\"}"] {
            json += part;
        }
        let keys = self.keys.first().ok_or(TokenError::Malformed)?;
        jwe::encrypt(&json, keys, Format::BetterAuth)
    }
}

/// Returns the milliseconds from 1970 to `time`, without their fraction.
#[allow(clippy::cast_precision_loss)]
fn milliseconds(time: SystemTime) -> f64 {
    to_milliseconds(time) as f64
}

/// Omits the keys.
impl fmt::Debug for SessionCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionCache")
            .field("strategy", &self.strategy)
            .field("version", &self.version)
            .field("accept", &self.accept)
            .finish_non_exhaustive()
    }
}
