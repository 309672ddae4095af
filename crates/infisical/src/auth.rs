//! Login methods, and the login that renews its token.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use http::Method as Verb;
use secretwell_core::{Error, ErrorKind, SecretValue};
use secretwell_http::{
    AwsIdentity, Client, Credential, Login, LoginBody, LoginFailure, Request, TokenLease,
    encode_path, json_object,
};
use tokio::time::Instant;
use zeroize::Zeroizing;

use crate::error::invalid_config;
use crate::wire::{self, LoginResponse};

/// The path at which Kubernetes mounts the token of a pod's service account.
const SERVICE_ACCOUNT_TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

/// A login method for Infisical, with its credentials.
///
/// ```
/// use secretwell::infisical::{Credential, InfisicalAuth};
///
/// let vm = InfisicalAuth::universal("client-id", Credential::file("/etc/app/client-secret"));
/// let pod = InfisicalAuth::kubernetes("identity-id");
/// ```
#[derive(Debug, Clone)]
pub struct InfisicalAuth {
    method: Method,
    sub_organization: Option<String>,
}

#[derive(Debug, Clone)]
enum Method {
    Token(Credential),
    Universal {
        client_id: String,
        client_secret: Credential,
    },
    Jwt {
        route: &'static str,
        identity: String,
        jwt: Credential,
    },
    Ldap {
        identity: String,
        user: String,
        password: Credential,
    },
    Aws {
        identity: String,
        aws: AwsIdentity,
    },
    Custom {
        route: String,
        body: Arc<dyn LoginBody>,
    },
}

impl InfisicalAuth {
    fn new(method: Method) -> Self {
        Self {
            method,
            sub_organization: None,
        }
    }

    /// Sends an existing token, without a login: a token of Token Auth, or a service token. A token in a
    /// file is read again when the server rejects it.
    pub fn token(token: Credential) -> Self {
        Self::new(Method::Token(token))
    }

    /// Logs in with Universal Auth, using a client id and a client secret.
    pub fn universal(client_id: impl Into<String>, client_secret: Credential) -> Self {
        Self::new(Method::Universal {
            client_id: client_id.into(),
            client_secret,
        })
    }

    /// Logs in with the service account of the Kubernetes pod, as the machine identity `identity`. The
    /// token of the service account is read again for each login.
    pub fn kubernetes(identity: impl Into<String>) -> Self {
        Self::kubernetes_with(identity, Credential::file(SERVICE_ACCOUNT_TOKEN))
    }

    /// Like [`kubernetes`](Self::kubernetes), with a service account token from another place.
    pub fn kubernetes_with(identity: impl Into<String>, jwt: Credential) -> Self {
        Self::with_jwt("kubernetes-auth", identity, jwt)
    }

    /// Logs in with a token of an OpenID Connect provider, as the machine identity `identity`.
    pub fn oidc(identity: impl Into<String>, jwt: Credential) -> Self {
        Self::with_jwt("oidc-auth", identity, jwt)
    }

    /// Logs in with a JWT, as the machine identity `identity`. Servers of 2024 do not have this login
    /// method.
    pub fn jwt(identity: impl Into<String>, jwt: Credential) -> Self {
        Self::with_jwt("jwt-auth", identity, jwt)
    }

    fn with_jwt(route: &'static str, identity: impl Into<String>, jwt: Credential) -> Self {
        Self::new(Method::Jwt {
            route,
            identity: identity.into(),
            jwt,
        })
    }

    /// Logs in with the user name and the password of an LDAP directory, as the machine identity `identity`.
    /// Servers of 2024 do not have this login method.
    pub fn ldap(
        identity: impl Into<String>,
        user: impl Into<String>,
        password: Credential,
    ) -> Self {
        Self::new(Method::Ldap {
            identity: identity.into(),
            user: user.into(),
            password,
        })
    }

    /// Logs in with the identity of AWS credentials, as the machine identity `identity`. The server sends the
    /// signed request to the endpoint of its [`region`](AwsIdentity::region), by default `us-east-1`.
    ///
    /// ```
    /// use secretwell::infisical::{AwsCredentials, AwsIdentity, InfisicalAuth};
    ///
    /// let aws = AwsIdentity::new(AwsCredentials::from_env()).region("eu-central-1");
    /// let auth = InfisicalAuth::aws("identity-id", aws);
    /// ```
    pub fn aws(identity: impl Into<String>, aws: AwsIdentity) -> Self {
        Self::new(Method::Aws {
            identity: identity.into(),
            aws: aws.with_default_region(),
        })
    }

