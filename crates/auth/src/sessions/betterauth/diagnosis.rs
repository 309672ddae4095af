//! [`Diagnosis`]: why the tokens of requests are rejected, for the warnings about wrong set-ups.

use std::fmt;
use std::sync::OnceLock;

use super::cookies::{CookieKey, SessionCookies};
use super::secrets::BetterAuthSecrets;
use super::signed::TokenSigner;
use crate::sessions::TokenError;
use crate::sessions::diagnosis::{Budget, Warnings, white_space_variants};
use crate::sessions::error::Rejected;

/// The diagnosis of the tokens in one cookie.
pub(super) struct Diagnosis {
    pub(super) warnings: Warnings,
    secrets: BetterAuthSecrets,
    /// Signers with secrets that differ from those of this service by white space, and the difference of each.
    variants: OnceLock<Vec<(&'static str, TokenSigner)>>,
    /// Limits how often tokens are compared with the variants.
    checks: Budget,
}

impl Diagnosis {
    pub(super) fn new(cookies: &SessionCookies, secrets: &BetterAuthSecrets) -> Self {
        Self {
            warnings: Warnings::new(cookies.name(CookieKey::SessionToken)),
            secrets: secrets.clone(),
            variants: OnceLock::new(),
            checks: Budget::default(),
        }
    }

    /// A request with this `Cookie` header has no valid token.
    pub(super) fn rejected(&self, rejected: &Rejected, cookies: &str) {
        if rejected.error == TokenError::UnknownKey
            && let Some(difference) = self.white_space(&rejected.token)
        {
            return self.warnings.white_space(difference);
        }
        self.warnings.rejected(&rejected.error, cookies);
    }

    /// Returns how the secret that has signed `token` differs from one of this service, if only by white
    /// space.
    fn white_space(&self, token: &str) -> Option<&'static str> {
        if !self.checks.try_spend(token) {
            return None;
        }
        let variants = self.variants.get_or_init(|| {
            let variants = self.secrets.iter().flat_map(white_space_variants);
            let signer = |secret| TokenSigner::new(&BetterAuthSecrets::new(secret).ok()?).ok();
            variants
                .filter_map(|(difference, secret)| Some((difference, signer(secret)?)))
                .collect()
        });
        let mut variants = variants.iter();
        let (difference, _) = variants.find(|(_, signer)| signer.verify(token).is_ok())?;
        Some(difference)
    }
}

/// Omits the secrets.
impl fmt::Debug for Diagnosis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Diagnosis").finish_non_exhaustive()
    }
}
