//! The cost of a fetch while one key has many watches.

use std::time::Duration;

use secretwell::Resolver;
use secretwell_bench::clock::process_cpu_time;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::Keys;
use crate::meter::{per, single_thread, smallest, until_idle};
use crate::refresh::load;
use crate::report::Report;
use crate::source::{Batch, Source};

const WATCHES: usize = 10_000;
/// The number of measured fetches of other keys.
const OTHERS: usize = 500;
/// The number of measured fetches of the watched key.
const ROUNDS: usize = 3;
/// A key is refreshed at most once within this time.
const FORCE_INTERVAL: Duration = Duration::from_millis(1_010);

pub(crate) fn measure(report: &mut Report, keys: &Keys) {
    let source = Source::new(Batch::Yes);
    let resolver = Resolver::builder(source.clone())
        .ttl(Duration::from_secs(3600))
        .max_entries(keys.len())
        .build();
    let (watched, others) = keys.all.split_first().expect("at least one key");
    single_thread().block_on(async {
        load(&resolver, &keys.all).await;
        let mut watches = JoinSet::new();
        for _ in 0..WATCHES {
            let mut watch = resolver.watch([watched]).expect("a valid key");
            watches.spawn(async move { while watch.next().await.is_some() {} });
        }
        until_idle().await;

        let before = process_cpu_time();
        for key in &others[..OTHERS] {
            assert!(resolver.refresh([key]).await[0].is_ok());
        }
        let other = per(process_cpu_time() - before, OTHERS);
        let unchanged = refresh(&resolver, watched.as_str(), || {}).await;
        let changed = refresh(&resolver, watched.as_str(), || source.change()).await;

        let mut add = |name: &str, micros| {
            let name = format!("fetch_with_10000_watches_{name}");
            report.add(&name, "us", keys.len(), micros);
        };
        add("another_key", other.as_secs_f64() * 1e6);
        add("same_value", unchanged);
        add("new_value", changed);
    });
}

/// Returns the CPU time in µs of a refresh of `key` and of its effects on watches. Calls `prepare` before each
/// refresh.
async fn refresh(resolver: &Resolver, key: &str, prepare: impl Fn()) -> f64 {
    let mut costs = Vec::new();
    for _ in 0..ROUNDS {
        sleep(FORCE_INTERVAL).await;
        prepare();
        let before = process_cpu_time();
        assert!(resolver.refresh([key]).await[0].is_ok());
        // The tasks of the watches run before this one.
        tokio::task::yield_now().await;
        costs.push((process_cpu_time() - before).as_secs_f64() * 1e6);
    }
    let mut costs = costs.into_iter();
    smallest(ROUNDS, || costs.next().unwrap_or(f64::INFINITY))
}
