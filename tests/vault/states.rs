//! The states of `LazyAuth` during failures of Vault.

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

struct Fixture {
    bao: &'static Bao,
    proxy: FaultProxy,
    name: String,
    auth: LazyAuth<SecretString>,
}

impl Fixture {
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
        let fixture = Self {
            auth: lazy(provider),
            bao,
            proxy,
            name,
        };
        fixture.set_read_allowed(true).await;
        fixture.write().await;
        fixture.auth.get().await.unwrap();
        fixture
    }

    /// Sets the policy to allow or deny reading the secret.
    async fn set_read_allowed(&self, allowed: bool) {
        let capability = if allowed { "read" } else { "deny" };
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

/// Waits until the auth is degraded with an error of this kind, and asserts that it still has a value.
async fn wait_until_degraded(auth: &LazyAuth<SecretString>, kind: ErrorKind) {
    let degraded = |state: &State| match state {
        State::Degraded { failure, .. } => failure.problems().iter().any(|e| e.kind() == kind),
        _ => false,
    };
    wait_for(auth, degraded).await;
    auth.try_get().unwrap();
}

async fn wait_until_ready(auth: &LazyAuth<SecretString>) {
    wait_for(auth, |state| matches!(state, State::Ready { .. })).await;
}

async fn wait_for(auth: &LazyAuth<SecretString>, condition: impl FnMut(&State) -> bool) {
    let mut watch = auth.watch_state();
    let result = tokio::time::timeout(secs(30), watch.wait_for(condition)).await;
    assert!(result.is_ok(), "{:?}", auth.state());
}

#[tokio::test]
async fn denied_or_deleted_secret_degrades_until_it_is_restored() {
    let fixture = Fixture::new().await;
    fixture.set_read_allowed(false).await;
    wait_until_degraded(&fixture.auth, ErrorKind::Denied).await;
    fixture.set_read_allowed(true).await;
    wait_until_ready(&fixture.auth).await;

    fixture.change("delete").await;
    wait_until_degraded(&fixture.auth, ErrorKind::NotFound).await;
    fixture.change("undelete").await;
    wait_until_ready(&fixture.auth).await;

    fixture.change("destroy").await;
    wait_until_degraded(&fixture.auth, ErrorKind::NotFound).await;
    fixture.write().await;
    wait_until_ready(&fixture.auth).await;
}

#[tokio::test]
async fn outage_and_rate_limit_degrade_but_a_revoked_token_does_not() {
    let fixture = Fixture::new().await;
    fixture.proxy.set(Fault::Close);
    wait_until_degraded(&fixture.auth, ErrorKind::Unavailable).await;
    fixture.proxy.set(Fault::None);
    wait_until_ready(&fixture.auth).await;

    let quota = format!("sys/quotas/rate-limit/{}", fixture.name);
    let limit = json!({"path": format!("{}/", fixture.name), "rate": 0.001, "interval": "1h"});
    fixture.bao.root("POST", &quota, limit).await;
    wait_until_degraded(&fixture.auth, ErrorKind::RateLimited { retry_after: None }).await;
    fixture.bao.root("DELETE", &quota, Value::Null).await;
    wait_until_ready(&fixture.auth).await;

    let fixture = Fixture::new().await;
    let revoke = format!("sys/leases/revoke-prefix/auth/{}/login", fixture.name);
    fixture
        .bao
        .root("POST", &revoke, json!({"sync": true}))
        .await;
    let logins = fixture.proxy.count("POST /v1/auth/");
    fixture.auth.rebuild().await.unwrap();
    assert_eq!(fixture.proxy.count("POST /v1/auth/"), logins + 1);
    assert!(matches!(fixture.auth.state(), State::Ready { .. }));
}

#[tokio::test]
async fn server_that_moves_to_another_configured_address_is_found() {
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
    wait_until_degraded(&auth, ErrorKind::Unavailable).await;
    bao.restart_at(other).await;
    wait_until_ready(&auth).await;
    auth.rebuild().await.unwrap();
}

#[tokio::test]
async fn sealed_server_degrades_a_warm_start_and_fails_a_cold_start() {
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
    wait_until_degraded(&warm, ErrorKind::Unavailable).await;
    let cold = lazy(provider());
    let error = cold.get().await.unwrap_err();
    assert!(error.to_string().contains("sealed"), "{error}");
    assert!(
        matches!(cold.state(), State::Failed { .. }),
        "{:?}",
        cold.state()
    );

    bao.unseal().await;
    wait_until_ready(&warm).await;
    let started = async { while cold.get().await.is_err() {} };
    tokio::time::timeout(secs(30), started).await.unwrap();
    wait_until_ready(&cold).await;
}

#[tokio::test]
async fn namespaces_have_separate_secrets() {
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
