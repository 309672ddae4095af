//! What a secret costs that has been read before, among a hundred others.

mod measure;

use std::collections::HashMap;
use std::env;
use std::sync::{Arc, RwLock};

use criterion::{Criterion, criterion_group, criterion_main};
use measure::measure;
use secret_vault::{
    MockSecretsSource, SecretName, SecretVaultBuilder, SecretVaultRef, SecretVaultView,
};
use secretwell::{MemoryProvider, Resolver, SecretKey};

const KEYS: usize = 100;
const VALUE: &str = "a-secret-that-is-long-enough-to-be-accepted!";
const WANTED: &str = "SECRET_42";

fn hit(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let names: Vec<String> = (0..KEYS).map(|index| format!("SECRET_{index}")).collect();

    let memory = MemoryProvider::new();
    for name in &names {
        memory.set(name, VALUE).expect("a valid key");
    }
    let resolver = Resolver::new(memory);
    let keys: Vec<SecretKey> = names.iter().filter_map(|name| name.parse().ok()).collect();
    let read = runtime.block_on(resolver.get_many(&keys));
    assert!(read.iter().all(Result::is_ok));

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
        .expect("a vault");
    runtime.block_on(vault.refresh()).expect("it reads");
    let wanted = SecretVaultRef::new(SecretName::new(WANTED.to_owned()));

    let moka: moka::sync::Cache<String, Arc<str>> = moka::sync::Cache::new(1_000);
    let std_lock: RwLock<HashMap<String, Arc<str>>> = RwLock::default();
    let mut fold: HashMap<String, Arc<str>, foldhash::fast::RandomState> = HashMap::default();
    for name in &names {
        moka.insert(name.clone(), VALUE.into());
        std_lock
            .write()
            .expect("not poisoned")
            .insert(name.clone(), VALUE.into());
        fold.insert(name.clone(), VALUE.into());
    }
    let home = env::vars()
        .next()
        .map(|(name, _)| name)
        .expect("an environment");

    let mut group = criterion.benchmark_group("hit");
    measure!(
        group,
        "secretwell with_cached",
        resolver.with_cached(WANTED, |secret| secret.value.expose_bytes().len())
    );
    measure!(
        group,
        "secretwell get",
        match resolver.get(WANTED).await {
            Ok(secret) => secret.value.expose_bytes().len(),
            Err(_) => return,
        }
    );
    measure!(
        group,
        "secret-vault",
        vault.get_secret_by_ref(&wanted).await.is_ok()
    );
    measure!(group, "moka", moka.get(WANTED).map(|secret| secret.len()));
    measure!(
        group,
        "std RwLock<HashMap>",
        match std_lock.read() {
            Ok(map) => map.get(WANTED).map(|secret| secret.len()),
            Err(_) => return,
        }
    );
    measure!(
        group,
        "foldhash map (never changes)",
        fold.get(WANTED).map(|secret| secret.len())
    );
    measure!(
        group,
        "std env::var",
        env::var(&home).map_or(0, |value| value.len())
    );
    group.finish();
}

criterion_group!(benches, hit);
criterion_main!(benches);
