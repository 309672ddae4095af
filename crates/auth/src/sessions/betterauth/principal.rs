//! The principals of requests: [`Session`], [`TokenWithCache`] and [`VerifiedToken`].

use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
use std::time::SystemTime;

use http::HeaderValue;
use http::request::Parts;
use serde::de::DeserializeOwned;

use super::payload::CachedSession;
use super::sessions::Sessions;
use super::signed::VerifiedToken;
use crate::sessions::cookie::cookies;
use crate::sessions::{HasSessions, TokenError};
use crate::{Principal, Rejection};

/// The session of a request, from the cookie cache. A request without a valid cache is rejected with 401.
///
/// It is for applications without a database, and for services that accept a [`CachedSession`] as old as the
/// cache. In an application with a database, a rejected user might be logged in: the sign-in page of the
/// application then writes a new cache. Use [`TokenWithCache`] to look the session up instead.
///
/// `A` is the type that a [`LazyAuth`](crate::LazyAuth) builds. It is [`Sessions`], unless a router serves
/// several applications. Each application then has its own type `A`, which implements [`HasSessions`].
pub struct Session<U, A = Sessions> {
    cached: CachedSession<U>,
    auth: PhantomData<fn() -> A>,
}

impl<U, A> Session<U, A> {
    /// Returns the cached session.
    pub fn into_cached(self) -> CachedSession<U> {
        self.cached
    }
}

impl<U, A> Deref for Session<U, A> {
    type Target = CachedSession<U>;

    fn deref(&self) -> &CachedSession<U> {
        &self.cached
    }
}

/// The verified token of a request, and its cached session if there is a valid one. A request without a valid
/// token is rejected with 401.
///
/// Without `cached`, the session must be found in the database of the application, like that of a
/// [`VerifiedToken`]. `A` is the same as in [`Session`].
#[non_exhaustive]
pub struct TokenWithCache<U, A = Sessions> {
    /// The token.
    pub token: VerifiedToken,
    /// The cached session of the token.
    pub cached: Option<CachedSession<U>>,
    auth: PhantomData<fn() -> A>,
}

impl<U, A> Principal for TokenWithCache<U, A>
where
    U: DeserializeOwned + Send + 'static,
    A: HasSessions<Sessions = Sessions>,
{
    type Authenticator = A;

    async fn authenticate(auth: &A, request: &Parts) -> Result<Self, Rejection> {
        let (token, cached) = read(auth.sessions(), request)?;
        Ok(Self {
            token,
            cached,
            auth: PhantomData,
        })
    }
}

impl<U, A> Principal for Session<U, A>
where
    U: DeserializeOwned + Send + 'static,
    A: HasSessions<Sessions = Sessions>,
{
    type Authenticator = A;

    async fn authenticate(auth: &A, request: &Parts) -> Result<Self, Rejection> {
        let sessions = auth.sessions();
        let (_, cached) = read(sessions, request)?;
        let cached = cached.ok_or_else(|| {
            sessions.warn_without_cache(&cookies(&request.headers));
            challenged(sessions, Rejection::unauthorized())
        })?;
        sessions.diagnosis.caches.accepted();
        Ok(Self {
            cached,
            auth: PhantomData,
        })
    }
}

impl Principal for VerifiedToken {
    type Authenticator = Sessions;

    async fn authenticate(sessions: &Sessions, request: &Parts) -> Result<Self, Rejection> {
        read_token(sessions, request, &cookies(&request.headers))
    }
}

/// Returns the token of a request and its cached session.
fn read<U: DeserializeOwned>(
    sessions: &Sessions,
    request: &Parts,
) -> Result<(VerifiedToken, Option<CachedSession<U>>), Rejection> {
    let cookies = cookies(&request.headers);
    let token = read_token(sessions, request, &cookies)?;
    // The user is logged in, so this is not 401.
    let cached = sessions.find_of(&token, &cookies, SystemTime::now());
    let cached = cached.map_err(|_| Rejection::misconfigured())?;
    Ok((token, cached))
}

fn read_token(
    sessions: &Sessions,
    request: &Parts,
    cookies: &str,
) -> Result<VerifiedToken, Rejection> {
    let bearer = sessions.bearer_text(&request.headers);
    match sessions.token_or_rejected(bearer, cookies) {
        Ok(Some(token)) => Ok(token),
        Ok(None) => Err(challenged(sessions, Rejection::unauthorized())),
        // The application might have a new secret, so a warning is due only if a refresh does not help.
        Err(rejected) if rejected.error == TokenError::UnknownKey => {
            let (diagnosis, cookies) = (sessions.diagnosis.clone(), cookies.to_owned());
            let report = move || diagnosis.rejected(&rejected, &cookies);
            Err(challenged(sessions, Rejection::unknown_key_with(report)))
        }
        Err(rejected) => {
            sessions.diagnosis.rejected(&rejected, cookies);
            Err(challenged(sessions, Rejection::unauthorized()))
        }
    }
}

/// Adds the challenge of bearer tokens to a rejection, if the sessions accept them.
fn challenged(sessions: &Sessions, rejection: Rejection) -> Rejection {
    match sessions.is_bearer_accepted() {
        true => rejection.with_challenge(HeaderValue::from_static("Bearer")),
        false => rejection,
    }
}

// `A` is not a value, so it needs no bound.
impl<U: Clone, A> Clone for Session<U, A> {
    fn clone(&self) -> Self {
        Self {
            cached: self.cached.clone(),
            auth: PhantomData,
        }
    }
}

impl<U: Clone, A> Clone for TokenWithCache<U, A> {
    fn clone(&self) -> Self {
        Self {
            token: self.token.clone(),
            cached: self.cached.clone(),
            auth: PhantomData,
        }
    }
}

impl<U: fmt::Debug, A> fmt::Debug for Session<U, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Session").field(&self.cached).finish()
    }
}

impl<U: fmt::Debug, A> fmt::Debug for TokenWithCache<U, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenWithCache")
            .field("token", &self.token)
            .field("cached", &self.cached)
            .finish()
    }
}
