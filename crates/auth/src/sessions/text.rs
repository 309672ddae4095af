//! JSON and percent-encoding as JavaScript reads and writes them.

use std::io;
use std::ops::{AddAssign, Deref};

use serde::Serialize;
use zeroize::Zeroizing;

use super::keys::Format;

/// The length in bytes that the claims of most tokens do not exceed.
const TYPICAL_LENGTH: usize = 1024;

/// A text that is wiped when it is dropped, and when it grows.
pub(super) struct WipedText(Zeroizing<String>);

impl WipedText {
    /// Creates an empty text for claims.
    pub(super) fn for_claims() -> Self {
        String::with_capacity(TYPICAL_LENGTH).into()
    }
}

impl From<String> for WipedText {
    fn from(text: String) -> Self {
        Self(Zeroizing::new(text))
    }
}

impl Deref for WipedText {
    type Target = String;

    fn deref(&self) -> &String {
        &self.0
    }
}

impl AddAssign<&str> for WipedText {
    fn add_assign(&mut self, part: &str) {
        if self.0.capacity() - self.0.len() < part.len() {
            let length = self.0.len() + part.len();
            let mut larger = Self::from(String::with_capacity(length.next_power_of_two()));
            larger.0.push_str(&self.0);
            // The assignment drops the old text, which wipes it.
            *self = larger;
        }
        self.0.push_str(part);
    }
}

/// Appends the parts that `serde_json` writes. Each of them is a text.
impl io::Write for WipedText {
    fn write(&mut self, part: &[u8]) -> io::Result<usize> {
        *self += std::str::from_utf8(part).map_err(io::Error::other)?;
        Ok(part.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Makes the wiping faster. `zeroize` wipes the elements of a text one by one, but its spare capacity at once. The
/// spare capacity of an empty text is its whole buffer.
impl Drop for WipedText {
    fn drop(&mut self) {
        self.0.clear();
    }
}

/// Returns a value as JSON, or `None` if it cannot be serialized.
pub(super) fn to_json(value: &(impl Serialize + ?Sized)) -> Option<WipedText> {
    let mut json = WipedText::for_claims();
    serde_json::to_writer(&mut json, value).ok()?;
    Some(json)
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
    let mut text = WipedText::from(String::from_utf8(std::mem::take(&mut *bytes)).ok()?);
    if text.starts_with('\u{feff}') {
        text.0.remove(0);
    }
    Some(text)
}

/// Returns JSON with its unpaired surrogates replaced by U+FFFD, or `None` if it has no escapes like
/// those of surrogates.
pub(super) fn without_unpaired_surrogates(json: &str) -> Option<WipedText> {
    let may_have_surrogates = json.contains(r"\u");
    may_have_surrogates.then(|| replace_unpaired_surrogates(json).into())
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
        while let Some((before, after)) = rest.split_once('%') {
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
        assert_eq!(*json, serde_json::to_string(&claims).unwrap());
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
        assert_eq!(*decoded, "{\"a\":\"\u{fffd}\"}");
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
