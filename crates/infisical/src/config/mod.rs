//! Configuration of a provider: the server, the location of the secrets in it, and the login.

use secretwell_core::Error;
use secretwell_http::{ClientConfig, UrlOptions, decode};

use crate::auth::InfisicalAuth;
use crate::error::invalid_config;
use crate::provider::InfisicalProvider;
use crate::settings::{ApiVersion, FOLDER_NAME_HINT, Project, Settings};

mod login;
#[cfg(test)]
mod tests;
mod variables;

use login::{CREDENTIALS, OPTIONS, login};
use variables::{Variables, process_variable};

/// The default address, which is the vendor's cloud.
const DEFAULT_ADDRESS: &str = "https://app.infisical.com";

/// Builder of an [`InfisicalProvider`], from [`InfisicalProvider::builder`], [`from_env`](Self::from_env)
/// or [`from_url`](Self::from_url). The project and the environment are required. Every other setting has
/// a default that suits most services.
#[derive(Debug, Clone)]
pub struct InfisicalBuilder {
    client: ClientConfig,
    auth: InfisicalAuth,
    settings: Settings,
    credential_variables: Vec<String>,
}

impl InfisicalProvider {
    /// Creates a builder for the server at `address`. This is `https://app.infisical.com`,
    /// `https://eu.infisical.com`, or the address of a self-hosted server.
    ///
    /// # Errors
    /// Returns [`ErrorKind::InvalidConfig`](secretwell_core::ErrorKind::InvalidConfig) if `address` is not a
    /// valid address.
    pub fn builder(
        address: impl AsRef<str>,
        auth: InfisicalAuth,
    ) -> Result<InfisicalBuilder, Error> {
        InfisicalBuilder::new(address.as_ref(), auth)
    }

    /// Creates a provider from the environment variables that [`InfisicalBuilder::from_env`] reads.
    ///
    /// # Errors
    /// Returns [`ErrorKind::InvalidConfig`](secretwell_core::ErrorKind::InvalidConfig) if a variable is
    /// invalid or a required one is missing.
    pub fn from_env() -> Result<Self, Error> {
        InfisicalBuilder::from_env()?.build()
    }

    /// Creates a provider from a URL. [`InfisicalBuilder::from_url`] describes its format.
    ///
    /// # Errors
    /// Returns [`ErrorKind::InvalidConfig`](secretwell_core::ErrorKind::InvalidConfig), with the part of the
    /// URL that is invalid.
    pub fn from_url(url: &str) -> Result<Self, Error> {
        InfisicalBuilder::from_url(url)?.build()
    }
}

impl InfisicalBuilder {
    pub(crate) fn new(address: &str, auth: InfisicalAuth) -> Result<Self, Error> {
        Ok(Self {
            client: ClientConfig::new([address])?,
            auth,
            settings: Settings::new(),
            credential_variables: Vec::new(),
        })
    }

    /// Sets the project, by its id or its slug. An id saves one request on newer servers.
    #[must_use]
    pub fn project(mut self, id_or_slug: impl AsRef<str>) -> Self {
        self.settings.project = Project::parse(id_or_slug.as_ref().trim());
        self
    }

    /// Sets the environment, by its slug, such as `dev`, `staging` or `prod`.
    #[must_use]
    pub fn environment(mut self, slug: impl Into<String>) -> Self {
        self.settings.environment = slug.into();
        self
    }

    /// Sets the base folder of the keys. The key `PASSWORD` is a secret in this folder. The key
    /// `db/PASSWORD` is a secret in the folder `db` below it. Default: `/`.
    #[must_use]
    pub fn folder(mut self, path: impl AsRef<str>) -> Self {
        self.settings.folder = format!("/{}", path.as_ref().trim_matches('/'));
        self
    }

    /// Sets the version of the API. Default: the newest one that the server has. The provider detects it.
    #[must_use]
    pub fn api(mut self, version: ApiVersion) -> Self {
        self.settings.api = Some(version);
        self
    }

    /// Excludes the secrets that a folder imports from other folders. By default they are included. Then
    /// the folder's own secrets override imported ones, and a later import overrides an earlier one.
    #[must_use]
    pub fn without_imports(mut self) -> Self {
        self.settings.imports = false;
        self
    }

    /// Returns references such as `${prod.db.PASSWORD}` as they are written. By default the server
    /// replaces a reference with the value that it names, and a reference to a missing secret is an error.
    #[must_use]
    pub fn without_reference_expansion(mut self) -> Self {
        self.settings.expand = false;
        self
    }

    /// Makes personal values override shared ones, for logins with a user's token.
    #[must_use]
    pub fn personal_overrides(mut self) -> Self {
        self.settings.personal = true;
        self
    }

