//! [`Sessions`]: the cookies of a session combined.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use secretwell_core::Error;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::cache::{CacheStrategy, SessionCache};
use super::cookies::{CookieKey, SessionCookies};
use super::diagnosis::Diagnosis;
use super::payload::{CachedSession, SessionRow};
use super::secrets::BetterAuthSecrets;
use super::signed::{TokenSigner, VerifiedToken};
#[cfg(feature = "tower")]
use crate::sessions::cookie::bearer_token;
use crate::sessions::error::{Rejected, first_valid};
use crate::sessions::format::{HasSessions, Sealed, SessionFormat};
use crate::sessions::{ClaimsError, TokenError};

/// Default of `session.expiresIn`: 7 days.
const EXPIRES_IN: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// Default of `session.cookieCache.maxAge`: 5 minutes.
const CACHE_MAX_AGE: Duration = Duration::from_secs(5 * 60);
/// A cache ends up to this time before its session if both have the same end, because its times are rounded
/// down to seconds.
const ROUNDING: Duration = Duration::from_secs(2);
/// The value of the cookie `dont_remember`.
const DONT_REMEMBER: &str = "true";

/// Reader and writer of the sessions of one Better Auth application.
///
/// What a service can know without the database of the application depends on its configuration:
///
/// | application | constructor | known without the database |
/// | --- | --- | --- |
/// | database, no cookie cache (the default) | [`new`](Self::new) | the application has signed this token |
/// | database and cookie cache | [`with_cache`](Self::with_cache) | the user, as of at most `cookieCache.maxAge` ago |
/// | no database | [`stateless`](Self::stateless) | the user |
///
/// A [`LazyAuth`](crate::LazyAuth) builds this type. With the feature `axum`, a handler takes one of these
/// arguments:
///
/// - `Auth<Session<User>>`: 401 without a valid cache
/// - `Auth<TokenWithCache<User>>`: 401 without a valid token; the cache can be missing
/// - `Auth<VerifiedToken>`: 401 without a valid token
///
/// A cookie that cannot be verified counts as absent, and it is not cleared: it might be valid with another
/// key ring.
///
/// ```
/// use std::time::{Duration, SystemTime};
///
/// use secretwell::auth::sessions::Scheme;
/// use secretwell::auth::sessions::betterauth::{
///     BetterAuthSecrets, Remember, SessionCookies, SessionRow, Sessions,
/// };
/// use secretwell::auth::{BuildContext, LazyAuth};
/// use secretwell::{MemoryProvider, Resolver, SecretString};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Deserialize)]
/// #[serde(rename_all = "SCREAMING_SNAKE_CASE")]
/// struct Secrets {
///     #[expect(dead_code, reason = "the build uses its key ring")]
///     better_auth_secret: SecretString,
/// }
///
/// #[derive(Serialize, Deserialize)]
/// struct User {
///     id: String,
///     email: String,
///     name: String,
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let memory = MemoryProvider::from_iter([("BETTER_AUTH_SECRET", "K7gNU3sdo+OL0wNhqoVWhr3g6s1xYv72ol/pe/Unols=")]);
/// let auth = LazyAuth::new(Resolver::new(memory), |_: Secrets, cx: BuildContext| async move {
///     let secrets = BetterAuthSecrets::from_context(&cx)?;
///     Ok(Sessions::stateless(SessionCookies::new(Scheme::Https), &secrets)?)
/// });
///
/// let sessions = auth.get().await?;
/// let end = SystemTime::now() + Duration::from_secs(60 * 60);
/// let row = SessionRow::new("session-1", "user-1", "a-token", end);
/// let ada = User { id: "user-1".into(), email: "ada@example.test".into(), name: "Ada".into() };
/// let set_cookies = sessions.start(&row, &ada, Remember::UntilExpiry, "")?;
/// let pairs: Vec<_> = set_cookies.iter().filter_map(|set| set.split(';').next()).collect();
/// let session = sessions.find::<User>(&pairs.join("; "))?;
/// assert_eq!(session.unwrap().user.name, "Ada");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Sessions {
    cookies: SessionCookies,
    signer: TokenSigner,
    cache: Option<SessionCache>,
    expires_in: Duration,
    /// `None` if the cache lasts as long as the session.
    cache_max_age: Option<Duration>,
    has_database: bool,
    bearer: bool,
    pub(super) diagnosis: Arc<Diagnosis>,
}

