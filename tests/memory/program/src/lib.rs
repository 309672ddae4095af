//! Programs that read a secret, use it and drop it. The tests of the module `memory` read their memory. The programs
//! differ in their allocator.
//!
//! `PROGRAM SCENARIO URL [ARGUMENT]` reads the secret `CANARY` from the source with this URL. At each step, it prints the
//! name of the step and waits for a line on standard input.

// Standard output is the interface of the programs, and a panic ends them.
#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::expect_used)]

mod clients;
mod sessions;

use std::io::{Write, stdin, stdout};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use secretwell::auth::{BuildContext, BuildError, KeyRing, LazyAuth};
use secretwell::{
    ExposeSecret, KeyPrefix, Resolver, SecretKey, SecretProvider, SecretString, from_url,
};
use serde::Deserialize;

const KEY: &str = "CANARY";

#[derive(Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
struct Secrets {
    canary: SecretString,
}

/// Runs the scenario that the arguments name.
pub fn run() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    runtime.unwrap().block_on(scenario());
}

async fn scenario() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [scenario, url, rest @ ..] = arguments.as_slice() else {
        panic!("usage: PROGRAM SCENARIO URL [ARGUMENT]");
    };
    let provider = from_url(url).unwrap();
    match scenario.as_str() {
        "plant" => plant(provider).await,
        "read" => read(provider).await,
        "rotate" => rotate(provider).await,
        "ring" => ring(provider).await,
        "authjs" => sessions::authjs(provider, &rest[0]).await,
        "betterauth" => sessions::betterauth(provider, &rest[0]).await,
        "deadpool" => clients::deadpool(provider, &rest[0]).await,
        "sqlx" => clients::sqlx(provider, &rest[0]).await,
        "redis" => clients::redis(provider, &rest[0]).await,
        other => panic!("{other} is not a scenario"),
    }
}

/// Lets the test read the memory of this process.
fn step(name: &str) {
    println!("{name}");
    stdout().flush().unwrap();
    stdin().read_line(&mut String::new()).unwrap();
}

/// Plants copies of the secret that are not wiped, to show that the test finds them.
async fn plant(provider: Arc<dyn SecretProvider>) {
    let secret = Resolver::new(provider).get(KEY).await.unwrap().value;
    let bytes = secret.expose_bytes();
    // Odd positions show that copies do not have to be aligned.
    let mut large = vec![b'.'; 1 << 20];
    large[4321..4321 + bytes.len()].copy_from_slice(bytes);
    let mut part = vec![b'.'; 150];
    part[5..38].copy_from_slice(&bytes[9..42]);
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let base64 = STANDARD.encode([b".", bytes].concat());
    // Too large for the cache of the thread, which can contain memory that another thread has allocated.
    let mut heap = vec![b'.'; 1 << 16];
    heap[33..33 + bytes.len()].copy_from_slice(bytes);
    let mut stack = [b'.'; 128];
    stack[7..7 + bytes.len()].copy_from_slice(bytes);
    on_the_stack(&std::hint::black_box(stack), || step("planted"));
    std::hint::black_box((large, heap, part, hex, base64));
}

/// Calls `then` while a copy of `bytes` is on the stack.
fn on_the_stack(bytes: &[u8; 128], then: impl FnOnce()) {
    let copy = std::hint::black_box(*bytes);
    then();
    std::hint::black_box(&copy);
}

/// Reads the secret in each way that exists.
async fn read(provider: Arc<dyn SecretProvider>) {
    let key = SecretKey::parse(KEY).unwrap();
    let resolver = Resolver::new(provider.clone());
    let resolved = resolver.get(KEY).await.unwrap();
    let loaded: Secrets = resolver.load().await.unwrap();
    assert!(!loaded.canary.expose_secret().is_empty());
    let refreshed = resolver.refresh_after_write([KEY]).await;
    let mut secrets = Vec::new();
    for _ in 0..20 {
        secrets.push(provider.get(&key).await.unwrap());
        secrets.extend(
            provider
                .get_many(std::slice::from_ref(&key))
                .await
                .into_iter()
                .flatten(),
        );
        provider.list(&KeyPrefix::root()).await.unwrap();
        provider.notices(&KeyPrefix::root()).await.unwrap();
    }
    assert_eq!(secrets.len(), 40);
    step("alive");
    drop((resolved, loaded, refreshed, secrets));
    resolver.invalidate(KEY);
    resolver.close().await;
    drop((resolver, provider));
    step("dropped");
}

/// Reads the secret, and its next value.
async fn rotate(provider: Arc<dyn SecretProvider>) {
    let resolver = Resolver::new(provider);
    let first = resolver.get(KEY).await.unwrap().value.fingerprint();
    step("alive");
    while resolver.refresh_after_write([KEY]).await[0]
        .as_ref()
        .unwrap()
        .value
        .fingerprint()
        == first
    {}
    step("rotated");
}

/// Keeps a ring of the secret and its previous value, and the keys that a library derives from both.
async fn ring(provider: Arc<dyn SecretProvider>) {
    use secretwell::auth::sessions::authjs::SessionTokens;

    let auth = LazyAuth::builder(Resolver::new(provider))
        .activation_delay(Duration::ZERO)
        .grace_period(Duration::from_secs(2))
        .build(|_: Secrets, context: BuildContext| async move {
            let ring = context.key_ring(KEY)?;
            let tokens = SessionTokens::v5("session", &ring)?;
            Ok::<(KeyRing, SessionTokens), BuildError>((ring, tokens))
        });
    auth.get().await.unwrap();
    step("alive");
    // A rebuild fails if the file is changed again during its read.
    while auth.rebuild().await.is_err() {}
    assert_eq!(auth.get().await.unwrap().0.iter().len(), 2);
    step("rotated");
    while auth.get().await.unwrap().0.iter().len() == 2 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    step("expired");
    drop(auth);
    step("dropped");
}
