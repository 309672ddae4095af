//! [`Diagnosis`]: why the tokens of requests are rejected, for the warnings about wrong set-ups.

use std::fmt;
use std::sync::OnceLock;
#[cfg(feature = "tower")]
use std::sync::atomic::{AtomicBool, Ordering};

use super::cookies::{CookieKey, SessionCookies};
use super::secrets::BetterAuthSecrets;
use super::signed::TokenSigner;
use crate::sessions::TokenError;
#[cfg(feature = "tower")]
use crate::sessions::diagnosis::Limit;
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
    #[cfg(feature = "tower")]
    pub(super) caches: CacheWarnings,
}

/// The warnings about valid tokens without a valid cache.
#[cfg(feature = "tower")]
#[derive(Debug, Default)]
pub(super) struct CacheWarnings {
    /// Whether a cache was accepted since the secrets were loaded.
    has_accepted: AtomicBool,
    limit: Limit,
}

#[cfg(feature = "tower")]
impl CacheWarnings {
    /// Records that a request had a valid cache.
    pub(super) fn accepted(&self) {
        // Most requests only read, so that threads do not share a write.
        if !self.has_accepted.load(Ordering::Relaxed) {
            self.has_accepted.store(true, Ordering::Relaxed);
        }
    }

    /// A handler needs a cache, and a request with a valid token has none. `cookie` is the name of the cache,
    /// and `advice` the next step.
    ///
    /// A cache that has ended is normal, so this warns only while no cache was ever accepted.
    pub(super) fn missing(&self, cookie: &str, advice: &str) {
        if self.has_accepted.load(Ordering::Relaxed) {
            return;
        }
        if let Some(requests) = self.limit.count() {
            tracing::warn!(
                target: "secretwell::auth",
                event = "session_cache_missing",
                cookie,
                requests,
                accepted_others = false,
                "requests with a valid session token are rejected, because a handler needs the session cache, and no cache was \
                 accepted since the secrets were loaded; {advice}",
            );
        }
    }
}

impl Diagnosis {
    pub(super) fn new(cookies: &SessionCookies, secrets: &BetterAuthSecrets) -> Self {
        Self {
            warnings: Warnings::new(cookies.name(CookieKey::SessionToken)),
            secrets: secrets.clone(),
            variants: OnceLock::new(),
            checks: Budget::default(),
            #[cfg(feature = "tower")]
            caches: CacheWarnings::default(),
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
