//! The strength of signing secrets. Builds, preflights and the command use this implementation.
//!
//! The rules ask whether a generator could have produced the value. Each rule is an exact form or has a
//! measured rate of false alarms, because a refused secret is an outage.

mod example;
mod keyboard;
mod pattern;
mod reference;
#[cfg(feature = "refuse-list")]
mod refuse_list;
mod suspicion;
mod template;
#[cfg(test)]
mod tests;
mod words;

use std::borrow::Cow;

pub(crate) use example::is_default_of_better_auth;
use secretwell_core::backend::encrypted_by;
use serde::Serialize;

#[cfg(feature = "refuse-list")]
pub use refuse_list::RefuseList;
pub(crate) use suspicion::Suspicion;
use words::text;

/// Minimum length of a signing secret in bytes: the size of a key for HMAC with SHA-256, as
/// required by RFC 7518, section 3.2.
const MIN_BYTES: usize = 32;

/// The reason why a value is not accepted as a signing secret. Returned by
/// [`SecretPolicy::weakness`](crate::SecretPolicy::weakness).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Weakness {
    /// The value has fewer than 32 bytes.
    TooShort,
    /// A tool such as SOPS left the value encrypted.
    Encrypted,
    /// The value contains a template or a command that was not expanded, such as `${AUTH_SECRET}`.
    Template,
    /// The value refers to a secret and was not resolved, such as `op://vault/item/field`.
    Reference,
    /// The value is an example or a placeholder, such as `your-super-secret-key`.
    Example,
    /// The value repeats a short pattern or has hardly any different bytes.
    Pattern,
    /// The value follows neighbouring keys of a keyboard, the alphabet or the digits.
    KeyboardWalk,
    /// The value is on the refuse list.
    Refused,
}

/// The strength of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Assessment {
    Strong,
    /// The value might be weak, but some generators produce such values.
    Suspicious(Suspicion),
    Weak(Weakness),
}

/// The secrets that are refused whatever they look like.
#[derive(Debug, Clone, Default)]
pub(crate) struct Refused {
    #[cfg(feature = "refuse-list")]
    pub(crate) list: RefuseList,
}

impl Refused {
    #[cfg(feature = "refuse-list")]
    fn contains(&self, value: &[u8]) -> bool {
        self.list.contains(value)
    }

    #[cfg(not(feature = "refuse-list"))]
    fn contains(&self, _: &[u8]) -> bool {
        false
    }
}

/// Assesses `value` as a signing secret. The time is linear in the length of the value.
///
/// The resolver refuses values that a tool left encrypted, unless it is configured to accept them. A
/// ciphertext that is accepted is therefore only compared with the refuse list and the minimum length.
pub(crate) fn assess(value: &[u8], refused: &Refused) -> Assessment {
    let text = text(value);
    let is_ciphertext = encrypted_by(value).is_some();
    // The length comes last, because `changeme` is an example first of all.
    let weakness = if refused.contains(value) {
        Weakness::Refused
    } else if is_ciphertext && value.len() >= MIN_BYTES {
        return Assessment::Strong;
    } else if is_ciphertext {
        Weakness::TooShort
    } else if reference::is_reference(text) {
        Weakness::Reference
    } else if template::is_template(text) {
        Weakness::Template
    } else if example::is_example(text) {
        Weakness::Example
    } else if pattern::is_pattern(value) {
        Weakness::Pattern
    } else if keyboard::is_walk(value) {
        Weakness::KeyboardWalk
    } else if value.len() < MIN_BYTES {
        Weakness::TooShort
    } else {
        return match suspicion::suspicion(value) {
            Some(suspicion) => Assessment::Suspicious(suspicion),
            None => Assessment::Strong,
        };
    };
    Assessment::Weak(weakness)
}

impl Weakness {
    /// Describes the weakness of `value`, without any part of it.
    pub(crate) fn describe(self, value: &[u8]) -> Cow<'static, str> {
        let text = match self {
            Self::TooShort => {
                let bytes = value.len();
                return format!("{bytes} bytes, at least {MIN_BYTES} are required").into();
            }
            Self::Encrypted => "the value is encrypted",
            Self::Template => "the value has a template or a command that was not expanded",
            Self::Reference => "the value refers to a secret and was not resolved",
            Self::Example if is_default_of_better_auth(value) => {
                "the value is the published default secret of Better Auth"
            }
            Self::Example => "the value is an example text",
            Self::Pattern => "the value repeats a short pattern",
            Self::KeyboardWalk => "the value follows the keys of a keyboard",
            Self::Refused => "the value is on the refuse list",
        };
        text.into()
    }
}
