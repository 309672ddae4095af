//! The time of a cache hit with many keys, and of the alternatives that `benches/hit.rs` also measures.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use quick_cache::sync::Cache as QuickCache;
use secret_vault::{
    MockSecretsSource, SecretName, SecretVaultBuilder, SecretVaultRef, SecretVaultView,
};
use secretwell::{MemoryProvider, Resolver, SecretProvider, SecretProviderExt};
use secretwell_bench::clock::thread_cpu_time;
use secretwell_bench::turns::{Turns, Unit};

use crate::Keys;
use crate::meter::single_thread;
use crate::refresh::load;
use crate::source::{Batch, Source, VALUE_BYTES};

const ROUNDS: usize = 30;
const BATCH: Duration = Duration::from_millis(6);

pub(crate) fn measure(keys: &Keys) {
    let runtime = single_thread();
    // In order, the processor would load the next key ahead.
    let mut names: Vec<&str> = keys.all.iter().map(|key| key.as_str()).collect();
    fastrand::Rng::with_seed(0).shuffle(&mut names);

    let single = resolver(Source::new(Batch::Yes), keys);
    runtime.block_on(load(&single, &keys.all));
    let chain = MemoryProvider::new().or_else(Source::new(Batch::Yes));
    let chain = resolver(chain, keys);
    runtime.block_on(load(&chain, &keys.all));
    let value = "a".repeat(VALUE_BYTES);
    let moka: moka::sync::Cache<String, Arc<str>> = moka::sync::Cache::new(2 * keys.len() as u64);
    let quick_cache: QuickCache<String, Arc<str>> = QuickCache::new(2 * keys.len());
    for name in &names {
        moka.insert((*name).to_owned(), value.as_str().into());
        quick_cache.insert((*name).to_owned(), value.as_str().into());
    }
    let references: Vec<SecretVaultRef> = names
        .iter()
        .map(|name| SecretVaultRef::new(SecretName::new((*name).to_owned())))
        .collect();
    let secrets = references
        .iter()
        .map(|name| (name.clone(), value.clone().into()));
    let vault = SecretVaultBuilder::with_source(MockSecretsSource::new(secrets.collect()))
        .with_secret_refs(references.iter().collect())
        .build()
        .expect("the vault is built");
    runtime
        .block_on(vault.refresh())
        .expect("the vault reads its source");

    let mut turns = Turns::new(ROUNDS, BATCH);
    for (name, resolver) in [("with_cached", &single), ("second_source", &chain)] {
        add(&mut turns, name, &names, move |key| {
            let length = resolver.with_cached(key, |secret| secret.value.len());
            assert_eq!(length, Some(VALUE_BYTES));
        });
    }
    add(&mut turns, "moka", &names, |key| {
        assert_eq!(moka.get(*key).map(|secret| secret.len()), Some(VALUE_BYTES));
    });
    add(&mut turns, "quick_cache", &names, |key| {
        let length = quick_cache.get(*key).map(|secret| secret.len());
        assert_eq!(length, Some(VALUE_BYTES));
    });
    let mut next = 0;
    turns.add("secret_vault", |calls| {
        runtime.block_on(async {
            let before = thread_cpu_time();
            for _ in 0..calls {
                let secret = vault.get_secret_by_ref(&references[next]).await;
                assert!(black_box(secret).is_ok());
                next = (next + 1) % references.len();
            }
            thread_cpu_time() - before
        })
    });
    let times = turns.measure();
    let prefix = format!("hit_of_{}_random_keys", keys.len());
    times.report(&prefix, Unit::Nanoseconds);
    for peer in ["secret_vault", "moka", "quick_cache"] {
        let figure = format!("{prefix}_{peer}_over_with_cached");
        times.report_ratio(&figure, peer, "with_cached");
    }
}

/// Adds an alternative. Each call of `read` has the next item.
fn add<'a, T>(turns: &mut Turns<'a>, name: &str, items: &'a [T], read: impl Fn(&T) + 'a) {
    let mut next = items.iter().cycle();
    turns.add(name, move |calls| {
        let before = thread_cpu_time();
        for item in next.by_ref().take(calls as usize) {
            read(black_box(item));
        }
        thread_cpu_time() - before
    });
}

/// Creates a resolver whose values stay fresh during the measurement.
fn resolver(provider: impl SecretProvider, keys: &Keys) -> Resolver {
    Resolver::builder(provider)
        .ttl(Duration::from_secs(3600))
        .max_entries(keys.len())
        .build()
}
