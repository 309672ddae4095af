//! [`Diagnosis`]: why the tokens of requests are rejected, for the warnings about wrong set-ups.

use std::fmt;
use std::sync::OnceLock;

use super::SessionCookie;
use crate::KeyRing;
use crate::sessions::TokenError;
use crate::sessions::diagnosis::{Budget, Warnings, white_space_variants};
use crate::sessions::error::Rejected;
use crate::sessions::jwe;
use crate::sessions::keys::{Format, Keys};

/// The diagnosis of the sessions in one cookie.
pub(super) struct Diagnosis {
    pub(super) warnings: Warnings,
    format: Format,
    /// The salt of the keys.
    salt: String,
    secrets: KeyRing,
    variants: OnceLock<Variants>,
    /// Limits how often tokens are compared with the variants.
    checks: Budget,
}

/// The keys of the secrets that differ from those of this service by white space.
struct Variants {
    keys: Vec<Keys>,
    /// The difference of each key.
    differences: Vec<&'static str>,
}

impl Diagnosis {
    pub(super) fn new(cookie: &SessionCookie, salt: &str, secrets: &KeyRing) -> Self {
        Self {
            warnings: Warnings::new(cookie.name()),
            format: cookie.format(),
            salt: salt.to_owned(),
            secrets: secrets.clone(),
            variants: OnceLock::new(),
            checks: Budget::default(),
        }
    }

    /// A request with this `Cookie` header has no token.
    pub(super) fn absent(&self, cookies: &str) {
        self.warnings.other_cookies(cookies);
    }

    /// A request with this `Cookie` header has no valid token. `C` is the type of the claims.
    pub(super) fn rejected<C>(&self, rejected: &Rejected, cookies: &str) {
        match &rejected.error {
            TokenError::Claims(error) => {
                return self.warnings.claims(std::any::type_name::<C>(), error);
            }
            TokenError::UnknownKey => {
                if let Some(difference) = self.white_space(&rejected.token) {
                    return self.warnings.white_space(difference);
                }
            }
            TokenError::Malformed if !is_encrypted(&rejected.token) => {
                self.warnings.not_a_token(&rejected.token);
            }
            _ => {}
        }
        self.warnings.rejected(&rejected.error, cookies);
    }

    /// Returns how the secret that has created `token` differs from one of this service, if only by white
    /// space.
    fn white_space(&self, token: &str) -> Option<&'static str> {
        if !self.checks.try_spend(token) {
            return None;
        }
        let variants = self.variants.get_or_init(|| self.variants());
        let verifies = |keys: &[Keys]| jwe::decrypt(token, keys, self.format).is_ok();
        if !verifies(&variants.keys) {
            return None;
        }
        let keys = variants.keys.iter().map(std::slice::from_ref);
        let mut differences = keys.zip(&variants.differences);
        let found = differences.find(|(keys, _)| verifies(keys));
        found.map(|(_, difference)| *difference)
    }

    fn variants(&self) -> Variants {
        let variants = self.secrets.iter().flat_map(white_space_variants);
        let derived = variants.filter_map(|(difference, secret)| {
            Some((
                Keys::derive(&secret, self.format, &self.salt).ok()?,
                difference,
            ))
        });
        let (keys, differences) = derived.unzip();
        Variants { keys, differences }
    }
}

/// Returns whether `token` has the five parts of an encrypted token.
fn is_encrypted(token: &str) -> bool {
    token.split('.').count() == 5
}

/// Omits the secrets.
impl fmt::Debug for Diagnosis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Diagnosis").finish_non_exhaustive()
    }
}
