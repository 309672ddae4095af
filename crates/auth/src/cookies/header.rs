//! Cookies in the headers `Cookie` and `Set-Cookie`, as bytes.
//!
//! A name is recognized in every form that a parser behind the layer might read as that name. The cookie
//! crate trims white space of Unicode and percent-decodes names. A browser can send a cookie such as
//! `%69d=…`, which another application has set, and such a parser takes it for `id`.

use std::borrow::Cow;

use http::header::{COOKIE, HeaderMap, HeaderValue};
use percent_encoding::percent_decode;

/// Maximum number of cookies of one name that are tried. It limits the work for an arbitrary header.
pub(super) const MAX_TRIED: usize = 16;

/// Returns the parts of all `Cookie` headers, such as ` name=value`. A cookie that is not UTF-8 does not hide
/// the others.
#[cfg(feature = "axum")]
pub(super) fn parts(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    let headers = headers.get_all(COOKIE).iter();
    headers.flat_map(|header| header.as_bytes().split(is_semicolon))
}

/// Returns the name of the cookie in `part`: trimmed and percent-decoded. Returns `None` without a `=`.
pub(super) fn name(part: &[u8]) -> Option<String> {
    let (name, _) = split(part)?;
    Some(decoded(&String::from_utf8_lossy(name)))
}

/// Returns a name as a parser reads it: trimmed and percent-decoded.
pub(super) fn decoded(name: &str) -> String {
    let decoded = percent_decode(name.trim().as_bytes());
    decoded.decode_utf8_lossy().trim().to_owned()
}

/// Returns the values that the cookie in `part` might have, in the order of preference: percent-decoded, and
/// the same without quotes around it.
pub(super) fn values(part: &[u8]) -> Vec<String> {
    let Some((_, value)) = split(part) else {
        return Vec::new();
    };
    let value = value.trim_ascii();
    let unquoted = value.strip_prefix(b"\"");
    let unquoted = unquoted.and_then(|value| value.strip_suffix(b"\""));
    let decode = |value| Some(percent_decode(value).decode_utf8().ok()?.into_owned());
    let values = [Some(value), unquoted].into_iter().flatten();
    values.filter_map(decode).collect()
}

/// Rewrites the `Cookie` headers. The cookies with one of `names` are removed, except the first of each name
/// for which `open` returns a value. It gets that value. `open` is called for at most [`MAX_TRIED`] cookies of
/// each name that have a value. The bytes of all other cookies stay the same.
pub(super) fn rewrite(
    headers: &mut HeaderMap,
    names: &[String],
    mut open: impl FnMut(&str, &str) -> Option<String>,
) {
    let position = |part: &[u8]| {
        let found = name(part)?;
        names.iter().position(|name| *name == found)
    };
    let is_protected = |header: &HeaderValue| {
        let mut parts = header.as_bytes().split(is_semicolon);
        parts.any(|part| position(part).is_some())
    };
    if !headers.get_all(COOKIE).iter().any(is_protected) {
        return;
    }
    let mut left = vec![MAX_TRIED; names.len()];
    let mut rewritten = Vec::new();
    for header in headers.get_all(COOKIE) {
        // A parser might reject a header that is not UTF-8 as a whole, so the opened cookie gets its own.
        let is_text = std::str::from_utf8(header.as_bytes()).is_ok();
        let mut parts: Vec<Cow<'_, [u8]>> = Vec::new();
        for part in header.as_bytes().split(is_semicolon) {
            let Some(index) = position(part) else {
                parts.push(part.into());
                continue;
            };
            let values = values(part);
            if left[index] == 0 || values.iter().all(String::is_empty) {
                continue;
            }
            left[index] -= 1;
            let name = &names[index];
            if let Some(value) = values.iter().find_map(|value| open(name, value)) {
                left[index] = 0;
                let pair = pair(name, &value);
                match is_text {
                    true if parts.is_empty() => parts.push(pair.into_bytes().into()),
                    true => parts.push(format!(" {pair}").into_bytes().into()),
                    false => rewritten.push(pair.into_bytes()),
                }
            }
        }
        let joined = parts.join(&b';');
        // The space after a cookie that was removed at the start.
        let joined = joined.trim_ascii_start();
        if !joined.is_empty() {
            rewritten.push(joined.to_vec());
        }
    }
    headers.remove(COOKIE);
    for header in rewritten {
        // All bytes come from valid headers or are encoded.
        if let Ok(header) = HeaderValue::from_bytes(&header) {
            headers.append(COOKIE, header);
        }
    }
}

/// Returns `name=value`, encoded as the cookie crate does.
pub(super) fn pair(name: &str, value: &str) -> String {
    let cookie = cookie::Cookie::new(name, value);
    cookie.encoded().stripped().to_string()
}

fn split(part: &[u8]) -> Option<(&[u8], &[u8])> {
    let position = part.iter().position(|byte| *byte == b'=')?;
    Some((&part[..position], &part[position + 1..]))
}

fn is_semicolon(byte: &u8) -> bool {
    *byte == b';'
}
