//! The attributes of a cookie: which values are valid, and how they are written.

use std::time::Duration;

use secretwell_core::{Error, ErrorKind};
use serde::{Deserialize, Serialize};

/// The scheme of the application's public URL. It determines the names of the cookies and whether they
/// are `Secure`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Scheme {
    /// `https://`. The names begin with `__Secure-` or `__Host-`.
    Https,
    /// `http://`, for development on one machine.
    Http,
}

/// The `SameSite` attribute of a cookie: which requests from other sites contain it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum SameSite {
    /// No requests from other sites.
    Strict,
    /// Links from other sites. This is the default of the libraries.
    #[default]
    Lax,
    /// All requests. The cookie must be `Secure`.
    None,
}

impl SameSite {
    fn as_str(self) -> &'static str {
        match self {
            Self::Strict => "Strict",
            Self::Lax => "Lax",
            Self::None => "None",
        }
    }
}

/// Maximum lengths in bytes. Together they leave at least half of a cookie to its value.
const MAX_NAME: usize = 256;
const MAX_DOMAIN: usize = 253;
const MAX_LABEL: usize = 63;
const MAX_PATH: usize = 1024;

/// The attributes of a cookie.
#[derive(Debug, Clone)]
pub(super) struct Attributes {
    scheme: Scheme,
    /// In lower case, without a dot at the start.
    domain: Option<String>,
    pub(super) path: String,
    pub(super) same_site: SameSite,
    pub(super) partitioned: bool,
}

impl Attributes {
    pub(super) fn new(scheme: Scheme) -> Self {
        Self {
            scheme,
            domain: None,
            path: "/".to_owned(),
            same_site: SameSite::Lax,
            partitioned: false,
        }
    }

    /// Returns the attributes of the cookie that a service without a domain sets, for this host only. `None`
    /// if these are the attributes of the cookie itself.
    pub(super) fn host_only(&self) -> Option<Self> {
        self.domain.is_some().then(|| Self {
            domain: None,
            ..self.clone()
        })
    }

    pub(super) fn set_domain(&mut self, domain: &str) -> Result<(), Error> {
        let host = domain.strip_prefix('.').unwrap_or(domain);
        let is_label = |label: &str| {
            let is_valid = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
            (1..=MAX_LABEL).contains(&label.len())
                && label.bytes().all(is_valid)
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        if host.len() > MAX_DOMAIN || !host.split('.').all(is_label) {
            return Err(invalid(
                format!("{domain:?} is not a valid domain of a cookie"),
                "set a host name such as `example.com`, without scheme, port and path, and in its ASCII form (`xn--…`)",
            ));
        }
        self.domain = Some(host.to_ascii_lowercase());
        Ok(())
    }

    /// Checks that browsers accept a cookie with this name and these attributes.
    pub(super) fn check(&self, name: &str) -> Result<(), Error> {
        let is_token =
            |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        if !(1..=MAX_NAME).contains(&name.len()) || !name.bytes().all(is_token) {
            return Err(invalid(
                format!("{name:?} is not a valid name of a cookie"),
                "use letters, digits, `-`, `_` and `.`, at most 256 of them, and set attributes by their own methods",
            ));
        }
        let is_path_byte = |byte: u8| (0x20..0x7f).contains(&byte) && byte != b';';
        let path = &self.path;
        if !path.starts_with('/') || path.len() > MAX_PATH || !path.bytes().all(is_path_byte) {
            return Err(invalid(
                format!("{path:?} is not a valid path of a cookie"),
                "begin the path with `/`, and percent-encode `;` and characters that are not ASCII",
            ));
        }
        if has_prefix(name, "__Host-") && (self.domain.is_some() || path != "/") {
            return Err(invalid(
                format!("browsers ignore the cookie `{name}` with a domain or a path"),
                "remove the domain and the path, or use a name that begins with `__Secure-`, in the application as well",
            ));
        }
        let reason = match (self.same_site, self.partitioned) {
            (SameSite::None, _) => "SameSite=None",
            (_, true) => "Partitioned",
            _ => return Ok(()),
        };
        match self.is_secure(name) {
            true => Ok(()),
            false => Err(invalid(
                format!(
                    "browsers ignore the cookie `{name}` with {reason}, because it is not Secure"
                ),
                "create the cookie with `Scheme::Https`",
            )),
        }
    }

    pub(super) fn is_secure(&self, name: &str) -> bool {
        let prefixes = ["__Secure-", "__Host-", "__Http-"];
        self.scheme == Scheme::Https || prefixes.iter().any(|prefix| has_prefix(name, prefix))
    }

    /// Returns a `Set-Cookie` header. `value` must be encoded.
    pub(super) fn header(&self, name: &str, value: &str, max_age: Option<Duration>) -> String {
        let mut header = format!("{name}={value}");
        if let Some(domain) = &self.domain {
            header += &format!("; Domain={domain}");
        }
        header += &format!("; Path={}", self.path);
        if let Some(max_age) = max_age {
            header += &format!("; Max-Age={}", max_age.as_secs());
        }
        header += &format!("; HttpOnly; SameSite={}", self.same_site.as_str());
        if self.is_secure(name) {
            header += "; Secure";
        }
        if self.partitioned {
            header += "; Partitioned";
        }
        header
    }

    /// Returns the `Set-Cookie` header that clears a cookie of these attributes.
    pub(super) fn clear(&self, name: &str) -> String {
        self.header(name, "", Some(Duration::ZERO))
    }
}

/// Browsers compare the prefixes without regard to case.
fn has_prefix(name: &str, prefix: &str) -> bool {
    let start = name.get(..prefix.len());
    start.is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

fn invalid(message: String, hint: &'static str) -> Error {
    Error::new(ErrorKind::InvalidConfig, message).with_hint(hint)
}
