//! The login methods of Vault.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use http::header::HeaderName;
use http::{HeaderValue, Method as Verb, StatusCode};
use secretwell_core::{Error, ErrorKind, SecretValue};
use secretwell_http::{Credential, Login, Request, Response, TokenLease, encode_path, json_object};
use tokio::time::Instant;

use crate::config::invalid;
use crate::server::Server;
use crate::wire;

pub(crate) const TOKEN: HeaderName = HeaderName::from_static("x-vault-token");
pub(crate) const NAMESPACE: HeaderName = HeaderName::from_static("x-vault-namespace");
/// A proxy with `require_request_header` rejects requests without this header.
pub(crate) const REQUEST: HeaderName = HeaderName::from_static("x-vault-request");

/// The file in which Kubernetes mounts the token of a pod's service account.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";
/// How long a refused Kubernetes login is treated as an outage of the Kubernetes API. Vault responds with
/// 403 in both cases.
const CLUSTER_OUTAGE: Duration = Duration::from_secs(5 * 60);

/// A login method for Vault or OpenBao, with its credentials.
///
/// ```
/// use secretwell::vault::{Credential, VaultAuth};
///
/// let pod = VaultAuth::kubernetes("my-role");
/// let vm = VaultAuth::app_role("role-id", Credential::file("/etc/app/secret-id")).mount("approle-prod");
/// ```
#[derive(Debug, Clone)]
pub struct VaultAuth {
    method: Method,
    mount: Option<String>,
}

#[derive(Debug, Clone)]
enum Method {
    Agent,
    Token(Credential),
    AppRole {
        role_id: String,
        secret_id: Credential,
        wrapped: bool,
    },
    Jwt {
        kubernetes: bool,
        role: String,
        jwt: Credential,
    },
    Userpass {
        user: String,
        password: Credential,
    },
    Certificate {
        name: Option<String>,
    },
}

impl VaultAuth {
    fn new(method: Method) -> Self {
        Self {
            method,
            mount: None,
        }
    }

    /// Sends an existing token, without a login. A token in a file is read again after it expires or is
    /// refused.
    pub fn token(token: Credential) -> Self {
        Self::new(Method::Token(token))
    }

    /// Logs in with AppRole, using a role id and a secret id.
    pub fn app_role(role_id: impl Into<String>, secret_id: Credential) -> Self {
        Self::new(Method::AppRole {
            role_id: role_id.into(),
            secret_id,
            wrapped: false,
        })
    }

    /// Logs in with AppRole, using a wrapped secret id. `token` is the wrapping token. It is unwrapped once,
    /// and the secret id stays in memory for later logins.
    pub fn app_role_wrapped(role_id: impl Into<String>, token: Credential) -> Self {
        Self::new(Method::AppRole {
            role_id: role_id.into(),
            secret_id: token,
            wrapped: true,
        })
    }

    /// Logs in with the service account of the pod, for the role `role`. The token of the service account is
    /// read again for each login.
    pub fn kubernetes(role: impl Into<String>) -> Self {
        Self::kubernetes_with(role, Credential::file(SERVICE_ACCOUNT))
    }

    /// Like [`kubernetes`](Self::kubernetes), with a given token of a service account.
    pub fn kubernetes_with(role: impl Into<String>, jwt: Credential) -> Self {
        Self::new(Method::Jwt {
            kubernetes: true,
            role: role.into(),
            jwt,
        })
    }

    /// Logs in with a JWT from an identity provider, for the role `role`.
    pub fn jwt(role: impl Into<String>, jwt: Credential) -> Self {
        Self::new(Method::Jwt {
            kubernetes: false,
            role: role.into(),
            jwt,
        })
    }

    /// Logs in with a user name and a password.
    pub fn userpass(user: impl Into<String>, password: Credential) -> Self {
        Self::new(Method::Userpass {
            user: user.into(),
            password,
        })
    }

    /// Logs in with the client certificate of the connection, which is set with
    /// [`VaultBuilder::client`](crate::VaultBuilder::client). With a `name`, the server checks only that role.
    pub fn certificate(name: Option<String>) -> Self {
        Self::new(Method::Certificate { name })
    }

    /// Sends requests without a token, to an agent or proxy with auto-auth that adds its own token.
    pub fn agent() -> Self {
        Self::new(Method::Agent)
    }

    /// Sets the mount of the login method. Default: the name of the method, such as `approle`.
    #[must_use]
    pub fn mount(mut self, mount: impl Into<String>) -> Self {
        self.mount = Some(mount.into());
        self
    }

    pub(crate) fn is_agent(&self) -> bool {
        matches!(self.method, Method::Agent)
    }

    /// Returns the path of the login request.
    fn path(&self) -> Result<String, Error> {
        let method = match &self.method {
            Method::Agent | Method::Token(_) => "token",
            Method::AppRole { .. } => "approle",
            Method::Jwt { kubernetes, .. } if *kubernetes => "kubernetes",
            Method::Jwt { .. } => "jwt",
            Method::Userpass { .. } => "userpass",
            Method::Certificate { .. } => "cert",
        };
        let mount = encode_path(self.mount.as_deref().unwrap_or(method))?;
        Ok(match &self.method {
            Method::Userpass { user, .. } => {
                format!("/v1/auth/{mount}/login/{}", encode_path(user)?)
            }
            _ => format!("/v1/auth/{mount}/login"),
        })
    }

