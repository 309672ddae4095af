//! [`SecretPolicy`], and the check of secrets against it.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use secretwell_core::backend::encrypted_by;
use secretwell_core::{Error, ErrorKind, SecretKey, SecretValue};
use secretwell_resolver::Resolved;
use secretwell_resolver::load::PlannedField;
use serde::{Deserialize, Serialize};

use crate::mode::Mode;
use crate::secret_list;
use crate::strength::{Assessment, Refused, Suspicion, Weakness, assess};

/// The list of secrets of Better Auth.
const LIST: &str = "BETTER_AUTH_SECRETS";

/// The names of the secrets that Auth.js, NextAuth and Better Auth sign and encrypt with, and of their
/// previous secrets.
const PRESET: [&str; 9] = [
    "AUTH_SECRET",
    "AUTH_SECRET_PREVIOUS",
    "AUTH_SECRET_1",
    "AUTH_SECRET_2",
    "AUTH_SECRET_3",
    "NEXTAUTH_SECRET",
    "NEXTAUTH_SECRET_PREVIOUS",
    "BETTER_AUTH_SECRET",
    "BETTER_AUTH_SECRET_PREVIOUS",
];

/// Requirements for a secret, in addition to being present and not empty.
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
    /// Suitable for signing and encryption: at least 32 bytes, and none of the forms of [`Weakness`], such
    /// as an example text or a variable that was not expanded. The default for signing secrets.
    SigningKey,
    /// A list of signing secrets with versions, in the form `2:newer,1:older` of `BETTER_AUTH_SECRETS`.
    /// Each secret of the list must be suitable as [`SigningKey`](Self::SigningKey). A text that is not a
    /// list is refused in every mode. The default for `BETTER_AUTH_SECRETS`.
    SigningKeyList,
    /// No further requirements. The default for all other secrets, such as a database password,
    /// because somebody else might have chosen them.
    Unchecked,
}

impl SecretPolicy {
    /// Returns the default policy of `key`: `SigningKey` for the names of Auth.js, NextAuth and Better
    /// Auth (`AUTH_SECRET`, `AUTH_SECRET_1` to `AUTH_SECRET_3`, `NEXTAUTH_SECRET` and `BETTER_AUTH_SECRET`) and
    /// of their previous secrets (`AUTH_SECRET_PREVIOUS`, `NEXTAUTH_SECRET_PREVIOUS` and
    /// `BETTER_AUTH_SECRET_PREVIOUS`), `SigningKeyList` for `BETTER_AUTH_SECRETS`, and `Unchecked` for other
    /// names.
    pub fn of_key(key: &SecretKey) -> Self {
        match key.name() {
            LIST => Self::SigningKeyList,
            name if PRESET.contains(&name) => Self::SigningKey,
            _ => Self::Unchecked,
        }
    }

    /// Returns the policy of a `key` that is named as a signing secret: that of
    /// [`of_key`](Self::of_key), or `SigningKey` if that is `Unchecked`.
    pub fn of_signing_key(key: &SecretKey) -> Self {
        match Self::of_key(key) {
            Self::Unchecked => Self::SigningKey,
            policy => policy,
        }
    }

    /// Returns why `value` does not meet this policy, or `None` if it does. Uses the same rules as a build,
    /// without a refuse list.
    ///
    /// For a list, this is the weakness of its first weak secret. A text that is not a list is assessed as
    /// one secret.
    ///
    /// ```
    /// use secretwell::auth::{SecretPolicy, Weakness};
    ///
    /// let weakness = SecretPolicy::SigningKey.weakness(&"${AUTH_SECRET}".into());
    /// assert_eq!(weakness, Some(Weakness::Template));
    /// ```
    pub fn weakness(self, value: &SecretValue) -> Option<Weakness> {
        let value = value.expose_bytes();
        if self == Self::Unchecked {
            return None;
        }
        // In a build, the resolver has checked this already.
        if encrypted_by(value).is_some() {
            return Some(Weakness::Encrypted);
        }
        let secrets = match self {
            Self::SigningKeyList => secret_list::parse(value).ok(),
            Self::SigningKey | Self::Unchecked => None,
        };
        let secrets = secrets.map(|entries| {
            entries
                .iter()
                .map(|entry| entry.secret.as_bytes())
                .collect()
        });
        let secrets: Vec<&[u8]> = secrets.unwrap_or_else(|| vec![value]);
        secrets
            .into_iter()
            .find_map(|secret| match assess(secret, &Refused::default()) {
                Assessment::Weak(weakness) => Some(weakness),
                Assessment::Strong | Assessment::Suspicious(_) => None,
            })
    }
}

