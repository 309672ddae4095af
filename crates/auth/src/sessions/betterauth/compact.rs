//! The strategy `compact`: `{"session":S,"expiresAt":MS,"signature":G}` in base64.
//!
//! G signs the text of S with `,"expiresAt":MS` before its last brace. This module cuts the texts of S and MS
//! out of the JSON as they were written, and verifies them before anything is parsed. The package parses
//! the JSON first and writes it again.

use base64::Engine;
use zeroize::Zeroizing;

use super::json::{float_text, write_number};
use super::mac::{Accept, MacKeys};
use super::payload::Claims;
use crate::sessions::TokenError;
use crate::sessions::encoding::URL_SAFE_NO_PAD;
use crate::sessions::text::WipedBytes;

const SESSION: &str = r#"{"session":"#;
const EXPIRES: &str = r#","expiresAt":"#;
const SIGNATURE: &str = r#","signature":""#;
const END: &str = r#""}"#;
/// Number of characters of a signature in base64.
const SIGNATURE_LENGTH: usize = 43;

/// Verifies a cache. Returns the text of S and the end of the cache in milliseconds since 1970.
pub(super) fn open(
    cache: &str,
    keys: &MacKeys,
    accept: Accept,
) -> Result<(Zeroizing<Vec<u8>>, f64), TokenError> {
    let decoded = URL_SAFE_NO_PAD.decode(cache);
    let mut json = Zeroizing::new(decoded.map_err(|_| TokenError::Malformed)?);
    let parts = Parts::cut(&json).ok_or(TokenError::Malformed)?;
    let signature = URL_SAFE_NO_PAD.decode(parts.signature);
    let signature = signature.map_err(|_| TokenError::Malformed)?;
    let text = [parts.session, EXPIRES.as_bytes(), parts.expires, b"}"];
    keys.verify(&text, &signature, accept)
        .ok_or(TokenError::UnknownKey)?;
    let expires = parse_number(parts.expires).ok_or(TokenError::Malformed)?;
    // S with its last brace, which is part of no other text.
    let range = SESSION.len()..SESSION.len() + parts.session.len() + 1;
    json.truncate(range.end);
    json.drain(..range.start);
    Ok((json, expires))
}

/// The texts in the JSON of a cache.
struct Parts<'a> {
    /// S without its last brace.
    session: &'a [u8],
    expires: &'a [u8],
    signature: &'a [u8],
}

impl<'a> Parts<'a> {
    fn cut(json: &'a [u8]) -> Option<Self> {
        let rest = json
            .strip_prefix(SESSION.as_bytes())?
            .strip_suffix(END.as_bytes())?;
        let (rest, signature) = rest.split_at_checked(rest.len().checked_sub(SIGNATURE_LENGTH)?)?;
        let rest = rest.strip_suffix(SIGNATURE.as_bytes())?;
        // A number has no comma, so this is the start of the last member.
        let comma = rest.iter().rposition(|byte| *byte == b',')?;
        let (session, expires) = rest.split_at(comma);
        let expires = expires.strip_prefix(EXPIRES.as_bytes())?;
        let is_number = expires
            .iter()
            .all(|byte| byte.is_ascii_digit() || *byte == b'.');
        is_number.then_some(Self {
            session: session.strip_suffix(b"}")?,
            expires,
            signature,
        })
    }
}

/// Parses a number that is written as in JavaScript. Another form of it does not verify in the package.
fn parse_number(text: &[u8]) -> Option<f64> {
    let text = std::str::from_utf8(text).ok()?;
    let number: f64 = text.parse().ok()?;
    // JavaScript writes such a whole number with the same digits. Most times are one.
    let is_plain = text.len() <= 15 && !text.starts_with('0') && !text.contains('.');
    (is_plain || float_text(number) == text).then_some(number)
}

/// Signs the claims and returns the cache.
pub(super) fn seal(claims: Claims<'_>, expires: i64, keys: &MacKeys) -> String {
    let mut json = WipedBytes::for_claims();
    json += SESSION;
    claims.write(&mut json);
    let brace = json.len();
    json += "}";
    json += EXPIRES;
    write_number(&expires.into(), &mut json);
    let signature = keys.sign(&[&json[SESSION.len()..brace], &json[brace + 1..], b"}"]);
    json += SIGNATURE;
    json += &URL_SAFE_NO_PAD.encode(signature);
    json += END;
    URL_SAFE_NO_PAD.encode(&*json)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn number_is_accepted_only_as_javascript_writes_it() {
        for (text, expected) in [
            ("1800000300000", Some(1_800_000_300_000.0)),
            ("1800000300000.5", Some(1_800_000_300_000.5)),
            ("0", Some(0.0)),
            ("999999999999999", Some(999_999_999_999_999.0)),
            ("9007199254740992", Some(9_007_199_254_740_992.0)),
            ("9007199254740993", None),
            ("01", None),
            ("00", None),
            ("1.0", None),
            ("1.", None),
            (".5", None),
            ("", None),
        ] {
            assert_eq!(parse_number(text.as_bytes()), expected, "{text}");
        }
    }
}
