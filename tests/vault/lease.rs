//! Secrets that are made on demand: credentials for a real PostgreSQL.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use deadpool_postgres::{Config, Pool, Runtime, tokio_postgres::NoTls};
use secretwell::auth::{BuildError, LazyAuth, SecretPolicy};
use secretwell::vault::{Credential, KvVersion, VaultAuth, VaultProvider};
use secretwell::{Error, ErrorKind, ExposeSecret, Resolver, SecretProvider, SecretString};
use secretwell_testkit::{Fault, FaultProxy};
use serde::Deserialize;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::server::{Bao, shared, unique};
use crate::support::{key, secs, tool};

/// A PostgreSQL of its own. It ends with the tests' process.
struct Postgres {
    socket: PathBuf,
    python: Child,
    _folder: TempDir,
}

impl Drop for Postgres {
    /// Lets the database end before its folder goes.
    fn drop(&mut self) {
        drop(self.python.stdin.take());
        let _ = self.python.wait();
    }
}

impl Postgres {
    fn start() -> Self {
        const SCRIPT: &str = "
import pgserver, sys
server = pgserver.get_server(sys.argv[1])
print('ready', flush=True)
sys.stdin.read()
server.cleanup()
";
        let folder = tempfile::tempdir().unwrap();
        // As root, the server runs as a user of its own.
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let socket = folder.path().join("data");
        let mut child = Command::new(tool("postgres/bin/python"))
            .args(["-c", SCRIPT])
            .arg(&socket)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert_eq!(line.trim(), "ready");
        Self {
            socket,
            python: child,
            _folder: folder,
        }
    }

    fn pool(&self, user: &str, password: &str) -> Pool {
        let mut config = Config::new();
        config.host = Some(self.socket.display().to_string());
        config.dbname = Some("postgres".into());
        config.user = Some(user.into());
        config.password = Some(password.into());
        config.create_pool(Some(Runtime::Tokio1), NoTls).unwrap()
    }
}

/// A database whose credentials last this long, and a login to make them.
struct Stage {
    bao: &'static Bao,
    postgres: Postgres,
    name: String,
}

impl Stage {
    async fn new(lease: Value) -> Self {
        let bao = shared().await;
        let name = unique("database");
        let postgres = Postgres::start();
        bao.root(
            "POST",
            &format!("sys/mounts/{name}"),
            json!({"type": "database"}),
        )
        .await;
        let url = format!(
            "postgresql://{{{{username}}}}:{{{{password}}}}@/postgres?host={}",
            postgres.socket.display()
        );
        let connection = json!({
            "plugin_name": "postgresql-database-plugin",
            "allowed_roles": "app",
            "connection_url": url,
            "username": "postgres",
            "password": "",
        });
        bao.root("POST", &format!("{name}/config/pg"), connection)
            .await;
        let mut role = lease;
        role["db_name"] = json!("pg");
        role["creation_statements"] = json!([
            "CREATE ROLE \"{{name}}\" WITH LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}';"
        ]);
        bao.root("POST", &format!("{name}/roles/app"), role).await;
        let rules = format!(
            "path \"{name}/creds/app\" {{ capabilities = [\"read\"] }}\n\
             path \"sys/leases/renew\" {{ capabilities = [\"update\"] }}\n\
             path \"sys/leases/revoke\" {{ capabilities = [\"update\"] }}"
        );
        bao.policy(&name, &rules).await;
        bao.root(
            "POST",
            &format!("sys/auth/{name}"),
            json!({"type": "approle"}),
        )
        .await;
        Self {
            bao,
            postgres,
            name,
        }
    }

    async fn provider(&self, token: Value) -> VaultProvider {
        self.provider_at(self.bao.address, token).await
    }

    async fn provider_at(&self, address: SocketAddr, token: Value) -> VaultProvider {
        let role = format!("auth/{}/role/app", self.name);
        let mut settings = token;
        settings["token_policies"] = json!([self.name]);
        self.bao.root("POST", &role, settings).await;
        let id = self
            .bao
            .root("GET", &format!("{role}/role-id"), Value::Null)
            .await;
        let secret = self
            .bao
            .root("POST", &format!("{role}/secret-id"), json!({}))
            .await;
        let role_id = id["data"]["role_id"].as_str().unwrap();
        let secret_id = secret["data"]["secret_id"].as_str().unwrap();
        let auth = VaultAuth::app_role(role_id, Credential::value(secret_id)).mount(&self.name);
        VaultProvider::builder([format!("http://{address}")], auth)
            .unwrap()
            .client(|client| client.deadline(secs(2)))
            .kv_version(KvVersion::V2)
            .dynamic("db", format!("{}/creds/app", self.name))
            .build()
            .unwrap()
    }

    async fn leases(&self) -> usize {
        let path = format!("sys/leases/lookup/{}/creds/app?list=true", self.name);
        let (_, answer) = self
            .bao
            .ask(self.bao.root_token(), "GET", &path, Value::Null)
            .await;
        answer["data"]["keys"].as_array().map_or(0, Vec::len)
    }
}

#[derive(Deserialize)]
struct Secrets {
    db: Credentials,
}

