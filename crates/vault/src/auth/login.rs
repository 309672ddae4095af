//! The login of a provider.

use std::fmt;
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use http::{HeaderValue, Method as Verb, StatusCode};
use secretwell_core::{Error, ErrorKind, SecretValue};
use secretwell_http::{
    Credential, Login, LoginFailure, Request, Response, TokenLease, json_object,
};
use tokio::time::Instant;

use crate::auth::{Method, SecretId, VaultAuth};
use crate::header::{TOKEN, with_headers};
use crate::lock::lock;
use crate::server::Server;
use crate::wire::{self, Health};

/// How long a refused Kubernetes login is treated as an outage of the Kubernetes API. Vault responds with
/// 403 in both cases.
const CLUSTER_OUTAGE: Duration = Duration::from_secs(5 * 60);

/// The path that describes the token of a request.
pub(crate) const LOOKUP_SELF: &str = "/v1/auth/token/lookup-self";

/// The login of one provider, as a [`TokenManager`](secretwell_http::TokenManager) uses it.
pub(crate) struct VaultLogin {
    server: Server,
    auth: VaultAuth,
    namespace: Option<HeaderValue>,
    /// The last wrapping token that was unwrapped, and its secret id.
    unwrapped: Mutex<Option<(SecretValue, SecretValue)>>,
    /// When the first refusal occurred that might be an outage of the Kubernetes API.
    outage_since: Mutex<Option<Instant>>,
    /// The report of a server that might be stale and refused the last login. The next one is forwarded.
    health: Mutex<Option<Health>>,
}

impl VaultLogin {
    pub(crate) fn new(server: Server, auth: VaultAuth, namespace: Option<HeaderValue>) -> Self {
        Self {
            server,
            auth,
            namespace,
            unwrapped: Mutex::default(),
            outage_since: Mutex::default(),
            health: Mutex::default(),
        }
    }

    fn request(&self, verb: Verb, path: &str) -> Request {
        with_headers(Request::new(verb, path), self.namespace.as_ref())
    }

    /// Sends a request with a credential.
    ///
    /// A stale standby refuses a credential or a login method that was created a moment ago, so the active server
    /// must decide. Most logins cost one request: only after a refusal, they are sent again.
    async fn send_credential(&self, server: &Server, request: Request) -> Result<Response, Error> {
        if self.auth.is_counted() {
            return self.send_counted(server, request).await;
        }
        let response = server.send(&request).await?;
        if !is_refused(&response) {
            return Ok(response);
        }
        let health = server.health().await.filter(Health::can_be_stale);
        let Some(forwarded) = health.and_then(|health| health.forward(request)) else {
            return Ok(response);
        };
        let repeated = server.send(&forwarded).await?;
        Ok(match wire::refuses_to_forward(&repeated) {
            true => response,
            false => repeated,
        })
    }

    /// Sends a request with a credential whose failures are counted, to the active server at once. If a standby
    /// refused it first, it would count twice, because the standby might have forwarded it.
    async fn send_counted(&self, server: &Server, request: Request) -> Result<Response, Error> {
        let forwarded = match server.index().forwarding() {
            Some(index) => Some(wire::forward_to_active(request.clone(), index)),
            None => {
                let health = self.counted_health(server).await;
                health.and_then(|health| health.forward(request.clone()))
            }
        };
        if let Some(forwarded) = forwarded {
            let response = server.send(&forwarded).await?;
            return match wire::refuses_to_forward(&response) {
                // It was not executed.
                true => server.send(&request).await,
                false => Ok(response),
            };
        }
        let response = server.send(&request).await?;
        // All servers forward to one directory, which counts failures.
        if !is_refused(&response)
            || matches!(self.auth.method, Method::Password { kind: "ldap", .. })
        {
            return Ok(response);
        }
        match server.health().await.filter(Health::can_be_stale) {
            None => Ok(response),
            Some(health) => {
                *lock(&self.health) = Some(health);
                Err(refused_by_standby())
            }
        }
    }

    /// Returns what a server reports about its cluster, or what it reported after the last refusal.
    async fn counted_health(&self, server: &Server) -> Option<Health> {
        let known = lock(&self.health).take();
        match known {
            None => server.health().await,
            known => known,
        }
    }

    async fn unwrap(
        &self,
        server: &Server,
        token: &SecretValue,
    ) -> Result<SecretValue, LoginFailure> {
        if let Some((known, secret_id)) = &*lock(&self.unwrapped)
            && known == token
        {
            return Ok(secret_id.clone());
        }
        let request = self
            .request(Verb::POST, "/v1/sys/wrapping/unwrap")
            .secret_header(TOKEN, token.expose_bytes())?
            // A second attempt would find that the token is used, which looks like a theft.
            .non_idempotent();
        let response = self.send_credential(server, request).await?;
        let secret_id = wire::unwrapped_secret_id(&response)?;
        *lock(&self.unwrapped) = Some((token.clone(), secret_id.clone()));
        Ok(secret_id)
    }

    /// Returns why the server refused a login.
    fn refusal(&self, response: &Response) -> LoginFailure {
        let is_kubernetes = matches!(
            self.auth.method,
            Method::Jwt {
                kubernetes: true,
                ..
            }
        );
        let failure = wire::login_refused(response, self.auth.mount_name());
        if !is_kubernetes || !wire::is_bare_denial(response) {
            return failure;
        }
        let now = Instant::now();
        let since = *lock(&self.outage_since).get_or_insert(now);
        if now.duration_since(since) >= CLUSTER_OUTAGE {
            return failure;
        }
        Error::new(
            ErrorKind::Unavailable,
            "the login was refused, or the server cannot reach the API of the cluster",
        )
        .with_hint("if this lasts, check that the service account is bound to the role")
        .into()
    }
}

