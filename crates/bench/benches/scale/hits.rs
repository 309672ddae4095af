//! The time of a cache hit with many keys, and of the alternatives that `benches/hit.rs` also measures.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use secret_vault::{
    MockSecretsSource, SecretName, SecretVaultBuilder, SecretVaultRef, SecretVaultView,
};
use secretwell::{MemoryProvider, Resolver, SecretProvider, SecretProviderExt};

use crate::Keys;
use crate::meter::{cpu_time, single_thread, smallest};
use crate::refresh::load;
use crate::report::Report;
use crate::source::{Batch, Source, VALUE_BYTES};

/// The number of calls of one run.
const CALLS: usize = 200_000;
const RUNS: usize = 15;

pub(crate) fn measure(report: &mut Report, keys: &Keys) {
    let runtime = single_thread();
    let names: Vec<&str> = keys.all.iter().map(|key| key.as_str()).collect();
    let one = [names[names.len() / 2]];
    // In order, the processor would load the next key ahead.
    let mut random: Vec<&str> = names.clone();
    fastrand::Rng::with_seed(0).shuffle(&mut random);
    let orders = [("one key", &one[..]), ("all keys in random order", &random)];

    let single = resolver(Source::new(Batch::Yes), keys);
    runtime.block_on(load(&single, &keys.all));
    let chain = MemoryProvider::new().or_else(Source::new(Batch::Yes));
    let chain = resolver(chain, keys);
    runtime.block_on(load(&chain, &keys.all));
    for (order, names) in orders {
        let mut add = |name, resolver: &Resolver| {
            let nanos = per_call(names, |key| {
                let length = resolver.with_cached(key, |secret| secret.value.len());
                assert_eq!(length, Some(VALUE_BYTES));
            });
            report.add(&format!("{name}, {order}"), "ns", keys.len(), nanos);
        };
        add("with_cached", &single);
        add("with_cached of the second source", &chain);
    }
    let value = "a".repeat(VALUE_BYTES);
    let moka: moka::sync::Cache<String, Arc<str>> = moka::sync::Cache::new(2 * keys.len() as u64);
    for name in &names {
        moka.insert((*name).to_owned(), value.as_str().into());
    }
    let reference = |name: &&str| SecretVaultRef::new(SecretName::new((*name).to_owned()));
    let references: Vec<SecretVaultRef> = names.iter().map(reference).collect();
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
    for (order, names) in orders {
        let nanos = per_call(names, |key| {
            assert_eq!(moka.get(*key).map(|secret| secret.len()), Some(VALUE_BYTES));
        });
        report.add(&format!("moka, {order}"), "ns", keys.len(), nanos);
        let references: Vec<SecretVaultRef> = names.iter().map(reference).collect();
        let nanos = runtime.block_on(async {
            let mut best = f64::INFINITY;
            for _ in 0..RUNS {
                let started = cpu_time();
                for call in 0..CALLS / 3 {
                    let reference = &references[call % references.len()];
                    assert!(black_box(vault.get_secret_by_ref(reference).await).is_ok());
                }
                best = best.min((cpu_time() - started).as_secs_f64() * 1e9 / (CALLS / 3) as f64);
            }
            best
        });
        report.add(&format!("secret-vault, {order}"), "ns", keys.len(), nanos);
    }
}

/// Creates a resolver whose values stay fresh during the measurement.
fn resolver(provider: impl SecretProvider, keys: &Keys) -> Resolver {
    Resolver::builder(provider)
        .ttl(Duration::from_secs(3600))
        .max_entries(keys.len())
        .build()
}

/// Returns the time of one call of `read` in ns, in the best run. Each call has the next item.
fn per_call<T>(items: &[T], read: impl Fn(&T)) -> f64 {
    smallest(RUNS, || {
        let started = cpu_time();
        let mut items = items.iter().cycle();
        for _ in 0..CALLS {
            if let Some(item) = items.next() {
                read(black_box(item));
            }
        }
        (cpu_time() - started).as_secs_f64() * 1e9 / CALLS as f64
    })
}
