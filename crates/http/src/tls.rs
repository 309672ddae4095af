//! TLS configuration: verification of server certificates, and the client certificate.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustls::ClientConfig;
use rustls::client::ResolvesClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, SignatureScheme};
use rustls_platform_verifier::Verifier;
use secretwell_core::Error;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::config::{Pem, TlsConfig};
use crate::error::invalid;

/// The TLS settings of all connections of a client.
pub(crate) struct Tls {
    pub(crate) config: Arc<ClientConfig>,
    /// Whether a server has requested a client certificate.
    is_certificate_requested: Arc<AtomicBool>,
}

impl Tls {
    /// Returns settings for TLS 1.2 and 1.3 that trust the authorities of the platform and those in `config`.
    /// The process-wide default of rustls is neither used nor set.
    pub(crate) fn new(config: &TlsConfig) -> Result<Self, Error> {
        let default = || Arc::new(aws_lc_rs::default_provider());
        let crypto = config.crypto.clone().unwrap_or_else(default);
        let is_certificate_requested = Arc::new(AtomicBool::new(false));
        let identity = match &config.identity {
            None => None,
            Some((chain, key)) => {
                let identity = Identity {
                    chain: chain.clone(),
                    key: key.clone(),
                    crypto: crypto.clone(),
                };
                // Loaded once here, so that a wrong path is reported now and not as a failed handshake.
                identity.load()?;
                Some(identity)
            }
        };
        let mut client = ClientConfig::builder_with_provider(crypto.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| invalid("TLS cannot be configured").with_source(error))?
            .dangerous()
            .with_custom_certificate_verifier(verifier(config, &crypto)?)
            .with_client_cert_resolver(Arc::new(CertificateRequests {
                identity,
                is_requested: Arc::clone(&is_certificate_requested),
            }));
        client.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self {
            config: Arc::new(client),
            is_certificate_requested,
        })
    }

    /// Connects to a server and returns the TLS alert that it sends after the handshake, if any.
    ///
    /// In TLS 1.3, a server rejects a client certificate only after the handshake. The HTTP library then
    /// reports a closed connection and not the alert. Returns `None` if no server has requested a certificate.
    pub(crate) async fn alert_after_handshake(
        &self,
        address: SocketAddr,
        host: &str,
    ) -> Option<rustls::Error> {
        if !self.is_certificate_requested.load(Ordering::Relaxed) {
            return None;
        }
        let name = ServerName::try_from(host.to_owned()).ok()?;
        let stream = TcpStream::connect(address).await.ok()?;
        let connecting = TlsConnector::from(Arc::clone(&self.config)).connect(name, stream);
        let mut stream = connecting.await.ok()?;
        let error = stream.read_u8().await.err()?;
        let alert: &rustls::Error = error.get_ref()?.downcast_ref()?;
        Some(alert.clone())
    }
}

/// The handler of requests for a client certificate.
#[derive(Debug)]
struct CertificateRequests {
    identity: Option<Identity>,
    is_requested: Arc<AtomicBool>,
}

impl ResolvesClientCert for CertificateRequests {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.is_requested.store(true, Ordering::Relaxed);
        self.identity
            .as_ref()?
            .load()
            .inspect_err(|error| tracing::warn!(target: "secretwell::http", event = "client_certificate_missing", %error, "the client certificate cannot be loaded; the handshake continues without it"))
            .ok()
            .map(Arc::new)
    }

    fn has_certs(&self) -> bool {
        self.identity.is_some()
    }
}

