//! A cluster of three: standbys that lag, and leaders that go.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use secretwell::auth::{BuildError, LazyAuth, State, Strength};
use secretwell::vault::{Auth, Credential, KvVersion, VaultProvider};
use secretwell::{Resolver, SecretProvider, SecretString};
use secretwell_testkit::{Fault, FaultProxy};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::server::Bao;
use crate::support::{key, secs};

/// A mount, a secret in it, and a user who may read it.
async fn seed(active: &Bao) {
    active.mount("secret", 2).await;
    write(active, 0).await;
    let rules = "path \"secret/*\" { capabilities = [\"read\"] }";
    active.policy("app", rules).await;
    active
        .root("POST", "sys/auth/userpass", json!({"type": "userpass"}))
        .await;
    let user = json!({"password": "pass", "token_policies": ["app"], "token_ttl": "20s"});
    active.root("POST", "auth/userpass/users/me", user).await;
}

async fn write(active: &Bao, number: usize) {
    let secret = json!({"data": {"A": number.to_string()}});
    active.root("POST", "secret/data/app", secret).await;
}

fn user() -> Auth {
    Auth::userpass("me", Credential::value("pass"))
}

fn provider(addresses: &[String], auth: Auth) -> VaultProvider {
    VaultProvider::builder(addresses, auth)
        .unwrap()
        .path("app")
        .kv_version(KvVersion::V2)
        .build()
        .unwrap()
}

fn addresses(servers: &[Bao]) -> Vec<String> {
    let address = |server: &Bao| format!("http://{}", server.address);
    servers.iter().map(address).collect()
}

/// Waits until every server has the secret.
async fn settle(servers: &[Bao]) {
    for server in servers {
        for _ in 0..200 {
            let root = server.root_token();
            let (status, _) = server
                .ask(root, "GET", "secret/data/app", Value::Null)
                .await;
            if status == 200 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test]
async fn standbys_that_lag_never_turn_a_secret_back() {
    let servers = Bao::cluster().await;
    seed(&servers[0]).await;
    settle(&servers).await;
    let mut proxies = Vec::new();
    for server in &servers {
        proxies.push(FaultProxy::start(server.address).await);
    }
    let addresses: Vec<String> = proxies
        .iter()
        .map(|proxy| format!("http://{}", proxy.address()))
        .collect();
    let provider = provider(
        &addresses,
        Auth::token(Credential::value(servers[0].root_token())),
    );
    provider.get(&key("A")).await.unwrap();

    let mut newest = 0;
    for number in 1..=120 {
        write(&servers[0], number).await;
        // The active server is read first, so that the newest is seen, and then only another.
        for only in [0, 1 + number % 2] {
            for (index, proxy) in proxies.iter().enumerate() {
                proxy.set(if index == only {
                    Fault::None
                } else {
                    Fault::Cut
                });
            }
            // A standby that is behind and alone says so, until it has caught up.
            let secret = loop {
                match provider.get(&key("A")).await {
                    Ok(secret) => break secret,
                    Err(error) => assert!(error.to_string().contains("behind"), "{error}"),
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            };
            let seen: usize = secret.value.expose_text().unwrap().parse().unwrap();
            assert!(
                seen >= newest,
                "from {newest} back to {seen}, at server {only}"
            );
            newest = seen;
        }
        assert_eq!(newest, number);
    }
    for proxy in &proxies {
        assert!(proxy.count("GET /v1/secret/data/app") > 30);
    }
}

#[derive(Deserialize)]
struct Secrets {
    #[serde(rename = "A")]
    a: SecretString,
}

fn lazy(provider: VaultProvider) -> LazyAuth<SecretString> {
    LazyAuth::builder(Resolver::builder(provider).ttl(secs(2)).build())
        .strength("A", Strength::Any)
        .unwrap()
        .build(|secrets: Secrets, _| async move { Ok::<_, BuildError>(secrets.a) })
}

/// Loses the leader, by `lose`, under reads through all three servers; gives it back, by `bring_back`,
/// when another leads. Returns how long it took until a login was possible again, and a whole cold
/// start beyond that.
async fn failover(
    servers: &[Bao; 3],
    lose: &str,
    bring_back: Option<&str>,
) -> (Duration, Duration) {
    let mut leader = 0;
    for (index, server) in servers.iter().enumerate() {
        if server.is_active().await {
            leader = index;
        }
    }
    let warm = lazy(provider(&addresses(servers), user()));
    warm.get().await.unwrap();
    let fresh = Arc::new(provider(&addresses(servers), user()));
    fresh.get(&key("A")).await.unwrap();

    servers[leader].signal(lose);
    let lost = Instant::now();
    let reading = Arc::new(AtomicUsize::new(1));
    let mut readers = JoinSet::new();
    for _ in 0..3 {
        let (warm, fresh, reading) = (warm.clone(), fresh.clone(), reading.clone());
        readers.spawn(async move {
            while reading.load(Ordering::Relaxed) == 1 {
                fresh.get(&key("A")).await.unwrap();
                warm.get().await.unwrap();
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
    }
    // Somebody who starts in the middle of it.
    let cold = lazy(provider(&addresses(servers), user()));
    let starting = cold.clone();
    let cold_start = tokio::spawn(async move {
        while starting.get().await.is_err() {}
        Instant::now()
    });
    let login = loop {
        let (survivor, login) = (&servers[(leader + 1) % 3], json!({"password": "pass"}));
        let asked = survivor.ask("", "POST", "auth/userpass/login/me", login);
        match tokio::time::timeout(secs(1), asked).await {
            Ok((status, _)) if status == 200 => break lost.elapsed(),
            _ => tokio::time::sleep(Duration::from_millis(50)).await,
        }
        assert!(lost.elapsed() < secs(60), "nobody leads");
    };
    let started = cold_start.await.unwrap().duration_since(lost);
    assert!(
        started < login + secs(2),
        "login after {login:?}, started after {started:?}"
    );

    if let Some(signal) = bring_back {
        servers[leader].signal(signal);
    }
    tokio::time::sleep(secs(3)).await;
    reading.store(0, Ordering::Relaxed);
    while let Some(ended) = readers.join_next().await {
        ended.unwrap();
    }
    assert!(
        matches!(warm.state(), State::Ready { .. }),
        "{:?}",
        warm.state()
    );
    (login, started.saturating_sub(login))
}

#[tokio::test]
async fn a_leader_that_hangs_and_one_that_dies_fail_no_read() {
    let servers = Bao::cluster().await;
    seed(&servers[0]).await;
    settle(&servers).await;
    let hung = failover(&servers, "STOP", Some("CONT")).await;
    let killed = failover(&servers, "KILL", None).await;
    println!(
        "login possible again, and a cold start behind that: hung {hung:?}, killed {killed:?}"
    );
}
