//! Configuration of a provider, from code, variables or a URL.

use std::borrow::Cow;
use std::env;
use std::path::PathBuf;
use std::time::Duration;

use http::HeaderValue;
use secretwell_core::{Error, ErrorKind, SecretValue};
use secretwell_http::{ClientConfig, Credential, UrlOptions, decode};

use crate::lease::Dynamic;
use crate::wire::KvVersion;
use crate::{VaultAuth, VaultProvider};

#[cfg(test)]
mod tests;

/// The address if none is configured; the same as that of the `vault` command.
const DEFAULT_ADDRESS: &str = "https://127.0.0.1:8200";

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
    pub(crate) client: ClientConfig,
    pub(crate) mount: String,
    pub(crate) path: String,
    pub(crate) kv: Option<KvVersion>,
    pub(crate) auth: VaultAuth,
    pub(crate) namespace: Option<String>,
    pub(crate) login_namespace: Option<String>,
    pub(crate) whole: bool,
    pub(crate) dynamic: Vec<Dynamic>,
    skip_verify_requested: bool,
}

impl VaultBuilder {
    pub(crate) fn new(client: ClientConfig, auth: VaultAuth) -> Self {
        Self {
            client,
            mount: "secret".into(),
            path: String::new(),
            kv: None,
            auth,
            namespace: None,
            login_namespace: None,
            whole: false,
            dynamic: Vec::new(),
            skip_verify_requested: false,
        }
    }

    /// Sets the mount of the key-value engine. Default: `secret`.
    #[must_use]
    pub fn mount(mut self, mount: impl Into<String>) -> Self {
        self.mount = mount.into();
        self
    }

    /// Sets the path below the mount at which keys begin. The key `PASSWORD` is a field of the secret at
    /// this path. The key `db/PASSWORD` is a field of the secret `db` below it. Default: the mount itself.
    #[must_use]
    pub fn path(mut self, path: impl Into<String>) -> Self {
        self.path = path.into();
        self
    }

    /// Sets the version of the key-value engine. Default: requested from the server once.
    #[must_use]
    pub fn kv_version(mut self, version: KvVersion) -> Self {
        self.kv = Some(version);
        self
    }

    /// Sets the login method.
    #[must_use]
    pub fn auth(mut self, auth: VaultAuth) -> Self {
        self.auth = auth;
        self
    }