fn verifier(
    config: &TlsConfig,
    crypto: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, Error> {
    if config.skip_verify {
        return Ok(Arc::new(AcceptAny(crypto.clone())));
    }
    let mut authorities = Vec::new();
    for pem in &config.authorities {
        let certificates: Result<Vec<_>, _> = match pem {
            Pem::File(path) => CertificateDer::pem_file_iter(path).and_then(Iterator::collect),
            Pem::Text(text) => CertificateDer::pem_slice_iter(text).collect(),
        };
        let shown = match pem {
            Pem::File(path) => quoted(path),
            Pem::Text(_) => "the configured PEM text".into(),
        };
        match certificates {
            Ok(found) if found.is_empty() => {
                return Err(invalid(format!("{shown} contains no certificate"))
                    .with_hint("configure the authority's certificate as PEM"));
            }
            Ok(found) => authorities.extend(found),
            Err(cause) => {
                let error = invalid(format!(
                    "the authority's certificate cannot be read from {shown}"
                ))
                .with_hint("check that it is PEM and that the service can read it");
                return Err(with_cause(error, cause));
            }
        }
    }
    let verifier =
        Verifier::new_with_extra_roots(authorities, crypto.clone()).map_err(|error| {
            // An image of a container often has none.
            invalid("the certificate authorities of the system cannot be loaded")
                .with_hint("install them, such as by the package `ca-certificates`")
                .with_source(error)
        })?;
    let name = config.server_name.clone().map(ServerName::try_from);
    let name = name.transpose().map_err(|_| {
        invalid("the expected server name is neither a host name nor an IP address")
    })?;
    match name {
        // A host name replaces the host of each URL, so the connection verifies it by itself.
        None | Some(ServerName::DnsName(_)) => Ok(Arc::new(verifier)),
        Some(name) => Ok(Arc::new(OtherName { name, verifier })),
    }
}

fn quoted(path: &Path) -> String {
    format!("`{}`", path.display().to_string().escape_debug())
}

/// Adds the cause, unless it is about the content of the file. Such a cause quotes a line, and each of these files might
/// contain a private key in a single line.
fn with_cause(error: Error, cause: pem::Error) -> Error {
    match cause {
        pem::Error::Io(cause) => error.with_source(cause),
        _ => error,
    }
}

/// A client certificate in files. It is read for each handshake, so that a renewed one is used without a
/// restart.
struct Identity {
    chain: PathBuf,
    key: PathBuf,
    crypto: Arc<CryptoProvider>,
}

impl Identity {
    fn load(&self) -> Result<CertifiedKey, Error> {
        let chain: Vec<_> = CertificateDer::pem_file_iter(&self.chain)
            .and_then(Iterator::collect)
            .map_err(|cause| self.unreadable(&self.chain, cause))?;
        if chain.is_empty() {
            return Err(
                invalid(format!("{} contains no certificate", quoted(&self.chain)))
                    .with_hint("configure the client certificate as a PEM file"),
            );
        }
        let key = PrivateKeyDer::from_pem_file(&self.key)
            .map_err(|cause| self.unreadable(&self.key, cause))?;
        CertifiedKey::from_der(chain, key, &self.crypto).map_err(|error| {
            invalid("the client certificate and its key do not match").with_source(error)
        })
    }

    fn unreadable(&self, path: &Path, cause: pem::Error) -> Error {
        let error = invalid(format!("{} cannot be read as PEM", quoted(path)))
            .with_hint("configure certificate and key as PEM files that the service can read");
        with_cause(error, cause)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("chain", &self.chain)
            .finish_non_exhaustive()
    }
}

/// Verifies the certificate for a configured IP address instead of the host of the address.
#[derive(Debug)]
struct OtherName {
    name: ServerName<'static>,
    verifier: Verifier,
}

impl ServerCertVerifier for OtherName {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.verifier
            .verify_server_cert(certificate, intermediates, &self.name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier
            .verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier
            .verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}

/// Verifies the signatures of the handshake but accepts any certificate, as `danger_skip_verification`
/// requests.
#[derive(Debug)]
struct AcceptAny(Arc<CryptoProvider>);

impl ServerCertVerifier for AcceptAny {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;
    use std::fs;

    use rcgen::{CertifiedKey as Certified, KeyPair, generate_simple_self_signed};
    use secretwell_core::ErrorKind;

    use super::*;

    /// Files for a test, removed at its end.
    struct Files(PathBuf);

    impl Files {
        fn new(test: &str) -> Self {
            let name = format!("secretwell-tls-{test}-{}", std::process::id());
            let directory = std::env::temp_dir().join(name);
            fs::create_dir_all(&directory).unwrap();
            Self(directory)
        }

        fn write(&self, name: &str, text: &str) -> PathBuf {
            let path = self.0.join(name);
            fs::write(&path, text).unwrap();
            path
        }
    }

    impl Drop for Files {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn certified() -> Certified<KeyPair> {
        generate_simple_self_signed(["client.test".to_owned()]).unwrap()
    }

    /// Returns the error of a configuration with this client certificate.
    fn identity_error(chain: PathBuf, key: PathBuf) -> Error {
        let config = TlsConfig {
            identity: Some((chain, key)),
            ..TlsConfig::default()
        };
        let error = Tls::new(&config).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        error
    }

    fn authority_error(pem: Pem) -> Error {
        let config = TlsConfig {
            authorities: vec![pem],
            ..TlsConfig::default()
        };
        let error = Tls::new(&config).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        error
    }

    /// Variables and some editors replace the line breaks.
    #[test]
    fn error_does_not_quote_a_file_with_a_private_key() {
        let Certified { cert, signing_key } = certified();
        let (chain, key) = (cert.pem(), signing_key.serialize_pem());
        let broken = key.replace("-----END PRIVATE KEY-----", "");
        let files = Files::new("quote");
        for (number, content) in [
            key.replace('\n', " "),
            format!("{chain}{}", key.replace('\n', " ")),
            format!("{chain}{key}").replace('\n', " "),
            broken.replace('\n', ""),
            broken,
            key.replace("PRIVATE KEY-----\n", "PRIVATE KEY-----\n%"),
        ]
        .into_iter()
        .enumerate()
        {
            let file = files.write(&format!("{number}.pem"), &content);
            let errors = [
                identity_error(file.clone(), files.write("key.pem", &key)),
                identity_error(files.write("chain.pem", &chain), file.clone()),
                authority_error(Pem::File(file)),
                authority_error(Pem::Text(content.into_bytes())),
            ];
            for error in errors {
                assert!(error.source().is_none(), "{number}: {error:#?}");
            }
        }
    }

    #[test]
    fn unreadable_file_is_named_with_the_reason() {
        let Certified { cert, signing_key } = certified();
        let files = Files::new("unreadable");
        let chain = files.write("chain.pem", &cert.pem());
        let key = files.write("key.pem", &signing_key.serialize_pem());
        let absent = files.0.join("absent.pem");
        for error in [
            identity_error(absent.clone(), key.clone()),
            identity_error(chain.clone(), absent.clone()),
            authority_error(Pem::File(absent)),
        ] {
            assert!(error.to_string().contains("absent.pem"), "{error}");
            let cause: &std::io::Error = error.source().unwrap().downcast_ref().unwrap();
            assert_eq!(cause.kind(), std::io::ErrorKind::NotFound);
        }
        // The files are exchanged.
        let error = identity_error(key.clone(), chain.clone());
        let message = "key.pem` contains no certificate";
        assert!(error.to_string().contains(message), "{error}");
        let error = authority_error(Pem::File(key));
        assert!(error.to_string().contains(message), "{error}");
        let error = authority_error(Pem::Text(Vec::new()));
        assert!(error.to_string().contains("the configured PEM text"));
    }

    #[test]
    fn key_of_another_certificate_is_an_invalid_configuration() {
        let files = Files::new("another");
        let chain = files.write("chain.pem", &certified().cert.pem());
        let key = files.write("key.pem", &certified().signing_key.serialize_pem());
        let error = identity_error(chain, key);
        assert!(error.to_string().contains("do not match"), "{error}");
    }

    #[test]
    fn expected_server_name_is_a_host_name_or_an_ip_address() {
        let with_name = |name: &str| {
            let config = TlsConfig {
                server_name: Some(name.to_owned()),
                authorities: vec![Pem::Text(certified().cert.pem().into_bytes())],
                ..TlsConfig::default()
            };
            Tls::new(&config).map(drop)
        };
        for name in ["vault.internal", "10.0.0.1", "::1"] {
            with_name(name).unwrap();
        }
        for name in ["", "vault internal", "https://vault", "vault:8200", "[::1]"] {
            let error = with_name(name).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{name}");
        }
    }
}
