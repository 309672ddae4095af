//! Benchmarks of reading 100 keys from Vault, with the provider, vaultrs, vault-client-rs and plain reqwest.
//!
//! The keys are in 10 or in 100 secrets. The server runs in this process and responds from memory. The figures are
//! the CPU time of the client's thread. Each client reads 16 secrets at a time and returns every field. The elapsed
//! time is compared with vaultrs that reads them one by one.

use std::collections::HashMap;
use std::time::Duration;

use axum::extract::Path;
use axum::routing::get;
use axum::{Json, Router};
use secretwell::vault::{Credential, KvVersion, VaultAuth, VaultProvider};
use secretwell::{SecretKey, SecretProvider};
use secretwell_bench::clock::{client_time, wall_time};
use secretwell_bench::fakes::{VaultBody, vault_secret, vault_token};
use secretwell_bench::server::serve;
use secretwell_bench::turns::{Turns, Unit};
use secretwell_core::backend::join_bounded;
use serde::Deserialize;
use serde_json::{Map, Value};
use vaultrs::client::{VaultClient, VaultClientSettingsBuilder};

const KEYS: usize = 100;
const CONCURRENCY: usize = 16;
const ROUNDS: usize = 60;
const BATCH: Duration = Duration::from_millis(8);
const VALUE: &str = "a-secret-that-is-long-enough-to-be-accepted!";

/// Responds with one secret. It has as many fields as are needed for 100 keys in total.
async fn read_secret(Path(secret): Path<String>) -> Json<VaultBody> {
    let secrets: usize = secret
        .split('-')
        .next()
        .and_then(|number| number.parse().ok())
        .expect("the name begins with the number of secrets");
    let fields: Map<String, Value> = (0..KEYS / secrets)
        .map(|field| (format!("F{field}"), VALUE.into()))
        .collect();
    vault_secret(fields.into())
}

fn main() {
    let router = Router::new()
        .route("/v1/auth/token/lookup-self", get(vault_token))
        .route("/v1/secret/data/{secret}", get(read_secret));
    let base = format!("http://{}", serve(router));
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
    let vault_client_rs =
        vault_client_rs::VaultClient::new(&base, "token").expect("the client is built");
    // vault-client-rs enables compressed responses for the whole program.
    let http_client = reqwest::Client::builder()
        .no_gzip()
        .build()
        .expect("the client is built");

    for secrets in [10, 100] {
        let paths: Vec<String> = (0..secrets).map(|n| format!("{secrets}-{n}")).collect();
        let keys: Vec<SecretKey> = paths
            .iter()
            .flat_map(|path| (0..KEYS / secrets).map(move |field| format!("{path}/F{field}")))
            .map(|key| key.parse().expect("a valid key"))
            .collect();
        let with_secretwell = || {
            let results = runtime.block_on(provider.get_many(&keys));
            assert!(results.iter().all(Result::is_ok), "{results:?}");
        };
        let with_vaultrs = |concurrency| {
            let reads = paths.iter().map(|path| read_with_vaultrs(&vaultrs, path));
            check_field_count(runtime.block_on(join_bounded(concurrency, reads)));
        };
        let with_vault_client_rs = || {
            let client = vault_client_rs.kv2("secret");
            let reads = paths
                .iter()
                .map(async |path| client.read_data(path).await.expect("the secret is read"));
            check_field_count(runtime.block_on(join_bounded(CONCURRENCY, reads)));
        };
        let with_reqwest = || {
            let reads = paths
                .iter()
                .map(|path| read_with_reqwest(&http_client, &base, path));
            check_field_count(runtime.block_on(join_bounded(CONCURRENCY, reads)));
        };
        let prefix = format!("vault_{secrets}_secrets");
        let mut turns = Turns::new(ROUNDS, BATCH);
        turns.add("secretwell", |calls| client_time(calls, with_secretwell));
        turns.add("vaultrs", |calls| {
            client_time(calls, || with_vaultrs(CONCURRENCY))
        });
        turns.add("vault_client_rs", |calls| {
            client_time(calls, with_vault_client_rs)
        });
        turns.add("reqwest", |calls| client_time(calls, with_reqwest));
        let times = turns.measure();
        times.report(&prefix, Unit::Microseconds);
        for peer in ["reqwest", "vaultrs", "vault_client_rs"] {
            let figure = format!("{prefix}_secretwell_over_{peer}");
            times.report_ratio(&figure, "secretwell", peer);
        }
        // Reads one by one mostly wait, so CPU time would not show their cost.
        let mut turns = Turns::new(ROUNDS, BATCH);
        turns.add("secretwell", |calls| wall_time(calls, with_secretwell));
        turns.add("vaultrs_one_by_one", |calls| {
            wall_time(calls, || with_vaultrs(1))
        });
        let times = turns.measure();
        let prefix = format!("{prefix}_elapsed");
        times.report(&prefix, Unit::Microseconds);
        let figure = format!("{prefix}_secretwell_over_vaultrs_one_by_one");
        times.report_ratio(&figure, "secretwell", "vaultrs_one_by_one");
    }
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
