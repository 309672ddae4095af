//! A cluster whose standbys have stale data, and whose leader cannot write.

use std::sync::Arc;
use std::time::Duration;

use secretwell::vault::{Credential, KvVersion, VaultAuth, VaultProvider};
use secretwell::{ErrorKind, SecretProvider};
use secretwell_testkit::FaultProxy;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::server::Bao;
use crate::support::{key, secs};

/// A cluster with a fault proxy in front of each server. The first server is the leader.
pub(super) struct Fixture {
    servers: [Bao; 3],
    proxies: Vec<FaultProxy>,
}

impl Fixture {
    async fn new() -> Self {
        Self::with(Bao::cluster().await).await
    }

    pub(super) async fn with(servers: [Bao; 3]) -> Self {
        let mut proxies = Vec::new();
        for server in &servers {
            proxies.push(FaultProxy::start(server.address).await);
        }
        let active = &servers[0];
        active.mount("secret", 2).await;
        let rules = "path \"secret/*\" { capabilities = [\"read\", \"list\"] }";
        active.policy("app", rules).await;
        Self { servers, proxies }
    }

    pub(super) async fn root(&self, path: &str, body: Value) -> Value {
        self.servers[0].root("POST", path, body).await
    }

    pub(super) fn provider(&self, servers: &[usize], auth: VaultAuth) -> VaultProvider {
        let address = |server: &usize| format!("http://{}", self.proxies[*server].address());
        VaultProvider::builder(servers.iter().map(address), auth)
            .unwrap()
            .kv_version(KvVersion::V2)
            .build()
            .unwrap()
    }

    fn token(&self) -> VaultAuth {
        VaultAuth::token(Credential::value(self.servers[0].root_token()))
    }

    pub(super) fn count(&self, prefix: &str) -> usize {
        self.proxies.iter().map(|proxy| proxy.count(prefix)).sum()
    }

    pub(super) async fn app_role(&self) -> String {
        self.root("sys/auth/approle", json!({"type": "approle"}))
            .await;
        let role = json!({"token_policies": ["app"]});
        self.root("auth/approle/role/app", role).await;
        let path = "auth/approle/role/app/role-id";
        let response = self.servers[0].root("GET", path, Value::Null).await;
        response["data"]["role_id"].as_str().unwrap().to_owned()
    }

    pub(super) async fn secret_id(&self) -> String {
        let response = self
            .root("auth/approle/role/app/secret-id", json!({}))
            .await;
        response["data"]["secret_id"].as_str().unwrap().to_owned()
    }

