//! [`SessionCookie`]: the cookie of a session, with the names and limits of the packages.

use std::time::Duration;

use secretwell_core::Error;

use crate::sessions::cookie::{Cookie, DEFAULT_TOTAL, Limits, MAX_LINE};
use crate::sessions::keys::Format;
use crate::sessions::{SameSite, Scheme, TokenError};

/// Maximum length of a cookie's value, the same as in the packages, which reserve the rest of 4096 bytes
/// for the name and the attributes.
const V4_CHUNK: usize = 3933;
const V5_CHUNK: usize = 3936;
/// Maximum number of cookies of one session.
const MAX_CHUNKS: usize = 100;

/// The cookie of a session, with the name and format of the packages.
///
/// A service that renews or ends sessions must write the cookie that the application writes. A request
/// does not contain the attributes of its cookies, so they are configured here. Without them, the
/// browser would keep two cookies, and signing out at the application would not end the session of the
/// service.
///
/// The configuration of the application is in `cookies.sessionToken`. The defaults are the same as in
/// the packages.
///
/// | application | here | default |
/// | --- | --- | --- |
/// | `name` | [`with_name`](Self::with_name) | [`v5`](Self::v5), [`v4`](Self::v4) |
/// | `options.domain` | [`domain`](Self::domain) | the host of the response only |
/// | `options.path` | [`path`](Self::path) | `/` |
/// | `options.sameSite` | [`same_site`](Self::same_site) | [`SameSite::Lax`] |
/// | `options.partitioned` | [`partitioned`](Self::partitioned) | not partitioned |
/// | `options.secure` | [`Scheme`] | `Secure` for `https://` |
///
/// A token that is too long for one cookie is split into several.
///
/// ```
/// use std::time::Duration;
///
/// use secretwell::auth::sessions::authjs::SessionCookie;
/// use secretwell::auth::sessions::Scheme;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let cookie = SessionCookie::v5(Scheme::Https).domain("example.com")?;
/// assert_eq!(cookie.name(), "__Secure-authjs.session-token");
///
/// let set = cookie.set("a.token", Duration::from_secs(60), "")?;
/// assert!(set[0].starts_with("__Secure-authjs.session-token=a.token; Domain=example.com; Path=/;"));
/// let header = "theme=dark; __Secure-authjs.session-token=a.token";
/// assert!(cookie.candidates(header).eq(["a.token"]));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct SessionCookie {
    format: Format,
    cookie: Cookie,
}

impl SessionCookie {
    /// Creates the cookie of `@auth/core` and next-auth 5.
    ///
    /// Its name is `authjs.session-token` for [`Scheme::Http`] and `__Secure-authjs.session-token` for
    /// [`Scheme::Https`].
    pub fn v5(scheme: Scheme) -> Self {
        Self::new(Format::V5, "authjs.session-token", scheme)
    }

    /// Creates the cookie of next-auth 4.
    ///
    /// Its name is `next-auth.session-token` for [`Scheme::Http`] and `__Secure-next-auth.session-token`
    /// for [`Scheme::Https`].
    pub fn v4(scheme: Scheme) -> Self {
        Self::new(Format::V4, "next-auth.session-token", scheme)
    }

    fn new(format: Format, name: &str, scheme: Scheme) -> Self {
        let prefix = match scheme {
            Scheme::Https => "__Secure-",
            Scheme::Http => "",
        };
        let limits = Limits {
            value: match format {
                Format::V4 => V4_CHUNK,
                Format::V5 | Format::BetterAuth => V5_CHUNK,
            },
            line: MAX_LINE,
            chunks: MAX_CHUNKS,
            total: DEFAULT_TOTAL,
        };
        Self {
            format,
            cookie: Cookie::new(format!("{prefix}{name}"), scheme, limits),
        }
    }

    pub(super) fn format(&self) -> Format {
        self.format
    }

    /// Sets another name, for an application that configures one. The encryption keys of version 5 depend
    /// on it.
    ///
    /// The cookie is `Secure` if it was created with [`Scheme::Https`], or if the name begins with
    /// `__Secure-` or `__Host-`.
    ///
    /// # Errors
    /// Returns [`ErrorKind::InvalidConfig`](secretwell_core::ErrorKind::InvalidConfig) if browsers do not
    /// accept a cookie of this name, or do not accept it with the attributes that are already set.
    pub fn with_name(self, name: impl Into<String>) -> Result<Self, Error> {
        self.map(|cookie| cookie.with_name(name))
    }

