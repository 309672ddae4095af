//! Where the server is, where in it the secrets are, and how to log in.

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

/// Where the server listens when nobody says.
const DEFAULT_ADDRESS: &str = "https://127.0.0.1:8200";

/// Settings of a [`VaultProvider`], made by [`VaultProvider::builder`] or
/// [`from_env`](Self::from_env). Every default is meant to be kept.
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
    wants_no_verification: bool,
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
            wants_no_verification: false,
        }
    }

    /// The mount of the key-value engine. Default: `secret`.
    #[must_use]
    pub fn mount(mut self, mount: impl Into<String>) -> Self {
        self.mount = mount.into();
        self
    }

    /// The path below the mount at which keys begin. The key `PASSWORD` is a field of the secret at
    /// this path, the key `db/PASSWORD` one of the secret `db` below it. Default: the mount itself.
    #[must_use]
    pub fn path(mut self, path: impl Into<String>) -> Self {
        self.path = path.into();
        self
    }

    /// The version of the key-value engine. Default: the server is asked, once.
    #[must_use]
    pub fn kv_version(mut self, version: KvVersion) -> Self {
        self.kv = Some(version);
        self
    }

    /// How to log in.
    #[must_use]
    pub fn auth(mut self, auth: VaultAuth) -> Self {
        self.auth = auth;
        self
    }

    /// The namespace of the secrets, and of the login unless
    /// [`login_namespace`](Self::login_namespace) says otherwise. `VAULT_NAMESPACE`.
    #[must_use]
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = Some(namespace.into());
        self
    }

    /// The namespace of the login, where it is another than that of the secrets; `root` for none.
    #[must_use]
    pub fn login_namespace(mut self, namespace: impl Into<String>) -> Self {
        self.login_namespace = Some(namespace.into());
        self
    }

    /// Takes keys for paths of secrets, not of fields: each value is a secret's whole data, as JSON.
    #[must_use]
    pub fn whole_secrets(mut self) -> Self {
        self.whole = true;
        self
    }

    /// Takes the keys below `directory` from what a read of `path` makes: with `db` and
    /// `database/creds/app`, the keys `db/username` and `db/password` are the credentials of one lease.
    ///
    /// What was made is kept for as long as it has half of its life before it, renewed then, and
    /// replaced where that no longer helps, or when the login was replaced that it would die with.
    #[must_use]
    pub fn dynamic(self, directory: impl Into<String>, path: impl Into<String>) -> Self {
        self.with_dynamic(directory.into(), path.into(), None)
    }

    /// Like [`dynamic`](Self::dynamic), for a path that is written to, with a body of JSON: a
    /// certificate from `pki/issue/app`, say.
    #[must_use]
    pub fn dynamic_with(
        self,
        directory: impl Into<String>,
        path: impl Into<String>,
        json: impl Into<SecretValue>,
    ) -> Self {
        self.with_dynamic(directory.into(), path.into(), Some(json.into()))
    }

    fn with_dynamic(mut self, directory: String, path: String, body: Option<SecretValue>) -> Self {
        self.dynamic.push(Dynamic {
            directory,
            path,
            body,
        });
        self
    }

    /// Changes how the server is reached: deadlines, certificates, a socket.
    #[must_use]
    pub fn client(mut self, change: impl FnOnce(ClientConfig) -> ClientConfig) -> Self {
        self.client = change(self.client);
        self
    }

    /// The provider. Does no I/O but for reading certificates.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`]: a name that cannot be, certificates that cannot be read, an
    /// address that tokens must not be sent to, or `VAULT_SKIP_VERIFY` without
    /// [`danger_skip_verification`](ClientConfig::danger_skip_verification).
    pub fn build(self) -> Result<VaultProvider, Error> {
        if self.wants_no_verification && !self.client.skips_verification() {
            return Err(invalid(
                "`VAULT_SKIP_VERIFY` is set, and this program does not allow that",
            )
            .with_hint("give the authority's certificate by `VAULT_CACERT` instead"));
        }
        self.auth.check()?;
        VaultProvider::new(self)
    }

    /// Settings from the conventional variables: `VAULT_ADDR`, `VAULT_TOKEN` (or the token that the
    /// command keeps in `~/.vault-token`), `VAULT_NAMESPACE`, `VAULT_CACERT`, `VAULT_CLIENT_CERT`,
    /// `VAULT_CLIENT_KEY`, `VAULT_TLS_SERVER_NAME`, `VAULT_CLIENT_TIMEOUT`, and their `BAO_` twins,
    /// which come first.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`]: one of them makes no sense, or there is no token.
    pub fn from_env() -> Result<Self, Error> {
        Self::from_variables(&process_variable)
    }

    /// Settings from a URL, and from the conventional variables where it says nothing:
    /// `vault://host:8200/mount/path?auth=approle&role=…`. See the [crate](crate) for its options.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`]: what in it is wrong. Credentials never belong in a URL, and one
    /// that holds any is refused.
    pub fn from_url(url: &str) -> Result<Self, Error> {
        Self::from_url_with(url, &process_variable)
    }

    /// What the conventional variables say, each by its `BAO_` name first.
    pub(crate) fn from_variables(variable: &dyn Fn(&str) -> Option<String>) -> Result<Self, Error> {
        let read = Variables(variable);
        let address = read.get("AGENT_ADDR").or_else(|| read.get("ADDR"));
        let address = address.as_deref().unwrap_or(DEFAULT_ADDRESS);
        let mut client = ClientConfig::new([address])?;
        if let Some(path) = read.get("CACERT") {
            client = client.certificate_authority_file(path);
        } else if let Some(text) = read.get("CACERT_BYTES") {
            client = client.certificate_authority(text);
        }
        client = match (read.get("CLIENT_CERT"), read.get("CLIENT_KEY")) {
            (Some(chain), Some(key)) => client.identity_files(chain, key),
            (None, None) => client,
            _ => {
                return Err(invalid(
                    "of `VAULT_CLIENT_CERT` and `VAULT_CLIENT_KEY` only one is set",
                )
                .with_hint("set both, or neither"));
            }
        };
        if let Some(name) = read.get("TLS_SERVER_NAME") {
            client = client.server_name(name);
        }
        if let Some(text) = read.get("CLIENT_TIMEOUT") {
            client = client.deadline(duration(&text)?);
        }
        let mut builder = Self::new(client, VaultAuth::token(token(&read)?));
        builder.namespace = read.get("NAMESPACE");
        builder.wants_no_verification = match read.get("SKIP_VERIFY") {
            None => false,
            Some(text) => flag(&text)?,
        };
        Ok(builder)
    }

    /// What a URL says, and the conventional variables where it says nothing:
    /// `vault://host:8200/mount/path?auth=approle&role=…`.
    pub(crate) fn from_url_with(
        url: &str,
        variable: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, Error> {
        let wrong = |message: &'static str| {
            invalid(message)
                .with_hint("write it like `vault://host:8200/mount/path?auth=kubernetes&role=app`")
        };
        let (scheme, rest) = url.split_once("://").ok_or_else(|| wrong("it is no URL"))?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (hosts, place) = rest.split_once('/').unwrap_or((rest, ""));
        let scheme = match scheme {
            "vault" => "https",
            "vault+http" => "http",
            _ => return Err(wrong("its scheme is neither `vault` nor `vault+http`")),
        };
        // The variables' token is only asked for when nothing else is said.
        let with_token = |name: &str| match name {
            "VAULT_TOKEN" | "BAO_TOKEN" => variable(name).or(Some("unset".into())),
            _ => variable(name),
        };
        let mut builder = Self::from_variables(&with_token)?;
        if !hosts.is_empty() {
            let addresses = hosts.split(',').map(|host| format!("{scheme}://{host}"));
            builder.client = builder.client.with_addresses(addresses)?;
        }
        let place = decode(place.trim_matches('/'))?;
        if !place.is_empty() {
            let (mount, path) = place.split_once('/').unwrap_or((&place, ""));
            (builder.mount, builder.path) = (mount.to_owned(), path.to_owned());
        }
        let options = UrlOptions::parse(query, OPTIONS, CREDENTIALS)?;
        builder.kv = match options.get("kv") {
            None => None,
            Some("1") => Some(KvVersion::V1),
            Some("2") => Some(KvVersion::V2),
            Some(_) => return Err(wrong("`kv` is neither 1 nor 2")),
        };
        if let Some(mount) = options.get("mount") {
            builder.mount = mount.to_owned();
            builder.path = place
                .strip_prefix(mount)
                .unwrap_or(&place)
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
            read: Variables(variable),
        };
        builder.auth = login.auth()?;
        Ok(builder)
    }
}

