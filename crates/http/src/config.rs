//! Configuration of the client: addresses, time limits and trusted certificates.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use reqwest::Url;
use secretwell_core::{Error, ErrorKind};

/// The base URL of a server: scheme, host, port, and a path if the server is not at the root.
#[derive(Clone, PartialEq, Eq)]
pub struct Address(Url);

impl Address {
    /// Parses an address such as `https://host:port`. A path and a final slash are allowed.
    ///
    /// # Errors
    /// Returns [`ErrorKind::InvalidConfig`] if `text` is not a URL, if its scheme is neither `http` nor
    /// `https`, or if it contains credentials, a query or a fragment.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let mut url = Url::parse(text.trim()).map_err(|_| {
            invalid("the address is not a valid URL")
                .with_hint("write it like `https://vault.internal:8200`")
        })?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(invalid("an address must not contain credentials")
                .with_hint("remove the part before the `@`"));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(invalid("an address must not contain `?` or `#`"));
        }
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
            return Err(invalid("an address must begin with `https://` and a host")
                .with_hint("write it like `https://vault.internal:8200`"));
        }
        let path = url.path().trim_end_matches('/').to_owned();
        url.set_path(&path);
        Ok(Self(url))
    }

    /// Returns host and port, for messages. A default port is omitted.
    pub fn authority(&self) -> String {
        let host = self.0.host_str().unwrap_or_default();
        match self.0.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        }
    }

    /// Returns the URL of `path`, which must begin with a slash and be percent-encoded.
    pub(crate) fn url(&self, path: &str) -> Result<Url, Error> {
        let base = self.0.as_str().trim_end_matches('/');
        let url = Url::parse(&format!("{base}{path}"))
            .map_err(|_| invalid("the path is not valid in a URL"))?;
        Ok(url)
    }

    /// Returns host and port if the scheme is `https`.
    pub(crate) fn tls(&self) -> Option<(&str, u16)> {
        let host = self.0.host_str().filter(|_| self.0.scheme() == "https")?;
        Some((host, self.0.port_or_known_default()?))
    }

    /// Returns whether `url` is on this server: same scheme, host and port.
    pub(crate) fn is_server_of(&self, url: &Url) -> bool {
        self.0.scheme() == url.scheme()
            && self.0.host_str() == url.host_str()
            && self.0.port_or_known_default() == url.port_or_known_default()
    }

    /// Returns whether `url` is on the same host, and uses TLS in contrast to this address.
    pub(crate) fn is_upgraded_by(&self, url: &Url) -> bool {
        let schemes = (self.0.scheme(), url.scheme());
        schemes == ("http", "https") && self.0.host_str() == url.host_str()
    }

    /// Returns whether requests to this address cross the network unencrypted.
    fn is_unencrypted_and_remote(&self) -> bool {
        self.0.scheme() == "http"
            && !self.0.host_str().is_some_and(|host| {
                let host = host.trim_matches(['[', ']']);
                host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
            })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str().trim_end_matches('/'))
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({self})")
    }
}

/// Settings of a [`Client`](crate::Client). The defaults fit most services.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    pub(crate) addresses: Vec<Address>,
    pub(crate) deadline: Duration,
    pub(crate) attempt: Option<Duration>,
    pub(crate) hedge: Duration,
    pub(crate) connect: Duration,
    pub(crate) max_bytes: usize,
    pub(crate) unix_socket: Option<PathBuf>,
    pub(crate) tls: TlsConfig,
    allow_http: bool,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct TlsConfig {
    pub(crate) authorities: Vec<Pem>,
    pub(crate) identity: Option<(PathBuf, PathBuf)>,
    pub(crate) server_name: Option<String>,
    pub(crate) skip_verify: bool,
}

/// PEM certificates, in a file or in memory.
#[derive(Debug, Clone)]
pub(crate) enum Pem {
    File(PathBuf),
    Text(Vec<u8>),
}

impl ClientConfig {
    /// Creates settings for the servers at `addresses`. If one does not respond, the next one is tried. A
    /// single address can also be a local socket, such as `unix:///path`.
    ///
    /// # Errors
    /// Returns [`ErrorKind::InvalidConfig`] if `addresses` is empty, if an address
    /// [cannot be parsed](Address::parse), or if a socket is not the only address.
    pub fn new<A: AsRef<str>>(addresses: impl IntoIterator<Item = A>) -> Result<Self, Error> {
        let mut unix_socket = None;
        let mut parse = |address: &str| match address.strip_prefix("unix://") {
            Some(path) => {
                unix_socket = Some(PathBuf::from(path));
                Address::parse("http://localhost")
            }
            None => Address::parse(address),
        };
        let addresses = addresses
            .into_iter()
            .map(|address| parse(address.as_ref()))
            .collect::<Result<Vec<_>, _>>()?;
        if addresses.is_empty() {
            return Err(invalid("no address is configured").with_hint("add at least one"));
        }
        if unix_socket.is_some() && addresses.len() > 1 {
            return Err(invalid(
                "a `unix://` address cannot be combined with other addresses",
            ));
        }
        Ok(Self {
            addresses,
            deadline: Duration::from_secs(20),
            attempt: None,
            hedge: Duration::from_secs(1),
            connect: Duration::from_secs(2),
            max_bytes: 32 << 20,
            unix_socket,
            tls: TlsConfig::default(),
            allow_http: false,
        })
    }

