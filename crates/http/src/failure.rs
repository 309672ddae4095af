//! What goes wrong on the way, before there is an answer to judge.

use std::error::Error as StdError;

use secretwell_core::{Error, ErrorKind};

/// Why an attempt brought no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("the exchange failed")]
    Exchange(#[source] reqwest::Error),
    #[error("the TLS connection failed")]
    Tls(#[source] rustls::Error),
    #[error("no answer within {0:?}")]
    Timeout(std::time::Duration),
    /// The request's deadline came before the attempt had had its time.
    #[error("the deadline came after {0:?}")]
    Deadline(std::time::Duration),
    #[error("the answer is larger than {0} bytes")]
    TooLarge(usize),
    #[error("it redirects to where this client may not go")]
    Redirect,
}

impl Failure {
    /// Whether no server can have done what was asked: none was reached, or it named another.
    pub(crate) fn did_nothing(&self) -> bool {
        match self {
            Self::Exchange(error) => error.is_connect(),
            Self::Redirect => true,
            Self::Tls(_) | Self::Timeout(_) | Self::Deadline(_) | Self::TooLarge(_) => false,
        }
    }

    /// What to tell, of the server at `authority`. The text is our own: an URL may hold a key's name
    /// only, but a library's message may hold anything.
    pub(crate) fn into_error(self, authority: &str) -> Error {
        match self {
            Self::Timeout(after) | Self::Deadline(after) => Error::new(
                ErrorKind::Timeout,
                format!("`{authority}` did not answer within {after:?}"),
            )
            .with_hint("is it overloaded, or behind a firewall that drops?"),
            Self::TooLarge(limit) => Error::new(
                ErrorKind::TooLarge,
                format!("the answer of `{authority}` is larger than {limit} bytes"),
            )
            .with_hint("is the address right? If so, raise the limit"),
            Self::Redirect => Error::new(
                ErrorKind::Malformed,
                format!("`{authority}` redirects to where this client may not go"),
            )
            .with_hint("list that server's address too, if it is to be trusted with the token"),
            Self::Tls(error) => tls_error(&error, authority),
            Self::Exchange(error) => exchange(&error, authority),
        }
    }
}

/// Whether a connection was made, and broken off for no known reason.
pub(crate) fn is_unexplained(error: &reqwest::Error) -> bool {
    !error.is_connect() && !error.is_timeout() && find::<rustls::Error>(error).is_none()
}

fn exchange(error: &reqwest::Error, authority: &str) -> Error {
    if let Some(tls) = find::<rustls::Error>(error) {
        return tls_error(tls, authority);
    }
    let io = find::<std::io::Error>(error).map(std::io::Error::kind);
    let seen = match io {
        Some(std::io::ErrorKind::ConnectionRefused) => "refuses connections",
        Some(std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::BrokenPipe) => {
            "broke off the connection"
        }
        Some(std::io::ErrorKind::UnexpectedEof) => "ended the answer early",
        Some(std::io::ErrorKind::NotFound) => "has no such socket",
        Some(std::io::ErrorKind::PermissionDenied) => "may not be connected to",
        _ if error.is_timeout() => "did not accept the connection in time",
        _ if error.is_connect() => "cannot be reached",
        _ if error.is_body() || error.is_decode() => "ended the answer early",
        _ => "does not speak HTTP, or broke off",
    };
    Error::new(ErrorKind::Unavailable, format!("`{authority}` {seen}"))
        .with_hint("is it running, and is the address right?")
}

/// A handshake that failed will fail again until somebody changes a certificate.
fn tls_error(error: &rustls::Error, authority: &str) -> Error {
    use rustls::{AlertDescription as Alert, CertificateError as Bad, Error as Tls};

    let (seen, hint) = match error {
        Tls::InvalidCertificate(Bad::UnknownIssuer) => (
            "shows a certificate of an authority that is not trusted",
            "give its authority's certificate",
        ),
        Tls::InvalidCertificate(Bad::NotValidForName | Bad::NotValidForNameContext { .. }) => (
            "shows a certificate for another name",
            "use the name in its certificate, or say which to expect",
        ),
        Tls::InvalidCertificate(Bad::Expired | Bad::ExpiredContext { .. }) => {
            ("shows an expired certificate", "renew it on the server")
        }
        Tls::InvalidCertificate(Bad::NotValidYet | Bad::NotValidYetContext { .. }) => (
            "shows a certificate that is not valid yet",
            "compare the clocks",
        ),
        Tls::InvalidCertificate(Bad::Revoked) => {
            ("shows a revoked certificate", "renew it on the server")
        }
        Tls::InvalidCertificate(_) => (
            "shows a certificate that is not acceptable",
            "look at it with `openssl s_client`",
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
            "give one that its authority has signed",
        ),
        Tls::AlertReceived(Alert::ProtocolVersion) | Tls::PeerIncompatible(_) => (
            "speaks no version of TLS that this client accepts",
            "it takes TLS 1.2 or 1.3",
        ),
        Tls::InvalidMessage(_) => (
            "does not answer in TLS",
            "is it `http://` after all, or another port?",
        ),
        _ => ("refused the TLS handshake", "look at its log"),
    };
    Error::new(ErrorKind::Unavailable, format!("`{authority}` {seen}"))
        .with_hint(hint)
        .permanent()
}

/// The first error of type `E` in the chain, looking into what `std::io` wraps too.
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
