//! What a service sees of trouble with its Vault: the states of a lazily built auth.

use std::time::Duration;

use secretwell::auth::{BuildError, LazyAuth, State};
use secretwell::vault::{Credential, KvVersion, VaultAuth, VaultProvider};
use secretwell::{ErrorKind, Resolver, SecretProvider, SecretString};
use secretwell_testkit::{Fault, FaultProxy};
use serde::Deserialize;
use serde_json::{Value, json};

use super::server::{Bao, free_address, shared, unique};
use crate::support::{key, secs};

const SECRET: &str = "a secret of thirty-two bytes or more";

#[derive(Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
struct Secrets {
    auth_secret: SecretString,
}

struct Stage {
    bao: &'static Bao,
    proxy: FaultProxy,
    name: String,
    auth: LazyAuth<SecretString>,
}

impl Stage {
    async fn new() -> Self {
        let bao = shared().await;
        let name = unique("states");
        bao.mount(&name, 2).await;
        bao.root(
            "POST",
            &format!("sys/auth/{name}"),
            json!({"type": "userpass"}),
        )
        .await;
        let user = json!({"password": "pass", "token_policies": [name]});
        bao.root("POST", &format!("auth/{name}/users/me"), user)
            .await;
        let proxy = FaultProxy::start(bao.address).await;
        let login = VaultAuth::userpass("me", Credential::value("pass")).mount(&name);
        let provider = VaultProvider::builder([format!("http://{}", proxy.address())], login)
            .unwrap()
            .mount(&name)
            .path("app")
            .kv_version(KvVersion::V2)
            .client(|client| {
                client
                    .deadline(Duration::from_millis(2500))
                    .attempt_timeout(secs(2))
            })
            .build()
            .unwrap();
        let stage = Self {
            auth: lazy(provider),
            bao,
            proxy,
            name,
        };
        stage.allow(true).await;
        stage.write().await;
        stage.auth.get().await.unwrap();
        stage
    }

    async fn allow(&self, allow: bool) {
        let capability = if allow { "read" } else { "deny" };
        let rules = format!(
            "path \"{}/data/*\" {{ capabilities = [\"{capability}\"] }}",
            self.name
        );
        self.bao.policy(&self.name, &rules).await;
    }

    async fn write(&self) {
        let path = format!("{}/data/app", self.name);
        let secret = json!({"data": {"AUTH_SECRET": SECRET}});
        self.bao.root("POST", &path, secret).await;
    }

    async fn change(&self, verb: &str) {
        let path = format!("{}/{verb}/app", self.name);
        self.bao.root("POST", &path, json!({"versions": [1]})).await;
    }
}

fn lazy(provider: VaultProvider) -> LazyAuth<SecretString> {
    let resolver = Resolver::builder(provider)
        .ttl(Duration::from_millis(500))
        .negative_ttl(secs(1))
        .max_backoff(secs(1))
        .build();
    LazyAuth::new(resolver, |secrets: Secrets, _| async move {
        Ok::<_, BuildError>(secrets.auth_secret)
    })
}

/// Waits until the auth is degraded for this reason, and sees that it serves all the same.
async fn is_degraded(auth: &LazyAuth<SecretString>, kind: ErrorKind) {
    let wanted = |state: &State| match state {
        State::Degraded { failure, .. } => failure.problems().iter().any(|e| e.kind() == kind),
        _ => false,
    };
    wait_for(auth, wanted).await;
    auth.try_get().unwrap();
}

async fn is_ready(auth: &LazyAuth<SecretString>) {
    wait_for(auth, |state| matches!(state, State::Ready { .. })).await;
}

async fn wait_for(auth: &LazyAuth<SecretString>, wanted: impl FnMut(&State) -> bool) {
    let mut watch = auth.watch_state();
    let waited = tokio::time::timeout(secs(30), watch.wait_for(wanted)).await;
    assert!(waited.is_ok(), "{:?}", auth.state());
}

#[tokio::test]
async fn a_policy_taken_away_and_a_secret_deleted_degrade_until_they_are_back() {
    let stage = Stage::new().await;
    stage.allow(false).await;
    is_degraded(&stage.auth, ErrorKind::Denied).await;
    stage.allow(true).await;
    is_ready(&stage.auth).await;

    stage.change("delete").await;
    is_degraded(&stage.auth, ErrorKind::NotFound).await;
    stage.change("undelete").await;
    is_ready(&stage.auth).await;

    stage.change("destroy").await;
    is_degraded(&stage.auth, ErrorKind::NotFound).await;
    stage.write().await;
    is_ready(&stage.auth).await;
}

