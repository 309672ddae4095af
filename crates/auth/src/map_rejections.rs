//! [`map_rejections`]: the application's own responses for rejected requests.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::header::{
    CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_LENGTH, CONTENT_TYPE, ETAG, HeaderName,
    LAST_MODIFIED, SET_COOKIE, TRANSFER_ENCODING, VARY,
};
use http::request::Parts;
use http::{HeaderMap, Request, Response};
use tower_layer::Layer;
use tower_service::Service;

use crate::rejection::Rejection;

/// Headers that describe the body of a response.
const OF_BODY: [HeaderName; 7] = [
    CONTENT_ENCODING,
    CONTENT_LANGUAGE,
    CONTENT_LENGTH,
    CONTENT_TYPE,
    ETAG,
    LAST_MODIFIED,
    TRANSFER_ENCODING,
];

/// Returns a layer that replaces the response of each [`Rejection`] by the response of `map`.
///
/// It applies to the extractors, to [`LazyAuth::require`](crate::LazyAuth::require), to
/// [`LazyService`](crate::LazyService), and to handlers that return a `Rejection`. Other responses are
/// unchanged, also those with the same status.
///
/// `map` receives the rejection and the head of the request. It sets the status, the body and its headers.
/// The other headers of the rejected response are kept unless `map` sets them: `Retry-After`,
/// `WWW-Authenticate`, `Cache-Control: no-store`, `Vary`, and what inner layers have added. The values of
/// `Vary` and `Set-Cookie` are combined.
///
/// The order of this layer and a session layer does not matter. A browser is redirected to the sign-in
/// page in both orders, and other clients receive the response of `map`. Of two of these layers, the inner
/// one is used. The layer clones the head of each request.
///
/// ```
/// use axum::Router;
/// use axum::http::header::ACCEPT_LANGUAGE;
/// use axum::response::{Html, IntoResponse, Response};
/// use axum::routing::get;
/// use http::request::Parts;
/// use secretwell::auth::sessions::authjs::{Session, Sessions};
/// use secretwell::auth::{Auth, LazyAuth, Rejection, map_rejections};
/// use serde_json::Value;
///
/// fn response(rejection: &Rejection, request: &Parts) -> Response {
///     let languages = request.headers.get(ACCEPT_LANGUAGE);
///     let is_german = languages.is_some_and(|languages| languages.as_bytes().starts_with(b"de"));
///     let text = match (rejection.status().as_u16(), is_german) {
///         (401, true) => "Bitte anmelden",
///         (401, false) => "Please sign in",
///         (_, true) => "Bitte später versuchen",
///         (_, false) => "Please try again later",
///     };
///     (rejection.status(), [("vary", "accept-language")], Html(text)).into_response()
/// }
///
/// async fn me(Auth(session): Auth<Session<Value>>) -> String {
///     session.claims.to_string()
/// }
///
/// fn router(auth: &LazyAuth<Sessions>) -> Router {
///     Router::new()
///         .route("/me", get(me))
///         .layer(auth.session_layer())
///         .layer(map_rejections(response))
/// }
/// ```
pub fn map_rejections<F, R>(map: F) -> RejectionLayer<F>
where
    F: Fn(&Rejection, &Parts) -> Response<R>,
{
    RejectionLayer { map }
}

/// Layer that replaces the responses of rejected requests. Created by [`map_rejections`].
#[derive(Clone)]
pub struct RejectionLayer<F> {
    map: F,
}

/// Service that replaces the responses of an inner service to rejected requests. Created by
/// [`RejectionLayer`].
#[derive(Clone)]
pub struct RejectionService<F, S> {
    map: F,
    inner: S,
}

impl<F: Clone, S> Layer<S> for RejectionLayer<F> {
    type Service = RejectionService<F, S>;

    fn layer(&self, inner: S) -> RejectionService<F, S> {
        RejectionService {
            map: self.map.clone(),
            inner,
        }
    }
}

impl<F, S, B, R> Service<Request<B>> for RejectionService<F, S>
where
    F: Fn(&Rejection, &Parts) -> Response<R> + Clone + Send + 'static,
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
        let (parts, body) = request.into_parts();
        let map = self.map.clone();
        let head = parts.clone();
        let response = self.inner.call(Request::from_parts(parts, body));
        Box::pin(async move {
            let response = response.await?;
            Ok(match response.extensions().get::<Rejection>() {
                Some(rejection) if response.extensions().get::<Mapped>().is_none() => {
                    let mapped = map(rejection, &head);
                    replace(response, mapped)
                }
                _ => response,
            })
        })
    }
}

/// Response extension: an inner layer has mapped the rejection.
#[derive(Debug, Clone, Copy)]
struct Mapped;

/// Returns `mapped` with the headers of `rejected` that it does not set, and with its extensions. The
/// rejection remains the original one, also if `mapped` is the response of another.
fn replace<R>(rejected: Response<R>, mut mapped: Response<R>) -> Response<R> {
    let (rejected, _) = rejected.into_parts();
    let headers = mapped.headers_mut();
    for name in rejected.headers.keys() {
        let is_combined = *name == VARY || *name == SET_COOKIE;
        if OF_BODY.contains(name) || (headers.contains_key(name) && !is_combined) {
            continue;
        }
        append_missing(headers, name, &rejected.headers);
    }
    // An outer session layer can still redirect the response to the sign-in page.
    let extensions = mapped.extensions_mut();
    extensions.remove::<Rejection>();
    let own = std::mem::replace(extensions, rejected.extensions);
    extensions.extend(own);
    extensions.insert(Mapped);
    mapped
}

/// Appends the values of one header that `headers` does not contain.
fn append_missing(headers: &mut HeaderMap, name: &HeaderName, from: &HeaderMap) {
    for value in from.get_all(name) {
        if !headers.get_all(name).iter().any(|known| known == value) {
            headers.append(name.clone(), value.clone());
        }
    }
}

impl<F> fmt::Debug for RejectionLayer<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RejectionLayer").finish_non_exhaustive()
    }
}

impl<F, S> fmt::Debug for RejectionService<F, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RejectionService").finish_non_exhaustive()
    }
}
