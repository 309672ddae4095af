//! [`SessionLayer`]: response headers for routes that use sessions, sliding expiration, and the redirect
//! to the sign-in page.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Once};
use std::task::{Context, Poll};
use std::time::Duration;

use http::header::{CACHE_CONTROL, LOCATION, SET_COOKIE, VARY, WWW_AUTHENTICATE};
use http::{Extensions, HeaderMap, HeaderValue, Request, Response, StatusCode, Uri};
use tower_layer::Layer;
use tower_service::Service;

use super::cookie::cookies;
use super::format::{HasSessions, SessionFormat};
use super::sign_in::{SignIn, is_navigation};
use crate::LazyAuth;
use crate::rejection::Rejection;
use crate::session_use::{SessionUse, mark_session_used};

/// `Cache-Control` of a response that does not set its own.
const NO_STORE: HeaderValue = HeaderValue::from_static("private, no-store");

impl<A: HasSessions> LazyAuth<A> {
    /// Returns a layer for routes whose handlers use sessions.
    ///
    /// It gives each request access to this auth, as [`provide`](Self::provide) does. If the handler
    /// uses the session, the response receives `Vary: cookie` and `Cache-Control: private, no-store`.
    /// Renewal of sessions and the redirect to a sign-in page are optional.
    pub fn session_layer(&self) -> SessionLayer<A> {
        SessionLayer {
            auth: self.clone(),
            renew_when_remaining: None,
            sign_in: None,
            warned: Arc::new(Once::new()),
        }
    }

    /// Marks the session of a request as used, for a handler that reads the session itself.
    ///
    /// [`SessionLayer`] then treats the response as one that depends on the session. Call this before the
    /// response is returned. It does nothing without a session layer for this type.
    ///
    /// It is not needed with [`Auth`](crate::Auth), [`require`](Self::require) and
    /// [`authenticate`](Self::authenticate).
    ///
    /// ```
    /// use axum::extract::{Request, State};
    /// use secretwell::auth::LazyAuth;
    /// use secretwell::auth::sessions::authjs::Sessions;
    ///
    /// async fn end(State(auth): State<LazyAuth<Sessions>>, request: Request) -> String {
    ///     auth.mark_session_used(request.extensions());
    ///     let cookies = request.headers().get("cookie").and_then(|value| value.to_str().ok());
    ///     let ended = auth.with(|sessions| sessions.end(cookies.unwrap_or_default()));
    ///     format!("{} cookies", ended.unwrap_or_default().len())
    /// }
    /// ```
    pub fn mark_session_used(&self, extensions: &Extensions) {
        mark_session_used::<A>(extensions);
    }
}

/// Layer for routes whose handlers use sessions. Created by [`LazyAuth::session_layer`].
///
/// | request | response |
/// | --- | --- |
/// | whose session was not used: static files, public pages, unknown paths | unchanged |
/// | whose session was used | `Vary: cookie`, and `Cache-Control: private, no-store` unless the handler sets its own |
/// | with a session that is renewed | also `Set-Cookie`, and always `Cache-Control: private, no-store` |
/// | of a browser for a page, rejected with 401 | redirect to the sign-in page, if one is set |
///
/// A session is used if a handler has the argument `Auth<Session<_>>`, `Option` or `Result` of it, if
/// [`LazyAuth::require`] or [`LazyAuth::authenticate`] authenticates the request, or after
/// [`LazyAuth::mark_session_used`]. They must be inside of this layer: in axum, the layer is added after
/// them. If the sessions accept bearer tokens, `Vary` also contains `authorization`.
///
/// The layer never clears a session cookie: a cookie that cannot be decoded now might become valid when
/// more secrets are loaded.
///
/// # Several layers
/// A router can have one layer for each type `A`: see [`HasSessions`]. Of two layers of one type, the
/// inner layer is used and the outer one leaves the response unchanged. If they have different auths,
/// the event `session_layer_shadowed` is logged once.
pub struct SessionLayer<A> {
    auth: LazyAuth<A>,
    renew_when_remaining: Option<Duration>,
    sign_in: Option<Arc<SignIn>>,
    /// Whether this layer has reported that it shadows another one.
    warned: Arc<Once>,
}

impl<A: HasSessions> SessionLayer<A> {
    /// Sets the remaining lifetime below which a response renews the session of its request.
    ///
    /// Only successful responses that used the session renew it: those with a status of 2xx or 3xx,
    /// except 304. A WebSocket handshake (101) does not renew it. A response that sets the session cookie
    /// itself is left unchanged. Default: sessions are not renewed.
    #[must_use]
    pub fn renew_when_remaining(mut self, remaining: Duration) -> Self {
        self.renew_when_remaining = Some(remaining);
        self
    }

    /// Sets the sign-in page. Default: requests without a session receive 401.
    ///
    /// A browser that requests a page without a session is redirected there with 303. The requested page
    /// is passed as a parameter of the URL. With the feature `axum`, it is the page of the original
    /// request, also in a nested router.
    ///
    /// A request is redirected if it is a `GET` or `HEAD` and its `Accept` header prefers `text/html`.
    /// Requests of scripts and frames are not redirected if the browser marks them with `Sec-Fetch-Mode`
    /// and `Sec-Fetch-Dest`. The redirect replaces only a [`Rejection`] with the status 401. Another 401
    /// of a handler is kept.
    #[must_use]
    pub fn sign_in(mut self, sign_in: SignIn) -> Self {
        self.sign_in = Some(Arc::new(sign_in));
        self
    }

