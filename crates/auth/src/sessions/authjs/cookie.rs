//! [`SessionCookie`]: names, splits and joins the cookies of a session. A long token is split into
//! several cookies.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::sessions::Scheme;
use crate::sessions::cookie::{is_secure, pairs};
use crate::sessions::keys::Format;
use crate::sessions::text::{percent_decode, percent_encode};

/// Maximum length of a cookie's value, the same as in the packages, which reserve the rest of 4096 bytes
/// for the name and the attributes.
const V4_CHUNK: usize = 3933;
const V5_CHUNK: usize = 3936;
/// Maximum number of cookies of one session.
const MAX_CHUNKS: usize = 100;

/// The cookie of a session, with the name and format of the packages.
///
/// A token that is too long for one cookie is split into several.
///
/// ```
/// use std::time::Duration;
///
/// use secretwell::auth::sessions::authjs::SessionCookie;
/// use secretwell::auth::sessions::Scheme;
///
/// let cookie = SessionCookie::v5(Scheme::Https);
/// assert_eq!(cookie.name(), "__Secure-authjs.session-token");
///
/// let set = cookie.set("a.token", Duration::from_secs(60), None);
/// assert!(set[0].starts_with("__Secure-authjs.session-token=a.token; Path=/;"));
/// let token = cookie.find("theme=dark; __Secure-authjs.session-token=a.token");
/// assert_eq!(token.as_deref(), Some("a.token"));
/// ```
#[derive(Debug, Clone)]
pub struct SessionCookie {
    format: Format,
    name: String,
    secure: bool,
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
        let secure = scheme == Scheme::Https;
        let prefix = if secure { "__Secure-" } else { "" };
        Self {
            format,
            name: format!("{prefix}{name}"),
            secure,
        }
    }

    pub(super) fn format(&self) -> Format {
        self.format
    }

    /// Sets another name, for an application that configures one.
    ///
    /// The cookie is `Secure` if the name begins with `__Secure-` or `__Host-`.
    #[must_use]
    pub fn with_name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self.secure = is_secure(&self.name);
        self
    }

    /// Returns the name of the cookie. The encryption keys of version 5 depend on it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the token in a `Cookie` header.
    ///
    /// The token is in one cookie, or in chunks whose names end with `.0`, `.1` and so on. Chunks can be
    /// in any order, but must be complete. The single cookie takes precedence over chunks.
    ///
    /// Empty cookies and other cookies with the same prefix are ignored. If a name occurs several times,
    /// the first cookie is used, as in the packages.
    pub fn find(&self, header: &str) -> Option<String> {
        let mut whole = None;
        let mut chunks: BTreeMap<usize, &str> = BTreeMap::new();
        for (name, value) in pairs(header) {
            if name == self.name {
                whole.get_or_insert(value);
            } else if let Some(index) = self.chunk_index(name) {
                chunks.entry(index).or_insert(value);
            }
        }
        if let Some(token) = whole.filter(|token| !token.is_empty()) {
            return Some(percent_decode(token));
        }
        chunks.retain(|_, chunk| !chunk.is_empty());
        let is_complete = chunks.keys().copied().eq(0..chunks.len());
        let token = chunks.values().map(|chunk| percent_decode(chunk)).collect();
        (is_complete && !chunks.is_empty()).then_some(token)
    }

    /// Returns the `Set-Cookie` headers for a token that expires after `max_age`.
    ///
    /// `request` is the `Cookie` header of the request. The headers also clear its session cookies that
    /// the new token does not overwrite.
    pub fn set(&self, token: &str, max_age: Duration, request: Option<&str>) -> Vec<String> {
        let mut headers: Vec<String> = Vec::new();
        let mut written: Vec<String> = Vec::new();
        let mut write = |name: String, value: &str| {
            headers.push(self.header(&name, value, max_age));
            written.push(name);
        };
        let chunk = match self.format {
            Format::V4 => V4_CHUNK,
            Format::V5 | Format::BetterAuth => V5_CHUNK,
        };
        if token.len() <= chunk {
            write(self.name.clone(), token);
        } else {
            let mut rest = token;
            for index in 0.. {
                let (part, after) = rest.split_at(floor_char_boundary(rest, chunk));
                write(format!("{}.{index}", self.name), part);
                if after.is_empty() {
                    break;
                }
                rest = after;
            }
        }
        let leftover = self
            .session_cookie_names(request)
            .filter(|name| !written.iter().any(|known| known == name));
        headers.extend(leftover.map(|name| self.header(name, "", Duration::ZERO)));
        headers
    }

    /// Returns the `Set-Cookie` headers that end the session in a request's `Cookie` header.
    pub fn clear(&self, request: &str) -> Vec<String> {
        self.session_cookie_names(Some(request))
            .map(|name| self.header(name, "", Duration::ZERO))
            .collect()
    }

    /// Returns the names of the session's cookies in a `Cookie` header.
    fn session_cookie_names<'a>(
        &'a self,
        header: Option<&'a str>,
    ) -> impl Iterator<Item = &'a str> {
        let names = pairs(header.unwrap_or_default()).map(|(name, _)| name);
        names.filter(|name| *name == self.name || self.chunk_index(name).is_some())
    }

    fn header(&self, name: &str, value: &str, max_age: Duration) -> String {
        let secure = if self.secure { "; Secure" } else { "" };
        format!(
            "{name}={}; Path=/; Max-Age={}; HttpOnly; SameSite=Lax{secure}",
            percent_encode(value),
            max_age.as_secs()
        )
    }

    /// Parses the index of a chunk from the name of its cookie.
    fn chunk_index(&self, name: &str) -> Option<usize> {
        let digits = name.strip_prefix(self.name.as_str())?.strip_prefix('.')?;
        let index: usize = digits.parse().ok()?;
        (index < MAX_CHUNKS && index.to_string() == digits).then_some(index)
    }
}

/// Returns the last character boundary at or before `max` bytes.
fn floor_char_boundary(text: &str, max: usize) -> usize {
    let mut end = max.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    end
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
            (format!("{name}.0=a; {name}.2=c"), None),
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
            assert_eq!(cookie.find(&header).as_deref(), token, "{header}");
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
            for (length, cookies) in [(1, 1), (chunk, 1), (chunk + 1, 2), (12 * chunk, 12)] {
                let token = "t".repeat(length);
                let set = cookie.set(&token, age, None);
                assert_eq!(set.len(), cookies);
                let sent: Vec<&str> = set.iter().filter_map(|set| set.split(';').next()).collect();
                assert!(
                    sent.iter()
                        .all(|pair| pair.split('=').nth(1).unwrap().len() <= chunk)
                );
                assert_eq!(cookie.find(&sent.join("; ")), Some(token));
            }
            let before = format!("{name}.0=a; {name}.1=b; other=c");
            let set = cookie.set("short", age, Some(&before));
            assert!(set[0].starts_with(&format!("{name}=short; ")), "{set:?}");
            assert!(
                set[1..]
                    .iter()
                    .all(|set| set.contains("=; Path=/; Max-Age=0;"))
            );
            assert_eq!((set.len(), cookie.clear(&before).len()), (3, 2));
            assert_eq!(set[0].ends_with("; Secure"), name.starts_with("__Secure-"));
        }
        let host = SessionCookie::v5(Scheme::Http).with_name("__Host-session");
        assert!(host.set("t", age, None)[0].ends_with("; Secure"));
    }
}
