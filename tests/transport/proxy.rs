//! OpenBao behind a proxy. Only the proxy resolves the server's name.

use std::env;
use std::net::SocketAddr;
use std::process::Output;
use std::sync::{Arc, Mutex};

use secretwell::vault::{ClientConfig, Credential, VaultAuth, VaultProvider};
use secretwell::{Error, ErrorKind, SecretProvider};
use secretwell_testkit::{Canary, CanaryLog};
use serde_json::json;
use tokio::io::{
    AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader, copy_bidirectional,
};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinSet, spawn_blocking};
use tokio_rustls::TlsAcceptor;

use crate::cli::{secretwell, text};
use crate::process::{CHILD, assert_passed, run_child};
use crate::support::{key, secs};
use crate::vault::server::Bao;
use crate::vault::tls::{Authority, Identity, acceptor, file};

/// The server's address for the client.
const TARGET: &str = "vault.example.invalid:8200";

/// An HTTP proxy that sends each tunnel for [`TARGET`] to one server, and records the requests.
struct Proxy {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
    _tasks: JoinSet<()>,
}

impl Proxy {
    async fn start(server: SocketAddr) -> Self {
        Self::serve(server, None).await
    }

    /// Starts a proxy that requires TLS.
    async fn with_tls(server: SocketAddr, identity: &Identity) -> Self {
        // A tunnel needs HTTP/1.1, even if the proxy knows HTTP/2 as well.
        Self::serve(server, Some(acceptor(identity, &[b"h2", b"http/1.1"]))).await
    }

    async fn serve(server: SocketAddr, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::<Mutex<Vec<String>>>::default();
        let log = Arc::clone(&requests);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut tunnels = JoinSet::new();
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let (log, tls) = (Arc::clone(&log), tls.clone());
                tunnels.spawn(async move {
                    match tls {
                        None => tunnel(client, server, &log).await,
                        // A client that does not trust the proxy closes the connection.
                        Some(tls) => {
                            if let Ok(client) = tls.accept(client).await {
                                tunnel(client, server, &log).await;
                            }
                        }
                    }
                });
            }
        });
        Self {
            address,
            requests,
            _tasks: tasks,
        }
    }

    /// Returns the heads of the requests since the last call.
    fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.requests.lock().unwrap())
    }
}

/// Reads the request for a tunnel from `client`, and connects it with `server`.
async fn tunnel(
    client: impl AsyncRead + AsyncWrite + Unpin,
    server: SocketAddr,
    log: &Mutex<Vec<String>>,
) {
    let mut client = BufReader::new(client);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert_ne!(client.read_line(&mut head).await.unwrap(), 0);
    }
    let is_target = head.starts_with(&format!("CONNECT {TARGET} HTTP/1.1\r\n"));
    log.lock().unwrap().push(head);
    assert!(is_target);
    client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
    client.flush().await.unwrap();
    let mut server = TcpStream::connect(server).await.unwrap();
    let _ = copy_bidirectional(&mut client, &mut server).await;
}

/// OpenBao with TLS at the name of [`TARGET`], and with the secret `A` at `secret/app`.
async fn server(authority: &Authority) -> Bao {
    let bao = Bao::with_tls(&authority.sign(&["vault.example.invalid"], |_| ())).await;
    bao.mount("secret", 2).await;
    let secret = json!({"data": {"A": "value"}});
    bao.root("POST", "secret/data/app", secret).await;
    bao
}

/// Reads a secret in a child process with these variables. It fails if `VAULT_ADDR` is not reached.
async fn read_in_child(variables: &[(&str, String)]) -> Output {
    let variables: Vec<_> = variables
        .iter()
        .map(|(name, value)| ((*name).to_owned(), value.clone()))
        .collect();
    let run = move || {
        let variables: Vec<_> = variables
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_bytes()))
            .collect();
        run_child(
            "transport::proxy::tls_end_to_end_through_connect",
            &variables,
        )
    };
    spawn_blocking(run).await.unwrap()
}

