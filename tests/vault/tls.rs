//! Server and client certificates, and a sealed server, with OpenBao over TLS.

use std::sync::Arc;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, date_time_ymd,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use secretwell::vault::{ClientConfig, Credential, VaultAuth, VaultProvider};
use secretwell::{ErrorKind, SecretProvider};
use serde_json::{Value, json};
use tempfile::NamedTempFile;
use tokio_rustls::TlsAcceptor;

use super::expiry::read_for;
use super::server::{Bao, free_address};
use crate::support::key;

/// A certificate authority.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, as PEM.
pub(crate) struct Identity {
    pub(crate) chain: String,
    pub(crate) key: String,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    pub(crate) fn sign(
        &self,
        names: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> Identity {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        Identity {
            chain: certificate.pem(),
            key: key.serialize_pem(),
        }
    }
}

/// Returns a TLS server with this certificate and these protocols (ALPN).
pub(crate) fn acceptor(identity: &Identity, protocols: &[&[u8]]) -> TlsAcceptor {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let chain = CertificateDer::pem_slice_iter(identity.chain.as_bytes());
    let chain = chain.collect::<Result<_, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).unwrap();
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    Arc::new(config).into()
}

pub(crate) fn file(text: &str) -> NamedTempFile {
    let file = NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    file
}

fn with_short_deadline(client: ClientConfig) -> ClientConfig {
    client.deadline(Duration::from_secs(2))
}

fn provider(
    addresses: &[String],
    auth: VaultAuth,
    change: impl FnOnce(ClientConfig) -> ClientConfig,
) -> VaultProvider {
    VaultProvider::builder(addresses, auth)
        .unwrap()
        .mount("secret")
        .path("app")
        .client(with_short_deadline)
        .client(change)
        .build()
        .unwrap()
}

async fn seed(bao: &Bao) {
    bao.mount("secret", 2).await;
    let secret = json!({"data": {"A": "value"}});
    bao.root("POST", "secret/data/app", secret).await;
}

async fn read(provider: &VaultProvider) -> Result<String, secretwell::Error> {
    let secret = provider.get(&key("A")).await?;
    Ok(secret.value.expose_text()?.to_owned())
}

#[tokio::test]
async fn invalid_server_certificates_are_rejected_with_a_reason() {
    let authority = Authority::new("the tests' authority");
    let good = authority.sign(&["127.0.0.1"], |_| ());
    let bao = Bao::with_tls(&good).await;
    seed(&bao).await;
    let address = [format!("https://{}", bao.address)];
    let token = || VaultAuth::token(Credential::value(bao.root_token()));
    let ca = authority.pem();

    let trusting = provider(&address, token(), |client| {
        client.certificate_authority(ca.clone())
    });
    assert_eq!(read(&trusting).await.unwrap(), "value");
    let from_file = file(&ca);
    let trusting = provider(&address, token(), |client| {
        client.certificate_authority_file(from_file.path())
    });
    assert_eq!(read(&trusting).await.unwrap(), "value");
    let unverified = provider(&address, token(), ClientConfig::danger_skip_verification);
    assert_eq!(read(&unverified).await.unwrap(), "value");

    let other = Authority::new("another").pem();
    type Change<'a> = Box<dyn FnOnce(ClientConfig) -> ClientConfig + 'a>;
    let cases: [(&str, Change<'_>); 3] = [
        ("not trusted", Box::new(|client| client)),
        (
            "not trusted",
            Box::new(|client| client.certificate_authority(other)),
        ),
        (
            "another name",
            Box::new(|client| {
                let client = client.certificate_authority(ca.clone());
                client.server_name("vault.internal")
            }),
        ),
    ];
    for (expected, change) in cases {
        let error = read(&provider(&address, token(), change))
            .await
            .unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        assert!(error.to_string().contains("127.0.0.1"), "{error}");
        assert!(!error.is_temporary(), "{error}");
    }

    // Plain HTTP to a TLS server, and TLS to a plain HTTP server.
    let plain = [format!("http://{}", bao.address)];
    let error = read(&provider(&plain, token(), |client| client))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error}");
    let http = super::server::shared().await;
    let wrong = [format!("https://{}", http.address)];
    let error = read(&provider(&wrong, token(), |client| client))
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("does not respond with TLS"),
        "{error}"
    );
}

