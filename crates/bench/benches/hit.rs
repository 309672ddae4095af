//! Benchmarks of reading one of 100 cached secrets, with Secretwell and with alternatives.

mod calls;

use std::collections::HashMap;
use std::env;
use std::sync::{Arc, RwLock};

use quick_cache::sync::Cache as QuickCache;
use secret_vault::{
    MockSecretsSource, SecretName, SecretVaultBuilder, SecretVaultRef, SecretVaultView,
};
use secretwell::{MemoryProvider, Resolver, SecretKey};

use calls::{Calls, add};

const KEYS: usize = 100;
const VALUE: &str = "a-secret-that-is-long-enough-to-be-accepted!";
const REQUESTED: &str = "SECRET_42";

fn main() {
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
    let quick_cache: QuickCache<String, Arc<str>> = QuickCache::new(1_000);
    let locked_map: RwLock<HashMap<String, Arc<str>>> = RwLock::default();
    let mut foldhash_map: HashMap<String, Arc<str>, foldhash::fast::RandomState> =
        HashMap::default();
    for name in &names {
        moka_cache.insert(name.clone(), VALUE.into());
        quick_cache.insert(name.clone(), VALUE.into());
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

    let mut calls = Calls::new("hit");
    add!(
        calls,
        "with_cached",
        resolver.with_cached(REQUESTED, |secret| secret.value.expose_bytes().len())
    );
    add!(calls, "get", {
        let secret = resolver.get(REQUESTED).await.expect("the secret is cached");
        secret.value.expose_bytes().len()
    });
    add!(
        calls,
        "secret_vault",
        vault.get_secret_by_ref(&requested).await.is_ok()
    );
    add!(
        calls,
        "moka",
        moka_cache.get(REQUESTED).map(|secret| secret.len())
    );
    add!(
        calls,
        "quick_cache",
        quick_cache.get(REQUESTED).map(|secret| secret.len())
    );
    add!(
        calls,
        "rwlock_hashmap",
        locked_map
            .read()
            .expect("not poisoned")
            .get(REQUESTED)
            .map(|secret| secret.len())
    );
    // A map that never changes.
    add!(
        calls,
        "foldhash_map",
        foldhash_map.get(REQUESTED).map(|secret| secret.len())
    );
    add!(
        calls,
        "env_var",
        env::var(&variable).map_or(0, |value| value.len())
    );
    let [times, _] = calls.measure();
    for peer in ["secret_vault", "moka", "quick_cache"] {
        times.report_ratio(&format!("hit_{peer}_over_with_cached"), peer, "with_cached");
    }
}
