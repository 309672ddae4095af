//! Secret values, and the metadata that a provider returns with them.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretBox, SecretString};
use serde::de::{Deserialize, Deserializer, Visitor};
use subtle::ConstantTimeEq;
use zeroize::Zeroize;

use crate::fingerprint::fingerprint;
use crate::{Error, ErrorKind, Origin, Version};

/// The bytes of a secret, redacted in `Debug` and zeroized when the last clone is dropped.
///
/// The type does not implement `Display`, `Serialize` or `AsRef`. Only the methods named `expose_…`
/// return the bytes, so a text search finds every use. Comparison for equality takes constant time for
/// values of equal length. Cloning is cheap and shares the bytes.
///
/// # `SecretValue` or `SecretString`
/// Providers return a `SecretValue`, because a secret can be any bytes. Use it for keys, for tokens to
/// compare and for secrets that are cloned. Use [`SecretString`] for text, such as a password in a
/// settings struct, and for libraries that take the types of `secrecy`.
///
/// | method | `SecretValue` | `SecretString` |
/// | --- | --- | --- |
/// | `expose_secret`, of the trait [`ExposeSecret`] | the bytes | the text |
/// | `expose_bytes` | the bytes, without importing the trait | |
/// | `expose_text` | the text, or an error if the bytes are not UTF-8 | |
///
/// A `SecretString` converts into a `SecretValue` with `into`, and back with `try_into`. `==` compares
/// both types in either order. Each conversion copies the secret, and both copies are zeroized.
///
/// # Limits
/// The memory is zeroized but not locked. The bytes might reach swap or a core dump. Copies that a
/// caller makes from an exposed slice are not zeroized.
///
/// ```
/// use secretwell::SecretValue;
///
/// let value = SecretValue::from("correct horse");
/// assert_eq!(value.expose_text()?, "correct horse");
/// assert_eq!(format!("{value:?}"), "SecretValue([redacted])");
///
/// let text: secretwell::SecretString = value.clone().try_into()?;
/// assert_eq!(text, value);
/// # Ok::<(), secretwell::Error>(())
/// ```
#[derive(Clone)]
pub struct SecretValue(Arc<SecretBox<[u8]>>);

impl SecretValue {
    /// Returns the bytes of the secret. The returned slice is not redacted in `Debug`.
    pub fn expose_bytes(&self) -> &[u8] {
        self.0.expose_secret()
    }

    /// Returns the bytes of the secret as text. The returned text is not redacted in `Debug`.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Malformed`] if the bytes are not UTF-8.
    pub fn expose_text(&self) -> Result<&str, Error> {
        // The source error is dropped because it contains a position inside the secret.
        std::str::from_utf8(self.expose_bytes()).map_err(|_| {
            Error::new(ErrorKind::Malformed, "the value is not UTF-8 text")
                .with_hint("read it as bytes, or store it as text")
        })
    }

    /// Returns the length of the value in bytes.
    pub fn len(&self) -> usize {
        self.expose_bytes().len()
    }

    /// Returns whether the value has no bytes. Providers return an empty value unchanged, and typed loading refuses it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns whether the value is empty or contains only ASCII white space.
    pub fn is_blank(&self) -> bool {
        self.expose_bytes().iter().all(u8::is_ascii_whitespace)
    }

    /// Returns a keyed hash of the bytes.
    ///
    /// The key is random for each process and is never stored. Equal bytes have equal fingerprints
    /// within one process. Outside of the process, a fingerprint reveals nothing about the bytes.
    pub fn fingerprint(&self) -> u64 {
        fingerprint(self.expose_bytes())
    }
}

