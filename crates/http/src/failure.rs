//! Failures of an attempt that ended without a response to classify.

use std::error::Error as StdError;
use std::time::Duration;

use secretwell_core::{Error, ErrorKind};

use crate::recognition::FOREIGN_BACKOFF;

/// The next step for an address that begins with `http://`, if its server requires TLS.
pub(crate) const TLS_HINT: &str =
    "begin the address with `https://`, or the URL of the source with `vault://` or `infisical://`";
/// The next step for an address that begins with `https://`, if its server does not use TLS.
const NO_TLS_HINT: &str = "check the port; for plain HTTP, begin the address with `http://`, or the URL of the source \
     with `vault+http://` or `infisical+http://`";

/// The reason why an attempt ended without a response.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("the HTTP exchange failed")]
    Exchange(#[source] reqwest::Error),
    /// The tunnel through the proxy could not be established. The text names the proxy.
    #[error("the proxy does not connect to the server")]
    Proxy(String, #[source] reqwest::Error),
    #[error("the name cannot be resolved")]
    Unresolved,
    /// Until the deadline, this number of other requests to the server was under way.
    #[error("{0} requests are already under way")]
    Busy(usize),
    /// Too many requests wait for their turn.
    #[error("{0} requests are already waiting")]
    Overloaded(usize),
    #[error("the TLS connection failed")]
    Tls(#[source] rustls::Error),
    #[error("no response within {0:?}")]
    Timeout(Duration),
    /// The deadline of the whole call passed before the timeout of this attempt.
    #[error("the deadline passed after {0:?}")]
    Deadline(Duration),
    #[error("the response is larger than {0} bytes")]
    TooLarge(usize),
    #[error("the server redirects to a target that is not allowed")]
    Redirect,
    #[error("the server redirects from plain HTTP to TLS")]
    RedirectToTls,
}

impl Failure {
    /// Returns whether it is certain that no server executed the request: no server was reached, or the
    /// server only redirected.
    pub(crate) fn did_nothing(&self) -> bool {
        match self {
            Self::Exchange(error) => error.is_connect(),
            Self::Proxy(..) | Self::Unresolved | Self::Busy(_) | Self::Overloaded(_) => true,
            Self::Redirect | Self::RedirectToTls => true,
            Self::Tls(_) | Self::Timeout(_) | Self::Deadline(_) | Self::TooLarge(_) => false,
        }
    }

    /// Converts the failure into the error for the caller, naming the server at `authority`. The message
    /// never includes the text of a library's error, because that text might contain anything.
    pub(crate) fn into_error(self, authority: &str) -> Error {
        match self {
            Self::Timeout(after) | Self::Deadline(after) => Error::new(
                ErrorKind::Timeout,
                format!("`{authority}` did not respond within {:?}", rounded(after)),
            )
            .with_hint("check whether it is overloaded, or behind a firewall that drops packets"),
            Self::TooLarge(limit) => Error::new(
                ErrorKind::TooLarge,
                format!("the response of `{authority}` is larger than {limit} bytes"),
            )
            .with_hint("check the address; if it is right, raise the limit"),
            // Temporary like each response of another program, such as the redirect to a sign-in page.
            Self::Redirect => Error::new(
                ErrorKind::Unavailable,
                format!("`{authority}` redirects to a target that is not allowed"),
            )
            .with_hint("if you trust the target server with the token, add its address as well")
            .with_backoff_limit(FOREIGN_BACKOFF),
            Self::RedirectToTls => Error::new(
                ErrorKind::InvalidConfig,
                format!("`{authority}` requires TLS, but is addressed with plain HTTP"),
            )
            .with_hint(TLS_HINT),
            Self::Proxy(proxy, error) if is_tls_error(&error) => exchange_error(&error, &proxy)
                .with_hint("check the certificate of the proxy, and configure its authority"),
            Self::Proxy(proxy, error) => {
                let (problem, hint) = proxy_problem(&error);
                let message = format!(
                    "`{authority}` cannot be reached through the proxy `{proxy}`, which {problem}"
                );
                Error::new(ErrorKind::Unavailable, message).with_hint(hint)
            }
            Self::Unresolved => Error::new(
                ErrorKind::Unavailable,
                format!("`{authority}` cannot be reached: its name cannot be resolved"),
            )
            .with_hint("check the address and the name service"),
            Self::Busy(limit) => Error::new(
                ErrorKind::Timeout,
                format!(
                    "the request to `{authority}` was not sent in time: {limit} requests to it are \
                     already under way"
                ),
            )
            .with_hint("check whether the server is overloaded or hangs"),
            Self::Overloaded(waiting) => Error::new(
                ErrorKind::Unavailable,
                format!(
                    "the request to `{authority}` was not sent: {waiting} requests are already \
                     waiting for earlier ones"
                ),
            )
            .with_hint("check whether the server is overloaded or hangs"),
            Self::Tls(error) => tls_error(&error, authority),
            Self::Exchange(error) => exchange_error(&error, authority),
        }
    }
}

/// Returns what the proxy did instead of a connection to the server, and the next step. Only a text of the HTTP library
/// shows this.
fn proxy_problem(error: &reqwest::Error) -> (&'static str, &'static str) {
    let mut next = error.source();
    while let Some(cause) = next {
        match cause.to_string().strip_prefix("tunnel error: ") {
            Some("proxy authorization required") => {
                return (
                    "requires credentials (status 407)",
                    "add the user name and the password to the URL of the proxy, or correct them",
                );
            }
            Some("unsuccessful") => {
                return (
                    "refuses to connect to it",
                    "check the proxy's log: its rules might not allow the address, or it cannot reach it",
                );
            }
            Some("failed to create underlying connection") => break,
            _ => next = cause.source(),
        }
    }
    match find::<std::io::Error>(error).map(std::io::Error::kind) {
        Some(std::io::ErrorKind::ConnectionRefused) => (
            "refuses connections",
            "check that the proxy is running and that its address is correct",
        ),
        _ => (
            "does not respond as a proxy, or cannot be reached",
            "check the address of the proxy, and that the proxy is running",
        ),
    }
}

/// Returns `time` without the noise of a clock: in steps of 10 ms, or of its own length if that is shorter.
fn rounded(time: Duration) -> Duration {
    const STEP: u128 = 10;
    let steps = (time.as_millis() + STEP / 2) / STEP;
    match u64::try_from(steps * STEP) {
        Ok(millis) if millis > 0 => Duration::from_millis(millis),
        _ => time,
    }
}

/// Returns whether the connection was established and then closed for an unknown reason.
pub(crate) fn is_unexplained(error: &reqwest::Error) -> bool {
    !error.is_connect() && !error.is_timeout() && !is_tls_error(error)
}

/// Returns whether the TLS connection failed for a known reason.
pub(crate) fn is_tls_error(error: &reqwest::Error) -> bool {
    find::<rustls::Error>(error).is_some()
}

/// Returns whether a connection failed because of the proxy, and not because of the server behind it. If both of them
/// use TLS, only a text of the HTTP library shows whose TLS failed.
pub(crate) fn is_about_proxy(error: &reqwest::Error) -> bool {
    let mut next = error.source();
    while let Some(cause) = next {
        if cause.to_string().starts_with("tunnel error") {
            return true;
        }
        next = cause.source();
    }
    !is_tls_error(error)
}

fn exchange_error(error: &reqwest::Error, authority: &str) -> Error {
    if let Some(tls) = find::<rustls::Error>(error) {
        return tls_error(tls, authority);
    }
    let io = find::<std::io::Error>(error).map(std::io::Error::kind);
    let problem = match io {
        Some(std::io::ErrorKind::ConnectionRefused) => "refuses connections",
        Some(std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::BrokenPipe) => {
            "closed the connection"
        }
        Some(std::io::ErrorKind::UnexpectedEof) => "ended the response early",
        Some(std::io::ErrorKind::NotFound) => "cannot be reached: the socket does not exist",
        Some(std::io::ErrorKind::PermissionDenied) => "cannot be reached: permission denied",
        _ if error.is_timeout() => "did not accept the connection in time",
        _ if error.is_connect() => "cannot be reached",
        _ if error.is_body() || error.is_decode() => "ended the response early",
        _ => "sent an invalid HTTP response, or closed the connection",
    };
    Error::new(ErrorKind::Unavailable, format!("`{authority}` {problem}"))
        .with_hint(address_hint(authority))
}

/// Returns the next step for a server that cannot be reached. `authority` has no port if it is the default one.
fn address_hint(authority: &str) -> &'static str {
    let after_host = authority.rsplit(']').next().unwrap_or_default();
    match after_host.contains(':') {
        true => "check that the server is running, and the host and the port of its address",
        false => {
            "check that the server is running, and its address; without a port, the port is 443, or 80 for plain HTTP"
        }
    }
}

/// Returns a permanent error, because a failed handshake fails again until a certificate or the
/// configuration changes.
fn tls_error(error: &rustls::Error, authority: &str) -> Error {
    use rustls::{AlertDescription as Alert, CertificateError as Bad, Error as Tls};

    let (problem, hint) = match error {
        Tls::InvalidCertificate(Bad::UnknownIssuer) => (
            "presents a certificate from an authority that is not trusted",
            "configure the certificate of that authority; for Vault, set `VAULT_CACERT` to its file",
        ),
        Tls::InvalidCertificate(Bad::NotValidForName | Bad::NotValidForNameContext { .. }) => (
            "presents a certificate for another name",
            "use a name from the certificate as the address, or set the expected server name",
        ),
        Tls::InvalidCertificate(Bad::Expired | Bad::ExpiredContext { .. }) => {
            ("presents an expired certificate", "renew it on the server")
        }
        Tls::InvalidCertificate(Bad::NotValidYet | Bad::NotValidYetContext { .. }) => (
            "presents a certificate that is not valid yet",
            "compare the clocks of both machines",
        ),
        Tls::InvalidCertificate(Bad::Revoked) => {
            ("presents a revoked certificate", "renew it on the server")
        }
        Tls::InvalidCertificate(_) => (
            "presents a certificate that is not acceptable",
            "inspect it with `openssl s_client`",
        ),
        Tls::AlertReceived(
            Alert::CertificateRequired
            | Alert::BadCertificate
            | Alert::UnknownCA
            | Alert::CertificateUnknown
            | Alert::AccessDenied
            | Alert::CertificateExpired
            | Alert::CertificateRevoked,
        ) => (
            "does not accept our client certificate",
            "configure a certificate from an authority that the server trusts",
        ),
        Tls::AlertReceived(Alert::ProtocolVersion) | Tls::PeerIncompatible(_) => (
            "supports no TLS version that this client accepts",
            "enable TLS 1.2 or 1.3 on the server",
        ),
        Tls::InvalidMessage(_) => ("does not respond with TLS", NO_TLS_HINT),
        _ => (
            "rejected the TLS handshake",
            "check the port, and the log of the server",
        ),
    };
    Error::new(ErrorKind::Unavailable, format!("`{authority}` {problem}"))
        .with_hint(hint)
        .permanent()
}

/// Returns the first error of type `E` in the source chain, including errors wrapped by `std::io::Error`.
fn find<'a, E: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        if let Some(inner) = error
            .downcast_ref::<std::io::Error>()
            .and_then(std::io::Error::get_ref)
        {
            let inner: &(dyn StdError + 'static) = inner;
            if let Some(found) = find(inner) {
                return Some(found);
            }
        }
        next = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_without_a_port_gets_its_own_hint() {
        for (authority, has_port) in [
            ("vault:8200", true),
            ("[::1]:8200", true),
            ("vault", false),
            ("[::1]", false),
        ] {
            let hint = address_hint(authority);
            assert_eq!(!hint.contains("without a port"), has_port, "{authority}");
        }
    }

    #[test]
    fn times_in_messages_are_rounded() {
        let text = |nanos| format!("{:?}", rounded(Duration::from_nanos(nanos)));
        assert_eq!(text(4_999_961_607), "5s");
        assert_eq!(text(17_503_000_001), "17.5s");
        assert_eq!(text(2_000_000), "2ms");
    }

    /// A handshake fails again until a certificate or the configuration changes, so the message must name the cause.
    #[test]
    fn failed_handshake_is_a_permanent_error_that_names_the_cause() {
        use rustls::{AlertDescription as Alert, CertificateError as Bad, Error as Tls};

        let canary = "canary-5f1b9c";
        let other = rustls::OtherError(std::sync::Arc::new(std::io::Error::other(canary)));
        for (failure, problem) in [
            (Tls::InvalidCertificate(Bad::UnknownIssuer), "not trusted"),
            (
                Tls::InvalidCertificate(Bad::NotValidForName),
                "another name",
            ),
            (Tls::InvalidCertificate(Bad::Expired), "expired"),
            (Tls::InvalidCertificate(Bad::NotValidYet), "clocks"),
            (Tls::InvalidCertificate(Bad::Revoked), "revoked"),
            (Tls::InvalidCertificate(Bad::Other(other)), "openssl"),
            (
                Tls::AlertReceived(Alert::CertificateRequired),
                "client certificate",
            ),
            (
                Tls::AlertReceived(Alert::CertificateExpired),
                "client certificate",
            ),
            (Tls::AlertReceived(Alert::ProtocolVersion), "TLS version"),
            (
                Tls::AlertReceived(Alert::InternalError),
                "log of the server",
            ),
            (Tls::General(canary.to_owned()), "log of the server"),
        ] {
            let error = Failure::Tls(failure.clone()).into_error("vault:8200");
            assert_eq!(error.kind(), ErrorKind::Unavailable);
            assert!(!error.is_temporary(), "{failure:?}");
            let text = format!("{error:#?} {error}");
            assert!(
                text.contains("`vault:8200`") && text.contains(problem),
                "{text}"
            );
            assert!(!text.contains(canary), "{text}");
        }
    }
}
