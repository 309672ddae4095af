//! Random text that is used as a secret and then searched for in all output.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;

use secretwell_core::SecretValue;

/// This many consecutive bytes of a secret count as a leak.
const PART_LENGTH: usize = 16;
/// Shorter texts can occur by chance.
const MIN_LENGTH: usize = 8;

/// A unique random text of 40 characters that detects leaked secrets.
///
/// Use it as the value of a secret, and then search logs, errors and debug output for it. The search
/// finds the raw text and its usual encodings.
///
/// The text contains a quote, a slash, a plus and an equals sign, so its escaped forms differ from
/// the raw form.
///
/// ```
/// use secretwell_testkit::Canary;
///
/// let canary = Canary::new("database password");
/// assert_eq!(canary.found_in(&format!("{:?}", canary.value())), None);
/// assert!(canary.found_in(&format!("got {:?}", canary.text())).is_some());
/// ```
#[derive(Clone)]
pub struct Canary {
    label: String,
    text: String,
}

impl Canary {
    /// Creates a canary with a random text. Messages of failed assertions contain `label`.
    pub fn new(label: impl Into<String>) -> Self {
        let text: String = (0..40)
            .map(|place| match place {
                9 => '+',
                17 => '"',
                25 => '/',
                33 => '=',
                _ => fastrand::alphanumeric(),
            })
            .collect();
        Self::from_text(text).with_label(label)
    }

    /// Creates a canary from a secret that already exists, such as the token of a login.
    ///
    /// # Panics
    /// Panics if `text` has fewer than 8 bytes, because a short text can occur by chance.
    #[track_caller]
    pub fn from_text(text: impl Into<String>) -> Self {
        let text = text.into();
        assert!(
            text.len() >= MIN_LENGTH,
            "a text of {} bytes is too short to be searched for",
            text.len()
        );
        Self {
            label: "secret".to_owned(),
            text,
        }
    }

    /// Sets the name that messages of failed assertions contain. Default: `secret`.
    #[must_use]
    pub fn with_label(mut self, label: impl Into<String>) -> Self {
        self.label = label.into();
        self
    }

    /// Returns the text as a secret value.
    pub fn value(&self) -> SecretValue {
        self.text.as_str().into()
    }

    /// Returns the plain text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Returns the form in which `text` contains the secret, or `None`.
    ///
    /// Any 16 consecutive bytes of the secret count as a leak, if the secret has at least 24 bytes.
    pub fn found_in(&self, text: &str) -> Option<&'static str> {
        let bytes = self.text.as_bytes();
        if text.contains(&self.text) {
            return Some("raw");
        }
        let has = |form: String| text.contains(&form);
        if has(self.text.chars().rev().collect()) {
            return Some("reversed");
        }
        if has(hex(bytes, b"0123456789abcdef")) || has(hex(bytes, b"0123456789ABCDEF")) {
            return Some("hex");
        }
        if has(base64(bytes, *b"+/")) || has(base64(bytes, *b"-_")) {
            return Some("base64");
        }
        if self.is_listed_in(text) {
            return Some("a list of bytes");
        }
        if contains(&percent_decoded(text.as_bytes()), bytes) {
            return Some("percent-encoded");
        }
        // JSON text inside debug output is escaped twice, so several layers are undone.
        let mut plain: Cow<'_, str> = text.into();
        for _ in 0..3 {
            plain = unescaped(&plain).into();
            if plain.contains(&self.text) {
                return Some("escaped as in JSON or debug output");
            }
        }
        let long = bytes.len() >= PART_LENGTH + PART_LENGTH / 2;
        let mut parts = bytes.windows(PART_LENGTH);
        (long && parts.any(|part| contains(text.as_bytes(), part))).then_some("a part of it")
    }

    /// Returns whether `text` contains the bytes as numbers, like `[99, 52, …]`.
    fn is_listed_in(&self, text: &str) -> bool {
        let numbers: Vec<String> = self.text.bytes().map(|byte| byte.to_string()).collect();
        let dense: String = text.chars().filter(|c| !c.is_whitespace()).collect();
        dense.contains(&numbers.join(","))
    }

    /// Checks the `{:?}` and the `{:#?}` output of `what`.
    ///
    /// # Panics
    /// Panics if one of them contains the secret.
    #[track_caller]
    pub fn assert_hidden(&self, what: &dyn fmt::Debug) {
        self.assert_not_in(&format!("{what:?}"), "debug output");
        self.assert_not_in(&format!("{what:#?}"), "pretty debug output");
    }

    /// Checks the text and the debug output of `error` and of all its sources.
    ///
    /// # Panics
    /// Panics if one of them contains the secret.
    #[track_caller]
    pub fn assert_hidden_error(&self, error: &(dyn StdError + 'static)) {
        let mut next = Some(error);
        while let Some(error) = next {
            self.assert_not_in(&error.to_string(), "the text of an error or of its source");
            self.assert_hidden(&error);
            next = error.source();
        }
    }

    /// Checks `text`. The panic message contains the description `place`, but not the secret or the
    /// text.
    ///
    /// # Panics
    /// Panics if `text` contains the secret.
    #[track_caller]
    pub fn assert_not_in(&self, text: &str, place: &str) {
        if let Some(form) = self.found_in(text) {
            panic!("{place} leaks the canary `{}`: {form}", self.label);
        }
    }
}