    /// Sets the tags, by their slugs. Only secrets with at least one of these tags are read. Default: all
    /// secrets are read.
    #[must_use]
    pub fn tags<T: Into<String>>(mut self, slugs: impl IntoIterator<Item = T>) -> Self {
        self.settings.tags = slugs.into_iter().map(Into::into).collect();
        self
    }

    /// Sets the login method.
    #[must_use]
    pub fn auth(mut self, auth: InfisicalAuth) -> Self {
        self.auth = auth;
        self.credential_variables.clear();
        self
    }

    /// Returns the names of the variables that [`from_env`](Self::from_env) or [`from_url`](Self::from_url)
    /// searched for the credentials of the login, such as `INFISICAL_TOKEN`. A variable in the list might not be
    /// set. Variables that contain an id or the path of a file are not in the list.
    ///
    /// A program that starts other programs can remove these variables from their environment.
    pub fn credential_variables(&self) -> &[String] {
        &self.credential_variables
    }

    /// Changes the HTTP client's settings, such as deadlines, certificates and further addresses.
    #[must_use]
    pub fn client(mut self, change: impl FnOnce(ClientConfig) -> ClientConfig) -> Self {
        self.client = change(self.client);
        self
    }

    /// Creates the provider. Reads certificates, and does no other I/O.
    ///
    /// # Errors
    /// Returns [`ErrorKind::InvalidConfig`](secretwell_core::ErrorKind::InvalidConfig) in these cases:
    /// - The project or the environment is missing.
    /// - The folder or the login's client id or identity id is invalid.
    /// - The certificates cannot be read.
    /// - Tokens must not be sent to the address, for example over plain HTTP to another host.
    /// - The address ends with a path of the API, such as `/api/v3`.
    pub fn build(self) -> Result<InfisicalProvider, Error> {
        let settings = &self.settings;
        if settings.project.as_str().is_empty() {
            return Err(invalid_config("the project is missing")
                .with_hint("set its id or slug in the URL or in `INFISICAL_PROJECT_ID`"));
        }
        if settings.environment.trim().is_empty() {
            return Err(invalid_config("the environment is missing")
                .with_hint("set its slug in the URL or in `INFISICAL_ENVIRONMENT`"));
        }
        let is_invalid = |segment: &str| {
            matches!(segment, "" | ".")
                || segment.contains("..")
                || segment.contains(['*', '%', '\\'])
        };
        let path = settings.folder.trim_matches('/');
        if !path.is_empty() && path.split('/').any(is_invalid) {
            return Err(
                invalid_config("the folder is not a valid path").with_hint(FOLDER_NAME_HINT)
            );
        }
        for address in self.client.addresses() {
            check_address(&address.to_string())?;
        }
        self.auth.check()?;
        InfisicalProvider::new(self.client, self.auth, self.settings)
    }

    /// Creates a builder from the conventional environment variables.
    ///
    /// | variable | meaning |
    /// | --- | --- |
    /// | `INFISICAL_TOKEN` | a token |
    /// | `INFISICAL_UNIVERSAL_AUTH_CLIENT_ID` or `INFISICAL_CLIENT_ID` | the client id of Universal Auth |
    /// | `INFISICAL_UNIVERSAL_AUTH_CLIENT_SECRET` or `INFISICAL_CLIENT_SECRET` | its client secret |
    /// | `INFISICAL_DOMAIN` or `INFISICAL_API_URL` | the server's address; default: `https://app.infisical.com` |
    /// | `INFISICAL_PROJECT_ID` | the project's id or slug |
    /// | `INFISICAL_ENVIRONMENT` | the environment's slug |
    /// | `SECRETWELL_ALLOW_HTTP` | `true` allows plain HTTP to other machines |
    ///
    /// The client also uses the [variables for proxies](ClientConfig::proxy).
    ///
    /// The token and the client secret can also be in a file. Append `_FILE` to the variable's name and set
    /// it to the path of the file.
    ///
    /// # Errors
    /// Returns [`ErrorKind::InvalidConfig`](secretwell_core::ErrorKind::InvalidConfig) if a variable is
    /// invalid or no credential is configured.
    pub fn from_env() -> Result<Self, Error> {
        Self::from_variables(&process_variable)
    }

    /// Creates a builder from a URL such as
    /// `infisical://host/PROJECT/ENVIRONMENT/folder?auth=universal`. For parts that the URL omits, reads the
    /// variables of [`from_env`](Self::from_env).
    ///
    /// | option | meaning |
    /// | --- | --- |
    /// | `auth` | the login method: `universal`, `token`, `kubernetes`, `oidc`, `jwt`, `ldap` or `aws` |
    /// | `client_id`, `client_secret_file` | the client id of Universal Auth, and the file with the client secret |
    /// | `token_file`, `jwt_file`, `password_file` | the file with the credential |
    /// | `identity`, `user` | the id of the machine identity, and the user name of `ldap` |
    /// | `aws_region` | the region of the endpoint of AWS |
    /// | `sub_organization` | the name of the suborganization |
    /// | `allow_http` | `true` allows plain HTTP to other machines. Use it in a trusted network only. |
    /// | `proxy` | the proxy for servers with TLS, such as `http://proxy:3128`, or `none` |
    /// | `api`, `imports`, `expand`, `personal`, `tags` | the version of the API, and which values are read |
    ///
    /// # Errors
    /// Returns [`ErrorKind::InvalidConfig`](secretwell_core::ErrorKind::InvalidConfig), with the part of the
    /// URL that is invalid. A URL that contains credentials is rejected.
    pub fn from_url(url: &str) -> Result<Self, Error> {
        Self::from_url_with(url, &process_variable)
    }

