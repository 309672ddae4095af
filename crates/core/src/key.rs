//! Keys and key prefixes: the names of secrets.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use smol_str::SmolStr;

use crate::{Error, ErrorKind};

/// The maximum length of a key, in bytes.
const MAX_KEY: usize = 1024;
/// The maximum length of a segment, in bytes. Common file systems have the same limit for file names.
const MAX_SEGMENT: usize = 255;

/// The key of a secret: one or more segments joined by `/`.
///
/// `AUTH_SECRET` and `db/PASSWORD` are keys. The last segment is the name. The segments before it are
/// the prefix. Keys are case-sensitive. Cloning is cheap.
///
/// A key is checked once, when it is parsed. An invalid key cannot exist, so providers need no check of
/// their own for `..`.
///
/// # Rules
/// - A key has at most 1,024 bytes.
/// - Each segment has 1 to 255 bytes.
/// - No segment is `.` or `..`.
/// - A key contains no backslash and no control character.
/// - No segment starts or ends with white space.
///
/// All other text is valid, including non-ASCII text. A backend that does not support a valid key
/// returns [`ErrorKind::InvalidKey`].
///
/// ```
/// use secretwell::SecretKey;
///
/// let key: SecretKey = "db/PASSWORD".parse()?;
/// assert_eq!(key.name(), "PASSWORD");
/// assert_eq!(key.prefix(), Some("db"));
/// assert!("../etc/shadow".parse::<SecretKey>().is_err());
/// # Ok::<(), secretwell::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SecretKey(SmolStr);

impl SecretKey {
    /// Creates a constant key, without allocation.
    ///
    /// Use it only in `const` and `static` items. There, the compiler checks the key.
    ///
    /// ```
    /// use secretwell::SecretKey;
    ///
    /// const AUTH_SECRET: SecretKey = SecretKey::from_static("AUTH_SECRET");
    /// assert_eq!(AUTH_SECRET.as_str(), "AUTH_SECRET");
    /// ```
    ///
    /// An invalid key does not compile:
    ///
    /// ```compile_fail
    /// use secretwell::SecretKey;
    ///
    /// const KEY: SecretKey = SecretKey::from_static("../etc/shadow");
    /// # let _ = KEY;
    /// ```
    ///
    /// # Panics
    /// Outside of a constant, panics if `text` breaks a [rule](Self#rules). To check a key at run time,
    /// use [`parse`](Self::parse).
    #[track_caller]
    pub const fn from_static(text: &'static str) -> Self {
        match check(text) {
            Ok(()) => Self(SmolStr::new_static(text)),
            Err(rule) => panic!("{}", rule.message()),
        }
    }

    /// Parses `text` as a key.
    ///
    /// # Errors
    /// Returns [`ErrorKind::InvalidKey`] if `text` breaks a [rule](Self#rules). The message names the
    /// rule.
    pub fn parse(text: impl AsRef<str>) -> Result<Self, Error> {
        let text = text.as_ref();
        check(text).map_err(|rule| invalid(text, rule))?;
        Ok(Self(SmolStr::new(text)))
    }

    /// Returns the whole key, such as `db/PASSWORD`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the last segment, such as `PASSWORD`.
    pub fn name(&self) -> &str {
        self.as_str().rsplit('/').next().unwrap_or_default()
    }

    /// Returns the part before the name, without the slash between them. Returns `None` for a key
    /// of one segment.
    pub fn prefix(&self) -> Option<&str> {
        self.as_str().rsplit_once('/').map(|(prefix, _)| prefix)
    }

    /// Returns all segments in order. The last one is the name.
    pub fn segments(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.as_str().split('/')
    }

    /// Returns this key below `prefix`: `PASSWORD` below `db` is `db/PASSWORD`.
    ///
    /// # Errors
    /// Returns [`ErrorKind::InvalidKey`] if the resulting key is too long.
    pub fn with_prefix(&self, prefix: &KeyPrefix) -> Result<Self, Error> {
        match &prefix.0 {
            None => Ok(self.clone()),
            Some(prefix) => Self::parse(format!("{prefix}/{self}")),
        }
    }

    /// Returns this key without `prefix`: `db/PASSWORD` without `db` is `PASSWORD`. Returns `None`
    /// if the key is not below `prefix`.
    pub fn strip_prefix(&self, prefix: &KeyPrefix) -> Option<Self> {
        let Some(prefix) = &prefix.0 else {
            return Some(self.clone());
        };
        let rest = self.as_str().strip_prefix(prefix.as_str())?;
        Some(Self(SmolStr::new(rest.strip_prefix('/')?)))
    }
}

/// Checks the rules of keys. The function is `const`, so that constants have the same rules.
const fn check(text: &str) -> Result<(), BrokenRule> {
    if text.is_empty() {
        return Err(BrokenRule::Empty);
    }
    if text.len() > MAX_KEY {
        return Err(BrokenRule::TooLong);
    }
    let mut rest = text.as_bytes();
    loop {
        let mut end = 0;
        while end < rest.len() && rest[end] != b'/' {
            end += 1;
        }
        let (segment, after) = rest.split_at(end);
        if let Err(rule) = check_segment(segment) {
            return Err(rule);
        }
        match after {
            [_slash, next @ ..] => rest = next,
            [] => return Ok(()),
        }
    }
}

