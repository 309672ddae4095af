//! The login methods of Vault.

use secretwell_core::Error;
use secretwell_http::{Credential, encode_path};

use crate::error::invalid;

pub(crate) mod login;

/// The file in which Kubernetes mounts the token of a pod's service account.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

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
    pub(crate) method: Method,
    mount: Option<String>,
}

#[derive(Debug, Clone)]
pub(crate) enum Method {
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
    pub(crate) fn path(&self) -> Result<String, Error> {
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
