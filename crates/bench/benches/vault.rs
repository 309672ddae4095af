//! What a hundred keys from Vault cost, in ten secrets and in a hundred, beside vaultrs and bare
//! reqwest: the clients' part, on a server of this process that answers from memory. All read 16
//! secrets at a time, and vaultrs one by one as well, and hand out every field.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::thread;

use axum::extract::Path;
use axum::routing::get;
use axum::{Json, Router};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use secretwell::vault::{Credential, KvVersion, VaultAuth, VaultProvider};
use secretwell::{SecretKey, SecretProvider};
use secretwell_core::backend::join_bounded;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use vaultrs::client::{VaultClient, VaultClientSettingsBuilder};

const KEYS: usize = 100;
const AT_A_TIME: usize = 16;
const VALUE: &str = "a-secret-that-is-long-enough-to-be-accepted!";

/// One secret, with as many fields as it takes for all secrets together to have a hundred.
async fn answer(Path(secret): Path<String>) -> Json<Value> {
    let secrets: usize = secret
        .split('-')
        .next()
        .and_then(|number| number.parse().ok())
        .expect("a name that begins with the number of secrets");
    let fields: HashMap<String, &str> = (0..KEYS / secrets)
        .map(|field| (format!("F{field}"), VALUE))
        .collect();
    let metadata = json!({
        "created_time": "2026-01-01T00:00:00.000000000Z",
        "custom_metadata": null,
        "deletion_time": "",
        "destroyed": false,
        "version": 1,
    });
    Json(json!({
        "request_id": "00000000-0000-0000-0000-000000000000",
        "lease_id": "",
        "renewable": false,
        "lease_duration": 0,
        "data": {"data": fields, "metadata": metadata},
        "wrap_info": null,
        "warnings": null,
        "auth": null,
    }))
}

/// A server on a thread of its own.
fn serve() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.set_nonblocking(true).expect("a socket");
    let address = listener.local_addr().expect("an address");
    let endless = Json(json!({"data": {"ttl": 0, "renewable": false}}));
    let router = Router::new()
        .route("/v1/auth/token/lookup-self", get(async || endless))
        .route("/v1/secret/data/{secret}", get(answer));
    thread::spawn(move || {
        Runtime::new().expect("a runtime").block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
            axum::serve(listener, router).await
        })
    });
    address
}

fn vault(criterion: &mut Criterion) {
    let base = format!("http://{}", serve());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");

    let token = VaultAuth::token(Credential::value("token"));
    let provider = VaultProvider::builder([&base], token)
        .map(|builder| builder.kv_version(KvVersion::V2))
        .and_then(secretwell::vault::VaultBuilder::build)
        .expect("a provider");
    let settings = VaultClientSettingsBuilder::default()
        .address(&base)
        .token("token")
        .build()
        .expect("settings");
    let vaultrs = VaultClient::new(settings).expect("a client");
    let bare = reqwest::Client::new();

    let mut group = criterion.benchmark_group("100 keys");
    for secrets in [10, 100] {
        let paths: Vec<String> = (0..secrets).map(|n| format!("{secrets}-{n}")).collect();
        let keys: Vec<SecretKey> = paths
            .iter()
            .flat_map(|path| (0..KEYS / secrets).map(move |field| format!("{path}/F{field}")))
            .map(|key| key.parse().expect("a key"))
            .collect();
        group.bench_function(BenchmarkId::new("secretwell", secrets), |bencher| {
            bencher.iter(|| {
                let read = runtime.block_on(provider.get_many(&keys));
                assert!(read.iter().all(Result::is_ok), "{read:?}");
            });
        });
        for (name, at_a_time) in [("vaultrs", AT_A_TIME), ("vaultrs one by one", 1)] {
            group.bench_function(BenchmarkId::new(name, secrets), |bencher| {
                bencher.iter(|| {
                    let reads = paths.iter().map(|path| with_vaultrs(&vaultrs, path));
                    count(runtime.block_on(join_bounded(at_a_time, reads)));
                });
            });
        }
        group.bench_function(BenchmarkId::new("reqwest", secrets), |bencher| {
            bencher.iter(|| {
                let reads = paths.iter().map(|path| with_reqwest(&bare, &base, path));
                count(runtime.block_on(join_bounded(AT_A_TIME, reads)));
            });
        });
    }
    group.finish();
}

type Fields = HashMap<String, String>;

fn count(secrets: Vec<Fields>) {
    assert_eq!(secrets.iter().map(HashMap::len).sum::<usize>(), KEYS);
}

async fn with_vaultrs(client: &VaultClient, path: &str) -> Fields {
    let read = vaultrs::kv2::read(client, "secret", path).await;
    read.expect("a secret")
}

#[derive(Deserialize)]
struct ResponseBody {
    data: Data,
}

#[derive(Deserialize)]
struct Data {
    data: Fields,
}

async fn with_reqwest(client: &reqwest::Client, base: &str, path: &str) -> Fields {
    let asked = client
        .get(format!("{base}/v1/secret/data/{path}"))
        .header("x-vault-token", "token")
        .send();
    let reply = asked.await.expect("an answer");
    reply
        .json::<ResponseBody>()
        .await
        .expect("a secret")
        .data
        .data
}

criterion_group!(benches, vault);
criterion_main!(benches);
