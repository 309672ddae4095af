//! Where the server is, where in it the secrets are, and how to log in.

use std::borrow::Cow;
use std::env;
use std::fmt;

use secretwell_core::{Error, ErrorKind};
use secretwell_http::{ClientConfig, Credential, UrlOptions, decode};

use crate::wire::ApiVersion;
use crate::{InfisicalAuth, InfisicalProvider};

#[cfg(test)]
mod tests;

/// The cloud of the vendor.
const DEFAULT_ADDRESS: &str = "https://app.infisical.com";

/// Settings of an [`InfisicalProvider`], made by [`InfisicalProvider::builder`] or
/// [`from_env`](Self::from_env). Project and environment must be said; every default is
/// meant to be kept.
#[derive(Debug, Clone)]
pub struct InfisicalBuilder {
    client: ClientConfig,
    auth: InfisicalAuth,
    settings: Settings,
}

/// Which secrets, and how to read them.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) project: Project,
    pub(crate) environment: String,
    /// With a slash at its beginning and none at its end, unless it is the root.
    pub(crate) folder: String,
    pub(crate) api: Option<ApiVersion>,
    pub(crate) imports: bool,
    pub(crate) expand: bool,
    pub(crate) personal: bool,
    pub(crate) tags: Vec<String>,
}

/// A project, by its id or its slug.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Project {
    Id(String),
    Slug(String),
}

impl Project {
    /// Ids are UUIDs, and slugs are not.
    fn parse(text: &str) -> Self {
        let is_id = text.len() == 36
            && text.bytes().enumerate().all(|(place, byte)| match place {
                8 | 13 | 18 | 23 => byte == b'-',
                _ => byte.is_ascii_hexdigit(),
            });
        match is_id {
            true => Self::Id(text.to_owned()),
            false => Self::Slug(text.to_owned()),
        }
    }

    pub(crate) fn as_str(&self) -> &str {
        match self {
            Self::Id(text) | Self::Slug(text) => text,
        }
    }
}

impl fmt::Display for Project {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl InfisicalBuilder {
    pub(crate) fn new(address: &str, auth: InfisicalAuth) -> Result<Self, Error> {
        Ok(Self {
            client: ClientConfig::new([address])?,
            auth,
            settings: Settings {
                project: Project::Slug(String::new()),
                environment: String::new(),
                folder: "/".into(),
                api: None,
                imports: true,
                expand: true,
                personal: false,
                tags: Vec::new(),
            },
        })
    }

    /// The project, by its id or its slug. By its id, newer servers are asked once less.
    #[must_use]
    pub fn project(mut self, id_or_slug: impl AsRef<str>) -> Self {
        self.settings.project = Project::parse(id_or_slug.as_ref().trim());
        self
    }

    /// The environment, by its slug: `dev`, `staging`, `prod`.
    #[must_use]
    pub fn environment(mut self, slug: impl Into<String>) -> Self {
        self.settings.environment = slug.into();
        self
    }

    /// The folder at which keys begin. The key `PASSWORD` is a secret in it, the key `db/PASSWORD` one in
    /// the folder `db` below. Default: `/`.
    #[must_use]
    pub fn folder(mut self, path: impl AsRef<str>) -> Self {
        self.settings.folder = format!("/{}", path.as_ref().trim_matches('/'));
        self
    }

    /// The version of the API. Default: the newer one if the server has it, which is found out once.
    #[must_use]
    pub fn api(mut self, version: ApiVersion) -> Self {
        self.settings.api = Some(version);
        self
    }

    /// Leaves out the secrets that a folder imports from elsewhere. By default they are included: the
    /// folder's own secrets win over imported ones, and a later import wins over an earlier one.
    #[must_use]
    pub fn without_imports(mut self) -> Self {
        self.settings.imports = false;
        self
    }

    /// Returns references such as `${prod.db.PASSWORD}` as they are written. By default the server
    /// replaces them with the values that they name, and a reference to a missing secret is an error.
    #[must_use]
    pub fn without_reference_expansion(mut self) -> Self {
        self.settings.expand = false;
        self
    }

