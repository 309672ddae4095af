//! Removes secret values from the error texts of other libraries.

use secretwell_core::{SecretKey, SecretValue};
use zeroize::Zeroizing;

use crate::hex::hex;
use crate::policy::SecretPolicy;
use crate::secret_list;

/// Secrets with fewer bytes are not searched for in base64 and hex, because such short texts occur
/// by chance.
const MIN_ENCODED_BYTES: usize = 6;
/// The standard alphabet and the URL-safe alphabet.
const BASE64: [&[u8; 64]; 2] = [
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/",
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_",
];

/// One encoding of a secret that is searched for.
struct Form<'a> {
    key: &'a SecretKey,
    text: Zeroizing<Vec<u8>>,
    /// Whether any of the bytes can be percent-encoded in the searched text.
    allows_percent: bool,
    /// Number of base64 characters before and after the text that contain some bits of the secret.
    margins: (usize, usize),
}

/// Replaces each secret in `text` with its key in angle brackets, such as `<AUTH_SECRET>`.
///
/// Finds a secret verbatim, with Rust escapes, with any of its bytes percent-encoded, in hex, and
/// in base64 with either alphabet. Finds it in base64 also if it is only a part of the encoded
/// bytes.
pub(crate) fn scrub<'a>(
    text: String,
    secrets: impl Iterator<Item = (&'a SecretKey, &'a SecretValue)>,
) -> String {
    let text = Zeroizing::new(text);
    let mut forms = Vec::new();
    for (key, value) in secrets {
        let value = value.expose_bytes();
        add_forms(key, value, &mut forms);
        if SecretPolicy::of_key(key) == SecretPolicy::SigningKeyList {
            for entry in secret_list::parse(value).unwrap_or_default() {
                add_forms(key, entry.secret.as_bytes(), &mut forms);
            }
        }
    }
    let (mut rest, mut scrubbed) = (text.as_str(), String::new());
    while let Some(next) = rest.chars().next() {
        // The longest match wins, because a short secret can be a part of a long one.
        let found = forms
            .iter()
            .filter_map(|form| Some((form.prefix_length(rest)?, form)))
            .max_by_key(|(length, _)| *length);
        match found {
            Some((length, form)) => {
                let (before, after) = form.margins;
                scrubbed.truncate(length_without_last(&scrubbed, before));
                scrubbed += &format!("<{}>", form.key);
                rest = skip_chars(&rest[length..], after);
            }
            None => {
                scrubbed.push(next);
                rest = skip_chars(rest, 1);
            }
        }
    }
    scrubbed
}

/// Returns `text` without its first `count` characters.
fn skip_chars(text: &str, count: usize) -> &str {
    let start = text.char_indices().nth(count);
    start.map_or("", |(start, _)| &text[start..])
}

/// Returns the length in bytes of `text` without its last `count` characters.
fn length_without_last(text: &str, count: usize) -> usize {
    let ends = text.char_indices().rev().map(|(end, _)| end);
    std::iter::once(text.len())
        .chain(ends)
        .nth(count)
        .unwrap_or(0)
}

/// Adds each form of `value` to `forms`.
fn add_forms<'a>(key: &'a SecretKey, value: &[u8], forms: &mut Vec<Form<'a>>) {
    let mut add = |text: Vec<u8>, allows_percent, margins| {
        let text = Zeroizing::new(text);
        if !text.is_empty() {
            forms.push(Form {
                key,
                text,
                allows_percent,
                margins,
            });
        }
    };
    for value in [value, value.trim_ascii()] {
        add(value.to_vec(), true, (0, 0));
        if let Ok(text) = std::str::from_utf8(value) {
            add(escaped(text, text.escape_debug()), false, (0, 0));
            add(escaped(text, text.escape_default()), false, (0, 0));
        }
        if value.len() < MIN_ENCODED_BYTES {
            continue;
        }
        let digits = Zeroizing::new(hex(value));
        add(digits.to_ascii_uppercase().into(), false, (0, 0));
        add(digits.as_bytes().to_vec(), false, (0, 0));
        for (alphabet, offset) in BASE64.into_iter().flat_map(|a| [(a, 0), (a, 1), (a, 2)]) {
            let (text, margins) = base64(value, offset, alphabet);
            add(text, false, margins);
        }
    }
}

/// Collects the characters of `text` after their escaping.
fn escaped(text: &str, characters: impl Iterator<Item = char>) -> Vec<u8> {
    /// The longest escape sequence of a byte is `\u{7f}`. Those of longer characters are shorter per byte.
    const LONGEST: usize = 6;
    // Without the final capacity, growing would leave copies of the secret in freed memory.
    let mut escaped = String::with_capacity(LONGEST * text.len());
    escaped.extend(characters);
    escaped.into_bytes()
}

