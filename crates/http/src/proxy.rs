//! The proxy of an address: from the configuration, or from the environment.

use std::fmt;
use std::net::IpAddr;

use reqwest::Url;
use secretwell_core::Error;

use crate::credential::trim_setting;
use crate::error::invalid;

/// The variables that can contain a proxy, in the order of their precedence.
const VARIABLES: [&str; 4] = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];
/// The variables that list the hosts without a proxy.
const EXCEPTIONS: [&str; 2] = ["NO_PROXY", "no_proxy"];

/// Which proxy the requests are sent through.
#[derive(Clone, Default)]
pub(crate) enum ProxyChoice {
    /// The proxy of the conventional variables.
    #[default]
    Environment,
    Disabled,
    /// The URL of a proxy, which can contain a password.
    Url(String),
}

/// Omits the URL, because it can contain a password.
impl fmt::Debug for ProxyChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Environment => "Environment",
            Self::Disabled => "Disabled",
            Self::Url(_) => "Url(…)",
        })
    }
}

/// A proxy that opens a tunnel to the server, so that TLS is end to end.
#[derive(Clone)]
pub(crate) struct Proxy {
    url: Url,
}

impl Proxy {
    /// Returns the proxy for the server at `host` and `port`, which is not on this machine. `variable` returns
    /// the value of an environment variable.
    pub(crate) fn choose(
        choice: &ProxyChoice,
        host: &str,
        port: u16,
        variable: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Option<Self>, Error> {
        let first_set = |names: &[&'static str]| {
            names.iter().find_map(|name| {
                let value = variable(name).filter(|value| !trim_setting(value).is_empty())?;
                Some((*name, value))
            })
        };
        match choice {
            ProxyChoice::Disabled => Ok(None),
            ProxyChoice::Url(url) => Self::parse(url, "the configured proxy").map(Some),
            ProxyChoice::Environment => {
                let exceptions = first_set(&EXCEPTIONS);
                if exceptions.is_some_and(|(_, list)| is_listed(&list, host, port)) {
                    return Ok(None);
                }
                first_set(&VARIABLES)
                    .map(|(name, url)| Self::parse(&url, &format!("the proxy in `{name}`")))
                    .transpose()
            }
        }
    }

    /// Parses the URL of a proxy. Without a scheme, it is an HTTP proxy. The messages call it `shown` and never
    /// quote it.
    fn parse(text: &str, shown: &str) -> Result<Self, Error> {
        let text = trim_setting(text);
        let text = match text.contains("://") {
            true => text.to_owned(),
            false => format!("http://{text}"),
        };
        let url = Url::parse(&text).ok().filter(Url::has_host);
        let url = url.ok_or_else(|| {
            invalid(format!("{shown} is not a valid URL"))
                .with_hint("write it like `http://proxy.internal:3128`")
        })?;
        match url.scheme() {
            "http" | "https" => Ok(Self { url }),
            scheme if scheme.starts_with("socks") => Err(invalid(format!(
                "{shown} is a SOCKS proxy, which is not supported"
            ))
            .with_hint("use an HTTP proxy, or add `proxy=none` to the URL of the backend")),
            _ => Err(invalid(format!("{shown} is not an HTTP proxy"))
                .with_hint("write it like `http://proxy.internal:3128`")),
        }
    }

    /// Returns host and port, for messages.
    pub(crate) fn authority(&self) -> String {
        let host = self.url.host_str().unwrap_or_default();
        let port = self.url.port_or_known_default().unwrap_or_default();
        format!("{host}:{port}")
    }

    /// Returns the proxy for the HTTP library.
    pub(crate) fn to_reqwest(&self) -> reqwest::Result<reqwest::Proxy> {
        reqwest::Proxy::https(self.url.clone())
    }
}

/// Returns whether the comma-separated list `exceptions` contains the server. An entry is `*`, an address, a
/// network such as `10.0.0.0/8`, or a domain with its subdomains. All except networks can end with a port.
fn is_listed(exceptions: &str, host: &str, port: u16) -> bool {
    let host = host.trim_matches(['[', ']']).trim_end_matches('.');
    exceptions
        .split(',')
        .map(trim_setting)
        .filter(|entry| !entry.is_empty())
        .any(|entry| entry == "*" || is_match(entry, host, port))
}

fn is_match(entry: &str, host: &str, port: u16) -> bool {
    let ip = host.parse::<IpAddr>().ok();
    if let Some((network, length)) = entry.split_once('/') {
        let network = network.parse::<IpAddr>().ok();
        return network.zip(ip).is_some_and(|(network, ip)| {
            length
                .parse()
                .is_ok_and(|length| is_in_network(ip, network, length))
        });
    }
    let (name, listed_port) = split_port(entry);
    if listed_port.is_some_and(|listed| listed != port) {
        return false;
    }
    match (name.trim_matches(['[', ']']).parse::<IpAddr>(), ip) {
        (Ok(listed), Some(ip)) => listed == ip,
        (Err(_), None) => {
            let name = name.trim_start_matches("*.").trim_start_matches('.');
            is_same_or_subdomain(host, name.trim_end_matches('.'))
        }
        _ => false,
    }
}

/// Splits the port from `host:port`. The colons of an IPv6 address without brackets are part of the host.
fn split_port(entry: &str) -> (&str, Option<u16>) {
    match entry.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => port
            .parse()
            .map_or((entry, None), |port| (host, Some(port))),
        _ => (entry, None),
    }
}

