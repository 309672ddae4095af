//! The headers of a request that can contain a session.

#[cfg(feature = "tower")]
use crate::sessions::text::percent_decode;
use crate::sessions::text::split_once;

/// The white space that can surround a name or a value (RFC 6265, section 5.4).
///
/// Other white space is part of a name. A browser does not recognize a prefix such as `__Host-` after it, so
/// another host of the domain can set such a cookie.
const WHITE_SPACE: [char; 2] = [' ', '\t'];

/// Returns the names and values in a `Cookie` header. Double quotes around a value are removed.
pub(in crate::sessions) fn pairs(header: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut rest = Some(header);
    let cookies = std::iter::from_fn(move || {
        let header = rest?;
        let (cookie, after) = match split_once(header, b';') {
            Some((cookie, after)) => (cookie, Some(after)),
            None => (header, None),
        };
        rest = after;
        Some(cookie)
    });
    cookies.filter_map(|cookie| {
        let (name, value) = split_once(cookie, b'=')?;
        let value = value.trim_matches(WHITE_SPACE);
        let unquoted = value
            .strip_prefix('"')
            .and_then(|value| value.strip_suffix('"'));
        Some((name.trim_matches(WHITE_SPACE), unquoted.unwrap_or(value)))
    })
}

/// Returns all cookies of a request in one text, for the methods of the types `Sessions`.
///
/// With HTTP/2, browsers can send each cookie in a separate `Cookie` header. A handler that reads only one of
/// them does not find each session, and does not end each session. A cookie that is not UTF-8 does not affect
/// the others.
///
/// ```
/// use http::HeaderMap;
/// use secretwell::auth::sessions::cookies;
///
/// let mut headers = HeaderMap::new();
/// headers.append("cookie", "theme=dark".parse().unwrap());
/// headers.append("cookie", "authjs.session-token=x".parse().unwrap());
/// assert!(cookies(&headers).contains("authjs.session-token="));
/// ```
#[cfg(feature = "tower")]
pub fn cookies(headers: &http::HeaderMap) -> String {
    let all = headers.get_all(http::header::COOKIE).iter();
    let texts: Vec<_> = all
        .map(|value| String::from_utf8_lossy(value.as_bytes()))
        .collect();
    texts.join("; ")
}

/// Returns the token in the header `Authorization: Bearer`, percent-decoded, or `None` if there is no token. Only the
/// first header is read.
#[cfg(feature = "tower")]
pub(in crate::sessions) fn bearer_token(headers: &http::HeaderMap) -> Option<String> {
    let value = headers.get(http::header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    let token = token.trim();
    let is_token = scheme.eq_ignore_ascii_case("bearer") && !token.is_empty();
    is_token.then(|| percent_decode(token))
}
