//! The token of a login: shared by all callers, renewed in the background, and replaced by a new login.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use secretwell_core::{Error, ErrorKind, Origin, SecretValue};
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::span::Id;
use tracing::{Instrument, Span};

use self::renewal::{Backoff, Schedule};
use self::span::login_span;
use self::state::{InFlight, LoginResult, PausedCredential, Refusal, State};

mod login;
mod renewal;
#[cfg(feature = "metrics")]
mod report;
mod span;
mod state;
#[cfg(test)]
mod tests;

pub use login::{Login, LoginFailure, Token, TokenLease};

/// How long a wrong credential is not sent again, unless it changes. Servers lock an account after a few
/// wrong attempts: Vault after five wrong secret IDs, newer Infisical versions after three.
const WRONG_CREDENTIAL_PAUSE: Duration = Duration::from_secs(5 * 60);
/// How long another credential is not sent after a wrong one, if credentials are new for each login. They can differ
/// although they contain the same wrong secret.
const OTHER_CREDENTIAL_PAUSE: Duration = Duration::from_secs(30);
/// How long a credential is not sent again, unless it changes, after a login that the server refused for
/// another reason.
const REFUSED_LOGIN_PAUSE: Duration = Duration::from_secs(1);
/// The longest time for providing a credential, which a closure of the user can do.
const CREDENTIAL_DEADLINE: Duration = Duration::from_secs(10);
/// How long after the first success of a token its description is requested. A program that ends before, or the
/// reads at the start of one, thus lose no use of a token with few uses.
const DESCRIPTION_DELAY: Duration = Duration::from_secs(1);

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
    /// Locked during the request of a description, so that concurrent callers share it.
    described: tokio::sync::Mutex<Option<Description>>,
}

/// The last description of a token.
#[derive(Debug)]
struct Description {
    token: Arc<Token>,
    at: Instant,
    result: LoginResult,
}