fn is_same_or_subdomain(host: &str, domain: &str) -> bool {
    let (host, domain) = (host.to_ascii_lowercase(), domain.to_ascii_lowercase());
    !domain.is_empty()
        && host
            .strip_suffix(&domain)
            .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// Returns whether the first `length` bits of both addresses are equal.
fn is_in_network(ip: IpAddr, network: IpAddr, length: u32) -> bool {
    let (ip, network, width) = match (ip, network) {
        (IpAddr::V4(ip), IpAddr::V4(network)) => {
            (ip.to_bits().into(), network.to_bits().into(), 32)
        }
        (IpAddr::V6(ip), IpAddr::V6(network)) => (ip.to_bits(), network.to_bits(), 128),
        _ => return false,
    };
    let difference: u128 = ip ^ network;
    // A shift by all 128 bits overflows: then nothing is compared.
    length <= width && difference.checked_shr(width - length).unwrap_or(0) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(
        host: &str,
        choice: &ProxyChoice,
        variables: &[(&str, &str)],
    ) -> Result<Option<String>, Error> {
        let variable = |name: &str| {
            let (_, value) = variables.iter().find(|(set, _)| *set == name)?;
            Some((*value).to_owned())
        };
        let proxy = Proxy::choose(choice, host, 8200, &variable)?;
        Ok(proxy.map(|proxy| proxy.authority()))
    }

    #[test]
    fn proxy_is_chosen_from_the_variables_in_both_cases() {
        for (variables, expected) in [
            (&[][..], None),
            (&[("HTTPS_PROXY", "http://a:1")], Some("a:1")),
            (&[("https_proxy", "http://a:1")], Some("a:1")),
            (&[("ALL_PROXY", "a:1")], Some("a:1")),
            (&[("all_proxy", "https://user:pw@a")], Some("a:443")),
            (&[("HTTPS_PROXY", " "), ("all_proxy", "a:1")], Some("a:1")),
            (&[("ALL_PROXY", "b:2"), ("https_proxy", "a:1")], Some("a:1")),
            (&[("HTTPS_PROXY", "a:1"), ("no_proxy", "internal")], None),
            // This variable is for targets without TLS.
            (&[("HTTP_PROXY", "a:1")], None),
        ] {
            let proxy = choose("vault.internal", &ProxyChoice::Environment, variables).unwrap();
            assert_eq!(proxy.as_deref(), expected, "{variables:?}");
        }
    }

    #[test]
    fn configured_proxy_ignores_the_variables() {
        let variables = [("HTTPS_PROXY", "http://a:1"), ("NO_PROXY", "*")];
        let configured = ProxyChoice::Url("http://b:2".into());
        let proxy = choose("vault", &configured, &variables).unwrap();
        assert_eq!(proxy.as_deref(), Some("b:2"));
        let proxy = choose("vault", &ProxyChoice::Disabled, &variables).unwrap();
        assert_eq!(proxy, None);
    }

    #[test]
    fn unsupported_proxies_are_named_without_their_password() {
        for (url, expected) in [
            ("socks5://me:hunter2@a:1", "`ALL_PROXY` is a SOCKS proxy"),
            ("ftp://me:hunter2@a:1", "`ALL_PROXY` is not an HTTP proxy"),
            ("http://me:hunter2@", "`ALL_PROXY` is not a valid URL"),
        ] {
            let variables = [("ALL_PROXY", url)];
            let error = choose("vault", &ProxyChoice::Environment, &variables).unwrap_err();
            let text = format!("{error} {error:?}");
            assert!(text.contains(expected), "{text}");
            assert!(!text.contains("hunter2"), "{text}");
        }
        let configured = ProxyChoice::Url("http://me:hunter2@a:1".into());
        assert!(!format!("{configured:?}").contains("hunter2"));
    }

    #[test]
    fn exceptions_are_domains_addresses_and_networks() {
        for (exceptions, host, expected) in [
            ("internal", "vault.internal", true),
            (".internal", "vault.internal", true),
            ("*.internal", "vault.internal", true),
            ("internal", "vaultinternal", false),
            ("Vault.Internal", "vault.internal", true),
            ("vault.internal.", "vault.internal", true),
            ("vault.internal:8200", "vault.internal", true),
            ("vault.internal:443", "vault.internal", false),
            ("a, ,vault", "vault", true),
            ("*", "vault", true),
            ("", "vault", false),
            (".", "vault", false),
            ("10.0.0.0/8", "10.1.2.3", true),
            ("10.0.0.0/8", "11.1.2.3", false),
            ("10.1.2.3", "10.1.2.3", true),
            ("10.1.2.3:8200", "10.1.2.3", true),
            ("10.0.0.0/8", "vault", false),
            ("0.0.0.0/0", "10.1.2.3", true),
            ("10.0.0.0/33", "10.0.0.0", false),
            ("fd00::/8", "[fd12::1]", true),
            ("::/0", "[fd12::1]", true),
            ("fd12::1", "[fd12::1]", true),
            ("[fd12::1]:8200", "[fd12::1]", true),
            ("[fd12::1]:1", "[fd12::1]", false),
            ("fd00::/8", "10.1.2.3", false),
        ] {
            let listed = is_listed(exceptions, host, 8200);
            assert_eq!(listed, expected, "{exceptions} {host}");
        }
    }
}
