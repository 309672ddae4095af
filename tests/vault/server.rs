//! A real server: OpenBao in development mode, on a free port of the loopback.

use std::hash::{BuildHasher, RandomState};
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{LazyLock, OnceLock};
use std::time::Duration;

use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::tls::Identity;
use crate::support::tool;

/// The token that may do anything.
pub(crate) const ROOT: &str = "root-token-of-the-tests";

/// A server. It ends with the tests' process, however that ends.
pub(crate) struct Bao {
    pub(crate) address: SocketAddr,
    base: String,
    client: Client,
    root: String,
    unseal_key: String,
    process: Process,
    arguments: Vec<String>,
    folder: Option<TempDir>,
}

/// The server that all tests share; each has mounts of its own on it.
pub(crate) async fn shared() -> &'static Bao {
    static SHARED: OnceLock<Bao> = OnceLock::new();
    let bao = SHARED.get_or_init(Bao::development);
    bao.wait().await;
    bao
}

/// Keeps no connections, because each test has a runtime of its own. Whether a certificate is good is
/// for the providers to find out.
fn client() -> Client {
    client_builder().build().unwrap()
}

fn client_builder() -> reqwest::ClientBuilder {
    Client::builder()
        .pool_max_idle_per_host(0)
        .redirect(reqwest::redirect::Policy::none())
        .tls_danger_accept_invalid_certs(true)
}

/// The process of a server.
struct Process {
    /// Ends it when this process does: it reads from a pipe whose other end is here.
    shell: Child,
    id: String,
}

impl Process {
    /// Starts OpenBao with these arguments.
    fn start(arguments: &[String]) -> Self {
        let script = r#""$@" >/dev/null 2>&1 & echo $!; cat >/dev/null; kill -9 $!"#;
        let mut shell = Command::new("sh")
            .args(["-c", script, "sh"])
            .arg(binary())
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut id = String::new();
        let output = shell.stdout.take().unwrap();
        BufReader::new(output).read_line(&mut id).unwrap();
        let id = id.trim().to_owned();
        Self { shell, id }
    }

    fn signal(&self, name: &str) {
        let kill = ["-c", "kill -s \"$0\" \"$1\"", name, &self.id];
        let status = Command::new("sh").args(kill).status();
        assert!(status.unwrap().success(), "kill -s {name} {}", self.id);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        let _ = self.shell.wait();
    }
}

impl Bao {
    /// In memory, unsealed, over plain HTTP.
    fn development() -> Self {
        let address = free_address();
        let arguments = [
            "server".to_owned(),
            "-dev".to_owned(),
            "-dev-no-store-token".to_owned(),
            format!("-dev-listen-address={address}"),
            format!("-dev-root-token-id={ROOT}"),
        ];
        Self {
            address,
            base: format!("http://{address}"),
            client: client(),
            root: ROOT.to_owned(),
            unseal_key: String::new(),
            process: Process::start(&arguments),
            arguments: arguments.into(),
            folder: None,
        }
    }

    /// In memory, initialized and unsealed here, over TLS with these certificates.
    pub(crate) async fn with_tls(server: &Identity) -> Self {
        Self::over_tls(server, "", client()).await
    }

    /// The same, for those only who show a certificate of `authority`; `client` is such a one.
    pub(crate) async fn with_tls_for(
        server: &Identity,
        authority: &Path,
        client: &Identity,
    ) -> Self {
        let options = format!(
            "tls_require_and_verify_client_cert = true\ntls_client_ca_file = \"{}\"",
            authority.display()
        );
        let pem = format!("{}{}", client.chain, client.key);
        let identity = reqwest::Identity::from_pem(pem.as_bytes()).unwrap();
        let client = client_builder().identity(identity).build().unwrap();
        Self::over_tls(server, &options, client).await
    }

