//! [`SecretPolicy`], and the check of secrets against it.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use secretwell_core::backend::encrypted_by;
use secretwell_core::{Error, ErrorKind, SecretKey, SecretValue};
use secretwell_resolver::Resolved;
use secretwell_resolver::load::PlannedField;
use serde::{Deserialize, Serialize};

use crate::mode::Mode;
use crate::strength::{Assessment, Refused, Weakness, assess};

/// The names of the secrets that Auth.js, NextAuth and Better Auth sign and encrypt with.
const PRESET: [&str; 8] = [
    "AUTH_SECRET",
    "AUTH_SECRET_PREVIOUS",
    "AUTH_SECRET_1",
    "AUTH_SECRET_2",
    "AUTH_SECRET_3",
    "NEXTAUTH_SECRET",
    "NEXTAUTH_SECRET_PREVIOUS",
    "BETTER_AUTH_SECRET",
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
    /// No further requirements. The default for all other secrets, such as a database password,
    /// because somebody else might have chosen them.
    Unchecked,
}

impl SecretPolicy {
    /// Returns the default policy of `key`: `SigningKey` for the names of Auth.js, NextAuth and Better
    /// Auth (`AUTH_SECRET`, `AUTH_SECRET_1` to `AUTH_SECRET_3`, `NEXTAUTH_SECRET` and
    /// `BETTER_AUTH_SECRET`) and for `AUTH_SECRET_PREVIOUS` and `NEXTAUTH_SECRET_PREVIOUS`, and `Unchecked`
    /// for other names.
    ///
    /// `BETTER_AUTH_SECRETS` is a list of several secrets, so it is `Unchecked`.
    pub fn of_key(key: &SecretKey) -> Self {
        match PRESET.contains(&key.name()) {
            true => Self::SigningKey,
            false => Self::Unchecked,
        }
    }

    /// Returns why `value` does not meet this policy, or `None` if it does. Uses the same rules as a build,
    /// without a refuse list.
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
        match assess(value, &Refused::default()) {
            Assessment::Weak(weakness) => Some(weakness),
            Assessment::Strong | Assessment::Suspicious(_) => None,
        }
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
            None if signs || self.signing.contains(key) => SecretPolicy::SigningKey,
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
        let is_checked = self.of(key, true) == SecretPolicy::SigningKey && mode == Mode::Production;
        let value = value.expose_bytes();
        match is_checked.then(|| assess(value, &self.refused))? {
            Assessment::Weak(weakness) => Some(weakness.describe(value)),
            Assessment::Strong | Assessment::Suspicious(_) => None,
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
    let value = secret.value.expose_bytes();
    match assess(value, refused) {
        Assessment::Strong => None,
        Assessment::Suspicious(suspicion) => {
            Some(Finding::Warning(error(format!("looks weak: {suspicion}"))))
        }
        Assessment::Weak(weakness) => {
            let error = error(format!("too weak: {}", weakness.describe(value)));
            Some(match mode {
                Mode::Production => Finding::Problem(error),
                Mode::Development => Finding::Warning(error),
            })
        }
    }
}
