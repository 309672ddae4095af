//! Where to, how long, and whom to trust.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use reqwest::Url;
use secretwell_core::{Error, ErrorKind};

/// The base of a server's URLs: scheme, host, port, and a path if it does not stand at the root.
#[derive(Clone, PartialEq, Eq)]
pub struct Address(Url);

impl Address {
    /// Parses `https://host:port`, with a path or a slash at the end if need be.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`]: it does not parse, is neither `http` nor `https`, or holds
    /// credentials, a query or a fragment.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let mut url = Url::parse(text.trim()).map_err(|_| {
            invalid("the address is no URL")
                .with_hint("write it like `https://vault.internal:8200`")
        })?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(invalid("an address must not hold credentials")
                .with_hint("take out what stands before the `@`"));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(invalid("an address takes neither `?` nor `#`"));
        }
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
            return Err(invalid("an address begins with `https://` and a host")
                .with_hint("write it like `https://vault.internal:8200`"));
        }
        let path = url.path().trim_end_matches('/').to_owned();
        url.set_path(&path);
        Ok(Self(url))
    }

    /// Host and port, for messages.
    pub fn authority(&self) -> String {
        let host = self.0.host_str().unwrap_or_default();
        match self.0.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        }
    }

    /// The URL of what stands at `path`, which begins with a slash and is encoded already.
    pub(crate) fn url(&self, path: &str) -> Result<Url, Error> {
        let base = self.0.as_str().trim_end_matches('/');
        let url = Url::parse(&format!("{base}{path}")).map_err(|_| invalid("the path is none"))?;
        Ok(url)
    }

    /// Host and port, if it speaks TLS.
    pub(crate) fn tls(&self) -> Option<(&str, u16)> {
        let host = self.0.host_str().filter(|_| self.0.scheme() == "https")?;
        Some((host, self.0.port_or_known_default()?))
    }

    /// Whether `url` leads to this server.
    pub(crate) fn holds(&self, url: &Url) -> bool {
        self.0.scheme() == url.scheme()
            && self.0.host_str() == url.host_str()
            && self.0.port_or_known_default() == url.port_or_known_default()
    }

    /// Whether what is sent there can be read on the way.
    fn is_open_to_the_network(&self) -> bool {
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

/// Settings of a [`Client`](crate::Client). Every default is meant to be kept.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    pub(crate) addresses: Vec<Address>,
    pub(crate) deadline: Duration,
    pub(crate) attempt: Duration,
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

/// Certificates, in a file or at hand.
#[derive(Debug, Clone)]
pub(crate) enum Pem {
    File(PathBuf),
    Text(Vec<u8>),
}

impl ClientConfig {
    /// The servers at `addresses`: one that does not answer is passed over for the next. A single
    /// one may be a socket of this machine, `unix:///path`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`]: there is none, or one of them is [no address](Address::parse).
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
            return Err(invalid("there is no address"));
        }
        if unix_socket.is_some() && addresses.len() > 1 {
            return Err(invalid("a socket is the only address, if it is one"));
        }
        Ok(Self {
            addresses,
            deadline: Duration::from_secs(20),
            attempt: Duration::from_secs(4),
            hedge: Duration::from_secs(1),
            connect: Duration::from_secs(2),
            max_bytes: 32 << 20,
            unix_socket,
            tls: TlsConfig::default(),
            allow_http: false,
        })
    }

    /// How long a call may take, with all its attempts and waits. Default: 20 s.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// How long one attempt may take before it is given up. Default: 4 s.
    #[must_use]
    pub fn attempt_timeout(mut self, timeout: Duration) -> Self {
        self.attempt = timeout;
        self
    }

    /// How long an address may be silent before the next one is asked beside it. Default: 1 s.
    #[must_use]
    pub fn hedge_delay(mut self, delay: Duration) -> Self {
        self.hedge = delay;
        self
    }

    /// How long connecting may take. Default: 2 s.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect = timeout;
        self
    }

    /// The largest body to read, in bytes. Default: 32 MiB.
    #[must_use]
    pub fn max_bytes(mut self, bytes: usize) -> Self {
        self.max_bytes = bytes;
        self
    }

    /// Trusts the authorities in a PEM file too, beside the platform's.
    #[must_use]
    pub fn certificate_authority_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.tls.authorities.push(Pem::File(path.into()));
        self
    }

    /// Trusts the authorities in a PEM text too, beside the platform's.
    #[must_use]
    pub fn certificate_authority(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.tls.authorities.push(Pem::Text(pem.into()));
        self
    }

    /// Shows a client certificate, from PEM files that are read anew for each connection.
    #[must_use]
    pub fn identity_files(mut self, chain: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.tls.identity = Some((chain.into(), key.into()));
        self
    }

    /// The name to expect in the server's certificate, where that is not the address's host.
    #[must_use]
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.tls.server_name = Some(name.into());
        self
    }

    /// Takes whatever certificate the server shows. Whoever sits in between reads every secret: for
    /// experiments only.
    #[must_use]
    pub fn danger_skip_verification(mut self) -> Self {
        self.tls.skip_verify = true;
        self
    }

    /// Sends tokens over plain HTTP to other machines too. Whoever sits in between reads every secret.
    #[must_use]
    pub fn danger_allow_http(mut self) -> Self {
        self.allow_http = true;
        self
    }

    /// The same settings for other addresses.
    ///
    /// # Errors
    /// As [`new`](Self::new).
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

    /// Whether [`danger_skip_verification`](Self::danger_skip_verification) was asked for.
    pub fn skips_verification(&self) -> bool {
        self.tls.skip_verify
    }

    /// The addresses, in the order in which they are tried.
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        let open = self.addresses.iter().find(|a| a.is_open_to_the_network());
        match open {
            Some(address) if !self.allow_http && self.unix_socket.is_none() => Err(invalid(
                format!("`{address}` would send tokens over the network in the clear"),
            )
            .with_hint("use `https://`; plain HTTP is for this machine only")),
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
    fn addresses_are_parsed_once_and_bad_ones_named() {
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
    fn plain_http_is_for_this_machine() {
        for (address, good) in [
            ("http://127.0.0.1:8200", true),
            ("http://[::1]:8200", true),
            ("http://localhost", true),
            ("https://vault", true),
            ("http://vault", false),
            ("http://127.0.0.1.example.com", false),
        ] {
            let config = ClientConfig::new([address]).unwrap();
            assert_eq!(config.check().is_ok(), good, "{address}");
            assert!(config.danger_allow_http().check().is_ok());
        }
    }
}
