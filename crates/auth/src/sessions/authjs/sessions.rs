//! [`Sessions`]: the session cookie and the session token combined.

#[cfg(feature = "tower")]
use std::marker::PhantomData;
use std::time::{Duration, SystemTime};

use secretwell_core::Error;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::SessionCookie;
use super::session::{Session, SessionTokens, Sessions};
use crate::KeyRing;
#[cfg(feature = "tower")]
use crate::Rejection;
#[cfg(feature = "tower")]
use crate::sessions::cookie::cookies;
use crate::sessions::error::{Rejected, first_valid};
use crate::sessions::format::{HasSessions, Sealed, SessionFormat};
use crate::sessions::keys::Format;
use crate::sessions::{ClaimsError, TokenError};

/// Default lifetime of a session: 30 days, the default of the packages.
const DEFAULT_MAX_AGE: Duration = Duration::from_secs(30 * 24 * 60 * 60);

impl Sessions {
    /// Creates a reader and writer of the sessions in `cookie`.
    ///
    /// The cookie also selects the version of the token format.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Invalid`](secretwell_core::ErrorKind::Invalid) if the keys cannot be derived.
    pub fn new(cookie: SessionCookie, secrets: &KeyRing) -> Result<Self, Error> {
        let tokens = match cookie.format() {
            Format::V4 => SessionTokens::v4(secrets),
            Format::V5 | Format::BetterAuth => SessionTokens::v5(cookie.name(), secrets),
        }?;
        Ok(Self {
            cookie,
            tokens,
            max_age: DEFAULT_MAX_AGE,
        })
    }

    /// Sets the lifetime of a session that is started or renewed. Default: 30 days.
    #[must_use]
    pub fn max_age(mut self, max_age: Duration) -> Self {
        self.max_age = max_age;
        self
    }

    /// Returns the session in a `Cookie` header, or `None` if the header has no valid session.
    ///
    /// The reason for rejecting a session cookie is logged at the level `debug`.
    ///
    /// # Errors
    /// Returns [`ClaimsError`] if the session is valid, but its claims do not deserialize into `C`. The user
    /// is logged in, so this must not be treated like a missing session.
    pub fn find<C: DeserializeOwned>(
        &self,
        cookies: &str,
    ) -> Result<Option<Session<C>>, ClaimsError> {
        match self.read(cookies) {
            Ok(session) => Ok(session),
            Err(rejected) => match rejected.error {
                TokenError::Claims(error) => Err(error),
                _ => Ok(None),
            },
        }
    }

    /// Returns the session in a `Cookie` header, or `None` if the header has no session cookie.
    fn read<C: DeserializeOwned>(&self, cookies: &str) -> Result<Option<Session<C>>, Rejected> {
        let tokens = self.cookie.candidates(cookies);
        let session = first_valid(tokens, |token| self.tokens.decode(token));
        session.inspect_err(|rejected| {
            let error = &rejected.error;
            tracing::debug!(target: "secretwell::auth", event = "session_rejected", cookie = self.cookie.name(), %error, "the session cookie was rejected");
        })
    }

    /// Returns the `Set-Cookie` headers that start a session with `claims`.
    ///
    /// `cookies` is the `Cookie` header of the request. The headers also clear its session cookies
    /// that the new session does not overwrite.
    ///
    /// # Errors
    /// Returns [`TokenError::Malformed`] if the claims are not an object, or if the system's random
    /// number generator fails. Returns [`TokenError::TooLarge`] if the claims are too large for
    /// cookies; see [`SessionCookie::max_size`].
    pub fn start(&self, claims: &impl Serialize, cookies: &str) -> Result<Vec<String>, TokenError> {
        let token = self.tokens.encode(claims, self.max_age)?;
        self.cookie.set(&token, self.max_age, cookies)
    }

    /// Returns the `Set-Cookie` headers that renew the session in a `Cookie` header, if it expires
    /// in less than `remaining`.
    ///
    /// The renewed session keeps its claims and lasts for [`max_age`](Self::max_age) from now. It is
    /// encrypted with the current primary secret. The result is empty if the request has no valid
    /// session, if the session has no expiry, or if it expires later.
    ///
    /// # Errors
    /// The same as [`start`](Self::start).
    pub fn renew(&self, cookies: &str, remaining: Duration) -> Result<Vec<String>, TokenError> {
        let session = self.read::<serde_json::Map<String, serde_json::Value>>(cookies);
        let threshold = SystemTime::now().checked_add(remaining);
        match session {
            Ok(Some(session))
                if session
                    .expires
                    .is_some_and(|end| threshold.is_none_or(|threshold| end < threshold)) =>
            {
                self.start(&session.claims, cookies)
            }
            _ => Ok(Vec::new()),
        }
    }