#[derive(Deserialize)]
struct Credentials {
    username: String,
    password: SecretString,
}

/// Asks the database for `time` through a pool that is built lazily, and wants every query to succeed.
/// Returns how many pools there were.
async fn query_for(stage: &Stage, provider: VaultProvider, time: Duration) -> u64 {
    let socket = stage.postgres.socket.clone();
    let auth = LazyAuth::builder(Resolver::new(provider))
        .activation_delay(Duration::ZERO)
        .secret_policy("db/password", SecretPolicy::Unchecked)
        .unwrap()
        .build(move |secrets: Secrets, _| {
            let socket = socket.clone();
            async move {
                let mut config = Config::new();
                config.host = Some(socket.display().to_string());
                config.dbname = Some("postgres".into());
                config.user = Some(secrets.db.username);
                config.password = Some(secrets.db.password.expose_secret().into());
                Ok::<_, BuildError>(config.create_pool(Some(Runtime::Tokio1), NoTls)?)
            }
        });
    let end = Instant::now() + time;
    let mut tasks = JoinSet::new();
    for _ in 0..4 {
        let auth = auth.clone();
        tasks.spawn(async move {
            while Instant::now() < end {
                let pool = auth.get().await.unwrap().clone();
                // A connection of its own for each query, so that each has to log in.
                let client = pool.get().await.unwrap();
                client.query_one("SELECT 1", &[]).await.unwrap();
                let _ = deadpool_postgres::Object::take(client);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
    auth.get().await.unwrap().generation()
}

#[tokio::test]
async fn a_pool_is_rebuilt_before_its_credentials_end() {
    let stage = Stage::new(json!({"default_ttl": "3s", "max_ttl": "6s"})).await;
    let provider = stage.provider(json!({"token_ttl": "1h"})).await;
    // More than three times the longest that any credentials last.
    let pools = query_for(&stage, provider, secs(20)).await;
    assert!((4..=8).contains(&pools), "{pools} pools");
}

#[tokio::test]
async fn a_pool_is_rebuilt_before_its_credentials_die_with_the_token() {
    let stage = Stage::new(json!({"default_ttl": "1h"})).await;
    let provider = stage
        .provider(json!({"token_ttl": "4s", "token_max_ttl": "4s"}))
        .await;
    let pools = query_for(&stage, provider, secs(13)).await;
    assert!((3..=6).contains(&pools), "{pools} pools");
}

#[tokio::test]
async fn a_lease_that_is_neither_renewed_nor_replaced_is_good_to_its_end() {
    let stage = Stage::new(json!({"default_ttl": "6s"})).await;
    let proxy = FaultProxy::start(stage.bao.address).await;
    let provider = stage.provider_at(proxy.address(), json!({})).await;
    let started = Instant::now();
    let user = async || {
        let secret = provider.get(&key("db/username")).await?;
        Ok::<_, Error>(secret.value.expose_text()?.to_owned())
    };
    let first = user().await.unwrap();
    let renewals = || proxy.count("POST /v1/sys/leases/renew");
    let made = || proxy.count(&format!("GET /v1/{}/creds/app", stage.name));
    proxy.set(Fault::Cut);
    let error = loop {
        match user().await {
            Ok(user) => assert_eq!(user, first),
            Err(error) => break error,
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(started.elapsed() >= secs(6), "{:?}", started.elapsed());
    assert!(
        renewals() > 0 && made() > 1,
        "both were tried ahead of that"
    );
    proxy.set(Fault::None);
    assert_ne!(user().await.unwrap(), first);
}

#[tokio::test]
async fn keys_of_one_path_are_of_one_lease_which_is_revoked_when_asked() {
    let stage = Stage::new(json!({"default_ttl": "1h"})).await;
    let provider = stage.provider(json!({})).await;
    let mut readers = JoinSet::new();
    for _ in 0..50 {
        let provider = provider.clone();
        readers.spawn(async move {
            let read = provider
                .get_many(&[key("db/username"), key("db/password")])
                .await;
            let text = |secret: &secretwell::Secret| secret.value.expose_text().unwrap().to_owned();
            let [user, password] = &read[..] else {
                panic!("two keys have two results")
            };
            let user = user.as_ref().unwrap();
            assert!(user.valid_for.is_some_and(|time| time > secs(2_000)));
            (text(user), text(password.as_ref().unwrap()))
        });
    }
    let credentials = readers.join_all().await;
    assert!(credentials.iter().all(|pair| *pair == credentials[0]));
    assert_eq!(stage.leases().await, 1);
    let (user, password) = &credentials[0];
    let pool = stage.postgres.pool(user, password);
    pool.get()
        .await
        .unwrap()
        .query_one("SELECT 1", &[])
        .await
        .unwrap();

    provider.revoke_leases().await.unwrap();
    for _ in 0..100 {
        if stage.leases().await == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(stage.postgres.pool(user, password).get().await.is_err());
    let again = provider.get(&key("db/username")).await.unwrap();
    assert_ne!(again.value.expose_text().unwrap(), user);
    assert!(
        provider
            .get(&key("db/nothing"))
            .await
            .unwrap_err()
            .is_not_found()
    );
}
