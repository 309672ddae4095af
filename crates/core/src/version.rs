//! Versions of secrets.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use serde::{Serialize, Serializer};

use crate::fingerprint::fingerprint;

/// The backend's identifier for one revision of a secret.
///
/// Any two versions can be compared for equality. Only numbered versions can also be ordered.
///
/// Vault and Infisical restart at 1 when a key is deleted and written again. The order therefore also
/// depends on the creation time and on the identity, if the backend reports them. See
/// [`is_older_than`](Self::is_older_than).
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Version {
    label: Label,
    created_at: Option<SystemTime>,
    /// A hash of the backend's identifier for the versioned object, or 0 if the backend does not report one. The
    /// lowest byte is the number of the link of a chain, from 1 on, or 0.
    identity: u64,
}

/// The bits of an identity that are the number of a link.
const LINK: u64 = 0xff;

/// The text of a version. The text of a number needs no allocation and contains the number, because a cache keeps
/// many of them.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Label {
    Text(Arc<str>),
    Number { digits: [u8; MAX_DIGITS], len: u8 },
}

/// The length of the largest number.
const MAX_DIGITS: usize = 20;

impl Label {
    fn number(number: u64) -> Self {
        let (mut digits, mut len) = ([0; MAX_DIGITS], 0_u8);
        let mut rest = number;
        loop {
            len += 1;
            digits[MAX_DIGITS - usize::from(len)] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        digits.rotate_left(MAX_DIGITS - usize::from(len));
        Self::Number { digits, len }
    }

    fn as_str(&self) -> &str {
        match self {
            Self::Text(text) => text,
            Self::Number { digits, len } => {
                std::str::from_utf8(&digits[..usize::from(*len)]).unwrap_or_default()
            }
        }
    }
}

impl Version {
    /// Creates a version that can only be compared for equality, such as an ETag.
    pub fn opaque(label: impl Into<Arc<str>>) -> Self {
        Self {
            label: Label::Text(label.into()),
            created_at: None,
            identity: 0,
        }
    }

    /// Creates a version with a number. Higher numbers are newer.
    pub fn numbered(number: u64) -> Self {
        Self {
            label: Label::number(number),
            created_at: None,
            identity: 0,
        }
    }

    /// Creates a version from the value, for backends that do not keep versions.
    ///
    /// The version is a hash with a random key for each process. It is only comparable within this
    /// process, and it cannot be used to test guesses of the value.
    pub fn from_content(bytes: &[u8]) -> Self {
        Self::opaque(format!("{:016x}", fingerprint(bytes)))
    }

    /// Sets the time at which the version was written, as reported by the backend.
    #[must_use]
    pub fn with_created_at(mut self, time: SystemTime) -> Self {
        self.created_at = Some(time);
        self
    }

    /// Sets the backend's identifier for the versioned object, such as the ID of a secret.
    ///
    /// A key that is deleted and written again, or that moves to another path, gets another
    /// identifier. Versions with different identifiers cannot be ordered.
    #[must_use]
    pub fn with_identity(mut self, id: &str) -> Self {
        self.identity = fingerprint(id.as_bytes()) & !LINK;
        self
    }

    /// Limits the version to one link of a chain, because versions of different sources have no order.
    #[must_use]
    pub(crate) fn in_link(mut self, index: usize) -> Self {
        let link = u64::try_from(index).unwrap_or(LINK).saturating_add(1);
        self.identity = self.identity & !LINK | link.min(LINK);
        self
    }

    /// Returns the link of a chain that the version belongs to, and the version as its provider returned it.
    pub(crate) fn without_link(mut self) -> (Option<usize>, Self) {
        let link = usize::try_from(self.identity & LINK).unwrap_or_default();
        self.identity &= !LINK;
        (link.checked_sub(1), self)
    }

    /// Returns the version as text, in the backend's notation.
    pub fn as_str(&self) -> &str {
        self.label.as_str()
    }

    /// Returns the number of a numbered version.
    pub fn number(&self) -> Option<u64> {
        match &self.label {
            Label::Text(_) => None,
            Label::Number { .. } => self.as_str().parse().ok(),
        }
    }

    /// Returns the time at which the version was written, if the backend reported it.
    pub fn created_at(&self) -> Option<SystemTime> {
        self.created_at
    }

    /// Returns whether this version is certainly older than `other`.
    ///
    /// This is the case if all of the following are true:
    /// - Both versions are numbered, and this number is smaller.
    /// - Both have the same identity, or neither has one.
    /// - This creation time is not later than the other one, if both are known.
    pub fn is_older_than(&self, other: &Self) -> bool {
        let (Some(mine), Some(theirs)) = (self.number(), other.number()) else {
            return false;
        };
        let recreated = matches!((self.created_at, other.created_at), (Some(a), Some(b)) if a > b);
        self.identity == other.identity && mine < theirs && !recreated
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Version({})", self.as_str())
    }
}

impl Serialize for Version {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn text_of_a_number_is_the_number() {
        for number in [0, 7, 10, 12_345, u64::MAX] {
            let version = Version::numbered(number);
            assert_eq!(version.as_str(), number.to_string());
            assert_eq!(version.number(), Some(number));
        }
    }

    #[test]
    fn only_numbered_versions_are_ordered() {
        assert!(Version::numbered(1).is_older_than(&Version::numbered(2)));
        assert!(!Version::numbered(2).is_older_than(&Version::numbered(2)));
        assert!(!Version::opaque("1").is_older_than(&Version::opaque("2")));
    }

    #[test]
    fn version_1_of_a_recreated_key_is_not_older() {
        let time = |s| SystemTime::UNIX_EPOCH + Duration::from_secs(s);
        let before = Version::numbered(7).with_created_at(time(100));
        let after = Version::numbered(1).with_created_at(time(200));
        assert!(!after.is_older_than(&before));
        assert!(
            Version::numbered(6)
                .with_created_at(time(90))
                .is_older_than(&before)
        );
    }

    #[test]
    fn versions_of_different_identities_are_not_ordered() {
        let version = |id: &str, number| Version::numbered(number).with_identity(id);
        assert!(version("a", 1).is_older_than(&version("a", 7)));
        assert!(!version("b", 1).is_older_than(&version("a", 7)));
        assert!(!Version::numbered(1).is_older_than(&version("a", 7)));
        assert_ne!(version("a", 1), version("b", 1));
        assert_eq!(version("a", 1), version("a", 1));
    }

    #[test]
    fn equal_content_has_an_equal_version() {
        assert_eq!(Version::from_content(b"a"), Version::from_content(b"a"));
        assert_ne!(Version::from_content(b"a"), Version::from_content(b"b"));
    }
}