    /// Logs in with a body that a closure or a [`LoginBody`] creates for each login. It is sent to the path
    /// `/api/v1/auth/{method}/login`.
    ///
    /// ```
    /// use secretwell::infisical::{Credential, InfisicalAuth, json_object};
    ///
    /// let jwt = Credential::file("/run/identity/token");
    /// let auth = InfisicalAuth::custom("gcp-auth", move || {
    ///     let jwt = jwt.clone();
    ///     async move {
    ///         let jwt = jwt.read().await?;
    ///         json_object(&[("identityId", "identity-id"), ("jwt", jwt.expose_text()?)])
    ///     }
    /// });
    /// ```
    pub fn custom(method: impl Into<String>, body: impl LoginBody) -> Self {
        Self::new(Method::Custom {
            route: method.into(),
            body: Arc::new(body),
        })
    }

    /// Sets the name of the suborganization to log in to. Older servers ignore it. It has no effect for an
    /// existing token and for a custom login, whose body can contain `subOrganizationName`.
    #[must_use]
    pub fn sub_organization(mut self, name: impl Into<String>) -> Self {
        self.sub_organization = Some(name.into());
        self
    }

    /// Checks what can be checked without I/O.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`] if the client id, identity id or user name is empty, or the method is not
    /// valid.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let (id, user) = match &self.method {
            Method::Token(_) => return Ok(()),
            Method::Custom { .. } => return self.path().map(drop),
            Method::Universal { client_id, .. } => (client_id, None),
            Method::Jwt { identity, .. } => (identity, None),
            Method::Ldap { identity, user, .. } => (identity, Some(user)),
            Method::Aws { identity, aws } => {
                aws.check()?;
                (identity, None)
            }
        };
        if id.trim().is_empty() {
            return Err(
                invalid_config("the login's client id or identity id is empty")
                    .with_hint("set the id in the URL, or pass it to `InfisicalAuth`"),
            );
        }
        match user.is_some_and(|user| user.trim().is_empty()) {
            true => Err(invalid_config("the login's user name is empty")
                .with_hint("set `user` in the URL, or pass it to `InfisicalAuth`")),
            false => Ok(()),
        }
    }

    /// Returns the path of the login request.
    fn path(&self) -> Result<String, Error> {
        let route = match &self.method {
            Method::Token(_) => "token-auth",
            Method::Universal { .. } => "universal-auth",
            Method::Jwt { route, .. } => route,
            Method::Ldap { .. } => "ldap-auth",
            Method::Aws { .. } => "aws-auth",
            Method::Custom { route, .. } => route,
        };
        Ok(format!("/api/v1/auth/{}/login", encode_path(route)?))
    }

    /// Returns the body of the login request, or the token if there is no login.
    async fn credential(&self) -> Result<SecretValue, Error> {
        let body = |fields: &[(&str, &str)]| {
            let name = self.sub_organization.as_deref();
            let name = name.map(|name| ("subOrganizationName", name));
            let fields: Vec<_> = fields.iter().copied().chain(name).collect();
            json_object(&fields)
        };
        match &self.method {
            Method::Token(token) => token.read().await,
            Method::Universal {
                client_id,
                client_secret,
            } => {
                let client_secret = client_secret.read().await?;
                body(&[
                    ("clientId", client_id),
                    ("clientSecret", client_secret.expose_text()?),
                ])
            }
            Method::Jwt { identity, jwt, .. } => {
                let jwt = jwt.read().await?;
                body(&[("identityId", identity), ("jwt", jwt.expose_text()?)])
            }
            Method::Ldap {
                identity,
                user,
                password,
            } => {
                let password = password.read().await?;
                body(&[
                    ("identityId", identity),
                    ("username", user),
                    ("password", password.expose_text()?),
                ])
            }
            Method::Aws { identity, aws } => {
                let proof = aws.prove().await?;
                body(&[
                    ("identityId", identity),
                    ("iamHttpRequestMethod", "POST"),
                    ("iamRequestBody", &proof.body()),
                    ("iamRequestHeaders", proof.headers()?.expose_text()?),
                ])
            }
            Method::Custom { body, .. } => body.checked().await,
        }
    }
}

/// The login of one provider.
pub(crate) struct InfisicalLogin {
    client: Client,
    auth: InfisicalAuth,
    lifetime: Mutex<Lifetime>,
    lockout: Mutex<Option<Lockout>>,
}

/// A period in which a credential is not sent, because the login was locked.
struct Lockout {
    credential: SecretValue,
    until: Instant,
}

/// The lifetime of the current token.
#[derive(Debug, Clone, Copy, Default)]
struct Lifetime {
    /// The time from one renewal to the next expiry.
    ttl: Duration,
    /// The time after which the token cannot be renewed any more. `None`: there is no maximum.
    max_expiry: Option<Instant>,
}

impl Lifetime {
    /// Returns whether the server would accept a renewal at `at`. The server refuses a renewal that would
    /// end after the maximum lifetime, and then deletes the token.
    fn can_renew_at(&self, at: Instant) -> bool {
        self.max_expiry
            .is_none_or(|max_expiry| at + self.ttl < max_expiry)
    }
}

impl InfisicalLogin {
    pub(crate) fn new(client: Client, auth: InfisicalAuth) -> Self {
        Self {
            client,
            auth,
            lifetime: Mutex::default(),
            lockout: Mutex::default(),
        }
    }

