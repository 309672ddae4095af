//! A PostgreSQL server, and Vault's database engine for it.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use deadpool_postgres::{Config, Pool, Runtime, tokio_postgres::NoTls};
use secretwell::vault::{Credential, KvVersion, VaultAuth, VaultProvider};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::server::{Agent, Bao, shared, unique};
use crate::support::{secs, tool};

/// A PostgreSQL server. It ends with the test process.
pub(crate) struct Postgres {
    pub(crate) socket: PathBuf,
    pub(crate) python: Child,
    pub(crate) _folder: TempDir,
}

impl Drop for Postgres {
    /// Waits until the database has ended, because its folder is deleted afterwards.
    fn drop(&mut self) {
        drop(self.python.stdin.take());
        let _ = self.python.wait();
    }
}

impl Postgres {
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        // If the tests run as root, the server runs as another user, who needs access.
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let socket = folder.path().join("data");
        // The program waits for the server for 10 s. On a busy machine, its next start finds the server running.
        let mut python = (0..60).filter_map(|_| run_server(&socket));
        Self {
            python: python.next().expect("the server starts"),
            socket,
            _folder: folder,
        }
    }

    pub(crate) fn pool(&self, user: &str, password: &str) -> Pool {
        let mut config = Config::new();
        config.host = Some(self.socket.display().to_string());
        config.dbname = Some("postgres".into());
        config.user = Some(user.into());
        config.password = Some(password.into());
        config.create_pool(Some(Runtime::Tokio1), NoTls).unwrap()
    }
}

/// Starts a server in `folder`, and returns the program that ends it. Returns `None` if the server is not ready. The
/// program has printed the reason then.
fn run_server(folder: &Path) -> Option<Child> {
    const SCRIPT: &str = "
import pgserver, sys
server = pgserver.get_server(sys.argv[1])
print('ready', flush=True)
sys.stdin.read()
server.cleanup()
";
    let mut python = Command::new(tool("postgres/bin/python"))
        .args(["-c", SCRIPT])
        .arg(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let output = python.stdout.take().unwrap();
    BufReader::new(output).read_line(&mut line).unwrap();
    if line.trim() == "ready" {
        return Some(python);
    }
    python.wait().unwrap();
    None
}

/// A database engine for a PostgreSQL server, and a login that can create credentials.
pub(crate) struct Fixture {
    pub(crate) bao: &'static Bao,
    pub(crate) postgres: Postgres,
    pub(crate) name: String,
    /// The deadline of the calls of a provider. The default is 2 s.
    pub(crate) deadline: Duration,
}

impl Fixture {
    /// `lease` is the part of the role with the durations of the credentials.
    pub(crate) async fn new(lease: Value) -> Self {
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
            "allowed_roles": "*",
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
            deadline: secs(2),
        }
    }

    /// `token` is the part of the login's role with the durations of the tokens.
    pub(crate) async fn provider(&self, token: Value) -> VaultProvider {
        self.provider_at(self.bao.address, token).await
    }

    pub(crate) async fn provider_at(&self, address: SocketAddr, token: Value) -> VaultProvider {
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
            .client(|client| client.deadline(self.deadline))
            .kv_version(KvVersion::V2)
            .dynamic("db", format!("{}/creds/app", self.name))
            .build()
            .unwrap()
    }

    /// Creates a role for an existing database user, whose password is rotated every hour.
    pub(crate) async fn static_role(&self, user: &str) {
        let pool = self.postgres.pool("postgres", "");
        let client = pool.get().await.unwrap();
        let create = format!("CREATE ROLE {user} WITH LOGIN PASSWORD 'initial'");
        client.batch_execute(&create).await.unwrap();
        let role = json!({"db_name": "pg", "username": user, "rotation_period": "1h"});
        let name = &self.name;
        self.bao
            .root("POST", &format!("{name}/static-roles/{user}"), role)
            .await;
    }

    /// Starts an agent that adds a token and caches leases.
    pub(crate) async fn agent(&self) -> Agent {
        let policies = json!({"policies": [self.name], "period": "1h"});
        let token = self.bao.root("POST", "auth/token/create", policies).await;
        Agent::start(self.bao, token["auth"]["client_token"].as_str().unwrap()).await
    }

    pub(crate) async fn accepts(&self, (user, password): &(String, String)) -> bool {
        self.postgres.pool(user, password).get().await.is_ok()
    }

    pub(crate) async fn leases(&self) -> usize {
        let path = format!("sys/leases/lookup/{}/creds/app?list=true", self.name);
        let (_, response) = self
            .bao
            .request(self.bao.root_token(), "GET", &path, Value::Null)
            .await;
        response["data"]["keys"].as_array().map_or(0, Vec::len)
    }
}
