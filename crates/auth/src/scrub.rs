//! Takes secrets out of a text that somebody else wrote.

use secretwell_core::{SecretKey, SecretValue};
use zeroize::Zeroizing;

use crate::hex::hex;

/// A shorter secret is not looked for in base64 and hex: nearly any word would do for one.
const SHORTEST_ENCODED: usize = 6;
const BASE64: [&[u8; 64]; 2] = [
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/",
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_",
];

/// How a secret may look in a text.
struct Form<'a> {
    key: &'a SecretKey,
    text: Zeroizing<Vec<u8>>,
    /// Whether percent-encoding of any of its bytes is seen through.
    percent: bool,
    /// How many characters before and behind it share bits with it.
    around: (usize, usize),
}

/// `text`, with the name of its key in place of each secret: as it is, as Rust escapes it, with any of
/// its bytes percent-encoded, in hex, and in base64 of either alphabet, also as a part of what was
/// encoded.
pub(crate) fn scrub<'a>(
    text: String,
    secrets: impl Iterator<Item = (&'a SecretKey, &'a SecretValue)>,
) -> String {
    let text = Zeroizing::new(text);
    let mut forms = Vec::new();
    for (key, value) in secrets {
        forms_of(key, value.expose_bytes(), &mut forms);
    }
    let (mut rest, mut scrubbed) = (text.as_str(), String::new());
    while let Some(next) = rest.chars().next() {
        // The longest, so that no short one cuts a long one up.
        let found = forms
            .iter()
            .filter_map(|form| Some((form.length_in(rest)?, form)))
            .max_by_key(|(length, _)| *length);
        match found {
            Some((length, form)) => {
                let (before, behind) = form.around;
                scrubbed.truncate(before_last(&scrubbed, before));
                scrubbed += &format!("<{}>", form.key);
                rest = after(&rest[length..], behind);
            }
            None => {
                scrubbed.push(next);
                rest = after(rest, 1);
            }
        }
    }
    scrubbed
}

/// `text` without its first `count` characters.
fn after(text: &str, count: usize) -> &str {
    let start = text.char_indices().nth(count);
    start.map_or("", |(start, _)| &text[start..])
}

/// The length of `text` without its last `count` characters.
fn before_last(text: &str, count: usize) -> usize {
    let ends = text.char_indices().rev().map(|(end, _)| end);
    std::iter::once(text.len())
        .chain(ends)
        .nth(count)
        .unwrap_or(0)
}

fn forms_of<'a>(key: &'a SecretKey, value: &[u8], forms: &mut Vec<Form<'a>>) {
    let mut add = |text: Vec<u8>, percent, around| {
        let text = Zeroizing::new(text);
        if !text.is_empty() {
            forms.push(Form {
                key,
                text,
                percent,
                around,
            });
        }
    };
    for value in [value, value.trim_ascii()] {
        add(value.to_vec(), true, (0, 0));
        if let Ok(text) = std::str::from_utf8(value) {
            add(text.escape_debug().to_string().into(), false, (0, 0));
            add(text.escape_default().to_string().into(), false, (0, 0));
        }
        if value.len() < SHORTEST_ENCODED {
            continue;
        }
        let digits = Zeroizing::new(hex(value));
        add(digits.to_ascii_uppercase().into(), false, (0, 0));
        add(digits.as_bytes().to_vec(), false, (0, 0));
        for (alphabet, skew) in BASE64.into_iter().flat_map(|a| [(a, 0), (a, 1), (a, 2)]) {
            let (text, around) = base64(value, skew, alphabet);
            add(text, false, around);
        }
    }
}

/// The characters that are all `value`'s own when `skew` bytes stand before it, and how many are
/// partly so on either side.
fn base64(value: &[u8], skew: usize, alphabet: &[u8; 64]) -> (Vec<u8>, (usize, usize)) {
    let bit = |at: usize| value[at / 8] >> (7 - at % 8) & 1;
    let first = [0, 4, 2][skew];
    let bits: Vec<u8> = (first..value.len() * 8).map(bit).collect();
    let (sextets, left) = bits.as_chunks::<6>();
    let number = |sextet: &[u8; 6]| sextet.iter().fold(0, |all, bit| all << 1 | bit);
    let text = sextets
        .iter()
        .map(|sextet| alphabet[usize::from(number(sextet))])
        .collect();
    (
        text,
        (usize::from(first > 0), usize::from(!left.is_empty())),
    )
}

impl Form<'_> {
    /// How many bytes at the beginning of `text` are this form, if they are.
    fn length_in(&self, text: &str) -> Option<usize> {
        if !self.percent {
            return text
                .as_bytes()
                .starts_with(&self.text)
                .then_some(self.text.len());
        }
        let mut length = 0;
        for &byte in self.text.iter() {
            let rest = &text.as_bytes()[length..];
            length += match rest {
                [b'%', digits @ ..] if decoded(digits) == Some(byte) => 3,
                [b'+', ..] if byte == b' ' => 1,
                [same, ..] if *same == byte => 1,
                _ => return None,
            };
        }
        text.is_char_boundary(length).then_some(length)
    }
}

fn decoded(digits: &[u8]) -> Option<u8> {
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
    fn no_form_of_a_secret_is_left_in_a_builders_words() {
        let pem = "-----BEGIN KEY-----\nc4n4ry\n-----END KEY-----\n";
        let secrets: [(&str, &[u8]); 4] = [
            ("WORKERS", b"1"),
            ("PASSWORD", b"hunter1 & h\xc3\xbcnter?"),
            ("PEM", pem.as_bytes()),
            ("RAW", b"\xff\x00\xfe\x01\xfd\x02"),
        ];
        for (said, expected) in [
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
            assert_eq!(scrubbed(said, &secrets), expected, "{said}");
        }
    }

    #[test]
    fn base64_of_more_than_the_secret_keeps_none_of_its_bits() {
        // `:hunter22!`, `a:hunter22` and `ab:hunter22;`: at each place of a group of three.
        for (said, expected) in [
            ("Basic Omh1bnRlcjIyIQ==", "Basic O<PASSWORD>IQ=="),
            ("Basic YTpodW50ZXIyMg==", "Basic YT<PASSWORD>=="),
            ("Basic YWI6aHVudGVyMjI7", "Basic YWI6<PASSWORD>7"),
        ] {
            assert_eq!(scrubbed(said, &[("PASSWORD", b"hunter22")]), expected);
        }
    }
}
