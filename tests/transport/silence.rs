//! Connections that become silent while new ones work, as behind a NAT gateway that forgot them.

use std::net::SocketAddr;
use std::time::Duration;

use secretwell::SecretProvider;
use secretwell::infisical::ApiVersion;
use secretwell::vault::{Credential, VaultAuth, VaultProvider};
use serde_json::json;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::infisical::place::Place;
use crate::support::key;
use crate::vault::server::{Bao, shared, unique};
use crate::vault::tls::Authority;

/// The longest time until a provider uses a new connection.
const RECOVERY: Duration = Duration::from_secs(10);

/// A TCP proxy that can stop forwarding on its connections. They stay open.
struct Network {
    address: SocketAddr,
    /// The number of times that the connections became silent.
    silenced: watch::Sender<u32>,
    _tasks: JoinSet<()>,
}

impl Network {
    async fn start(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let silenced = watch::Sender::new(0);
        let subscriptions = silenced.clone();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (mut client, _) = listener.accept().await.unwrap();
                let mut silenced = subscriptions.subscribe();
                connections.spawn(async move {
                    let mut server = TcpStream::connect(server).await.unwrap();
                    tokio::select! {
                        _ = copy_bidirectional(&mut client, &mut server) => {}
                        _ = silenced.changed() => std::future::pending().await,
                    }
                });
            }
        });
        Self {
            address,
            silenced,
            _tasks: tasks,
        }
    }

    /// Stops forwarding on all connections that are open now.
    fn silence(&self) {
        self.silenced.send_modify(|count| *count += 1);
    }
}

async fn assert_recovers(provider: &impl SecretProvider, network: &Network) {
    for _ in 0..2 {
        let secret = provider.get(&key("A")).await.unwrap();
        assert_eq!(secret.value.expose_text().unwrap(), "value");
        network.silence();
        let started = Instant::now();
        provider.get(&key("A")).await.unwrap();
        let took = started.elapsed();
        assert!(took < RECOVERY, "{took:?}");
    }
}

#[tokio::test]
async fn silent_tls_connection_to_vault_recovers_within_ten_seconds() {
    let authority = Authority::new("the tests' authority");
    let bao = Bao::with_tls(&authority.sign(&["127.0.0.1"], |_| ())).await;
    bao.mount("secret", 2).await;
    let secret = json!({"data": {"A": "value"}});
    bao.root("POST", "secret/data/app", secret).await;
    let network = Network::start(bao.address).await;
    let address = format!("https://{}", network.address);
    let auth = VaultAuth::token(Credential::value(bao.root_token()));
    let provider = VaultProvider::builder([address], auth)
        .unwrap()
        .mount("secret")
        .path("app")
        .client(|client| client.certificate_authority(authority.pem()))
        .build()
        .unwrap();
    assert_recovers(&provider, &network).await;
}

#[tokio::test]
async fn silent_plain_connection_to_vault_recovers_within_ten_seconds() {
    let bao = shared().await;
    let mount = unique("silence");
    bao.mount(&mount, 2).await;
    let secret = json!({"data": {"A": "value"}});
    bao.root("POST", &format!("{mount}/data/app"), secret).await;
    let network = Network::start(bao.address).await;
    let address = format!("http://{}", network.address);
    let auth = VaultAuth::token(Credential::value(bao.root_token()));
    let provider = VaultProvider::builder([address], auth)
        .unwrap()
        .mount(&mount)
        .path("app")
        .build()
        .unwrap();
    assert_recovers(&provider, &network).await;
}

#[tokio::test]
async fn silent_connection_to_infisical_recovers_within_ten_seconds() {
    let place = Place::fake(ApiVersion::V4).await;
    place.write(None, "A", "value").await;
    let network = Network::start(place.address().unwrap()).await;
    let url = format!("http://{}", network.address);
    let provider = place.provider_at(&url).build().unwrap();
    assert_recovers(&provider, &network).await;
}
