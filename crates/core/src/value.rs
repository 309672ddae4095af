//! The secret bytes themselves, and what is read along with them.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use secrecy::{ExposeSecret, SecretBox, SecretString};
use serde::de::{Deserialize, Deserializer, Visitor};
use subtle::ConstantTimeEq;
use zeroize::Zeroize;

use crate::{Error, ErrorKind, Origin, Version};

/// The bytes of a secret: hidden in `Debug`, wiped when the last clone is dropped.
///
/// There is no `Display`, no `Serialize` and no `AsRef`: the bytes come out only by a method named
/// `expose_…`, which can be searched for. Equality takes the same time wherever two values differ.
/// Cloning is cheap and shares the bytes.
///
/// # Limits
/// The value is wiped, not locked into memory: it may reach swap or a core dump. Copies that the
/// caller makes from an exposed slice are the caller's.
///
/// ```
/// use secretwell::SecretValue;
///
/// let value = SecretValue::from("correct horse");
/// assert_eq!(value.expose_text()?, "correct horse");
/// assert_eq!(format!("{value:?}"), "SecretValue([redacted])");
/// # Ok::<(), secretwell::Error>(())
/// ```
#[derive(Clone)]
pub struct SecretValue(Arc<SecretBox<[u8]>>);

impl SecretValue {
    /// The bytes.
    pub fn expose_bytes(&self) -> &[u8] {
        self.0.expose_secret()
    }

    /// The bytes as text.
    ///
    /// # Errors
    /// [`ErrorKind::Malformed`] when they are not UTF-8.
    pub fn expose_text(&self) -> Result<&str, Error> {
        // The cause is dropped on purpose: it would tell a position inside the secret.
        std::str::from_utf8(self.expose_bytes()).map_err(|_| {
            Error::new(ErrorKind::Malformed, "the value is not UTF-8 text")
                .with_hint("read it as bytes, or store it as text")
        })
    }

    /// How many bytes the value has.
    pub fn len(&self) -> usize {
        self.expose_bytes().len()
    }

    /// Whether the value has no bytes. Providers return an empty value as it is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the value is empty or ASCII white space only, which typed loading treats as absent.
    pub fn is_blank(&self) -> bool {
        self.expose_bytes().iter().all(u8::is_ascii_whitespace)
    }

    /// A number that is equal for equal bytes within this process and tells nothing about them
    /// outside of it: a hash under a random key that is never written anywhere.
    pub fn fingerprint(&self) -> u64 {
        fingerprint(self.expose_bytes())
    }
}

pub(crate) fn fingerprint(bytes: &[u8]) -> u64 {
    static KEYED: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    KEYED.hash_one(bytes)
}

impl From<Vec<u8>> for SecretValue {
    fn from(mut bytes: Vec<u8>) -> Self {
        if bytes.len() == bytes.capacity() {
            return Self(Arc::new(SecretBox::new(bytes.into_boxed_slice())));
        }
        // Shrinking may move the bytes and leave the old ones behind, so copy and wipe.
        let exact: Box<[u8]> = bytes.as_slice().into();
        bytes.zeroize();
        Self(Arc::new(SecretBox::new(exact)))
    }
}

impl From<String> for SecretValue {
    fn from(text: String) -> Self {
        text.into_bytes().into()
    }
}

impl From<&[u8]> for SecretValue {
    fn from(bytes: &[u8]) -> Self {
        Self(Arc::new(SecretBox::new(bytes.into())))
    }
}

impl From<&str> for SecretValue {
    fn from(text: &str) -> Self {
        text.as_bytes().into()
    }
}

impl From<SecretString> for SecretValue {
    fn from(text: SecretString) -> Self {
        text.expose_secret().into()
    }
}

impl PartialEq for SecretValue {
    fn eq(&self, other: &Self) -> bool {
        self.expose_bytes().ct_eq(other.expose_bytes()).into()
    }
}

impl Eq for SecretValue {}

impl fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretValue([redacted])")
    }
}

/// Takes text or bytes, so that a field of a loaded struct can hold a secret that is not text.
impl<'de> Deserialize<'de> for SecretValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;

        impl Visitor<'_> for Bytes {
            type Value = SecretValue;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a secret")
            }

            fn visit_str<E>(self, text: &str) -> Result<SecretValue, E> {
                Ok(text.into())
            }

            fn visit_string<E>(self, text: String) -> Result<SecretValue, E> {
                Ok(text.into())
            }

            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<SecretValue, E> {
                Ok(bytes.into())
            }

            fn visit_byte_buf<E>(self, bytes: Vec<u8>) -> Result<SecretValue, E> {
                Ok(bytes.into())
            }
        }

        deserializer.deserialize_byte_buf(Bytes)
    }
}

/// What a provider answers: a value, and what the backend told about it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Secret {
    /// The bytes, exactly as the backend holds them.
    pub value: SecretValue,
    /// What the backend calls this revision; `None` where it keeps none.
    pub version: Option<Version>,
    /// How long the backend promises the value to work, for leased credentials. The resolver
    /// replaces the value ahead of that time, and never hands it out after.
    pub valid_for: Option<Duration>,
    /// The source that answered; `None` stands for the provider's own. A [`Chain`](crate::Chain)
    /// fills it in, so that logs tell which of its links had the secret.
    pub origin: Option<Origin>,
}

impl Secret {
    /// A secret of which only the value is known.
    pub fn new(value: impl Into<SecretValue>) -> Self {
        Self {
            value: value.into(),
            version: None,
            valid_for: None,
            origin: None,
        }
    }

    /// The same with the backend's version.
    #[must_use]
    pub fn with_version(mut self, version: Version) -> Self {
        self.version = Some(version);
        self
    }

    /// The same with a promised lifetime.
    #[must_use]
    pub fn valid_for(mut self, lifetime: Duration) -> Self {
        self.valid_for = Some(lifetime);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_keep_their_bytes_and_hide_them() {
        let value = SecretValue::from(vec![0xff, 0x00, b'\n']);
        assert_eq!(value.expose_bytes(), [0xff, 0x00, b'\n']);
        assert_eq!(
            value.expose_text().unwrap_err().kind(),
            ErrorKind::Malformed
        );
        assert_eq!(
            format!("{value:?} {:?}", Secret::new(value.clone()))
                .matches("redacted")
                .count(),
            2
        );
    }

    #[test]
    fn spare_capacity_is_dropped_with_its_bytes() {
        let mut bytes = Vec::with_capacity(64);
        bytes.extend_from_slice(b"secret");
        assert_eq!(SecretValue::from(bytes).expose_bytes(), b"secret");
    }

    #[test]
    fn equality_and_fingerprint_follow_the_bytes() {
        let (one, same, other) = (
            SecretValue::from("a"),
            SecretValue::from("a"),
            SecretValue::from("b"),
        );
        assert_eq!(one, same);
        assert_ne!(one, other);
        assert_eq!(one.fingerprint(), same.fingerprint());
        assert_ne!(one.fingerprint(), other.fingerprint());
    }

    #[test]
    fn blank_is_empty_or_white_space() {
        assert!(SecretValue::from("").is_blank());
        assert!(SecretValue::from(" \r\n\t").is_blank());
        assert!(!SecretValue::from(" x ").is_blank());
    }
}