    /// Checks the settings as far as possible without I/O.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let role = match &self.method {
            Method::AppRole { role_id, .. } => role_id,
            Method::Jwt { role, .. } => role,
            Method::Userpass { user, .. } => user,
            _ => return self.path().map(drop),
        };
        match role.trim().is_empty() {
            true => Err(invalid("the role or user of the login is empty")
                .with_hint("set the role id, role or user name")),
            false => self.path().map(drop),
        }
    }
}

/// The login of one provider, as a [`TokenManager`](secretwell_http::TokenManager) uses it.
pub(crate) struct VaultLogin {
    server: Server,
    auth: VaultAuth,
    namespace: Option<HeaderValue>,
    /// The last wrapping token that was unwrapped, and its secret id.
    unwrapped: Mutex<Option<(SecretValue, SecretValue)>>,
    /// When the first refusal occurred that might be an outage of the Kubernetes API.
    outage_since: Mutex<Option<Instant>>,
}

impl VaultLogin {
    pub(crate) fn new(server: Server, auth: VaultAuth, namespace: Option<HeaderValue>) -> Self {
        Self {
            server,
            auth,
            namespace,
            unwrapped: Mutex::default(),
            outage_since: Mutex::default(),
        }
    }

    fn request(&self, verb: Verb, path: &str) -> Request {
        let request = Request::new(verb, path).header(REQUEST, HeaderValue::from_static("true"));
        match &self.namespace {
            Some(namespace) => request.header(NAMESPACE, namespace.clone()),
            None => request,
        }
    }

    /// Sends a request with a credential.
    ///
    /// A stale standby refuses a credential that was created a moment ago. A refused request is therefore
    /// sent once more, to the active server only. So no server counts a wrong credential more than once.
    async fn send_credential(&self, request: Request) -> Result<Response, Error> {
        let response = self.server.send(&request).await?;
        if !matches!(
            response.status,
            StatusCode::BAD_REQUEST | StatusCode::FORBIDDEN
        ) {
            return Ok(response);
        }
        match self.server.forwarding_index().await {
            Some(index) => {
                let request = wire::forward_to_active(request, index);
                self.server.send(&request).await
            }
            None => Ok(response),
        }
    }

    async fn unwrap(&self, token: &SecretValue) -> Result<SecretValue, Error> {
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
        let response = self.send_credential(request).await?;
        let secret_id = wire::unwrapped_secret_id(&response)?;
        *lock(&self.unwrapped) = Some((token.clone(), secret_id.clone()));
        Ok(secret_id)
    }

    /// Returns the error of a refused login.
    fn refusal(&self, response: &Response) -> Error {
        let error = wire::login_refused(response);
        let kubernetes = matches!(
            self.auth.method,
            Method::Jwt {
                kubernetes: true,
                ..
            }
        );
        if !kubernetes || !wire::is_bare_denial(response) {
            return error;
        }
        let now = Instant::now();
        let since = *lock(&self.outage_since).get_or_insert(now);
        if now.duration_since(since) >= CLUSTER_OUTAGE {
            return error;
        }
        Error::new(
            ErrorKind::Unavailable,
            "the login was refused, or the server cannot reach the API of the cluster",
        )
        .with_hint("if this lasts, check that the service account is bound to the role")
    }
}

#[async_trait]
impl Login for VaultLogin {
    async fn credential(&self) -> Result<SecretValue, Error> {
        match &self.auth.method {
            Method::Agent => Ok("".into()),
            Method::Token(token) => token.read().await,
            Method::AppRole {
                role_id,
                secret_id,
                wrapped,
            } => {
                let secret_id = secret_id.read().await?;
                match wrapped {
                    // The login unwraps it, so that a refused wrapping token counts as a refused login.
                    true => Ok(secret_id),
                    false => app_role(role_id, &secret_id),
                }
            }
            Method::Jwt { role, jwt, .. } => {
                let jwt = jwt.read().await?;
                json_object(&[("role", role), ("jwt", jwt.expose_text()?)])
            }
            Method::Userpass { password, .. } => {
                let password = password.read().await?;
                json_object(&[("password", password.expose_text()?)])
            }
            Method::Certificate { name: Some(name) } => json_object(&[("name", name)]),
            Method::Certificate { name: None } => json_object(&[]),
        }
    }

    async fn login(&self, credential: &SecretValue) -> Result<TokenLease, Error> {
        if let Method::Token(_) = self.auth.method {
            let request = self
                .request(Verb::GET, "/v1/auth/token/lookup-self")
                .secret_header(TOKEN, credential.expose_bytes())?;
            return wire::looked_up_token(&self.server.send(&request).await?, credential);
        }
        let body = match &self.auth.method {
            Method::AppRole {
                role_id,
                wrapped: true,
                ..
            } => app_role(role_id, &self.unwrap(credential).await?)?,
            _ => credential.clone(),
        };
        let request = self.request(Verb::POST, &self.auth.path()?).json(body);
        let response = self.send_credential(request).await?;
        if !response.status.is_success() {
            return Err(self.refusal(&response));
        }
        *lock(&self.outage_since) = None;
        wire::token_lease(&response)
    }

    async fn renew(&self, token: &SecretValue) -> Result<TokenLease, Error> {
        let request = self
            .request(Verb::POST, "/v1/auth/token/renew-self")
            .secret_header(TOKEN, token.expose_bytes())?
            .json("{}".into());
        let response = self.server.send(&request).await?;
        match response.status.is_success() {
            true => wire::token_lease(&response),
            false => Err(wire::login_refused(&response)),
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

fn app_role(role_id: &str, secret_id: &SecretValue) -> Result<SecretValue, Error> {
    json_object(&[
        ("role_id", role_id),
        ("secret_id", secret_id.expose_text()?),
    ])
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
