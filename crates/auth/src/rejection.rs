//! [`Rejection`], the HTTP response for a request that cannot be authenticated.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, Response, StatusCode};

use crate::NotReady;

/// HTTP response for a request that is rejected before it reaches the handler.
///
/// The body is a short JSON object that depends on the status only. It contains no reason; the
/// reason is in the log. A handler that returns `Result<_, Rejection>` can use `?` on the result of
/// [`LazyAuth::get`](crate::LazyAuth::get).
#[derive(Debug, Clone)]
pub struct Rejection {
    status: StatusCode,
    retry_after: Option<u64>,
    challenge: Option<HeaderValue>,
    cause: Cause,
}

/// Why a request is rejected, for the code that authenticates it. It is not part of the response.
#[derive(Clone, Default)]
enum Cause {
    #[default]
    Credentials,
    /// The credentials name an unknown key. The function is called if this remains so.
    UnknownKey(Option<Arc<dyn Fn() + Send + Sync>>),
}

/// The challenge of [`Rejection::unauthorized`].
///
/// HTTP requires one in each 401. Browsers ignore this scheme, so they show no dialog.
const CHALLENGE: HeaderValue = HeaderValue::from_static("Session");

impl Rejection {
    /// Creates the response 401, for a client without valid credentials.
    ///
    /// Its header `WWW-Authenticate` is `Session`, unless
    /// [`with_challenge`](Self::with_challenge) sets another one.
    pub fn unauthorized() -> Self {
        Self {
            status: StatusCode::UNAUTHORIZED,
            retry_after: None,
            challenge: Some(CHALLENGE),
            cause: Cause::default(),
        }
    }

    /// Creates the response 401, for a client whose credentials name a key that the authenticator does not
    /// have, or that no key verifies.
    ///
    /// A [`Principal`](crate::Principal) returns it if the secrets might have been rotated since the last
    /// build. They are then read again, and the request is authenticated once more if a new build has come
    /// of it. See [`LazyAuth::refresh_if_used`](crate::LazyAuth::refresh_if_used) for the limits. Otherwise,
    /// this is the same as [`unauthorized`](Self::unauthorized), and equal to it.
    ///
    /// ```
    /// use http::request::Parts;
    /// use secretwell::auth::{KeyRing, Principal, Rejection};
    /// # fn verify(_: &[u8], _: &[u8]) -> Option<Caller> { None }
    ///
    /// struct Caller;
    ///
    /// impl Principal for Caller {
    ///     type Authenticator = KeyRing;
    ///
    ///     async fn authenticate(keys: &KeyRing, request: &Parts) -> Result<Self, Rejection> {
    ///         let token = request.headers.get("x-token").ok_or(Rejection::unauthorized())?;
    ///         // The token names no key, so each is tried.
    ///         let caller = keys.iter().find_map(|key| verify(key.expose_bytes(), token.as_bytes()));
    ///         caller.ok_or(Rejection::unknown_key())
    ///     }
    /// }
    /// ```
    pub fn unknown_key() -> Self {
        Self {
            cause: Cause::UnknownKey(None),
            ..Self::unauthorized()
        }
    }

    /// Like [`unknown_key`](Self::unknown_key). Calls `report` if the key remains unknown.
    #[cfg(any(feature = "authjs", feature = "betterauth"))]
    pub(crate) fn unknown_key_with(report: impl Fn() + Send + Sync + 'static) -> Self {
        Self {
            cause: Cause::UnknownKey(Some(Arc::new(report))),
            ..Self::unauthorized()
        }
    }

    /// Returns whether the credentials name an unknown key.
    pub(crate) fn is_unknown_key(&self) -> bool {
        matches!(self.cause, Cause::UnknownKey(_))
    }

    /// Returns the final rejection. An unknown key is reported.
    pub(crate) fn concluded(mut self) -> Self {
        if let Cause::UnknownKey(Some(report)) = std::mem::take(&mut self.cause) {
            report();
        }
        self
    }

    /// Creates the response 403, for a client with valid credentials that is not allowed to do this.
    ///
    /// A [`Principal`](crate::Principal) returns it for a user who is logged in. With
    /// [`unauthorized`](Self::unauthorized), the session layer would redirect the browser to the sign-in
    /// page, which returns a logged-in user at once, without an end.
    ///
    /// ```
    /// use http::request::Parts;
    /// use secretwell::auth::sessions::authjs::{Session, Sessions};
    /// use secretwell::auth::{Principal, Rejection};
    /// use serde::Deserialize;
    ///
    /// #[derive(Deserialize)]
    /// struct User {
    ///     role: Option<String>,
    /// }
    ///
    /// struct Admin(User);
    ///
    /// impl Principal for Admin {
    ///     type Authenticator = Sessions;
    ///
    ///     async fn authenticate(sessions: &Sessions, request: &Parts) -> Result<Self, Rejection> {
    ///         let session = Session::<User>::authenticate(sessions, request).await?;
    ///         match session.claims.role.as_deref() {
    ///             Some("admin") => Ok(Self(session.claims)),
    ///             _ => Err(Rejection::forbidden()),
    ///         }
    ///     }
    /// }
    /// ```
    pub fn forbidden() -> Self {
        Self {
            status: StatusCode::FORBIDDEN,
            retry_after: None,
            challenge: None,
            cause: Cause::default(),
        }
    }