/// How long the browser keeps the cookies of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Remember {
    /// Until the session expires.
    UntilExpiry,
    /// Until the browser is closed. The package calls this "don't remember me".
    UntilBrowserCloses,
}

impl Sessions {
    /// Creates a reader and writer for an application without a cookie cache.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Invalid`](secretwell_core::ErrorKind::Invalid) if a secret cannot be used as a
    /// key.
    pub fn new(cookies: SessionCookies, secrets: &BetterAuthSecrets) -> Result<Self, Error> {
        Ok(Self {
            diagnosis: Arc::new(Diagnosis::new(&cookies, secrets)),
            cookies,
            signer: TokenSigner::new(secrets)?,
            cache: None,
            expires_in: EXPIRES_IN,
            cache_max_age: Some(CACHE_MAX_AGE),
            has_database: true,
            bearer: false,
        })
    }

    /// Creates a reader and writer for an application with a database and a cookie cache.
    ///
    /// # Errors
    /// The same as [`new`](Self::new).
    pub fn with_cache(
        cookies: SessionCookies,
        secrets: &BetterAuthSecrets,
        strategy: CacheStrategy,
    ) -> Result<Self, Error> {
        let sessions = Self::new(cookies, secrets)?;
        Ok(Self {
            cache: Some(SessionCache::new(strategy, secrets)?),
            ..sessions
        })
    }

    /// Creates a reader and writer for an application without a database. Its sessions are in the cookie cache
    /// only, in the strategy `jwe`, and a cache lasts as long as its session.
    ///
    /// # Errors
    /// The same as [`new`](Self::new).
    pub fn stateless(cookies: SessionCookies, secrets: &BetterAuthSecrets) -> Result<Self, Error> {
        let sessions = Self::with_cache(cookies, secrets, CacheStrategy::Jwe)?;
        Ok(Self {
            cache_max_age: None,
            has_database: false,
            ..sessions
        })
    }

    /// Sets the lifetime of the cookie of a session, `session.expiresIn`. Default: 7 days.
    #[must_use]
    pub fn expires_in(mut self, expires_in: Duration) -> Self {
        self.expires_in = expires_in;
        self
    }

    /// Sets the lifetime of a cache, `session.cookieCache.maxAge`. Default: 5 minutes, or the lifetime of the
    /// session without a database.
    #[must_use]
    pub fn cache_max_age(mut self, max_age: Duration) -> Self {
        self.cache_max_age = Some(max_age);
        self
    }

    /// Sets the version of the cache, `session.cookieCache.version`. Caches of another version are refused.
    /// Default: `1`.
    #[must_use]
    pub fn cache_version(mut self, version: impl Into<String>) -> Self {
        self.cache = self.cache.map(|cache| cache.with_version(version));
        self
    }

    /// Accepts the tokens of previous secrets. Default: those of the current secret, as in the package.
    ///
    /// A rotation logs everybody out of the application. With this option, the users are still logged in to
    /// the service. A layer with `renew_when_remaining` signs their tokens with the current secret, which
    /// logs them in to the application again. See [`TokenSigner::accept_previous_tokens`].
    #[must_use]
    pub fn accept_previous_tokens(mut self) -> Self {
        self.signer = self.signer.accept_previous_tokens();
        self
    }

    /// Accepts the caches of previous secrets in the strategies `compact` and `jwt` as well. See
    /// [`SessionCache::accept_previous_caches`].
    #[must_use]
    pub fn accept_previous_caches(mut self) -> Self {
        self.cache = self.cache.map(SessionCache::accept_previous_caches);
        self
    }

    /// Accepts the signed token in the header `Authorization: Bearer token.signature`, as the `bearer` plugin
    /// of the package does. Default: only cookies.
    ///
    /// A valid token in the header has precedence over the cookies. A token without a signature is never
    /// accepted. The plugin accepts it unless `requireSignature` is set.
    #[must_use]
    pub fn accept_bearer(mut self) -> Self {
        self.bearer = true;
        self
    }