struct Variables<'a>(&'a dyn Fn(&str) -> Option<String>);

impl Variables<'_> {
    /// `BAO_` before `VAULT_`; empty is unset.
    fn get(&self, name: &str) -> Option<String> {
        ["BAO_", "VAULT_"]
            .into_iter()
            .filter_map(|prefix| (self.0)(&format!("{prefix}{name}")))
            .find(|value| !value.trim().is_empty())
    }

    /// The credential in the variable `name`, or in the file that `name` and `_FILE` names.
    fn credential(&self, name: &str) -> Option<Credential> {
        let file = || self.get(&format!("{name}_FILE")).map(Credential::file);
        self.get(name).map(Credential::value).or_else(file)
    }
}

/// The token of the variables, or of the file in which the command keeps it.
fn token(read: &Variables<'_>) -> Result<Credential, Error> {
    let kept = || {
        let home = (read.0)("HOME").filter(|home| !home.is_empty())?;
        Some(Credential::file(PathBuf::from(home).join(".vault-token")))
    };
    read.credential("TOKEN").or_else(kept).ok_or_else(|| {
        invalid("there is no token").with_hint("set `VAULT_TOKEN`, or say another login by `auth`")
    })
}

/// The options of a URL.
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

/// What is no option of a URL, with the variable that it belongs into.
const CREDENTIALS: &[(&str, &str)] = &[
    ("token", "VAULT_TOKEN"),
    ("secret_id", "VAULT_SECRET_ID"),
    ("password", "VAULT_PASSWORD"),
    ("jwt", "VAULT_JWT"),
];