/// Encodes `value` as base64 for the case that it begins at `offset` within a group of three bytes.
///
/// Returns the characters that consist of bits of `value` only, and the number of characters before
/// and after them that contain some of its bits.
fn base64(value: &[u8], offset: usize, alphabet: &[u8; 64]) -> (Vec<u8>, (usize, usize)) {
    let bit = |index: usize| value[index / 8] >> (7 - index % 8) & 1;
    let first_bit = [0, 4, 2][offset];
    let bits: Zeroizing<Vec<u8>> = Zeroizing::new((first_bit..value.len() * 8).map(bit).collect());
    let (sextets, remainder) = bits.as_chunks::<6>();
    let number = |sextet: &[u8; 6]| sextet.iter().fold(0, |number, bit| number << 1 | bit);
    let text = sextets
        .iter()
        .map(|sextet| alphabet[usize::from(number(sextet))])
        .collect();
    let margins = (
        usize::from(first_bit > 0),
        usize::from(!remainder.is_empty()),
    );
    (text, margins)
}

impl Form<'_> {
    /// Returns the length in bytes of this form at the beginning of `text`, or `None` if `text`
    /// does not begin with it.
    fn prefix_length(&self, text: &str) -> Option<usize> {
        if !self.allows_percent {
            return text
                .as_bytes()
                .starts_with(&self.text)
                .then_some(self.text.len());
        }
        let mut length = 0;
        for &byte in self.text.iter() {
            let rest = &text.as_bytes()[length..];
            length += match rest {
                [b'%', digits @ ..] if hex_byte(digits) == Some(byte) => 3,
                [b'+', ..] if byte == b' ' => 1,
                [same, ..] if *same == byte => 1,
                _ => return None,
            };
        }
        text.is_char_boundary(length).then_some(length)
    }
}

/// Decodes the first two bytes of `digits` as a hexadecimal number.
fn hex_byte(digits: &[u8]) -> Option<u8> {
    let text = std::str::from_utf8(digits.get(..2)?).ok()?;
    u8::from_str_radix(text, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scrubbed(text: &str, secrets: &[(&str, &[u8])]) -> String {
        let secrets: Vec<(SecretKey, SecretValue)> = secrets
            .iter()
            .map(|(key, value)| (SecretKey::parse(key).unwrap(), (*value).into()))
            .collect();
        scrub(
            text.to_owned(),
            secrets.iter().map(|(key, value)| (key, value)),
        )
    }

    #[test]
    fn every_encoding_of_a_secret_is_removed() {
        let pem = "-----BEGIN KEY-----\nc4n4ry\n-----END KEY-----\n";
        let secrets: [(&str, &[u8]); 4] = [
            ("WORKERS", b"1"),
            ("PASSWORD", b"hunter1 & h\xc3\xbcnter?"),
            ("PEM", pem.as_bytes()),
            ("RAW", b"\xff\x00\xfe\x01\xfd\x02"),
        ];
        for (text, expected) in [
            (
                "bad dsn hunter1 & h\u{fc}nter? at 1",
                "bad dsn <PASSWORD> at <WORKERS>",
            ),
            (&format!("cannot parse {pem:?}"), "cannot parse \"<PEM>\""),
            (
                &format!("cannot parse {}", pem.trim()),
                "cannot parse <PEM>",
            ),
            (
                "postgres://app:hunter1%20%26%20h%C3%BCnter%3f@db",
                "postgres://app:<PASSWORD>@db",
            ),
            (
                "p=hunter1+%26+h%c3%bcnter?&q=%31",
                "p=<PASSWORD>&q=<WORKERS>",
            ),
            ("aHVudGVyMSAmIGjDvG50ZXI/ it is", "<PASSWORD> it is"),
            ("aHVudGVyMSAmIGjDvG50ZXI_", "<PASSWORD>"),
            ("68756E7465723120262068C3BC6E7465723F", "<PASSWORD>"),
            (
                "%FF%00%FE%01%fd%02 or ff00fe01fd02 or /wD+Af0C",
                "<RAW> or <RAW> or <RAW>",
            ),
            ("%zz 100% +", "%zz <WORKERS>00% +"),
        ] {
            assert_eq!(scrubbed(text, &secrets), expected, "{text}");
        }
    }

    #[test]
    fn base64_characters_that_share_bits_with_a_secret_are_removed() {
        // `:hunter22!`, `a:hunter22` and `ab:hunter22;`: each offset within a group of three bytes.
        for (text, expected) in [
            ("Basic Omh1bnRlcjIyIQ==", "Basic O<PASSWORD>IQ=="),
            ("Basic YTpodW50ZXIyMg==", "Basic YT<PASSWORD>=="),
            ("Basic YWI6aHVudGVyMjI7", "Basic YWI6<PASSWORD>7"),
        ] {
            assert_eq!(scrubbed(text, &[("PASSWORD", b"hunter22")]), expected);
        }
    }
}
