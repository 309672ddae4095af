//! The conventional variables.

use std::cell::RefCell;
use std::path::Path;
use std::time::Duration;
use std::{env, fs};

use secretwell_core::Error;
use secretwell_http::{ClientConfig, Credential, parse_flag, trim_setting};

use crate::error::invalid;

/// The address if none is configured; the same as that of the `vault` command.
pub(super) const DEFAULT_ADDRESS: &str = "https://127.0.0.1:8200";

/// The variables of other clients that this one does not support. Ignoring one of them could send a request to
/// another server, or without a header that it needs.
const UNSUPPORTED: &[&str] = &[
    "CLIENT_CERT_BYTES",
    "CLIENT_KEY_BYTES",
    "HEADERS",
    "MFA",
    "RATE_LIMIT",
    "WRAP_TTL",
];

/// The prefixes of the names of the variables. The first one has precedence.
const PREFIXES: [&str; 2] = ["BAO_", "VAULT_"];

/// The variables whose names start with `VAULT_` or `BAO_`.
pub(super) struct Variables<'a> {
    pub(super) variable: &'a dyn Fn(&str) -> Option<String>,
    /// The names of the variables that were searched for a credential.
    credentials: RefCell<Vec<String>>,
}

impl<'a> Variables<'a> {
    pub(super) fn new(variable: &'a dyn Fn(&str) -> Option<String>) -> Self {
        Self {
            variable,
            credentials: RefCell::default(),
        }
    }

    /// Adds variables that another reader searches for a credential.
    pub(super) fn add_credentials(&self, names: &[&str]) {
        let names = names.iter().map(|name| (*name).to_owned());
        self.credentials.borrow_mut().extend(names);
    }

    /// Returns the names of the variables that were searched for a credential.
    pub(super) fn into_credentials(self) -> Vec<String> {
        self.credentials.into_inner()
    }

    /// Returns the value of `BAO_…`, or else of `VAULT_…`, without white space and byte order marks at its ends.
    /// An empty variable counts as unset.
    pub(super) fn get(&self, name: &str) -> Option<String> {
        self.get_named(name).map(|(_, value)| value)
    }

    /// Like [`get`](Self::get), with the name of the variable.
    fn get_named(&self, name: &str) -> Option<(String, String)> {
        PREFIXES
            .into_iter()
            .map(|prefix| format!("{prefix}{name}"))
            .filter_map(|name| {
                let value = (self.variable)(&name)?;
                Some((name, trim_setting(&value).to_owned()))
            })
            .find(|(_, value)| !value.is_empty())
    }

    /// Returns the credential in the variable `name`, or else in the file that the variable `name` + `_FILE`
    /// names.
    pub(super) fn credential(&self, name: &str) -> Option<Credential> {
        for prefix in PREFIXES {
            self.add_credentials(&[&format!("{prefix}{name}")]);
        }
        let file = || self.get(&format!("{name}_FILE")).map(Credential::file);
        let value = |(name, value): (String, String)| Credential::value(value).from_setting(name);
        self.get_named(name).map(value).or_else(file)
    }

    /// Returns the value of a variable that is either true or false. Default: `false`.
    pub(super) fn flag(&self, name: &str) -> Result<bool, Error> {
        self.get(name).map_or(Ok(false), |text| {
            parse_flag(&format!("VAULT_{name}"), &text)
        })
    }

    /// Returns the settings of the HTTP client.
    pub(super) fn client(&self) -> Result<ClientConfig, Error> {
        if let Some(name) = UNSUPPORTED.iter().find(|name| self.get(name).is_some()) {
            return Err(
                invalid(format!("`VAULT_{name}` is set, but is not supported"))
                    .with_hint("unset it for this program"),
            );
        }
        if self.flag("SRV_LOOKUP")? {
            return Err(invalid("`VAULT_SRV_LOOKUP` is set, but is not supported")
                .with_hint("list the addresses of the servers"));
        }
        let address = self.get("AGENT_ADDR").or_else(|| self.get("ADDR"));
        let address = address.as_deref().unwrap_or(DEFAULT_ADDRESS);
        let mut client = self.authorities(ClientConfig::new([address])?)?;
        client = match (self.get("CLIENT_CERT"), self.get("CLIENT_KEY")) {
            (Some(chain), Some(key)) => client.identity_files(chain, key),
            (None, None) => client,
            _ => {
                return Err(invalid(
                    "only one of `VAULT_CLIENT_CERT` and `VAULT_CLIENT_KEY` is set",
                )
                .with_hint("set both, or neither"));
            }
        };
        if let Some(name) = self.get("TLS_SERVER_NAME") {
            client = client.server_name(name);
        }
        if let Some(text) = self.get("CLIENT_TIMEOUT") {
            client = client.deadline(timeout(&text)?);
        }
        if let Some(url) = self.get("PROXY_ADDR").or_else(|| self.get("HTTP_PROXY")) {
            client = client.proxy(url);
        }
        client.with_variables(self.variable)
    }

    /// Adds the certificate authorities: those of a file, or else of a text, or else of all files of a
    /// directory.
    fn authorities(&self, client: ClientConfig) -> Result<ClientConfig, Error> {
        if let Some(path) = self.get("CACERT") {
            return Ok(client.certificate_authority_file(path));
        }
        if let Some(text) = self.get("CACERT_BYTES") {
            return Ok(client.certificate_authority(text));
        }
        let Some(directory) = self.get("CAPATH") else {
            return Ok(client);
        };
        let entries = fs::read_dir(&directory).map_err(|error| {
            invalid(format!("the directory `{directory}` cannot be read"))
                .with_hint("set `VAULT_CAPATH` to the directory of the certificate authorities")
                .with_source(error)
        })?;
        let mut files: Vec<_> = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| is_visible(path) && path.is_file())
            .collect();
        files.sort();
        if files.is_empty() {
            return Err(invalid(format!("the directory `{directory}` has no files"))
                .with_hint("set `VAULT_CAPATH` to the directory of the certificate authorities"));
        }
        Ok(files
            .into_iter()
            .fold(client, ClientConfig::certificate_authority_file))
    }
}

/// Returns whether the name of a file does not begin with a dot.
fn is_visible(path: &Path) -> bool {
    let name = path.file_name();
    name.is_some_and(|name| !name.as_encoded_bytes().starts_with(b"."))
}

/// Parses the timeout of a request: a number of seconds such as `60`, or a text such as `60s`. Zero would mean no
/// timeout in other clients.
pub(super) fn timeout(text: &str) -> Result<Duration, Error> {
    let seconds = text.parse().ok().map(Duration::from_secs);
    let timeout = seconds.or_else(|| humantime::parse_duration(text).ok());
    match timeout {
        Some(Duration::ZERO) => Err(invalid("`VAULT_CLIENT_TIMEOUT` is zero")
            .with_hint("set it to a time such as `30s`, or unset it for the default of 20 s")),
        Some(timeout) => Ok(timeout),
        None => {
            Err(invalid("`VAULT_CLIENT_TIMEOUT` is not a duration")
                .with_hint("write it like `30s`"))
        }
    }
}

pub(super) fn process_variable(name: &str) -> Option<String> {
    env::var(name).ok()
}
