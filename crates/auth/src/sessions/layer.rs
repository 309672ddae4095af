//! [`SessionLayer`]: response headers for routes that use sessions, sliding expiration, and the redirect
//! to the sign-in page.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use http::header::{CACHE_CONTROL, LOCATION, SET_COOKIE, VARY, WWW_AUTHENTICATE};
use http::request::Parts;
use http::{Extensions, HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri};
use tower_layer::Layer;
use tower_service::Service;

use super::cookie::cookies;
use super::format::{HasSessions, SessionFormat};
use super::sign_in::{SignIn, is_navigation};
use crate::LazyAuth;
use crate::rejection::Rejection;
use crate::session_use::{SessionUse, mark_session_used};

/// A browser that receives it deletes its cookies, possibly before it stores those of the response.
const CLEAR_SITE_DATA: HeaderName = HeaderName::from_static("clear-site-data");
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
            warned: Arc::default(),
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
    /// use secretwell::auth::sessions::{authjs::Sessions, cookies};
    /// use secretwell::auth::{LazyAuth, Rejection};
    /// use serde_json::Value;
    ///
    /// async fn name(State(auth): State<LazyAuth<Sessions>>, request: Request) -> Result<String, Rejection> {
    ///     auth.mark_session_used(request.extensions());
    ///     let sessions = auth.get().await?;
    ///     match sessions.find::<Value>(&cookies(request.headers())) {
    ///         Ok(Some(session)) => Ok(session.claims["name"].to_string()),
    ///         Ok(None) => Ok("nobody".to_owned()),
    ///         Err(_) => Err(Rejection::misconfigured()),
    ///     }
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
/// | whose response sets or clears the session cookie itself | always `Cache-Control: private, no-store` |
/// | of a browser for a page, rejected with 401 | redirect to the sign-in page, if one is set |
///
/// Where `Cache-Control` is always set, headers for single caches such as `CDN-Cache-Control` are removed.
///
/// A session is used if a handler has the argument `Auth<Session<_>>`, `Option` or `Result` of it, if
/// [`LazyAuth::require`] or [`LazyAuth::authenticate`] authenticates the request, or after
/// [`LazyAuth::mark_session_used`]. They must be inside of this layer: in axum, the layer is added after
/// them. If [`LazyAuth::require`] or a middleware with the argument is outside, the session counts as used,
/// but the layer does not redirect browsers. If the sessions accept bearer tokens, `Vary` also contains `authorization`.
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
    warned: Arc<AtomicBool>,
}

impl<A: HasSessions> SessionLayer<A> {
    /// Sets the remaining lifetime below which a response renews the session of its request.
    ///
    /// Only successful responses that used the session renew it: those with a status of 2xx or 3xx,
    /// except 304. A WebSocket handshake (101) does not renew it. A response that sets or clears the session
    /// cookie itself, or has the header `Clear-Site-Data`, does not renew it. If each
    /// [`Principal`](crate::Principal) of the request is rejected with 401, it is not renewed either, for
    /// example if `Option<Auth<_>>` is `None` for a blocked user. Default: sessions are not renewed.
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
    /// of a handler is kept. A user who is logged in is not redirected if another auth or the handler rejects
    /// the request, because the sign-in page would return the browser at once. Neither is a request for the
    /// sign-in page itself.
    #[must_use]
    pub fn sign_in(mut self, sign_in: SignIn) -> Self {
        self.sign_in = Some(Arc::new(sign_in));
        self
    }

    /// Starts to handle a request, for a framework whose middleware is not a tower layer.
    ///
    /// The middleware creates `request`, the head of the request, if the framework has other types. Handlers
    /// must authenticate with this head, by [`LazyAuth::authenticate`]. It contains the auth of this layer
    /// in its extensions. When the handler has responded, the middleware calls
    /// [`SessionExchange::finish`].
    ///
    /// ```
    /// use http::{Request, Response, StatusCode};
    /// use secretwell::auth::sessions::SessionLayer;
    /// use secretwell::auth::sessions::authjs::{Session, Sessions};
    /// use secretwell::auth::{LazyAuth, Rejection};
    /// use serde_json::Value;
    ///
    /// async fn handle(auth: &LazyAuth<Sessions>, layer: &SessionLayer<Sessions>) -> Response<String> {
    ///     let (mut head, ()) = Request::new(()).into_parts();
    ///     let exchange = layer.start(&mut head);
    ///     let mut response = match auth.authenticate::<Session<Value>>(&head).await {
    ///         Ok(session) => Response::new(session.claims.to_string()),
    ///         Err(rejection) => rejection.into_http(),
    ///     };
    ///     exchange.finish(&mut response);
    ///     response
    /// }
    /// ```
    pub fn start(&self, request: &mut Parts) -> SessionExchange<A> {
        self.warn_if_shadowing(&request.extensions);
        let is_redirected =
            self.sign_in.is_some() && is_navigation(&request.method, &request.headers);
        let renews = self.renew_when_remaining.is_some();
        let page = is_redirected.then(|| original_uri(request).clone());
        let cookies = renews.then(|| cookies(&request.headers));
        request.extensions.insert(self.auth.clone());
        SessionExchange {
            session: SessionUse::insert(&self.auth, &mut request.extensions),
            layer: self.clone(),
            page,
            cookies,
        }
    }

