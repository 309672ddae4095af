//! [`CookieLayer`], which protects cookies of an inner service.

use std::fmt;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use cookie::Cookie;
use http::header::{HeaderMap, HeaderValue, SET_COOKIE};
use http::{Request, Response};
use tower_layer::Layer;
use tower_service::Service;

use super::header;
use super::keys::CookieKeys;
use super::protection::{Functions, Private, Protection, Signed};
use crate::lazy::LazyAuth;
use crate::rejection::Rejection;

/// Layer that signs or encrypts cookies of an inner service with the keys of a [`LazyAuth`].
///
/// The inner service reads and writes plain cookies. The browser has protected ones. A layer that is not outside
/// of the code that reads and writes the cookies protects nothing. It is for a service that
/// cannot use several keys itself, such as tower-sessions. `A` is the type that the [`LazyAuth`] builds:
/// [`CookieKeys`], or a type that contains them and implements `AsRef<CookieKeys>`.
///
/// - **Request**: the layer verifies or decrypts the named cookies with each key. The first valid one of each
///   name is passed on with its plain value, percent-encoded as by the cookie crate. All others of that name
///   are removed. Other cookies are not changed. At most 16 cookies of each name are tried.
/// - **Response**: the layer signs or encrypts the named cookies in the `Set-Cookie` headers with the
///   primary key. Attributes are not changed. A cookie with an empty value, which removes the cookie in the
///   browser, passes.
/// - Without a build, the inner service is not called. The response is 503 while the source is unreachable
///   and 500 while a secret is absent or invalid.
///
/// A cookie that was protected with a previous key is accepted until the grace period of the key ends. The
/// primary key replaces it when the inner service sets the cookie again.
///
/// With tower-sessions, add this layer outside of its layer, and do not call `with_signed` or `with_private`:
///
/// ```
/// use axum::Router;
/// use axum::routing::get;
/// use secretwell::auth::cookies::{CookieKeys, CookieLayer};
/// use secretwell::auth::{BuildContext, LazyAuth};
/// use secretwell::{Resolver, SecretString};
/// use serde::Deserialize;
/// use tower_sessions::{MemoryStore, Session, SessionManagerLayer};
///
/// #[derive(Deserialize)]
/// #[expect(dead_code, reason = "the build uses its key ring")]
/// struct Secrets {
///     cookie_secret: SecretString,
/// }
///
/// async fn visits(session: Session) -> String {
///     let visits = session.get("visits").await.ok().flatten().unwrap_or(0) + 1;
///     let saved = session.insert("visits", visits).await;
///     saved.map_or_else(|error| error.to_string(), |()| visits.to_string())
/// }
///
/// # fn router(resolver: Resolver) -> Router {
/// let keys = LazyAuth::new(resolver, |_: Secrets, cx: BuildContext| async move {
///     Ok(CookieKeys::derive(&cx.key_ring("cookie_secret")?)?)
/// });
/// Router::new()
///     .route("/", get(visits))
///     .layer(SessionManagerLayer::new(MemoryStore::default()).with_name("id"))
///     .layer(CookieLayer::signed(&keys, ["id"]))
/// # }
/// ```
pub struct CookieLayer<A = CookieKeys> {
    auth: LazyAuth<A>,
    protected: Protected,
}

/// The names of the protected cookies, and how they are protected.
#[derive(Clone)]
struct Protected {
    names: Arc<[String]>,
    functions: Functions,
}

impl<A> CookieLayer<A> {
    /// Creates a layer that signs the cookies with these names.
    pub fn signed<N: Into<String>>(auth: &LazyAuth<A>, names: impl IntoIterator<Item = N>) -> Self {
        Self::new::<Signed, N>(auth, names)
    }

    /// Creates a layer that encrypts the cookies with these names.
    pub fn private<N: Into<String>>(
        auth: &LazyAuth<A>,
        names: impl IntoIterator<Item = N>,
    ) -> Self {
        Self::new::<Private, N>(auth, names)
    }

    fn new<P: Protection, N: Into<String>>(
        auth: &LazyAuth<A>,
        names: impl IntoIterator<Item = N>,
    ) -> Self {
        Self {
            auth: auth.clone(),
            protected: Protected {
                // A name that no parser returns would protect no cookie.
                names: names
                    .into_iter()
                    .map(|name| header::decoded(&name.into()))
                    .collect(),
                functions: Functions::of::<P>(),
            },
        }
    }
}