/// The policies that are set explicitly, the keys that are named as signing secrets, and the refuse list.
#[derive(Debug, Clone, Default)]
pub(crate) struct Policies {
    explicit: BTreeMap<SecretKey, SecretPolicy>,
    pub(crate) signing: BTreeSet<SecretKey>,
    pub(crate) refused: Refused,
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
            None if signs || self.signing.contains(key) => SecretPolicy::of_signing_key(key),
            None => SecretPolicy::of_key(key),
        }
    }

    /// Checks `secret` against the policy of `key`.
    pub(crate) fn check(
        &self,
        key: &SecretKey,
        secret: &Resolved,
        signs: bool,
        mode: Mode,
    ) -> Option<Finding> {
        check(key, secret, self.of(key, signs), &self.refused, mode)
    }

    /// Returns why the previous secret `value` of `key` must not be part of a ring, or `None` if it can be.
    pub(crate) fn refuse_previous(
        &self,
        key: &SecretKey,
        value: &SecretValue,
        mode: Mode,
    ) -> Option<Cow<'static, str>> {
        if mode != Mode::Production {
            return None;
        }
        let complaints = complaints(value.expose_bytes(), self.of(key, true), &self.refused);
        complaints
            .into_iter()
            .find_map(|complaint| match complaint {
                Complaint::NotAList(error) => Some(error.to_string().into()),
                Complaint::Weak(None, weakness) => Some(weakness),
                Complaint::Weak(Some(version), weakness) => {
                    Some(format!("the secret of version {version}: {weakness}").into())
                }
                Complaint::Suspicious(..) => None,
            })
    }
}

/// Returns whether the type of the field is a secret type.
///
/// Types that contain a secret type are not recognized, so nothing that protects a secret may depend on
/// this.
pub(crate) fn is_secret(field: &PlannedField) -> bool {
    field.type_name.contains("SecretBox<") || field.type_name.ends_with("::SecretValue")
}

/// The result of the check of a weak secret. Both variants describe the weakness.
#[derive(Debug, Clone)]
pub(crate) enum Finding {
    /// The secret must not be used.
    Problem(Error),
    /// The secret is accepted, because of the mode or because it only looks weak.
    Warning(Error),
}

/// Checks `secret` against `policy`. An empty secret is not checked, because it is refused anyway.
pub(crate) fn check(
    key: &SecretKey,
    secret: &Resolved,
    policy: SecretPolicy,
    refused: &Refused,
    mode: Mode,
) -> Option<Finding> {
    if policy == SecretPolicy::Unchecked || secret.value.is_empty() {
        return None;
    }
    let error = |message: String| {
        Error::new(ErrorKind::Invalid, message)
            .with_origin(&secret.origin)
            .with_key(key)
            .with_hint(
                "generate a secret with `openssl rand -base64 32`, or set `SecretPolicy::Unchecked` for \
                 this key if its secret does not sign",
            )
    };
    let of_mode = |error| match mode {
        Mode::Production => Finding::Problem(error),
        Mode::Development => Finding::Warning(error),
    };
    let mut complaints = complaints(secret.value.expose_bytes(), policy, refused);
    complaints.sort_by_key(Complaint::order);
    let subject = |version: Option<u64>| {
        version.map_or(String::new(), |version| {
            format!("the secret of version {version} ")
        })
    };
    Some(match complaints.into_iter().next()? {
        Complaint::NotAList(not_a_list) => Finding::Problem(
            error(not_a_list.to_string()).with_hint("write the list in the form `2:newer,1:older`"),
        ),
        Complaint::Weak(None, weakness) => of_mode(error(format!("too weak: {weakness}"))),
        Complaint::Weak(version, weakness) => of_mode(error(format!(
            "{}is too weak: {weakness}",
            subject(version)
        ))),
        Complaint::Suspicious(version, suspicion) => Finding::Warning(error(format!(
            "{}looks weak: {suspicion}",
            subject(version)
        ))),
    })
}

