//! The number of calls of a batching source when many callers need different keys at once.

use std::sync::Arc;
use std::time::Duration;

use secretwell::Resolver;
use secretwell_bench::figures;
use secretwell_bench::turns::median;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use crate::meter::single_thread;
use crate::numbered_keys;
use crate::source::{Batch, Source};

const CALLERS: usize = 200;
const ROUNDS: usize = 50;

pub(crate) fn measure() {
    let two_threads = Builder::new_multi_thread()
        .worker_threads(2)
        .enable_time()
        .build()
        .expect("the runtime starts");
    for (name, runtime) in [
        ("one_thread", &single_thread()),
        ("two_threads", &two_threads),
    ] {
        for latency in [0, 1] {
            let counts: Vec<f64> = (0..ROUNDS)
                .map(|_| calls(runtime, Duration::from_millis(latency)) as f64)
                .collect();
            let most = counts.iter().copied().fold(0.0, f64::max);
            let prefix = format!("callers_{name}_source_of_{latency}_ms");
            figures::add(&format!("{prefix}_median_calls"), median(counts));
            figures::add(&format!("{prefix}_most_calls"), most);
        }
    }
}

/// Returns the number of calls of the source.
fn calls(runtime: &Runtime, latency: Duration) -> usize {
    let source = Source::new(Batch::Yes).with_latency(latency);
    let resolver = Resolver::new(source.clone());
    runtime.block_on(async {
        let all_ready = Arc::new(Barrier::new(CALLERS));
        let mut callers = JoinSet::new();
        for key in numbered_keys("SECRET", CALLERS) {
            let (resolver, all_ready) = (resolver.clone(), all_ready.clone());
            callers.spawn(async move {
                all_ready.wait().await;
                resolver.get(key.as_str()).await
            });
        }
        let results = callers.join_all().await;
        assert!(results.iter().all(Result::is_ok));
    });
    source.calls()
}
