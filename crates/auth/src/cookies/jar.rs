//! [`RingJar`], the cookies of a request in a handler of axum.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt;
use std::marker::PhantomData;

use axum_core::extract::FromRequestParts;
use axum_core::response::{IntoResponse, IntoResponseParts, Response, ResponseParts};
use cookie::{Cookie, CookieJar};
use http::header::{HeaderMap, HeaderValue, SET_COOKIE};
use http::request::Parts;

use super::header;
use super::keys::CookieKeys;
use super::protection::{Functions, Opened, Protection};
use crate::axum::layer_missing;
use crate::lazy::LazyAuth;
use crate::rejection::Rejection;

/// Cookies that are [`Signed`](super::Signed) or [`Private`](super::Private), as an extractor and a part of
/// a response in axum.
///
/// It is used like `SignedCookieJar` and `PrivateCookieJar` of axum-extra, and reads and writes the same
/// cookies. It accepts a cookie with each key of a ring. The handler must return the jar, or its changes
/// are lost.
///
/// `A` is the type that the [`LazyAuth`] builds: [`CookieKeys`], or a type that contains them and implements
/// `AsRef<CookieKeys>`. The router needs [`LazyAuth::provide`] as a layer, added after the routes. Two secrets on
/// one router need two types. With one type, the inner layer counts.
///
/// Without a build, the handler is not called: the response is 503 while the source is unreachable and 500
/// while a secret is absent or invalid. A jar is never empty because of an outage.
///
/// ```
/// use axum::Router;
/// use axum::routing::get;
/// use secretwell::auth::cookies::cookie::Cookie;
/// use secretwell::auth::cookies::{CookieKeys, Private, RingJar};
/// use secretwell::auth::{BuildContext, LazyAuth};
/// use secretwell::{Resolver, SecretString};
/// use serde::Deserialize;
///
/// #[derive(Deserialize)]
/// #[expect(dead_code, reason = "the build uses its key ring")]
/// struct Secrets {
///     cookie_secret: SecretString,
/// }
///
/// async fn count(jar: RingJar<Private>) -> (RingJar<Private>, String) {
///     let count = jar.get("count").and_then(|cookie| cookie.value().parse().ok());
///     let count: u32 = count.unwrap_or(0) + 1;
///     (jar.add(Cookie::new("count", count.to_string())), count.to_string())
/// }
///
/// # fn router(resolver: Resolver) -> Router {
/// let keys = LazyAuth::new(resolver, |_: Secrets, cx: BuildContext| async move {
///     Ok(CookieKeys::derive(&cx.key_ring("cookie_secret")?)?)
/// });
/// Router::new().route("/", get(count)).layer(keys.provide())
/// # }
/// ```
///
/// # Differences from axum-extra
/// - If a request has several cookies of one name, the first valid one is used. At most 16 values are tried.
/// - A value in quotes is accepted.
/// - [`remove`](Self::remove) also removes a cookie of the request that is not valid.
#[must_use = "a handler must return the jar, or the changes are lost"]
pub struct RingJar<P, A = CookieKeys> {
    keys: CookieKeys,
    /// The cookies of the request that a handler has not changed, and those that it has added.
    cookies: BTreeMap<String, Known>,
    /// The names of the cookies of the request, and the protected cookies of the response.
    changes: CookieJar,
    marker: PhantomData<fn() -> (P, A)>,
}

/// A cookie in a jar.
#[derive(Clone)]
enum Known {
    /// The values of the cookies of one name in the request. They are verified on each use, because a request
    /// can have many cookies that no handler uses.
    Received(Vec<String>),
    /// A plain cookie of the response.
    Added(Cookie<'static>),
}

impl<P: Protection, A> RingJar<P, A> {
    /// Creates an empty jar.
    pub fn new(keys: &CookieKeys) -> Self {
        Self {
            keys: keys.clone(),
            cookies: BTreeMap::new(),
            changes: CookieJar::new(),
            marker: PhantomData,
        }
    }

    /// Creates a jar with the valid cookies in the `Cookie` headers of a request, for code that is not a
    /// handler.
    pub fn from_headers(headers: &HeaderMap, keys: &CookieKeys) -> Self {
        let mut jar = Self::new(keys);
        for part in header::parts(headers) {
            let Some(name) = header::name(part).filter(|name| !name.is_empty()) else {
                continue;
            };
            jar.changes.add_original(Cookie::new(name.clone(), ""));
            let known = jar.cookies.entry(name);
            let known = known.or_insert_with(|| Known::Received(Vec::new()));
            if let Known::Received(values) = known
                && values.len() < header::MAX_TRIED
            {
                let present = header::values(part).into_iter();
                values.extend(present.filter(|value| !value.is_empty()));
            }
        }
        jar
    }

