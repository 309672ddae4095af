//! A Redis connection that follows a rotation: leases of a real OpenBao for real Redis and Valkey servers.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use redis::{
    AsyncConnectionConfig, Client, IntoConnectionInfo, ProtocolVersion, RedisConnectionInfo,
    RedisError, RedisResult,
};
use secretwell::auth::{Guard, LazyAuth};
use secretwell::clients::redis::RedisConnection;
use secretwell::vault::{Credential, VaultAuth, VaultProvider};
use secretwell::{ExposeSecret, Resolver, SecretString};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::support::{secs, tool};
use crate::vault::server::{Bao, free_address, shared, unique};

const ROOT: &str = "root-password-of-the-tests";
/// Long enough for a busy machine to create the next lease before this one ends.
const LEASE: Duration = secs(8);
/// The number of tasks that send commands at the same time.
const CALLERS: usize = 4;
/// A limit that only a failure reaches.
const LIMIT: Duration = secs(60);

/// A Redis or Valkey server. It ends with the test process, even if that process crashes.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    shell: Child,
}

impl Server {
    /// Starts the program `target/tools/NAME`.
    pub(crate) async fn start(name: &str) -> Self {
        let address = free_address();
        let script = r#""$@" >/dev/null 2>&1 & cat >/dev/null; kill -9 $!"#;
        let shell = Command::new("sh")
            .args(["-c", script, "sh"])
            .arg(tool(name))
            .args(["--port", &address.port().to_string()])
            .args(["--bind", "127.0.0.1", "--save", "", "--requirepass", ROOT])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let client = Client::open(format!("redis://:{ROOT}@{address}")).unwrap();
        let ready = async {
            while client.get_multiplexed_async_connection().await.is_err() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(LIMIT, ready).await.unwrap();
        Self { address, shell }
    }

    /// Adds a user with all permissions.
    pub(crate) async fn add_user(&self, name: &str, password: &str) {
        let client = Client::open(format!("redis://:{ROOT}@{}", self.address)).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        let mut command = redis::cmd("ACL");
        command.arg(&["SETUSER", name, "on", "+@all", "~*", "&*"]);
        command.arg(format!(">{password}"));
        command.exec_async(&mut connection).await.unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        let _ = self.shell.wait();
    }
}

/// Creates a database engine for `server`, whose leases are short. Returns its mount.
async fn database(bao: &Bao, server: &Server, plugin: &str) -> String {
    let name = unique("redis");
    let root = async |path: String, body| bao.root("POST", &path, body).await;
    root(format!("sys/mounts/{name}"), json!({"type": "database"})).await;
    let connection = json!({
        "plugin_name": plugin,
        "allowed_roles": "*",
        "host": server.address.ip().to_string(),
        "port": server.address.port(),
        "username": "default",
        "password": ROOT,
    });
    root(format!("{name}/config/server"), connection).await;
    let lease = LEASE.as_secs();
    let role = json!({
        "db_name": "server",
        "default_ttl": lease,
        "max_ttl": lease,
        "creation_statements": r#"["+@all", "~*", "&*"]"#,
    });
    root(format!("{name}/roles/app"), role).await;
    name
}

#[derive(Deserialize)]
struct Secrets {
    cache: Login,
}

#[derive(Deserialize)]
struct Login {
    username: String,
    password: SecretString,
}

fn auth(bao: &Bao, mount: &str, server: &Server, protocol: ProtocolVersion) -> LazyAuth<Client> {
    let token = VaultAuth::token(Credential::value(bao.root_token()));
    let provider = VaultProvider::builder([format!("http://{}", bao.address)], token)
        .unwrap()
        .dynamic("cache", format!("{mount}/creds/app"))
        .build()
        .unwrap();
    let address = server.address;
    LazyAuth::new(
        Resolver::new(provider),
        move |Secrets { cache }: Secrets, _| async move {
            let login = RedisConnectionInfo::default()
                .set_protocol(protocol)
                .set_username(cache.username)
                .set_password(cache.password.expose_secret());
            let server = format!("redis://{address}").into_connection_info()?;
            Ok(Client::open(server.set_redis_settings(login))?)
        },
    )
}

fn connection(auth: &LazyAuth<Client>) -> RedisConnection {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(LIMIT))
        .set_response_timeout(Some(LIMIT));
    RedisConnection::new(auth.clone(), config)
}

/// A transaction that counts itself. Returns the number of the connection and the name of its user.
async fn visit(connection: &RedisConnection) -> RedisResult<(u64, String)> {
    let mut transaction = redis::pipe();
    transaction.atomic().incr("visits", 1).ignore();
    transaction.cmd("CLIENT").arg("ID").cmd("ACL").arg("WHOAMI");
    transaction.query_async(&mut connection.clone()).await
}

/// What the callers have seen.
#[derive(Default)]
struct Seen {
    commands: usize,
    connections: BTreeSet<u64>,
    users: BTreeSet<String>,
    /// Commands whose response was lost with their connection.
    lost: usize,
}

/// Sends commands without a pause until `is_over`. A command whose connection is lost is sent again once, as the
/// application would do it.
async fn call(
    connection: RedisConnection,
    progress: Arc<AtomicUsize>,
    is_over: Arc<AtomicU64>,
) -> Result<Seen, RedisError> {
    let mut seen = Seen::default();
    while is_over.load(Ordering::Relaxed) == 0 {
        let visited = match visit(&connection).await {
            Err(error) if error.is_connection_dropped() => {
                seen.lost += 1;
                visit(&connection).await
            }
            visited => visited,
        };
        let (id, user) = visited?;
        seen.commands += 1;
        seen.connections.insert(id);
        seen.users.insert(user);
        progress.fetch_add(1, Ordering::Relaxed);
    }
    Ok(seen)
}

