//! A cluster of three servers: stale standbys, and the loss of the leader.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use reqwest::StatusCode;
use secretwell::auth::{BuildError, LazyAuth, SecretPolicy, State};
use secretwell::vault::{Credential, KvVersion, VaultAuth, VaultProvider};
use secretwell::{Resolver, SecretProvider, SecretString};
use secretwell_testkit::{Fault, FaultProxy};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::server::Bao;
use crate::support::{key, secs};

/// Creates a mount, a secret in it, and a user with read access.
async fn seed(active: &Bao) {
    active.mount("secret", 2).await;
    write(active, 0).await;
    let rules = "path \"secret/*\" { capabilities = [\"read\"] }";
    active.policy("app", rules).await;
    active
        .root("POST", "sys/auth/userpass", json!({"type": "userpass"}))
        .await;
    let user = json!({"password": "pass", "token_policies": ["app"], "token_ttl": "5m"});
    active.root("POST", "auth/userpass/users/me", user).await;
}

async fn write(active: &Bao, number: usize) {
    let secret = json!({"data": {"A": number.to_string()}});
    active.root("POST", "secret/data/app", secret).await;
}

fn user() -> VaultAuth {
    VaultAuth::userpass("me", Credential::value("pass"))
}

fn provider(addresses: &[String], auth: VaultAuth) -> VaultProvider {
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

/// Waits until every server has the secret with this [number](write).
async fn wait_for_replication(servers: &[Bao], number: usize) {
    let number = json!(number.to_string());
    for server in servers {
        for _ in 0..600 {
            let root = server.root_token();
            let response = server.try_request(root, "GET", "secret/data/app", Value::Null);
            if let Some((_, response)) = response.await
                && response["data"]["data"]["A"] == number
            {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test]
async fn stale_standbys_delay_reads_but_cause_no_version_regression() {
    let servers = Bao::cluster().await;
    seed(&servers[0]).await;
    wait_for_replication(&servers, 0).await;
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
        VaultAuth::token(Credential::value(servers[0].root_token())),
    );
    provider.get(&key("A")).await.unwrap();

    let mut newest = 0;
    for number in 1..=120 {
        write(&servers[0], number).await;
        // The first read is from the active server, so that the newest version is known. The second read is
        // from a standby.
        for only in [0, 1 + number % 2] {
            for (index, proxy) in proxies.iter().enumerate() {
                proxy.set(if index == only {
                    Fault::None
                } else {
                    Fault::Close
                });
            }
            // Until the standby has caught up, the read waits. So it does while a leader hangs.
            let secret = provider.get(&key("A")).await.unwrap();
            let read: usize = secret.value.expose_text().unwrap().parse().unwrap();
            assert!(
                read >= newest,
                "regression from {newest} to {read} at server {only}"
            );
            newest = read;
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
        .secret_policy("A", SecretPolicy::Unchecked)
        .unwrap()
        .build(|secrets: Secrets, _| async move { Ok::<_, BuildError>(secrets.a) })
}

const QUORUM_LOST: Duration = secs(10);

/// How a cluster loses its leader or its quorum.
#[derive(Debug, Clone, Copy)]
enum Loss {
    Hangs,
    StepsDown,
    IsStopped,
    Dies,
    /// The leader keeps running, and the others hang for [a while](QUORUM_LOST).
    LosesQuorum,
}

impl Loss {
    async fn begin(self, servers: &[Bao; 3], leader: usize) {
        match self {
            Self::Hangs => servers[leader].signal("STOP"),
            Self::StepsDown => {
                let path = "sys/step-down";
                servers[leader].root("PUT", path, Value::Null).await;
            }
            Self::IsStopped => servers[leader].signal("TERM"),
            Self::Dies => servers[leader].signal("KILL"),
            Self::LosesQuorum => {
                let others = [&servers[(leader + 1) % 3], &servers[(leader + 2) % 3]];
                others.iter().for_each(|server| server.signal("STOP"));
            }
        }
    }

    /// Waits until a temporary loss ends by itself.
    async fn wait_for_recovery(self, servers: &[Bao; 3], leader: usize) {
        if let Self::LosesQuorum = self {
            tokio::time::sleep(QUORUM_LOST).await;
            servers[(leader + 1) % 3].signal("CONT");
            servers[(leader + 2) % 3].signal("CONT");
        }
    }

    /// Restores the third server of the cluster.
    async fn repair(self, servers: &mut [Bao; 3], leader: usize) {
        match self {
            Self::Hangs => servers[leader].signal("CONT"),
            Self::IsStopped | Self::Dies => servers[leader].restart().await,
            Self::StepsDown | Self::LosesQuorum => {}
        }
    }
}

/// Reads through all three servers while the leader is lost and restored. Returns the time until a login was
/// possible again, and the additional time of a cold start.
async fn failover(servers: &mut [Bao; 3], loss: Loss, round: usize) -> (Duration, Duration) {
    let leader = leader(servers).await;
    let warm = lazy(provider(&addresses(servers), user()));
    warm.get().await.unwrap();
    let direct = Arc::new(provider(&addresses(servers), user()));
    direct.get(&key("A")).await.unwrap();
    // A token that was not replicated yet would be lost with the leader.
    write(&servers[leader], round).await;
    wait_for_replication(servers, round).await;

    let reading = Arc::new(AtomicBool::new(true));
    let mut readers = JoinSet::new();
    for _ in 0..3 {
        let (warm, direct, reading) = (warm.clone(), direct.clone(), reading.clone());
        readers.spawn(async move {
            while reading.load(Ordering::Relaxed) {
                direct.get(&key("A")).await.unwrap();
                warm.get().await.unwrap();
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
    }
    let lost = Instant::now();
    loss.begin(servers, leader).await;
    // A service that starts during the outage.
    let cold = lazy(provider(&addresses(servers), user()));
    let cold_start = tokio::spawn(async move {
        while cold.get().await.is_err() {}
        Instant::now()
    });
    let login = async {
        tokio::select! {
            at = login_is_possible(&servers[0]) => at,
            at = login_is_possible(&servers[1]) => at,
            at = login_is_possible(&servers[2]) => at,
            () = tokio::time::sleep(secs(90)) => panic!("the cluster has no leader"),
        }
    };
    let (possible, ()) = tokio::join!(login, loss.wait_for_recovery(servers, leader));
    let started = cold_start.await.unwrap();
    let delay = started.saturating_duration_since(possible);
    assert!(delay < secs(2), "{loss:?}: started {delay:?} later");

    loss.repair(servers, leader).await;
    tokio::time::sleep(secs(3)).await;
    reading.store(false, Ordering::Relaxed);
    while let Some(result) = readers.join_next().await {
        result.unwrap();
    }
    let state = warm.state();
    assert!(matches!(state, State::Ready { .. }), "{loss:?}: {state:?}");
    (possible.duration_since(lost), delay)
}

/// Returns the index of the active server.
async fn leader(servers: &[Bao; 3]) -> usize {
    for _ in 0..600 {
        for (index, server) in servers.iter().enumerate() {
            if server.is_active().await {
                return index;
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the cluster has no leader")
}

/// Tries to log in until it succeeds, and returns the time of the success.
async fn login_is_possible(server: &Bao) -> Instant {
    loop {
        let password = json!({"password": "pass"});
        let response = server.try_request("", "POST", "auth/userpass/login/me", password);
        if let Ok(Some((StatusCode::OK, _))) = tokio::time::timeout(secs(1), response).await {
            return Instant::now();
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn no_read_fails_during_a_failover() {
    let mut servers = Bao::cluster().await;
    seed(&servers[0]).await;
    let losses = [
        Loss::Hangs,
        Loss::StepsDown,
        Loss::IsStopped,
        Loss::LosesQuorum,
        Loss::Dies,
    ];
    for (round, loss) in losses.into_iter().enumerate() {
        let (possible, delay) = failover(&mut servers, loss, round + 1).await;
        println!("{loss:?}: login possible after {possible:?}, a cold start {delay:?} later");
    }
}
