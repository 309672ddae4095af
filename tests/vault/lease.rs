//! Dynamic secrets: credentials for a real PostgreSQL database.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use deadpool_postgres::{Config, Pool, Runtime, tokio_postgres::NoTls};
use secretwell::auth::{BuildError, Guard, LazyAuth, SecretPolicy};
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

/// A PostgreSQL server. It ends with the test process.
struct Postgres {
    socket: PathBuf,
    python: Child,
    _folder: TempDir,
}

impl Drop for Postgres {
    /// Waits until the database has ended, because its folder is deleted afterwards.
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
        // If the tests run as root, the server runs as another user, who needs access.
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

/// A database engine for a PostgreSQL server, and a login that can create credentials.
struct Fixture {
    bao: &'static Bao,
    postgres: Postgres,
    name: String,
}

impl Fixture {
    /// `lease` is the part of the role with the durations of the credentials.
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

    /// `token` is the part of the login's role with the durations of the tokens.
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
        let (_, response) = self
            .bao
            .request(self.bao.root_token(), "GET", &path, Value::Null)
            .await;
        response["data"]["keys"].as_array().map_or(0, Vec::len)
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

/// Sends queries for `duration` through a lazily built pool, and asserts that every query succeeds. Returns the
/// number of pools that were built.
async fn query_for(fixture: &Fixture, provider: VaultProvider, duration: Duration) -> u64 {
    let socket = fixture.postgres.socket.clone();
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
    let end = Instant::now() + duration;
    let mut tasks = JoinSet::new();
    for _ in 0..4 {
        let auth = auth.clone();
        tasks.spawn(async move {
            while Instant::now() < end {
                let pool = auth.get().await.unwrap().clone();
                // A new connection for each query, so that each query logs in.
                let client = pool.get().await.unwrap();
                client.query_one("SELECT 1", &[]).await.unwrap();
                let _ = deadpool_postgres::Object::take(client);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
    }
    while let Some(result) = tasks.join_next().await {
        result.unwrap();
    }
    Guard::generation(&auth.get().await.unwrap())
}

#[tokio::test]
async fn pool_is_rebuilt_before_its_credentials_expire() {
    let fixture = Fixture::new(json!({"default_ttl": "3s", "max_ttl": "6s"})).await;
    let provider = fixture.provider(json!({"token_ttl": "1h"})).await;
    // More than three times the maximum duration of the credentials.
    let pools = query_for(&fixture, provider, secs(20)).await;
    assert!((4..=8).contains(&pools), "{pools} pools");
}

#[tokio::test]
async fn pool_is_rebuilt_before_the_token_of_its_credentials_expires() {
    let fixture = Fixture::new(json!({"default_ttl": "1h"})).await;
    let provider = fixture
        .provider(json!({"token_ttl": "4s", "token_max_ttl": "4s"}))
        .await;
    let pools = query_for(&fixture, provider, secs(13)).await;
    assert!((3..=6).contains(&pools), "{pools} pools");
}

#[tokio::test]
async fn lease_that_cannot_be_renewed_or_replaced_is_used_until_it_expires() {
    let fixture = Fixture::new(json!({"default_ttl": "6s"})).await;
    let proxy = FaultProxy::start(fixture.bao.address).await;
    let provider = fixture.provider_at(proxy.address(), json!({})).await;
    let started = Instant::now();
    let user = async || {
        let secret = provider.get(&key("db/username")).await?;
        Ok::<_, Error>(secret.value.expose_text()?.to_owned())
    };
    let first = user().await.unwrap();
    let renewals = || proxy.count("POST /v1/sys/leases/renew");
    let creations = || proxy.count(&format!("GET /v1/{}/creds/app", fixture.name));
    proxy.set(Fault::Close);
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
        renewals() > 0 && creations() > 1,
        "renewal and replacement must be attempted before the expiry"
    );
    proxy.set(Fault::None);
    assert_ne!(user().await.unwrap(), first);
}

#[tokio::test]
async fn concurrent_reads_share_one_lease_and_it_can_be_revoked() {
    let fixture = Fixture::new(json!({"default_ttl": "1h"})).await;
    let provider = fixture.provider(json!({})).await;
    let mut readers = JoinSet::new();
    for _ in 0..50 {
        let provider = provider.clone();
        readers.spawn(async move {
            let results = provider
                .get_many(&[key("db/username"), key("db/password")])
                .await;
            let text = |secret: &secretwell::Secret| secret.value.expose_text().unwrap().to_owned();
            let [user, password] = &results[..] else {
                panic!("expected two results")
            };
            let user = user.as_ref().unwrap();
            assert!(
                user.valid_for
                    .is_some_and(|lifetime| lifetime > secs(2_000))
            );
            (text(user), text(password.as_ref().unwrap()))
        });
    }
    let credentials = readers.join_all().await;
    assert!(credentials.iter().all(|pair| *pair == credentials[0]));
    assert_eq!(fixture.leases().await, 1);
    let (user, password) = &credentials[0];
    let pool = fixture.postgres.pool(user, password);
    pool.get()
        .await
        .unwrap()
        .query_one("SELECT 1", &[])
        .await
        .unwrap();

    provider.revoke_leases().await.unwrap();
    for _ in 0..100 {
        if fixture.leases().await == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(fixture.postgres.pool(user, password).get().await.is_err());
    let replacement = provider.get(&key("db/username")).await.unwrap();
    assert_ne!(replacement.value.expose_text().unwrap(), user);
    assert!(
        provider
            .get(&key("db/nothing"))
            .await
            .unwrap_err()
            .is_not_found()
    );
}