#[tokio::test]
async fn tls_end_to_end_through_connect() {
    if env::var_os(CHILD).is_some() {
        let log = CanaryLog::install();
        let provider = VaultProvider::from_url("vault:///secret/app").unwrap();
        let result = provider.get(&key("A")).await;
        log.assert_clean(&[&Canary::from_text("hunter@2")]);
        assert_eq!(result.unwrap().value.expose_text().unwrap(), "value");
        return;
    }
    let authority = Authority::new("the tests' authority");
    let bao = server(&authority).await;
    let proxy = Proxy::start(bao.address).await;
    let ca = file(&authority.pem());
    let base = [
        ("VAULT_ADDR", format!("https://{TARGET}")),
        ("VAULT_TOKEN", bao.root_token().to_owned()),
        ("VAULT_CACERT", ca.path().display().to_string()),
        ("VAULT_CLIENT_TIMEOUT", "30".to_owned()),
    ];
    let with = |more: &[(&'static str, &str)]| {
        let more = more
            .iter()
            .map(|(name, value)| (*name, (*value).to_owned()));
        base.iter().cloned().chain(more).collect::<Vec<_>>()
    };
    let url = format!("http://me:hunter%402@{}", proxy.address);
    for name in ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"] {
        assert_passed(&read_in_child(&with(&[(name, &url), ("NO_PROXY", "10.0.0.0/8")])).await);
        let requests = proxy.requests();
        assert!(!requests.is_empty(), "{name}");
        // The base64 encoding of `me:hunter@2`.
        let credentials = "bwu6ahvudgvyqdi=";
        assert!(
            requests[0].to_lowercase().contains(credentials),
            "{requests:?}"
        );
    }
    // The own variables of Vault have precedence, and no exceptions.
    let own = [
        ("VAULT_PROXY_ADDR", &*url),
        ("HTTPS_PROXY", "http://127.0.0.1:1"),
        ("NO_PROXY", "*"),
    ];
    assert_passed(&read_in_child(&with(&own)).await);
    assert!(!proxy.requests().is_empty());

    // Without the proxy, nobody knows the name.
    let bypassed = [
        ("HTTPS_PROXY", &*url),
        ("no_proxy", "localhost,.example.invalid"),
        ("VAULT_CLIENT_TIMEOUT", "3"),
    ];
    let output = read_in_child(&with(&bypassed)).await;
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("its name cannot be resolved"), "{text}");
    assert_eq!(proxy.requests(), [""; 0]);

    let output = read_in_child(&with(&[(
        "ALL_PROXY",
        "socks5://me:hunter%402@127.0.0.1:1",
    )]))
    .await;
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("`ALL_PROXY` is a SOCKS proxy"), "{text}");
    assert!(!text.contains("hunter"), "{text}");
}

/// Reads the secret `A` with changed settings of the client.
async fn read(
    address: &str,
    token: &str,
    change: impl FnOnce(ClientConfig) -> ClientConfig,
) -> Result<(), Error> {
    let provider = VaultProvider::builder([address], VaultAuth::token(Credential::value(token)))?
        .path("app")
        .client(|client| change(client.deadline(secs(5))))
        .build()?;
    provider.get(&key("A")).await.map(drop)
}

#[tokio::test]
async fn proxy_can_require_tls_with_a_trusted_certificate() {
    let authority = Authority::new("the tests' authority");
    let bao = server(&authority).await;
    let address = format!("https://{TARGET}");
    let trusted = authority.sign(&["127.0.0.1"], |_| ());
    let proxy = Proxy::with_tls(bao.address, &trusted).await;
    let url = format!("https://me:hunter%402@{}", proxy.address);
    let through = |url: String| {
        let pem = authority.pem();
        |client: ClientConfig| client.certificate_authority(pem).proxy(url)
    };
    read(&address, bao.root_token(), through(url))
        .await
        .unwrap();
    let requests = proxy.requests();
    assert!(!requests.is_empty());
    assert!(
        requests[0].contains("Basic bWU6aHVudGVyQDI="),
        "{requests:?}"
    );

    // A certificate for another name, and one of an unknown authority.
    let other = Authority::new("another authority");
    for identity in [
        authority.sign(&["proxy.example.invalid"], |_| ()),
        other.sign(&["127.0.0.1"], |_| ()),
    ] {
        let proxy = Proxy::with_tls(bao.address, &identity).await;
        let url = format!("https://me:hunter%402@{}", proxy.address);
        let result = read(&address, bao.root_token(), through(url)).await;
        let error = result.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        let shown = format!("{error} {error:?}");
        assert!(shown.contains("certificate"), "{shown}");
        assert!(shown.contains(&proxy.address.to_string()), "{shown}");
        assert!(!shown.contains("hunter"), "{shown}");
        assert_eq!(proxy.requests(), [""; 0]);
    }
}

