//! [`SessionLayer`]: response headers for routes that use sessions, sliding expiration, and the redirect
//! to the sign-in page.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::header::{ACCEPT, CACHE_CONTROL, LOCATION, SET_COOKIE, VARY};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use tower_layer::Layer;
use tower_service::Service;

use super::cookie::cookies;
use super::format::{HasSessions, SessionFormat};
use super::text::percent_encode;
use crate::LazyAuth;
use crate::rejection::Rejection;

/// `Cache-Control` of a response that does not set its own.
const NO_STORE: HeaderValue = HeaderValue::from_static("private, no-store");

impl<A: HasSessions> LazyAuth<A> {
    /// Returns a layer for routes whose handlers use sessions.
    ///
    /// It gives each request access to this auth, as [`provide`](Self::provide) does. It also adds
    /// `Vary: cookie` and `Cache-Control: private, no-store` to each response. Renewal of sessions and
    /// the redirect to a sign-in page are optional.
    pub fn session_layer(&self) -> SessionLayer<A> {
        SessionLayer {
            auth: self.clone(),
            renew_when_remaining: None,
            sign_in: None,
        }
    }
}

/// Layer for routes whose handlers use sessions. Created by [`LazyAuth::session_layer`].
///
/// A `Cache-Control` header that the handler sets is kept, unless the response renews the session. The
/// layer never clears a session cookie: a cookie that cannot be decoded now might become valid when
/// more secrets are loaded.
pub struct SessionLayer<A> {
    auth: LazyAuth<A>,
    renew_when_remaining: Option<Duration>,
    sign_in: Option<String>,
}

impl<A: HasSessions> SessionLayer<A> {
    /// Sets the remaining lifetime below which a response renews the session of its request.
    ///
    /// A response that sets the session cookie itself is left unchanged. Default: sessions are not
    /// renewed.
    #[must_use]
    pub fn renew_when_remaining(mut self, remaining: Duration) -> Self {
        self.renew_when_remaining = Some(remaining);
        self
    }

    /// Sets the path or URL of the sign-in page. Default: requests without a session receive 401.
    ///
    /// A browser that requests a page without a session is redirected there with 303. The requested
    /// page is passed as `callbackUrl`. Only a `GET` whose `Accept` header includes `text/html` is
    /// redirected, and only in place of a [`Rejection`]. Another 401 of a handler is kept.
    #[must_use]
    pub fn sign_in(mut self, location: impl Into<String>) -> Self {
        self.sign_in = Some(location.into());
        self
    }

    /// Returns the redirect target if the request is a browser's request for a page.
    fn sign_in_redirect<B>(&self, request: &Request<B>) -> Option<HeaderValue> {
        let location = self.sign_in.as_deref()?;
        let accepts = request.headers().get(ACCEPT)?.to_str().ok()?;
        if request.method() != Method::GET || !accepts.contains("text/html") {
            return None;
        }
        let page = request.uri().path_and_query()?.as_str();
        let separator = if location.contains('?') { '&' } else { '?' };
        let location = format!("{location}{separator}callbackUrl={}", percent_encode(page));
        HeaderValue::try_from(location).ok()
    }

    fn finish<B>(&self, cookies: &str, redirect: Option<HeaderValue>, response: &mut Response<B>) {
        if response.extensions().get() == Some(&Rejection::unauthorized())
            && let Some(location) = redirect
        {
            *response.status_mut() = StatusCode::SEE_OTHER;
            response.headers_mut().insert(LOCATION, location);
        }
        let headers = response.headers_mut();
        headers.append(VARY, HeaderValue::from_static("cookie"));
        headers.entry(CACHE_CONTROL).or_insert(NO_STORE);
        if let Some(remaining) = self.renew_when_remaining
            && let Some(auth) = self.auth.peek()
            && !sets_session(headers, auth.sessions())
        {
            let renewed = auth
                .sessions()
                .renew(cookies, remaining)
                .unwrap_or_default();
            let values = renewed.into_iter().map(HeaderValue::try_from);
            for value in values.filter_map(Result::ok) {
                headers.append(SET_COOKIE, value);
                // Overrides the handler's value: a shared cache would give this session to other users.
                headers.insert(CACHE_CONTROL, NO_STORE);
            }
        }
    }
}

/// Returns whether a response sets or clears the session cookie itself.
fn sets_session(headers: &HeaderMap, sessions: &impl SessionFormat) -> bool {
    headers.get_all(SET_COOKIE).iter().any(|value| {
        let mut parts = value.as_bytes().split(|byte| *byte == b'=');
        let name = parts.next().and_then(|name| str::from_utf8(name).ok());
        name.is_some_and(|name| sessions.is_session_cookie(name.trim()))
    })
}

/// Service that adds the headers of sessions to the responses of an inner service. Created by
/// [`SessionLayer`].
pub struct SessionService<A, S> {
    layer: SessionLayer<A>,
    inner: S,
}

impl<A, S> Layer<S> for SessionLayer<A> {
    type Service = SessionService<A, S>;

    fn layer(&self, inner: S) -> SessionService<A, S> {
        SessionService {
            layer: self.clone(),
            inner,
        }
    }
}

impl<A, S, B, R> Service<Request<B>> for SessionService<A, S>
where
    A: HasSessions,
    S: Service<Request<B>, Response = Response<R>>,
    S::Future: Send + 'static,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<R>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let layer = self.layer.clone();
        let cookies = cookies(request.headers());
        let redirect = layer.sign_in_redirect(&request);
        request.extensions_mut().insert(layer.auth.clone());
        let response = self.inner.call(request);
        Box::pin(async move {
            let mut response = response.await?;
            layer.finish(&cookies, redirect, &mut response);
            Ok(response)
        })
    }
}

impl<A> Clone for SessionLayer<A> {
    fn clone(&self) -> Self {
        Self {
            auth: self.auth.clone(),
            renew_when_remaining: self.renew_when_remaining,
            sign_in: self.sign_in.clone(),
        }
    }
}

impl<A, S: Clone> Clone for SessionService<A, S> {
    fn clone(&self) -> Self {
        Self {
            layer: self.layer.clone(),
            inner: self.inner.clone(),
        }
    }
}

impl<A> fmt::Debug for SessionLayer<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionLayer")
            .field("auth", &self.auth)
            .field("renew_when_remaining", &self.renew_when_remaining)
            .field("sign_in", &self.sign_in)
            .finish()
    }
}

impl<A, S> fmt::Debug for SessionService<A, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionService")
            .field("layer", &self.layer)
            .finish_non_exhaustive()
    }
}