/// A reason against a value as a signing secret, or against a secret of a list, with its version.
enum Complaint {
    NotAList(secret_list::ListError),
    Weak(Option<u64>, Cow<'static, str>),
    Suspicious(Option<u64>, Suspicion),
}

impl Complaint {
    /// The most severe complaint is the first.
    fn order(&self) -> u8 {
        match self {
            Self::NotAList(_) => 0,
            Self::Weak(..) => 1,
            Self::Suspicious(..) => 2,
        }
    }
}

/// Returns the complaints about each secret of a value that is held to `policy`.
fn complaints(value: &[u8], policy: SecretPolicy, refused: &Refused) -> Vec<Complaint> {
    let assess = |version, secret: &[u8]| match assess(secret, refused) {
        Assessment::Strong => None,
        Assessment::Suspicious(suspicion) => Some(Complaint::Suspicious(version, suspicion)),
        Assessment::Weak(weakness) => Some(Complaint::Weak(version, weakness.describe(secret))),
    };
    match policy {
        SecretPolicy::Unchecked => Vec::new(),
        SecretPolicy::SigningKey => assess(None, value).into_iter().collect(),
        SecretPolicy::SigningKeyList => match secret_list::parse(value) {
            Ok(entries) => entries
                .iter()
                .filter_map(|entry| assess(Some(entry.version), entry.secret.as_bytes()))
                .collect(),
            Err(error) => vec![Complaint::NotAList(error)],
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn list_is_as_weak_as_its_weakest_secret() {
        let strong = "kT8xQbM2wJpZrLdVn5hGs9YcE4uAf7Ri";
        let weakness = |policy: SecretPolicy, value: &str| policy.weakness(&value.into());
        let template = Some(Weakness::Template);
        for (value, expected) in [
            (format!("2:{strong}"), None),
            (format!("2:{strong},1:${{OLD_SECRET}}"), template),
            (format!("2:${{SECRET}},1:{strong}"), template),
            // Not a list, so it is assessed as one secret.
            (strong.to_owned(), None),
            ("${BETTER_AUTH_SECRETS}".to_owned(), template),
            // A word is suspicious, but a signing key can be a passphrase.
            (
                format!("1:{strong},2:correct horse battery staple ok!"),
                None,
            ),
        ] {
            assert_eq!(
                weakness(SecretPolicy::SigningKeyList, &value),
                expected,
                "{value}"
            );
            assert_eq!(weakness(SecretPolicy::Unchecked, &value), None);
        }
    }

    /// A weak previous secret would make every token acceptable that was forged with it.
    #[test]
    fn weak_previous_secret_is_refused_in_production_only() {
        let strong = "kT8xQbM2wJpZrLdVn5hGs9YcE4uAf7Ri";
        let words = "correct horse battery staple ok!";
        let key = SecretKey::from_static;
        let policies = Policies::default();
        for (name, value, expected) in [
            ("AUTH_SECRET", strong.to_owned(), None),
            ("AUTH_SECRET", words.to_owned(), None),
            ("AUTH_SECRET", "c4n4ry".to_owned(), Some("6 bytes")),
            // Only its ring makes it a signing secret.
            ("OTHER", "c4n4ry".to_owned(), Some("6 bytes")),
            ("BETTER_AUTH_SECRETS", format!("2:{strong},1:{words}"), None),
            (
                "BETTER_AUTH_SECRETS",
                format!("2:{words},1:c4n4ry"),
                Some("the secret of version 1: 6 bytes"),
            ),
            ("BETTER_AUTH_SECRETS", "c4n4ry".to_owned(), Some("no colon")),
            (
                "BETTER_AUTH_SECRETS",
                format!("1:{strong},1:c4n4ry"),
                Some("version 1"),
            ),
        ] {
            let value = SecretValue::from(value);
            let refuse = |mode| policies.refuse_previous(&key(name), &value, mode);
            assert_eq!(refuse(Mode::Development), None);
            let refused = refuse(Mode::Production);
            assert_eq!(refused.is_some(), expected.is_some(), "{name} {refused:?}");
            if let (Some(refused), Some(expected)) = (refused, expected) {
                assert!(refused.contains(expected), "{refused}");
                assert!(!refused.contains("c4n4ry"), "{refused}");
            }
        }
    }
}