    async fn over_tls(server: &Identity, options: &str, client: Client) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        std::fs::write(path("cert.pem"), &server.chain).unwrap();
        std::fs::write(path("key.pem"), &server.key).unwrap();
        let address = free_address();
        let config = format!(
            r#"
            storage "inmem" {{}}
            listener "tcp" {{
                address = "{address}"
                tls_cert_file = "{}"
                tls_key_file = "{}"
                {options}
            }}
            api_addr = "https://{address}"
            "#,
            path("cert.pem"),
            path("key.pem"),
        );
        let mut bao = Self::start(address, "https", &config, folder, client).await;
        bao.initialize().await;
        bao
    }

    /// Over plain HTTP, with what it holds on disk, so that it can be restarted.
    pub(crate) async fn on_disk() -> Self {
        let mut bao = Self::uninitialized().await;
        bao.initialize().await;
        bao
    }

    /// The same, as it comes.
    pub(crate) async fn uninitialized() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let address = free_address();
        let config = raft(&folder, address, address);
        Self::configured(address, "http", &config, folder).await
    }

    /// Three servers over plain HTTP that keep the same data by raft. The first was the active one.
    pub(crate) async fn cluster() -> [Self; 3] {
        let addresses = [free_address(), free_address(), free_address()];
        let mut servers = Vec::new();
        for address in addresses {
            let folder = tempfile::tempdir().unwrap();
            let config = raft(&folder, address, addresses[0]);
            let mut server = Self::configured(address, "http", &config, folder).await;
            match servers.first() {
                None => server.initialize().await,
                Some(Self {
                    root, unseal_key, ..
                }) => {
                    (server.root, server.unseal_key) = (root.clone(), unseal_key.clone());
                    server.join().await;
                }
            }
            servers.push(server);
        }
        servers[0].wait_for_voters(3).await;
        servers.try_into().unwrap_or_else(|_| unreachable!())
    }

    async fn configured(address: SocketAddr, scheme: &str, config: &str, folder: TempDir) -> Self {
        Self::start(address, scheme, config, folder, client()).await
    }

    async fn start(
        address: SocketAddr,
        scheme: &str,
        config: &str,
        folder: TempDir,
        client: Client,
    ) -> Self {
        let file = folder.path().join("config.hcl");
        std::fs::write(&file, config).unwrap();
        let arguments = vec!["server".to_owned(), format!("-config={}", file.display())];
        let bao = Self {
            address,
            base: format!("{scheme}://{address}"),
            client,
            root: String::new(),
            unseal_key: String::new(),
            process: Process::start(&arguments),
            arguments,
            folder: Some(folder),
        };
        bao.wait().await;
        bao
    }

    pub(crate) async fn initialize(&mut self) {
        let shares = json!({"secret_shares": 1, "secret_threshold": 1});
        let (_, keys) = self.ask("", "POST", "sys/init", shares).await;
        self.root = keys["root_token"].as_str().unwrap().to_owned();
        self.unseal_key = keys["keys"][0].as_str().unwrap().to_owned();
        self.unseal().await;
    }

    /// Unseals a server that joins a cluster, which takes it a while to be ready for.
    async fn join(&self) {
        for _ in 0..600 {
            let key = json!({"key": self.unseal_key});
            self.ask("", "POST", "sys/unseal", key).await;
            let (status, _) = self
                .ask("", "GET", "sys/health?standbyok=true", Value::Null)
                .await;
            if status == 200 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{} does not join the cluster", self.base);
    }

    /// Waits until so many servers have a vote in who leads.
    async fn wait_for_voters(&self, wanted: usize) {
        let quickly = json!({"server_stabilization_time": "1s"});
        let path = "sys/storage/raft/autopilot/configuration";
        self.root("POST", path, quickly).await;
        for _ in 0..600 {
            let path = "sys/storage/raft/configuration";
            let answer = self.root("GET", path, Value::Null).await;
            let members = answer["data"]["config"]["servers"].as_array().cloned();
            let members = members.unwrap_or_default();
            if members
                .iter()
                .filter(|member| member["voter"] == true)
                .count()
                == wanted
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the cluster does not come together");
    }

    /// Whether it is the active server of its cluster.
    pub(crate) async fn is_active(&self) -> bool {
        let url = format!("{}/v1/sys/health", self.base);
        let asked = self.client.get(url).timeout(Duration::from_millis(300));
        asked.send().await.is_ok_and(|reply| reply.status() == 200)
    }

    /// Starts it again once it has ended, and unseals it.
    pub(crate) async fn restart(&mut self) {
        self.process = Process::start(&self.arguments);
        self.wait().await;
        self.join().await;
    }

    /// Starts it again once it has ended, at another address.
    pub(crate) async fn restart_at(&mut self, address: SocketAddr) {
        let file = self.folder.as_ref().unwrap().path().join("config.hcl");
        let config = std::fs::read_to_string(&file).unwrap();
        let config = config.replace(&self.address.to_string(), &address.to_string());
        std::fs::write(file, config).unwrap();
        self.base = format!("http://{address}");
        self.address = address;
        self.restart().await;
    }

    pub(crate) fn process_id(&self) -> &str {
        &self.process.id
    }

    /// Sends a signal to it: `KILL`, `TERM`, `STOP`, `CONT`.
    pub(crate) fn signal(&self, name: &str) {
        self.process.signal(name);
    }

    pub(crate) async fn unseal(&self) {
        let key = json!({"key": self.unseal_key});
        self.root("POST", "sys/unseal", key).await;
        for _ in 0..100 {
            let (status, _) = self.ask("", "GET", "sys/health", Value::Null).await;
            if status == 200 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("OpenBao stays sealed");
    }

    pub(crate) fn root_token(&self) -> &str {
        &self.root
    }

    /// Waits until it answers.
    pub(crate) async fn wait(&self) {
        let url = format!("{}/v1/sys/health", self.base);
        for _ in 0..1200 {
            let answer = self.client.get(&url).send().await;
            if answer.is_ok_and(|reply| matches!(reply.status().as_u16(), 200 | 501 | 503)) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("OpenBao does not answer at {}", self.base);
    }

    /// Asks as root, and wants success.
    pub(crate) async fn root(&self, method: &str, path: &str, body: Value) -> Value {
        let (status, answer) = self.ask(&self.root, method, path, body).await;
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
        let asked = self.try_ask(token, method, path, body).await;
        asked.unwrap_or_else(|| panic!("{} does not answer {method} {path}", self.base))
    }

    /// The same, of a server that may be down.
    pub(crate) async fn try_ask(
        &self,
        token: &str,
        method: &str,
        path: &str,
        body: Value,
    ) -> Option<(StatusCode, Value)> {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let mut request = self
            .client
            .request(method, format!("{}/v1/{path}", self.base))
            .header("x-vault-token", token);
        if !body.is_null() {
            request = request.json(&body);
        }
        let reply = request.send().await.ok()?;
        let status = reply.status();
        let text = reply.text().await.ok()?;
        Some((status, serde_json::from_str(&text).unwrap_or(Value::Null)))
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
                .ask(&self.root, "POST", &probe, json!({"data": {"a": "b"}}))
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

/// The configuration of a server that keeps its data in `folder`, and shares it with `leader`.
fn raft(folder: &TempDir, address: SocketAddr, leader: SocketAddr) -> String {
    let cluster = free_address();
    format!(
        r#"
        storage "raft" {{
            path = "{}"
            node_id = "{cluster}"
            retry_join {{ leader_api_addr = "http://{leader}" }}
        }}
        listener "tcp" {{
            address = "{address}"
            cluster_address = "{cluster}"
            tls_disable = true
        }}
        api_addr = "http://{address}"
        cluster_addr = "https://{cluster}"
        "#,
        folder.path().display(),
    )
}

/// A proxy in front of a server, that logs in by itself and listens on a socket.
pub(crate) struct Proxy {
    pub(crate) socket: PathBuf,
    _process: Process,
    _folder: TempDir,
}

impl Proxy {
    /// One that logs in to `server` by AppRole at the mount `login`.
    pub(crate) async fn start(server: &Bao, login: &str, role_id: &str, secret_id: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        std::fs::write(path("role-id"), role_id).unwrap();
        std::fs::write(path("secret-id"), secret_id).unwrap();
        let config = format!(
            r#"
            vault {{ address = "{}" }}
            auto_auth {{
                method "approle" {{
                    mount_path = "auth/{login}"
                    config = {{
                        role_id_file_path = "{}"
                        secret_id_file_path = "{}"
                    }}
                }}
            }}
            api_proxy {{ use_auto_auth_token = true }}
            listener "unix" {{
                address = "{}"
                tls_disable = true
                require_request_header = true
            }}
            "#,
            server.base,
            path("role-id"),
            path("secret-id"),
            path("socket"),
        );
        std::fs::write(path("config.hcl"), config).unwrap();
        let arguments = [
            "proxy".to_owned(),
            format!("-config={}", path("config.hcl")),
        ];
        Self {
            socket: path("socket").into(),
            _process: Process::start(&arguments),
            _folder: folder,
        }
    }
}

fn binary() -> PathBuf {
    std::env::var_os("SECRETWELL_OPENBAO").map_or_else(|| tool("bao"), PathBuf::from)
}

/// An address that stays free until a server binds it, be it much later: its port is none that the
/// system gives to outgoing connections, and each is named once.
pub(crate) fn free_address() -> SocketAddr {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    // Far from those of another process that runs the same tests now.
    static FIRST: LazyLock<u64> = LazyLock::new(|| RandomState::new().hash_one(0));
    let first = *FIRST;
    loop {
        let number = first.wrapping_add(COUNT.fetch_add(1, Ordering::Relaxed));
        let port = 20_000 + (number % 10_000) as u16;
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}

/// A name that no other test of this process has.
pub(crate) fn unique(start: &str) -> String {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    format!("{start}{}", COUNT.fetch_add(1, Ordering::Relaxed))
}
