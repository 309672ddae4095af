//! One login for everybody: keeps the token of a login, renews it ahead, and logs in again when it must.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use secretwell_core::{Error, ErrorKind, Origin, SecretValue};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

/// How long a refused credential is not sent again while it stays the same. Servers lock out whoever
/// goes on guessing: Vault after five wrong secret ids, newer Infisical after three.
const REFUSAL: Duration = Duration::from_secs(5 * 60);
/// How often a token may be given up on a suspicion.
const BETWEEN_SUSPICIONS: Duration = Duration::from_secs(5);
/// How long to wait before a renewal that failed is tried again, at first and at most.
const RENEW_RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// What a login or a renewal yields.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct TokenLease {
    /// The token.
    pub token: SecretValue,
    /// For how long it is good; `None`: without an end.
    pub lifetime: Option<Duration>,
    /// Whether it may be renewed.
    pub renewable: bool,
}

impl TokenLease {
    /// Creates the lease of a token that does not expire and cannot be renewed.
    pub fn new(token: SecretValue) -> Self {
        Self {
            token,
            lifetime: None,
            renewable: false,
        }
    }
}

/// How to log in to a backend.
#[async_trait]
pub trait Login: fmt::Debug + Send + Sync + 'static {
    /// What the next login will be made with, read anew from wherever it comes from. It is what tells
    /// a credential that was refused from another.
    async fn credential(&self) -> Result<SecretValue, Error>;

    /// Logs in.
    async fn login(&self, credential: &SecretValue) -> Result<TokenLease, Error>;

    /// Renews a token.
    ///
    /// # Errors
    /// A permanent one when it cannot be renewed any more: then a new login follows, while the token
    /// is still good.
    async fn renew(&self, token: &SecretValue) -> Result<TokenLease, Error>;
}

/// A token at hand.
pub struct Token {
    value: SecretValue,
    granted: Instant,
    expires: Option<Instant>,
}

impl Token {
    /// The token itself.
    pub fn value(&self) -> &SecretValue {
        &self.value
    }

    /// When it ends, if it does.
    pub fn expires(&self) -> Option<Instant> {
        self.expires
    }

    fn is_good(&self, now: Instant) -> bool {
        self.expires.is_none_or(|expires| now < expires)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token")
            .field("expires", &self.expires)
            .finish_non_exhaustive()
    }
}

type Outcome = Result<Arc<Token>, Error>;
type InFlight = watch::Receiver<Option<Outcome>>;

/// The token of one login, for everybody who needs it. When it is dropped, its task ends.
#[derive(Debug)]
pub struct TokenManager {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    login: Box<dyn Login>,
    origin: Origin,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    token: Option<Arc<Token>>,
    in_flight: Option<InFlight>,
    refused: Option<Refused>,
    invalidated_at: Option<Instant>,
    renewer: Option<AbortHandle>,
    tasks: JoinSet<()>,
}

/// A credential that the server did not accept.
#[derive(Debug)]
struct Refused {
    credential: SecretValue,
    until: Instant,
    error: Error,
}