    /// Returns the requested page if a rejection of `request` is replaced by a redirect.
    fn page<B>(&self, request: &Request<B>) -> Option<Uri> {
        self.sign_in.as_ref()?;
        is_navigation(request.method(), request.headers()).then(|| original_uri(request).clone())
    }

    /// Changes a response that used the session. `page` is the page that a redirect returns to, and
    /// `cookies` are the cookies of the request if sessions are renewed.
    fn finish<B>(&self, page: Option<&Uri>, cookies: Option<&str>, response: &mut Response<B>) {
        let rejection = response.extensions().get::<Rejection>();
        let may_renew = rejection.is_none() && is_success(response.status());
        if rejection.is_some_and(|rejection| rejection.status() == StatusCode::UNAUTHORIZED)
            && let (Some(page), Some(sign_in)) = (page, &self.sign_in)
            && let Some(location) = sign_in.redirect_from(page)
        {
            *response.status_mut() = StatusCode::SEE_OTHER;
            response.headers_mut().insert(LOCATION, location);
            response.headers_mut().remove(WWW_AUTHENTICATE);
            // An outer layer must not replace the redirect.
            response.extensions_mut().remove::<Rejection>();
        }
        let auth = self.auth.peek();
        let sessions = auth.as_ref().map(|auth| auth.sessions());
        let headers = response.headers_mut();
        add_vary(headers, "cookie");
        if sessions.is_some_and(SessionFormat::accepts_bearer) {
            add_vary(headers, "authorization");
        }
        headers.entry(CACHE_CONTROL).or_insert(NO_STORE);
        if let (Some(remaining), Some(cookies), Some(sessions)) =
            (self.renew_when_remaining, cookies, sessions)
            && may_renew
        {
            renew(sessions, cookies, remaining, headers);
        }
    }

    /// Logs that the handlers inside of this layer cannot use the auth of an outer layer.
    fn warn_if_shadowing(&self, request: &Extensions) {
        let Some(outer) = SessionUse::<A>::auth(request) else {
            return;
        };
        if Arc::ptr_eq(&outer.inner, &self.auth.inner) {
            return;
        }
        self.warned.call_once(|| {
            tracing::warn!(
                target: "secretwell::auth",
                event = "session_layer_shadowed",
                sessions = std::any::type_name::<A>(),
                used = self.auth.name(),
                shadowed = outer.name(),
                "two session layers have the same type, so the routes inside of both use the inner one; \
                 implement `HasSessions` for an own type for each application, or remove one layer",
            );
        });
    }
}

/// Returns the URI of a request before a nested router removed its prefix.
fn original_uri<B>(request: &Request<B>) -> &Uri {
    #[cfg(feature = "axum")]
    if let Some(axum::extract::OriginalUri(uri)) = request.extensions().get() {
        return uri;
    }
    request.uri()
}

/// Returns whether a response with this status can renew a session. A cache adds the headers of a 304 to
/// a stored response, so it does not.
fn is_success(status: StatusCode) -> bool {
    status.is_success() || (status.is_redirection() && status != StatusCode::NOT_MODIFIED)
}

/// Adds the name of a request header to `Vary`, unless it is there.
fn add_vary(headers: &mut HeaderMap, name: &'static str) {
    let mut names: Vec<&[u8]> = Vec::new();
    for value in headers.get_all(VARY) {
        names.extend(
            value
                .as_bytes()
                .split(|byte| *byte == b',')
                .map(<[u8]>::trim_ascii),
        );
    }
    let is_listed = |known: &&[u8]| *known == b"*" || known.eq_ignore_ascii_case(name.as_bytes());
    if names.iter().any(is_listed) {
        return;
    }
    // Some caches read only the first of several headers.
    names.retain(|name| !name.is_empty());
    names.push(name.as_bytes());
    if let Ok(merged) = HeaderValue::from_bytes(&names.join(&b", "[..])) {
        headers.insert(VARY, merged);
    }
}

/// Renews the session of a request, unless the response sets or clears it.
fn renew(
    sessions: &impl SessionFormat,
    cookies: &str,
    remaining: Duration,
    headers: &mut HeaderMap,
) {
    if sets_session(headers, sessions) {
        return;
    }
    let renewed = sessions.renew(cookies, remaining).unwrap_or_else(|error| {
        tracing::debug!(target: "secretwell::auth", event = "session_not_renewed", %error, "the session cannot be renewed");
        Vec::new()
    });
    let values = renewed.into_iter().map(HeaderValue::try_from);
    for value in values.filter_map(Result::ok) {
        headers.append(SET_COOKIE, value);
        // Overrides the handler's value: a shared cache would give this session to other users.
        headers.insert(CACHE_CONTROL, NO_STORE);
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

/// Service that changes the responses of an inner service that used the session. Created by
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
        layer.warn_if_shadowing(request.extensions());
        let page = layer.page(&request);
        let cookies = layer
            .renew_when_remaining
            .map(|_| cookies(request.headers()));
        request.extensions_mut().insert(layer.auth.clone());
        let session = SessionUse::insert(&layer.auth, request.extensions_mut());
        let response = self.inner.call(request);
        Box::pin(async move {
            let mut response = response.await?;
            if session.is_used() {
                layer.finish(page.as_ref(), cookies.as_deref(), &mut response);
            }
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
            warned: self.warned.clone(),
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
            .finish_non_exhaustive()
    }
}

impl<A, S> fmt::Debug for SessionService<A, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionService")
            .field("layer", &self.layer)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
