//! The token of a login: shared by all callers, renewed in the background, and replaced by a new login.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use secretwell_core::{Error, ErrorKind, Origin, SecretValue};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

/// How long a refused credential is not sent again, unless it changes. Servers lock an account after a few
/// wrong attempts: Vault after five wrong secret IDs, newer Infisical versions after three.
const REFUSED_CREDENTIAL_PAUSE: Duration = Duration::from_secs(5 * 60);
/// The minimum time between two invalidations of a token.
const MIN_INVALIDATION_INTERVAL: Duration = Duration::from_secs(5);
/// The first and the longest wait before a failed renewal is retried.
const RENEWAL_BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

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

/// The login method of a backend.
#[async_trait]
pub trait Login: fmt::Debug + Send + Sync + 'static {
    /// Returns the credential for the next login, read again from where it is stored. A [`TokenManager`]
    /// compares it with the last refused one.
    ///
    /// # Errors
    /// Returns an error if the credential cannot be read.
    async fn credential(&self) -> Result<SecretValue, Error>;

    /// Logs in.
    ///
    /// # Errors
    /// Returns a permanent [`ErrorKind::Unauthenticated`] if the server refused the credential. It is then
    /// not sent again for a while. All other errors are treated as failures of the server.
    async fn login(&self, credential: &SecretValue) -> Result<TokenLease, Error>;

    /// Renews a token.
    ///
    /// # Errors
    /// Returns a permanent error if the token cannot be renewed any more. A new login then replaces it
    /// before it expires.
    async fn renew(&self, token: &SecretValue) -> Result<TokenLease, Error>;
}

/// A token that a [`TokenManager`] has cached, with its expiry.
pub struct Token {
    value: SecretValue,
    issued: Instant,
    expires: Option<Instant>,
}

impl Token {
    /// Returns the secret value of the token.
    pub fn value(&self) -> &SecretValue {
        &self.value
    }

    /// Returns when the token expires, or `None` if it does not expire.
    pub fn expires(&self) -> Option<Instant> {
        self.expires
    }

    fn is_valid(&self, now: Instant) -> bool {
        self.expires.is_none_or(|expires| now < expires)
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

type LoginResult = Result<Arc<Token>, Error>;
type InFlight = watch::Receiver<Option<LoginResult>>;

/// The manager of one login's token. All callers share the token. Dropping the manager stops its background
/// tasks.
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
    refused: Option<RefusedCredential>,
    invalidated_at: Option<Instant>,
    renewer: Option<AbortHandle>,
    tasks: JoinSet<()>,
}

/// A credential that the server did not accept.
#[derive(Debug)]
struct RefusedCredential {
    credential: SecretValue,
    paused_until: Instant,
    error: Error,
}

impl TokenManager {
    /// Creates a manager. The first call of [`token`](Self::token) logs in. `origin` appears in log messages.
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

    /// Returns the cached token, or logs in if it is missing or has expired.
    ///
    /// Concurrent callers share one login. If a caller has joined an in-flight login and it fails with a
    /// temporary error, the caller waits for one more login. After a rate limit, it does not.
    ///
    /// # Errors
    /// Returns the error of the login. A refused credential is not sent again for five minutes, unless it
    /// changes; until then its error is returned again.
    ///
    /// # Cancellation
    /// Dropping the future does not cancel the login, because other callers might wait for it.
    pub async fn token(&self) -> Result<Arc<Token>, Error> {
        match self.token_or_login().await {
            (true, Err(error)) if error.is_temporary() && !is_rate_limited(&error) => {
                self.token_or_login().await.1
            }
            (_, result) => result,
        }
    }

    /// Returns the cached token or the result of a login, and whether that login was already running.
    async fn token_or_login(&self) -> (bool, LoginResult) {
        let (mut in_flight, joined) = {
            let mut state = self.shared.state();
            match &state.token {
                Some(token) if token.is_valid(Instant::now()) => return (false, Ok(token.clone())),
                _ => self.shared.clone().start_or_join_login(&mut state),
            }
        };
        let result = in_flight.wait_for(Option::is_some).await;
        let result = result.ok().and_then(|result| result.clone());
        let result = result.unwrap_or_else(|| {
            Err(
                Error::new(ErrorKind::Unavailable, "the login was cancelled")
                    .with_origin(&self.shared.origin),
            )
        });
        (joined, result)
    }