    /// Sets the namespace of the secrets. It is also the namespace of the login, unless
    /// [`login_namespace`](Self::login_namespace) is set. The variable is `VAULT_NAMESPACE`.
    #[must_use]
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = Some(namespace.into());
        self
    }

    /// Sets the namespace of the login, if it differs from that of the secrets. Use `root` for a login without
    /// a namespace.
    #[must_use]
    pub fn login_namespace(mut self, namespace: impl Into<String>) -> Self {
        self.login_namespace = Some(namespace.into());
        self
    }

    /// Makes each key the path of a secret instead of a field. Each value is then the whole data of a secret,
    /// as JSON.
    #[must_use]
    pub fn whole_secrets(mut self) -> Self {
        self.whole = true;
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
        self.dynamic.push(Dynamic { prefix, path, body });
        self
    }

    /// Changes the settings of the HTTP client, such as deadlines and certificates.
    #[must_use]
    pub fn client(mut self, change: impl FnOnce(ClientConfig) -> ClientConfig) -> Self {
        self.client = change(self.client);
        self
    }

    /// Creates the provider. The only I/O is reading certificates; the first read of a secret logs in.
    ///
    /// # Errors
    /// Returns [`ErrorKind::InvalidConfig`] in these cases:
    /// - A mount, path, prefix, role or namespace is not valid.
    /// - A certificate cannot be read.
    /// - An address would receive tokens unencrypted over the network.
    /// - `VAULT_SKIP_VERIFY` is set, but
    ///   [`danger_skip_verification`](ClientConfig::danger_skip_verification) was not called.
    pub fn build(self) -> Result<VaultProvider, Error> {
        if self.skip_verify_requested && !self.client.skips_verification() {
            return Err(
                invalid("`VAULT_SKIP_VERIFY` is set, but this program does not allow it")
                    .with_hint("configure the authority's certificate with `VAULT_CACERT` instead"),
            );
        }
        self.auth.check()?;
        VaultProvider::new(self)
    }

    /// Creates settings from the conventional variables:
    ///
    /// - `VAULT_AGENT_ADDR` or `VAULT_ADDR`
    /// - `VAULT_TOKEN`, `VAULT_TOKEN_FILE`, or the file `~/.vault-token` that the `vault` command writes
    /// - `VAULT_NAMESPACE`
    /// - `VAULT_CACERT` or `VAULT_CACERT_BYTES`
    /// - `VAULT_CLIENT_CERT` and `VAULT_CLIENT_KEY`
    /// - `VAULT_TLS_SERVER_NAME`
    /// - `VAULT_CLIENT_TIMEOUT`
    ///
    /// Each variable can also begin with `BAO_`, which has precedence. An empty variable counts as unset.
    ///
    /// # Errors
    /// Returns [`ErrorKind::InvalidConfig`] if a variable is not valid, or if no token is configured.
    pub fn from_env() -> Result<Self, Error> {
        Self::from_variables(&process_variable)
    }

    /// Creates settings from a URL such as `vault://host:8200/mount/path?auth=approle&role=…`. Settings that
    /// the URL does not have are read from the variables of [`from_env`](Self::from_env).
    ///
    /// | option | meaning |
    /// | --- | --- |
    /// | `auth` | the login method: `token` (default), `approle`, `kubernetes`, `jwt`, `userpass`, `cert` or `agent` |
    /// | `auth_mount` | the mount of the login method, if it is not the name of the method |
    /// | `role`, `user` | the role id of `approle`, the role of `kubernetes`, `jwt` and `cert`, or the user of `userpass` |
    /// | `token_file`, `secret_id_file`, `wrapped_secret_id_file`, `jwt_file`, `password_file` | the file with the credential |
    /// | `kv` | the version of the key-value engine: `1` or `2` |
    /// | `mount` | the mount of the secrets, if it contains a slash |
    /// | `namespace`, `login_namespace` | the namespaces of the secrets and of the login |
    ///
    /// # Errors
    /// Returns [`ErrorKind::InvalidConfig`] if a part of the URL or a variable is not valid. A URL with
    /// credentials is rejected.
    pub fn from_url(url: &str) -> Result<Self, Error> {
        Self::from_url_with(url, &process_variable)
    }

    /// Creates settings from the conventional variables, with `variable` as the source of their values.
    pub(crate) fn from_variables(variable: &dyn Fn(&str) -> Option<String>) -> Result<Self, Error> {
        let variables = Variables(variable);
        let address = variables
            .get("AGENT_ADDR")
            .or_else(|| variables.get("ADDR"));
        let address = address.as_deref().unwrap_or(DEFAULT_ADDRESS);
        let mut client = ClientConfig::new([address])?;
        if let Some(path) = variables.get("CACERT") {
            client = client.certificate_authority_file(path);
        } else if let Some(text) = variables.get("CACERT_BYTES") {
            client = client.certificate_authority(text);
        }
        client = match (variables.get("CLIENT_CERT"), variables.get("CLIENT_KEY")) {
            (Some(chain), Some(key)) => client.identity_files(chain, key),
            (None, None) => client,
            _ => {
                return Err(invalid(
                    "only one of `VAULT_CLIENT_CERT` and `VAULT_CLIENT_KEY` is set",
                )
                .with_hint("set both, or neither"));
            }
        };
        if let Some(name) = variables.get("TLS_SERVER_NAME") {
            client = client.server_name(name);
        }
        if let Some(text) = variables.get("CLIENT_TIMEOUT") {
            client = client.deadline(duration(&text)?);
        }
        let mut builder = Self::new(client, VaultAuth::token(token(&variables)?));
        builder.namespace = variables.get("NAMESPACE");
        builder.skip_verify_requested = match variables.get("SKIP_VERIFY") {
            None => false,
            Some(text) => flag(&text)?,
        };
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
            builder.client = builder.client.with_addresses(addresses)?;
        }
        let mount_and_path = decode(mount_and_path.trim_matches('/'))?;
        if !mount_and_path.is_empty() {
            let (mount, path) = mount_and_path
                .split_once('/')
                .unwrap_or((&mount_and_path, ""));
            (builder.mount, builder.path) = (mount.to_owned(), path.to_owned());
        }
        let options = UrlOptions::parse(query, OPTIONS, CREDENTIALS)?;
        builder.kv = match options.get("kv") {
            None => None,
            Some("1") => Some(KvVersion::V1),
            Some("2") => Some(KvVersion::V2),
            Some(_) => return Err(invalid_url("`kv` is neither 1 nor 2")),
        };
        if let Some(mount) = options.get("mount") {
            builder.mount = mount.to_owned();
            builder.path = mount_and_path
                .strip_prefix(mount)
                .unwrap_or(&mount_and_path)
                .trim_matches('/')
                .to_owned();
        }
        builder.namespace = options
            .get("namespace")
            .map(str::to_owned)
            .or(builder.namespace);
        builder.login_namespace = options.get("login_namespace").map(str::to_owned);
        let login = LoginOptions {
            options: &options,
            variables: Variables(variable),
        };
        builder.auth = login.auth()?;
        Ok(builder)
    }
}

/// The variables whose names start with `VAULT_` or `BAO_`.
struct Variables<'a>(&'a dyn Fn(&str) -> Option<String>);