    /// Lets personal values stand before shared ones, for whoever logs in with a user's token.
    #[must_use]
    pub fn personal_overrides(mut self) -> Self {
        self.settings.personal = true;
        self
    }

    /// Only secrets with one of these tags, by their slugs. Default: all.
    #[must_use]
    pub fn tags<T: Into<String>>(mut self, slugs: impl IntoIterator<Item = T>) -> Self {
        self.settings.tags = slugs.into_iter().map(Into::into).collect();
        self
    }

    /// How to log in.
    #[must_use]
    pub fn auth(mut self, auth: InfisicalAuth) -> Self {
        self.auth = auth;
        self
    }

    /// Changes how the server is reached: deadlines, certificates, more addresses.
    #[must_use]
    pub fn client(mut self, change: impl FnOnce(ClientConfig) -> ClientConfig) -> Self {
        self.client = change(self.client);
        self
    }

    /// The provider. Does no I/O but for reading certificates.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`]: project or environment is not said, a name that cannot be,
    /// certificates that cannot be read, or an address that tokens must not be sent to.
    pub fn build(self) -> Result<InfisicalProvider, Error> {
        let settings = &self.settings;
        if settings.project.as_str().is_empty() {
            return Err(invalid("the project is not said")
                .with_hint("give its id or slug, in the URL or by `INFISICAL_PROJECT_ID`"));
        }
        if settings.environment.trim().is_empty() {
            return Err(invalid("the environment is not said")
                .with_hint("give its slug, in the URL or by `INFISICAL_ENVIRONMENT`"));
        }
        let bad = |segment: &str| {
            matches!(segment, "" | "." | "..") || segment.contains(['*', '%', '\\'])
        };
        let path = settings.folder.trim_matches('/');
        if !path.is_empty() && path.split('/').any(bad) {
            return Err(invalid("the folder is no path that the server can have")
                .with_hint("folders have letters, digits, `-` and `_`"));
        }
        self.auth.check()?;
        InfisicalProvider::new(self.client, self.auth, self.settings)
    }

    /// Settings from the conventional variables: `INFISICAL_TOKEN`, or
    /// `INFISICAL_UNIVERSAL_AUTH_CLIENT_ID` and `INFISICAL_UNIVERSAL_AUTH_CLIENT_SECRET` (also
    /// `INFISICAL_CLIENT_ID` and `INFISICAL_CLIENT_SECRET`; a secret's file is named by `…_FILE`);
    /// `INFISICAL_DOMAIN` or `INFISICAL_API_URL`; `INFISICAL_PROJECT_ID`; `INFISICAL_ENVIRONMENT`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`]: one of them makes no sense, or there is nothing to log in with.
    pub fn from_env() -> Result<Self, Error> {
        Self::from_variables(&process_variable)
    }

    /// Settings from a URL, and from the conventional variables where it says nothing:
    /// `infisical://host/PROJECT/ENVIRONMENT/folder?auth=universal`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`]: what in it is wrong. Credentials never belong in a URL, and one
    /// that holds any is refused.
    pub fn from_url(url: &str) -> Result<Self, Error> {
        Self::from_url_with(url, &process_variable)
    }

    /// What the conventional variables say.
    pub(crate) fn from_variables(variable: &dyn Fn(&str) -> Option<String>) -> Result<Self, Error> {
        let read = Variables(variable);
        let auth = login(&UrlOptions::parse("", OPTIONS, CREDENTIALS)?, &read)?;
        Self::located(&read, auth)
    }

    /// With what the variables say of the place.
    fn located(read: &Variables<'_>, auth: InfisicalAuth) -> Result<Self, Error> {
        let address = read.first(&["DOMAIN", "API_URL"]);
        // Both spellings are in use: with the `/api` of the API, and without.
        let address = address.as_deref().unwrap_or(DEFAULT_ADDRESS);
        let address = address.trim().trim_end_matches('/');
        let mut builder = Self::new(address.strip_suffix("/api").unwrap_or(address), auth)?;
        if let Some(project) = read.first(&["PROJECT_ID"]) {
            builder = builder.project(project);
        }
        if let Some(environment) = read.first(&["ENVIRONMENT"]) {
            builder = builder.environment(environment);
        }
        Ok(builder)
    }