    /// Returns the verified token in a `Cookie` header, or `None` if the header has none.
    ///
    /// It is not a session: see [`VerifiedToken`]. The reason for rejecting a cookie is logged at the level
    /// `debug`. If it might be a wrong set-up, a warning explains it, at most once in 5 minutes for each
    /// kind.
    pub fn token(&self, cookies: &str) -> Option<VerifiedToken> {
        self.token_or_rejected(None, cookies)
            .unwrap_or_else(|rejected| {
                self.diagnosis.rejected(&rejected, cookies);
                None
            })
    }

    /// Returns the cached session in a `Cookie` header, or `None` if the header has no valid token or no valid
    /// cache of its session.
    ///
    /// In an application with a database, `None` does not mean that the user is logged out: the cache might
    /// have ended. The reason for rejecting a cookie is logged at the level `debug`.
    ///
    /// # Errors
    /// Returns [`ClaimsError`] if the session is valid, but its user does not deserialize into `U`. The user
    /// is logged in, so this must not be treated like a missing session.
    pub fn find<U: DeserializeOwned>(
        &self,
        cookies: &str,
    ) -> Result<Option<CachedSession<U>>, ClaimsError> {
        self.find_at(cookies, SystemTime::now())
    }

    /// Like [`find`](Self::find), but checks the times against `now`.
    ///
    /// # Errors
    /// The same as [`find`](Self::find).
    pub fn find_at<U: DeserializeOwned>(
        &self,
        cookies: &str,
        now: SystemTime,
    ) -> Result<Option<CachedSession<U>>, ClaimsError> {
        match self.token(cookies) {
            Some(token) => self.find_of(&token, cookies, now),
            None => Ok(None),
        }
    }

    /// Returns the cached session of a verified token.
    pub(super) fn find_of<U: DeserializeOwned>(
        &self,
        token: &VerifiedToken,
        cookies: &str,
        now: SystemTime,
    ) -> Result<Option<CachedSession<U>>, ClaimsError> {
        let found = self.find_with(cookies, |cache, text| cache.decode_at(text, token, now));
        found.inspect_err(|error| {
            let warnings = &self.diagnosis.warnings;
            warnings.claims(std::any::type_name::<U>(), error);
        })
    }

    /// Returns the first cache of a `Cookie` header that `decode` accepts.
    fn find_with<T>(
        &self,
        cookies: &str,
        decode: impl Fn(&SessionCache, &str) -> Result<T, TokenError>,
    ) -> Result<Option<T>, ClaimsError> {
        let Some(cache) = &self.cache else {
            return Ok(None);
        };
        let candidates = self.cookies.candidates(CookieKey::SessionData, cookies);
        match first_valid(candidates, |text| decode(cache, text)) {
            Ok(found) => Ok(found),
            Err(rejected) => {
                self.log_rejected(CookieKey::SessionData, &rejected.error);
                match rejected.error {
                    TokenError::Claims(error) => Err(error),
                    _ => Ok(None),
                }
            }
        }
    }

    /// Warns about a handler that needs the cache. The request has a valid token and no valid cache.
    #[cfg(feature = "tower")]
    pub(super) fn warn_without_cache(&self, cookies: &str) {
        let key = CookieKey::SessionData;
        let advice = match &self.cache {
            None => {
                "create the `Sessions` by `with_cache` or `stateless`, or take `Auth<VerifiedToken>`"
            }
            Some(_) if self.cookies.candidates(key, cookies).next().is_none() => {
                "set `session.cookieCache.enabled` in the application, or take `Auth<TokenWithCache<_>>`"
            }
            Some(_) => {
                "check that `CacheStrategy` and `cache_version` are those of the application"
            }
        };
        self.diagnosis
            .caches
            .missing(self.cookies.name(key), advice);
    }

