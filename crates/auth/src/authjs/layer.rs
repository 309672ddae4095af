//! What sessions ask of a response: that no cache shares it, and that a session may be prolonged by it.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::header::{ACCEPT, CACHE_CONTROL, COOKIE, LOCATION, SET_COOKIE, VARY};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use tower_layer::Layer;
use tower_service::Service;

use super::Sessions;
use super::text::percent_encoded;
use crate::LazyAuth;
use crate::rejection::Rejection;

/// What a response without a `Cache-Control` of its own gets.
const PRIVATE: HeaderValue = HeaderValue::from_static("private, no-store");

impl LazyAuth<Sessions> {
    /// A layer for routes that ask for sessions. It does what [`layer`](Self::layer) does, says by `Vary`
    /// and `Cache-Control` that the answer is for one person, and on request prolongs sessions and sends
    /// people to sign in.
    pub fn session_layer(&self) -> SessionLayer {
        SessionLayer {
            auth: self.clone(),
            renew: None,
            sign_in: None,
        }
    }
}

/// Looks after the responses of routes that ask for sessions. Made by [`LazyAuth::session_layer`].
///
/// It never clears a cookie: one that cannot be read today may be good when all secrets are there.
#[derive(Clone)]
pub struct SessionLayer {
    auth: LazyAuth<Sessions>,
    renew: Option<Duration>,
    sign_in: Option<String>,
}

impl SessionLayer {
    /// Prolongs the session of a request when less than `left` is left of it, with each response that sets
    /// no session itself. Default: sessions are not prolonged.
    #[must_use]
    pub fn renew_when_remaining(mut self, left: Duration) -> Self {
        self.renew = Some(left);
        self
    }

    /// Where people sign in, as a path or a URL: a page that a browser asks for without being logged in is
    /// answered by a redirect to there, with the page as its `callbackUrl`. Default: 401 for everybody.
    #[must_use]
    pub fn sign_in(mut self, location: impl Into<String>) -> Self {
        self.sign_in = Some(location.into());
        self
    }

    /// The redirect to sign in, for a request that is a browser's for a page.
    fn redirect<B>(&self, request: &Request<B>) -> Option<HeaderValue> {
        let location = self.sign_in.as_deref()?;
        let accepts = request.headers().get(ACCEPT)?.to_str().ok()?;
        if request.method() != Method::GET || !accepts.contains("text/html") {
            return None;
        }
        let page = request.uri().path_and_query()?.as_str();
        let joint = if location.contains('?') { '&' } else { '?' };
        let location = format!("{location}{joint}callbackUrl={}", percent_encoded(page));
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
        headers.entry(CACHE_CONTROL).or_insert(PRIVATE);
        if let Some(left) = self.renew
            && let Some(sessions) = self.auth.peek()
            && !sets_session(headers, sessions.cookie.name())
        {
            let prolonged = sessions.renew(cookies, left).unwrap_or_default();
            let values = prolonged.into_iter().map(HeaderValue::try_from);
            for value in values.filter_map(Result::ok) {
                headers.append(SET_COOKIE, value);
                // Whatever the handler says of its page: who gets this one from a cache is somebody else.
                headers.insert(CACHE_CONTROL, PRIVATE);
            }
        }
    }
}

/// Whether a response starts or ends a session already.
fn sets_session(headers: &HeaderMap, name: &str) -> bool {
    let mut set = headers.get_all(SET_COOKIE).iter();
    set.any(|value| value.as_bytes().starts_with(name.as_bytes()))
}

/// All cookies of a request: HTTP/2 may send each in a header of its own. What is no text in one of them
/// leaves the others as they are.
pub(super) fn cookies(headers: &HeaderMap) -> String {
    let all = headers.get_all(COOKIE).iter();
    let texts: Vec<_> = all
        .map(|value| String::from_utf8_lossy(value.as_bytes()))
        .collect();
    texts.join("; ")
}

/// What [`SessionLayer`] makes of a service.
#[derive(Clone)]
pub struct SessionService<S> {
    layer: SessionLayer,
    inner: S,
}

impl<S> Layer<S> for SessionLayer {
    type Service = SessionService<S>;

    fn layer(&self, inner: S) -> SessionService<S> {
        SessionService {
            layer: self.clone(),
            inner,
        }
    }
}

impl<S, B, R> Service<Request<B>> for SessionService<S>
where
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
        let redirect = layer.redirect(&request);
        request.extensions_mut().insert(layer.auth.clone());
        let answering = self.inner.call(request);
        Box::pin(async move {
            let mut response = answering.await?;
            layer.finish(&cookies, redirect, &mut response);
            Ok(response)
        })
    }
}

impl fmt::Debug for SessionLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionLayer")
            .field("auth", &self.auth)
            .field("renew", &self.renew)
            .field("sign_in", &self.sign_in)
            .finish()
    }
}

impl<S> fmt::Debug for SessionService<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionService")
            .field("layer", &self.layer)
            .finish_non_exhaustive()
    }
}
