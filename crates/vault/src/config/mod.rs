//! Configuration of a provider, from code, variables or a URL.

use secretwell_core::{Error, SecretValue};
use secretwell_http::{ClientConfig, UrlOptions, decode};

use self::login::{LoginOptions, token};
use self::variables::{Variables, process_variable};
use crate::auth::VaultAuth;
use crate::dynamic::Dynamic;
use crate::error::invalid;
use crate::location::below;
use crate::provider::VaultProvider;
use crate::settings::Settings;
use crate::wire::KvVersion;

mod login;
#[cfg(test)]
mod tests;
mod variables;

/// Settings of a [`VaultProvider`]. Create it with [`VaultProvider::builder`],
/// [`from_env`](Self::from_env) or [`from_url`](Self::from_url). The defaults fit most services.
///
/// ```
/// use std::time::Duration;
///
/// use secretwell::vault::{Credential, KvVersion, VaultAuth, VaultProvider};
///
/// # fn main() -> Result<(), secretwell::Error> {
/// let auth = VaultAuth::userpass("app", Credential::file("/etc/app/password"));
/// let provider = VaultProvider::builder(["https://vault-1:8200", "https://vault-2:8200"], auth)?
///     .path("app")
///     .kv_version(KvVersion::V2)
///     .client(|client| client.deadline(Duration::from_secs(10)))
///     .build()?;
/// # drop(provider);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct VaultBuilder {
    settings: Settings,
    skip_verify_requested: bool,
    credential_variables: Vec<String>,
}

impl VaultProvider {
    /// Creates settings for the servers at `addresses`. If one does not respond, the next one is tried.
    ///
    /// # Errors
    /// Returns [`ErrorKind::InvalidConfig`](secretwell_core::ErrorKind::InvalidConfig) if `addresses` is
    /// empty or an address is not valid.
    pub fn builder<A: AsRef<str>>(
        addresses: impl IntoIterator<Item = A>,
        auth: VaultAuth,
    ) -> Result<VaultBuilder, Error> {
        let client = ClientConfig::new(addresses)?;
        Ok(VaultBuilder::new(client, auth))
    }

    /// Creates a provider from the conventional variables that [`VaultBuilder::from_env`] reads.
    ///
    /// # Errors
    /// Returns [`ErrorKind::InvalidConfig`](secretwell_core::ErrorKind::InvalidConfig) if a variable is
    /// invalid or a required one is missing.
    pub fn from_env() -> Result<Self, Error> {
        VaultBuilder::from_env()?.build()
    }

    /// Creates a provider from a URL, as [`VaultBuilder::from_url`] reads it.
    ///
    /// # Errors
    /// Returns [`ErrorKind::InvalidConfig`](secretwell_core::ErrorKind::InvalidConfig), which names the part
    /// of the URL that is invalid.
    pub fn from_url(url: &str) -> Result<Self, Error> {
        VaultBuilder::from_url(url)?.build()
    }
}

impl VaultBuilder {
    fn new(client: ClientConfig, auth: VaultAuth) -> Self {
        Self {
            settings: Settings::new(client, auth),
            skip_verify_requested: false,
            credential_variables: Vec::new(),
        }
    }

    /// Sets the mount of the key-value engine. Default: `secret`.
    #[must_use]
    pub fn mount(mut self, mount: impl Into<String>) -> Self {
        self.settings.mount = mount.into();
        self.settings.is_mount_explicit = true;
        self
    }

    /// Sets the path below the mount at which keys begin. The key `PASSWORD` is a field of the secret at
    /// this path. The key `db/PASSWORD` is a field of the secret `db` below it. Default: the mount itself.
    #[must_use]
    pub fn path(mut self, path: impl Into<String>) -> Self {
        self.settings.path = path.into();
        self
    }

    /// Sets the version of the key-value engine. Default: requested from the server once.
    #[must_use]
    pub fn kv_version(mut self, version: KvVersion) -> Self {
        self.settings.kv = Some(version);
        self
    }

    /// Sets the login method.
    #[must_use]
    pub fn auth(mut self, auth: VaultAuth) -> Self {
        self.settings.auth = auth;
        self.credential_variables.clear();
        self
    }