impl From<Vec<u8>> for SecretValue {
    fn from(mut bytes: Vec<u8>) -> Self {
        if bytes.len() == bytes.capacity() {
            return Self(Arc::new(SecretBox::new(bytes.into_boxed_slice())));
        }
        // Shrinking in place might move the bytes without zeroizing the old allocation.
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

/// Fails with [`ErrorKind::Malformed`] if the bytes are not UTF-8.
impl TryFrom<SecretValue> for SecretString {
    type Error = Error;

    fn try_from(value: SecretValue) -> Result<Self, Error> {
        Self::try_from(&value)
    }
}

/// Fails with [`ErrorKind::Malformed`] if the bytes are not UTF-8.
impl TryFrom<&SecretValue> for SecretString {
    type Error = Error;

    fn try_from(value: &SecretValue) -> Result<Self, Error> {
        value.expose_text().map(Self::from)
    }
}

/// Returns the same bytes as [`expose_bytes`](SecretValue::expose_bytes), for code that is generic over
/// the types of `secrecy`.
impl ExposeSecret<[u8]> for SecretValue {
    fn expose_secret(&self) -> &[u8] {
        self.expose_bytes()
    }
}

impl PartialEq for SecretValue {
    fn eq(&self, other: &Self) -> bool {
        self.expose_bytes().ct_eq(other.expose_bytes()).into()
    }
}

impl Eq for SecretValue {}

/// Takes constant time for values of equal length.
impl PartialEq<SecretString> for SecretValue {
    fn eq(&self, other: &SecretString) -> bool {
        let text = other.expose_secret().as_bytes();
        self.expose_bytes().ct_eq(text).into()
    }
}

/// Takes constant time for values of equal length.
impl PartialEq<SecretValue> for SecretString {
    fn eq(&self, other: &SecretValue) -> bool {
        other == self
    }
}

impl fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretValue([redacted])")
    }
}

/// Accepts text and bytes, so that a field of a loaded struct can be a secret that is not text.
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

/// The result of a provider's read: a value, and the metadata that the backend reported with it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Secret {
    /// The bytes, exactly as the backend stores them.
    pub value: SecretValue,
    /// The backend's version of the value. `None` if the backend does not keep versions.
    pub version: Option<Version>,
    /// The lifetime that the backend guarantees, for leased credentials, counted from the start of the call that
    /// returned the value. The resolver replaces the value before its lifetime ends and never returns it afterwards.
    pub valid_for: Option<Duration>,
    /// The origin of the value. `None` means the origin of the provider that returned it. A
    /// [`Chain`](crate::Chain) sets it, so that logs show which of its providers had the secret.
    pub origin: Option<Origin>,
    /// Whether a value that a tool left encrypted is what the consumer wants.
    pub(crate) accepts_encrypted: bool,
}

impl Secret {
    /// Creates a secret without metadata.
    pub fn new(value: impl Into<SecretValue>) -> Self {
        Self {
            value: value.into(),
            version: None,
            valid_for: None,
            origin: None,
            accepts_encrypted: false,
        }
    }

    /// Sets the backend's version.
    #[must_use]
    pub fn with_version(mut self, version: Version) -> Self {
        self.version = Some(version);
        self
    }

    /// Sets the lifetime that the backend guarantees, counted from the start of the call that
    /// returned the value.
    #[must_use]
    pub fn valid_for(mut self, lifetime: Duration) -> Self {
        self.valid_for = Some(lifetime);
        self
    }

    /// Accepts a value that a tool left encrypted. A provider calls it if it is configured for a service that stores
    /// ciphertexts on purpose.
    ///
    /// Default: such a value is refused. See [`refuse_encrypted`](crate::backend::refuse_encrypted).
    #[must_use]
    pub fn accept_encrypted(mut self) -> Self {
        self.accepts_encrypted = true;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_kept_unchanged_and_redacted_in_debug() {
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
    fn vec_with_spare_capacity_keeps_only_its_bytes() {
        let mut bytes = Vec::with_capacity(64);
        bytes.extend_from_slice(b"secret");
        assert_eq!(SecretValue::from(bytes).expose_bytes(), b"secret");
    }

    #[test]
    fn equality_and_fingerprint_depend_on_the_bytes() {
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
    fn secret_string_converts_both_ways_and_compares() {
        let text = SecretString::from("s3cr3t");
        let value = SecretValue::from(text.clone());
        let back: SecretString = (&value).try_into().unwrap();
        assert_eq!(back.expose_secret(), "s3cr3t");
        assert_eq!(ExposeSecret::expose_secret(&value), b"s3cr3t");
        assert!(value == text);
        assert!(text == value);

        let other = SecretString::from("s3cr3t ");
        assert!(value != other);
        assert!(other != value);

        let error = SecretString::try_from(SecretValue::from(vec![0xff])).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Malformed);
    }

    #[test]
    fn empty_and_white_space_values_are_blank() {
        assert!(SecretValue::from("").is_blank());
        assert!(SecretValue::from(" \r\n\t").is_blank());
        assert!(!SecretValue::from(" x ").is_blank());
    }
}