    /// Like [`from_env`](Self::from_env), with `variable` in place of the process environment.
    pub(crate) fn from_variables(variable: &dyn Fn(&str) -> Option<String>) -> Result<Self, Error> {
        let variables = Variables::new(variable);
        let auth = login(&UrlOptions::parse("", OPTIONS, CREDENTIALS)?, &variables)?;
        let mut builder = Self::with_location_from(&variables, auth)?;
        builder.credential_variables = variables.into_credentials();
        Ok(builder)
    }

    /// Creates a builder with the address, project and environment from the variables.
    fn with_location_from(variables: &Variables<'_>, auth: InfisicalAuth) -> Result<Self, Error> {
        let address = variables.first(&["DOMAIN", "API_URL"]);
        let address = address.as_deref().unwrap_or(DEFAULT_ADDRESS);
        let address = address.trim().trim_end_matches('/');
        // Both spellings are in use: with and without `/api` at the end.
        let mut builder = Self::new(address.strip_suffix("/api").unwrap_or(address), auth)?;
        builder.client = builder.client.with_variables(variables.variable)?;
        if let Some(project) = variables.first(&["PROJECT_ID"]) {
            builder = builder.project(project);
        }
        if let Some(environment) = variables.first(&["ENVIRONMENT"]) {
            builder = builder.environment(environment);
        }
        Ok(builder)
    }

    /// Like [`from_url`](Self::from_url), with `variable` in place of the process environment.
    pub(crate) fn from_url_with(
        url: &str,
        variable: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, Error> {
        let invalid_url = |message: &'static str| {
            invalid_config(message)
                .with_hint("write the URL like `infisical://host/my-project/prod/folder`")
        };
        let (scheme, rest) = url
            .split_once("://")
            .ok_or_else(|| invalid_url("the text is not a URL"))?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let scheme = match scheme {
            "infisical" => "https",
            "infisical+http" => "http",
            _ => {
                return Err(invalid_url(
                    "the URL's scheme is neither `infisical` nor `infisical+http`",
                ));
            }
        };
        let options = UrlOptions::parse(query, OPTIONS, CREDENTIALS)?;
        let variables = Variables::new(variable);
        let mut builder = Self::with_location_from(&variables, login(&options, &variables)?)?;
        builder.credential_variables = variables.into_credentials();
        if !host.is_empty() {
            let address = format!("{scheme}://{host}");
            builder.client = builder.client.with_addresses([address])?;
        }
        builder.client = builder.client.with_options(&options)?;
        let mut segments = path.splitn(3, '/');
        if let Some(project) = segments.next().filter(|segment| !segment.is_empty()) {
            builder = builder.project(decode(project)?);
        }
        if let Some(environment) = segments.next().filter(|segment| !segment.is_empty()) {
            builder = builder.environment(decode(environment)?);
        }
        if let Some(folder) = segments.next() {
            builder = builder.folder(decode(folder)?);
        }
        builder.settings.imports = options.flag("imports")?.unwrap_or(true);
        builder.settings.expand = options.flag("expand")?.unwrap_or(true);
        builder.settings.personal = options.flag("personal")?.unwrap_or(false);
        builder.settings.api = match options.get("api") {
            None => None,
            Some("3") => Some(ApiVersion::V3),
            Some("4") => Some(ApiVersion::V4),
            Some(_) => return Err(invalid_url("`api` must be 3 or 4")),
        };
        let tags = options.get("tags").unwrap_or_default().split(',');
        Ok(builder.tags(tags.filter(|tag| !tag.is_empty())))
    }
}

/// Checks that an address does not end with the path of the API, which each request appends.
fn check_address(address: &str) -> Result<(), Error> {
    let (base, rest) = address.rsplit_once("/api").unwrap_or((address, "-"));
    let is_version = |rest: &str| {
        let digits = rest.strip_prefix("/v").unwrap_or_default();
        !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
    };
    // The host can begin with the same letters.
    match (rest.is_empty() || is_version(rest)) && !base.ends_with('/') {
        false => Ok(()),
        true => Err(invalid_config(
            "the address ends with the path of the API, which each request appends",
        )
        .with_hint(format!("use the address `{base}`"))),
    }
}