/// Service that protects cookies of an inner service. Created by [`CookieLayer`].
pub struct CookieService<A, S> {
    layer: CookieLayer<A>,
    inner: S,
}

impl<A, S> Layer<S> for CookieLayer<A> {
    type Service = CookieService<A, S>;

    fn layer(&self, inner: S) -> CookieService<A, S> {
        CookieService {
            layer: self.clone(),
            inner,
        }
    }
}

impl<A, S, B, R> Service<Request<B>> for CookieService<A, S>
where
    A: AsRef<CookieKeys> + Send + Sync + 'static,
    S: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send,
    B: Send + 'static,
    R: From<&'static str>,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<R>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let CookieLayer { auth, protected } = self.layer.clone();
        // `poll_ready` has prepared `self.inner`. The clone might not be ready.
        let clone = self.inner.clone();
        let mut inner = mem::replace(&mut self.inner, clone);
        Box::pin(async move {
            let built = match auth.get().await {
                Ok(built) => built,
                Err(failure) => return Ok(Rejection::log_not_ready(failure).into_http()),
            };
            protected.open_request(request.headers_mut(), (*built).as_ref());
            let mut response = inner.call(request).await?;
            // The keys might have rotated meanwhile.
            let built = auth.peek().unwrap_or(built);
            protected.seal_response(response.headers_mut(), (*built).as_ref());
            Ok(response)
        })
    }
}

impl Protected {
    fn open_request(&self, headers: &mut HeaderMap, keys: &CookieKeys) {
        header::rewrite(headers, &self.names, |name, value| {
            let opened = self.functions.open(keys, name, value);
            Some(opened?.value)
        });
    }

    fn seal_response(&self, headers: &mut HeaderMap, keys: &CookieKeys) {
        if !headers.contains_key(SET_COOKIE) {
            return;
        }
        let plain: Vec<HeaderValue> = headers.get_all(SET_COOKIE).iter().cloned().collect();
        headers.remove(SET_COOKIE);
        for header in plain {
            match self.seal(&header, keys) {
                Some(sealed) => drop(headers.append(SET_COOKIE, sealed)),
                None => {
                    tracing::error!(target: "secretwell::auth", event = "cookie_not_set", names = ?self.names, "a cookie was not set, because its value cannot be signed or encrypted: it is not UTF-8");
                }
            }
        }
    }

    /// Returns the protected form of a `Set-Cookie` header. Returns other cookies, and one that removes a
    /// protected cookie, as they are. Returns `None` if the value cannot be protected.
    fn seal(&self, header: &HeaderValue, keys: &CookieKeys) -> Option<HeaderValue> {
        let bytes = header.as_bytes();
        let end = bytes.iter().position(|byte| *byte == b';');
        let (pair, attributes) = bytes.split_at(end.unwrap_or(bytes.len()));
        let found = header::name(pair);
        let name = self.names.iter().find(|name| Some(*name) == found.as_ref());
        let Some(name) = name else {
            return Some(header.clone());
        };
        let value = header::values(pair).into_iter().next()?;
        if value.is_empty() {
            return Some(header.clone());
        }
        let cookie = Cookie::new(name.clone(), value);
        let sealed = self.functions.seal(keys, cookie)?;
        let mut sealed = header::pair(name, sealed.value()).into_bytes();
        sealed.extend_from_slice(attributes);
        HeaderValue::from_bytes(&sealed).ok()
    }
}

impl<A> Clone for CookieLayer<A> {
    fn clone(&self) -> Self {
        Self {
            auth: self.auth.clone(),
            protected: self.protected.clone(),
        }
    }
}

impl<A, S: Clone> Clone for CookieService<A, S> {
    fn clone(&self) -> Self {
        Self {
            layer: self.layer.clone(),
            inner: self.inner.clone(),
        }
    }
}

impl<A> fmt::Debug for CookieLayer<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CookieLayer")
            .field("auth", &self.auth)
            .field("names", &self.protected.names)
            .finish_non_exhaustive()
    }
}

impl<A, S> fmt::Debug for CookieService<A, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CookieService")
            .field("layer", &self.layer)
            .finish_non_exhaustive()
    }
}