    /// Logs that the handlers inside of this layer cannot use the auth of an outer layer.
    fn warn_if_shadowing(&self, request: &Extensions) {
        let Some(outer) = SessionUse::<A>::auth(request) else {
            return;
        };
        let is_same = Arc::ptr_eq(&outer.inner, &self.auth.inner);
        if !is_same && !self.warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                target: "secretwell::auth",
                event = "session_layer_shadowed",
                sessions = std::any::type_name::<A>(),
                used = self.auth.name(),
                shadowed = outer.name(),
                "two session layers have the same type, so the routes inside of both use the inner one; \
                 implement `HasSessions` for an own type for each application, or remove one layer",
            );
        }
    }
}

/// What [`SessionLayer`] does for one request. Created by [`SessionLayer::start`].
#[must_use = "the response is changed by `finish`"]
pub struct SessionExchange<A> {
    layer: SessionLayer<A>,
    session: SessionUse<A>,
    /// The page that a redirect to the sign-in page returns to. `None` if the request is not redirected.
    page: Option<Uri>,
    /// The cookies of the request, if sessions are renewed.
    cookies: Option<String>,
}

impl<A: HasSessions> SessionExchange<A> {
    /// Changes the response if the request used the session, or if the response sets its cookie.
    ///
    /// A rejection is recognized by the [`Rejection`] in the extensions of `response`.
    pub fn finish<B>(self, response: &mut Response<B>) {
        let is_used = self.session.is_used();
        if !is_used && !response.headers().contains_key(SET_COOKIE) {
            return;
        }
        let auth = self.layer.auth.peek();
        let sessions = auth.as_ref().map(|auth| auth.sessions());
        let sets_session =
            sessions.is_some_and(|sessions| sets_session(response.headers(), sessions));
        if sets_session {
            forbid_storing(response.headers_mut());
        }
        if !is_used {
            return;
        }
        let rejection = response.extensions().get::<Rejection>();
        let may_renew = rejection.is_none()
            && is_success(response.status())
            && self.session.is_renewable()
            && !sets_session
            && !response.headers().contains_key(CLEAR_SITE_DATA);
        if rejection.is_some_and(|rejection| rejection.status() == StatusCode::UNAUTHORIZED) {
            self.redirect(response);
        }
        let headers = response.headers_mut();
        add_vary(headers, "cookie");
        if sessions.is_some_and(SessionFormat::accepts_bearer) {
            add_vary(headers, "authorization");
        }
        headers.entry(CACHE_CONTROL).or_insert(NO_STORE);
        if let (Some(remaining), Some(cookies), Some(sessions)) =
            (self.layer.renew_when_remaining, &self.cookies, sessions)
            && may_renew
        {
            renew(sessions, cookies, remaining, headers);
        }
    }

    /// Redirects a rejected request to the sign-in page, if it is of a browser for a page.
    fn redirect<B>(&self, response: &mut Response<B>) {
        if self.session.needs_sign_in()
            && let (Some(page), Some(sign_in)) = (&self.page, &self.layer.sign_in)
            && let Some(location) = sign_in.redirect_from(page)
        {
            *response.status_mut() = StatusCode::SEE_OTHER;
            let headers = response.headers_mut();
            headers.insert(LOCATION, location);
            headers.remove(WWW_AUTHENTICATE);
            // The redirect depends on more headers of the request than those in `Vary`.
            forbid_storing(headers);
            // An outer layer must not replace the redirect.
            response.extensions_mut().remove::<Rejection>();
        }
    }
}

/// Returns the URI of a request before a nested router removed its prefix.
fn original_uri(request: &Parts) -> &Uri {
    #[cfg(feature = "axum")]
    if let Some(axum::extract::OriginalUri(uri)) = request.extensions.get() {
        return uri;
    }
    &request.uri
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

/// Renews the session of a request.
fn renew(
    sessions: &impl SessionFormat,
    cookies: &str,
    remaining: Duration,
    headers: &mut HeaderMap,
) {
    let renewed = sessions.renew(cookies, remaining).unwrap_or_else(|error| {
        tracing::debug!(target: "secretwell::auth", event = "session_not_renewed", %error, "the session cannot be renewed");
        Vec::new()
    });
    let values = renewed.into_iter().map(HeaderValue::try_from);
    for value in values.filter_map(Result::ok) {
        headers.append(SET_COOKIE, value);
        forbid_storing(headers);
    }
}

/// Overrides the handler's values: a shared cache would give the session in this response to other users.
fn forbid_storing(headers: &mut HeaderMap) {
    // Headers such as `CDN-Cache-Control` (RFC 9213) take precedence over `Cache-Control`.
    let names = headers.keys().filter(|name| {
        let name = name.as_str();
        name.ends_with("-cache-control") || name == "surrogate-control"
    });
    for name in names.cloned().collect::<Vec<_>>() {
        headers.remove(name);
    }
    headers.insert(CACHE_CONTROL, NO_STORE);
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

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (mut head, body) = request.into_parts();
        let exchange = self.layer.start(&mut head);
        let response = self.inner.call(Request::from_parts(head, body));
        Box::pin(async move {
            let mut response = response.await?;
            exchange.finish(&mut response);
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

impl<A> fmt::Debug for SessionExchange<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionExchange")
            .field("layer", &self.layer)
            .field("is_used", &self.session.is_used())
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