    fn lockout(&self) -> MutexGuard<'_, Option<Lockout>> {
        self.lockout.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fails while the login is locked and its credential is unchanged. A credential that is new for each login
    /// can be another form of the same one, so it counts as unchanged.
    fn check_lockout(&self, credential: &SecretValue) -> Result<(), Error> {
        let is_new_each_time = self.is_credential_new_each_time();
        let remaining = match &*self.lockout() {
            Some(lockout) if is_new_each_time || lockout.credential == *credential => {
                lockout.until.saturating_duration_since(Instant::now())
            }
            _ => Duration::ZERO,
        };
        match remaining.is_zero() {
            true => Ok(()),
            false => Err(wire::locked_out(remaining)),
        }
    }

    fn lifetime(&self) -> MutexGuard<'_, Lifetime> {
        self.lifetime.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Converts the response to a login or renewal that was sent at `requested_at`. Only a login sets the
    /// maximum expiry, because a renewal does not change it.
    fn lease(&self, response: LoginResponse, requested_at: Instant, is_login: bool) -> TokenLease {
        let mut lifetime = self.lifetime();
        lifetime.ttl = response.lifetime.unwrap_or_default();
        if is_login {
            lifetime.max_expiry = response
                .max_lifetime
                .and_then(|max_lifetime| requested_at.checked_add(max_lifetime));
        }
        let mut lease = TokenLease::new(response.token);
        lease.lifetime = response.lifetime;
        // The renewal is due after two thirds of the lifetime. 0.7 leaves a margin.
        lease.renewable = lifetime.can_renew_at(requested_at + lifetime.ttl.mul_f64(0.7));
        lease
    }
}

#[async_trait]
impl Login for InfisicalLogin {
    async fn credential(&self) -> Result<SecretValue, Error> {
        self.auth.credential().await
    }

    fn is_credential_new_each_time(&self) -> bool {
        matches!(self.auth.method, Method::Aws { .. } | Method::Custom { .. })
    }

    fn is_configured_token(&self) -> bool {
        matches!(self.auth.method, Method::Token(_))
    }

    /// Logs in without the previous token, because the server refuses a login request with a dead token.
    async fn login(&self, credential: &SecretValue) -> Result<TokenLease, LoginFailure> {
        if let Method::Token(_) = self.auth.method {
            return Ok(TokenLease::new(credential.clone()));
        }
        self.check_lockout(credential)?;
        let requested_at = Instant::now();
        let request = Request::new(Verb::POST, self.auth.path()?)
            .json(credential.clone())
            // The number of uses of a client secret might be limited.
            .non_idempotent();
        let response = self.client.send(&request).await?;
        let login = wire::parse_login(&response).map_err(|error| {
            if let Some(wait) = error.retry_after() {
                *self.lockout() = Some(Lockout {
                    credential: credential.clone(),
                    until: requested_at + wait,
                });
            }
            match wire::is_wrong_credential(&response) {
                true => LoginFailure::wrong_credential(error),
                false => error.into(),
            }
        })?;
        Ok(self.lease(login, requested_at, true))
    }

    async fn renew(&self, token: &SecretValue) -> Result<TokenLease, Error> {
        let requested_at = Instant::now();
        if !self.lifetime().can_renew_at(requested_at) {
            return Err(Error::new(
                ErrorKind::Unauthenticated,
                "the token is near its maximum lifetime and is not renewed",
            ));
        }
        let body = json_object(&[("accessToken", token.expose_text()?)])?;
        let request = Request::new(Verb::POST, "/api/v1/auth/token/renew")
            .json(body)
            // The server might delete a token whose renewal it refuses.
            .non_idempotent();
        let response = wire::parse_login(&self.client.send(&request).await?)?;
        Ok(self.lease(response, requested_at, false))
    }

    fn refused_token(&self) -> Error {
        let (message, hint) = match self.auth.method {
            Method::Token(_) => (
                "the token is not valid or has expired",
                "use another token, or check that the machine identity exists",
            ),
            _ => (
                "the login succeeds, but the server refuses its token",
                "check the trusted addresses of the machine identity, and the number of uses of its tokens",
            ),
        };
        Error::new(ErrorKind::Unauthenticated, message).with_hint(hint)
    }
}

impl fmt::Debug for InfisicalLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InfisicalLogin")
            .field("auth", &self.auth)
            .finish_non_exhaustive()
    }
}

/// Returns the value of the `Authorization` header for a token.
pub(crate) fn bearer(token: &SecretValue) -> Zeroizing<Vec<u8>> {
    const SCHEME: &[u8] = b"Bearer ";
    let mut header = Zeroizing::new(Vec::with_capacity(SCHEME.len() + token.len()));
    header.extend_from_slice(SCHEME);
    header.extend_from_slice(token.expose_bytes());
    header
}
