//! [`SessionCookies`]: the cookies of a session, with the names and limits of the package.

use std::time::Duration;

use secretwell_core::Error;
use serde::{Deserialize, Serialize};

use crate::sessions::cookie::{Cookie, DEFAULT_TOTAL, Limits, MAX_LINE};
use crate::sessions::{SameSite, Scheme, TokenError};

/// Maximum length of a `Set-Cookie` header of the package.
const MAX_PACKAGE_LINE: usize = 4050;
/// Maximum number of cookies of one cache.
const MAX_CHUNKS: usize = 100;

/// A cookie of a session. The names are those of `advanced.cookies` in the options of the application.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum CookieKey {
    /// The signed token of the session.
    SessionToken,
    /// The cookie cache. A long one is split into several cookies.
    SessionData,
    /// Its presence shows that the session ends with the browser.
    DontRemember,
    /// The tokens of the provider that the user signed in with. Only an application without a database has it. It
    /// is encrypted and can be split. The service never reads it, and clears it with the session.
    AccountData,
}

impl CookieKey {
    /// All cookies that end with the session.
    pub(super) const ALL: [Self; 4] = [
        Self::SessionToken,
        Self::SessionData,
        Self::DontRemember,
        Self::AccountData,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::SessionToken => "session_token",
            Self::SessionData => "session_data",
            Self::DontRemember => "dont_remember",
            Self::AccountData => "account_data",
        }
    }

    fn limits(self) -> Limits {
        match self {
            Self::SessionToken | Self::DontRemember => Limits::WHOLE,
            Self::SessionData | Self::AccountData => Limits {
                value: MAX_LINE,
                line: MAX_PACKAGE_LINE,
                chunks: MAX_CHUNKS,
                total: DEFAULT_TOTAL,
            },
        }
    }
}

/// The cookies of a session.
///
/// A service that renews or ends sessions must write the cookies that the application writes. A request does
/// not contain the attributes of its cookies, so they are configured here. The configuration of the
/// application is in `advanced`. The defaults are the same as in the package.
///
/// | application | here | default |
/// | --- | --- | --- |
/// | `useSecureCookies`, or else the protocol of `baseURL` | [`Scheme`] | - |
/// | `cookiePrefix` | [`with_prefix`](Self::with_prefix) | `better-auth` |
/// | `cookies.<key>.name` | [`with_name`](Self::with_name) | prefix and key |
/// | `crossSubDomainCookies.domain` | [`domain`](Self::domain) | the host of the response only |
/// | `defaultCookieAttributes` | [`path`](Self::path), [`same_site`](Self::same_site), [`partitioned`](Self::partitioned) | `Path=/`, `SameSite=Lax` |
/// | `cookies.<key>.attributes.sameSite` | [`same_site_of`](Self::same_site_of) | as for all cookies |
///
/// With `crossSubDomainCookies` and without `domain`, the package uses the host of `baseURL`.
///
/// ```
/// use secretwell::auth::sessions::Scheme;
/// use secretwell::auth::sessions::betterauth::{CookieKey, SessionCookies};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let cookies = SessionCookies::with_prefix(Scheme::Https, "acme")?.domain("example.com")?;
/// assert_eq!(cookies.name(CookieKey::SessionToken), "__Secure-acme.session_token");
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct SessionCookies {
    scheme: Scheme,
    token: Cookie,
    data: Cookie,
    dont_remember: Cookie,
    account_data: Cookie,
}

impl SessionCookies {
    /// Creates the cookies of the package. Their names begin with `__Secure-` for [`Scheme::Https`].
    pub fn new(scheme: Scheme) -> Self {
        let cookie = |key: CookieKey| {
            let name = format!("{}better-auth.{}", secure_prefix(scheme), key.name());
            Cookie::new(name, scheme, key.limits())
        };
        Self {
            scheme,
            token: cookie(CookieKey::SessionToken),
            data: cookie(CookieKey::SessionData),
            dont_remember: cookie(CookieKey::DontRemember),
            account_data: cookie(CookieKey::AccountData),
        }
    }

    /// Creates the cookies of an application that configures another prefix than `better-auth`.
    ///
    /// # Errors
    /// Returns [`ErrorKind::InvalidConfig`](secretwell_core::ErrorKind::InvalidConfig) if browsers do not
    /// accept cookies of these names.
    pub fn with_prefix(scheme: Scheme, prefix: &str) -> Result<Self, Error> {
        CookieKey::ALL
            .into_iter()
            .try_fold(Self::new(scheme), |cookies, key| {
                cookies.with_name(key, &format!("{prefix}.{}", key.name()))
            })
    }

    /// Sets the name of a cookie, without `__Secure-`. As in the package, this is put before the name for
    /// [`Scheme::Https`].
    ///
    /// # Errors
    /// The same as [`with_prefix`](Self::with_prefix).
    pub fn with_name(self, key: CookieKey, name: &str) -> Result<Self, Error> {
        let name = format!("{}{name}", secure_prefix(self.scheme));
        self.map(key, |cookie| cookie.with_name(name))
    }