    /// Returns the names of the variables that [`from_env`](Self::from_env) or [`from_url`](Self::from_url)
    /// searched for the credentials of the login, such as `BAO_TOKEN` and `VAULT_TOKEN`. A variable in the list
    /// might not be set. Variables that contain the path of a file are not in the list.
    ///
    /// A program that starts other programs can remove these variables from their environment.
    pub fn credential_variables(&self) -> &[String] {
        &self.credential_variables
    }

    /// Sets the namespace of the secrets. It is also the namespace of the login, unless
    /// [`login_namespace`](Self::login_namespace) is set. The variable is `VAULT_NAMESPACE`.
    #[must_use]
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.settings.namespace = Some(namespace.into());
        self
    }

    /// Sets the namespace of the login, if it differs from that of the secrets. Use `root` for a login without
    /// a namespace.
    #[must_use]
    pub fn login_namespace(mut self, namespace: impl Into<String>) -> Self {
        self.settings.login_namespace = Some(namespace.into());
        self
    }

    /// Makes each key the path of a secret instead of a field. Each value is then the whole data of a secret,
    /// as JSON.
    #[must_use]
    pub fn whole_secrets(mut self) -> Self {
        self.settings.whole = true;
        self
    }

    /// Adds a dynamic secret. A read of `path` creates it, and the keys below `prefix` are its fields. With
    /// the prefix `db` and the path `database/creds/app`, the keys `db/username` and `db/password` are the
    /// credentials of one lease.
    ///
    /// The lease is cached, and renewed when half of its duration has passed. If a renewal cannot extend it
    /// enough, a new lease replaces it. A new login also causes a new lease, because a lease ends with the
    /// token that created it. After [`discard`](secretwell_core::SecretProvider::discard), the next read
    /// creates a new lease.
    ///
    /// A secret without a lease, such as the password of a static role, is not cached. A static role can be
    /// rotated before the end of its `ttl`.
    #[must_use]
    pub fn dynamic(self, prefix: impl Into<String>, path: impl Into<String>) -> Self {
        self.with_dynamic(prefix.into(), path.into(), None)
    }

    /// Like [`dynamic`](Self::dynamic), for a path that is written with a JSON body, such as
    /// `pki/issue/app` for a certificate. A secret without a lease is cached if it states its end, as a
    /// certificate does.
    #[must_use]
    pub fn dynamic_with(
        self,
        prefix: impl Into<String>,
        path: impl Into<String>,
        json: impl Into<SecretValue>,
    ) -> Self {
        self.with_dynamic(prefix.into(), path.into(), Some(json.into()))
    }

    fn with_dynamic(mut self, prefix: String, path: String, body: Option<SecretValue>) -> Self {
        self.settings.dynamic.push(Dynamic { prefix, path, body });
        self
    }

    /// Changes the settings of the HTTP client, such as deadlines and certificates.
    #[must_use]
    pub fn client(mut self, change: impl FnOnce(ClientConfig) -> ClientConfig) -> Self {
        self.settings.client = change(self.settings.client);
        self
    }

    /// Creates the provider. The only I/O is reading certificates; the first read of a secret logs in.
    ///
    /// # Errors
    /// Returns [`ErrorKind::InvalidConfig`](secretwell_core::ErrorKind::InvalidConfig) in these cases:
    /// - A mount, path, prefix, role or namespace is not valid.
    /// - A certificate cannot be read.
    /// - An address would receive tokens unencrypted over the network, or ends with `/v1` or `/ui`.
    /// - `VAULT_SKIP_VERIFY` is set, but
    ///   [`danger_skip_verification`](ClientConfig::danger_skip_verification) was not called.
    pub fn build(self) -> Result<VaultProvider, Error> {
        let client = &self.settings.client;
        if self.skip_verify_requested && !client.skips_verification() {
            return Err(
                invalid("`VAULT_SKIP_VERIFY` is set, but this program does not allow it")
                    .with_hint("configure the authority's certificate with `VAULT_CACERT` instead"),
            );
        }
        let addresses = client.addresses().iter().map(ToString::to_string);
        for address in addresses {
            for end in ["/v1", "/ui"] {
                if let Some(correct) = address.strip_suffix(end) {
                    return Err(invalid(format!("the address must not end with `{end}`"))
                        .with_hint(format!("set it to `{correct}`")));
                }
            }
        }
        self.settings.auth.check()?;
        VaultProvider::new(self.settings)
    }

    /// Creates settings from the conventional variables:
    ///
    /// - `VAULT_AGENT_ADDR` or `VAULT_ADDR`
    /// - `VAULT_TOKEN`, `VAULT_TOKEN_FILE`, or the file `~/.vault-token` that the `vault` command writes
    /// - `VAULT_NAMESPACE`
    /// - `VAULT_CACERT`, `VAULT_CACERT_BYTES` or `VAULT_CAPATH`
    /// - `VAULT_CLIENT_CERT` and `VAULT_CLIENT_KEY`
    /// - `VAULT_TLS_SERVER_NAME`
    /// - `VAULT_CLIENT_TIMEOUT`, the [maximum duration of each request](ClientConfig::deadline)
    /// - `VAULT_PROXY_ADDR` or `VAULT_HTTP_PROXY`, or else the [variables for proxies](ClientConfig::proxy)
    /// - `SECRETWELL_ALLOW_HTTP`, which allows plain HTTP to other machines if it is `true`
    ///
    /// Each variable can also begin with `BAO_`, which has precedence. An empty variable counts as unset.
    /// Variables of the `vault` command that this crate does not support, such as `VAULT_HEADERS`, are
    /// rejected by their names.
    ///
    /// # Errors
    /// Returns [`ErrorKind::InvalidConfig`](secretwell_core::ErrorKind::InvalidConfig) if a variable is not
    /// valid. Also returns it if no token is configured and `HOME` is not set. Otherwise, a missing token is an error
    /// of the first read, of the kind [`ErrorKind::Unauthenticated`](secretwell_core::ErrorKind::Unauthenticated),
    /// because the `vault` command might write `~/.vault-token` later.
    pub fn from_env() -> Result<Self, Error> {
        Self::from_variables(&process_variable)
    }

    /// Creates settings from a URL such as `vault://host:8200/mount/path?auth=approle&role_id=…`. Settings that
    /// the URL does not have are read from the variables of [`from_env`](Self::from_env).
    ///
    /// | option | meaning |
    /// | --- | --- |
    /// | `auth` | the login method: `token` (default), `approle`, `kubernetes`, `jwt`, `userpass`, `ldap`, `cert`, `aws` or `agent` |
    /// | `auth_mount` | the mount of the login method, if it is not the name of the method |
    /// | `role`, `user` | the role of `kubernetes`, `jwt`, `cert` and `aws`, or the user of `userpass` and `ldap` |
    /// | `role_id` | the role id of `approle`. `role` is its older name |
    /// | `bind_secret_id` | `false` for an AppRole without a secret id |
    /// | `aws_region`, `aws_server_id` | the region of the endpoint of AWS, and the value of `X-Vault-AWS-IAM-Server-ID` |
    /// | `token_file`, `role_id_file`, `secret_id_file`, `wrapped_secret_id_file`, `jwt_file`, `password_file` | the file with the credential |
    /// | `kv` | the version of the key-value engine: `1` or `2` |
    /// | `mount` | the mount of the secrets. Without it, the first segment of the path is the mount, or more of them if the server reports such a mount |
    /// | `allow_http` | `true` allows plain HTTP to other machines. Use it in a trusted network only. |
    /// | `proxy` | the proxy for servers with TLS, such as `http://proxy:3128`, or `none` |
    /// | `namespace`, `login_namespace` | the namespaces of the secrets and of the login |
    ///
    /// # Errors
    /// Returns [`ErrorKind::InvalidConfig`](secretwell_core::ErrorKind::InvalidConfig) if a part of the URL or
    /// a variable is not valid. A URL with credentials is rejected.
    pub fn from_url(url: &str) -> Result<Self, Error> {
        Self::from_url_with(url, &process_variable)
    }

    /// Creates settings from the conventional variables, with `variable` as the source of their values.
    pub(crate) fn from_variables(variable: &dyn Fn(&str) -> Option<String>) -> Result<Self, Error> {
        let variables = Variables::new(variable);
        let client = variables.client()?;
        let mut builder = Self::new(client, VaultAuth::token(token(&variables)?));
        builder.settings.namespace = variables.get("NAMESPACE");
        builder.skip_verify_requested = variables.flag("SKIP_VERIFY")?;
        builder.credential_variables = variables.into_credentials();
        Ok(builder)
    }

    /// Creates settings from a URL, with `variable` as the source of the conventional variables.
    pub(crate) fn from_url_with(
        url: &str,
        variable: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, Error> {
        let invalid_url = |message: &'static str| {
            invalid(message)
                .with_hint("write it like `vault://host:8200/mount/path?auth=kubernetes&role=app`")
        };
        let (scheme, rest) = url
            .split_once("://")
            .ok_or_else(|| invalid_url("the text is not a URL"))?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (hosts, mount_and_path) = rest.split_once('/').unwrap_or((rest, ""));
        let scheme = match scheme {
            "vault" => "https",
            "vault+http" => "http",
            _ => {
                return Err(invalid_url(
                    "the scheme is neither `vault` nor `vault+http`",
                ));
            }
        };
        // The login below replaces the token of the variables, so a missing token is not an error here.
        let with_token = |name: &str| match name {
            "VAULT_TOKEN" | "BAO_TOKEN" => variable(name).or(Some("unset".into())),
            _ => variable(name),
        };
        let mut builder = Self::from_variables(&with_token)?;
        if !hosts.is_empty() {
            let addresses = hosts.split(',').map(|host| format!("{scheme}://{host}"));
            let client = &mut builder.settings.client;
            *client = client.clone().with_addresses(addresses)?;
        }
        let settings = &mut builder.settings;
        let mount_and_path = decode(mount_and_path.trim_matches('/'))?;
        if !mount_and_path.is_empty() {
            let (mount, path) = mount_and_path
                .split_once('/')
                .unwrap_or((&mount_and_path, ""));
            (settings.mount, settings.path) = (mount.to_owned(), path.to_owned());
        }
        let options = UrlOptions::parse(query, OPTIONS, CREDENTIALS)?;
        settings.kv = match options.get("kv") {
            None => None,
            Some("1") => Some(KvVersion::V1),
            Some("2") => Some(KvVersion::V2),
            Some(_) => {
                return Err(invalid("`kv` is neither 1 nor 2")
                    .with_hint("write it like `kv=2`, or leave it out to detect the version"));
            }
        };
        if let Some(mount) = options.get("mount") {
            let mount = mount.trim_matches('/');
            // The path of the URL can contain the mount or not.
            let path = below(&mount_and_path, mount).unwrap_or(&mount_and_path);
            settings.path = path.trim_matches('/').to_owned();
            settings.mount = mount.to_owned();
            settings.is_mount_explicit = true;
        }
        if let Some(namespace) = options.get("namespace") {
            settings.namespace = Some(namespace.to_owned());
        }
        settings.login_namespace = options.get("login_namespace").map(str::to_owned);
        settings.client = settings.client.clone().with_options(&options)?;
        let login = LoginOptions {
            options: &options,
            variables: Variables::new(variable),
        };
        settings.auth = login.auth()?;
        builder.credential_variables = login.variables.into_credentials();
        Ok(builder)
    }
}

/// The valid options of a URL.
const OPTIONS: &[&str] = &[
    "auth",
    "auth_mount",
    "role",
    "role_id",
    "role_id_file",
    "bind_secret_id",
    "user",
    "token_file",
    "secret_id_file",
    "wrapped_secret_id_file",
    "jwt_file",
    "password_file",
    "aws_region",
    "aws_server_id",
    "kv",
    "mount",
    "namespace",
    "login_namespace",
    "allow_http",
    "proxy",
];

/// Credentials that are rejected in a URL, each with the variable for it.
const CREDENTIALS: &[(&str, &str)] = &[
    ("token", "VAULT_TOKEN"),
    ("secret_id", "VAULT_SECRET_ID"),
    ("password", "VAULT_PASSWORD"),
    ("jwt", "VAULT_JWT"),
];