    /// Returns the verified token of a request, or `None` if it has no token. `bearer` is tried before the
    /// cookies. The caller must report a rejection to the diagnosis.
    pub(super) fn token_or_rejected(
        &self,
        bearer: Option<String>,
        cookies: &str,
    ) -> Result<Option<VerifiedToken>, Rejected> {
        let token = self.read_token(bearer, cookies);
        match &token {
            Ok(Some(_)) => self.diagnosis.warnings.accepted(),
            Ok(None) => self.diagnosis.warnings.other_cookies(cookies),
            Err(rejected) => self.log_rejected(CookieKey::SessionToken, &rejected.error),
        }
        token
    }

    fn read_token(
        &self,
        bearer: Option<String>,
        cookies: &str,
    ) -> Result<Option<VerifiedToken>, Rejected> {
        let candidates = self.cookies.candidates(CookieKey::SessionToken, cookies);
        let candidates = bearer.into_iter().chain(candidates);
        first_valid(candidates, |text| self.signer.verify(text))
    }

    /// Returns whether the option [`accept_bearer`](Self::accept_bearer) is set.
    #[cfg(feature = "tower")]
    pub(super) fn is_bearer_accepted(&self) -> bool {
        self.bearer
    }

    /// Returns the text in the `Authorization` header that can be a signed token, if the option is set.
    ///
    /// As in the plugin, the token has no dot. Tokens of other kinds can be in this header, such as JWTs.
    #[cfg(feature = "tower")]
    pub(super) fn bearer_text(&self, headers: &http::HeaderMap) -> Option<String> {
        let text = bearer_token(headers).filter(|_| self.bearer)?;
        (text.matches('.').count() == 1).then_some(text)
    }

    fn log_rejected(&self, key: CookieKey, error: &TokenError) {
        tracing::debug!(target: "secretwell::auth", event = "session_rejected", cookie = self.cookies.name(key), %error, "the session cookie was rejected");
    }

    /// Returns the `Set-Cookie` headers that start a session. `cookies` is the `Cookie` header of the request.
    ///
    /// With a database, the row must be in it. Otherwise the session ends with its cache. The headers set
    /// the token and, if the application has one, the cache. A cache lasts at most as long as its session.
    ///
    /// # Errors
    /// - [`TokenError::Malformed`] if the package would refuse the token or the cache, or if the system's
    ///   random number generator fails
    /// - [`TokenError::TooLarge`] if the cache is too large for cookies; see [`SessionCookies::max_size`]
    pub fn start(
        &self,
        session: &SessionRow,
        user: &impl Serialize,
        remember: Remember,
        cookies: &str,
    ) -> Result<Vec<String>, TokenError> {
        let now = SystemTime::now();
        let left = session.expires.duration_since(now).unwrap_or_default();
        let mut headers = self.set_token(session.expose_token(), remember, left, cookies)?;
        if let Some(cache) = &self.cache {
            let max_age = self.cache_lifetime(cache, remember, left);
            let data = cache.encode_at(session, user, max_age, now)?;
            headers.extend(self.set_data(&data, remember, max_age, cookies)?);
        }
        headers.extend(match remember {
            Remember::UntilExpiry => self.cookies.clear(CookieKey::DontRemember, cookies),
            Remember::UntilBrowserCloses => {
                let value = self.signer.sign(DONT_REMEMBER)?;
                self.cookies
                    .set(CookieKey::DontRemember, value.expose(), None, cookies)?
            }
        });
        Ok(headers)
    }

    fn set_token(
        &self,
        token: &str,
        remember: Remember,
        left: Duration,
        cookies: &str,
    ) -> Result<Vec<String>, TokenError> {
        let max_age = match remember {
            Remember::UntilExpiry => Some(self.expires_in.min(left)),
            Remember::UntilBrowserCloses => None,
        };
        let signed = self.signer.sign(token)?;
        self.cookies
            .set(CookieKey::SessionToken, signed.expose(), max_age, cookies)
    }

    fn set_data(
        &self,
        data: &str,
        remember: Remember,
        max_age: Duration,
        cookies: &str,
    ) -> Result<Vec<String>, TokenError> {
        let max_age = (remember == Remember::UntilExpiry).then_some(max_age);
        self.cookies
            .set(CookieKey::SessionData, data, max_age, cookies)
    }

