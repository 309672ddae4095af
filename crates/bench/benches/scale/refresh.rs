//! The cost of refreshes in the background.

use std::time::Duration;

use secretwell::{Resolver, SecretKey};
use secretwell_bench::clock::process_cpu_time;

use crate::Keys;
use crate::meter::{per, single_thread, until_idle};
use crate::report::Report;
use crate::source::{Batch, Source};

/// The ttl for the percentage of a core.
const TTL: f64 = 30.0;
/// The mean part of the ttl after which a key is refreshed.
const REFRESHED_AFTER: f64 = 0.8125;

pub(crate) fn measure(report: &mut Report, keys: &Keys) {
    for (batch, name) in [(Batch::Yes, "batch"), (Batch::No, "no_batch")] {
        let cost = cost(keys, batch);
        let micros = cost.as_secs_f64() * 1e6;
        report.add(&format!("refresh_{name}"), "us", keys.len(), micros);
        let seconds = cost.as_secs_f64() * keys.len() as f64;
        let percent = 100.0 * seconds / (TTL * REFRESHED_AFTER);
        let name = format!("refresh_each_30_s_{name}");
        report.add(&name, "percent_of_a_core", keys.len(), percent);
    }
}

/// Returns the CPU time of the resolver per refreshed key, in the best round.
fn cost(keys: &Keys, batch: Batch) -> Duration {
    // A million keys are their own average, and their rounds take long.
    let rounds = keys.runs() - 1;
    let runtime = single_thread();
    let own_cost = runtime.block_on(Source::new(batch).own_cost(&keys.all));
    let costs = (0..rounds).map(|_| runtime.block_on(round(&keys.all, batch)));
    let best = costs.min().unwrap_or_default();
    best.saturating_sub(own_cost)
}

/// Returns the CPU time of a new resolver and of its source per refreshed key. Every key is refreshed once.
///
/// The first refreshes of keys are spread over most of the ttl. In a second round, some keys would become due before
/// the last key of the first one. They would not be in use then, and not be refreshed.
async fn round(keys: &[SecretKey], batch: Batch) -> Duration {
    let source = Source::new(batch);
    let resolver = Resolver::builder(source.clone())
        .ttl(ttl(keys.len()))
        .max_entries(keys.len())
        .build();
    load(&resolver, keys).await;
    let refreshed = source.keys_read() + keys.len();
    read_all(&resolver, keys).await;
    let (before, read_before) = (process_cpu_time(), source.keys_read());
    source.until_read(refreshed).await;
    until_idle().await;
    per(
        process_cpu_time() - before,
        source.keys_read() - read_before,
    )
}

/// Returns a ttl that is long enough for a round on a busy machine.
fn ttl(keys: usize) -> Duration {
    Duration::from_millis(1_000 + keys as u64 / 33)
}

/// Caches all `keys`.
pub(crate) async fn load(resolver: &Resolver, keys: &[SecretKey]) {
    for chunk in keys.chunks(1000) {
        let results = resolver.get_many(chunk).await;
        assert!(results.iter().all(Result::is_ok));
    }
}

/// Reads all `keys` from the cache, so that each of them is in use. Lets other tasks run in between.
pub(crate) async fn read_all(resolver: &Resolver, keys: &[SecretKey]) {
    for chunk in keys.chunks(1000) {
        for key in chunk {
            let length = resolver.with_cached(key.as_str(), |secret| secret.value.len());
            assert!(length.is_some(), "{key} is not cached");
        }
        tokio::task::yield_now().await;
    }
}
