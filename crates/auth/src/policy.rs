//! [`SecretPolicy`] and the check for weak secrets.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use secretwell_core::{Error, ErrorKind, SecretKey, SecretValue};
use secretwell_resolver::Resolved;
use secretwell_resolver::load::PlannedField;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// Minimum length of a signing secret in bytes: the size of a key for HMAC with SHA-256, as
/// required by RFC 7518, section 3.2.
const MIN_BYTES: usize = 32;
/// A secret that repeats a pattern of at most this many bytes is weak.
const MAX_PATTERN: usize = 4;

/// The names of the secrets that Auth.js and NextAuth sign and encrypt with.
const AUTH_JS: [&str; 5] = [
    "AUTH_SECRET",
    "AUTH_SECRET_1",
    "AUTH_SECRET_2",
    "AUTH_SECRET_3",
    "NEXTAUTH_SECRET",
];

/// Requirements for a secret, in addition to being present and not blank.
///
/// [`of_key`](Self::of_key) returns the default for a key. A key counts as a signing secret as well in
/// these cases:
///
/// - It is named with [`LazyAuthBuilder::signing`](crate::LazyAuthBuilder::signing).
/// - The builder takes its ring with [`BuildContext::key_ring`](crate::BuildContext::key_ring).
///
/// [`LazyAuthBuilder::secret_policy`](crate::LazyAuthBuilder::secret_policy) has precedence over these
/// rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum SecretPolicy {
    /// Suitable for signing and encryption: at least 32 bytes, no example text such as `changeme`,
    /// and no short repeated pattern. The default for signing secrets.
    SigningKey,
    /// No further requirements. The default for all other secrets, such as a database password,
    /// because somebody else might have chosen them.
    Unchecked,
}

impl SecretPolicy {
    /// Returns the default policy of `key`: `SigningKey` for the names of Auth.js and NextAuth
    /// (`AUTH_SECRET`, `AUTH_SECRET_1` to `AUTH_SECRET_3` and `NEXTAUTH_SECRET`), and `Unchecked` for
    /// other names.
    pub fn of_key(key: &SecretKey) -> Self {
        match AUTH_JS.contains(&key.name()) {
            true => Self::SigningKey,
            false => Self::Unchecked,
        }
    }
}

/// The reason why a secret is too weak to sign with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Weakness {
    Short { bytes: usize },
    ExampleText,
    Pattern,
}

impl fmt::Display for Weakness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short { bytes } => write!(
                f,
                "too weak: {bytes} bytes, at least {MIN_BYTES} are required"
            ),
            Self::ExampleText => f.write_str("too weak: the value is an example text"),
            Self::Pattern => f.write_str("too weak: the value repeats a short pattern"),
        }
    }
}

/// The policies that are set explicitly, and the keys that are named as signing secrets.
#[derive(Debug, Clone, Default)]
pub(crate) struct Policies {
    explicit: BTreeMap<SecretKey, SecretPolicy>,
    pub(crate) signing: BTreeSet<SecretKey>,
}

impl Policies {
    pub(crate) fn set(&mut self, key: SecretKey, policy: SecretPolicy) {
        self.explicit.insert(key, policy);
    }

    /// Returns all keys that are named in the settings.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &SecretKey> {
        let signing = self.signing.iter();
        let other = signing.filter(|key| !self.explicit.contains_key(*key));
        self.explicit.keys().chain(other)
    }

    /// Returns the explicit policy of `key`, or the default. `signs` is true if a build takes the
    /// key ring of `key`.
    pub(crate) fn of(&self, key: &SecretKey, signs: bool) -> SecretPolicy {
        match self.explicit.get(key) {
            Some(policy) => *policy,
            None if signs || self.signing.contains(key) => SecretPolicy::SigningKey,
            None => SecretPolicy::of_key(key),
        }
    }
}

/// Returns whether the type of the field is a secret type.
///
/// Types that contain a secret type are not recognized, so nothing that protects a secret may depend on
/// this.
pub(crate) fn is_secret(field: &PlannedField) -> bool {
    field.type_name.contains("SecretBox<") || field.type_name.ends_with("::SecretValue")
}

/// Returns an error if `secret` does not meet `policy`. A blank secret counts as absent and is not
/// checked.
pub(crate) fn too_weak(key: &SecretKey, secret: &Resolved, policy: SecretPolicy) -> Option<Error> {
    if policy == SecretPolicy::Unchecked || secret.value.is_blank() {
        return None;
    }
    weakness(&secret.value).map(|weakness| {
        Error::new(ErrorKind::Invalid, weakness.to_string())
            .with_origin(&secret.origin)
            .with_key(key)
            .with_hint(
                "generate a secret with `openssl rand -base64 32`, or relax the policy for this key",
            )
    })
}

/// Returns the first reason why `value` is too weak to sign with.
fn weakness(value: &SecretValue) -> Option<Weakness> {
    let bytes = value.expose_bytes().trim_ascii();
    if is_example_text(bytes) {
        Some(Weakness::ExampleText)
    } else if bytes.len() < MIN_BYTES {
        Some(Weakness::Short { bytes: bytes.len() })
    } else if (1..=MAX_PATTERN).any(|period| bytes[period..] == bytes[..bytes.len() - period]) {
        Some(Weakness::Pattern)
    } else {
        None
    }
}

/// Returns whether `bytes` are a text that examples and templates use in place of a secret:
/// `changeme`, `your-secret-here`, `<replace me with a long random string>`. Ignores case and
/// punctuation.
fn is_example_text(bytes: &[u8]) -> bool {
    const WHOLE: [&str; 10] = [
        "secret",
        "password",
        "test",
        "dev",
        "development",
        "default",
        "example",
        "todo",
        "xxx",
        "none",
    ];
    const PART: [&str; 9] = [
        "changeme",
        "changethis",
        "replaceme",
        "replacethis",
        "yoursecret",
        "yournextauth",
        "placeholder",
        "examplesecret",
        "mysupersecret",
    ];
    // Without the final capacity, growing would leave copies of the secret in freed memory.
    let mut letters = Zeroizing::new(String::with_capacity(bytes.len()));
    let letters_and_digits = bytes.iter().filter(|byte| byte.is_ascii_alphanumeric());
    letters.extend(letters_and_digits.map(|byte| char::from(byte.to_ascii_lowercase())));
    WHOLE.contains(&letters.as_str()) || PART.iter().any(|part| letters.contains(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weakness_is_detected_and_classified() {
        let weakness_of = |text: &str| weakness(&SecretValue::from(text));
        assert_eq!(weakness_of("short"), Some(Weakness::Short { bytes: 5 }));
        assert_eq!(
            weakness_of(&format!("  {}  ", "x1y2z3".repeat(5))),
            Some(Weakness::Short { bytes: 30 })
        );
        for example in [
            "secret",
            "changeme",
            "CHANGE-ME",
            "your-secret-here-0123456789-0123456789",
        ] {
            assert_eq!(
                weakness_of(example),
                Some(Weakness::ExampleText),
                "{example}"
            );
        }
        for pattern in [
            "a".repeat(64),
            "ab".repeat(32),
            "abcd".repeat(16),
            "\0".repeat(32),
        ] {
            assert_eq!(
                weakness_of(&pattern),
                Some(Weakness::Pattern),
                "{pattern:?}"
            );
        }
        assert_eq!(weakness_of("b2f1c0d9e8a7b6c5d4e3f2a1b0c9d8e7"), None);
        assert_eq!(
            weakness_of("K7gNU3sdo+OL0wNhqoVWhr3g6s1xYv72ol/pe/Unols="),
            None
        );
    }
}
