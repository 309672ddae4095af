//! Text that JavaScript writes and reads, and Rust does not.

use zeroize::Zeroizing;

use super::keys::Format;

/// JSON in bytes, as the packages take it: without a byte order mark, and in version 4 with U+FFFD for
/// what is no UTF-8. `None` if it is no text.
pub(super) fn json(mut bytes: Zeroizing<Vec<u8>>, format: Format) -> Option<Zeroizing<String>> {
    if format == Format::V4 && std::str::from_utf8(&bytes).is_err() {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        bytes = Zeroizing::new(text.into_bytes());
    }
    let mut text = Zeroizing::new(String::from_utf8(std::mem::take(&mut *bytes)).ok()?);
    if text.starts_with('\u{feff}') {
        text.remove(0);
    }
    if text.contains(r"\ud") || text.contains(r"\uD") {
        text = Zeroizing::new(without_halves(&text));
    }
    Some(text)
}

/// JSON with U+FFFD for each half of a surrogate pair that stands alone in a string. JavaScript has those
/// where a text was cut within an emoji, and Rust has no string for them.
fn without_halves(json: &str) -> String {
    let mut whole = String::with_capacity(json.len());
    let mut rest = json;
    while let Some(place) = rest.find('\\') {
        let (before, escape) = rest.split_at(place);
        whole += before;
        let (first, second) = (half(escape), escape.get(6..).and_then(half));
        let end = match (first, second) {
            (Some(0xd800..=0xdbff), Some(0xdc00..)) => 12,
            (Some(_), _) => 6,
            (None, _) => escape
                .char_indices()
                .nth(2)
                .map_or(escape.len(), |(end, _)| end),
        };
        let (escape, after) = escape.split_at(end);
        whole += if end == 6 { "\u{fffd}" } else { escape };
        rest = after;
    }
    whole + rest
}

/// The half of a surrogate pair that is escaped at the start of a text.
fn half(text: &str) -> Option<u16> {
    let digits = text.strip_prefix(r"\u")?.get(..4)?;
    let unit = u16::from_str_radix(digits, 16).ok()?;
    (0xd800..=0xdfff).contains(&unit).then_some(unit)
}

/// As JavaScript's `encodeURIComponent` writes it.
pub(super) fn percent_encoded(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.!~*'()".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded += &format!("%{byte:02X}");
        }
    }
    encoded
}

/// As `decodeURIComponent` reads it, and as it is where that reads nothing.
pub(super) fn percent_decoded(text: &str) -> String {
    fn decoded(text: &str) -> Option<String> {
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
    decoded(text).unwrap_or_else(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_half_of_a_pair_is_replaced_and_a_pair_is_kept() {
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
            assert_eq!(without_halves(before), after);
        }
    }

    #[test]
    fn version_4_takes_what_is_no_utf_8() {
        let bytes = || Zeroizing::new(b"\xef\xbb\xbf{\"a\":\"\xff\"}".to_vec());
        let read = json(bytes(), Format::V4).unwrap();
        assert_eq!(*read, "{\"a\":\"\u{fffd}\"}");
        assert!(json(bytes(), Format::V5).is_none());
    }

    #[test]
    fn what_is_percent_encoded_is_decoded_and_what_is_not_is_left() {
        for (decoded, encoded) in [
            ("a|b", "a%7Cb"),
            ("ü 100%", "%C3%BC%20100%25"),
            ("a.b-c_", "a.b-c_"),
        ] {
            assert_eq!(percent_encoded(decoded), encoded);
            assert_eq!(percent_decoded(encoded), decoded);
        }
        for odd in ["%", "%4", "%+1", "%ff", "%é", "100%7C%"] {
            assert_eq!(percent_decoded(odd), odd);
        }
    }
}
