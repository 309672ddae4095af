//! What a backend implements to log in, and the token that results.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use http::HeaderValue;
use secretwell_core::{Error, ErrorKind, SecretValue};
use tokio::time::Instant;

use crate::request::{invalid_token, secret_header_value};

/// A token with its lifetime, as returned by a login or a renewal.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct TokenLease {
    /// The text that requests send as their token.
    pub token: SecretValue,
    /// How long the token is valid. `None` if it does not expire.
    pub lifetime: Option<Duration>,
    /// Whether the token can be renewed.
    pub renewable: bool,
    /// The number of requests for which the token can be used. `None` or 0 if it is not limited. A token with a
    /// limit is not renewed, because a renewal uses it as well.
    pub uses: Option<u64>,
}

impl TokenLease {
    /// Creates the lease of a token that does not expire, cannot be renewed, and has no limited number of
    /// uses.
    pub fn new(token: SecretValue) -> Self {
        Self {
            token,
            lifetime: None,
            renewable: false,
            uses: None,
        }
    }
}

/// Why a login failed.
#[derive(Debug)]
#[non_exhaustive]
pub struct LoginFailure {
    /// The error for the caller.
    pub error: Error,
    /// Whether the credential is held back for five minutes, unless it changes.
    pub hold: bool,
}

impl LoginFailure {
    /// Creates the failure for a server that counts failed logins and stated that the credential is wrong. It
    /// is not sent again for five minutes, unless it changes, so that it locks no account.
    ///
    /// All other failures are converted from their error. An operator might repair on the server what they
    /// report, such as a missing role.
    pub fn wrong_credential(error: Error) -> Self {
        Self { error, hold: true }
    }
}

impl From<Error> for LoginFailure {
    /// Converts the error of a login whose credential can be sent again.
    fn from(error: Error) -> Self {
        Self { error, hold: false }
    }
}

/// The login method of a backend.
#[async_trait]
pub trait Login: fmt::Debug + Send + Sync + 'static {
    /// Returns the credential for the next login, read again from where it is stored. A
    /// [`TokenManager`](crate::TokenManager) compares it with the one of a failed login.
    ///
    /// # Errors
    /// Returns an error if the credential cannot be read.
    async fn credential(&self) -> Result<SecretValue, Error>;

    /// Returns whether [`credential`](Self::credential) can return another value for each login, such as a
    /// signed request. The wait after a failed login then applies to every credential. Only a
    /// [wrong credential](LoginFailure::wrong_credential) is still compared with the next one. Default:
    /// `false`.
    fn is_credential_new_each_time(&self) -> bool {
        false
    }

    /// Returns whether the credential is an existing token, for which [`login`](Self::login) sends no request. The
    /// log then mentions no login. Default: `false`.
    fn is_configured_token(&self) -> bool {
        false
    }

    /// Logs in.
    ///
    /// # Errors
    /// Returns [`LoginFailure::wrong_credential`] if the server counts failed logins and stated that the
    /// credential is wrong. All other failures are converted from an error.
    async fn login(&self, credential: &SecretValue) -> Result<TokenLease, LoginFailure>;

    /// Renews a token.
    ///
    /// # Errors
    /// Returns a permanent error if the token cannot be renewed any more. A new login then replaces it
    /// before it expires.
    async fn renew(&self, token: &SecretValue) -> Result<TokenLease, Error>;

    /// Describes a token that [`login`](Self::login) did not request from the server, such as one from the
    /// configuration. It is called 1 s after the first success of each token, because the lookup might use the token
    /// up, or earlier by [`TokenManager::describe`](crate::TokenManager::describe). After a temporary error, or if
    /// the future is dropped, it is called again. Default: `None`, because the login described the token.
    ///
    /// # Errors
    /// Returns a temporary error if the lookup can succeed later. It is then repeated. A permanent error
    /// changes nothing.
    async fn describe(&self, _token: &SecretValue) -> Result<Option<TokenLease>, Error> {
        Ok(None)
    }

    /// Returns the error for a token that the server refuses although the login succeeded.
    fn refused_token(&self) -> Error {
        Error::new(
            ErrorKind::Unauthenticated,
            "the login succeeds, but the server refuses its token",
        )
        .with_hint("check whether the token is bound to other addresses, or has no uses left")
    }
}

