//! OpenBao behind a proxy that the environment configures. Only the proxy resolves the server's name.

use std::env;
use std::net::SocketAddr;
use std::process::Output;
use std::sync::{Arc, Mutex};

use secretwell::SecretProvider;
use secretwell::vault::VaultProvider;
use secretwell_testkit::{Canary, CanaryLog};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinSet, spawn_blocking};

use crate::process::{CHILD, assert_passed, run_child};
use crate::support::key;
use crate::vault::server::Bao;
use crate::vault::tls::{Authority, file};

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
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::<Mutex<Vec<String>>>::default();
        let log = Arc::clone(&requests);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut tunnels = JoinSet::new();
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let log = Arc::clone(&log);
                tunnels.spawn(async move {
                    let mut client = BufReader::new(client);
                    let mut head = String::new();
                    while !head.ends_with("\r\n\r\n") {
                        assert_ne!(client.read_line(&mut head).await.unwrap(), 0);
                    }
                    let is_target = head.starts_with(&format!("CONNECT {TARGET} HTTP/1.1\r\n"));
                    log.lock().unwrap().push(head);
                    assert!(is_target);
                    client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
                    let mut server = TcpStream::connect(server).await.unwrap();
                    let _ = copy_bidirectional(&mut client, &mut server).await;
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
    let bao = Bao::with_tls(&authority.sign(&["vault.example.invalid"], |_| ())).await;
    bao.mount("secret", 2).await;
    let secret = json!({"data": {"A": "value"}});
    bao.root("POST", "secret/data/app", secret).await;
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
