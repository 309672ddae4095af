//! OpenBao servers, clusters and proxies on free ports of the loopback interface.

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

/// The root token of the shared server.
pub(crate) const ROOT: &str = "root-token-of-the-tests";

/// An OpenBao server. It ends with the test process, even if that process crashes.
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

/// Returns the server that all tests share. Each test creates its own mounts.
pub(crate) async fn shared() -> &'static Bao {
    static SHARED: OnceLock<Bao> = OnceLock::new();
    let bao = SHARED.get_or_init(Bao::development);
    bao.wait_until_ready().await;
    bao
}

/// Returns a client without a connection pool, because each test has its own runtime. It accepts any
/// certificate; the tests check certificates with the providers.
fn client() -> Client {
    client_builder().build().unwrap()
}

fn client_builder() -> reqwest::ClientBuilder {
    Client::builder()
        .pool_max_idle_per_host(0)
        .redirect(reqwest::redirect::Policy::none())
        .tls_danger_accept_invalid_certs(true)
}

/// A server process. It is killed when this is dropped, and when this process ends.
pub(crate) struct Process {
    /// The shell that kills the server. It waits for the end of a pipe, whose other end is in this process.
    shell: Child,
    id: String,
}

impl Process {
    /// Starts a program without output.
    pub(crate) fn start(program: &Path, arguments: &[String]) -> Self {
        let script = r#""$@" >/dev/null 2>&1 & echo $!; cat >/dev/null; kill -9 $!"#;
        let mut shell = Command::new("sh")
            .args(["-c", script, "sh"])
            .arg(program)
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
    /// Starts a server in memory, unsealed, with plain HTTP.
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
            process: Process::start(&binary(), &arguments),
            arguments: arguments.into(),
            folder: None,
        }
    }

    /// Starts a server in memory, with TLS, and initializes and unseals it.
    pub(crate) async fn with_tls(server: &Identity) -> Self {
        Self::over_tls(server, "", client()).await
    }

    /// Like [`with_tls`](Self::with_tls), but requires client certificates from `authority`. `client` is one
    /// of them.
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

    /// Starts a server with plain HTTP and its data on disk, so that it can be restarted.
    pub(crate) async fn on_disk() -> Self {
        let mut bao = Self::uninitialized().await;
        bao.initialize().await;
        bao
    }

    /// Like [`on_disk`](Self::on_disk), but not initialized.
    pub(crate) async fn uninitialized() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let address = free_address();
        let config = raft(&folder, address, address);
        Self::configured(address, "http", &config, folder).await
    }

    /// Starts a raft cluster of three servers with plain HTTP. The first one becomes the active server.
    pub(crate) async fn cluster() -> [Self; 3] {
        Self::cluster_with("").await
    }

    /// Like [`cluster`](Self::cluster), with further lines of the configuration.
    pub(crate) async fn cluster_with(options: &str) -> [Self; 3] {
        let addresses = [free_address(), free_address(), free_address()];
        let mut servers = Vec::new();
        for address in addresses {
            let folder = tempfile::tempdir().unwrap();
            let config = raft(&folder, address, addresses[0]) + options;
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
            process: Process::start(&binary(), &arguments),
            arguments,
            folder: Some(folder),
        };
        bao.wait_until_ready().await;
        bao
    }

    pub(crate) async fn initialize(&mut self) {
        let shares = json!({"secret_shares": 1, "secret_threshold": 1});
        let (_, keys) = self.request("", "POST", "sys/init", shares).await;
        self.root = keys["root_token"].as_str().unwrap().to_owned();
        self.unseal_key = keys["keys"][0].as_str().unwrap().to_owned();
        self.unseal().await;
    }

    /// Unseals a server that joins a cluster, and retries until the server is ready for it.
    pub(crate) async fn join(&self) {
        for _ in 0..600 {
            let key = json!({"key": self.unseal_key});
            self.request("", "POST", "sys/unseal", key).await;
            let (status, _) = self
                .request("", "GET", "sys/health?standbyok=true", Value::Null)
                .await;
            if status == 200 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{} did not join the cluster", self.base);
    }

    /// Waits until `count` servers can vote in leader elections.
    async fn wait_for_voters(&self, count: usize) {
        let short_stabilization = json!({"server_stabilization_time": "1s"});
        let path = "sys/storage/raft/autopilot/configuration";
        self.root("POST", path, short_stabilization).await;
        for _ in 0..600 {
            let path = "sys/storage/raft/configuration";
            let response = self.root("GET", path, Value::Null).await;
            let members = response["data"]["config"]["servers"].as_array().cloned();
            let members = members.unwrap_or_default();
            if members
                .iter()
                .filter(|member| member["voter"] == true)
                .count()
                == count
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the cluster did not form");
    }

    /// Returns whether this is the active server of its cluster.
    pub(crate) async fn is_active(&self) -> bool {
        let url = format!("{}/v1/sys/health", self.base);
        let request = self.client.get(url).timeout(Duration::from_millis(300));
        let response = request.send().await;
        response.is_ok_and(|response| response.status() == 200)
    }

    /// Starts the server again after it has ended, and unseals it.
    pub(crate) async fn restart(&mut self) {
        self.process = Process::start(&binary(), &self.arguments);
        self.wait_until_ready().await;
        self.join().await;
    }

    /// Like [`restart`](Self::restart), at another address.
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

    /// Sends a signal to the server: `KILL`, `TERM`, `STOP` or `CONT`.
    pub(crate) fn signal(&self, name: &str) {
        self.process.signal(name);
    }

    pub(crate) async fn unseal(&self) {
        let key = json!({"key": self.unseal_key});
        self.root("POST", "sys/unseal", key).await;
        for _ in 0..3_000 {
            let (status, _) = self.request("", "GET", "sys/health", Value::Null).await;
            if status == 200 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("OpenBao is still sealed");
    }

    pub(crate) fn root_token(&self) -> &str {
        &self.root
    }

    /// Waits until the server responds, even if it is sealed or not initialized.
    pub(crate) async fn wait_until_ready(&self) {
        let url = format!("{}/v1/sys/health", self.base);
        for _ in 0..1200 {
            let response = self.client.get(&url).send().await;
            if response.is_ok_and(|response| matches!(response.status().as_u16(), 200 | 501 | 503))
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("OpenBao does not respond at {}", self.base);
    }

    /// Sends a request as root, and asserts that it succeeds.
    pub(crate) async fn root(&self, method: &str, path: &str, body: Value) -> Value {
        let (status, response) = self.request(&self.root, method, path, body).await;
        assert!(status.is_success(), "{method} {path}: {status} {response}");
        response
    }

    /// Sends a request and returns the response.
    pub(crate) async fn request(
        &self,
        token: &str,
        method: &str,
        path: &str,
        body: Value,
    ) -> (StatusCode, Value) {
        let response = self.try_request(token, method, path, body).await;
        response.unwrap_or_else(|| panic!("{} does not respond to {method} {path}", self.base))
    }

    /// Like [`request`](Self::request), but returns `None` if the server is down.
    pub(crate) async fn try_request(
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
        let response = request.send().await.ok()?;
        let status = response.status();
        let text = response.text().await.ok()?;
        Some((status, serde_json::from_str(&text).unwrap_or(Value::Null)))
    }

    /// Mounts a key-value engine, and waits until it accepts requests.
    pub(crate) async fn mount(&self, name: &str, version: u8) {
        let options = json!({"type": "kv", "options": {"version": version.to_string()}});
        self.root("POST", &format!("sys/mounts/{name}"), options)
            .await;
        let probe = match version {
            2 => format!("{name}/data/probe"),
            _ => format!("{name}/probe"),
        };
        for _ in 0..3_000 {
            let (status, _) = self
                .request(&self.root, "POST", &probe, json!({"data": {"a": "b"}}))
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

/// A process of `bao proxy`, which adds a token to requests and caches leases.
pub(crate) struct Agent {
    address: SocketAddr,
    _process: Process,
    _folder: TempDir,
}

impl Agent {
    pub(crate) async fn start(bao: &Bao, token: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let token_file = folder.path().join("token");
        std::fs::write(&token_file, token).unwrap();
        let address = free_address();
        let config = format!(
            r#"
            vault {{ address = "{}" }}
            auto_auth {{
                method "token_file" {{ config = {{ token_file_path = "{}" }} }}
            }}
            cache {{}}
            api_proxy {{ use_auto_auth_token = true }}
            listener "tcp" {{
                address = "{address}"
                tls_disable = true
            }}
            "#,
            bao.base,
            token_file.display(),
        );
        let file = folder.path().join("agent.hcl");
        std::fs::write(&file, config).unwrap();
        let arguments = ["proxy".to_owned(), format!("-config={}", file.display())];
        let agent = Self {
            address,
            _process: Process::start(&binary(), &arguments),
            _folder: folder,
        };
        let url = format!("http://{address}/v1/auth/token/lookup-self");
        for _ in 0..1200 {
            let response = client().get(&url).send().await;
            if response.is_ok_and(|response| response.status() == 200) {
                return agent;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the agent does not respond at {address}");
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Returns the configuration of a server that stores its data in `folder` and joins the cluster of `leader`.
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

/// An OpenBao proxy with auto-auth, listening on a Unix socket.
pub(crate) struct Proxy {
    pub(crate) socket: PathBuf,
    _process: Process,
    _folder: TempDir,
}

impl Proxy {
    /// Starts a proxy that logs in to `server` with AppRole at the mount `login`.
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
            _process: Process::start(&binary(), &arguments),
            _folder: folder,
        }
    }
}

fn binary() -> PathBuf {
    std::env::var_os("SECRETWELL_OPENBAO").map_or_else(|| tool("bao"), PathBuf::from)
}

/// Returns an address that stays free until a server binds it. The port is outside the range for outgoing
/// connections, and each address is returned only once.
///
/// A server of OpenBao also binds the next port, for its cluster, some time after the first one. Only every
/// second port is therefore returned.
pub(crate) fn free_address() -> SocketAddr {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    // A random start, so that parallel test processes use different ports.
    static FIRST: LazyLock<u64> = LazyLock::new(|| RandomState::new().hash_one(0));
    let first = *FIRST;
    loop {
        let number = first.wrapping_add(COUNT.fetch_add(1, Ordering::Relaxed));
        let port = 20_000 + 2 * (number % 5_000) as u16;
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}

/// Returns a name that no other test of this process uses.
pub(crate) fn unique(prefix: &str) -> String {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    format!("{prefix}{}", COUNT.fetch_add(1, Ordering::Relaxed))
}
