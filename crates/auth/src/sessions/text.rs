//! JSON and percent-encoding as JavaScript reads and writes them.

use std::io;
use std::ops::{AddAssign, Deref};

use memchr::memchr;
use serde::Serialize;
use zeroize::Zeroizing;

use super::keys::Format;

/// The length in bytes that the claims of most tokens do not exceed.
const TYPICAL_LENGTH: usize = 1024;

/// JSON that is written. It is wiped when it is dropped, and when it grows.
///
/// It consists of bytes, because a check of each written part for UTF-8 costs more than the writing.
pub(super) struct WipedBytes(Zeroizing<Vec<u8>>);

impl WipedBytes {
    /// Creates an empty buffer for claims.
    pub(super) fn for_claims() -> Self {
        Self::with_capacity(TYPICAL_LENGTH)
    }

    pub(super) fn with_capacity(capacity: usize) -> Self {
        Self(Zeroizing::new(Vec::with_capacity(capacity)))
    }

    #[inline]
    fn append(&mut self, part: &[u8]) {
        if self.0.capacity() - self.0.len() < part.len() {
            self.grow(part.len());
        }
        self.0.extend_from_slice(part);
    }

    /// A `Vec` that grows by itself would leave an unwiped copy.
    #[cold]
    fn grow(&mut self, additional: usize) {
        let length = self.0.len() + additional;
        let mut larger = Self::with_capacity(length.next_power_of_two());
        larger.0.extend_from_slice(&self.0);
        // The assignment drops the old buffer, which wipes it.
        *self = larger;
    }

    /// Returns the bytes as text, or `None` if they are not UTF-8.
    pub(super) fn into_text(mut self) -> Option<WipedText> {
        wiped_text(std::mem::take(&mut *self.0))
    }
}

impl Deref for WipedBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl AddAssign<&str> for WipedBytes {
    #[inline]
    fn add_assign(&mut self, part: &str) {
        self.append(part.as_bytes());
    }
}

/// Appends what `serde_json` writes.
impl io::Write for WipedBytes {
    #[inline]
    fn write(&mut self, part: &[u8]) -> io::Result<usize> {
        self.append(part);
        Ok(part.len())
    }

