//! TLS certificates: [`CertificateResolver`] for servers and clients, and [`certified_key`], which creates the
//! certificates from PEM text.
//!
//! ```
//! use std::sync::Arc;
//!
//! use rustls::ServerConfig;
//! use rustls::crypto::aws_lc_rs::default_provider;
//! use secretwell::auth::LazyAuth;
//! use secretwell::clients::rustls::{CertificateResolver, certified_key};
//! use secretwell::{MemoryProvider, Resolver, SecretString};
//! use serde::Deserialize;
//!
//! #[derive(Deserialize)]
//! struct Secrets {
//!     tls: Pair, // the keys `tls/certificate` and `tls/key`
//! }
//!
//! #[derive(Deserialize)]
//! struct Pair {
//!     certificate: String,
//!     key: SecretString,
//! }
//!
//! # fn main() -> Result<(), rustls::Error> {
//! let resolver = Resolver::new(MemoryProvider::new());
//! let certificate = LazyAuth::new(resolver, |Secrets { tls }: Secrets, _| async move {
//!     Ok(certified_key(&tls.certificate, &tls.key, &default_provider())?)
//! });
//! let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
//!     .with_safe_default_protocol_versions()?
//!     .with_no_client_auth()
//!     .with_cert_resolver(Arc::new(CertificateResolver::new(certificate)));
//! # let _ = config;
//! # Ok(())
//! # }
//! ```
//!
//! For a client certificate, pass the resolver to `with_client_cert_resolver` of `ClientConfig`.
//!
//! - **A rotation is seen by the next handshake.** Connections stay open. A resumed session presents no certificate, so
//!   it keeps the identity of the session that it resumes. If a replaced client certificate must not be used any
//!   longer, disable the resumption of the client.
//! - **A handshake before the first build fails and starts the build.** A client does not connect without its
//!   certificate either. Call [`LazyAuth::ready`] first, if the service must not start without a certificate.
//! - **A certificate and its key belong together.** If they are two secrets that are replaced one after the other, the
//!   previous pair stays in use until both have changed.

use std::sync::Arc;

use rustls::client::ResolvesClientCert;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::{CertifiedKey, Signer, SigningKey};
use rustls::{InconsistentKeys, SignatureAlgorithm, SignatureScheme};
use secrecy::{ExposeSecret, SecretString};
use secretwell_auth::LazyAuth;
use secretwell_core::{Error, ErrorKind};

/// The newest certificate of a [`LazyAuth`], for the configuration of a TLS server or client.
#[derive(Debug, Clone)]
pub struct CertificateResolver(LazyAuth<CertifiedKey>);

impl CertificateResolver {
    /// Creates a resolver. No secret is read until the first handshake.
    ///
    /// The handshakes must run in a tokio runtime until the first build exists.
    pub fn new(certificate: LazyAuth<CertifiedKey>) -> Self {
        Self(certificate)
    }

    fn newest(&self) -> Option<Arc<CertifiedKey>> {
        let certificate = self.0.try_get().ok()?;
        Some(Arc::new(CertifiedKey::clone(&certificate)))
    }
}

impl ResolvesServerCert for CertificateResolver {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.newest()
    }
}

impl ResolvesClientCert for CertificateResolver {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        // Without a certificate, rustls would connect anonymously.
        let missing = || Arc::new(CertifiedKey::new(Vec::new(), Arc::new(MissingKey)));
        Some(self.newest().unwrap_or_else(missing))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Creates a certificate from a chain and its private key, both as PEM text.
///
/// The chain starts with the certificate of the server or client, followed by the intermediate ones. Both can be the
/// same text, because sections of other types are ignored.
///
/// # Errors
/// Returns an [`Invalid`](ErrorKind::Invalid) error if the chain has no certificate, if the key is missing, encrypted
/// or not supported by `provider`, or if the key does not belong to the first certificate.
pub fn certified_key(
    chain: &str,
    key: &SecretString,
    provider: &CryptoProvider,
) -> Result<CertifiedKey, Error> {
    // The errors of the parser contain lines of the text, which might be those of the key.
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(chain.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|_| {
            invalid("the certificate chain is not valid PEM")
                .with_hint("store CERTIFICATE sections, the one of the key first")
        })?;
    if chain.is_empty() {
        return Err(invalid("the certificate chain has no CERTIFICATE section")
            .with_hint("store CERTIFICATE sections, the one of the key first"));
    }
    let key = PrivateKeyDer::from_pem_slice(key.expose_secret().as_bytes()).map_err(|_| {
        invalid("the private key is not valid PEM").with_hint(
            "store a PRIVATE KEY, RSA PRIVATE KEY or EC PRIVATE KEY section that is not encrypted",
        )
    })?;
    CertifiedKey::from_der(chain, key, provider).map_err(|error| match error {
        rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
            invalid("the private key does not belong to the certificate")
                .with_hint("replace both, or wait until both are replaced")
        }
        rustls::Error::InvalidCertificate(_) => invalid("the certificate is not valid")
            .with_hint("store an X.509 certificate as its issuer has returned it"),
        _ => invalid("the private key is not valid, or its type is not supported")
            .with_hint("store an RSA, ECDSA or Ed25519 key that the provider supports"),
    })
}

fn invalid(message: &'static str) -> Error {
    Error::new(ErrorKind::Invalid, message)
}

/// The key of a client whose certificate does not exist yet. Its signature fails, and so does the handshake.
#[derive(Debug)]
struct MissingKey;

impl SigningKey for MissingKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let scheme = offered.first().copied();
        Some(Box::new(MissingSigner(
            scheme.unwrap_or(SignatureScheme::ED25519),
        )))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ED25519
    }
}

#[derive(Debug)]
struct MissingSigner(SignatureScheme);

impl Signer for MissingSigner {
    fn sign(&self, _: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        let reason = "the client certificate is not ready; wait for the first build of its secrets";
        Err(rustls::Error::General(reason.into()))
    }

    fn scheme(&self) -> SignatureScheme {
        self.0
    }
}

#[cfg(test)]
#[path = "rustls_tests.rs"]
mod tests;
