//! The cookie that a session is in, which is several where the token is long.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::keys::Format;
use super::text::{percent_decoded, percent_encoded};

/// How much of a token fits into one cookie, by what the packages leave for the rest of it.
const V4_CHUNK: usize = 3933;
const V5_CHUNK: usize = 3936;
/// How many cookies a session has at most.
const MAX_CHUNKS: usize = 100;

/// The scheme of the application's public URL. It decides the names of the cookies and whether they are
/// `Secure`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Scheme {
    /// `https://`: the names begin with `__Secure-` or `__Host-`.
    Https,
    /// `http://`, for development on one machine.
    Http,
}

/// The cookie of the session, as the packages name, split and join it.
///
/// ```
/// use std::time::Duration;
///
/// use secretwell::auth::authjs::{Scheme, SessionCookie};
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
    /// That of `@auth/core` and next-auth 5: `authjs.session-token`, over HTTPS with `__Secure-` before it.
    pub fn v5(scheme: Scheme) -> Self {
        Self::new(Format::V5, "authjs.session-token", scheme)
    }

    /// That of next-auth 4: `next-auth.session-token`, over HTTPS with `__Secure-` before it.
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

    /// The same by another name, where the application has configured one. It is sent over HTTPS only if
    /// it begins with `__Secure-` or `__Host-`.
    #[must_use]
    pub fn with_name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self.secure = is_secure(&self.name);
        self
    }

    /// Its name, which is what the keys of version 5 are derived with.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The token in a `Cookie` header: the cookie of the bare name, or else those of the name and `.0`,
    /// `.1` and so on, in order and without a gap. What else begins with the name is none of it, nor is
    /// what is empty. Of several cookies of one name the first counts, as with the packages.
    pub fn find(&self, header: &str) -> Option<String> {
        let mut whole = None;
        let mut chunks: BTreeMap<usize, &str> = BTreeMap::new();
        for (name, value) in pairs(header) {
            if name == self.name {
                whole.get_or_insert(value);
            } else if let Some(number) = self.number(name) {
                chunks.entry(number).or_insert(value);
            }
        }
        if let Some(token) = whole.filter(|token| !token.is_empty()) {
            return Some(percent_decoded(token));
        }
        chunks.retain(|_, chunk| !chunk.is_empty());
        let is_whole = chunks.keys().copied().eq(0..chunks.len());
        let token = chunks
            .values()
            .map(|chunk| percent_decoded(chunk))
            .collect();
        (is_whole && !chunks.is_empty()).then_some(token)
    }

    /// The `Set-Cookie` headers for a token, and to clear what the request's `Cookie` header has left of a
    /// session in more cookies or fewer.
    pub fn set(&self, token: &str, max_age: Duration, request: Option<&str>) -> Vec<String> {
        let mut headers: Vec<String> = Vec::new();
        let mut written: Vec<String> = Vec::new();
        let mut write = |name: String, value: &str| {
            headers.push(self.header(&name, value, max_age));
            written.push(name);
        };
        let chunk = match self.format {
            Format::V4 => V4_CHUNK,
            Format::V5 => V5_CHUNK,
        };
        if token.len() <= chunk {
            write(self.name.clone(), token);
        } else {
            let mut rest = token;
            for number in 0.. {
                let (part, after) = rest.split_at(boundary(rest, chunk));
                write(format!("{}.{number}", self.name), part);
                if after.is_empty() {
                    break;
                }
                rest = after;
            }
        }
        let left = self
            .held(request)
            .filter(|name| !written.iter().any(|known| known == name));
        headers.extend(left.map(|name| self.header(name, "", Duration::ZERO)));
        headers
    }

    /// The `Set-Cookie` headers that end the session of a request with this `Cookie` header.
    pub fn clear(&self, request: &str) -> Vec<String> {
        let held = self.held(Some(request));
        held.map(|name| self.header(name, "", Duration::ZERO))
            .collect()
    }

    /// The names of a session's cookies in a `Cookie` header.
    fn held<'a>(&'a self, header: Option<&'a str>) -> impl Iterator<Item = &'a str> {
        let names = pairs(header.unwrap_or_default()).map(|(name, _)| name);
        names.filter(|name| *name == self.name || self.number(name).is_some())
    }

    fn header(&self, name: &str, value: &str, max_age: Duration) -> String {
        let secure = if self.secure { "; Secure" } else { "" };
        format!(
            "{name}={}; Path=/; Max-Age={}; HttpOnly; SameSite=Lax{secure}",
            percent_encoded(value),
            max_age.as_secs()
        )
    }

    /// The number of a chunk, by the name of its cookie.
    fn number(&self, name: &str) -> Option<usize> {
        let digits = name.strip_prefix(self.name.as_str())?.strip_prefix('.')?;
        let number: usize = digits.parse().ok()?;
        (number < MAX_CHUNKS && number.to_string() == digits).then_some(number)
    }
}

/// The names and values in a `Cookie` header.
pub(super) fn pairs(header: &str) -> impl Iterator<Item = (&str, &str)> {
    let cookies = header.split(';');
    cookies.filter_map(|cookie| {
        let (name, value) = cookie.split_once('=')?;
        Some((name.trim(), value.trim()))
    })
}

/// Whether browsers take a cookie of this name over HTTPS only.
pub(super) fn is_secure(name: &str) -> bool {
    name.starts_with("__Secure-") || name.starts_with("__Host-")
}

/// The end of a character, at `most` bytes or before.
fn boundary(text: &str, most: usize) -> usize {
    let mut end = most.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_joined_in_order_and_strays_ignored() {
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
    fn what_is_set_is_found_and_what_is_left_over_is_cleared() {
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