#[tokio::test]
async fn an_outage_and_a_quota_degrade_and_a_revoked_token_is_not_noticed() {
    let stage = Stage::new().await;
    stage.proxy.set(Fault::Cut);
    is_degraded(&stage.auth, ErrorKind::Unavailable).await;
    stage.proxy.set(Fault::None);
    is_ready(&stage.auth).await;

    let quota = format!("sys/quotas/rate-limit/{}", stage.name);
    let limit = json!({"path": format!("{}/", stage.name), "rate": 0.001, "interval": "1h"});
    stage.bao.root("POST", &quota, limit).await;
    is_degraded(&stage.auth, ErrorKind::RateLimited { retry_after: None }).await;
    stage.bao.root("DELETE", &quota, Value::Null).await;
    is_ready(&stage.auth).await;

    let stage = Stage::new().await;
    let revoke = format!("sys/leases/revoke-prefix/auth/{}/login", stage.name);
    stage.bao.root("POST", &revoke, json!({"sync": true})).await;
    let logins = stage.proxy.count("POST /v1/auth/");
    stage.auth.rebuild().await.unwrap();
    assert_eq!(stage.proxy.count("POST /v1/auth/"), logins + 1);
    assert!(matches!(stage.auth.state(), State::Ready { .. }));
}

#[tokio::test]
async fn a_server_that_comes_back_at_another_listed_address_is_found() {
    let mut bao = Bao::on_disk().await;
    bao.mount("secret", 2).await;
    let secret = json!({"data": {"AUTH_SECRET": SECRET}});
    bao.root("POST", "secret/data/app", secret).await;
    let other = free_address();
    let addresses = [bao.address, other].map(|address| format!("http://{address}"));
    let token = VaultAuth::token(Credential::value(bao.root_token()));
    let provider = VaultProvider::builder(addresses, token)
        .unwrap()
        .path("app")
        .client(|client| client.deadline(secs(1)))
        .build()
        .unwrap();
    let auth = lazy(provider);
    auth.get().await.unwrap();

    bao.signal("KILL");
    is_degraded(&auth, ErrorKind::Unavailable).await;
    bao.restart_at(other).await;
    is_ready(&auth).await;
    auth.rebuild().await.unwrap();
}

#[tokio::test]
async fn a_server_that_is_sealed_degrades_who_is_ready_and_fails_who_starts() {
    let bao = Bao::on_disk().await;
    bao.mount("secret", 2).await;
    let secret = json!({"data": {"AUTH_SECRET": SECRET}});
    bao.root("POST", "secret/data/app", secret).await;
    let provider = || {
        let token = VaultAuth::token(Credential::value(bao.root_token()));
        VaultProvider::builder([format!("http://{}", bao.address)], token)
            .unwrap()
            .path("app")
            .client(|client| client.deadline(secs(1)))
            .build()
            .unwrap()
    };
    let warm = lazy(provider());
    warm.get().await.unwrap();

    bao.root("POST", "sys/seal", Value::Null).await;
    is_degraded(&warm, ErrorKind::Unavailable).await;
    let cold = lazy(provider());
    let error = cold.get().await.unwrap_err();
    assert!(error.to_string().contains("sealed"), "{error}");
    assert!(
        matches!(cold.state(), State::Failed { .. }),
        "{:?}",
        cold.state()
    );

    bao.unseal().await;
    is_ready(&warm).await;
    let started = async { while cold.get().await.is_err() {} };
    tokio::time::timeout(secs(30), started).await.unwrap();
    is_ready(&cold).await;
}

#[tokio::test]
async fn a_namespace_has_secrets_of_its_own() {
    let bao = shared().await;
    let team = unique("team");
    bao.root("POST", &format!("sys/namespaces/{team}"), json!({}))
        .await;
    let kv = json!({"type": "kv", "options": {"version": "1"}});
    bao.root("POST", &format!("{team}/sys/mounts/kv"), kv).await;
    bao.root(
        "POST",
        &format!("{team}/kv/app"),
        json!({"A": "of the team"}),
    )
    .await;
    let provider = |namespace: &str| {
        let token = VaultAuth::token(Credential::value(bao.root_token()));
        VaultProvider::builder([format!("http://{}", bao.address)], token)
            .unwrap()
            .mount("kv")
            .path("app")
            .namespace(namespace)
            .login_namespace("root")
            .build()
            .unwrap()
    };
    let secret = provider(&format!("{team}/")).get(&key("A")).await.unwrap();
    assert_eq!(secret.value.expose_text().unwrap(), "of the team");
    let error = provider("no-such-team").get(&key("A")).await.unwrap_err();
    assert!(!error.is_not_found() && !error.is_temporary(), "{error}");
}
