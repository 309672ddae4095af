//! Latency of `LazyAuth::get` with a steady secret, and while the secret rotates.
//!
//! The secret is written 20 times a second. The resolver reads at most once per 100 ms after change
//! notifications, so there are about ten rotations a second.

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use secretwell::auth::{BuildError, Guard, LazyAuth};
use secretwell::{ExposeSecret, MemoryProvider, Resolver, SecretString};
use serde::Deserialize;

const CALLS: usize = 20_000_000;
const ROUNDS: usize = 3;
const ROTATION_INTERVAL: Duration = Duration::from_millis(50);

#[derive(Deserialize)]
struct Secrets {
    secret: SecretString,
}

fn main() {
    let runtime = tokio::runtime::Runtime::new().expect("the runtime starts");
    let memory = MemoryProvider::new();
    rotate(&memory, 0);
    let auth = LazyAuth::builder(Resolver::new(memory.clone()))
        .activation_delay(Duration::ZERO)
        .build(|secrets: Secrets, _| async move {
            Ok::<_, BuildError>(secrets.secret.expose_secret().len())
        });
    runtime
        .block_on(auth.get())
        .expect("the first build succeeds");

    println!("latency of LazyAuth::get over {CALLS} calls, the clock's own cost included");
    for _ in 0..ROUNDS {
        report("steady", 0, latencies(&runtime, &auth));

        let generation_before = generation(&runtime, &auth);
        let done = AtomicBool::new(false);
        let rotating = thread::scope(|scope| {
            scope.spawn(|| {
                for count in 1.. {
                    if done.load(Ordering::Relaxed) {
                        break;
                    }
                    rotate(&memory, count);
                    thread::sleep(ROTATION_INTERVAL);
                }
            });
            let rotating = latencies(&runtime, &auth);
            done.store(true, Ordering::Relaxed);
            rotating
        });
        report(
            "rotating",
            generation(&runtime, &auth) - generation_before,
            rotating,
        );
    }
}

fn rotate(memory: &MemoryProvider, count: usize) {
    let secret = format!("a-secret-that-is-long-enough-to-be-accepted-{count}");
    memory.set("secret", secret).expect("a valid key");
}

fn generation(runtime: &tokio::runtime::Runtime, auth: &LazyAuth<usize>) -> u64 {
    runtime
        .block_on(auth.get())
        .map_or(0, |auth| Guard::generation(&auth))
}

/// Returns the latency of each call in nanoseconds, sorted.
fn latencies(runtime: &tokio::runtime::Runtime, auth: &LazyAuth<usize>) -> Vec<u64> {
    let mut latencies: Vec<u64> = runtime.block_on(async {
        let mut latencies = Vec::with_capacity(CALLS);
        for _ in 0..CALLS {
            let started = Instant::now();
            black_box(*auth.get().await.expect("no request fails"));
            latencies.push(u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX));
        }
        latencies
    });
    latencies.sort_unstable();
    latencies
}

fn report(name: &str, rotations: u64, latencies: Vec<u64>) {
    let percentile = |share: f64| {
        let index = (latencies.len() as f64 * share) as usize;
        latencies[index]
    };
    println!(
        "{name:9} {rotations:4} rotations   p50 {:4} ns   p99 {:4} ns   p99.9 {:5} ns   0 failed",
        percentile(0.5),
        percentile(0.99),
        percentile(0.999),
    );
}
