//! Benchmarks of reading one of 100 cached secrets, with Secretwell and with alternatives.

mod measure;

use std::collections::HashMap;
use std::env;
use std::sync::{Arc, RwLock};

use criterion::{Criterion, criterion_group, criterion_main};
use secret_vault::{
    MockSecretsSource, SecretName, SecretVaultBuilder, SecretVaultRef, SecretVaultView,
};
use secretwell::{MemoryProvider, Resolver, SecretKey};

use measure::measure;

const KEYS: usize = 100;
const VALUE: &str = "a-secret-that-is-long-enough-to-be-accepted!";
const REQUESTED: &str = "SECRET_42";

fn hit(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Runtime::new().expect("the runtime starts");
    let names: Vec<String> = (0..KEYS).map(|index| format!("SECRET_{index}")).collect();

    let memory = MemoryProvider::new();
    for name in &names {
        memory.set(name, VALUE).expect("a valid key");
    }
    let resolver = Resolver::new(memory);
    let keys: Vec<SecretKey> = names.iter().filter_map(|name| name.parse().ok()).collect();
    let results = runtime.block_on(resolver.get_many(&keys));
    assert!(results.iter().all(Result::is_ok));

    let references: Vec<SecretVaultRef> = names
        .iter()
        .map(|name| SecretVaultRef::new(SecretName::new(name.clone())))
        .collect();
    let secrets = references
        .iter()
        .map(|reference| (reference.clone(), VALUE.to_owned().into()))
        .collect();
    let vault = SecretVaultBuilder::with_source(MockSecretsSource::new(secrets))
        .with_secret_refs(references.iter().collect())
        .build()
        .expect("the vault is built");
    runtime
        .block_on(vault.refresh())
        .expect("the vault reads its source");
    let requested = SecretVaultRef::new(SecretName::new(REQUESTED.to_owned()));

    let moka_cache: moka::sync::Cache<String, Arc<str>> = moka::sync::Cache::new(1_000);
    let locked_map: RwLock<HashMap<String, Arc<str>>> = RwLock::default();
    let mut foldhash_map: HashMap<String, Arc<str>, foldhash::fast::RandomState> =
        HashMap::default();
    for name in &names {
        moka_cache.insert(name.clone(), VALUE.into());
        locked_map
            .write()
            .expect("not poisoned")
            .insert(name.clone(), VALUE.into());
        foldhash_map.insert(name.clone(), VALUE.into());
    }
    let variable = env::vars()
        .next()
        .map(|(name, _)| name)
        .expect("the environment has a variable");

    let mut group = criterion.benchmark_group("hit");
    measure!(
        group,
        "secretwell with_cached",
        resolver.with_cached(REQUESTED, |secret| secret.value.expose_bytes().len())
    );
    measure!(
        group,
        "secretwell get",
        match resolver.get(REQUESTED).await {
            Ok(secret) => secret.value.expose_bytes().len(),
            Err(_) => return,
        }
    );
    measure!(
        group,
        "secret-vault",
        vault.get_secret_by_ref(&requested).await.is_ok()
    );
    measure!(
        group,
        "moka",
        moka_cache.get(REQUESTED).map(|secret| secret.len())
    );
    measure!(
        group,
        "std RwLock<HashMap>",
        match locked_map.read() {
            Ok(map) => map.get(REQUESTED).map(|secret| secret.len()),
            Err(_) => return,
        }
    );
    measure!(
        group,
        "foldhash map (never changes)",
        foldhash_map.get(REQUESTED).map(|secret| secret.len())
    );
    measure!(
        group,
        "std env::var",
        env::var(&variable).map_or(0, |value| value.len())
    );
    group.finish();
}

criterion_group!(benches, hit);
criterion_main!(benches);