impl TokenManager {
    /// Creates a manager. The first call of [`token`](Self::token) logs in. `origin` appears in log messages.
    pub fn new(login: impl Login, origin: Origin) -> Self {
        let shared = Shared {
            login: Box::new(login),
            origin,
            state: Mutex::default(),
            described: tokio::sync::Mutex::default(),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Returns the cached token, or logs in if it is missing, has expired, or has no uses left. The token can
    /// be used for one request.
    ///
    /// Concurrent callers share one login. If a caller has joined an in-flight login and it fails with a
    /// temporary error, the caller waits for one more login. If the server asked to wait, it does not.
    ///
    /// # Errors
    /// Returns the error of the login. While the credential must not be sent again, returns the error of the
    /// last login, unless the credential has changed:
    ///
    /// - for five minutes after a [wrong credential](LoginFailure::wrong_credential),
    /// - for 1 s after another permanent failure.
    ///
    /// # Cancellation
    /// Dropping the future does not cancel the login, because other callers might wait for it.
    pub async fn token(&self) -> Result<Arc<Token>, Error> {
        let mut has_retried = false;
        loop {
            let (joined, result) = self.token_or_login().await;
            match result {
                Ok(token) if token.take_use() => return Ok(token),
                // The callers that share the login have used up its token.
                Ok(_) => {}
                Err(error)
                    if joined && !has_retried && error.is_temporary() && !asks_to_wait(&error) =>
                {
                    has_retried = true;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Returns the cached token or the result of a login, and whether that login was already running.
    async fn token_or_login(&self) -> (bool, LoginResult) {
        let cause = Span::current().id();
        let (mut in_flight, joined) = {
            let mut state = self.shared.state();
            match &state.token {
                Some(token) if token.is_valid(Instant::now()) => return (false, Ok(token.clone())),
                _ => self.shared.clone().start_or_join_login(&mut state, cause),
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

    /// Records that the server accepted the token. This ends the backoff of [`refused`](Self::refused).
    pub fn accepted(&self, token: &Arc<Token>) {
        // Without the lock, because this is called after each request.
        if !token.accept() {
            return;
        }
        let mut state = self.shared.state();
        if state.is_paused(token) {
            state.token = Some(token.clone());
            state.paused = None;
        }
        if state.is_current(token) {
            state.refused_tokens = 0;
            let describer = Arc::downgrade(&self.shared);
            state.tasks.spawn(describe(describer, token.clone()));
        }
    }

    /// Returns the token with its lifetime. If the login did not request the token from the server, this
    /// requests its [description](Login::describe), which otherwise follows 1 s after the token's first success.
    /// All callers share the request.
    ///
    /// # Errors
    /// Returns the error of the request.
    pub async fn describe(&self, token: &Arc<Token>) -> Result<Arc<Token>, Error> {
        self.shared.describe(token).await
    }

    /// Records that the server refused the token. If this returns `Ok`, the caller can request another
    /// [`token`](Self::token) and repeat its request once.
    ///
    /// # Errors
    /// Returns [`Login::refused_token`] if a new login does not help now:
    ///
    /// - The server refused the last two tokens before their first success. The next login follows after 5 s,
    ///   and after up to 60 s if its token is refused as well. Until then, [`token`](Self::token) returns the
    ///   refused token, unless the credential changes.
    /// - The server refused the replacement of another token less than 5 s ago. The token is kept, because the
    ///   reason might be a missing permission.
    pub fn refused(&self, token: &Arc<Token>) -> Result<(), Error> {
        let Shared { login, origin, .. } = &*self.shared;
        let error = login.refused_token();
        let refusal = self.shared.state().refuse(token, &error, Instant::now());
        match refusal {
            Refusal::Replace => {
                let message = match login.is_configured_token() {
                    true => "the server refused the configured token, which is read again",
                    false => "the server refused the token; a new login follows",
                };
                tracing::info!(target: "secretwell::http", event = "token_refused", origin = %origin, "{message}");
                Ok(())
            }
            Refusal::Wait(wait) => {
                let message = match login.is_configured_token() {
                    true => {
                        "the server refuses the configured token, which is read again after a wait"
                    }
                    false => {
                        "the server refuses the token of a new login; the next login follows after a wait"
                    }
                };
                tracing::warn!(target: "secretwell::http", event = "new_token_refused", origin = %origin, ?wait, "{message}");
                Err(error)
            }
            Refusal::Known(result) => result,
        }
    }
}

impl Drop for TokenManager {
    fn drop(&mut self) {
        self.shared.state().tasks.abort_all();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the in-flight login, or starts one. The flag is whether it was already running. `cause` is the span of
    /// the caller.
    fn start_or_join_login(
        self: Arc<Self>,
        state: &mut State,
        cause: Option<Id>,
    ) -> (InFlight, bool) {
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
                let result = shared.log_in(cause).await;
                sender.send_replace(Some(result));
            }
        });
        (in_flight, false)
    }

    /// Returns the result of a login that is not sent, because the last one failed a moment ago. `credential` is
    /// `None` while it is not known. It might then be another one.
    fn paused_login(&self, credential: Option<&SecretValue>) -> Option<LoginResult> {
        let state = self.state();
        let now = Instant::now();
        let paused = state.paused.as_ref()?;
        let until = match credential.is_some_and(|credential| paused.credential == *credential) {
            true => paused.until,
            false if self.login.is_credential_new_each_time() => paused.others_until,
            false => return None,
        };
        (now < until).then(|| match &paused.token {
            Some(token) if token.is_valid(now) => Ok(token.clone()),
            _ => Err(paused.error.clone()),
        })
    }

    async fn log_in(self: &Arc<Self>, cause: Option<Id>) -> LoginResult {
        if self.login.is_credential_new_each_time()
            && let Some(result) = self.paused_login(None)
        {
            return result;
        }
        let credential = self.credential().await?;
        let result = self.log_in_with(credential.clone(), cause.clone()).await;
        let is_refused = |error: &Error| !error.is_temporary();
        if self.login.is_credential_new_each_time() || !result.as_ref().is_err_and(is_refused) {
            return result;
        }
        // It might have been replaced during the login, which then says nothing about the new one.
        match self.credential().await {
            Ok(newer) if newer != credential => self.log_in_with(newer, cause).await,
            Err(error) if error.is_temporary() => Err(error),
            _ => result,
        }
    }

    /// Returns the current credential. The time is limited, because it can come from code of the user, and all callers
    /// wait for it.
    async fn credential(&self) -> Result<SecretValue, Error> {
        let credential = tokio::time::timeout(CREDENTIAL_DEADLINE, self.login.credential());
        credential.await.map_err(|_| credential_timed_out())?
    }

    async fn log_in_with(
        self: &Arc<Self>,
        credential: SecretValue,
        cause: Option<Id>,
    ) -> LoginResult {
        if let Some(result) = self.paused_login(Some(&credential)) {
            return result;
        }
        let started = Instant::now();
        match self.send_login(&credential, cause).await {
            Ok(lease) => {
                if let Some(known) = self.known_token(&lease) {
                    return Ok(known);
                }
                let token = Arc::new(Token::new(lease.clone(), started));
                if !self.login.is_configured_token() {
                    tracing::info!(target: "secretwell::http", event = "logged_in", origin = %self.origin, lifetime = ?lease.lifetime, "logged in");
                }
                let mut state = self.state();
                state.paused = None;
                state.credential = Some(credential);
                state.token = Some(token.clone());
                self.start_renewer(&mut state, &lease, &token);
                #[cfg(feature = "metrics")]
                self.start_reporter(&mut state);
                Ok(token)
            }
            Err(LoginFailure { error, hold }) => {
                let message = match self.login.is_configured_token() {
                    true => "the configured token cannot be used",
                    false => "the login failed",
                };
                tracing::warn!(target: "secretwell::http", event = "login_failed", origin = %self.origin, %error, "{message}");
                let pauses = match hold {
                    true => Some((WRONG_CREDENTIAL_PAUSE, OTHER_CREDENTIAL_PAUSE)),
                    // During an outage, the callers decide when the next login follows.
                    false => (!error.is_temporary())
                        .then_some((REFUSED_LOGIN_PAUSE, REFUSED_LOGIN_PAUSE)),
                };
                if let Some((pause, others)) = pauses {
                    let now = Instant::now();
                    self.state().paused = Some(PausedCredential {
                        credential,
                        until: now + pause,
                        others_until: now + others,
                        error: error.clone(),
                        token: None,
                    });
                }
                Err(error)
            }
        }
    }

    /// Logs in, in a span of its own. A configured token needs no login, so it has none.
    async fn send_login(
        &self,
        credential: &SecretValue,
        cause: Option<Id>,
    ) -> Result<TokenLease, LoginFailure> {
        let is_login = !self.login.is_configured_token();
        let span = match is_login {
            true => login_span(&self.origin, cause),
            false => Span::none(),
        };
        #[cfg(feature = "metrics")]
        let started = Instant::now();
        let result = self.login.login(credential).instrument(span.clone()).await;
        let result = match result {
            Ok(lease) if self.is_refused(&lease) => Err(self.login.refused_token().into()),
            result => result,
        };
        if let Err(LoginFailure { error, .. }) = &result {
            span.record("error.type", error.kind().name());
            span.record("otel.status_code", "ERROR");
        }
        #[cfg(feature = "metrics")]
        if is_login {
            let failure = result.as_ref().err().map(|failure| &failure.error);
            report::logged_in(&self.origin, started.elapsed(), failure);
        }
        result
    }

    /// Returns the cached token if a login returned it again without its lifetime, which was described before. For
    /// example, a configured token that expires soon has not been replaced yet.
    fn known_token(&self, lease: &TokenLease) -> Option<Arc<Token>> {
        let known = self.state().token.clone()?;
        let is_known = lease.lifetime.is_none()
            && known.is_described()
            && known.is_valid(Instant::now())
            && *known.value() == lease.token;
        is_known.then_some(known)
    }

    /// Returns whether the server refused the token a moment ago. The next login can use it all the same, because
    /// an operator might have repaired the reason.
    fn is_refused(&self, lease: &TokenLease) -> bool {
        let refused = self.state().refused.take();
        refused.is_some_and(|refused| *refused.value() == lease.token)
    }

    /// Returns the token with its description, and starts the renewal of a token that was not described before.
    /// All callers share the description of a token. A temporary error is only shared by those that waited for it.
    async fn describe(self: &Arc<Self>, token: &Arc<Token>) -> LoginResult {
        if token.is_described() {
            return Ok(token.clone());
        }
        let called = Instant::now();
        let mut last = self.described.lock().await;
        if let Some(Description { at, result, .. }) =
            last.as_ref().filter(|last| Arc::ptr_eq(&last.token, token))
            && (called < *at || !result.as_ref().is_err_and(Error::is_temporary))
        {
            return result.clone();
        }
        let result = self.request_description(token).await;
        *last = Some(Description {
            token: token.clone(),
            at: Instant::now(),
            result: result.clone(),
        });
        result
    }

    async fn request_description(self: &Arc<Self>, token: &Arc<Token>) -> LoginResult {
        let requested = Instant::now();
        let Some(lease) = self.login.describe(token.value()).await? else {
            return Ok(token.clone());
        };
        let described = Arc::new(token.renewed(lease.clone(), requested));
        described.accept();
        if !lease.renewable {
            self.warn_of_expiry(&described);
        }
        let mut state = self.state();
        if state.is_current(token) {
            state.token = Some(described.clone());
            self.start_renewer(&mut state, &lease, &described);
        }
        Ok(described)
    }

    /// Logs once that a configured token expires and cannot be renewed. No login replaces it.
    fn warn_of_expiry(&self, token: &Token) {
        let Some(expires) = token.expires() else {
            return;
        };
        let mut state = self.state();
        let is_known = state.expiring.as_ref() == Some(token.value());
        if !self.login.is_configured_token() || is_known {
            return;
        }
        state.expiring = Some(token.value().clone());
        drop(state);
        let expires_in = expires.saturating_duration_since(Instant::now()).as_secs();
        tracing::warn!(target: "secretwell::http", event = "token_expires", origin = %self.origin, expires_in, "the configured token expires in {expires_in} s and cannot be renewed; configure another one");
    }

    /// Starts the background task that renews or replaces the token before it expires, and stops the
    /// previous one. No task is started for a token without an expiry, nor for one with a limited number of
    /// uses, because a renewal would use it.
    fn start_renewer(self: &Arc<Self>, state: &mut State, lease: &TokenLease, token: &Arc<Token>) {
        let Some(lifetime) = lease.lifetime.filter(|_| !token.has_limited_uses()) else {
            return;
        };
        let renewer = Renewer {
            shared: Arc::downgrade(self),
            token: token.clone(),
            schedule: Schedule::new(lifetime, lease.renewable),
        };
        if let Some(previous) = state.renewer.take() {
            previous.abort();
        }
        state.renewer = Some(state.tasks.spawn(renewer.run()));
    }

    /// Starts the background task that reports the remaining lifetime of the token, unless it is running.
    #[cfg(feature = "metrics")]
    fn start_reporter(self: &Arc<Self>, state: &mut State) {
        let reporter = state.reporter.as_ref();
        if reporter.is_some_and(|reporter| !reporter.is_finished()) {
            return;
        }
        let weak = Arc::downgrade(self);
        let expiry = move || {
            let shared = weak.upgrade()?;
            let expires = shared.state().token.as_ref().map(|token| token.expires());
            Some(expires.flatten())
        };
        let report = report::remaining_lifetime(self.origin.clone(), expiry);
        state.reporter = Some(state.tasks.spawn(report));
    }
}

fn asks_to_wait(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::RateLimited { .. }) || error.retry_after().is_some()
}

/// Replaces a token by its description, which has its lifetime. Only logins that did not request the token
/// themselves have a description.
async fn describe(shared: Weak<Shared>, token: Arc<Token>) {
    let mut wait = DESCRIPTION_DELAY;
    let mut backoff = Backoff::new();
    loop {
        tokio::time::sleep(wait).await;
        let Some(shared) = shared.upgrade().filter(|s| s.state().is_current(&token)) else {
            return;
        };
        match shared.describe(&token).await {
            Err(error) if error.is_temporary() => {
                tracing::warn!(target: "secretwell::http", event = "token_lookup_failed", origin = %shared.origin, %error, "the lifetime of the token is unknown; the lookup is repeated");
            }
            Ok(_) | Err(_) => return,
        }
        wait = backoff.next();
    }
}

fn credential_timed_out() -> Error {
    let deadline = CREDENTIAL_DEADLINE;
    Error::new(
        ErrorKind::Timeout,
        format!("the credential of the login was not provided within {deadline:?}"),
    )
    .with_hint("check what provides the credential, such as a file system or a closure")
}

/// The background task that renews one token as long as possible, and then replaces it by a new login
/// before it expires.
struct Renewer {
    shared: Weak<Shared>,
    token: Arc<Token>,
    schedule: Schedule,
}

impl Renewer {
    async fn run(mut self) {
        let mut next = self.schedule.due(&self.token);
        // Later, only the callers can replace the token.
        while let Some(at) = next.filter(|at| self.token.expires().is_some_and(|end| *at < end)) {
            tokio::time::sleep_until(at).await;
            let Some(shared) = self.shared.upgrade() else {
                return;
            };
            if !shared.state().is_current(&self.token) {
                return;
            }
            let is_changed = match self.schedule.is_renewable() {
                true => self.renew(&shared).await,
                false => {
                    replace(shared).await;
                    // If the token was replaced, the next run ends this task.
                    false
                }
            };
            next = match is_changed {
                true => self.schedule.due(&self.token),
                false => self.schedule.retry_at(),
            };
        }
    }

    /// Renews the token. Returns whether that has changed the schedule. A failed renewal does not invalidate the token,
    /// so the token stays in use.
    async fn renew(&mut self, shared: &Shared) -> bool {
        let requested = Instant::now();
        match shared.login.renew(self.token.value()).await {
            Ok(lease) => {
                if self.schedule.record_renewal(&lease) {
                    self.store(shared, lease, requested);
                }
                if !self.schedule.is_renewable() {
                    shared.warn_of_expiry(&self.token);
                }
                true
            }
            Err(error) if error.is_temporary() => {
                tracing::warn!(target: "secretwell::http", event = "token_renewal_failed", origin = %shared.origin, %error, "the token could not be renewed; the renewal is retried");
                false
            }
            Err(error) => {
                match shared.login.is_configured_token() {
                    true => shared.warn_of_expiry(&self.token),
                    false => {
                        tracing::info!(target: "secretwell::http", event = "token_not_renewable", origin = %shared.origin, %error, "the token cannot be renewed; a new login follows");
                    }
                }
                self.schedule.end_renewals();
                true
            }
        }
    }

    /// Replaces the cached token by its renewed form, unless another token was cached meanwhile.
    fn store(&mut self, shared: &Shared, lease: TokenLease, requested: Instant) {
        let renewed = Arc::new(self.token.renewed(lease, requested));
        let mut state = shared.state();
        if state.is_current(&self.token) {
            state.token = Some(renewed.clone());
        }
        self.token = renewed;
    }
}

/// Logs in to get a new token. The current token stays in use until the login has succeeded.
async fn replace(shared: Arc<Shared>) {
    let cause = Span::current().id();
    let (mut in_flight, _) = shared
        .clone()
        .start_or_join_login(&mut shared.state(), cause);
    drop(shared);
    // Its failure is logged by the login.
    let _ = in_flight.wait_for(Option::is_some).await;
}