    /// Returns the plain cookie `name`, or `None` if it is missing or not valid.
    ///
    /// A cookie of the request only has a name and a value.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Cookie<'static>> {
        match self.cookies.get(name)? {
            Known::Received(values) => {
                let value = self.open(name, values)?.value;
                Some(Cookie::new(name.to_owned(), value))
            }
            Known::Added(cookie) => Some(cookie.clone()),
        }
    }

    /// Returns the plain cookies, ordered by name.
    pub fn iter(&self) -> impl Iterator<Item = Cookie<'static>> {
        self.cookies.keys().filter_map(|name| self.get(name))
    }

    /// Returns whether the cookie `name` of the request is protected with a previous key, which is accepted
    /// only until its grace period ends.
    ///
    /// To keep the cookie valid, [`add`](Self::add) it again with its attributes. A browser does not send
    /// the attributes, so the jar cannot do that.
    #[must_use]
    pub fn is_outdated(&self, name: &str) -> bool {
        let Some(Known::Received(values)) = self.cookies.get(name) else {
            return false;
        };
        let opened = self.open(name, values);
        opened.is_some_and(|opened| opened.is_outdated)
    }

    fn open(&self, name: &str, values: &[String]) -> Option<Opened> {
        let functions = Functions::of::<P>();
        let mut opened = values
            .iter()
            .map(|value| functions.open(&self.keys, name, value));
        opened.find_map(|opened| opened)
    }

    /// Adds a plain cookie. The response contains it, protected with the primary key and percent-encoded.
    #[expect(clippy::should_implement_trait, reason = "the name in axum-extra")]
    pub fn add(mut self, cookie: impl Into<Cookie<'static>>) -> Self {
        let cookie = cookie.into();
        let name = cookie.name().to_owned();
        if let Some(sealed) = Functions::of::<P>().seal(&self.keys, cookie.clone()) {
            self.changes.add(sealed);
        }
        self.cookies.insert(name, Known::Added(cookie));
        self
    }

    /// Removes a cookie, in the browser too if the request contains it.
    ///
    /// `cookie` must have the path and the domain that the cookie was set with.
    pub fn remove(mut self, cookie: impl Into<Cookie<'static>>) -> Self {
        let cookie = cookie.into();
        self.cookies.remove(cookie.name());
        self.changes.remove(cookie);
        self
    }
}

impl<P, A, S> FromRequestParts<S> for RingJar<P, A>
where
    P: Protection,
    A: AsRef<CookieKeys> + Send + Sync + 'static,
    S: Sync,
{
    type Rejection = Rejection;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Rejection> {
        let Some(auth) = parts.extensions.get::<LazyAuth<A>>() else {
            let (jar, keys) = (std::any::type_name::<Self>(), std::any::type_name::<A>());
            return Err(layer_missing(jar, keys));
        };
        let keys = auth.get().await.map_err(Rejection::log_not_ready)?;
        Ok(Self::from_headers(&parts.headers, (*keys).as_ref()))
    }
}

impl<P, A> IntoResponseParts for RingJar<P, A> {
    type Error = Infallible;

    fn into_response_parts(self, mut response: ResponseParts) -> Result<ResponseParts, Infallible> {
        for cookie in self.changes.delta() {
            match HeaderValue::try_from(cookie.encoded().to_string()) {
                Ok(header) => drop(response.headers_mut().append(SET_COOKIE, header)),
                Err(_) => {
                    tracing::error!(target: "secretwell::auth", event = "cookie_not_set", names = ?[cookie.name()], "a cookie was not set, because its attributes are not valid in a header");
                }
            }
        }
        Ok(response)
    }
}

impl<P, A> IntoResponse for RingJar<P, A> {
    fn into_response(self) -> Response {
        (self, ()).into_response()
    }
}

impl<P, A> Clone for RingJar<P, A> {
    fn clone(&self) -> Self {
        Self {
            keys: self.keys.clone(),
            cookies: self.cookies.clone(),
            changes: self.changes.clone(),
            marker: PhantomData,
        }
    }
}

/// Contains no names and values, because most cookies of a request are of other applications.
impl<P, A> fmt::Debug for RingJar<P, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RingJar")
            .field("cookies", &self.cookies.len())
            .finish_non_exhaustive()
    }
}
