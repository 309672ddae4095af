//! The state of a login: its token, and what follows from a refusal.

use std::sync::Arc;
use std::time::Duration;

use secretwell_core::{Error, SecretValue};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use super::login::Token;

/// How long no accepted token is replaced after a replacement that did not help.
const UNHELPFUL_LOGIN_PAUSE: Duration = Duration::from_secs(5);
/// The first and the longest wait before a login whose last tokens were refused before their first success.
const REFUSED_TOKEN_BACKOFF: (Duration, Duration) =
    (Duration::from_secs(5), Duration::from_secs(60));

pub(super) type LoginResult = Result<Arc<Token>, Error>;
pub(super) type InFlight = watch::Receiver<Option<LoginResult>>;

/// The token of a login, and what is known about the last logins.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) token: Option<Arc<Token>>,
    pub(super) in_flight: Option<InFlight>,
    /// The last refused token, until the next login. A login that returns it again does not help.
    pub(super) refused: Option<Arc<Token>>,
    /// The credential of the last login that returned a token.
    pub(super) credential: Option<SecretValue>,
    pub(super) paused: Option<PausedCredential>,
    /// The number of tokens in a row that the server refused before their first success.
    pub(super) refused_tokens: u32,
    /// When the server last refused a token before its first success.
    pub(super) unhelpful_at: Option<Instant>,
    pub(super) renewer: Option<AbortHandle>,
    /// The task that reports the remaining lifetime of the token.
    #[cfg(feature = "metrics")]
    pub(super) reporter: Option<AbortHandle>,
    /// The configured token about whose expiry a warning was logged.
    pub(super) expiring: Option<SecretValue>,
    pub(super) tasks: JoinSet<()>,
}

/// A credential that is not used for a while, unless it changes.
#[derive(Debug)]
pub(super) struct PausedCredential {
    pub(super) credential: SecretValue,
    pub(super) until: Instant,
    /// If the credentials are new for each login, another one is not used before this time either.
    pub(super) others_until: Instant,
    pub(super) error: Error,
    /// The refused token of the login. It is used meanwhile, because the server might accept it later.
    pub(super) token: Option<Arc<Token>>,
}

/// What follows from the refusal of a token.
pub(super) enum Refusal {
    /// The token was discarded. A login can follow at once.
    Replace,
    /// The next login follows after this time.
    Wait(Duration),
    /// Nothing has changed. Another caller might have reported the refusal.
    Known(Result<(), Error>),
}

impl State {
    /// Returns whether this is the cached token.
    pub(super) fn is_current(&self, token: &Arc<Token>) -> bool {
        let cached = self.token.as_ref();
        cached.is_some_and(|cached| Arc::ptr_eq(cached, token))
    }

    /// Returns whether no login follows for a while because of the refusal of this token.
    pub(super) fn is_paused(&self, token: &Arc<Token>) -> bool {
        let paused = self
            .paused
            .as_ref()
            .and_then(|paused| paused.token.as_ref());
        paused.is_some_and(|paused| Arc::ptr_eq(paused, token))
    }

    /// Discards a token that the server has refused, unless another login would not help.
    pub(super) fn refuse(&mut self, token: &Arc<Token>, error: &Error, now: Instant) -> Refusal {
        if !self.is_current(token) {
            return Refusal::Known(match (&self.token, &self.paused) {
                (None, Some(paused)) if now < paused.until => Err(paused.error.clone()),
                _ => Ok(()),
            });
        }
        if token.is_accepted() {
            let is_unhelpful = self
                .unhelpful_at
                .is_some_and(|at| now < at + UNHELPFUL_LOGIN_PAUSE);
            if is_unhelpful {
                return Refusal::Known(Err(error.clone()));
            }
            token.refuse();
            self.refused = self.token.take();
            return Refusal::Replace;
        }
        token.refuse();
        self.refused = self.token.take();
        self.unhelpful_at = Some(now);
        self.refused_tokens = self.refused_tokens.saturating_add(1);
        let Some(failures) = self.refused_tokens.checked_sub(2) else {
            return Refusal::Replace;
        };
        let (first, longest) = REFUSED_TOKEN_BACKOFF;
        let wait = first.saturating_mul(1 << failures.min(10)).min(longest);
        self.paused = self.credential.take().map(|credential| PausedCredential {
            credential,
            until: now + wait,
            others_until: now + wait,
            error: error.clone(),
            token: Some(token.clone()),
        });
        Refusal::Wait(wait)
    }
}
