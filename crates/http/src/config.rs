//! Configuration of the client: addresses, time limits and trusted certificates.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use reqwest::Url;
use rustls::crypto::CryptoProvider;
use secretwell_core::Error;

use crate::credential::trim_setting;
use crate::error::invalid;
use crate::proxy::ProxyChoice;
use crate::url::{UrlOptions, parse_flag};

/// The base URL of a server: scheme, host, port, and a path if the server is not at the root.
#[derive(Clone, PartialEq, Eq)]
pub struct Address(Url);

impl Address {
    /// Parses an address such as `https://host:port`. A path and a final slash are allowed.
    ///
    /// # Errors
    /// Returns [`ErrorKind::InvalidConfig`](secretwell_core::ErrorKind::InvalidConfig) if `text` is not a URL, if its scheme is neither `http` nor
    /// `https`, or if it contains credentials, a query or a fragment.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let mut url = Url::parse(trim_setting(text)).map_err(|_| {
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

    /// Returns the URL of `path`, which must begin with a slash and be percent-encoded, and can have a query.
    pub(crate) fn url(&self, path: &str) -> Url {
        let (path, query) = match path.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (path, None),
        };
        // The scheme and the host are not parsed again.
        let mut url = self.0.clone();
        match self.0.path().trim_end_matches('/') {
            "" => url.set_path(path),
            base => url.set_path(&format!("{base}{path}")),
        }
        url.set_query(query);
        url
    }

    /// Returns whether the address has a path, below which the paths of requests are.
    #[must_use]
    pub fn has_base_path(&self) -> bool {
        self.0.path() != "/"
    }

    /// Returns the host. An IPv6 address has no brackets.
    pub(crate) fn host(&self) -> &str {
        let host = self.0.host_str().unwrap_or_default();
        host.trim_matches(['[', ']'])
    }

    pub(crate) fn port(&self) -> u16 {
        self.0.port_or_known_default().unwrap_or_default()
    }

    pub(crate) fn uses_tls(&self) -> bool {
        self.0.scheme() == "https"
    }

    /// Returns this address with another host.
    pub(crate) fn with_host(&self, host: &str) -> Result<Self, Error> {
        let mut url = self.0.clone();
        url.set_host(Some(host))
            .map_err(|_| invalid("the expected server name is not valid in a URL"))?;
        Ok(Self(url))
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
        !self.uses_tls() && !self.is_loopback()
    }

    /// Returns whether the server is on this machine.
    pub(crate) fn is_loopback(&self) -> bool {
        let host = self.host();
        host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
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
///
/// A duration of more than 24 h counts as 24 h.
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
    pub(crate) proxy: ProxyChoice,
    pub(crate) max_exchanges: usize,
    allow_http: bool,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct TlsConfig {
    pub(crate) authorities: Vec<Pem>,
    pub(crate) identity: Option<(PathBuf, PathBuf)>,
    pub(crate) server_name: Option<String>,
    pub(crate) skip_verify: bool,
    pub(crate) crypto: Option<Arc<CryptoProvider>>,
}

/// PEM certificates, in a file or in memory.
#[derive(Debug, Clone)]
pub(crate) enum Pem {
    File(PathBuf),
    Text(Vec<u8>),
}

/// The options of a URL that [`ClientConfig::with_options`] reads. Each backend has them.
pub const CLIENT_OPTIONS: [&str; 2] = ["allow_http", "proxy"];

/// The longest duration that the settings accept. It is long enough for "never", and can be added to any time.
const MAX_DURATION: Duration = Duration::from_secs(24 * 60 * 60);

/// The variable that allows plain HTTP to other machines, for every backend.
const ALLOW_HTTP: &str = "SECRETWELL_ALLOW_HTTP";

impl ClientConfig {
    /// Creates settings for the servers at `addresses`. If one does not respond, the next one is tried. If the
    /// host of an address is a name, each network address of that name is a server. A single address can also
    /// be a local socket, such as `unix:///path`.
    ///
    /// # Errors
    /// Returns [`ErrorKind::InvalidConfig`](secretwell_core::ErrorKind::InvalidConfig) if `addresses` is empty, if an address
    /// [cannot be parsed](Address::parse), or if a socket is not the only address.
    pub fn new<A: AsRef<str>>(addresses: impl IntoIterator<Item = A>) -> Result<Self, Error> {
        let mut unix_socket = None;
        let mut parse = |address: &str| match address.strip_prefix("unix://") {
            Some(_) if cfg!(not(unix)) => {
                Err(invalid("this operating system has no local sockets")
                    .with_hint("use an address that begins with `https://`"))
            }
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
            proxy: ProxyChoice::default(),
            max_exchanges: 64,
            allow_http: false,
        })
    }

    /// Sets the maximum duration of a call, including all attempts and waits. Default: 20 s.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline.min(MAX_DURATION);
        self
    }

    /// Sets the maximum duration of one attempt. After it, the request is sent again, so a server that is
    /// slower never responds. Default: an attempt lasts until the [deadline](Self::deadline).
    #[must_use]
    pub fn attempt_timeout(mut self, timeout: Duration) -> Self {
        self.attempt = Some(timeout.min(MAX_DURATION));
        self
    }

    /// Sets the time without a response after which the next address is tried in parallel. Default: 1 s.
    #[must_use]
    pub fn hedge_delay(mut self, delay: Duration) -> Self {
        self.hedge = delay.min(MAX_DURATION);
        self
    }

    /// Sets the maximum duration of establishing a connection. Default: 2 s.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect = timeout.min(MAX_DURATION);
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

    /// Sets the expected name in the server's certificate. A host name is also sent as the server name of the
    /// TLS handshake and in the `Host` header. It cannot be combined with a proxy. Default: the host of the
    /// address.
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

    /// Sets the cryptography for TLS, such as a provider that is validated for FIPS 140-3. It must support the
    /// key exchanges and signatures of the server. Default: the provider of `aws-lc-rs`, which prefers the
    /// post-quantum key exchange X25519MLKEM768.
    #[must_use]
    pub fn crypto_provider(mut self, provider: Arc<CryptoProvider>) -> Self {
        self.tls.crypto = Some(provider);
        self
    }

    /// Sets the proxy for servers with TLS, such as `http://user:password@proxy.internal:3128`. It opens a
    /// tunnel, so TLS is end to end, and the proxy resolves the server's name. Servers on this machine are
    /// never reached through a proxy. SOCKS proxies are not supported.
    ///
    /// Default: the proxy in `HTTPS_PROXY` or `ALL_PROXY`, except for the hosts in `NO_PROXY`. The names of the
    /// variables can also be in lower case. The exceptions are `*`, addresses, networks such as `10.0.0.0/8`,
    /// and domains with their subdomains. A proxy that is set here is used for all hosts.
    #[must_use]
    pub fn proxy(mut self, url: impl Into<String>) -> Self {
        self.proxy = ProxyChoice::Url(url.into());
        self
    }

    /// Uses no proxy, even if the environment has one.
    #[must_use]
    pub fn no_proxy(mut self) -> Self {
        self.proxy = ProxyChoice::Disabled;
        self
    }

    /// Sets the maximum number of concurrent requests to each server, and so the number of connections.
    /// Further requests wait, but at most 1,024 of them, and not after the [deadline](Self::deadline).
    /// Default: 64. 0 counts as 1.
    #[must_use]
    pub fn max_concurrent_requests(mut self, limit: usize) -> Self {
        self.max_exchanges = limit.max(1);
        self
    }

    /// Applies the variables that are the same for each backend. `variable` returns the value of an environment
    /// variable. `SECRETWELL_ALLOW_HTTP=true` [allows plain HTTP](Self::danger_allow_http).
    ///
    /// # Errors
    /// Returns [`ErrorKind::InvalidConfig`](secretwell_core::ErrorKind::InvalidConfig) if a value is invalid.
    pub fn with_variables(
        mut self,
        variable: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, Error> {
        let text = variable(ALLOW_HTTP).unwrap_or_default();
        match trim_setting(&text) {
            "" => {}
            text => self.allow_http = parse_flag(ALLOW_HTTP, text)?,
        }
        Ok(self)
    }

    /// Applies the [options of a URL](CLIENT_OPTIONS) that are the same for each backend: `allow_http` is `true`
    /// or `false`, and `proxy` is the URL of a proxy or `none`.
    ///
    /// # Errors
    /// Returns [`ErrorKind::InvalidConfig`](secretwell_core::ErrorKind::InvalidConfig) if a value is invalid,
    /// or if the URL of the proxy contains credentials.
    pub fn with_options(mut self, options: &UrlOptions) -> Result<Self, Error> {
        if let Some(allow_http) = options.flag("allow_http")? {
            self.allow_http = allow_http;
        }
        match options.get("proxy") {
            None => Ok(self),
            Some("none") => Ok(self.no_proxy()),
            Some(url) if url.contains('@') => Err(invalid("a URL must not contain credentials")
                .with_hint("set the proxy in the variable `HTTPS_PROXY`")),
            Some(url) => Ok(self.proxy(url)),
        }
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

    /// Returns the addresses whose requests cross the network unencrypted, because that was allowed.
    pub(crate) fn unencrypted(&self) -> impl Iterator<Item = &Address> {
        let addresses = self.addresses.iter();
        addresses.filter(|a| self.unix_socket.is_none() && a.is_unencrypted_and_remote())
    }

    /// Returns the addresses in their configured order.
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// Checks that no token is sent unencrypted over the network, unless that was allowed.
    pub(crate) fn check(&self) -> Result<(), Error> {
        match self.unencrypted().next() {
            Some(address) if !self.allow_http => Err(invalid(format!(
                "tokens to `{address}` would cross the network unencrypted"
            ))
            .with_hint(
                "use `https://`; in a trusted network, add `allow_http=true` to the URL, or set \
                 `SECRETWELL_ALLOW_HTTP=true`",
            )),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use secretwell_core::ErrorKind;

    use super::*;

    #[test]
    fn addresses_are_normalized_and_invalid_ones_are_rejected() {
        let address = Address::parse(" https://Vault.Internal:8200/base/ ").unwrap();
        assert_eq!(address.to_string(), "https://vault.internal:8200/base");
        assert_eq!(address.authority(), "vault.internal:8200");
        let url = address.url("/v1/a%20b?version=2");
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

    #[test]
    fn any_duration_is_accepted() {
        let config = ClientConfig::new(["http://127.0.0.1:1"])
            .unwrap()
            .deadline(Duration::MAX)
            .attempt_timeout(Duration::MAX)
            .hedge_delay(Duration::MAX)
            .connect_timeout(Duration::MAX);
        let times = [config.deadline, config.hedge, config.connect];
        assert!(times.iter().all(|time| *time == MAX_DURATION));
        assert_eq!(config.attempt, Some(MAX_DURATION));
    }

    #[test]
    fn options_of_the_url_are_applied() {
        let apply = |query: &str| {
            let options = UrlOptions::parse(query, &CLIENT_OPTIONS, &[])?;
            ClientConfig::new(["http://vault"])?.with_options(&options)
        };
        assert!(apply("").unwrap().check().is_err());
        assert!(apply("allow_http=false").unwrap().check().is_err());
        assert!(apply("allow_http=true").unwrap().check().is_ok());
        let proxy = apply("proxy=http://p:3128").unwrap().proxy;
        assert!(matches!(proxy, ProxyChoice::Url(url) if url == "http://p:3128"));
        let proxy = apply("proxy=none").unwrap().proxy;
        assert!(matches!(proxy, ProxyChoice::Disabled));
        let with_variable = |value: &str| {
            let variable = |name: &str| (name == ALLOW_HTTP).then(|| value.to_owned());
            ClientConfig::new(["http://vault"])?.with_variables(&variable)
        };
        assert!(with_variable("").unwrap().check().is_err());
        assert!(with_variable("true").unwrap().check().is_ok());
        assert!(with_variable("maybe").is_err());
        for bad in ["allow_http=maybe", "proxy=http://me:hunter2@p:3128"] {
            let error = apply(bad).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{bad}");
            assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
        }
    }
}