    /// Sets the domain. The browser sends the cookie to this host and to all its subdomains. Default: only
    /// to the host that set it.
    ///
    /// A dot at the start has no effect, as in browsers.
    ///
    /// # Errors
    /// Returns [`ErrorKind::InvalidConfig`](secretwell_core::ErrorKind::InvalidConfig) if `domain` is not
    /// a host name, or if the name of the cookie begins with `__Host-`.
    pub fn domain(self, domain: &str) -> Result<Self, Error> {
        self.map(|cookie| cookie.domain(domain))
    }

    /// Sets the path. The browser sends the cookie to this path and to all paths below it. Default: `/`.
    ///
    /// A request to another path does not contain the cookie, so it cannot end the session.
    ///
    /// # Errors
    /// Returns [`ErrorKind::InvalidConfig`](secretwell_core::ErrorKind::InvalidConfig) if `path` does not
    /// begin with `/`, if it contains characters that a cookie cannot contain, or if the name of the
    /// cookie begins with `__Host-`.
    pub fn path(self, path: impl Into<String>) -> Result<Self, Error> {
        self.map(|cookie| cookie.path(path))
    }

    /// Sets which requests from other sites contain the cookie. Default: [`SameSite::Lax`].
    ///
    /// # Errors
    /// Returns [`ErrorKind::InvalidConfig`](secretwell_core::ErrorKind::InvalidConfig) for
    /// [`SameSite::None`] if the cookie is not `Secure`.
    pub fn same_site(self, same_site: SameSite) -> Result<Self, Error> {
        self.map(|cookie| cookie.same_site(same_site))
    }

    /// Makes the cookie `Partitioned`: a page that is embedded in several sites has a separate session in
    /// each of them. Default: not partitioned.
    ///
    /// # Errors
    /// Returns [`ErrorKind::InvalidConfig`](secretwell_core::ErrorKind::InvalidConfig) if the cookie is
    /// not `Secure`.
    pub fn partitioned(self) -> Result<Self, Error> {
        self.map(Cookie::partitioned)
    }

    /// Sets the maximum length of all cookies of one session in a request, in bytes. Default: 12 KiB.
    ///
    /// Servers reject requests with longer headers. By default, Node.js accepts 16 KiB for all headers
    /// together, and nginx and Apache accept 8 KiB for the `Cookie` header. A session also consists of at
    /// most 100 cookies.
    #[must_use]
    pub fn max_size(mut self, bytes: usize) -> Self {
        self.cookie = self.cookie.max_total(bytes);
        self
    }

    fn map(self, change: impl FnOnce(Cookie) -> Result<Cookie, Error>) -> Result<Self, Error> {
        Ok(Self {
            format: self.format,
            cookie: change(self.cookie)?,
        })
    }

    /// Returns the name of the cookie. The encryption keys of version 5 depend on it.
    pub fn name(&self) -> &str {
        self.cookie.name()
    }

    /// Returns the texts in a `Cookie` header that can be the token, in the order in which to try them.
    ///
    /// A token is in one cookie, or in chunks whose names end with `.0`, `.1` and so on. Single cookies
    /// come first, in the order of the header. Chunks can be in any order, but must be complete. Empty
    /// cookies and other cookies with the same prefix are ignored.
    ///
    /// There can be several texts, because a browser keeps one cookie for each domain and path. A stale
    /// one must not hide the valid one. At most 16 texts are returned.
    pub fn candidates<'a>(&'a self, header: &'a str) -> impl Iterator<Item = String> + 'a {
        self.cookie.candidates(header)
    }

    /// Returns the `Set-Cookie` headers for a token that expires after `max_age`.
    ///
    /// `request` is the `Cookie` header of the request, or an empty text. The headers also clear its
    /// session cookies that the new token does not overwrite. Browsers keep a cookie for at most 400
    /// days, so a longer `max_age` is shortened.
    ///
    /// # Errors
    /// Returns [`TokenError::TooLarge`] if the token needs more than 100 cookies, or if they exceed
    /// [`max_size`](Self::max_size) and the session cookies of the request are shorter.
    pub fn set(
        &self,
        token: &str,
        max_age: Duration,
        request: &str,
    ) -> Result<Vec<String>, TokenError> {
        self.cookie.set(token, Some(max_age), request)
    }

