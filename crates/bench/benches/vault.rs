//! Benchmarks of reading 100 keys from Vault, with the provider, vaultrs and plain reqwest.
//!
//! The keys are in 10 or in 100 secrets. The server runs in this process and responds from memory, so the
//! figures are the cost of the client. Each client reads 16 secrets at a time and returns every field.
//! vaultrs also reads them one by one.

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
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use vaultrs::client::{VaultClient, VaultClientSettingsBuilder};

const KEYS: usize = 100;
const CONCURRENCY: usize = 16;
const VALUE: &str = "a-secret-that-is-long-enough-to-be-accepted!";

/// The response to a read. The names have the order of a real server.
#[derive(Serialize)]
struct SecretBody {
    request_id: &'static str,
    lease_id: &'static str,
    renewable: bool,
    lease_duration: u32,
    data: Value,
    wrap_info: (),
    warnings: (),
    auth: (),
}

impl SecretBody {
    fn new(data: Value) -> Json<Self> {
        Json(Self {
            request_id: "00000000-0000-0000-0000-000000000000",
            lease_id: "",
            renewable: false,
            lease_duration: 0,
            data,
            wrap_info: (),
            warnings: (),
            auth: (),
        })
    }
}

/// Responds with one secret. It has as many fields as are needed for 100 keys in total.
async fn read_secret(Path(secret): Path<String>) -> Json<SecretBody> {
    let secrets: usize = secret
        .split('-')
        .next()
        .and_then(|number| number.parse().ok())
        .expect("the name begins with the number of secrets");
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
    SecretBody::new(json!({"data": fields, "metadata": metadata}))
}

/// Responds with the description of a token that does not expire.
async fn look_up_token() -> Json<SecretBody> {
    SecretBody::new(json!({"ttl": 0, "renewable": false}))
}

/// Starts a server on a new thread and returns its address.
fn serve() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener
        .set_nonblocking(true)
        .expect("the socket is non-blocking");
    let address = listener.local_addr().expect("the address is known");
    let router = Router::new()
        .route("/v1/auth/token/lookup-self", get(look_up_token))
        .route("/v1/secret/data/{secret}", get(read_secret));
    thread::spawn(move || {
        Runtime::new().expect("the runtime starts").block_on(async {
            let listener =
                tokio::net::TcpListener::from_std(listener).expect("the listener is registered");
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
        .expect("the runtime starts");

    let token = VaultAuth::token(Credential::value("token"));
    let provider = VaultProvider::builder([&base], token)
        .map(|builder| builder.kv_version(KvVersion::V2))
        .and_then(secretwell::vault::VaultBuilder::build)
        .expect("the provider is built");
    let settings = VaultClientSettingsBuilder::default()
        .address(&base)
        .token("token")
        .build()
        .expect("the settings are valid");
    let vaultrs = VaultClient::new(settings).expect("the client is built");
    let http_client = reqwest::Client::new();

    let mut group = criterion.benchmark_group("100 keys");
    for secrets in [10, 100] {
        let paths: Vec<String> = (0..secrets).map(|n| format!("{secrets}-{n}")).collect();
        let keys: Vec<SecretKey> = paths
            .iter()
            .flat_map(|path| (0..KEYS / secrets).map(move |field| format!("{path}/F{field}")))
            .map(|key| key.parse().expect("a valid key"))
            .collect();
        group.bench_function(BenchmarkId::new("secretwell", secrets), |bencher| {
            bencher.iter(|| {
                let results = runtime.block_on(provider.get_many(&keys));
                assert!(results.iter().all(Result::is_ok), "{results:?}");
            });
        });
        for (name, concurrency) in [("vaultrs", CONCURRENCY), ("vaultrs one by one", 1)] {
            group.bench_function(BenchmarkId::new(name, secrets), |bencher| {
                bencher.iter(|| {
                    let reads = paths.iter().map(|path| read_with_vaultrs(&vaultrs, path));
                    check_field_count(runtime.block_on(join_bounded(concurrency, reads)));
                });
            });
        }
        group.bench_function(BenchmarkId::new("reqwest", secrets), |bencher| {
            bencher.iter(|| {
                let reads = paths
                    .iter()
                    .map(|path| read_with_reqwest(&http_client, &base, path));
                check_field_count(runtime.block_on(join_bounded(CONCURRENCY, reads)));
            });
        });
    }
    group.finish();
}

type Fields = HashMap<String, String>;

fn check_field_count(secrets: Vec<Fields>) {
    assert_eq!(secrets.iter().map(HashMap::len).sum::<usize>(), KEYS);
}

async fn read_with_vaultrs(client: &VaultClient, path: &str) -> Fields {
    let secret = vaultrs::kv2::read(client, "secret", path).await;
    secret.expect("the secret is read")
}

#[derive(Deserialize)]
struct ResponseBody {
    data: Data,
}

#[derive(Deserialize)]
struct Data {
    data: Fields,
}

async fn read_with_reqwest(client: &reqwest::Client, base: &str, path: &str) -> Fields {
    let response = client
        .get(format!("{base}/v1/secret/data/{path}"))
        .header("x-vault-token", "token")
        .send();
    response
        .await
        .expect("the server responds")
        .json::<ResponseBody>()
        .await
        .expect("the body is a secret")
        .data
        .data
}

criterion_group!(benches, vault);
criterion_main!(benches);
