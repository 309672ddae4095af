//! [`Scheme`], and the cookies of a request.

use serde::{Deserialize, Serialize};

/// The scheme of the application's public URL. It determines the names of the cookies and whether they
/// are `Secure`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Scheme {
    /// `https://`. The names begin with `__Secure-` or `__Host-`.
    Https,
    /// `http://`, for development on one machine.
    Http,
}

/// Returns the names and values in a `Cookie` header.
pub(super) fn pairs(header: &str) -> impl Iterator<Item = (&str, &str)> {
    let cookies = header.split(';');
    cookies.filter_map(|cookie| {
        let (name, value) = cookie.split_once('=')?;
        Some((name.trim(), value.trim()))
    })
}

/// Returns whether browsers accept a cookie of this name over HTTPS only.
pub(super) fn is_secure(name: &str) -> bool {
    name.starts_with("__Secure-") || name.starts_with("__Host-")
}

/// Returns all cookies of a request in one text, because HTTP/2 can send each in a separate header.
///
/// A cookie that is not UTF-8 does not affect the others.
#[cfg(feature = "tower")]
pub(super) fn cookies(headers: &http::HeaderMap) -> String {
    let all = headers.get_all(http::header::COOKIE).iter();
    let texts: Vec<_> = all
        .map(|value| String::from_utf8_lossy(value.as_bytes()))
        .collect();
    texts.join("; ")
}
