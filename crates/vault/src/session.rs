//! Requests with the token of a login.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{HeaderValue, Method, StatusCode};
use secretwell_core::{Error, ErrorKind, Origin};
use secretwell_http::{Request, Response, Token, TokenManager};
use tokio::time::{Instant, timeout};

use crate::auth::VaultAuth;
use crate::auth::login::{LOOKUP_SELF, VaultLogin};
use crate::header::{TOKEN, with_headers};
use crate::server::Server;
use crate::wire::{self, Forbidden};

/// The connection of a provider to its servers, with its login.
pub(crate) struct Session {
    origin: Origin,
    server: Server,
    /// `None` if an agent adds the token.
    token_manager: Option<TokenManager>,
    /// Whether the token is from the configuration, so that a new login cannot replace a refused one.
    is_static: bool,
    namespace: Option<HeaderValue>,
    login_namespace: Option<HeaderValue>,
}

impl Session {
    pub(crate) fn new(
        server: Server,
        auth: VaultAuth,
        namespace: Option<HeaderValue>,
        login_namespace: Option<HeaderValue>,
        origin: Origin,
    ) -> Self {
        let is_static = auth.is_token();
        let token_manager = (!auth.is_agent()).then(|| {
            let login = VaultLogin::new(server.clone(), auth, login_namespace.clone());
            TokenManager::new(login, origin.clone())
        });
        Self {
            origin,
            server,
            token_manager,
            is_static,
            namespace,
            login_namespace,
        }
    }

    pub(crate) fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Returns the maximum duration of one call.
    pub(crate) fn deadline(&self) -> Duration {
        self.server.deadline()
    }

    /// Runs `work`, including its logins and all its requests, for at most 10 % longer than the deadline of a single
    /// request, whose error is more specific.
    ///
    /// # Errors
    /// Returns the error of `work`, or that of [`timed_out`](Self::timed_out).
    pub(crate) async fn in_time<T>(
        &self,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let (called, limit) = (Instant::now(), self.deadline());
        let result = timeout(limit.mul_f64(1.1), work).await;
        result.unwrap_or_else(|_| Err(self.timed_out(called, limit)))
    }

    /// Returns the error of a call since `since` that took longer than `limit`: why the last attempt failed, or
    /// else that the server did not respond in time.
    pub(crate) fn timed_out(&self, since: Instant, limit: Duration) -> Error {
        self.server.failure_since(since).unwrap_or_else(|| {
            let message = format!("the server did not respond within {limit:?}");
            Error::new(ErrorKind::Timeout, message)
                .with_hint("check whether the server is overloaded")
        })
    }

    /// Returns the time of the server, which needs no login.
    pub(crate) async fn server_time(&self) -> Result<SystemTime, Error> {
        self.server.time().await
    }

    /// Returns the token of the login, or `None` if an agent adds it.
    pub(crate) async fn token(&self) -> Result<Option<Arc<Token>>, Error> {
        match &self.token_manager {
            Some(manager) => manager.token().await.map(Some),
            None => Ok(None),
        }
    }

    /// Returns `token`, which has just been accepted, with its lifetime as far as that can be found out.
    pub(crate) async fn described(&self, token: Option<Arc<Token>>) -> Option<Arc<Token>> {
        match (&self.token_manager, token) {
            (Some(manager), Some(token)) => Some(manager.describe(&token).await.unwrap_or(token)),
            (_, token) => token,
        }
    }

    /// Reads `path`. If servers report an index, a 404 is confirmed by the active server, because a stale
    /// standby does not have secrets that were written a moment ago.
    pub(crate) async fn get(&self, path: &str) -> Result<Response, Error> {
        let request = with_headers(Request::new(Method::GET, path), self.namespace.as_ref());
        let (response, _) = self.send_with_token(request, None).await?;
        if response.status == StatusCode::NOT_FOUND
            && let Some(confirmed) = self.get_from_active(path).await?
        {
            return Ok(confirmed);
        }
        self.server.check_api(&response).await?;
        Ok(response)
    }

    /// Reads `path` from the active server. Returns `None` if the servers report no index, so that they cannot
    /// be stale.
    pub(crate) async fn get_from_active(&self, path: &str) -> Result<Option<Response>, Error> {
        let Some(index) = self.server.index().forwarding() else {
            return Ok(None);
        };
        let request = with_headers(Request::new(Method::GET, path), self.namespace.as_ref());
        let (response, _) = self.exchange(request, Some(index)).await?;
        Ok(Some(response))
    }