    /// Creates the response 503, for a service that cannot authenticate requests now.
    ///
    /// `retry_after` is rounded up to whole seconds.
    pub fn unavailable(retry_after: Duration) -> Self {
        let started_second = u64::from(retry_after.subsec_nanos() > 0);
        Self {
            status: StatusCode::SERVICE_UNAVAILABLE,
            retry_after: Some(retry_after.as_secs().saturating_add(started_second)),
            challenge: None,
            cause: Cause::default(),
        }
    }

    /// Creates the response 500, for a service whose configuration must be corrected.
    pub fn misconfigured() -> Self {
        Self {
            status: StatusCode::INTERNAL_SERVER_ERROR,
            retry_after: None,
            challenge: None,
            cause: Cause::default(),
        }
    }

    /// Sets the header `WWW-Authenticate`: the scheme that clients use for their credentials.
    ///
    /// Browsers show a dialog for the schemes `Basic`, `Digest` and `Negotiate`.
    ///
    /// ```
    /// use http::HeaderValue;
    /// use secretwell::auth::Rejection;
    ///
    /// let bearer = HeaderValue::from_static(r#"Bearer realm="api""#);
    /// let response = Rejection::unauthorized().with_challenge(bearer).into_http::<String>();
    /// assert_eq!(response.headers()["www-authenticate"], r#"Bearer realm="api""#);
    /// ```
    #[must_use]
    pub fn with_challenge(mut self, challenge: HeaderValue) -> Self {
        self.challenge = Some(challenge);
        self
    }

    /// Returns the status of the response.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// Logs why a request is rejected and converts the reason into the response.
    pub(crate) fn log_not_ready(failure: NotReady) -> Self {
        tracing::debug!(target: "secretwell::auth", event = "request_rejected", %failure, "rejected the request because auth is not ready");
        Self::from(failure)
    }

    fn body(&self) -> &'static str {
        match self.status {
            StatusCode::UNAUTHORIZED => r#"{"error":"unauthorized"}"#,
            StatusCode::FORBIDDEN => r#"{"error":"forbidden"}"#,
            StatusCode::SERVICE_UNAVAILABLE => r#"{"error":"temporarily unavailable"}"#,
            _ => r#"{"error":"server configuration"}"#,
        }
    }

    /// Converts this into a response. Its body can be of any type that implements
    /// `From<&'static str>`. The extensions of the response contain the rejection.
    pub fn into_http<B: From<&'static str>>(mut self) -> Response<B> {
        self.cause = Cause::default();
        let mut response = Response::new(B::from(self.body()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(seconds) = self.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(challenge) = &self.challenge {
            headers.insert(WWW_AUTHENTICATE, challenge.clone());
        }
        response.extensions_mut().insert(self);
        response
    }
}

/// Two rejections are equal if their responses are.
impl PartialEq for Rejection {
    fn eq(&self, other: &Self) -> bool {
        (self.status, self.retry_after, &self.challenge)
            == (other.status, other.retry_after, &other.challenge)
    }
}

impl Eq for Rejection {}

impl fmt::Debug for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Credentials => "Credentials",
            Self::UnknownKey(_) => "UnknownKey",
        })
    }
}

/// Converts a temporary failure into 503 with `Retry-After`, and any other failure into 500.
impl From<NotReady> for Rejection {
    fn from(failure: NotReady) -> Self {
        if failure.is_temporary() {
            Self::unavailable(failure.retry_after())
        } else {
            Self::misconfigured()
        }
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.status {
            StatusCode::UNAUTHORIZED => f.write_str("the request has no valid credentials"),
            StatusCode::FORBIDDEN => f.write_str("the request is not allowed"),
            StatusCode::SERVICE_UNAVAILABLE => {
                f.write_str("requests cannot be authenticated now; retry later")
            }
            _ => f.write_str("requests cannot be authenticated; the reason is in the log"),
        }
    }
}

impl std::error::Error for Rejection {}

#[cfg(test)]
mod tests {
    use secretwell_core::{Error, ErrorKind};

    use super::*;

    fn response(kind: ErrorKind) -> Response<String> {
        let failure = NotReady::new(vec![Error::new(kind, "the reason")], None);
        Rejection::from(failure).into_http()
    }

    #[test]
    fn outage_is_503_and_absent_secret_is_500_without_the_reason() {
        let unavailable = response(ErrorKind::Unavailable);
        assert_eq!(unavailable.status(), 503);
        assert_eq!(unavailable.headers()[RETRY_AFTER], "1");
        let absent = response(ErrorKind::NotFound);
        assert_eq!(absent.status(), 500);
        assert!(!absent.headers().contains_key(RETRY_AFTER));
        for response in [unavailable, absent] {
            assert_eq!(response.headers()[CACHE_CONTROL], "no-store");
            assert!(!response.body().contains("reason"));
        }
    }
}