#[async_trait]
impl Login for VaultLogin {
    async fn credential(&self) -> Result<SecretValue, Error> {
        match &self.auth.method {
            Method::Agent => Ok("".into()),
            Method::Token(token) => token.read().await,
            Method::AppRole { role_id, secret_id } => match secret_id {
                SecretId::Unbound => app_role(role_id, None).await,
                SecretId::Plain(secret_id) => {
                    app_role(role_id, Some(&secret_id.read().await?)).await
                }
                // The login unwraps it, so that a refused wrapping token counts as a refused login.
                SecretId::Wrapped(token) => token.read().await,
            },
            Method::Jwt { role, jwt, .. } => {
                let jwt = jwt.read().await?;
                json_object(&[("role", role), ("jwt", jwt.expose_text()?)])
            }
            Method::Password { password, .. } => {
                let password = password.read().await?;
                json_object(&[("password", password.expose_text()?)])
            }
            Method::Certificate { name: Some(name) } => json_object(&[("name", name)]),
            Method::Certificate { name: None } => json_object(&[]),
            Method::Aws { role, identity } => {
                let proof = identity.prove().await?;
                json_object(&[
                    ("role", role),
                    ("iam_http_request_method", "POST"),
                    ("iam_request_url", &proof.url()),
                    ("iam_request_body", &proof.body()),
                    ("iam_request_headers", proof.headers()?.expose_text()?),
                ])
            }
            Method::Custom { body, .. } => body.checked().await,
        }
    }

    fn is_credential_new_each_time(&self) -> bool {
        matches!(self.auth.method, Method::Aws { .. } | Method::Custom { .. })
    }

    fn is_configured_token(&self) -> bool {
        self.auth.is_token()
    }

    async fn login(&self, credential: &SecretValue) -> Result<TokenLease, LoginFailure> {
        if let Method::Token(_) = self.auth.method {
            // A lookup might use the token up, so it follows after the first success.
            return Ok(TokenLease::new(credential.clone()));
        }
        // The requests of a login share one deadline, so that a read that waits for it gets its error.
        let server = self.server.with_shared_deadline();
        let body = match &self.auth.method {
            Method::AppRole {
                role_id,
                secret_id: SecretId::Wrapped(_),
            } => app_role(role_id, Some(&self.unwrap(&server, credential).await?)).await?,
            _ => credential.clone(),
        };
        let request = self.request(Verb::POST, &self.auth.path()?).json(body);
        // A second attempt might find a credential that the first one has used up.
        let response = self
            .send_credential(&server, request.non_idempotent())
            .await?;
        if !response.status.is_success() {
            return Err(self.refusal(&response));
        }
        *lock(&self.outage_since) = None;
        Ok(wire::token_lease(&response)?)
    }

    async fn renew(&self, token: &SecretValue) -> Result<TokenLease, Error> {
        let request = self
            .request(Verb::POST, "/v1/auth/token/renew-self")
            .secret_header(TOKEN, token.expose_bytes())?
            .json("{}".into())
            .non_idempotent();
        let response = self.server.send(&request).await?;
        match response.status.is_success() {
            true => wire::token_lease(&response),
            false => Err(wire::login_refused(&response, self.auth.mount_name()).error),
        }
    }

    async fn describe(&self, token: &SecretValue) -> Result<Option<TokenLease>, Error> {
        let Method::Token(_) = self.auth.method else {
            return Ok(None);
        };
        let request = self
            .request(Verb::GET, LOOKUP_SELF)
            .secret_header(TOKEN, token.expose_bytes())?;
        // A standby can report a lifetime that is too long.
        let request = match self.server.index().forwarding() {
            Some(index) => wire::forward_to_active(request, index),
            None => request,
        };
        let response = self.server.send(&request).await?;
        wire::looked_up_token(&response, token).map(Some)
    }

    fn refused_token(&self) -> Error {
        match &self.auth.method {
            Method::Token(token) => wire::refused_token(token.place().as_deref()),
            _ => Error::new(
                ErrorKind::Unauthenticated,
                "the login succeeds, but the server refuses its token",
            )
            .with_hint("check whether the token is bound to other addresses (`token_bound_cidrs`)"),
        }
    }
}

impl fmt::Debug for VaultLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VaultLogin")
            .field("auth", &self.auth)
            .finish_non_exhaustive()
    }
}

/// Returns whether a stale server might have refused the credential of a request.
fn is_refused(response: &Response) -> bool {
    matches!(
        response.status,
        StatusCode::BAD_REQUEST | StatusCode::FORBIDDEN
    )
}

fn refused_by_standby() -> Error {
    let message = "a standby refused the login, but its data might be stale";
    Error::new(ErrorKind::Unavailable, message)
        .with_hint("if this lasts, check the credential of the login")
}

/// Creates the body of a login with AppRole.
async fn app_role(
    role_id: &Credential,
    secret_id: Option<&SecretValue>,
) -> Result<SecretValue, Error> {
    let role_id = role_id.read().await?;
    let mut fields = vec![("role_id", role_id.expose_text()?)];
    if let Some(secret_id) = secret_id {
        fields.push(("secret_id", secret_id.expose_text()?));
    }
    json_object(&fields)
}