impl TokenManager {
    /// A session; nobody logs in yet. `source` is for the log.
    pub fn new(login: impl Login, origin: Origin) -> Self {
        let shared = Shared {
            login: Box::new(login),
            origin,
            state: Mutex::default(),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// A token that is good as far as can be told, from a login if need be. Any number of callers
    /// share one login; one that goes away stops nothing. Who joins a login that was under way and
    /// fails for a passing reason is not bound by it, and takes part in another, once.
    ///
    /// # Errors
    /// What the login says. A credential that was refused is not sent again for five minutes unless
    /// it has changed meanwhile.
    pub async fn token(&self) -> Result<Arc<Token>, Error> {
        match self.take_part().await {
            (true, Err(error)) if error.is_temporary() && !is_throttled(&error) => {
                self.take_part().await.1
            }
            (_, outcome) => outcome,
        }
    }

    /// What comes of the token at hand or of a login, and whether that was under way already.
    async fn take_part(&self) -> (bool, Outcome) {
        let (mut in_flight, under_way) = {
            let mut state = self.shared.state();
            match &state.token {
                Some(token) if token.is_good(Instant::now()) => return (false, Ok(token.clone())),
                _ => self.shared.clone().join(&mut state),
            }
        };
        let result = in_flight.wait_for(Option::is_some).await;
        let outcome = result.ok().and_then(|outcome| outcome.clone());
        let outcome = outcome.unwrap_or_else(|| {
            Err(
                Error::new(ErrorKind::Unavailable, "the login was broken off")
                    .with_origin(&self.shared.origin),
            )
        });
        (under_way, outcome)
    }

    /// Gives up a token that the server seems to have refused. Returns whether it is worth asking
    /// again with another: not when one was given up a moment ago, so that a missing permission that
    /// looks like a bad token does not become a stream of logins.
    pub fn invalidate(&self, token: &Arc<Token>) -> bool {
        let now = Instant::now();
        let mut state = self.shared.state();
        if !state.holds(token) {
            // Somebody has given it up already, and there may be another.
            return true;
        }
        let invalidated_at = state.invalidated_at;
        if invalidated_at.is_some_and(|at| now < at + BETWEEN_SUSPICIONS && token.granted >= at) {
            return false;
        }
        state.invalidated_at = Some(now);
        self.shared.give_up(&mut state, token);
        true
    }

    /// Gives up a token that the server has certainly refused.
    pub fn reject(&self, token: &Arc<Token>) {
        self.shared.give_up(&mut self.shared.state(), token);
    }
}

impl State {
    fn holds(&self, token: &Arc<Token>) -> bool {
        let held = self.token.as_ref();
        held.is_some_and(|held| Arc::ptr_eq(held, token))
    }
}

impl Drop for TokenManager {
    fn drop(&mut self) {
        self.shared.state().tasks.abort_all();
    }
}

impl Shared {
    fn give_up(&self, state: &mut State, token: &Arc<Token>) {
        if state.holds(token) {
            tracing::info!(target: "secretwell::http", event = "token_refused", origin = %self.origin, "the server refused the token; a new login follows");
            state.token = None;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The login that is under way, or a new one; and which of them.
    fn join(self: Arc<Self>, state: &mut State) -> (InFlight, bool) {
        if let Some(in_flight) = &state.in_flight
            && in_flight.has_changed().is_ok()
            && in_flight.borrow().is_none()
        {
            return (in_flight.clone(), true);
        }
        let (sender, in_flight) = watch::channel(None);
        state.in_flight = Some(in_flight.clone());
        while state.tasks.try_join_next().is_some() {}
        // The task holds no handle that would keep the session: when that is dropped, it is aborted.
        let weak = Arc::downgrade(&self);
        state.tasks.spawn(async move {
            if let Some(shared) = weak.upgrade() {
                let outcome = shared.log_in().await;
                sender.send_replace(Some(outcome));
            }
        });
        (in_flight, false)
    }

    async fn log_in(self: &Arc<Self>) -> Outcome {
        let credential = self.login.credential().await?;
        let started = Instant::now();
        if let Some(refused) = &self.state().refused
            && refused.credential == credential
            && started < refused.until
        {
            return Err(refused.error.clone());
        }
        match self.login.login(&credential).await {
            Ok(grant) => {
                let token = Arc::new(Token::new(grant.clone(), started));
                tracing::info!(target: "secretwell::http", event = "logged_in", origin = %self.origin, lifetime = ?grant.lifetime, "logged in");
                let mut state = self.state();
                state.refused = None;
                state.token = Some(token.clone());
                self.keep(&mut state, &grant, &token);
                Ok(token)
            }
            Err(error) => {
                tracing::warn!(target: "secretwell::http", event = "login_failed", origin = %self.origin, %error, "the login failed");
                if error.kind() == ErrorKind::Unauthenticated && !error.is_temporary() {
                    self.state().refused = Some(Refused {
                        credential,
                        until: started + REFUSAL,
                        error: error.clone(),
                    });
                }
                Err(error)
            }
        }
    }

    /// Sees to it that the token has a successor before it ends.
    fn keep(self: &Arc<Self>, state: &mut State, grant: &TokenLease, token: &Arc<Token>) {
        let Some(lifetime) = grant.lifetime else {
            return;
        };
        let renewer = Renewer {
            shared: Arc::downgrade(self),
            token: token.clone(),
            lifetime,
            renewable: grant.renewable,
        };
        if let Some(before) = state.renewer.take() {
            before.abort();
        }
        state.renewer = Some(state.tasks.spawn(renewer.run()));
    }
}

impl Token {
    /// Its life is counted from before it was asked for, so that it is never thought to last longer
    /// than it does.
    fn new(grant: TokenLease, asked: Instant) -> Self {
        Self {
            value: grant.token,
            granted: asked,
            expires: grant
                .lifetime
                .and_then(|lifetime| asked.checked_add(lifetime)),
        }
    }
}

fn is_throttled(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::RateLimited { .. })
}

/// Renews one token for as long as that is possible, and has it replaced before its end.
struct Renewer {
    shared: Weak<Shared>,
    token: Arc<Token>,
    lifetime: Duration,
    renewable: bool,
}

impl Renewer {
    async fn run(mut self) {
        let mut next = self.due();
        let mut retry = RENEW_RETRY.0;
        loop {
            tokio::time::sleep_until(next).await;
            let Some(shared) = self.shared.upgrade() else {
                return;
            };
            if !self.is_current(&shared) {
                return;
            }
            let prolonged = match self.renewable {
                true => self.renew(&shared).await,
                false => self.replace(shared).await,
            };
            match prolonged {
                Ok(()) => {
                    next = self.due();
                    retry = RENEW_RETRY.0;
                }
                // The token is good until it ends, whatever the server is up to.
                Err(_) => {
                    next = Instant::now() + retry.mul_f64(between(0.75, 1.25));
                    retry = (retry * 2).min(RENEW_RETRY.1);
                }
            }
            if self.token.expires.is_none_or(|expires| next >= expires) {
                return;
            }
        }
    }

    /// When to do something about it: in time for more than one try.
    fn due(&self) -> Instant {
        let share = match self.renewable {
            true => between(0.6, 0.7),
            false => between(0.8, 0.9),
        };
        self.token.granted + self.lifetime.mul_f64(share)
    }

    async fn renew(&mut self, shared: &Shared) -> Result<(), Error> {
        let asked = Instant::now();
        match shared.login.renew(&self.token.value).await {
            Ok(grant) => {
                let lifetime = grant.lifetime.unwrap_or(Duration::MAX);
                // That it goes on does not mean that it goes on for long: near its maximum it does not.
                self.renewable = grant.renewable && lifetime > self.lifetime / 2;
                self.lifetime = lifetime;
                self.adopt(shared, grant, asked);
                Ok(())
            }
            Err(error) if error.is_temporary() => {
                tracing::warn!(target: "secretwell::http", event = "token_renewal_failed", origin = %shared.origin, %error, "the token could not be renewed; the renewal is retried");
                Err(error)
            }
            Err(error) => {
                tracing::info!(target: "secretwell::http", event = "token_not_renewable", origin = %shared.origin, %error, "the token cannot be renewed; a new login follows");
                self.renewable = false;
                Ok(())
            }
        }
    }

    /// Logs in anew. The token that is there stays until that has worked, and this renewer ends with it.
    async fn replace(&self, shared: Arc<Shared>) -> Result<(), Error> {
        let (mut in_flight, _) = shared.clone().join(&mut shared.state());
        drop(shared);
        let result = in_flight.wait_for(Option::is_some).await;
        match result.ok().and_then(|outcome| outcome.clone()) {
            Some(outcome) => outcome.map(drop),
            None => Ok(()),
        }
    }

    fn is_current(&self, shared: &Shared) -> bool {
        shared.state().holds(&self.token)
    }

    /// Puts the renewed token in place of the one that was renewed.
    fn adopt(&mut self, shared: &Shared, grant: TokenLease, asked: Instant) {
        let renewed = Arc::new(Token::new(grant, asked));
        let mut state = shared.state();
        if state.holds(&self.token) {
            state.token = Some(renewed.clone());
        }
        self.token = renewed;
    }
}

fn between(low: f64, high: f64) -> f64 {
    low + (high - low) * fastrand::f64()
}

#[cfg(test)]
mod tests;