/// A token that a [`TokenManager`](crate::TokenManager) has cached, with its expiry.
pub struct Token {
    value: SecretValue,
    /// `None` if a header cannot contain the token.
    header: Option<HeaderValue>,
    pub(super) issued: Instant,
    expires: Option<Instant>,
    /// The remaining uses, if they are limited.
    uses: Option<AtomicU64>,
    accepted: AtomicBool,
    /// Whether the server has refused the token. Shared with its renewed forms.
    refused: Arc<AtomicBool>,
    /// Whether the server has described the token after the login.
    described: bool,
}

impl Token {
    /// Creates a token that was requested at `requested`. Its lifetime is counted from that time, so that it
    /// is never assumed to be valid for too long.
    pub(crate) fn new(lease: TokenLease, requested: Instant) -> Self {
        Self {
            header: secret_header_value(lease.token.expose_bytes()).ok(),
            value: lease.token,
            issued: requested,
            expires: lease
                .lifetime
                .and_then(|lifetime| requested.checked_add(lifetime)),
            uses: lease.uses.filter(|uses| *uses > 0).map(AtomicU64::new),
            accepted: AtomicBool::new(false),
            refused: Arc::default(),
            described: false,
        }
    }

    /// Returns this token with the lifetime that the server has described or renewed.
    pub(super) fn renewed(&self, lease: TokenLease, requested: Instant) -> Self {
        Self {
            described: true,
            accepted: AtomicBool::new(self.is_accepted()),
            refused: Arc::clone(&self.refused),
            ..Self::new(lease, requested)
        }
    }

    pub(super) fn is_described(&self) -> bool {
        self.described
    }

    /// Returns the secret value of the token.
    pub fn value(&self) -> &SecretValue {
        &self.value
    }

    /// Returns the value of a header with the token. It is marked as sensitive, so that no log prints it.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Invalid`] if the token contains a line break or another byte that is not allowed in
    /// a header.
    pub fn header(&self) -> Result<HeaderValue, Error> {
        self.header.clone().ok_or_else(invalid_token)
    }

    /// Returns when the token expires, or `None` if it does not expire.
    pub fn expires(&self) -> Option<Instant> {
        self.expires
    }

    /// Returns the remaining lifetime, counted from `called`, the start of a call. If the token was requested later, it
    /// counts from that request, so it is never longer than the server has stated. `None` if the token does not expire.
    pub fn remaining(&self, called: Instant) -> Option<Duration> {
        let start = called.max(self.issued);
        self.expires
            .map(|expires| expires.saturating_duration_since(start))
    }

    /// Returns whether the server has [accepted](crate::TokenManager::accepted) the token.
    pub fn is_accepted(&self) -> bool {
        self.accepted.load(Ordering::Acquire)
    }

    /// Returns whether the server has refused the token after the last success. What was created with the token might
    /// have ended with it.
    pub fn is_refused(&self) -> bool {
        self.refused.load(Ordering::Acquire)
    }

    pub(super) fn refuse(&self) {
        self.refused.store(true, Ordering::Release);
    }

    /// Returns whether the token can be used only for a limited number of requests. A lookup of such a token
    /// would use it.
    pub fn has_limited_uses(&self) -> bool {
        self.uses.is_some()
    }

    pub(super) fn is_valid(&self, now: Instant) -> bool {
        let is_used_up = self
            .uses
            .as_ref()
            .is_some_and(|uses| uses.load(Ordering::Relaxed) == 0);
        !is_used_up && self.expires.is_none_or(|expires| now < expires)
    }

    /// Takes one of the remaining uses. Returns whether one was left.
    pub(super) fn take_use(&self) -> bool {
        self.uses.as_ref().is_none_or(|uses| {
            let taken = uses.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |uses| {
                uses.checked_sub(1)
            });
            taken.is_ok()
        })
    }

    /// Records that the server accepted the token. Returns whether this is the first time.
    pub(super) fn accept(&self) -> bool {
        if self.is_accepted() || self.accepted.swap(true, Ordering::AcqRel) {
            return false;
        }
        self.refused.store(false, Ordering::Release);
        true
    }
}

/// Omits the value.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token")
            .field("expires", &self.expires)
            .finish_non_exhaustive()
    }
}