    /// Returns the `Set-Cookie` headers that end the session in a `Cookie` header.
    pub fn end(&self, cookies: &str) -> Vec<String> {
        self.cookie.clear(cookies)
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
        self.cookie.is_session_cookie(name)
    }

    fn accepts_bearer(&self) -> bool {
        false
    }
}

#[cfg(feature = "tower")]
impl<C, A> crate::Principal for Session<C, A>
where
    C: DeserializeOwned + Send + 'static,
    A: HasSessions<Sessions = Sessions>,
{
    type Authenticator = A;

    async fn authenticate(auth: &A, request: &http::request::Parts) -> Result<Self, Rejection> {
        match auth.sessions().read::<C>(&cookies(&request.headers)) {
            Ok(Some(session)) => Ok(Self {
                claims: session.claims,
                expires: session.expires,
                auth: PhantomData,
            }),
            Ok(None) => Err(Rejection::unauthorized()),
            Err(rejected) => Err(match rejected.error {
                TokenError::Claims(_) => Rejection::misconfigured(),
                // The application might have a new secret.
                TokenError::UnknownKey => Rejection::unknown_key(),
                _ => Rejection::unauthorized(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::sessions::Scheme;

    const HOUR: Duration = Duration::from_secs(60 * 60);

    fn sessions(secrets: &KeyRing) -> [Sessions; 2] {
        [
            SessionCookie::v5(Scheme::Https),
            SessionCookie::v4(Scheme::Http),
        ]
        .map(|cookie| Sessions::new(cookie, secrets).unwrap().max_age(HOUR))
    }

    /// Returns the `Cookie` header that a browser sends after it received `set_cookie`.
    fn cookie_header(set_cookie: &[String]) -> String {
        let kept = set_cookie.iter().filter(|set| !set.contains("Max-Age=0"));
        let pairs: Vec<&str> = kept.filter_map(|set| set.split(';').next()).collect();
        pairs.join("; ")
    }

    #[test]
    fn session_is_started_found_renewed_and_ended() {
        let old = KeyRing::new("the old secret, thirty-two bytes or more").unwrap();
        let new = KeyRing::new("the new secret, thirty-two bytes or more").unwrap();
        let both = KeyRing::merge([new.clone(), old.clone()]).unwrap();
        for ((before, during), after) in sessions(&old)
            .into_iter()
            .zip(sessions(&both))
            .zip(sessions(&new))
        {
            let claims = json!({"name": "Ada", "long": "x".repeat(8_000)});
            let cookies = cookie_header(&before.start(&claims, "").unwrap());
            assert_eq!(found::<Value>(&during, &cookies).claims["name"], "Ada");
            assert!(after.find::<Value>(&cookies).unwrap().is_none());
            assert!(during.renew(&cookies, HOUR / 2).unwrap().is_empty());
            assert!(
                after.renew(&cookies, HOUR * 2).unwrap().is_empty(),
                "an unreadable session must not be renewed"
            );

            let renewed = cookie_header(&during.renew(&cookies, HOUR * 2).unwrap());
            assert_eq!(
                found::<Value>(&after, &renewed).claims["long"],
                claims["long"]
            );
            let ended = after.end(&renewed);
            assert!(
                ended.len() == 3 && cookie_header(&ended).is_empty(),
                "{ended:?}"
            );
        }
    }

    fn found<C: DeserializeOwned>(sessions: &Sessions, cookies: &str) -> Session<C> {
        sessions.find(cookies).unwrap().unwrap()
    }

    #[test]
    fn claims_of_another_type_are_an_error_and_the_session_is_renewed_and_ended() {
        #[derive(Debug, serde::Deserialize)]
        struct User {
            #[expect(dead_code, reason = "only the type of the claim matters")]
            id: u32,
        }
        let ring = KeyRing::new("a secret of thirty-two bytes or more").unwrap();
        for sessions in sessions(&ring) {
            let cookies = cookie_header(&sessions.start(&json!({"id": "none"}), "").unwrap());
            let error = sessions.find::<User>(&cookies).unwrap_err();
            assert_eq!(error.field.as_deref(), Some("id"));
            assert_eq!(error.problem, "expected u32, found a string");

            let renewed = cookie_header(&sessions.renew(&cookies, HOUR * 2).unwrap());
            assert_eq!(found::<Value>(&sessions, &renewed).claims["id"], "none");
            assert!(sessions.end(&renewed)[0].contains("Max-Age=0"));
        }
    }
}