    /// Discards a token that the server seems to have refused. Returns whether a retry with another token is
    /// useful.
    ///
    /// Returns `false` and keeps the token if one was discarded within the last five seconds. A missing
    /// permission can look like a refused token, and would otherwise cause one login after another.
    pub fn invalidate(&self, token: &Arc<Token>) -> bool {
        let now = Instant::now();
        let mut state = self.shared.state();
        if !state.is_current(token) {
            // Another caller has discarded it already, and there might be a newer one.
            return true;
        }
        let invalidated_at = state.invalidated_at;
        if invalidated_at
            .is_some_and(|at| now < at + MIN_INVALIDATION_INTERVAL && token.issued >= at)
        {
            return false;
        }
        state.invalidated_at = Some(now);
        self.shared.discard(&mut state, token);
        true
    }

    /// Discards a token that the server has certainly refused.
    pub fn reject(&self, token: &Arc<Token>) {
        self.shared.discard(&mut self.shared.state(), token);
    }
}

impl State {
    fn is_current(&self, token: &Arc<Token>) -> bool {
        let cached = self.token.as_ref();
        cached.is_some_and(|cached| Arc::ptr_eq(cached, token))
    }
}

impl Drop for TokenManager {
    fn drop(&mut self) {
        self.shared.state().tasks.abort_all();
    }
}

impl Shared {
    fn discard(&self, state: &mut State, token: &Arc<Token>) {
        if state.is_current(token) {
            tracing::info!(target: "secretwell::http", event = "token_refused", origin = %self.origin, "the server refused the token; a new login follows");
            state.token = None;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the in-flight login, or starts one. The flag is whether it was already running.
    fn start_or_join_login(self: Arc<Self>, state: &mut State) -> (InFlight, bool) {
        if let Some(in_flight) = &state.in_flight
            && in_flight.has_changed().is_ok()
            && in_flight.borrow().is_none()
        {
            return (in_flight.clone(), true);
        }
        let (sender, in_flight) = watch::channel(None);
        state.in_flight = Some(in_flight.clone());
        while state.tasks.try_join_next().is_some() {}
        // The task starts with a weak reference, so that a task that has not run yet does not keep the
        // state alive. It is aborted when the manager is dropped.
        let weak = Arc::downgrade(&self);
        state.tasks.spawn(async move {
            if let Some(shared) = weak.upgrade() {
                let result = shared.log_in().await;
                sender.send_replace(Some(result));
            }
        });
        (in_flight, false)
    }

    async fn log_in(self: &Arc<Self>) -> LoginResult {
        let credential = self.login.credential().await?;
        let started = Instant::now();
        if let Some(refused) = &self.state().refused
            && refused.credential == credential
            && started < refused.paused_until
        {
            return Err(refused.error.clone());
        }
        match self.login.login(&credential).await {
            Ok(lease) => {
                let token = Arc::new(Token::new(lease.clone(), started));
                tracing::info!(target: "secretwell::http", event = "logged_in", origin = %self.origin, lifetime = ?lease.lifetime, "logged in");
                let mut state = self.state();
                state.refused = None;
                state.token = Some(token.clone());
                self.start_renewer(&mut state, &lease, &token);
                Ok(token)
            }
            Err(error) => {
                tracing::warn!(target: "secretwell::http", event = "login_failed", origin = %self.origin, %error, "the login failed");
                if error.kind() == ErrorKind::Unauthenticated && !error.is_temporary() {
                    self.state().refused = Some(RefusedCredential {
                        credential,
                        paused_until: started + REFUSED_CREDENTIAL_PAUSE,
                        error: error.clone(),
                    });
                }
                Err(error)
            }
        }
    }

    /// Starts the background task that renews or replaces the token before it expires, and stops the
    /// previous one. For a token without an expiry, no task is started.
    fn start_renewer(self: &Arc<Self>, state: &mut State, lease: &TokenLease, token: &Arc<Token>) {
        let Some(lifetime) = lease.lifetime else {
            return;
        };
        let renewer = Renewer {
            shared: Arc::downgrade(self),
            token: token.clone(),
            lifetime,
            renewable: lease.renewable,
        };
        if let Some(previous) = state.renewer.take() {
            previous.abort();
        }
        state.renewer = Some(state.tasks.spawn(renewer.run()));
    }
}

impl Token {
    /// Creates a token that was requested at `requested`. Its lifetime is counted from that time, so that it
    /// is never assumed to be valid for too long.
    fn new(lease: TokenLease, requested: Instant) -> Self {
        Self {
            value: lease.token,
            issued: requested,
            expires: lease
                .lifetime
                .and_then(|lifetime| requested.checked_add(lifetime)),
        }
    }
}

fn is_rate_limited(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::RateLimited { .. })
}

/// The background task that renews one token as long as possible, and then replaces it by a new login
/// before it expires.
struct Renewer {
    shared: Weak<Shared>,
    token: Arc<Token>,
    lifetime: Duration,
    renewable: bool,
}

impl Renewer {
    async fn run(mut self) {
        let mut next = self.due();
        let mut backoff = RENEWAL_BACKOFF.0;
        loop {
            tokio::time::sleep_until(next).await;
            let Some(shared) = self.shared.upgrade() else {
                return;
            };
            if !self.is_current(&shared) {
                return;
            }
            let result = match self.renewable {
                true => self.renew(&shared).await,
                false => self.replace(shared).await,
            };
            match result {
                Ok(()) => {
                    next = self.due();
                    backoff = RENEWAL_BACKOFF.0;
                }
                // A failed renewal does not invalidate the token, so the token stays in use.
                Err(_) => {
                    next = Instant::now() + backoff.mul_f64(random_between(0.75, 1.25));
                    backoff = (backoff * 2).min(RENEWAL_BACKOFF.1);
                }
            }
            if self.token.expires.is_none_or(|expires| next >= expires) {
                return;
            }
        }
    }

