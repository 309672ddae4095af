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

/// Returns the CPU time of the resolver per refreshed key, in the best round. In each round, every key is
/// refreshed once.
fn cost(keys: &Keys, batch: Batch) -> Duration {
    // A million keys are their own average, and their rounds take long.
    let rounds = keys.runs() - 1;
    let keys = &keys.all;
    let source = Source::new(batch);
    let resolver = Resolver::builder(source.clone())
        .ttl(ttl(keys.len()))
        .max_entries(keys.len())
        .build();
    single_thread().block_on(async {
        let own_cost = source.own_cost(keys).await;
        load(&resolver, keys).await;
        let mut best = Duration::MAX;
        for _ in 0..rounds {
            read_all(&resolver, keys).await;
            let (before, read_before) = (process_cpu_time(), source.keys_read());
            source.until_read(read_before + keys.len()).await;
            until_idle().await;
            let count = source.keys_read() - read_before;
            best = best.min(per(process_cpu_time() - before, count));
        }
        best.saturating_sub(own_cost)
    })
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