    #[inline]
    fn write_all(&mut self, part: &[u8]) -> io::Result<()> {
        self.append(part);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Makes the wiping faster. `zeroize` wipes the elements of a vector one by one, but its spare capacity at once. The
/// spare capacity of an empty vector is its whole buffer.
impl Drop for WipedBytes {
    fn drop(&mut self) {
        self.0.clear();
    }
}

/// A text that is wiped when it is dropped.
pub(super) struct WipedText(Zeroizing<String>);

impl From<String> for WipedText {
    fn from(text: String) -> Self {
        Self(Zeroizing::new(text))
    }
}

impl Deref for WipedText {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

/// Makes the wiping faster, as for [`WipedBytes`].
impl Drop for WipedText {
    fn drop(&mut self) {
        self.0.clear();
    }
}

/// Returns bytes as text, or wipes them and returns `None` if they are not UTF-8.
fn wiped_text(bytes: Vec<u8>) -> Option<WipedText> {
    match String::from_utf8(bytes) {
        Ok(text) => Some(text.into()),
        Err(error) => {
            drop(Zeroizing::new(error.into_bytes()));
            None
        }
    }
}

/// Returns a value as JSON, or `None` if it cannot be serialized.
pub(super) fn to_json(value: &(impl Serialize + ?Sized)) -> Option<WipedText> {
    let mut json = WipedBytes::for_claims();
    serde_json::to_writer(&mut json, value).ok()?;
    json.into_text()
}

/// Decodes bytes to JSON text as the packages do, or returns `None` if they are not UTF-8. Unpaired
/// surrogates are replaced by U+FFFD.
pub(super) fn decode_json(bytes: Zeroizing<Vec<u8>>, format: Format) -> Option<WipedText> {
    let text = decode_text(bytes, format)?;
    Some(without_unpaired_surrogates(&text).unwrap_or(text))
}

/// Decodes bytes to text as the packages do, or returns `None` if they are not UTF-8.
///
/// A byte order mark is removed. In version 4, invalid UTF-8 is replaced by U+FFFD.
pub(super) fn decode_text(mut bytes: Zeroizing<Vec<u8>>, format: Format) -> Option<WipedText> {
    if format == Format::V4 && std::str::from_utf8(&bytes).is_err() {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        bytes = Zeroizing::new(text.into_bytes());
    }
    let mut text = wiped_text(std::mem::take(&mut *bytes))?;
    if text.starts_with('\u{feff}') {
        text.0.remove(0);
    }
    Some(text)
}

/// Returns JSON with its unpaired surrogates replaced by U+FFFD, or `None` if it has no escapes like
/// those of surrogates.
pub(super) fn without_unpaired_surrogates(json: &str) -> Option<WipedText> {
    // Most claims have no escapes at all.
    let may_have_surrogates = has_escapes(json) && json.contains(r"\u");
    may_have_surrogates.then(|| replace_unpaired_surrogates(json).into())
}

/// Returns whether JSON has a backslash.
///
/// The whole text is checked, because this is faster than a loop that can end early. `memchr` is not used: without
/// optimization, it leaves 128 bytes of the text on the stack, and the text can be the claims of a user.
pub(super) fn has_escapes(json: &str) -> bool {
    let bytes = json.bytes();
    bytes.fold(false, |any, byte| any | (byte == b'\\'))
}

/// Replaces each unpaired surrogate escape in JSON by U+FFFD.
///
/// JavaScript creates them when it cuts a text within an emoji. A Rust string cannot contain them.
fn replace_unpaired_surrogates(json: &str) -> String {
    let mut replaced = String::with_capacity(json.len());
    let mut rest = json;
    while let Some(start) = rest.find('\\') {
        let (before, escape) = rest.split_at(start);
        replaced += before;
        let (first, second) = (
            leading_surrogate(escape),
            escape.get(6..).and_then(leading_surrogate),
        );
        let end = match (first, second) {
            (Some(0xd800..=0xdbff), Some(0xdc00..)) => 12,
            (Some(_), _) => 6,
            (None, _) => escape
                .char_indices()
                .nth(2)
                .map_or(escape.len(), |(end, _)| end),
        };
        let (escape, after) = escape.split_at(end);
        replaced += if end == 6 { "\u{fffd}" } else { escape };
        rest = after;
    }
    replaced + rest
}

/// Returns the surrogate that is escaped at the start of `text`.
fn leading_surrogate(text: &str) -> Option<u16> {
    let digits = text.strip_prefix(r"\u")?.get(..4)?;
    let unit = u16::from_str_radix(digits, 16).ok()?;
    (0xd800..=0xdfff).contains(&unit).then_some(unit)
}

/// Splits a part of a request at the first occurrence of an ASCII character. The method of `str` does not use vector
/// instructions.
pub(super) fn split_once(text: &str, at: u8) -> Option<(&str, &str)> {
    let position = memchr(at, text.as_bytes())?;
    Some((&text[..position], &text[position + 1..]))
}

/// Encodes `text` like JavaScript's `encodeURIComponent`.
#[cfg(any(feature = "authjs", feature = "tower", test))]
pub(super) fn percent_encode(text: &str) -> String {
    let mut encoded = String::new();
    for character in text.chars() {
        push_percent_encoded(&mut encoded, character);
    }
    encoded
}

/// Appends a character like JavaScript's `encodeURIComponent`.
pub(super) fn push_percent_encoded(encoded: &mut String, character: char) {
    if character.is_ascii_alphanumeric() || "-_.!~*'()".contains(character) {
        encoded.push(character);
    } else {
        for byte in character.encode_utf8(&mut [0; 4]).bytes() {
            *encoded += &format!("%{byte:02X}");
        }
    }
}

/// Decodes `text` like JavaScript's `decodeURIComponent`. Returns invalid input unchanged.
pub(super) fn percent_decode(text: &str) -> String {
    fn decode(text: &str) -> Option<String> {
        let mut bytes = Vec::with_capacity(text.len());
        let mut rest = text;
        while let Some((before, after)) = split_once(rest, b'%') {
            bytes.extend_from_slice(before.as_bytes());
            let digits = after.get(..2)?;
            let is_hex = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
            bytes.push(u8::from_str_radix(digits, 16).ok().filter(|_| is_hex)?);
            rest = &after[2..];
        }
        bytes.extend_from_slice(rest.as_bytes());
        String::from_utf8(bytes).ok()
    }
    decode(text).unwrap_or_else(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_that_grows_keeps_its_content() {
        let claims = ["Ada \"the\" Countess 🦀\n".repeat(200), "b".to_owned()];
        let json = to_json(&claims).unwrap();
        assert!(json.len() > TYPICAL_LENGTH);
        assert_eq!(*json, *serde_json::to_string(&claims).unwrap());
    }

    #[test]
    fn bytes_that_are_not_utf_8_are_no_text() {
        let mut bytes = WipedBytes::with_capacity(1);
        for part in [&b"a"[..], b"", b"\xff"] {
            bytes.append(part);
        }
        assert_eq!(*bytes, *b"a\xff");
        assert!(bytes.into_text().is_none());
    }

    #[test]
    fn unpaired_surrogates_are_replaced_and_pairs_are_kept() {
        for (before, after) in [
            (r#""\ud83d""#, "\"\u{fffd}\""),
            (r#""a\uDC00b""#, "\"a\u{fffd}b\""),
            (r#""\ud83d\ud83d\ude00""#, "\"\u{fffd}\\ud83d\\ude00\""),
            (
                r#""\ud83d\n\ud83d\u0041""#,
                "\"\u{fffd}\\n\u{fffd}\\u0041\"",
            ),
            (r#""\\ud83d\"\\""#, r#""\\ud83d\"\\""#),
            (r"\ud83", r"\ud83"),
            ("\\é\\", "\\é\\"),
        ] {
            assert_eq!(replace_unpaired_surrogates(before), after);
        }
    }

    #[test]
    fn invalid_utf_8_is_accepted_in_version_4_only() {
        let bytes = || Zeroizing::new(b"\xef\xbb\xbf{\"a\":\"\xff\"}".to_vec());
        let decoded = decode_json(bytes(), Format::V4).unwrap();
        assert_eq!(&*decoded, "{\"a\":\"\u{fffd}\"}");
        assert!(decode_json(bytes(), Format::V5).is_none());
    }

    #[test]
    fn percent_encoding_round_trips_and_invalid_encoding_is_unchanged() {
        for (decoded, encoded) in [
            ("a|b", "a%7Cb"),
            ("ü 100%", "%C3%BC%20100%25"),
            ("a.b-c_", "a.b-c_"),
        ] {
            assert_eq!(percent_encode(decoded), encoded);
            assert_eq!(percent_decode(encoded), decoded);
        }
        for invalid in ["%", "%4", "%+1", "%ff", "%é", "100%7C%"] {
            assert_eq!(percent_decode(invalid), invalid);
        }
    }
}
