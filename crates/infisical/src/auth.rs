//! How to log in.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use http::Method as Verb;
use secretwell_core::{Error, ErrorKind, SecretValue};
use secretwell_http::{Client, Credential, Login, Request, TokenLease, json_object};
use tokio::time::Instant;
use zeroize::Zeroizing;

use crate::config::invalid;
use crate::wire::{self, Granted};

/// Where Kubernetes puts the token of a pod's service account.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

/// How to log in to Infisical.
///
/// ```
/// use secretwell::infisical::{InfisicalAuth, Credential};
///
/// let vm = InfisicalAuth::universal("client-id", Credential::file("/etc/app/client-secret"));
/// let pod = InfisicalAuth::kubernetes("identity-id");
/// ```
#[derive(Debug, Clone)]
pub struct InfisicalAuth(Method);

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
}

impl InfisicalAuth {
    /// A token: of Token Auth, or a service token. One in a file is read again when it is refused.
    pub fn token(token: Credential) -> Self {
        Self(Method::Token(token))
    }

    /// Universal Auth, with a client id and a client secret.
    pub fn universal(client_id: impl Into<String>, client_secret: Credential) -> Self {
        Self(Method::Universal {
            client_id: client_id.into(),
            client_secret,
        })
    }

    /// The service account of the pod, as the machine identity `identity`. Its token is read anew for
    /// each login.
    pub fn kubernetes(identity: impl Into<String>) -> Self {
        Self::kubernetes_with(identity, Credential::file(SERVICE_ACCOUNT))
    }

    /// Like [`kubernetes`](Self::kubernetes), with a token from elsewhere.
    pub fn kubernetes_with(identity: impl Into<String>, jwt: Credential) -> Self {
        Self::with_jwt("kubernetes-auth", identity, jwt)
    }

    /// A token of an OpenID Connect provider, as the machine identity `identity`.
    pub fn oidc(identity: impl Into<String>, jwt: Credential) -> Self {
        Self::with_jwt("oidc-auth", identity, jwt)
    }

    /// A JWT, as the machine identity `identity`. Servers of 2024 do not have this login.
    pub fn jwt(identity: impl Into<String>, jwt: Credential) -> Self {
        Self::with_jwt("jwt-auth", identity, jwt)
    }

    fn with_jwt(route: &'static str, identity: impl Into<String>, jwt: Credential) -> Self {
        Self(Method::Jwt {
            route,
            identity: identity.into(),
            jwt,
        })
    }

    /// What can be told to be wrong without asking anybody.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let who = match &self.0 {
            Method::Token(_) => return Ok(()),
            Method::Universal { client_id, .. } => client_id,
            Method::Jwt { identity, .. } => identity,
        };
        match who.trim().is_empty() {
            true => {
                Err(invalid("the login's client or identity id is empty").with_hint("say which"))
            }
            false => Ok(()),
        }
    }

    fn route(&self) -> &'static str {
        match &self.0 {
            Method::Token(_) => "token-auth",
            Method::Universal { .. } => "universal-auth",
            Method::Jwt { route, .. } => route,
        }
    }
}

/// The login of one provider.
pub(crate) struct InfisicalLogin {
    client: Client,
    auth: InfisicalAuth,
    life: Mutex<Life>,
    locked: Mutex<Option<Locked>>,
}

/// A login that the server takes no more for a while.
struct Locked {
    credential: SecretValue,
    until: Instant,
}

/// How long the token in use lives.
#[derive(Debug, Clone, Copy, Default)]
struct Life {
    /// From one renewal to the next.
    span: Duration,
    /// When it ends for good, whatever is renewed.
    end: Option<Instant>,
}

impl Life {
    /// Whether a renewal at `at` would be granted. The server destroys a token whose renewal it refuses,
    /// and it refuses each that would end beyond the maximum.
    fn may_be_renewed(&self, at: Instant) -> bool {
        self.end.is_none_or(|end| at + self.span < end)
    }
}

impl InfisicalLogin {
    pub(crate) fn new(client: Client, auth: InfisicalAuth) -> Self {
        Self {
            client,
            auth,
            life: Mutex::default(),
            locked: Mutex::default(),
        }
    }