impl Variables<'_> {
    /// Returns the value of `BAO_…`, or else of `VAULT_…`. An empty variable counts as unset.
    fn get(&self, name: &str) -> Option<String> {
        ["BAO_", "VAULT_"]
            .into_iter()
            .filter_map(|prefix| (self.0)(&format!("{prefix}{name}")))
            .find(|value| !value.trim().is_empty())
    }

    /// Returns the credential in the variable `name`, or else in the file that the variable `name` + `_FILE`
    /// names.
    fn credential(&self, name: &str) -> Option<Credential> {
        let file = || self.get(&format!("{name}_FILE")).map(Credential::file);
        self.get(name).map(Credential::value).or_else(file)
    }
}

/// Returns the token of the variables, or else the file `~/.vault-token` of the `vault` command.
fn token(variables: &Variables<'_>) -> Result<Credential, Error> {
    let token_of_the_command = || {
        let home = (variables.0)("HOME").filter(|home| !home.is_empty())?;
        Some(Credential::file(PathBuf::from(home).join(".vault-token")))
    };
    variables
        .credential("TOKEN")
        .or_else(token_of_the_command)
        .ok_or_else(|| {
            invalid("no token is configured")
                .with_hint("set `VAULT_TOKEN`, or choose another login method with `auth`")
        })
}

/// The valid options of a URL.
const OPTIONS: &[&str] = &[
    "auth",
    "auth_mount",
    "role",
    "user",
    "token_file",
    "secret_id_file",
    "wrapped_secret_id_file",
    "jwt_file",
    "password_file",
    "kv",
    "mount",
    "namespace",
    "login_namespace",
];

/// Credentials that are rejected in a URL, each with the variable for it.
const CREDENTIALS: &[(&str, &str)] = &[
    ("token", "VAULT_TOKEN"),
    ("secret_id", "VAULT_SECRET_ID"),
    ("password", "VAULT_PASSWORD"),
    ("jwt", "VAULT_JWT"),
];

/// The parts of a URL and the variables that configure the login.
struct LoginOptions<'a> {
    options: &'a UrlOptions,
    variables: Variables<'a>,
}

impl LoginOptions<'_> {
    fn credential(&self, name: &str) -> Result<Credential, Error> {
        let option = format!("{name}_file");
        let variable = name.to_ascii_uppercase();
        let file = self.options.get(&option).map(Credential::file);
        file.or_else(|| self.variables.credential(&variable))
            .ok_or_else(|| {
                invalid(format!("the login needs the credential `{name}`")).with_hint(format!(
                "set `{option}` or `VAULT_{variable}_FILE` to its file, or set `VAULT_{variable}`"
            ))
            })
    }

    fn auth(&self) -> Result<VaultAuth, Error> {
        let options = self.options;
        let auth = match options.get("auth").unwrap_or("token") {
            "token" => match options.get("token_file") {
                Some(path) => VaultAuth::token(Credential::file(path)),
                None => VaultAuth::token(token(&self.variables)?),
            },
            "approle" => match options.get("wrapped_secret_id_file") {
                Some(path) => {
                    VaultAuth::app_role_wrapped(options.required("role")?, Credential::file(path))
                }
                None => {
                    VaultAuth::app_role(options.required("role")?, self.credential("secret_id")?)
                }
            },
            "kubernetes" => match options.get("jwt_file") {
                Some(path) => {
                    VaultAuth::kubernetes_with(options.required("role")?, Credential::file(path))
                }
                None => VaultAuth::kubernetes(options.required("role")?),
            },
            "jwt" => VaultAuth::jwt(options.required("role")?, self.credential("jwt")?),
            "userpass" => {
                VaultAuth::userpass(options.required("user")?, self.credential("password")?)
            }
            "cert" => VaultAuth::certificate(options.get("role").map(str::to_owned)),
            "agent" => VaultAuth::agent(),
            _ => {
                return Err(invalid("the login method is unknown").with_hint(
                    "use `token`, `approle`, `kubernetes`, `jwt`, `userpass`, `cert` or `agent`",
                ));
            }
        };
        Ok(match options.get("auth_mount") {
            Some(mount) => auth.mount(mount),
            None => auth,
        })
    }
}

/// Parses a duration: a number of seconds such as `60`, or a text such as `60s`.
fn duration(text: &str) -> Result<Duration, Error> {
    let seconds = text.trim().parse().ok().map(Duration::from_secs);
    seconds
        .or_else(|| humantime::parse_duration(text.trim()).ok())
        .ok_or_else(|| {
            invalid("`VAULT_CLIENT_TIMEOUT` is not a duration").with_hint("write it like `30s`")
        })
}

fn flag(text: &str) -> Result<bool, Error> {
    match text.trim() {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(invalid("`VAULT_SKIP_VERIFY` is neither true nor false")
            .with_hint("set it to `true` or `false`, or unset it")),
    }
}

/// Returns the header value for a namespace.
pub(crate) fn namespace(name: &str) -> Result<HeaderValue, Error> {
    HeaderValue::from_str(name.trim_matches('/'))
        .map_err(|_| invalid("the namespace contains a character that is not allowed in a header"))
}

pub(crate) fn process_variable(name: &str) -> Option<String> {
    env::var(name).ok()
}

pub(crate) fn invalid(message: impl Into<Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidConfig, message)
}
