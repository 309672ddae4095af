//! A cluster whose standbys know nothing yet of what was made a moment ago, and whose leader cannot write.

use std::sync::Arc;
use std::time::Duration;

use secretwell::vault::{Credential, KvVersion, VaultAuth, VaultProvider};
use secretwell::{ErrorKind, SecretProvider};
use secretwell_testkit::FaultProxy;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::server::Bao;
use crate::support::{key, secs};

/// A cluster with a proxy before each server, the first of which leads.
struct Stage {
    servers: [Bao; 3],
    proxies: Vec<FaultProxy>,
}

impl Stage {
    async fn new() -> Self {
        let servers = Bao::cluster().await;
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

    async fn root(&self, path: &str, body: Value) -> Value {
        self.servers[0].root("POST", path, body).await
    }

    fn provider(&self, places: &[usize], auth: VaultAuth) -> VaultProvider {
        let address = |place: &usize| format!("http://{}", self.proxies[*place].address());
        VaultProvider::builder(places.iter().map(address), auth)
            .unwrap()
            .kv_version(KvVersion::V2)
            .build()
            .unwrap()
    }

    fn token(&self) -> VaultAuth {
        VaultAuth::token(Credential::value(self.servers[0].root_token()))
    }

    fn count(&self, start: &str) -> usize {
        self.proxies.iter().map(|proxy| proxy.count(start)).sum()
    }

    async fn app_role(&self) -> String {
        self.root("sys/auth/approle", json!({"type": "approle"}))
            .await;
        let role = json!({"token_policies": ["app"]});
        self.root("auth/approle/role/app", role).await;
        let path = "auth/approle/role/app/role-id";
        let answer = self.servers[0].root("GET", path, Value::Null).await;
        answer["data"]["role_id"].as_str().unwrap().to_owned()
    }

    async fn secret_id(&self) -> String {
        let answer = self
            .root("auth/approle/role/app/secret-id", json!({}))
            .await;
        answer["data"]["secret_id"].as_str().unwrap().to_owned()
    }

    /// Waits until the server at `place` has this secret.
    async fn settle(&self, place: usize, path: &str) {
        let server = &self.servers[place];
        for _ in 0..600 {
            let asked = server.try_ask(server.root_token(), "GET", path, Value::Null);
            if asked.await.is_some_and(|(status, _)| status == 200) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("the server at {place} stays behind");
    }
}

#[tokio::test]
async fn what_was_written_a_moment_ago_is_absent_at_no_server() {
    let stage = Stage::new().await;
    for place in 1..3 {
        stage.settle(place, "secret/data/probe").await;
    }
    let everywhere = stage.provider(&[0, 1, 2], stage.token());
    let standbys = [1, 2].map(|place| stage.provider(&[place], stage.token()));
    for provider in standbys.iter().chain([&everywhere]) {
        provider.health().await.unwrap();
    }
    for number in 0..60 {
        let providers = [&standbys[number % 2], &everywhere];
        let path = format!("secret/data/new{number}");
        stage.root(&path, json!({"data": {"A": "1"}})).await;
        for provider in providers {
            provider.get(&key(&format!("new{number}/A"))).await.unwrap();
        }
        // A field that the version before has not.
        stage
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
async fn a_credential_made_a_moment_ago_is_refused_by_no_server_and_a_wrong_one_is_not_tried_on() {
    let stage = Stage::new().await;
    let role_id = stage.app_role().await;
    stage
        .root("secret/data/app", json!({"data": {"A": "1"}}))
        .await;
    for place in 1..3 {
        stage.settle(place, "secret/data/app").await;
    }
    let read = async |place: usize, auth: VaultAuth| {
        let provider = stage.provider(&[place], auth);
        provider.get(&key("app/A")).await.map(drop)
    };
    for number in 0..20 {
        let secret_id = Credential::value(stage.secret_id().await);
        let auth = VaultAuth::app_role(&role_id, secret_id);
        read(1 + number % 2, auth).await.unwrap();
    }

    // Five would lock the role, at each server that was asked.
    let logins = |stage: &Stage| stage.count("POST /v1/auth/approle/login");
    let wrong = VaultAuth::app_role(&role_id, Credential::value("wrong"));
    for (place, costs) in [(0, 1), (1, 2)] {
        let before = logins(&stage);
        let provider = stage.provider(&[place], wrong.clone());
        for _ in 0..10 {
            let error = provider.get(&key("app/A")).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{error}");
        }
        assert_eq!(logins(&stage) - before, costs, "server {place}");
    }
}

#[tokio::test]
async fn a_token_that_cannot_be_renewed_while_nobody_leads_is_not_given_up() {
    let stage = Stage::new().await;
    stage
        .root("sys/auth/userpass", json!({"type": "userpass"}))
        .await;
    let user = json!({"password": "pass", "token_policies": ["app"], "token_ttl": "40s"});
    stage.root("auth/userpass/users/me", user).await;
    stage
        .root("secret/data/app", json!({"data": {"A": "1"}}))
        .await;
    let auth = VaultAuth::userpass("me", Credential::value("pass"));
    let provider = Arc::new(stage.provider(&[0, 1, 2], auth));
    let started = Instant::now();
    let reading = provider.clone();
    // Beyond the end that the token had at first.
    let reader = tokio::spawn(async move {
        while started.elapsed() < secs(45) {
            reading.get(&key("app/A")).await.unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    // It is due between 24 and 28 seconds, and the servers cannot write from 18 to 32.
    let renewals = || stage.count("POST /v1/auth/token/renew-self");
    tokio::time::sleep_until(started + secs(18)).await;
    let others = &stage.servers[1..];
    others.iter().for_each(|server| server.signal("STOP"));
    tokio::time::sleep_until(started + secs(32)).await;
    assert!(renewals() > 1, "{} renewals were tried", renewals());
    others.iter().for_each(|server| server.signal("CONT"));
    reader.await.unwrap();
    assert_eq!(stage.count("POST /v1/auth/userpass/login"), 1);
}