    fn locked(&self) -> MutexGuard<'_, Option<Locked>> {
        self.locked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is still said to a login that was locked, while its credential stays the same.
    fn check_lock(&self, credential: &SecretValue) -> Result<(), Error> {
        let left = match &*self.locked() {
            Some(locked) if locked.credential == *credential => {
                locked.until.saturating_duration_since(Instant::now())
            }
            _ => Duration::ZERO,
        };
        match left.is_zero() {
            true => Ok(()),
            false => Err(wire::locked(left)),
        }
    }

    fn life(&self) -> MutexGuard<'_, Life> {
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the server granted when it was `asked`. A login says when the token ends for good; a renewal
    /// does not change that.
    fn grant(&self, granted: Granted, asked: Instant, is_login: bool) -> TokenLease {
        let mut life = self.life();
        life.span = granted.lifetime.unwrap_or_default();
        if is_login {
            life.end = granted.maximum.and_then(|most| asked.checked_add(most));
        }
        let mut lease = TokenLease::new(granted.token);
        lease.lifetime = granted.lifetime;
        // By then two thirds of it are over, and a renewal is due.
        lease.renewable = life.may_be_renewed(asked + life.span.mul_f64(0.7));
        lease
    }
}

#[async_trait]
impl Login for InfisicalLogin {
    async fn credential(&self) -> Result<SecretValue, Error> {
        match &self.auth.0 {
            Method::Token(token) => token.read().await,
            Method::Universal {
                client_id,
                client_secret,
            } => {
                let client_secret = client_secret.read().await?;
                json_object(&[
                    ("clientId", client_id),
                    ("clientSecret", client_secret.expose_text()?),
                ])
            }
            Method::Jwt { identity, jwt, .. } => {
                let jwt = jwt.read().await?;
                json_object(&[("identityId", identity), ("jwt", jwt.expose_text()?)])
            }
        }
    }

    /// Never with the token of before: the server refuses a login that carries a dead one.
    async fn login(&self, credential: &SecretValue) -> Result<TokenLease, Error> {
        if let Method::Token(_) = self.auth.0 {
            return Ok(TokenLease::new(credential.clone()));
        }
        self.check_lock(credential)?;
        let path = format!("/api/v1/auth/{}/login", self.auth.route());
        let asked = Instant::now();
        let request = Request::new(Verb::POST, path)
            .json(credential.clone())
            // The client secret may be good for so many uses only.
            .non_idempotent();
        let granted = wire::granted(&self.client.send(&request).await?).inspect_err(|error| {
            if let ErrorKind::RateLimited {
                retry_after: Some(wait),
            } = error.kind()
            {
                *self.locked() = Some(Locked {
                    credential: credential.clone(),
                    until: asked + wait,
                });
            }
        })?;
        Ok(self.grant(granted, asked, true))
    }

    async fn renew(&self, token: &SecretValue) -> Result<TokenLease, Error> {
        let asked = Instant::now();
        if !self.life().may_be_renewed(asked) {
            return Err(Error::new(
                ErrorKind::Unauthenticated,
                "the token nears its maximum, and is not renewed",
            ));
        }
        let body = json_object(&[("accessToken", token.expose_text()?)])?;
        let request = Request::new(Verb::POST, "/api/v1/auth/token/renew").json(body);
        let granted = wire::granted(&self.client.send(&request).await?)?;
        Ok(self.grant(granted, asked, false))
    }
}

impl fmt::Debug for InfisicalLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InfisicalLogin")
            .field("auth", &self.auth)
            .finish_non_exhaustive()
    }
}

/// The header that carries a token.
pub(crate) fn bearer(token: &SecretValue) -> Zeroizing<Vec<u8>> {
    const SCHEME: &[u8] = b"Bearer ";
    let mut header = Zeroizing::new(Vec::with_capacity(SCHEME.len() + token.len()));
    header.extend_from_slice(SCHEME);
    header.extend_from_slice(token.expose_bytes());
    header
}