    /// Sends a request with a token, and returns the response and that token. A token that turns out to be
    /// invalid is replaced by a new login, at most once.
    pub(crate) async fn call(
        &self,
        request: Request,
    ) -> Result<(Response, Option<Arc<Token>>), Error> {
        let request = with_headers(request, self.namespace.as_ref());
        self.exchange(request, None).await
    }

    /// Sends a request with its headers, as [`call`](Self::call) does. With an index for `forwarding`, only the
    /// active server executes the request.
    async fn exchange(
        &self,
        request: Request,
        forwarding: Option<HeaderValue>,
    ) -> Result<(Response, Option<Arc<Token>>), Error> {
        let (response, token) = self.send_with_token(request, forwarding).await?;
        self.server.check_api(&response).await?;
        Ok((response, token))
    }

    async fn send_with_token(
        &self,
        mut request: Request,
        forwarding: Option<HeaderValue>,
    ) -> Result<(Response, Option<Arc<Token>>), Error> {
        let any_server = forwarding.is_none();
        if let Some(index) = forwarding {
            request = wire::forward_to_active(request, index);
        }
        let mut replaced = false;
        loop {
            let token = self.token().await?;
            // After the login, because its response can contain a newer index.
            let index = self.server.index().header().filter(|_| any_server);
            if let Some(token) = &token {
                request = with_token(request, token)?;
            }
            let response = match index {
                Some(index) => self.server.send_requiring(request.clone(), &index).await?,
                None => self.server.send(&request).await?,
            };
            let (Some(manager), Some(token)) = (&self.token_manager, token) else {
                return Ok((response, None));
            };
            let is_ambiguous = wire::forbidden(&response) == Some(Forbidden::BadToken);
            // A missing permission can look like a bad token. A lookup shows which of the two it is, unless
            // it would use the token up.
            let is_in_doubt = replaced || token.is_accepted() || self.is_static;
            let can_look_up = is_in_doubt && !token.has_limited_uses();
            if !is_ambiguous || can_look_up && self.is_valid(&token).await? {
                manager.accepted(&token);
                return Ok((response, Some(token)));
            }
            manager.refused(&token)?;
            if replaced {
                return Ok((response, Some(token)));
            }
            replaced = true;
        }
    }

    /// Returns whether the server accepts the token for a lookup of itself.
    async fn is_valid(&self, token: &Token) -> Result<bool, Error> {
        let request = with_token(self.look_up(), token)?;
        let response = self.server.send(&request).await?;
        Ok(wire::forbidden(&response) != Some(Forbidden::BadToken))
    }

    /// Creates a request for the description of the token, in the namespace of the login.
    fn look_up(&self) -> Request {
        let request = Request::new(Method::GET, LOOKUP_SELF);
        with_headers(request, self.login_namespace.as_ref())
    }

    /// Returns an error if the server cannot be reached, or does not accept the token of the login. A policy
    /// that denies the lookup of the token also shows that the token is valid.
    pub(crate) async fn check_login(&self) -> Result<(), Error> {
        let (response, _) = self.exchange(self.look_up(), None).await?;
        wire::check_token(&response)
    }

    /// Returns an error if the server cannot be reached, or if the policies do not allow reading any of `paths`.
    /// Returns `false` if the server does not allow this request either. [`check_login`](Self::check_login) shows
    /// whether the token is valid then.
    pub(crate) async fn check_permissions(&self, paths: &[String]) -> Result<bool, Error> {
        let request = Request::new(Method::POST, wire::CAPABILITIES);
        let request = request.json(wire::capabilities_body(paths));
        let (response, _) = self.call(request).await?;
        // Without a permission for this request, a valid token can look like a bad one.
        if wire::forbidden(&response) == Some(Forbidden::BadToken) {
            return Ok(false);
        }
        if !response.status.is_success() {
            return wire::check_token(&response).map(|()| false);
        }
        wire::check_capabilities(&response, paths).map(|()| true)
    }
}

/// Adds the token to a request, in place of the token of an earlier attempt.
fn with_token(request: Request, token: &Token) -> Result<Request, Error> {
    Ok(request.header(TOKEN, token.header()?))
}