impl fmt::Debug for Canary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Canary({})", self.label)
    }
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

fn hex(bytes: &[u8], digits: &[u8; 16]) -> String {
    let digit = |value: u8| char::from(digits[usize::from(value)]);
    bytes
        .iter()
        .flat_map(|byte| [digit(byte >> 4), digit(byte & 15)])
        .collect()
}

/// Encodes without padding, so that the search also finds padded text. `last` contains the digits 62
/// and 63.
fn base64(bytes: &[u8], last: [u8; 2]) -> String {
    let digits: Vec<u8> = (b'A'..=b'Z')
        .chain(b'a'..=b'z')
        .chain(b'0'..=b'9')
        .chain(last)
        .collect();
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let mut padded = [0u8; 4];
        padded[1..=chunk.len()].copy_from_slice(chunk);
        let group = u32::from_be_bytes(padded);
        for place in 0..=chunk.len() {
            let digit = (group >> (18 - 6 * place)) & 63;
            text.push(char::from(digits[digit as usize]));
        }
    }
    text
}

fn percent_decoded(text: &[u8]) -> Vec<u8> {
    let digit = |byte: u8| u8::try_from(char::from(byte).to_digit(16)?).ok();
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, tail @ ..] = rest {
        rest = tail;
        let mut byte = *first;
        if let (b'%', [high, low, after @ ..]) = (byte, tail)
            && let (Some(high), Some(low)) = (digit(*high), digit(*low))
        {
            byte = high << 4 | low;
            rest = after;
        }
        decoded.push(byte);
    }
    decoded
}

/// Undoes one layer of `\"`, `\\`, `\/`, `\u002f`, `\u{2f}` and `\x2f`.
fn unescaped(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        plain.push_str(before);
        rest = match numeric_escape(after) {
            Some((decoded, length)) => {
                plain.push(decoded);
                &after[length..]
            }
            // Any other escape, including `\\`, means the character after the backslash.
            None => {
                let mut chars = after.chars();
                plain.extend(chars.next());
                chars.as_str()
            }
        };
    }
    plain.push_str(rest);
    plain
}

