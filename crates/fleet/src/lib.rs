//! A simulation of a fleet: many instances of a service that share one source of secrets.
//!
//! Each instance is a real `Resolver` with a real `LazyAuth` of Auth.js session tokens. The server is a model with
//! replicas that lag. Time is virtual, so hours take seconds. A run is determined by its seed, except for the order of
//! events within a millisecond.
//!
//! `cargo xtask fleet` runs it with 10,000 instances. `docs/reliability.md` shows the results.

// The simulation is a test: it panics if it cannot run.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod fleet;
mod instance;
mod phases;
mod report;
mod server;

use std::time::{Duration, SystemTime};

pub use report::{Phase, Promise, Report};

/// Runs all phases with this number of instances.
pub fn run(instances: usize, seed: u64) -> Report {
    // The jitter of the resolver is drawn from the generator of the thread.
    fastrand::seed(seed);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build();
    runtime.unwrap().block_on(async {
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        secretwell_resolver::clock::simulate_wall(start);
        phases::run(instances, seed).await
    })
}