    /// Sets the domain. The browser sends the cookies to this host and to all its subdomains. Default: only to
    /// the host that set them.
    ///
    /// # Errors
    /// Returns [`ErrorKind::InvalidConfig`](secretwell_core::ErrorKind::InvalidConfig) if `domain` is not a
    /// host name.
    pub fn domain(self, domain: &str) -> Result<Self, Error> {
        self.map_all(|cookie| cookie.domain(domain))
    }

    /// Sets the path. Default: `/`.
    ///
    /// # Errors
    /// Returns [`ErrorKind::InvalidConfig`](secretwell_core::ErrorKind::InvalidConfig) if `path` is not
    /// valid.
    pub fn path(self, path: &str) -> Result<Self, Error> {
        self.map_all(|cookie| cookie.path(path))
    }

    /// Sets which requests from other sites contain the cookies. Default: [`SameSite::Lax`].
    ///
    /// # Errors
    /// Returns [`ErrorKind::InvalidConfig`](secretwell_core::ErrorKind::InvalidConfig) for
    /// [`SameSite::None`] without [`Scheme::Https`].
    pub fn same_site(self, same_site: SameSite) -> Result<Self, Error> {
        self.map_all(|cookie| cookie.same_site(same_site))
    }

    /// Sets which requests from other sites contain one of the cookies.
    ///
    /// # Errors
    /// The same as [`same_site`](Self::same_site).
    pub fn same_site_of(self, key: CookieKey, same_site: SameSite) -> Result<Self, Error> {
        self.map(key, |cookie| cookie.same_site(same_site))
    }

    /// Stores the cookies separately for each site that embeds the application. Default: not partitioned.
    ///
    /// # Errors
    /// Returns [`ErrorKind::InvalidConfig`](secretwell_core::ErrorKind::InvalidConfig) without
    /// [`Scheme::Https`].
    pub fn partitioned(self) -> Result<Self, Error> {
        self.map_all(Cookie::partitioned)
    }

    /// Sets the maximum size of the cookie cache in bytes. Default: 12 KiB, because Node.js rejects requests
    /// with more than 16 KiB of headers.
    #[must_use]
    pub fn max_size(mut self, bytes: usize) -> Self {
        self.data = self.data.max_total(bytes);
        self
    }

    /// Returns the name of a cookie.
    pub fn name(&self, key: CookieKey) -> &str {
        self.cookie(key).name()
    }

    /// Returns whether a cookie of this name contains the session, a part of it, or its lifetime.
    pub(super) fn owns(&self, name: &str) -> bool {
        [&self.token, &self.data, &self.dont_remember]
            .iter()
            .any(|cookie| cookie.owns(name))
    }

    /// Returns the values in a `Cookie` header that one of the cookies can have, in the order in which to
    /// try them. As in the package, chunks are ignored beside a single cookie of their name.
    pub(super) fn candidates<'a>(
        &'a self,
        key: CookieKey,
        header: &'a str,
    ) -> impl Iterator<Item = String> + 'a {
        let cookie = self.cookie(key);
        let mut whole = cookie.whole(header).peekable();
        let chunks = whole.peek().is_none().then(|| cookie.joined(header));
        whole.chain(chunks.into_iter().flatten())
    }

    /// Returns the `Set-Cookie` headers that set one of the cookies.
    pub(super) fn set(
        &self,
        key: CookieKey,
        value: &str,
        max_age: Option<Duration>,
        request: &str,
    ) -> Result<Vec<String>, TokenError> {
        self.cookie(key).set(value, max_age, request)
    }

    /// Returns the `Set-Cookie` headers that clear one of the cookies, as far as the request has it.
    pub(super) fn clear(&self, key: CookieKey, request: &str) -> Vec<String> {
        self.cookie(key).clear(request)
    }

    fn cookie(&self, key: CookieKey) -> &Cookie {
        match key {
            CookieKey::SessionToken => &self.token,
            CookieKey::SessionData => &self.data,
            CookieKey::DontRemember => &self.dont_remember,
            CookieKey::AccountData => &self.account_data,
        }
    }

    fn map(
        mut self,
        key: CookieKey,
        change: impl FnOnce(Cookie) -> Result<Cookie, Error>,
    ) -> Result<Self, Error> {
        let cookie = match key {
            CookieKey::SessionToken => &mut self.token,
            CookieKey::SessionData => &mut self.data,
            CookieKey::DontRemember => &mut self.dont_remember,
            CookieKey::AccountData => &mut self.account_data,
        };
        *cookie = change(cookie.clone())?;
        Ok(self)
    }

    fn map_all(self, change: impl Fn(Cookie) -> Result<Cookie, Error>) -> Result<Self, Error> {
        Ok(Self {
            scheme: self.scheme,
            token: change(self.token)?,
            data: change(self.data)?,
            dont_remember: change(self.dont_remember)?,
            account_data: change(self.account_data)?,
        })
    }
}

fn secure_prefix(scheme: Scheme) -> &'static str {
    match scheme {
        Scheme::Https => "__Secure-",
        Scheme::Http => "",
    }
}
