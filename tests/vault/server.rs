//! A real server: OpenBao in development mode, on a free port of the loopback.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};

/// The token that may do anything.
pub(crate) const ROOT: &str = "root-token-of-the-tests";

/// A server. It ends with the tests' process, however that ends: it reads from a pipe whose other end
/// only this process holds.
pub(crate) struct Bao {
    pub(crate) address: SocketAddr,
    _shell: Child,
}

/// The server that all tests share; each has mounts of its own on it.
pub(crate) async fn shared() -> &'static Bao {
    static SHARED: OnceLock<Bao> = OnceLock::new();
    let bao = SHARED.get_or_init(Bao::start);
    bao.wait().await;
    bao
}

impl Bao {
    pub(crate) fn start() -> Self {
        let address = free_address();
        let script = r#""$0" server -dev -dev-no-store-token -dev-root-token-id="$1" \
            -dev-listen-address="$2" >/dev/null 2>&1 & cat >/dev/null; kill -9 $!"#;
        let shell = Command::new("sh")
            .args(["-c", script])
            .arg(binary())
            .args([ROOT, &address.to_string()])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        Self {
            address,
            _shell: shell,
        }
    }

    /// Waits until it answers.
    pub(crate) async fn wait(&self) {
        let url = format!("http://{}/v1/sys/health", self.address);
        for _ in 0..300 {
            if reqwest::get(&url).await.is_ok_and(|r| r.status() == 200) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("OpenBao does not answer at {}", self.address);
    }

    /// Asks as root, and wants success.
    pub(crate) async fn root(&self, method: &str, path: &str, body: Value) -> Value {
        let (status, answer) = self.ask(ROOT, method, path, body).await;
        assert!(status.is_success(), "{method} {path}: {status} {answer}");
        answer
    }

    pub(crate) async fn ask(
        &self,
        token: &str,
        method: &str,
        path: &str,
        body: Value,
    ) -> (StatusCode, Value) {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let mut request = Client::new()
            .request(method, format!("http://{}/v1/{path}", self.address))
            .header("x-vault-token", token);
        if !body.is_null() {
            request = request.json(&body);
        }
        let reply = request.send().await.unwrap();
        let status = reply.status();
        let text = reply.text().await.unwrap();
        (status, serde_json::from_str(&text).unwrap_or(Value::Null))
    }

    /// Mounts an engine, and waits until it takes requests.
    pub(crate) async fn mount(&self, name: &str, version: u8) {
        let options = json!({"type": "kv", "options": {"version": version.to_string()}});
        self.root("POST", &format!("sys/mounts/{name}"), options)
            .await;
        let probe = match version {
            2 => format!("{name}/data/probe"),
            _ => format!("{name}/probe"),
        };
        for _ in 0..100 {
            let (status, _) = self
                .ask(ROOT, "POST", &probe, json!({"data": {"a": "b"}}))
                .await;
            if status.is_success() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("the mount {name} is not ready");
    }

    pub(crate) async fn policy(&self, name: &str, rules: &str) {
        let path = format!("sys/policies/acl/{name}");
        self.root("POST", &path, json!({"policy": rules})).await;
    }
}

/// Where `cargo xtask test vault` has put the server.
fn binary() -> PathBuf {
    let path = std::env::var_os("SECRETWELL_OPENBAO").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/tools/bao"),
        PathBuf::from,
    );
    assert!(
        path.exists(),
        "there is no OpenBao at {}: run `cargo xtask test vault`, which installs it",
        path.display()
    );
    path
}

pub(crate) fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

/// A name that no other test of this process has.
pub(crate) fn unique(start: &str) -> String {
    use std::sync::atomic::{AtomicUsize, Ordering};

    static COUNT: AtomicUsize = AtomicUsize::new(0);
    format!("{start}{}", COUNT.fetch_add(1, Ordering::Relaxed))
}
