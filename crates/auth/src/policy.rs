//! Whether a secret is good enough to sign with.

use std::collections::BTreeMap;
use std::fmt;

use secretwell_core::{Error, ErrorKind, SecretKey, SecretValue};
use secretwell_resolver::Resolved;
use secretwell_resolver::load::PlannedField;
use serde::{Deserialize, Serialize};

/// The fewest bytes of a signing secret: the size of a SHA-256 key, RFC 7518 section 3.2.
const MIN_BYTES: usize = 32;
/// A secret that repeats a pattern no longer than this is as good as constant.
const MAX_PATTERN: usize = 4;

/// What is asked of a secret beyond being there and not being blank.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum SecretPolicy {
    /// Fit to sign or encrypt with: at least 32 bytes, no known placeholder, no repeated pattern.
    /// Asked of every field whose type is a secret ([`SecretString`](https://docs.rs/secrecy) and
    /// other `SecretBox`es, [`SecretValue`]), unless told otherwise.
    SigningKey,
    /// Nothing more. For what others chose, such as a database password, and for fields that are
    /// plain text.
    Unchecked,
}

/// Why a secret is not fit to sign with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Weakness {
    Short { bytes: usize },
    Placeholder,
    Pattern,
}

impl fmt::Display for Weakness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short { bytes } => write!(
                f,
                "too weak: {bytes} bytes, at least {MIN_BYTES} are needed"
            ),
            Self::Placeholder => f.write_str("too weak: it is a placeholder from an example"),
            Self::Pattern => f.write_str("too weak: it repeats one short pattern"),
        }
    }
}

/// What to ask of which key.
#[derive(Debug, Clone, Default)]
pub(crate) struct Policies(BTreeMap<SecretKey, SecretPolicy>);

impl Policies {
    pub(crate) fn set(&mut self, key: SecretKey, strength: SecretPolicy) {
        self.0.insert(key, strength);
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &SecretKey> {
        self.0.keys()
    }

    pub(crate) fn of(&self, field: &PlannedField) -> SecretPolicy {
        self.0
            .get(&field.key)
            .copied()
            .unwrap_or(match is_secret(field) {
                true => SecretPolicy::SigningKey,
                false => SecretPolicy::Unchecked,
            })
    }
}

/// Whether the field's type says that it holds a secret.
pub(crate) fn is_secret(field: &PlannedField) -> bool {
    field.type_name.contains("SecretBox<") || field.type_name.ends_with("::SecretValue")
}

/// What speaks against using `secret` where this strength is asked for.
pub(crate) fn too_weak(key: &SecretKey, secret: &Resolved, asked: SecretPolicy) -> Option<Error> {
    if asked == SecretPolicy::Unchecked {
        return None;
    }
    weakness(&secret.value).map(|weakness| {
        Error::new(ErrorKind::Invalid, weakness.to_string())
            .with_origin(&secret.origin)
            .with_key(key)
            .with_hint("make one with `openssl rand -base64 32`, or relax the check for this key")
    })
}

/// What speaks against signing with `value`.
fn weakness(value: &SecretValue) -> Option<Weakness> {
    let bytes = value.expose_bytes().trim_ascii();
    if is_placeholder(bytes) {
        Some(Weakness::Placeholder)
    } else if bytes.len() < MIN_BYTES {
        Some(Weakness::Short { bytes: bytes.len() })
    } else if (1..=MAX_PATTERN).any(|period| bytes[period..] == bytes[..bytes.len() - period]) {
        Some(Weakness::Pattern)
    } else {
        None
    }
}

/// Whether `bytes` are what examples and templates put where a secret should be, whatever the
/// spelling: `changeme`, `your-secret-here`, `<replace me with a long random string>`.
fn is_placeholder(bytes: &[u8]) -> bool {
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
    let letters: zeroize::Zeroizing<String> = bytes
        .iter()
        .filter(|byte| byte.is_ascii_alphanumeric())
        .map(|byte| char::from(byte.to_ascii_lowercase()))
        .collect::<String>()
        .into();
    WHOLE.contains(&letters.as_str()) || PART.iter().any(|part| letters.contains(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weak_secrets_are_told_by_their_weakness() {
        let of = |text: &str| weakness(&SecretValue::from(text));
        assert_eq!(of("short"), Some(Weakness::Short { bytes: 5 }));
        assert_eq!(
            of(&format!("  {}  ", "x1y2z3".repeat(5))),
            Some(Weakness::Short { bytes: 30 })
        );
        for placeholder in [
            "secret",
            "changeme",
            "CHANGE-ME",
            "your-secret-here-0123456789-0123456789",
        ] {
            assert_eq!(
                of(placeholder),
                Some(Weakness::Placeholder),
                "{placeholder}"
            );
        }
        for pattern in [
            "a".repeat(64),
            "ab".repeat(32),
            "abcd".repeat(16),
            "\0".repeat(32),
        ] {
            assert_eq!(of(&pattern), Some(Weakness::Pattern), "{pattern:?}");
        }
        assert_eq!(of("b2f1c0d9e8a7b6c5d4e3f2a1b0c9d8e7"), None);
        assert_eq!(of("K7gNU3sdo+OL0wNhqoVWhr3g6s1xYv72ol/pe/Unols="), None);
    }
}