/// Parses a numeric escape at the start of `escape`. Returns its character and its length in bytes.
fn numeric_escape(escape: &str) -> Option<(char, usize)> {
    let (code, length) = if let Some(braced) = escape.strip_prefix("u{") {
        let (code, _) = braced.split_once('}')?;
        (code, code.len() + 3)
    } else if escape.starts_with('u') {
        (escape.get(1..5)?, 5)
    } else if escape.starts_with('x') {
        (escape.get(1..3)?, 3)
    } else {
        return None;
    };
    let number = u32::from_str_radix(code, 16).ok()?;
    Some((char::from_u32(number)?, length))
}

#[cfg(test)]
mod tests {
    use secretwell_core::{Error, ErrorKind};

    use super::*;

    fn canary() -> Canary {
        Canary::new("test")
    }

    #[test]
    fn canaries_are_unique_and_hidden_in_debug_output() {
        let (one, other) = (canary(), canary());
        assert_ne!(one.text(), other.text());
        assert_eq!(one.text().len(), 40);
        assert_eq!(one.found_in(other.text()), None);
        one.assert_hidden(&one);
        one.assert_hidden(&one.value());
    }

    #[test]
    fn a_leak_is_found_in_every_form() {
        let canary = canary();
        let text = canary.text();
        let bytes = text.as_bytes();
        let percent: String = bytes.iter().map(|byte| format!("%{byte:02X}")).collect();
        let json = text.replace('"', "\\\"").replace('/', "\\/");
        let units: String = bytes.iter().map(|byte| format!("\\u{byte:04x}")).collect();
        let reversed: String = text.chars().rev().collect();
        let escaped = "escaped as in JSON or debug output";
        for (form, leak) in [
            ("raw", format!("é {text} %")),
            ("base64", base64(bytes, *b"+/") + "=="),
            ("base64", base64(bytes, *b"-_")),
            ("hex", hex(bytes, b"0123456789abcdef")),
            ("hex", hex(bytes, b"0123456789ABCDEF")),
            ("percent-encoded", percent),
            ("percent-encoded", text.replace('"', "%22")),
            (escaped, format!("{{\"key\":\"{json}\"}}")),
            (escaped, format!("{:?}", format!("{text:?}"))),
            (escaped, units),
            ("reversed", reversed),
            ("a list of bytes", format!("{bytes:?}")),
            ("a list of bytes", format!("{bytes:#?}")),
            ("a part of it", format!("{}…", &text[18..])),
        ] {
            assert_eq!(canary.found_in(&leak), Some(form), "{leak}");
            assert_eq!(self::canary().found_in(&leak), None);
        }
    }

    #[test]
    fn base64_matches_the_standard_encoding() {
        for (plain, encoded) in [("", ""), ("f", "Zg"), ("fo", "Zm8"), ("foobar", "Zm9vYmFy")] {
            assert_eq!(base64(plain.as_bytes(), *b"+/"), encoded);
        }
    }

    #[test]
    fn searching_incomplete_escapes_does_not_panic() {
        for text in [
            "\\",
            "\\u",
            "\\u{",
            "\\u{é",
            "%",
            "%é",
            "%4",
            "\\x",
            "\\é",
            "\\ué12é",
        ] {
            assert_eq!(canary().found_in(text), None);
        }
    }

    /// An error whose `Display` contains a secret and whose `Debug` does not.
    struct LeakyDisplay(String);

    impl fmt::Debug for LeakyDisplay {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("LeakyDisplay")
        }
    }

    impl fmt::Display for LeakyDisplay {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(&self.0)
        }
    }

    impl StdError for LeakyDisplay {}

    #[test]
    #[should_panic(expected = "of its source leaks the canary `test`: raw")]
    fn a_leak_in_an_error_source_is_found() {
        let canary = canary();
        let source = LeakyDisplay(canary.text().to_owned());
        let error = Error::new(ErrorKind::Unavailable, "connection refused").with_source(source);
        canary.assert_hidden_error(&error);
    }

    #[test]
    #[should_panic(expected = "leaks the canary")]
    fn a_leak_in_debug_output_is_found() {
        let canary = canary();
        canary.assert_hidden(&Some(canary.text()));
    }
}