    /// Returns the lifetime of a new cache. `left` is the remaining lifetime of the session.
    fn cache_lifetime(&self, cache: &SessionCache, remember: Remember, left: Duration) -> Duration {
        let max_age = match (remember, cache.strategy()) {
            (Remember::UntilExpiry, _) => self.cache_max_age.unwrap_or(left),
            // The lifetimes of the package.
            (Remember::UntilBrowserCloses, CacheStrategy::Compact) => Duration::from_secs(60),
            (Remember::UntilBrowserCloses, _) => CACHE_MAX_AGE,
        };
        max_age.min(left)
    }

    /// Returns the `Set-Cookie` headers that renew the cookies of a session, if it has to be.
    ///
    /// The end of a session never changes: with a database, only the application can extend a row, and without
    /// one, the package keeps the end as well. These are renewed:
    ///
    /// - Without a database: a cache that ends in less than `remaining`, and before its session
    /// - With [`accept_previous_tokens`](Self::accept_previous_tokens): a token that has the signature of a
    ///   previous secret
    ///
    /// The result is empty otherwise, and if the request has no valid token.
    ///
    /// # Errors
    /// The same as [`start`](Self::start).
    pub fn renew(&self, cookies: &str, remaining: Duration) -> Result<Vec<String>, TokenError> {
        let now = SystemTime::now();
        let Ok(Some(token)) = self.read_token(None, cookies) else {
            return Ok(Vec::new());
        };
        let found = self.find_with(cookies, |cache, text| {
            let verified = cache.verify(text, now)?;
            let (payload, end) = cache.open(&verified, &token, now)?;
            let session_end = payload.session.expires;
            Ok((verified, session_end, end))
        });
        let found = found.ok().flatten();
        let threshold = now.checked_add(remaining);
        let is_due = found.as_ref().is_some_and(|(_, session_end, end)| {
            *end + ROUNDING < *session_end && threshold.is_none_or(|threshold| *end < threshold)
        });
        let renews_cache = !self.has_database && (is_due || token.has_previous_signature());
        if !renews_cache && !token.has_previous_signature() {
            return Ok(Vec::new());
        }
        let session_end = found.as_ref().map(|(_, session_end, _)| *session_end);
        let left = session_end.map_or(self.expires_in, |end| {
            end.duration_since(now).unwrap_or_default()
        });
        let remember = self.remember(cookies);
        let mut headers = self.set_token(token.expose(), remember, left, cookies)?;
        if let (true, Some(cache), Some((verified, ..))) = (renews_cache, &self.cache, found) {
            let max_age = self.cache_lifetime(cache, Remember::UntilExpiry, left);
            let data = cache.renew(&verified, &token, max_age, now)?;
            headers.extend(self.set_data(&data, remember, max_age, cookies)?);
        }
        Ok(headers)
    }

    /// Returns how long the browser keeps the cookies of a request.
    fn remember(&self, cookies: &str) -> Remember {
        let mut candidates = self.cookies.candidates(CookieKey::DontRemember, cookies);
        match candidates.any(|text| self.signer.verify(&text).is_ok()) {
            true => Remember::UntilBrowserCloses,
            false => Remember::UntilExpiry,
        }
    }

    /// Returns the `Set-Cookie` headers that clear the token, the cache with its chunks, `dont_remember`, and
    /// `account_data` with its chunks, as far as the request has them.
    ///
    /// With a database, the service must delete the row of the session as well. A copy of the cookies would
    /// remain valid otherwise. A copy of the cache remains valid until its end in any case.
    pub fn end(&self, cookies: &str) -> Vec<String> {
        let cleared = CookieKey::ALL.map(|key| self.cookies.clear(key, cookies));
        cleared.concat()
    }
}

impl HasSessions for Sessions {
    type Sessions = Self;

    fn sessions(&self) -> &Self {
        self
    }
}

impl Sealed for Sessions {}

impl SessionFormat for Sessions {
    fn renew(&self, cookies: &str, remaining: Duration) -> Result<Vec<String>, TokenError> {
        self.renew(cookies, remaining)
    }

    fn is_session_cookie(&self, name: &str) -> bool {
        self.cookies.owns(name)
    }

    fn accepts_bearer(&self) -> bool {
        self.bearer
    }
}