#[tokio::test]
async fn server_name_can_be_overridden_and_expired_certificates_are_rejected() {
    let authority = Authority::new("the tests' authority");
    let named = authority.sign(&["vault.internal"], |_| ());
    let bao = Bao::with_tls(&named).await;
    seed(&bao).await;
    let address = [format!("https://{}", bao.address)];
    let token = || VaultAuth::token(Credential::value(bao.root_token()));
    let expecting = provider(&address, token(), |client| {
        let client = client.certificate_authority(authority.pem());
        client.server_name("vault.internal")
    });
    assert_eq!(read(&expecting).await.unwrap(), "value");

    let expired = authority.sign(&["127.0.0.1"], |params| {
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2021, 1, 1);
    });
    let bao = Bao::with_tls(&expired).await;
    let address = [format!("https://{}", bao.address)];
    let trusting = provider(&address, token(), |client| {
        client.certificate_authority(authority.pem())
    });
    let error = read(&trusting).await.unwrap_err();
    assert!(error.to_string().contains("expired"), "{error}");
    assert!(!error.is_temporary(), "{error}");
}

#[tokio::test]
async fn client_certificate_login() {
    let authority = Authority::new("the tests' authority");
    let server = authority.sign(&["127.0.0.1"], |_| ());
    let bao = Bao::with_tls(&server).await;
    seed(&bao).await;
    bao.policy(
        "app",
        "path \"secret/data/*\" { capabilities = [\"read\"] }",
    )
    .await;
    bao.root("POST", "sys/auth/cert", json!({"type": "cert"}))
        .await;
    let role = json!({
        "certificate": authority.pem(),
        "token_policies": ["app"],
        "token_ttl": "2s",
        "token_max_ttl": "4s",
    });
    bao.root("POST", "auth/cert/certs/app", role).await;
    let address = [format!("https://{}", bao.address)];

    let identity = authority.sign(&["service"], |_| ());
    let (chain, private) = (file(&identity.chain), file(&identity.key));
    let with_certificate = provider(&address, VaultAuth::certificate(None), |client| {
        client
            .certificate_authority(authority.pem())
            .identity_files(chain.path(), private.path())
    });
    assert_eq!(read(&with_certificate).await.unwrap(), "value");
    let shared = std::sync::Arc::new(with_certificate);
    assert!(read_for(&shared, Duration::from_secs(10)).await > 100);

    let without = provider(&address, VaultAuth::certificate(None), |client| {
        client.certificate_authority(authority.pem())
    });
    let error = read(&without).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{error}");
    assert!(error.to_string().contains("client certificate"), "{error}");
}

#[tokio::test]
async fn server_with_required_client_certificates_rejects_missing_and_foreign_ones() {
    let authority = Authority::new("the tests' authority");
    let server = authority.sign(&["127.0.0.1"], |_| ());
    let ours = authority.sign(&["service"], |_| ());
    let ca = file(&authority.pem());
    let bao = Bao::with_tls_for(&server, ca.path(), &ours).await;
    seed(&bao).await;
    let address = [format!("https://{}", bao.address)];
    let token = || VaultAuth::token(Credential::value(bao.root_token()));
    // The files must exist during each handshake.
    let files = |identity: &Identity| (file(&identity.chain), file(&identity.key));
    let with = |(chain, private): &(NamedTempFile, NamedTempFile)| {
        provider(&address, token(), |client| {
            client
                .certificate_authority(authority.pem())
                .identity_files(chain.path(), private.path())
        })
    };
    let ours = files(&ours);
    assert_eq!(read(&with(&ours)).await.unwrap(), "value");

    let foreign = files(&Authority::new("another").sign(&["service"], |_| ()));
    let without = provider(&address, token(), |client| {
        client.certificate_authority(authority.pem())
    });
    for refused in [without, with(&foreign)] {
        let error = read(&refused).await.unwrap_err();
        assert!(!error.is_temporary(), "{error}");
        let text = error.to_string();
        assert!(
            text.contains("does not accept our client certificate"),
            "{error}"
        );
        assert!(text.contains("127.0.0.1"), "{error}");
    }
}

#[tokio::test]
async fn unreachable_server_is_skipped_and_a_sealed_one_recovers() {
    let authority = Authority::new("the tests' authority");
    let server = authority.sign(&["127.0.0.1"], |_| ());
    let bao = Bao::with_tls(&server).await;
    seed(&bao).await;
    let gone = free_address();
    let addresses = [
        format!("https://{gone}"),
        format!("https://{}", bao.address),
    ];
    let auth = VaultAuth::token(Credential::value(bao.root_token()));
    let provider = provider(&addresses, auth, |client| {
        client.certificate_authority(authority.pem())
    });
    assert_eq!(read(&provider).await.unwrap(), "value");

    bao.root("POST", "sys/seal", Value::Null).await;
    let error = read(&provider).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(provider.health().await.is_err());
    bao.unseal().await;
    assert_eq!(read(&provider).await.unwrap(), "value");
    provider.health().await.unwrap();
}
