//! The `Cookie` header of a request.

/// Returns the names and values in a `Cookie` header. Double quotes around a value are removed.
pub(super) fn pairs(header: &str) -> impl Iterator<Item = (&str, &str)> {
    let cookies = header.split(';');
    cookies.filter_map(|cookie| {
        let (name, value) = cookie.split_once('=')?;
        let value = value.trim();
        let unquoted = value
            .strip_prefix('"')
            .and_then(|value| value.strip_suffix('"'));
        Some((name.trim(), unquoted.unwrap_or(value)))
    })
}

/// Returns all cookies of a request in one text, because HTTP/2 can send each in a separate header.
///
/// A cookie that is not UTF-8 does not affect the others.
#[cfg(feature = "tower")]
pub(in crate::sessions) fn cookies(headers: &http::HeaderMap) -> String {
    let all = headers.get_all(http::header::COOKIE).iter();
    let texts: Vec<_> = all
        .map(|value| String::from_utf8_lossy(value.as_bytes()))
        .collect();
    texts.join("; ")
}