const fn check_segment(segment: &[u8]) -> Result<(), BrokenRule> {
    match segment {
        [] => return Err(BrokenRule::EmptySegment),
        [b'.'] | [b'.', b'.'] => return Err(BrokenRule::DotSegment),
        _ if segment.len() > MAX_SEGMENT => return Err(BrokenRule::SegmentTooLong),
        _ => {}
    }
    let mut at = 0;
    while at < segment.len() {
        let (char, len) = decode(segment, at);
        let is_outer = at == 0 || at + len == segment.len();
        match char {
            '\\' => return Err(BrokenRule::Backslash),
            '\0'..='\x1f' | '\x7f'..='\u{9f}' => return Err(BrokenRule::ControlCharacter),
            _ if is_outer && char.is_whitespace() => return Err(BrokenRule::OuterWhiteSpace),
            _ => at += len,
        }
    }
    Ok(())
}

/// Returns the character at `at` in UTF-8 text, and its length in bytes. `str::chars` is not `const`.
const fn decode(text: &[u8], at: usize) -> (char, usize) {
    let (leading_bits, len) = match text[at] {
        byte @ ..0x80 => (byte, 1),
        byte @ ..0xe0 => (byte & 0x1f, 2),
        byte @ ..0xf0 => (byte & 0x0f, 3),
        byte => (byte & 0x07, 4),
    };
    let mut code = leading_bits as u32;
    let mut offset = 1;
    while offset < len {
        code = code << 6 | (text[at + offset] & 0x3f) as u32;
        offset += 1;
    }
    match char::from_u32(code) {
        Some(char) => (char, len),
        None => (char::REPLACEMENT_CHARACTER, len),
    }
}

/// The rule that a text breaks.
#[derive(Debug, Clone, Copy)]
enum BrokenRule {
    Empty,
    TooLong,
    EmptySegment,
    DotSegment,
    SegmentTooLong,
    Backslash,
    ControlCharacter,
    OuterWhiteSpace,
}

impl BrokenRule {
    const fn message(self) -> &'static str {
        match self {
            Self::Empty => "it is empty",
            Self::TooLong => "it is longer than 1024 bytes",
            Self::EmptySegment => {
                "it has an empty segment; remove the leading, trailing or double `/`"
            }
            Self::DotSegment => "`.` and `..` are not allowed as segments",
            Self::SegmentTooLong => "it has a segment longer than 255 bytes",
            Self::Backslash => "it contains a backslash, but segments are joined by `/`",
            Self::ControlCharacter => "it contains a control character",
            Self::OuterWhiteSpace => "it has a segment that starts or ends with white space",
        }
    }
}

fn invalid(text: &str, rule: BrokenRule) -> Error {
    const MAX_SHOWN_CHARS: usize = 40;
    let shown: String = text
        .chars()
        .take(MAX_SHOWN_CHARS)
        .flat_map(char::escape_debug)
        .collect();
    let ellipsis = if text.chars().nth(MAX_SHOWN_CHARS).is_some() {
        "…"
    } else {
        ""
    };
    Error::new(
        ErrorKind::InvalidKey,
        format!("`{shown}{ellipsis}` is not a valid key: {}", rule.message()),
    )
    .with_hint("write segments joined by `/`, such as `db/PASSWORD`")
}

impl FromStr for SecretKey {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::parse(text)
    }
}

impl TryFrom<&str> for SecretKey {
    type Error = Error;

    fn try_from(text: &str) -> Result<Self, Error> {
        Self::parse(text)
    }
}

impl AsRef<str> for SecretKey {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

/// Allows lookups by `&str` in a map with keys of this type, without parsing and without allocation.
impl Borrow<str> for SecretKey {
    fn borrow(&self) -> &str {
        self.as_str()
    }
}

impl fmt::Display for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey({self})")
    }
}

impl Serialize for SecretKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// Accepts the same text as [`SecretKey::parse`].
impl<'de> Deserialize<'de> for SecretKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(text).map_err(de::Error::custom)
    }
}

/// The leading segments of keys, such as `db` or `app/db`. The empty prefix contains every key.
///
/// Prefixes select the keys to list, and adapters use them to map keys.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct KeyPrefix(Option<SecretKey>);

impl KeyPrefix {
    /// Returns the empty prefix, which contains every key.
    pub const fn root() -> Self {
        Self(None)
    }

    /// Parses `text` as a prefix. The empty text is the [`root`](Self::root).
    ///
    /// # Errors
    /// Returns [`ErrorKind::InvalidKey`] if `text` breaks a [rule](SecretKey#rules) of keys.
    pub fn parse(text: impl AsRef<str>) -> Result<Self, Error> {
        match text.as_ref() {
            "" => Ok(Self::root()),
            text => SecretKey::parse(text).map(|key| Self(Some(key))),
        }
    }

