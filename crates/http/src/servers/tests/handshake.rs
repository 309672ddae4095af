//! What the client sends and verifies in a TLS handshake.

use rustls::sign::{CertifiedKey, SingleCertAndKey};

use super::*;

/// The parts of a ClientHello (RFC 8446, section 4.1.2) that the tests check.
#[derive(Debug, Default)]
struct ClientHello {
    server_name: Option<String>,
    groups: Vec<u16>,
    key_shares: Vec<u16>,
}

/// Bytes that are read from the front.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, length: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(length);
        self.0 = rest;
        taken
    }

    /// Returns a number of `width` bytes.
    fn number(&mut self, width: usize) -> usize {
        let bytes = self.take(width).iter();
        bytes.fold(0, |number, byte| number << 8 | usize::from(*byte))
    }

    /// Returns a vector after its length, which has `width` bytes.
    fn vector(&mut self, width: usize) -> Fields<'a> {
        let length = self.number(width);
        Fields(self.take(length))
    }

    fn group(&mut self) -> u16 {
        u16::try_from(self.number(2)).unwrap()
    }
}

impl ClientHello {
    async fn read(stream: &mut TcpStream) -> Self {
        let mut header = [0; 5];
        stream.read_exact(&mut header).await.unwrap();
        assert_eq!(header[0], 22, "not a handshake record");
        let length = u16::from_be_bytes([header[3], header[4]]);
        let mut record = vec![0; length.into()];
        stream.read_exact(&mut record).await.unwrap();
        Self::parse(&record)
    }

    fn parse(record: &[u8]) -> Self {
        const SERVER_NAME: u16 = 0;
        const SUPPORTED_GROUPS: u16 = 10;
        const KEY_SHARE: u16 = 51;
        let mut message = Fields(record);
        assert_eq!(message.number(1), 1, "not a ClientHello");
        let mut body = message.vector(3);
        body.take(2 + 32);
        body.vector(1);
        body.vector(2);
        body.vector(1);
        let mut extensions = body.vector(2);
        let mut hello = Self::default();
        while !extensions.0.is_empty() {
            let kind = extensions.group();
            let mut data = extensions.vector(2);
            match kind {
                SERVER_NAME => {
                    let mut list = data.vector(2);
                    list.take(1);
                    let name = list.vector(2).0.to_vec();
                    hello.server_name = Some(String::from_utf8(name).unwrap());
                }
                SUPPORTED_GROUPS => {
                    let mut list = data.vector(2);
                    while !list.0.is_empty() {
                        hello.groups.push(list.group());
                    }
                }
                KEY_SHARE => {
                    let mut list = data.vector(2);
                    while !list.0.is_empty() {
                        hello.key_shares.push(list.group());
                        list.vector(2);
                    }
                }
                _ => {}
            }
        }
        hello
    }
}

/// Returns the ClientHello that a client sends to a server on this machine.
async fn client_hello(change: impl FnOnce(ClientConfig) -> ClientConfig) -> ClientHello {
    let (listener, address) = bind("127.0.0.1:0").await;
    let config = ClientConfig::new([format!("https://{address}")]).unwrap();
    let servers = Servers::new(change(config)).unwrap();
    let hello = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        ClientHello::read(&mut stream).await
    };
    let request = get();
    tokio::select! {
        hello = hello => hello,
        result = send(&servers, &request) => panic!("{result:?}"),
    }
}

const X25519: u16 = 0x001d;
const X25519_MLKEM768: u16 = 0x11ec;

#[tokio::test]
async fn client_hello_prefers_the_hybrid_and_has_the_server_name() {
    let hello = client_hello(|config| config.server_name("vault.internal")).await;
    assert_eq!(hello.server_name.as_deref(), Some("vault.internal"));
    assert_eq!(hello.groups[0], X25519_MLKEM768, "{hello:x?}");
    assert_eq!(hello.key_shares[0], X25519_MLKEM768, "{hello:x?}");
    // Servers without the hybrid need no second round trip.
    assert!(hello.key_shares.contains(&X25519), "{hello:x?}");
    let hello = client_hello(|config| config).await;
    assert_eq!(hello.server_name, None);
}

#[tokio::test]
async fn configured_cryptography_is_used() {
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups = vec![aws_lc_rs::kx_group::SECP384R1];
    let hello = client_hello(|config| config.crypto_provider(Arc::new(provider))).await;
    assert_eq!(hello.groups, [0x0018]);
}

/// Serves HTTP/1.1 on each connection whose handshake succeeds.
fn accept_tls(listener: TcpListener, acceptor: TlsAcceptor) {
    accept(listener, move |stream| {
        let acceptor = acceptor.clone();
        async move {
            if let Ok(stream) = acceptor.accept(stream).await {
                serve_http1(stream, usize::MAX).await;
            }
        }
    });
}

#[tokio::test]
async fn server_name_selects_the_verified_name() {
    let (listener, address) = bind("127.0.0.1:0").await;
    let (acceptor, pem) = tls_server("vault.internal", b"http/1.1");
    accept_tls(listener, acceptor);
    let config = ClientConfig::new([format!("https://{address}")]).unwrap();
    let config = config.certificate_authority(pem);
    let named = Servers::new(config.clone().server_name("vault.internal")).unwrap();
    send(&named, &get()).await.unwrap();
    for config in [config.clone(), config.server_name("192.0.2.1")] {
        let error = send(&Servers::new(config).unwrap(), &get())
            .await
            .unwrap_err();
        assert!(error.to_string().contains("for another name"), "{error}");
    }
}

/// An attacker who redirects connections also has the certificate of the server, but not its private key.
#[tokio::test]
async fn server_without_the_key_of_its_certificate_is_refused() {
    let certified = || rcgen::generate_simple_self_signed(["192.0.2.1".to_owned()]).unwrap();
    let provider = Arc::new(aws_lc_rs::default_provider());
    let own = certified();
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        for (other, is_accepted) in [(None, true), (Some(certified()), false)] {
            let key = other.as_ref().unwrap_or(&own).signing_key.serialize_der();
            let key = aws_lc_rs::sign::any_supported_type(&key.try_into().unwrap()).unwrap();
            let key = CertifiedKey::new(vec![own.cert.der().clone()], key);
            let server = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
                .with_protocol_versions(&[version])
                .unwrap()
                .with_no_client_auth()
                .with_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
            let acceptor = TlsAcceptor::from(Arc::new(server));
            let (listener, address) = bind("127.0.0.1:0").await;
            accept_tls(listener, acceptor);
            let config = ClientConfig::new([format!("https://{address}")]).unwrap();
            let trusting = config.clone().certificate_authority(own.cert.pem());
            for config in [
                trusting.server_name("192.0.2.1"),
                config.danger_skip_verification(),
            ] {
                let result = send(&Servers::new(config).unwrap(), &get()).await;
                assert_eq!(result.is_ok(), is_accepted, "{version:?}: {result:?}");
                if let Err(error) = result {
                    assert!(!error.is_temporary(), "{error}");
                }
            }
        }
    }
}
