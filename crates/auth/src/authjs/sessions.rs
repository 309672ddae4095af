//! Sessions in a request and in its answer: the cookie and the token together.

use std::time::{Duration, SystemTime};

use secretwell_core::Error;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::keys::Format;
use super::{Session, SessionCookie, SessionTokens, TokenError};
use crate::KeyRing;

/// How long a session lasts if nothing else is said: what the packages have, 30 days.
const MAX_AGE: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Who is logged in, as Auth.js keeps it: what a [`LazyAuth`](crate::LazyAuth) builds for a service that
/// shares its login with a Next.js application.
///
/// With the feature `axum`, a handler asks for `Auth<Session<User>>`, or for `Auth<Option<Session<User>>>`
/// where nobody need be logged in. A cookie that cannot be read is no session and is left as it is: with
/// another ring of secrets it may be one.
///
/// ```
/// use secrecy::SecretString;
/// use secretwell::auth::authjs::{Scheme, SecretOrder, SessionCookie, Sessions};
/// use secretwell::auth::{BuildContext, LazyAuth};
/// use secretwell::{MemoryProvider, Resolver};
/// use serde::Deserialize;
///
/// #[derive(Deserialize)]
/// #[serde(rename_all = "SCREAMING_SNAKE_CASE")]
/// struct Secrets {
///     auth_secret: SecretString,
/// }
///
/// #[derive(Deserialize)]
/// struct User {
///     name: String,
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let memory = MemoryProvider::from_iter([("AUTH_SECRET", "K7gNU3sdo+OL0wNhqoVWhr3g6s1xYv72ol/pe/Unols=")]);
/// let auth = LazyAuth::new(Resolver::new(memory), |_: Secrets, cx: BuildContext| async move {
///     Ok(Sessions::new(SessionCookie::v5(Scheme::Https), &SecretOrder::AuthCore.ring(&cx)?)?)
/// });
///
/// let sessions = auth.get().await?;
/// let set_cookie = sessions.start(&serde_json::json!({"name": "Ada"}), "")?;
/// let cookies = set_cookie[0].split(';').next().unwrap_or_default();
/// assert_eq!(sessions.find::<User>(cookies).unwrap().claims.name, "Ada");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Sessions {
    pub(super) cookie: SessionCookie,
    tokens: SessionTokens,
    max_age: Duration,
}

impl Sessions {
    /// Sessions in `cookie`, which also says which version of the packages they are shared with.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`](secretwell_core::ErrorKind::Invalid): a secret is empty.
    pub fn new(cookie: SessionCookie, secrets: &KeyRing) -> Result<Self, Error> {
        let tokens = match cookie.format() {
            Format::V4 => SessionTokens::v4(secrets),
            Format::V5 => SessionTokens::v5(cookie.name(), secrets),
        }?;
        Ok(Self {
            cookie,
            tokens,
            max_age: MAX_AGE,
        })
    }

    /// How long a session lasts that is started or prolonged. Default: 30 days.
    #[must_use]
    pub fn max_age(mut self, max_age: Duration) -> Self {
        self.max_age = max_age;
        self
    }

    /// The session of a request with this `Cookie` header; `None` when it has none that is good. Why not is
    /// in the log, at the level `debug`.
    pub fn find<C: DeserializeOwned>(&self, cookies: &str) -> Option<Session<C>> {
        let token = self.cookie.find(cookies)?;
        match self.tokens.decode(&token) {
            Ok(session) => Some(session),
            Err(error) => {
                tracing::debug!(target: "secretwell::auth", event = "session_rejected", cookie = self.cookie.name(), %error, "the session cookie was rejected");
                None
            }
        }
    }

    /// The `Set-Cookie` headers that start a session, and end what a request with this `Cookie` header has
    /// had before.
    ///
    /// # Errors
    /// [`TokenError::Malformed`]: the claims are no object, or the system has no random numbers.
    pub fn start(&self, claims: &impl Serialize, cookies: &str) -> Result<Vec<String>, TokenError> {
        let token = self.tokens.encode(claims, self.max_age)?;
        Ok(self.cookie.set(&token, self.max_age, Some(cookies)))
    }