/// The login that a URL tells.
struct LoginOptions<'a> {
    options: &'a UrlOptions,
    read: Variables<'a>,
}

impl LoginOptions<'_> {
    fn credential(&self, name: &str) -> Result<Credential, Error> {
        let option = format!("{name}_file");
        let variable = name.to_ascii_uppercase();
        let file = self.options.get(&option).map(Credential::file);
        file.or_else(|| self.read.credential(&variable))
            .ok_or_else(|| {
                invalid(format!("the login needs a {name}")).with_hint(format!(
                "name its file by `{option}` or `VAULT_{variable}_FILE`, or set `VAULT_{variable}`"
            ))
            })
    }

    fn auth(&self) -> Result<VaultAuth, Error> {
        let options = self.options;
        let auth = match options.get("auth").unwrap_or("token") {
            "token" => match options.get("token_file") {
                Some(path) => VaultAuth::token(Credential::file(path)),
                None => VaultAuth::token(token(&self.read)?),
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
                return Err(invalid("there is no such login").with_hint(
                    "there are `token`, `approle`, `kubernetes`, `jwt`, `userpass`, `cert` and `agent`",
                ));
            }
        };
        Ok(match options.get("auth_mount") {
            Some(mount) => auth.mount(mount),
            None => auth,
        })
    }
}

/// `60`, in seconds, or `60s`.
fn duration(text: &str) -> Result<Duration, Error> {
    let seconds = text.trim().parse().ok().map(Duration::from_secs);
    seconds
        .or_else(|| humantime::parse_duration(text.trim()).ok())
        .ok_or_else(|| {
            invalid("`VAULT_CLIENT_TIMEOUT` is no duration").with_hint("write it like `30s`")
        })
}

fn flag(text: &str) -> Result<bool, Error> {
    match text.trim() {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(invalid("`VAULT_SKIP_VERIFY` is neither true nor false")),
    }
}

/// The header of a namespace.
pub(crate) fn namespace(name: &str) -> Result<HeaderValue, Error> {
    HeaderValue::from_str(name.trim_matches('/'))
        .map_err(|_| invalid("the namespace holds a character that none may"))
}

pub(crate) fn process_variable(name: &str) -> Option<String> {
    env::var(name).ok()
}

pub(crate) fn invalid(message: impl Into<Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidConfig, message)
}
