//! The names of secrets.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{Error, ErrorKind};

/// The longest key, in bytes.
const MAX_KEY: usize = 1024;
/// The longest segment of a key, in bytes: what file systems allow for a name.
const MAX_SEGMENT: usize = 255;

/// The name of a secret: segments joined by `/`, of which the last is the name proper.
///
/// `AUTH_SECRET` and `db/PASSWORD` are keys. A key is checked once, when it is parsed, so that an
/// invalid key cannot exist and no provider has to look for `..` again. Case matters. Cloning is cheap.
///
/// # Rules
/// At most 1,024 bytes, each segment 1 to 255 bytes; no `.` or `..`, no backslash, no control
/// character, no white space at a segment's ends. Everything else, non-ASCII included, is a key; a
/// backend that cannot hold one says [`ErrorKind::InvalidKey`].
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
pub struct SecretKey(Arc<str>);

impl SecretKey {
    /// Checks `text` and makes it a key.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidKey`], naming the rule that `text` breaks.
    pub fn parse(text: impl AsRef<str>) -> Result<Self, Error> {
        let text = text.as_ref();
        check(text).map_err(|flaw| invalid(text, flaw))?;
        Ok(Self(text.into()))
    }

    /// The whole key: `db/PASSWORD`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The last segment: `PASSWORD`.
    pub fn name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or_default()
    }

    /// What comes before the name, without the slash between them; `None` for a single segment.
    pub fn prefix(&self) -> Option<&str> {
        self.0.rsplit_once('/').map(|(directory, _)| directory)
    }

    /// The segments from the first to the name.
    pub fn segments(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.split('/')
    }

    /// This key below `prefix`: `PASSWORD` below `db` is `db/PASSWORD`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidKey`] when the two together are too long.
    pub fn with_prefix(&self, prefix: &KeyPrefix) -> Result<Self, Error> {
        match &prefix.0 {
            None => Ok(self.clone()),
            Some(directory) => Self::parse(format!("{directory}/{self}")),
        }
    }

    /// What remains of this key below `prefix`: `db/PASSWORD` below `db` is `PASSWORD`.
    pub fn strip_prefix(&self, prefix: &KeyPrefix) -> Option<Self> {
        let Some(directory) = &prefix.0 else {
            return Some(self.clone());
        };
        let rest = self.0.strip_prefix(directory.as_str())?.strip_prefix('/')?;
        Some(Self(rest.into()))
    }
}

fn check(text: &str) -> Result<(), Flaw> {
    if text.is_empty() {
        return Err(Flaw::Empty);
    }
    if text.len() > MAX_KEY {
        return Err(Flaw::TooLong);
    }
    text.split('/').try_for_each(|segment| match segment {
        "" => Err(Flaw::EmptySegment),
        "." | ".." => Err(Flaw::Dots),
        _ if segment.len() > MAX_SEGMENT => Err(Flaw::SegmentTooLong),
        _ if segment.contains('\\') => Err(Flaw::Backslash),
        _ if segment.contains(char::is_control) => Err(Flaw::Control),
        _ if segment.trim() != segment => Err(Flaw::Blank),
        _ => Ok(()),
    })
}

/// Which rule a text breaks.
#[derive(Debug, Clone, Copy, thiserror::Error)]
enum Flaw {
    #[error("it is empty")]
    Empty,
    #[error("it is longer than {MAX_KEY} bytes")]
    TooLong,
    #[error("it has an empty segment: take out the leading, trailing or double `/`")]
    EmptySegment,
    #[error("`.` and `..` are no segments")]
    Dots,
    #[error("it has a segment longer than {MAX_SEGMENT} bytes")]
    SegmentTooLong,
    #[error("it has a backslash: segments are joined by `/`")]
    Backslash,
    #[error("it has a control character")]
    Control,
    #[error("it has a segment that starts or ends with white space")]
    Blank,
}

fn invalid(text: &str, flaw: Flaw) -> Error {
    const SHOWN: usize = 40;
    let shown: String = text
        .chars()
        .take(SHOWN)
        .flat_map(char::escape_debug)
        .collect();
    let dots = if text.chars().nth(SHOWN).is_some() {
        "…"
    } else {
        ""
    };
    Error::new(
        ErrorKind::InvalidKey,
        format!("`{shown}{dots}` is no key: {flaw}"),
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
        &self.0
    }
}

/// Lets a map of keys be asked by `&str`, without a check and without an allocation.
impl Borrow<str> for SecretKey {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey({})", self.0)
    }
}

impl Serialize for SecretKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

/// Accepts the same text as [`SecretKey::parse`].
impl<'de> Deserialize<'de> for SecretKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(text).map_err(de::Error::custom)
    }
}

/// The leading segments of keys, for listing and for adapters: empty, `db`, `app/db`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct KeyPrefix(Option<SecretKey>);

impl KeyPrefix {
    /// The prefix of every key.
    pub const fn root() -> Self {
        Self(None)
    }

    /// Checks `text` and makes it a prefix; the empty text is the [`root`](Self::root).
    ///
    /// # Errors
    /// [`ErrorKind::InvalidKey`], by the rules of [`SecretKey`].
    pub fn parse(text: impl AsRef<str>) -> Result<Self, Error> {
        match text.as_ref() {
            "" => Ok(Self::root()),
            text => SecretKey::parse(text).map(|key| Self(Some(key))),
        }
    }

    /// The prefix as text, empty for the root.
    pub fn as_str(&self) -> &str {
        self.0.as_ref().map_or("", SecretKey::as_str)
    }

    /// This prefix with one more segment or more at its end.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidKey`], by the rules of [`SecretKey`].
    pub fn join(&self, segment: &str) -> Result<Self, Error> {
        SecretKey::parse(segment)?
            .with_prefix(self)
            .map(|key| Self(Some(key)))
    }

    /// Whether `key` lies below this prefix.
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
    use super::*;

    #[test]
    fn ordinary_keys_parse() {
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
    fn bad_keys_name_their_flaw() {
        let long = "k".repeat(65_536);
        let segment = "s".repeat(256);
        for (text, flaw) in [
            ("", "empty"),
            ("/a", "empty segment"),
            ("a/", "empty segment"),
            ("a//b", "empty segment"),
            ("https://host/a", "empty segment"),
            ("..", "no segments"),
            ("a/../b", "no segments"),
            ("./a", "no segments"),
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
            assert!(shown.contains(flaw), "{shown}");
            assert!(
                shown.len() < 250 && !shown.contains(char::is_control),
                "{shown}"
            );
        }
    }

    #[test]
    fn prefixes_add_and_strip() {
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