    /// What a URL says, and the conventional variables where it says nothing:
    /// `infisical://host/PROJECT/ENVIRONMENT/folder?auth=universal`.
    pub(crate) fn from_url_with(
        url: &str,
        variable: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, Error> {
        let wrong = |message: &'static str| {
            invalid(message).with_hint("write it like `infisical://host/my-project/prod/folder`")
        };
        let (scheme, rest) = url.split_once("://").ok_or_else(|| wrong("it is no URL"))?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (host, place) = rest.split_once('/').unwrap_or((rest, ""));
        let scheme = match scheme {
            "infisical" => "https",
            "infisical+http" => "http",
            _ => {
                return Err(wrong(
                    "its scheme is neither `infisical` nor `infisical+http`",
                ));
            }
        };
        let options = UrlOptions::parse(query, OPTIONS, CREDENTIALS)?;
        let read = Variables(variable);
        let mut builder = Self::located(&read, login(&options, &read)?)?;
        if !host.is_empty() {
            let address = format!("{scheme}://{host}");
            builder.client = builder.client.with_addresses([address])?;
        }
        let mut parts = place.splitn(3, '/');
        if let Some(project) = parts.next().filter(|part| !part.is_empty()) {
            builder = builder.project(decode(project)?);
        }
        if let Some(environment) = parts.next().filter(|part| !part.is_empty()) {
            builder = builder.environment(decode(environment)?);
        }
        if let Some(folder) = parts.next() {
            builder = builder.folder(decode(folder)?);
        }
        let flag = |name: &str, default| match options.get(name) {
            None => Ok(default),
            Some("true") => Ok(true),
            Some("false") => Ok(false),
            Some(_) => Err(invalid(format!("`{name}` is neither `true` nor `false`"))),
        };
        builder.settings.imports = flag("imports", true)?;
        builder.settings.expand = flag("expand", true)?;
        builder.settings.personal = flag("personal", false)?;
        builder.settings.api = match options.get("api") {
            None => None,
            Some("3") => Some(ApiVersion::V3),
            Some("4") => Some(ApiVersion::V4),
            Some(_) => return Err(wrong("`api` is neither 3 nor 4")),
        };
        let tags = options.get("tags").unwrap_or_default().split(',');
        Ok(builder.tags(tags.filter(|tag| !tag.is_empty())))
    }
}

/// The options of a URL.
const OPTIONS: &[&str] = &[
    "auth",
    "client_id",
    "client_secret_file",
    "token_file",
    "identity",
    "jwt_file",
    "api",
    "imports",
    "expand",
    "personal",
    "tags",
];

/// What is no option of a URL, with the variable that it belongs into.
const CREDENTIALS: &[(&str, &str)] = &[
    ("client_secret", "INFISICAL_UNIVERSAL_AUTH_CLIENT_SECRET"),
    ("token", "INFISICAL_TOKEN"),
    ("jwt", "INFISICAL_JWT"),
];

const CLIENT_ID: &[&str] = &["UNIVERSAL_AUTH_CLIENT_ID", "CLIENT_ID"];
const CLIENT_SECRET: &[&str] = &["UNIVERSAL_AUTH_CLIENT_SECRET", "CLIENT_SECRET"];

/// Which login is meant where none is named: the one that the URL has something for, else the one that the
/// variables have something for, and a token before Universal Auth.
fn implied(options: &UrlOptions, read: &Variables<'_>) -> Result<&'static str, Error> {
    let told = |name: &str| options.get(name).is_some();
    if told("client_id") || told("client_secret_file") {
        Ok("universal")
    } else if told("token_file") {
        Ok("token")
    } else if told("identity") || told("jwt_file") {
        Err(invalid("the login is not named")
            .with_hint("add `&auth=kubernetes`, `&auth=oidc` or `&auth=jwt` to the URL"))
    } else if read.credential(&["TOKEN"]).is_some() {
        Ok("token")
    } else if read.first(CLIENT_ID).is_some() || read.credential(CLIENT_SECRET).is_some() {
        Ok("universal")
    } else {
        Err(invalid("there is nothing to log in with").with_hint(
            "set `INFISICAL_UNIVERSAL_AUTH_CLIENT_ID` and \
             `INFISICAL_UNIVERSAL_AUTH_CLIENT_SECRET`, or `INFISICAL_TOKEN`",
        ))
    }
}

/// The login that a URL tells.
fn login(options: &UrlOptions, read: &Variables<'_>) -> Result<InfisicalAuth, Error> {
    let identity = || {
        let told = options.get("identity").map(str::to_owned);
        told.or_else(|| read.first(&["MACHINE_IDENTITY_ID"]))
            .ok_or_else(|| {
                invalid("the login needs a machine identity").with_hint(
                    "add `&identity=…` to the URL, or set `INFISICAL_MACHINE_IDENTITY_ID`",
                )
            })
    };
    let file = |name: &str| options.get(name).map(Credential::file);
    let jwt = || {
        file("jwt_file")
            .or_else(|| read.credential(&["JWT"]))
            .ok_or_else(|| {
                invalid("the login needs a JWT").with_hint(
                    "name its file by `jwt_file` or `INFISICAL_JWT_FILE`, or set `INFISICAL_JWT`",
                )
            })
    };
    match options
        .get("auth")
        .map_or_else(|| implied(options, read), Ok)?
    {
        "universal" => {
            let client_id = options.get("client_id").map(str::to_owned);
            let client_id = client_id.or_else(|| read.first(CLIENT_ID)).ok_or_else(|| {
                invalid("the login needs a client id").with_hint(
                    "add `&client_id=…` to the URL, or set `INFISICAL_UNIVERSAL_AUTH_CLIENT_ID`",
                )
            })?;
            let secret = file("client_secret_file").map_or_else(|| read.client_secret(), Ok)?;
            Ok(InfisicalAuth::universal(client_id, secret))
        }
        "token" => {
            let token = file("token_file").or_else(|| read.credential(&["TOKEN"]));
            let token = token.ok_or_else(|| {
                invalid("the login needs a token")
                    .with_hint("name its file by `token_file`, or set `INFISICAL_TOKEN`")
            })?;
            Ok(InfisicalAuth::token(token))
        }
        "kubernetes" => match file("jwt_file") {
            Some(jwt) => Ok(InfisicalAuth::kubernetes_with(identity()?, jwt)),
            None => Ok(InfisicalAuth::kubernetes(identity()?)),
        },
        "oidc" => Ok(InfisicalAuth::oidc(identity()?, jwt()?)),
        "jwt" => Ok(InfisicalAuth::jwt(identity()?, jwt()?)),
        _ => Err(invalid("there is no such login")
            .with_hint("there are `universal`, `token`, `kubernetes`, `oidc` and `jwt`")),
    }
}

struct Variables<'a>(&'a dyn Fn(&str) -> Option<String>);

impl Variables<'_> {
    /// The first of these that is set; empty is unset.
    fn first(&self, names: &[&str]) -> Option<String> {
        names
            .iter()
            .filter_map(|name| (self.0)(&format!("INFISICAL_{name}")))
            .find(|value| !value.trim().is_empty())
    }

    /// The credential in the first of these variables that is set, or in the file that one of them and
    /// `_FILE` names.
    fn credential(&self, names: &[&str]) -> Option<Credential> {
        let file = || {
            let names: Vec<_> = names.iter().map(|name| format!("{name}_FILE")).collect();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            self.first(&names).map(Credential::file)
        };
        self.first(names).map(Credential::value).or_else(file)
    }

    fn client_secret(&self) -> Result<Credential, Error> {
        self.credential(CLIENT_SECRET).ok_or_else(|| {
            invalid("the login needs a client secret").with_hint(
                "name its file by `client_secret_file` or \
                 `INFISICAL_UNIVERSAL_AUTH_CLIENT_SECRET_FILE`, or set \
                 `INFISICAL_UNIVERSAL_AUTH_CLIENT_SECRET`",
            )
        })
    }
}

pub(crate) fn process_variable(name: &str) -> Option<String> {
    env::var(name).ok()
}

pub(crate) fn invalid(message: impl Into<Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidConfig, message)
}