async fn wait_for_generation(auth: &LazyAuth<Client>, generation: u64) {
    let mut states = auth.watch_state();
    let built = states.wait_for(|state| state.generation() >= Some(generation));
    tokio::time::timeout(LIMIT, built).await.unwrap().unwrap();
}

/// Waits until the connection is logged in as another user than `previous`.
async fn wait_for_login(connection: &RedisConnection, previous: &str) -> (u64, String) {
    let changed = async {
        loop {
            let (id, user) = visit(connection).await.unwrap();
            if user != previous {
                return (id, user);
            }
        }
    };
    tokio::time::timeout(LIMIT, changed).await.unwrap()
}

/// Sends commands without a pause over three lease lifetimes and the revocation of all leases. Prints how many.
#[expect(clippy::print_stdout, reason = "the numbers are a result of the test")]
async fn assert_no_command_fails(program: &str, protocol: ProtocolVersion) {
    let (bao, server) = tokio::join!(shared(), Server::start(program));
    let plugin = program.replace("-server", "-database-plugin");
    let mount = database(bao, &server, &plugin).await;
    let auth = auth(bao, &mount, &server, protocol);
    let (used, idle) = (connection(&auth), connection(&auth));
    let (idle_id, idle_user) = visit(&idle).await.unwrap();

    let (progress, is_over) = (Arc::<AtomicUsize>::default(), Arc::<AtomicU64>::default());
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        callers.spawn(call(used.clone(), progress.clone(), is_over.clone()));
    }
    wait_for_generation(&auth, 4).await;
    // The idle connection has logged in with each lease, so it outlived three of them.
    let (id, _) = wait_for_login(&idle, &idle_user).await;
    assert_eq!(id, idle_id);

    // All users are deleted, which closes their connections.
    let before = Guard::generation(&auth.get().await.unwrap());
    let revoke = format!("sys/leases/revoke-prefix/{mount}/creds/app");
    bao.root("POST", &revoke, json!({"sync": true})).await;
    wait_for_generation(&auth, before + 1).await;
    let sent = progress.load(Ordering::Relaxed);
    let more = async {
        while progress.load(Ordering::Relaxed) < sent + 100 * CALLERS {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(LIMIT, more).await.unwrap();
    is_over.store(1, Ordering::Relaxed);

    let mut seen = Seen::default();
    for caller in callers.join_all().await {
        let mut caller = caller.unwrap_or_else(|error| panic!("{program}: {error}"));
        seen.commands += caller.commands;
        seen.lost += caller.lost;
        seen.connections.append(&mut caller.connections);
        seen.users.append(&mut caller.users);
    }
    println!(
        "{program}: {} commands, {} sent again after the revocation, {} connections, {} users",
        seen.commands,
        seen.lost,
        seen.connections.len(),
        seen.users.len(),
    );
    assert!(
        seen.lost <= CALLERS,
        "each caller loses at most one command"
    );
    assert!(seen.connections.len() <= 2, "{:?}", seen.connections);
    assert!(
        (4..=10).contains(&seen.users.len()),
        "{} users",
        seen.users.len()
    );
}

#[tokio::test]
async fn no_command_to_redis_fails_over_three_leases_and_their_revocation() {
    assert_no_command_fails("redis-server", ProtocolVersion::RESP2).await;
}

#[tokio::test]
async fn no_command_to_valkey_fails_over_three_leases_and_their_revocation() {
    assert_no_command_fails("valkey-server", ProtocolVersion::RESP3).await;
}

/// A subscription is not interrupted by logins.
#[tokio::test]
async fn subscription_survives_rotations() {
    let (bao, server) = tokio::join!(shared(), Server::start("valkey-server"));
    let mount = database(bao, &server, "valkey-database-plugin").await;
    let auth = auth(bao, &mount, &server, ProtocolVersion::RESP3);
    let received = Arc::new(Notify::new());
    let notify = received.clone();
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(LIMIT))
        .set_response_timeout(Some(LIMIT))
        .set_push_sender(move |push: redis::PushInfo| {
            if push.kind == redis::PushKind::Message {
                notify.notify_one();
            }
            Ok::<_, redis::aio::SendError>(())
        });
    let mut subscriber = RedisConnection::new(auth.clone(), config);
    let mut subscribe = redis::cmd("SUBSCRIBE");
    subscribe
        .arg("news")
        .exec_async(&mut subscriber)
        .await
        .unwrap();
    let (_, user) = visit(&subscriber).await.unwrap();
    wait_for_generation(&auth, 3).await;
    wait_for_login(&subscriber, &user).await;

    let mut root = Client::open(format!("redis://:{ROOT}@{}", server.address))
        .unwrap()
        .get_multiplexed_async_connection()
        .await
        .unwrap();
    let mut publish = redis::cmd("PUBLISH");
    let count: u64 = publish
        .arg("news")
        .arg("today")
        .query_async(&mut root)
        .await
        .unwrap();
    assert_eq!(count, 1);
    tokio::time::timeout(LIMIT, received.notified())
        .await
        .unwrap();
}
