//! Revisions of a secret.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use serde::{Serialize, Serializer};

use crate::value::fingerprint;

/// What a backend calls one revision of a secret.
///
/// Two versions can always be compared for equality. Only numbered ones also have an order, and only
/// as far as the backend keeps it: a key that was deleted and written anew starts at 1 again on Vault
/// and on Infisical alike. So a number is read together with its time of creation, and where the
/// backend tells what it counts the revisions of, only together with that.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Version {
    label: Arc<str>,
    number: Option<u64>,
    created_at: Option<SystemTime>,
    /// A hash of what it is a revision of; 0 where the backend does not tell.
    identity: u64,
}

impl Version {
    /// A version that can only be compared for equality, such as an ETag.
    pub fn opaque(label: impl Into<Arc<str>>) -> Self {
        Self {
            label: label.into(),
            number: None,
            created_at: None,
            identity: 0,
        }
    }

    /// The `number`-th revision.
    pub fn numbered(number: u64) -> Self {
        Self {
            label: number.to_string().into(),
            number: Some(number),
            created_at: None,
            identity: 0,
        }
    }

    /// A version made from the value, for backends that keep none. It means something within this
    /// process only, because it is a hash under a random key: nobody can test guesses against it.
    pub fn from_content(bytes: &[u8]) -> Self {
        Self::opaque(format!("{:016x}", fingerprint(bytes)))
    }

    /// The same version with the time at which the backend says it was written.
    #[must_use]
    pub fn with_created_at(mut self, time: SystemTime) -> Self {
        self.created_at = Some(time);
        self
    }

    /// The same version as a revision of what the backend knows by `id`. A key that was deleted and
    /// written anew, or is found elsewhere now, has another, and numbers under two say nothing of
    /// each other.
    #[must_use]
    pub fn with_identity(mut self, id: &str) -> Self {
        self.identity = fingerprint(id.as_bytes());
        self
    }

    /// The version as the backend writes it.
    pub fn as_str(&self) -> &str {
        &self.label
    }

    /// The number of a numbered version.
    pub fn number(&self) -> Option<u64> {
        self.number
    }

    /// When the backend says that the version was written.
    pub fn created_at(&self) -> Option<SystemTime> {
        self.created_at
    }

    /// Whether this version certainly came before `other`: both are numbered, of the same identity
    /// or of none, this number is smaller, and its creation time, where both are known, is not later.
    pub fn is_older_than(&self, other: &Self) -> bool {
        let (Some(mine), Some(theirs)) = (self.number, other.number) else {
            return false;
        };
        let recreated = matches!((self.created_at, other.created_at), (Some(a), Some(b)) if a > b);
        self.identity == other.identity && mine < theirs && !recreated
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.label)
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Version({})", self.label)
    }
}

impl Serialize for Version {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.label)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn only_numbers_have_an_order() {
        assert!(Version::numbered(1).is_older_than(&Version::numbered(2)));
        assert!(!Version::numbered(2).is_older_than(&Version::numbered(2)));
        assert!(!Version::opaque("1").is_older_than(&Version::opaque("2")));
    }

    #[test]
    fn a_recreated_key_starts_again_and_is_newer() {
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
    fn numbers_have_an_order_within_one_identity_only() {
        let of = |id: &str, number| Version::numbered(number).with_identity(id);
        assert!(of("a", 1).is_older_than(&of("a", 7)));
        assert!(!of("b", 1).is_older_than(&of("a", 7)));
        assert!(!Version::numbered(1).is_older_than(&of("a", 7)));
        assert_ne!(of("a", 1), of("b", 1));
        assert_eq!(of("a", 1), of("a", 1));
    }

    #[test]
    fn content_versions_follow_the_content() {
        assert_eq!(Version::from_content(b"a"), Version::from_content(b"a"));
        assert_ne!(Version::from_content(b"a"), Version::from_content(b"b"));
    }
}
