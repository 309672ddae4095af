//! The cost of insertions and evictions, and the memory of cached keys.

use std::time::Duration;

use secretwell::{Resolver, SecretKey};
use secretwell_bench::clock::process_cpu_time;

use crate::meter::{per, single_thread, smallest};
use crate::refresh::load;
use crate::report::Report;
use crate::source::{Batch, Source, VALUE_BYTES};
use crate::{Keys, numbered_keys};

/// The minimum number of measured insertions. Larger caches get as many as they have keys, so that the growth
/// of the maps is a part of the average.
const MIN_INSERTED: usize = 50_000;

pub(crate) fn measure(report: &mut Report, keys: &Keys) {
    let others = numbered_keys("OTHER", keys.len().max(MIN_INSERTED));
    let micros = |max_entries| {
        smallest(keys.runs(), || {
            insertion(&keys.all, &others, max_entries).as_secs_f64() * 1e6
        })
    };
    let without_eviction = micros(keys.len() + others.len());
    let with_eviction = micros(keys.len());
    report.add("insertion", "us", keys.len(), without_eviction);
    report.add("insertion_with_eviction", "us", keys.len(), with_eviction);
}

/// Returns the CPU time of the resolver per insertion of one of `others`, when `keys` are cached.
fn insertion(keys: &[SecretKey], others: &[SecretKey], max_entries: usize) -> Duration {
    let source = Source::new(Batch::Yes);
    let resolver = Resolver::builder(source.clone())
        .max_entries(max_entries)
        .build();
    single_thread().block_on(async {
        load(&resolver, keys).await;
        let own_cost = source.own_cost(others).await;
        let before = process_cpu_time();
        load(&resolver, others).await;
        let cost = per(process_cpu_time() - before, others.len());
        assert_eq!(resolver.len(), max_entries);
        cost.saturating_sub(own_cost)
    })
}

/// Measures the allocated bytes per key, without the bytes of the key and of the value. The overhead of
/// reference counts and of the version is included, that of the allocator is not.
pub(crate) fn measure_memory(report: &mut Report, keys: &Keys) {
    let in_chunks = bytes_per_key(&keys.all, 1000);
    report.add("memory_per_key", "bytes", keys.len(), in_chunks);
    let at_once = bytes_per_key(&keys.all, keys.len());
    report.add("memory_per_key_read_at_once", "bytes", keys.len(), at_once);
}

fn bytes_per_key(keys: &[SecretKey], chunk: usize) -> f64 {
    let runtime = single_thread();
    let mut resolver = None;
    let allocated = allocation_counter::measure(|| {
        let source = Source::new(Batch::Yes);
        let resolver = &*resolver.insert(Resolver::builder(source).max_entries(keys.len()).build());
        runtime.block_on(async {
            for keys in keys.chunks(chunk) {
                drop(resolver.get_many(keys).await);
            }
            tokio::task::yield_now().await;
        });
    });
    assert_eq!(resolver.map(|resolver| resolver.len()), Some(keys.len()));
    let text: usize = keys
        .iter()
        .map(|key| key.as_str().len() + VALUE_BYTES)
        .sum();
    (allocated.bytes_current as f64 - text as f64) / keys.len() as f64
}