    /// Returns the `Set-Cookie` headers that end the session in a request's `Cookie` header.
    ///
    /// If the cookie has a domain, the headers also clear a session cookie of this host only.
    pub fn clear(&self, request: &str) -> Vec<String> {
        self.cookie.clear(request)
    }

    /// Returns whether a cookie of this name contains a session token or a chunk of it.
    #[cfg(feature = "tower")]
    pub(super) fn is_session_cookie(&self, name: &str) -> bool {
        self.cookie.owns(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_joined_in_order_and_other_cookies_are_ignored() {
        let cookie = SessionCookie::v5(Scheme::Http);
        let name = cookie.name().to_owned();
        for (header, token) in [
            (format!("{name}=whole"), Some("whole")),
            (format!("a=b; {name}=whole;c=d"), Some("whole")),
            (format!("{name}.1=b; {name}.0=a; {name}.2=c"), Some("abc")),
            (
                format!("{name}=whole; {name}.0=stale; {name}.1=stale"),
                Some("whole"),
            ),
            (format!("{name}.0=a; {name}.2=c"), Some("a")),
            (format!("{name}.1=b"), None),
            (
                format!("{name}-other=x; {name}.x=y; {name}.01=z; {name}.-1=z"),
                None,
            ),
            (format!("{name}.0=a; {name}-other=x"), Some("a")),
            (format!("{name}.99999999999999999999=a"), None),
            (format!("{name}=; {name}.0=a; {name}.1=b"), Some("ab")),
            (format!("{name}.0=a; {name}.1="), Some("a")),
            (format!("{name}="), None),
            (
                format!("{name}.1=b; {name}.0=a; {name}.1=c; {name}.0=d"),
                Some("ab"),
            ),
            (format!("{name}=first; {name}=second"), Some("first")),
            (format!("{name}=a%2Eb%"), Some("a%2Eb%")),
            (format!("{name} = a%2Eb"), Some("a.b")),
            (format!("{name}.0=a%2E; {name}.1=%62"), Some("a.b")),
            (String::new(), None),
            ("=;=;;".to_owned(), None),
        ] {
            assert_eq!(
                cookie.candidates(&header).next().as_deref(),
                token,
                "{header}"
            );
        }
    }

    #[test]
    fn token_that_is_set_is_found_and_leftover_cookies_are_cleared() {
        let age = Duration::from_secs(60);
        for (cookie, chunk) in [
            (SessionCookie::v5(Scheme::Https), 3936),
            (SessionCookie::v4(Scheme::Http), 3933),
        ] {
            let name = cookie.name().to_owned();
            let cookie = cookie.max_size(64 * 1024);
            for (length, cookies) in [(1, 1), (chunk, 1), (chunk + 1, 2), (12 * chunk, 12)] {
                let token = "t".repeat(length);
                let set = cookie.set(&token, age, "").unwrap();
                assert_eq!(set.len(), cookies);
                let sent: Vec<&str> = set.iter().filter_map(|set| set.split(';').next()).collect();
                assert!(
                    sent.iter()
                        .all(|pair| pair.split('=').nth(1).unwrap().len() <= chunk)
                );
                assert_eq!(cookie.candidates(&sent.join("; ")).next(), Some(token));
            }
            let before = format!("{name}.0=a; {name}.1=b; other=c");
            let set = cookie.set("short", age, &before).unwrap();
            assert!(set[0].starts_with(&format!("{name}=short; ")), "{set:?}");
            assert!(
                set[1..]
                    .iter()
                    .all(|set| set.contains("=; Path=/; Max-Age=0;"))
            );
            assert_eq!((set.len(), cookie.clear(&before).len()), (3, 2));
            assert_eq!(set[0].ends_with("; Secure"), name.starts_with("__Secure-"));
        }
        let host = SessionCookie::v5(Scheme::Http)
            .with_name("__Host-session")
            .unwrap();
        assert!(host.set("t", age, "").unwrap()[0].ends_with("; Secure"));
    }
}
