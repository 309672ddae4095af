//! The login methods of Vault.

use std::sync::Arc;

use secretwell_core::Error;
use secretwell_http::{AwsIdentity, Credential, LoginBody, encode_path};

use crate::error::invalid;
use crate::wire;

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
        role_id: Credential,
        secret_id: SecretId,
    },
    Jwt {
        kubernetes: bool,
        role: String,
        jwt: Credential,
    },
    Password {
        kind: &'static str,
        user: String,
        password: Credential,
    },
    Certificate {
        name: Option<String>,
    },
    Aws {
        role: String,
        identity: AwsIdentity,
    },
    Custom {
        mount: String,
        body: Arc<dyn LoginBody>,
    },
}

/// The secret id of an AppRole.
#[derive(Debug, Clone)]
pub(crate) enum SecretId {
    /// The role does not need one.
    Unbound,
    Plain(Credential),
    /// The token that wraps it.
    Wrapped(Credential),
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
    pub fn app_role(role_id: impl Into<Credential>, secret_id: Credential) -> Self {
        Self::with_app_role(role_id, SecretId::Plain(secret_id))
    }

    /// Logs in with AppRole, using a wrapped secret id. `token` is the wrapping token, or the JSON that the
    /// `vault` command prints for it. It is unwrapped once, and the secret id stays in memory for later
    /// logins.
    pub fn app_role_wrapped(role_id: impl Into<Credential>, token: Credential) -> Self {
        let token = token.with_format(wire::wrapping_token);
        Self::with_app_role(role_id, SecretId::Wrapped(token))
    }

    /// Logs in with AppRole, using only a role id. The setting `bind_secret_id` of the role must be `false`.
    pub fn app_role_without_secret(role_id: impl Into<Credential>) -> Self {
        Self::with_app_role(role_id, SecretId::Unbound)
    }

    fn with_app_role(role_id: impl Into<Credential>, secret_id: SecretId) -> Self {
        Self::new(Method::AppRole {
            role_id: role_id.into(),
            secret_id,
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
        Self::with_password("userpass", user, password)
    }

    /// Logs in with the user name and the password of an LDAP directory.
    pub fn ldap(user: impl Into<String>, password: Credential) -> Self {
        Self::with_password("ldap", user, password)
    }

    fn with_password(kind: &'static str, user: impl Into<String>, password: Credential) -> Self {
        Self::new(Method::Password {
            kind,
            user: user.into(),
            password,
        })
    }

    /// Logs in with the client certificate of the connection, which is set with
    /// [`VaultBuilder::client`](crate::VaultBuilder::client). With a `name`, the server checks only that role.
    pub fn certificate(name: Option<String>) -> Self {
        Self::new(Method::Certificate { name })
    }

    /// Logs in with the identity of AWS credentials, for the role `role`. It is the type `iam` of the login
    /// method `aws`.
    ///
    /// If the server expects the header `X-Vault-AWS-IAM-Server-ID`, set it with
    /// [`AwsIdentity::header`]. If the server sends requests to a regional endpoint of AWS, set its
    /// [`region`](AwsIdentity::region).
    ///
    /// ```
    /// use secretwell::vault::{AwsCredentials, AwsIdentity, VaultAuth};
    ///
    /// let identity = AwsIdentity::new(AwsCredentials::from_env())
    ///     .header("X-Vault-AWS-IAM-Server-ID", "vault.example.com");
    /// let auth = VaultAuth::aws("app", identity);
    /// ```
    pub fn aws(role: impl Into<String>, identity: AwsIdentity) -> Self {
        Self::new(Method::Aws {
            role: role.into(),
            identity,
        })
    }

    /// Logs in with a body that a closure or a [`LoginBody`] creates for each login. It is sent to the path
    /// `auth/{mount}/login`.
    ///
    /// ```
    /// use secretwell::vault::{Credential, VaultAuth, json_object};
    ///
    /// let jwt = Credential::file("/run/identity/token");
    /// let auth = VaultAuth::custom("gcp", move || {
    ///     let jwt = jwt.clone();
    ///     async move {
    ///         let jwt = jwt.read().await?;
    ///         json_object(&[("role", "app"), ("jwt", jwt.expose_text()?)])
    ///     }
    /// });
    /// ```
    pub fn custom(mount: impl Into<String>, body: impl LoginBody) -> Self {
        Self::new(Method::Custom {
            mount: mount.into(),
            body: Arc::new(body),
        })
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

    /// Returns whether the server counts refused credentials, and locks the login after several of them. A custom
    /// login can be of such a method.
    pub(crate) fn is_counted(&self) -> bool {
        matches!(
            self.method,
            Method::AppRole { .. } | Method::Password { .. } | Method::Custom { .. }
        )
    }

    /// Returns whether the token is an existing one, for which no login is sent.
    pub(crate) fn is_token(&self) -> bool {
        matches!(self.method, Method::Token(_))
    }

    /// Returns the mount of the login method.
    pub(crate) fn mount_name(&self) -> &str {
        let method = match &self.method {
            Method::Agent | Method::Token(_) => "token",
            Method::AppRole { .. } => "approle",
            Method::Jwt { kubernetes, .. } if *kubernetes => "kubernetes",
            Method::Jwt { .. } => "jwt",
            Method::Password { kind, .. } => kind,
            Method::Certificate { .. } => "cert",
            Method::Aws { .. } => "aws",
            Method::Custom { mount, .. } => mount,
        };
        self.mount.as_deref().unwrap_or(method)
    }

    /// Returns the path of the login request.
    pub(crate) fn path(&self) -> Result<String, Error> {
        let mount = encode_path(self.mount_name())?;
        Ok(match &self.method {
            Method::Password { user, .. } => {
                format!("/v1/auth/{mount}/login/{}", encode_path(user)?)
            }
            _ => format!("/v1/auth/{mount}/login"),
        })
    }

    /// Checks the settings as far as possible without I/O.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let is_blank = match &self.method {
            Method::AppRole { role_id, .. } => role_id.is_blank(),
            Method::Jwt { role: name, .. }
            | Method::Password { user: name, .. }
            | Method::Aws { role: name, .. } => name.trim().is_empty(),
            Method::Agent
            | Method::Token(_)
            | Method::Certificate { .. }
            | Method::Custom { .. } => false,
        };
        if is_blank {
            return Err(invalid("the role or user of the login is empty")
                .with_hint("set the role id, role or user name"));
        }
        if let Method::Aws { identity, .. } = &self.method {
            identity.check()?;
        }
        self.path().map(drop)
    }
}