    /// Returns when to renew or replace the token. The remaining lifetime is enough for several attempts.
    /// The random part spreads the renewals of many instances.
    fn due(&self) -> Instant {
        let share = match self.renewable {
            true => random_between(0.6, 0.7),
            false => random_between(0.8, 0.9),
        };
        self.token.issued + self.lifetime.mul_f64(share)
    }

    async fn renew(&mut self, shared: &Shared) -> Result<(), Error> {
        let requested = Instant::now();
        match shared.login.renew(&self.token.value).await {
            Ok(lease) => {
                let lifetime = lease.lifetime.unwrap_or(Duration::MAX);
                // Near the maximum lifetime of a token, a renewal succeeds but returns a shorter lifetime.
                // The token is then replaced by a new login.
                self.renewable = lease.renewable && lifetime > self.lifetime / 2;
                self.lifetime = lifetime;
                self.store(shared, lease, requested);
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

    /// Logs in to get a new token. The current token stays in use until the login has succeeded; then this
    /// task ends.
    async fn replace(&self, shared: Arc<Shared>) -> Result<(), Error> {
        let (mut in_flight, _) = shared.clone().start_or_join_login(&mut shared.state());
        drop(shared);
        let result = in_flight.wait_for(Option::is_some).await;
        match result.ok().and_then(|result| result.clone()) {
            Some(result) => result.map(drop),
            None => Ok(()),
        }
    }

    fn is_current(&self, shared: &Shared) -> bool {
        shared.state().is_current(&self.token)
    }

    /// Replaces the cached token by its renewed form, unless another token was cached meanwhile.
    fn store(&mut self, shared: &Shared, lease: TokenLease, requested: Instant) {
        let renewed = Arc::new(Token::new(lease, requested));
        let mut state = shared.state();
        if state.is_current(&self.token) {
            state.token = Some(renewed.clone());
        }
        self.token = renewed;
    }
}

fn random_between(low: f64, high: f64) -> f64 {
    low + (high - low) * fastrand::f64()
}

#[cfg(test)]
mod tests;