    /// Waits until the server with this index has the secret at `path`.
    async fn wait_for_replication(&self, index: usize, path: &str) {
        let server = &self.servers[index];
        for _ in 0..600 {
            let response = server.try_request(server.root_token(), "GET", path, Value::Null);
            if response.await.is_some_and(|(status, _)| status == 200) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("server {index} does not catch up");
    }
}

#[tokio::test]
async fn new_secret_is_found_at_every_server() {
    let fixture = Fixture::new().await;
    for server in 1..3 {
        fixture
            .wait_for_replication(server, "secret/data/probe")
            .await;
    }
    let cluster = fixture.provider(&[0, 1, 2], fixture.token());
    let standbys = [1, 2].map(|server| fixture.provider(&[server], fixture.token()));
    for provider in standbys.iter().chain([&cluster]) {
        provider.health().await.unwrap();
    }
    for number in 0..60 {
        let providers = [&standbys[number % 2], &cluster];
        let path = format!("secret/data/new{number}");
        fixture.root(&path, json!({"data": {"A": "1"}})).await;
        for provider in providers {
            provider.get(&key(&format!("new{number}/A"))).await.unwrap();
        }
        // A field that the previous version does not have.
        fixture
            .root(&path, json!({"data": {"A": "1", "B": "2"}}))
            .await;
        for provider in providers {
            provider.get(&key(&format!("new{number}/B"))).await.unwrap();
        }
    }
    let absent = standbys[0].get(&key("none/A")).await.unwrap_err();
    assert_eq!(absent.kind(), ErrorKind::NotFound, "{absent}");
    let absent = standbys[0].get(&key("new0/C")).await.unwrap_err();
    assert_eq!(absent.kind(), ErrorKind::NotFound, "{absent}");
}

#[tokio::test]
async fn new_credential_is_accepted_by_every_server_and_a_wrong_one_is_not_repeated() {
    let fixture = Fixture::new().await;
    let role_id = fixture.app_role().await;
    fixture
        .root("secret/data/app", json!({"data": {"A": "1"}}))
        .await;
    for server in 1..3 {
        fixture
            .wait_for_replication(server, "secret/data/app")
            .await;
    }
    let read = async |server: usize, auth: VaultAuth| {
        let provider = fixture.provider(&[server], auth);
        provider.get(&key("app/A")).await.map(drop)
    };
    for number in 0..20 {
        let secret_id = Credential::value(fixture.secret_id().await);
        let auth = VaultAuth::app_role(&role_id, secret_id);
        read(1 + number % 2, auth).await.unwrap();
    }

    // Five wrong attempts would lock the role at a server.
    let logins = |fixture: &Fixture| fixture.count("POST /v1/auth/approle/login");
    let wrong = VaultAuth::app_role(&role_id, Credential::value("wrong"));
    for server in [0, 1] {
        let before = logins(&fixture);
        let provider = fixture.provider(&[server], wrong.clone());
        for _ in 0..10 {
            let error = provider.get(&key("app/A")).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{error}");
        }
        assert_eq!(logins(&fixture) - before, 1, "server {server}");
    }
}

/// The index is that of the cluster, whatever the namespace of the request is.
#[tokio::test]
async fn secret_and_login_of_a_namespace_are_found_at_every_server() {
    let fixture = Fixture::new().await;
    for server in 1..3 {
        fixture
            .wait_for_replication(server, "secret/data/probe")
            .await;
    }
    fixture.root("sys/namespaces/team", json!({})).await;
    let mount = json!({"type": "kv", "options": {"version": "2"}});
    fixture.root("team/sys/mounts/kv", mount).await;
    let rules = "path \"kv/*\" { capabilities = [\"read\"] }";
    fixture.servers[0]
        .root(
            "POST",
            "team/sys/policies/acl/app",
            json!({"policy": rules}),
        )
        .await;
    fixture
        .root("team/sys/auth/approle", json!({"type": "approle"}))
        .await;
    let role = json!({"token_policies": ["app"], "token_period": "1h"});
    fixture.root("team/auth/approle/role/app", role).await;
    let path = "team/auth/approle/role/app/role-id";
    let role_id = fixture.servers[0].root("GET", path, Value::Null).await;
    let role_id = role_id["data"]["role_id"].as_str().unwrap();
    for server in 1..3 {
        fixture.wait_for_replication(server, path).await;
    }
    // A new mount does not accept requests at once.
    tokio::time::sleep(secs(2)).await;
    for number in 0..10 {
        let secret_id = fixture
            .root("team/auth/approle/role/app/secret-id", json!({}))
            .await;
        let secret_id = secret_id["data"]["secret_id"].as_str().unwrap();
        let auth = VaultAuth::app_role(role_id, Credential::value(secret_id));
        let address = fixture.proxies[1 + number % 2].address();
        let provider = VaultProvider::builder([format!("http://{address}")], auth)
            .unwrap()
            .namespace("team")
            .mount("kv")
            .kv_version(KvVersion::V2)
            .build()
            .unwrap();
        provider.health().await.unwrap();
        let path = format!("team/kv/data/new{number}");
        fixture.root(&path, json!({"data": {"A": "1"}})).await;
        provider.get(&key(&format!("new{number}/A"))).await.unwrap();
        provider.health().await.unwrap();
        let absent = provider.get(&key("none/A")).await.unwrap_err();
        assert_eq!(absent.kind(), ErrorKind::NotFound, "{absent}");
    }
}

#[tokio::test]
async fn token_that_cannot_be_renewed_without_a_leader_stays_in_use() {
    let fixture = Fixture::new().await;
    fixture
        .root("sys/auth/userpass", json!({"type": "userpass"}))
        .await;
    let user = json!({"password": "pass", "token_policies": ["app"], "token_ttl": "40s"});
    fixture.root("auth/userpass/users/me", user).await;
    fixture
        .root("secret/data/app", json!({"data": {"A": "1"}}))
        .await;
    let auth = VaultAuth::userpass("me", Credential::value("pass"));
    let provider = Arc::new(fixture.provider(&[0, 1, 2], auth));
    let started = Instant::now();
    let reading = provider.clone();
    // Longer than the first lifetime of the token.
    let reader = tokio::spawn(async move {
        while started.elapsed() < secs(45) {
            reading.get(&key("app/A")).await.unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    // The renewal is due between 24 and 28 seconds. The servers cannot write from 18 to 32 seconds.
    let renewals = || fixture.count("POST /v1/auth/token/renew-self");
    tokio::time::sleep_until(started + secs(18)).await;
    let others = &fixture.servers[1..];
    others.iter().for_each(|server| server.signal("STOP"));
    tokio::time::sleep_until(started + secs(32)).await;
    assert!(renewals() > 1, "{} renewals were attempted", renewals());
    others.iter().for_each(|server| server.signal("CONT"));
    reader.await.unwrap();
    assert_eq!(fixture.count("POST /v1/auth/userpass/login"), 1);
}
