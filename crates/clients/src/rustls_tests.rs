//! Handshakes in memory.

use std::time::Duration;

use rcgen::{CertificateParams, KeyPair};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::ServerName;
use rustls::server::WebPkiClientVerifier;
use rustls::version::{TLS12, TLS13};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection,
    SupportedProtocolVersion,
};
use secretwell::auth::{Guard, State};
use secretwell_testkit::{Canary, Fixture, await_ready};
use serde::Deserialize;

use super::*;

/// A certificate and its key, as PEM.
struct Identity {
    chain: String,
    key: String,
}

/// Creates a certificate that is signed by its own key.
fn identity() -> Identity {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let chain = params.self_signed(&key).unwrap().pem();
    let key = key.serialize_pem();
    Identity { chain, key }
}

fn der(identity: &Identity) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(identity.chain.as_bytes()).unwrap()
}

#[derive(Deserialize)]
struct Secrets {
    chain: String,
    key: SecretString,
}

fn fixture(identity: &Identity) -> Fixture {
    let chain = ("chain", identity.chain.as_str());
    Fixture::with([chain, ("key", identity.key.as_str())])
}

fn auth(fixture: &Fixture) -> LazyAuth<CertifiedKey> {
    LazyAuth::new(fixture.resolver(), |secrets: Secrets, _| async move {
        Ok(certified_key(
            &secrets.chain,
            &secrets.key,
            &default_provider(),
        )?)
    })
}

fn roots(trusted: &[&Identity]) -> Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for identity in trusted {
        roots.add(der(identity)).unwrap();
    }
    Arc::new(roots)
}

/// Both sides of a connection, with one version of TLS.
struct Peers {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

impl Peers {
    fn new(
        version: &'static SupportedProtocolVersion,
        server: &CertificateResolver,
        servers: &[&Identity],
        client: Option<(&CertificateResolver, &[&Identity])>,
    ) -> Self {
        let provider = Arc::new(default_provider());
        let config = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[version])
            .unwrap();
        let config = match client {
            // Clients without a certificate are accepted.
            Some((_, clients)) => {
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(roots(clients), provider.clone())
                        .allow_unauthenticated();
                config.with_client_cert_verifier(verifier.build().unwrap())
            }
            None => config.with_no_client_auth(),
        };
        let server = config.with_cert_resolver(Arc::new(server.clone()));
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots(servers));
        let client = match client {
            Some((client, _)) => config.with_client_cert_resolver(Arc::new(client.clone())),
            None => config.with_no_client_auth(),
        };
        Self {
            server: Arc::new(server),
            client: Arc::new(client),
        }
    }

    /// Returns the certificates of the server and of the client, as their peers see them.
    fn handshake(&self) -> Result<[Option<CertificateDer<'static>>; 2], rustls::Error> {
        let name = ServerName::try_from("localhost").unwrap();
        let mut server = ServerConnection::new(self.server.clone())?;
        let mut client = ClientConnection::new(self.client.clone(), name)?;
        while server.is_handshaking() || client.is_handshaking() {
            let mut sent = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut sent).unwrap();
            }
            let mut unread = sent.as_slice();
            while !unread.is_empty() {
                server.read_tls(&mut unread).unwrap();
                server.process_new_packets()?;
            }
            let mut sent = Vec::new();
            while server.wants_write() {
                server.write_tls(&mut sent).unwrap();
            }
            let mut unread = sent.as_slice();
            while !unread.is_empty() {
                client.read_tls(&mut unread).unwrap();
                client.process_new_packets()?;
            }
        }
        let first = |chain: Option<&[CertificateDer<'static>]>| Some(chain?.first()?.clone());
        Ok([
            first(client.peer_certificates()),
            first(server.peer_certificates()),
        ])
    }
}

#[tokio::test]
async fn next_handshake_presents_the_certificate_of_the_rotation() {
    for version in [&TLS12, &TLS13] {
        let (first, second) = (identity(), identity());
        let fixture = fixture(&first);
        let auth = auth(&fixture);
        let resolver = CertificateResolver::new(auth.clone());
        // A client without sessions, because a resumed session presents no certificate.
        let peers = || Peers::new(version, &resolver, &[&first, &second], None);
        drop(await_ready(&auth).await);
        assert_eq!(peers().handshake().unwrap()[0], Some(der(&first)));
        fixture.set("key", second.key.as_str());
        drop(fixture.rotate(&auth, "chain", second.chain.as_str()).await);
        assert_eq!(peers().handshake().unwrap()[0], Some(der(&second)));
    }
}

#[tokio::test]
async fn handshake_before_the_first_build_fails_and_starts_it() {
    let identity = identity();
    let fixture = fixture(&identity);
    let auth = auth(&fixture);
    let resolver = CertificateResolver::new(auth.clone());
    let peers = Peers::new(&TLS13, &resolver, &[&identity], None);
    assert_eq!(auth.state(), State::Idle);
    let error = peers.handshake().unwrap_err();
    assert!(matches!(error, rustls::Error::General(_)), "{error}");
    // The same configuration works as soon as there is a build. Nobody but the handshake has started it.
    let mut states = auth.watch_state();
    let ready = states.wait_for(State::is_serving);
    tokio::time::timeout(Duration::from_secs(60), ready)
        .await
        .unwrap();
    assert_eq!(peers.handshake().unwrap()[0], Some(der(&identity)));
}

