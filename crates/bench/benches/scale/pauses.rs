//! The longest pauses of a runtime with one thread, while the resolver handles many keys at once.

use std::time::Duration;

use secretwell::Resolver;
use tokio::task::LocalSet;

use crate::meter::{Ticker, single_thread, until_idle};
use crate::refresh::{load, read_all};
use crate::report::Report;
use crate::source::{Batch, Source};
use crate::{Keys, numbered_keys};

/// The number of evicted keys.
const EVICTED: usize = 10_000;

pub(crate) fn measure(report: &mut Report, keys: &Keys) {
    let runs: Vec<Vec<(&str, Duration)>> = (0..keys.runs()).map(|_| pauses(keys)).collect();
    for (index, (name, _)) in runs[0].iter().enumerate() {
        let shortest = runs.iter().map(|run| run[index].1).min();
        let millis = shortest.unwrap_or_default().as_secs_f64() * 1e3;
        report.add(&format!("pause_{name}"), "ms", keys.len(), millis);
    }
}

/// Returns the longest pause in each situation.
fn pauses(keys: &Keys) -> Vec<(&'static str, Duration)> {
    let mut pauses = Vec::new();
    let source = Source::new(Batch::Yes);
    let ttl = Duration::from_millis(2_000 + keys.len() as u64 / 33);
    let resolver = Resolver::builder(source.clone())
        .ttl(ttl)
        .max_entries(keys.len())
        .build();
    let others = numbered_keys("OTHER", EVICTED.min(keys.len()));
    LocalSet::new().block_on(&single_thread(), async {
        let ticker = Ticker::start();
        ticker.take().await;

        // The results are kept until the pause is measured. Dropping them is the caller's pause.
        let results = resolver.get_many(&keys.all).await;
        pauses.push(("get_many", ticker.take().await));
        drop(results);
        ticker.take().await;

        let read = source.keys_read();
        read_all(&resolver, &keys.all).await;
        ticker.take().await;
        source.until_read(read + keys.len()).await;
        until_idle().await;
        pauses.push(("refresh", ticker.take().await));

        let read = source.keys_read();
        read_all(&resolver, &keys.all).await;
        ticker.take().await;
        source.notify_all();
        source.until_read(read + keys.len()).await;
        until_idle().await;
        pauses.push(("change_of_all", ticker.take().await));

        load(&resolver, &others).await;
        until_idle().await;
        pauses.push(("eviction", ticker.take().await));
    });
    pauses
}