    /// The `Set-Cookie` headers that renew the session of a request with this `Cookie` header, with all
    /// that it says, when less than `left` is left of it. None without a session, and none for one that has
    /// no end.
    ///
    /// It is then signed with the secret of now, so that a service which does so has no sessions of old
    /// secrets for longer than that.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn renew(&self, cookies: &str, left: Duration) -> Result<Vec<String>, TokenError> {
        let session = self.find::<serde_json::Map<String, serde_json::Value>>(cookies);
        let soon = SystemTime::now().checked_add(left);
        match session {
            Some(session)
                if session
                    .expires
                    .is_some_and(|end| soon.is_none_or(|soon| end < soon)) =>
            {
                self.start(&session.claims, cookies)
            }
            _ => Ok(Vec::new()),
        }
    }

    /// The `Set-Cookie` headers that end the session of a request with this `Cookie` header.
    pub fn end(&self, cookies: &str) -> Vec<String> {
        self.cookie.clear(cookies)
    }
}

#[cfg(feature = "axum")]
impl<C: DeserializeOwned + Send + 'static> crate::Principal for Session<C> {
    type Authenticator = Sessions;

    fn authenticate(sessions: &Sessions, request: &http::request::Parts) -> Option<Self> {
        sessions.find(&super::layer::cookies(&request.headers))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::authjs::Scheme;

    const HOUR: Duration = Duration::from_secs(60 * 60);

    fn sessions(secrets: &KeyRing) -> [Sessions; 2] {
        [
            SessionCookie::v5(Scheme::Https),
            SessionCookie::v4(Scheme::Http),
        ]
        .map(|cookie| Sessions::new(cookie, secrets).unwrap().max_age(HOUR))
    }

    /// The `Cookie` header of a browser that was sent `set`.
    fn sent(set: &[String]) -> String {
        let kept = set.iter().filter(|set| !set.contains("Max-Age=0"));
        let pairs: Vec<&str> = kept.filter_map(|set| set.split(';').next()).collect();
        pairs.join("; ")
    }

    #[test]
    fn a_session_is_started_found_prolonged_and_ended() {
        let old = KeyRing::new("the old secret, thirty-two bytes or more");
        let new = KeyRing::new("the new secret, thirty-two bytes or more");
        let both = KeyRing::merge([new.clone(), old.clone()]).unwrap();
        for ((before, during), after) in sessions(&old)
            .into_iter()
            .zip(sessions(&both))
            .zip(sessions(&new))
        {
            let claims = json!({"name": "Ada", "long": "x".repeat(10_000)});
            let cookies = sent(&before.start(&claims, "").unwrap());
            assert_eq!(
                during.find::<Value>(&cookies).unwrap().claims["name"],
                "Ada"
            );
            assert!(after.find::<Value>(&cookies).is_none());
            assert!(during.renew(&cookies, HOUR / 2).unwrap().is_empty());
            assert!(
                after.renew(&cookies, HOUR * 2).unwrap().is_empty(),
                "it is left alone"
            );

            let prolonged = sent(&during.renew(&cookies, HOUR * 2).unwrap());
            assert_eq!(
                after.find::<Value>(&prolonged).unwrap().claims["long"],
                claims["long"]
            );
            let ended = after.end(&prolonged);
            assert!(ended.len() == 4 && sent(&ended).is_empty(), "{ended:?}");
        }
    }

    #[test]
    fn a_claim_of_another_type_is_no_session() {
        #[derive(serde::Deserialize)]
        struct User {
            #[expect(dead_code, reason = "its type is what counts")]
            id: u32,
        }
        let [sessions, _] = sessions(&KeyRing::new("a secret of thirty-two bytes or more"));
        let cookies = sent(&sessions.start(&json!({"id": "none"}), "").unwrap());
        assert!(sessions.find::<User>(&cookies).is_none());
    }
}