#[test]
fn handshake_outside_of_a_runtime_fails_without_a_panic() {
    let identity = identity();
    let resolver = CertificateResolver::new(auth(&fixture(&identity)));
    let peers = Peers::new(&TLS13, &resolver, &[&identity], None);
    assert!(peers.handshake().is_err());
}

#[tokio::test]
async fn client_presents_the_newest_certificate_and_never_connects_without_one() {
    for version in [&TLS12, &TLS13] {
        let (first, second, server) = (identity(), identity(), identity());
        let server_fixture = fixture(&server);
        let server_auth = auth(&server_fixture);
        drop(await_ready(&server_auth).await);
        let server_resolver = CertificateResolver::new(server_auth);
        let fixture = fixture(&first);
        let auth = auth(&fixture);
        let resolver = CertificateResolver::new(auth.clone());
        let client = Some((&resolver, &[&first, &second][..]));
        let peers = || Peers::new(version, &server_resolver, &[&server], client);

        // The server would accept a client without a certificate.
        let error = peers().handshake().unwrap_err().to_string();
        assert!(error.contains("not ready"), "{error}");
        drop(await_ready(&auth).await);
        assert_eq!(peers().handshake().unwrap()[1], Some(der(&first)));
        fixture.set("key", second.key.as_str());
        drop(fixture.rotate(&auth, "chain", second.chain.as_str()).await);
        assert_eq!(peers().handshake().unwrap()[1], Some(der(&second)));
    }
}

#[tokio::test]
async fn previous_pair_stays_in_use_until_both_secrets_have_changed() {
    let (first, second) = (identity(), identity());
    let fixture = fixture(&first);
    let auth = auth(&fixture);
    let resolver = CertificateResolver::new(auth.clone());
    drop(await_ready(&auth).await);
    fixture.set("chain", second.chain.as_str());
    let failure = auth.rebuild().await.unwrap_err().to_string();
    assert!(failure.contains("does not belong"), "{failure}");
    let peers = Peers::new(&TLS13, &resolver, &[&first, &second], None);
    assert_eq!(peers.handshake().unwrap()[0], Some(der(&first)));
    let newest = fixture.rotate(&auth, "key", second.key.as_str()).await;
    assert_eq!(newest.cert, [der(&second)]);
    assert_eq!(Guard::generation(&newest), 2);
}

#[test]
fn pair_is_checked_and_errors_do_not_contain_it() {
    let (first, second) = (identity(), identity());
    let key = |key: &str| SecretString::from(key);
    let certified_key = |chain: &str, key| certified_key(chain, &key, &default_provider());
    let both = format!("{}{}", first.key, first.chain);
    let chain = format!("{}{}", first.chain, second.chain);
    assert_eq!(certified_key(&both, key(&both)).unwrap().cert.len(), 1);
    assert_eq!(
        certified_key(&chain, key(&first.key)).unwrap().cert.len(),
        2
    );

    let one_line = first.key.replace('\n', "");
    let cut = &first.key[..first.key.len() / 2];
    let encrypted = first.key.replace("PRIVATE", "ENCRYPTED PRIVATE");
    let garbled = first.key.replace("-----END", "?-----END");
    let certificate_as_key = first.key.replace("PRIVATE KEY", "CERTIFICATE");
    for (chain, private_key, reason) in [
        (first.chain.as_str(), second.key.as_str(), "does not belong"),
        (&second.chain, &first.key, "does not belong"),
        ("", &first.key, "no CERTIFICATE"),
        (&first.key, &first.key, "no CERTIFICATE"),
        (&one_line, &first.key, "chain"),
        (&certificate_as_key, &first.key, "certificate is not valid"),
        (&first.chain, "", "private key is not valid PEM"),
        (&first.chain, &first.chain, "private key is not valid PEM"),
        (&first.chain, &one_line, "private key"),
        (&first.chain, cut, "private key"),
        (&first.chain, &encrypted, "private key is not valid PEM"),
        (&first.chain, &garbled, "private key"),
    ] {
        let error = certified_key(chain, key(private_key)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains(reason), "{error}: {reason}");
        for line in first.key.lines().filter(|line| line.len() >= 40) {
            Canary::from_text(line).assert_hidden_error(&error);
        }
    }
}

#[tokio::test]
async fn debug_output_does_not_contain_the_key() {
    let identity = identity();
    let fixture = fixture(&identity);
    let auth = auth(&fixture);
    let key = await_ready(&auth).await;
    let peers = Peers::new(&TLS13, &CertificateResolver::new(auth.clone()), &[], None);
    for line in identity.key.lines().filter(|line| line.len() >= 40) {
        let canary = Canary::from_text(line);
        canary.assert_hidden(&auth);
        canary.assert_hidden(&*key);
        canary.assert_hidden(&peers.server);
    }
}