#[tokio::test]
async fn server_without_tls_is_never_proxied() {
    let bao = crate::vault::server::shared().await;
    let proxy = Proxy::start(bao.address).await;
    let url = format!("http://{}", proxy.address);
    let address = format!("http://{TARGET}");
    let error = read(&address, bao.root_token(), |client| {
        client.danger_allow_http().proxy(url).deadline(secs(1))
    });
    let error = error.await.unwrap_err();
    let expected = "its name cannot be resolved";
    assert!(error.to_string().contains(expected), "{error}");
    assert_eq!(proxy.requests(), [""; 0]);
}

#[tokio::test]
async fn server_name_with_a_proxy_is_refused_unless_no_request_uses_the_proxy() {
    let named = |client: ClientConfig| client.server_name("vault.internal");
    let proxied = |client| named(client).proxy("http://127.0.0.1:1");
    let refusal = "proxy=none";
    let error = read("https://192.0.2.1", "token", proxied).await;
    let error = error.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error}");
    assert!(error.to_string().contains(refusal), "{error}");
    // Requests to this machine and those without TLS use no proxy.
    for address in ["https://127.0.0.1:1", "http://127.0.0.1:1"] {
        let error = read(address, "token", proxied).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    }

    let doctor = |url: &str| {
        let mut command = secretwell(["doctor", "--from", url]);
        command
            .env("VAULT_TOKEN", "token")
            .env("VAULT_TLS_SERVER_NAME", "vault.internal")
            .env("VAULT_CLIENT_TIMEOUT", "1")
            .env("HTTPS_PROXY", "http://127.0.0.1:1");
        let output = command.output().unwrap();
        text(&output.stdout) + &text(&output.stderr)
    };
    let output = doctor("vault://192.0.2.1/secret/app");
    assert!(output.contains(refusal), "{output}");
    let output = doctor("vault://192.0.2.1/secret/app?proxy=none");
    assert!(output.contains("PROBLEM  reach"), "{output}");
}

#[tokio::test]
async fn doctor_names_a_proxy_that_cannot_be_used() {
    let authority = Authority::new("the tests' authority");
    let bao = server(&authority).await;
    let proxy = Proxy::start(bao.address).await;
    let ca = file(&authority.pem());
    let doctor = async |proxy: String| {
        let mut command = secretwell(["doctor", "--from", &format!("vault://{TARGET}/secret/app")]);
        command
            .env("VAULT_TOKEN", bao.root_token())
            .env("VAULT_CACERT", ca.path())
            .env("VAULT_CLIENT_TIMEOUT", "5")
            .env("HTTPS_PROXY", proxy);
        let output = spawn_blocking(move || command.output().unwrap());
        let output = output.await.unwrap();
        text(&output.stdout) + &text(&output.stderr)
    };
    let output = doctor(format!("http://me:hunter2@{}", proxy.address)).await;
    assert!(output.contains("ok       login  accepted"), "{output}");
    assert!(output.contains("ok       read   secrets: 1"), "{output}");
    assert!(!proxy.requests().is_empty());

    let output = doctor("http://me:hunter2@127.0.0.1:1".to_owned()).await;
    let expected = format!(
        "PROBLEM  reach  vault://{TARGET}/secret/app: unavailable: `{TARGET}` cannot be reached \
         through the proxy `127.0.0.1:1`, which refuses connections; check that the proxy is running"
    );
    assert!(output.contains(&expected), "{output}");
    assert!(!output.contains("hunter"), "{output}");
}
