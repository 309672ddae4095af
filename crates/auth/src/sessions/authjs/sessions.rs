//! [`Sessions`]: the session cookie and the session token combined.

#[cfg(feature = "tower")]
use std::marker::PhantomData;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

#[cfg(feature = "tower")]
use http::HeaderValue;
use secretwell_core::Error;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::diagnosis::Diagnosis;
use super::session::{Session, SessionTokens, Sessions};
use super::tokens::Decoded;
use super::{Csrf, CsrfCookie, CsrfTokens, SessionCookie};
use crate::KeyRing;
#[cfg(feature = "tower")]
use crate::Rejection;
#[cfg(feature = "tower")]
use crate::sessions::cookie::{bearer_token, cookies};
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
        let (tokens, salt, csrf_cookie) = match cookie.format() {
            Format::V4 => (
                SessionTokens::v4(secrets)?,
                "",
                CsrfCookie::v4(cookie.scheme()),
            ),
            Format::V5 | Format::BetterAuth => (
                SessionTokens::v5(cookie.name(), secrets)?,
                cookie.name(),
                CsrfCookie::v5(cookie.scheme()),
            ),
        };
        let diagnosis = Diagnosis::new(&cookie, salt, secrets);
        Ok(Self {
            diagnosis: Arc::new(diagnosis),
            cookie,
            tokens,
            max_age: DEFAULT_MAX_AGE,
            accepts_bearer: false,
            csrf_cookie,
            secrets: secrets.clone(),
            csrf: OnceLock::new(),
        })
    }

    /// Sets the lifetime of a session that is started. Default: 30 days. A renewed session keeps its own
    /// lifetime.
    #[must_use]
    pub fn max_age(mut self, max_age: Duration) -> Self {
        self.max_age = max_age;
        self
    }

    /// Accepts session tokens in the header `Authorization: Bearer` as well, for clients without cookies.
    /// Default: only cookies.
    ///
    /// The header is read only if the request has no session cookie, as in the function `getToken` of the
    /// packages. The token can be percent-encoded. A session from this header is not renewed. It affects
    /// requests that are authenticated by [`Auth`](crate::Auth), not [`find`](Self::find).
    #[must_use]
    pub fn accept_bearer(mut self) -> Self {
        self.accepts_bearer = true;
        self
    }

    /// Sets the cookie of CSRF tokens, for an application that configures one. Default:
    /// [`CsrfCookie::v5`] or [`CsrfCookie::v4`], as the session cookie.
    #[must_use]
    pub fn with_csrf_cookie(mut self, cookie: CsrfCookie) -> Self {
        self.csrf_cookie = cookie;
        self
    }

    /// Returns the session in a `Cookie` header, or `None` if the header has no valid session.
    ///
    /// The reason for rejecting a session cookie is logged at the level `debug`. If it might be a wrong
    /// set-up, a warning explains it, at most once in 5 minutes for each kind.
    ///
    /// # Errors
    /// Returns [`ClaimsError`] if the session is valid, but its claims do not deserialize into `C`. The user
    /// is logged in, so this must not be treated like a missing session.
    pub fn find<C: DeserializeOwned>(
        &self,
        cookies: &str,
    ) -> Result<Option<Session<C>>, ClaimsError> {
        self.find_or_rejected(self.cookie.candidates(cookies), cookies)
            .or_else(|rejected| {
                self.diagnosis.rejected::<C>(&rejected, cookies);
                match rejected.error {
                    TokenError::Claims(error) => Err(error),
                    _ => Ok(None),
                }
            })
    }

    /// Returns the first valid session of a request with the header `cookies`, or `None` if it has no tokens.
    /// The caller must report a rejection to the diagnosis.
    fn find_or_rejected<C: DeserializeOwned>(
        &self,
        tokens: impl Iterator<Item = String>,
        cookies: &str,
    ) -> Result<Option<Session<C>>, Rejected> {
        let Some(decoded) = self.read(tokens)? else {
            self.diagnosis.absent(cookies);
            return Ok(None);
        };
        self.diagnosis.warnings.accepted();
        if decoded.is_from_future {
            self.diagnosis.warnings.clock();
        }
        Ok(Some(decoded.session))
    }

    /// Decodes the first valid token. Returns `None` if there are no tokens.
    fn read<C: DeserializeOwned>(
        &self,
        tokens: impl Iterator<Item = String>,
    ) -> Result<Option<Decoded<C>>, Rejected> {
        let now = SystemTime::now();
        let decoded = first_valid(tokens, |token| self.tokens.decode_with_clock(token, now));
        decoded.inspect_err(|rejected| {
            let error = &rejected.error;
            tracing::debug!(target: "secretwell::auth", event = "session_rejected", cookie = self.cookie.name(), %error, "the session token was rejected");
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
    /// The renewed session keeps its own lifetime, which is the time between its claims `iat` and
    /// `exp`. The claims `iat`, `exp` and `jti` are new, and the others do not change. It is encrypted with
    /// the current primary secret.
    ///
    /// The result is empty if the request has no valid session, if the session expires later, or if it has
    /// no `iat` or no `exp`. A session without `exp` does not end, and the lifetime of a session without
    /// `iat` is not known.
    ///
    /// A request can contain several valid sessions, in cookies of different domains or paths. They can
    /// belong to different users, so none of them is renewed. If the cookie has a
    /// [domain](SessionCookie::domain), the result clears the session cookie of this host only, so that
    /// the one of the domain remains.
    ///
    /// # Errors
    /// Returns [`TokenError::TooLarge`] if the session needs more than 100 cookies, and
    /// [`TokenError::Malformed`] if the system's random number generator fails.
    pub fn renew(&self, cookies: &str, remaining: Duration) -> Result<Vec<String>, TokenError> {
        let now = SystemTime::now();
        let tokens = self.cookie.candidates(cookies);
        let mut valid = tokens.filter_map(|token| self.tokens.verify(&token, now).ok());
        let Some(session) = valid.next() else {
            return Ok(Vec::new());
        };
        if valid.next().is_some() {
            return Ok(self.cookie.clear_host_only(cookies));
        }
        let threshold = now.checked_add(remaining);
        let is_due = |end| threshold.is_none_or(|threshold| end < threshold);
        match (session.lifetime, session.expires) {
            (Some(lifetime), Some(end)) if is_due(end) => {
                let token = self.tokens.renew(&session, lifetime, now)?;
                self.cookie.set(&token, lifetime, cookies)
            }
            _ => Ok(Vec::new()),
        }
    }

    /// Returns the `Set-Cookie` headers that end the session in a `Cookie` header.
    pub fn end(&self, cookies: &str) -> Vec<String> {
        self.cookie.clear(cookies)
    }

    /// Returns a CSRF token for a form, and the `Set-Cookie` header of its cookie.
    ///
    /// If `cookies`, the `Cookie` header of the request, has a valid token, it is returned again, without a
    /// header. Forms that are open in other tabs thus remain valid, those of the application included.
    ///
    /// # Errors
    /// Returns [`TokenError::Malformed`] if the system's random number generator fails.
    pub fn csrf_token(&self, cookies: &str) -> Result<(String, Option<String>), TokenError> {
        if let Some(value) = self.csrf_cookie.find(cookies)
            && self.csrf().verify_cookie(&value) != Csrf::Rejected
            && let Some((token, _)) = value.split_once('|')
        {
            return Ok((token.to_owned(), None));
        }
        let (token, value) = self.csrf().generate()?;
        Ok((token, Some(self.csrf_cookie.set(&value))))
    }

    /// Verifies the CSRF token of a `POST` request.
    ///
    /// `cookies` is the `Cookie` header of the request. `body` is the `csrfToken` field of its body. Only
    /// [`Csrf::Verified`] means that a form of the service or of the application sent the request.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use secretwell::auth::KeyRing;
    /// use secretwell::auth::sessions::Scheme;
    /// use secretwell::auth::sessions::authjs::{Csrf, SessionCookie, Sessions};
    ///
    /// # let ring = KeyRing::new("a secret of thirty-two bytes or more")?;
    /// let sessions = Sessions::new(SessionCookie::v5(Scheme::Https), &ring)?;
    /// // The response with the form.
    /// let (token, set_cookie) = sessions.csrf_token("")?;
    /// // The request that the form sends.
    /// let set_cookie = set_cookie.unwrap_or_default();
    /// let cookies = set_cookie.split(';').next().unwrap_or_default();
    /// assert_eq!(sessions.verify_csrf(cookies, Some(&token)), Csrf::Verified);
    /// // A request that another site sends.
    /// assert_eq!(sessions.verify_csrf(cookies, None), Csrf::CookieOnly);
    /// # Ok(())
    /// # }
    /// ```
    pub fn verify_csrf(&self, cookies: &str, body: Option<&str>) -> Csrf {
        match self.csrf_cookie.find(cookies) {
            Some(value) => self.csrf().verify_post(&value, body),
            None => Csrf::Rejected,
        }
    }

    fn csrf(&self) -> &CsrfTokens {
        self.csrf.get_or_init(|| CsrfTokens::new(&self.secrets))
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
        self.accepts_bearer
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
        let sessions = auth.sessions();
        let cookies = cookies(&request.headers);
        let mut tokens = sessions.cookie.candidates(&cookies).peekable();
        let has_cookie = tokens.peek().is_some();
        let bearer = match has_cookie {
            false if sessions.accepts_bearer => bearer_token(&request.headers),
            _ => None,
        };
        let challenge = match sessions.accepts_bearer {
            true if bearer.is_some() => Some(r#"Bearer error="invalid_token""#),
            true => Some("Bearer"),
            false => None,
        };
        let challenged = |rejection: Rejection| match challenge {
            Some(challenge) => rejection.with_challenge(HeaderValue::from_static(challenge)),
            None => rejection,
        };
        let has_bearer = bearer.is_some();
        match sessions.find_or_rejected::<C>(tokens.chain(bearer), &cookies) {
            Ok(Some(session)) => Ok(Self {
                claims: session.claims,
                expires: session.expires,
                auth: PhantomData,
            }),
            Ok(None) => Err(challenged(Rejection::unauthorized())),
            // The application might have a new secret, so a warning is due only if a refresh does not help.
            Err(rejected) if rejected.error == TokenError::UnknownKey => {
                let diagnosis = sessions.diagnosis.clone();
                let report = move || diagnosis.rejected::<C>(&rejected, &cookies);
                Err(challenged(Rejection::unknown_key_with(report)))
            }
            Err(rejected) => {
                // Other tokens than those of sessions can be in the header for bearer tokens.
                if !(has_bearer && rejected.error == TokenError::Malformed) {
                    sessions.diagnosis.rejected::<C>(&rejected, &cookies);
                }
                Err(match rejected.error {
                    TokenError::Claims(_) => Rejection::misconfigured(),
                    _ => challenged(Rejection::unauthorized()),
                })
            }
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

    #[test]
    fn csrf_token_is_kept_while_its_cookie_is_valid() {
        let old = KeyRing::new("the old secret, thirty-two bytes or more").unwrap();
        let new = KeyRing::new("the new secret, thirty-two bytes or more").unwrap();
        let both = KeyRing::merge([new.clone(), old.clone()]).unwrap();
        let first = sessions(&old);
        let during = sessions(&both);
        let after = sessions(&new);
        for index in 0..2 {
            let (token, set_cookie) = first[index].csrf_token("theme=dark").unwrap();
            let cookies = cookie_header(&[set_cookie.unwrap()]);
            // A second tab, and the form of an instance with a new secret.
            assert_eq!(
                first[index].csrf_token(&cookies).unwrap(),
                (token.clone(), None)
            );
            assert_eq!(
                during[index].csrf_token(&cookies).unwrap(),
                (token.clone(), None)
            );
            let (replaced, set_cookie) = after[index].csrf_token(&cookies).unwrap();
            assert!(
                replaced != token && set_cookie.is_some(),
                "the secret has changed"
            );

            let verify = |sessions: &Sessions, cookies, body| sessions.verify_csrf(cookies, body);
            assert_eq!(
                verify(&during[index], &cookies, Some(&token)),
                Csrf::Verified
            );
            assert_eq!(
                verify(&after[index], &cookies, Some(&token)),
                Csrf::Rejected
            );
            assert_eq!(verify(&first[index], &cookies, Some("x")), Csrf::CookieOnly);
            assert_eq!(verify(&first[index], &cookies, None), Csrf::CookieOnly);
            assert_eq!(verify(&first[index], "", Some(&token)), Csrf::Rejected);
            assert_eq!(
                verify(&first[1 - index], &cookies, Some(&token)),
                Csrf::Rejected
            );
        }
    }

    #[test]
    fn csrf_cookie_has_the_name_of_the_package() {
        let ring = KeyRing::new("a secret of thirty-two bytes or more").unwrap();
        let insecure = SessionCookie::v4(Scheme::Http);
        let named = SessionCookie::v5(Scheme::Http)
            .with_name("__Secure-session")
            .unwrap();
        for (cookie, name) in [
            (SessionCookie::v5(Scheme::Https), "__Host-authjs.csrf-token"),
            (SessionCookie::v5(Scheme::Http), "authjs.csrf-token"),
            (
                SessionCookie::v4(Scheme::Https),
                "__Host-next-auth.csrf-token",
            ),
            (insecure.clone(), "next-auth.csrf-token"),
            (named, "__Host-authjs.csrf-token"),
        ] {
            let sessions = Sessions::new(cookie, &ring).unwrap();
            let (_, set_cookie) = sessions.csrf_token("").unwrap();
            assert!(
                set_cookie.unwrap().starts_with(&format!("{name}=")),
                "{name}"
            );
        }
        let sessions = Sessions::new(insecure, &ring).unwrap();
        let csrf = CsrfCookie::v4(Scheme::Http).with_name("csrf").unwrap();
        let (_, set_cookie) = sessions.with_csrf_cookie(csrf).csrf_token("").unwrap();
        assert!(set_cookie.unwrap().starts_with("csrf="));
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