    /// Returns the prefix as text. The root is the empty text.
    pub fn as_str(&self) -> &str {
        self.0.as_ref().map_or("", SecretKey::as_str)
    }

    /// Returns this prefix with `segment` appended. `segment` can also be several segments joined by
    /// `/`.
    ///
    /// # Errors
    /// Returns [`ErrorKind::InvalidKey`] if the result breaks a [rule](SecretKey#rules) of keys.
    pub fn join(&self, segment: &str) -> Result<Self, Error> {
        SecretKey::parse(segment)?
            .with_prefix(self)
            .map(|key| Self(Some(key)))
    }

    /// Returns whether `key` is below this prefix.
    pub fn contains(&self, key: &SecretKey) -> bool {
        key.strip_prefix(self).is_some()
    }
}

impl fmt::Display for KeyPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for KeyPrefix {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// Accepts the same text as [`KeyPrefix::parse`].
impl<'de> Deserialize<'de> for KeyPrefix {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(text).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use std::cmp::Ordering;
    use std::collections::{BTreeSet, HashMap};

    use super::*;

    #[test]
    fn valid_keys_parse() {
        for text in [
            "A",
            "AUTH_SECRET",
            "db/PASSWORD",
            "a/b/c",
            "schlüssel",
            "a.b",
            "a%2Fb",
            "…",
            "a b",
        ] {
            assert_eq!(SecretKey::parse(text).unwrap().as_str(), text);
        }
    }

    #[test]
    fn invalid_key_error_names_the_broken_rule() {
        let long = "k".repeat(65_536);
        let segment = "s".repeat(256);
        for (text, expected) in [
            ("", "empty"),
            ("/a", "empty segment"),
            ("a/", "empty segment"),
            ("a//b", "empty segment"),
            ("https://host/a", "empty segment"),
            ("..", "not allowed as segments"),
            ("a/../b", "not allowed as segments"),
            ("./a", "not allowed as segments"),
            ("a\\b", "backslash"),
            ("a\0b", "control"),
            ("a\nb", "control"),
            (" a", "white space"),
            ("a/ b", "white space"),
            (segment.as_str(), "longer than 255"),
            (long.as_str(), "longer than 1024"),
        ] {
            let error = SecretKey::parse(text).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidKey);
            let shown = error.to_string();
            assert!(shown.contains(expected), "{shown}");
            assert!(
                shown.len() < 250 && !shown.contains(char::is_control),
                "{shown}"
            );
        }
    }

    #[test]
    fn rules_cover_all_characters() {
        for char in '\0'..=char::MAX {
            let inner = SecretKey::parse(format!("a{char}b"));
            let invalid = char.is_control() || char == '\\';
            assert_eq!(inner.is_err(), invalid, "{char:?} inside");

            let outer_is_invalid = invalid || char.is_whitespace() || char == '/';
            for text in [format!("{char}a"), format!("a{char}")] {
                assert_eq!(
                    SecretKey::parse(&text).is_err(),
                    outer_is_invalid,
                    "{text:?}"
                );
            }
        }
    }

    #[test]
    fn static_and_parsed_keys_are_equal_and_found_by_text() {
        const SHORT: SecretKey = SecretKey::from_static("db/schlüssel");
        // Stored elsewhere than a short one.
        const LONG: SecretKey = SecretKey::from_static("a/prefix/of/a/long/key/schlüssel");
        for (key, prefix) in [(SHORT, "db"), (LONG, "a/prefix/of/a/long/key")] {
            let parsed = SecretKey::parse(key.as_str()).unwrap();
            assert_eq!(key, parsed);
            assert_eq!(key.cmp(&parsed), Ordering::Equal);
            assert_eq!((key.name(), key.prefix()), ("schlüssel", Some(prefix)));

            let text = format!("{prefix}/schlüssel");
            let map = HashMap::from([(key.clone(), 1)]);
            assert_eq!(map.get(text.as_str()), Some(&1));
            assert_eq!(map.get(&parsed), Some(&1));
            assert!(BTreeSet::from([key]).contains(text.as_str()));
        }
        assert!(LONG < SHORT);
    }

    #[test]
    fn static_key_is_cloned_without_allocation() {
        const TEXT: &str = "AUTH_SECRET";
        let key = SecretKey::from_static(TEXT);
        assert_eq!(key.clone().as_str().as_ptr(), TEXT.as_ptr());
    }

    #[test]
    #[should_panic(expected = "not allowed as segments")]
    fn invalid_static_key_panics_outside_of_a_constant() {
        let text = std::hint::black_box("a/../b");
        let _ = SecretKey::from_static(text);
    }

    #[test]
    fn prefixes_are_added_and_stripped() {
        let db = KeyPrefix::parse("db").unwrap();
        let key = SecretKey::parse("PASSWORD")
            .unwrap()
            .with_prefix(&db)
            .unwrap();
        assert_eq!(key.as_str(), "db/PASSWORD");
        assert_eq!(key.strip_prefix(&db).unwrap().as_str(), "PASSWORD");
        assert!(!db.contains(&SecretKey::parse("dbx/PASSWORD").unwrap()));
        assert!(KeyPrefix::root().contains(&key));
    }
}
