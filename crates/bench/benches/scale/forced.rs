//! The cost of forced refreshes of many keys within the second that limits the refreshes of each key.

use std::time::{Duration, Instant};

use secretwell::Resolver;
use secretwell_bench::clock::process_cpu_time;

use crate::Keys;
use crate::meter::{per, single_thread, smallest};
use crate::refresh::load;
use crate::report::Report;
use crate::source::{Batch, Source};

pub(crate) fn measure(report: &mut Report, keys: &Keys) {
    let micros = smallest(keys.runs(), || cost(keys).as_secs_f64() * 1e6);
    report.add("forced_refresh", "us", keys.len(), micros);
}

/// Returns the CPU time of the resolver per refresh. Each refresh has another key.
fn cost(keys: &Keys) -> Duration {
    let source = Source::new(Batch::Yes);
    let resolver = Resolver::builder(source.clone())
        .max_entries(keys.len())
        .build();
    single_thread().block_on(async {
        load(&resolver, &keys.all).await;
        let own_cost = source.own_cost(&keys.all[..1]).await;
        let (started, before) = (Instant::now(), process_cpu_time());
        let mut count = 0;
        for key in &keys.all {
            let results = resolver.refresh([key.as_str()]).await;
            assert!(results[0].is_ok());
            count += 1;
            if started.elapsed() > Duration::from_secs(1) {
                break;
            }
        }
        per(process_cpu_time() - before, count).saturating_sub(own_cost)
    })
}