    /// Sets the maximum duration of a call, including all attempts and waits. Default: 20 s.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Sets the maximum duration of one attempt. After it, the request is sent again, so a server that is
    /// slower never responds. Default: an attempt lasts until the [deadline](Self::deadline).
    #[must_use]
    pub fn attempt_timeout(mut self, timeout: Duration) -> Self {
        self.attempt = Some(timeout);
        self
    }

    /// Sets the time without a response after which the next address is tried in parallel. Default: 1 s.
    #[must_use]
    pub fn hedge_delay(mut self, delay: Duration) -> Self {
        self.hedge = delay;
        self
    }

    /// Sets the maximum duration of establishing a connection. Default: 2 s.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect = timeout;
        self
    }

    /// Sets the maximum size of a response body, in bytes. Default: 32 MiB.
    #[must_use]
    pub fn max_bytes(mut self, bytes: usize) -> Self {
        self.max_bytes = bytes;
        self
    }

    /// Adds trusted certificate authorities from a PEM file. Those of the platform remain trusted.
    #[must_use]
    pub fn certificate_authority_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.tls.authorities.push(Pem::File(path.into()));
        self
    }

    /// Adds trusted certificate authorities from a PEM text. Those of the platform remain trusted.
    #[must_use]
    pub fn certificate_authority(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.tls.authorities.push(Pem::Text(pem.into()));
        self
    }

    /// Sets a client certificate and its key, as PEM files that are read again for each connection.
    #[must_use]
    pub fn identity_files(mut self, chain: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.tls.identity = Some((chain.into(), key.into()));
        self
    }

    /// Sets the expected name in the server's certificate. Default: the host of the address.
    #[must_use]
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.tls.server_name = Some(name.into());
        self
    }

    /// Accepts any server certificate. An attacker on the network can then read every secret, so this is for
    /// experiments only.
    #[must_use]
    pub fn danger_skip_verification(mut self) -> Self {
        self.tls.skip_verify = true;
        self
    }

    /// Allows plain HTTP to other machines. An attacker on the network can then read every token and secret.
    #[must_use]
    pub fn danger_allow_http(mut self) -> Self {
        self.allow_http = true;
        self
    }

    /// Replaces the addresses and keeps all other settings.
    ///
    /// # Errors
    /// Returns the same errors as [`new`](Self::new).
    pub fn with_addresses<A: AsRef<str>>(
        self,
        addresses: impl IntoIterator<Item = A>,
    ) -> Result<Self, Error> {
        let Self {
            addresses,
            unix_socket,
            ..
        } = Self::new(addresses)?;
        Ok(Self {
            addresses,
            unix_socket,
            ..self
        })
    }

    /// Returns whether [`danger_skip_verification`](Self::danger_skip_verification) was called.
    pub fn skips_verification(&self) -> bool {
        self.tls.skip_verify
    }

    /// Returns the addresses in their configured order.
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// Checks that no token is sent unencrypted over the network, unless that was allowed.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let unencrypted = self
            .addresses
            .iter()
            .find(|a| a.is_unencrypted_and_remote());
        match unencrypted {
            Some(address) if !self.allow_http && self.unix_socket.is_none() => Err(invalid(
                format!("tokens to `{address}` would cross the network unencrypted"),
            )
            .with_hint("use `https://`; plain HTTP is allowed only to this machine")),
            _ => Ok(()),
        }
    }
}

pub(crate) fn invalid(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidConfig, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_normalized_and_invalid_ones_are_rejected() {
        let address = Address::parse(" https://Vault.Internal:8200/base/ ").unwrap();
        assert_eq!(address.to_string(), "https://vault.internal:8200/base");
        assert_eq!(address.authority(), "vault.internal:8200");
        let url = address.url("/v1/a%20b?version=2").unwrap();
        assert_eq!(
            url.as_str(),
            "https://vault.internal:8200/base/v1/a%20b?version=2"
        );
        for bad in [
            "",
            "vault:8200",
            "ftp://vault",
            "https://",
            "https://user@vault",
            "https://vault?x=1",
            "https://vault#x",
        ] {
            let error = Address::parse(bad).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{bad}");
        }
        assert!(ClientConfig::new(Vec::<String>::new()).is_err());
        assert!(ClientConfig::new(["unix:///run/agent.sock"]).is_ok());
        assert!(ClientConfig::new(["unix:///run/agent.sock", "https://vault"]).is_err());
    }

    #[test]
    fn plain_http_is_allowed_only_to_this_machine() {
        for (address, allowed) in [
            ("http://127.0.0.1:8200", true),
            ("http://[::1]:8200", true),
            ("http://localhost", true),
            ("https://vault", true),
            ("http://vault", false),
            ("http://127.0.0.1.example.com", false),
        ] {
            let config = ClientConfig::new([address]).unwrap();
            assert_eq!(config.check().is_ok(), allowed, "{address}");
            assert!(config.danger_allow_http().check().is_ok());
        }
    }
}
