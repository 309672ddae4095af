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
use secretwell_bench::figures;
use secretwell_bench::turns::median;
use serde::Deserialize;

const CALLS: usize = 5_000_000;
const ROUNDS: usize = 9;
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
    let first_generation = generation(&runtime, &auth);

    let rounds: Vec<[Latencies; 2]> = (0..ROUNDS)
        .map(|_| {
            let steady = latencies(&runtime, &auth);
            [
                steady,
                while_rotating(&memory, || latencies(&runtime, &auth)),
            ]
        })
        .collect();
    for (index, name) in ["steady", "rotating"].into_iter().enumerate() {
        for (number, percentile) in ["p50", "p99", "p999"].into_iter().enumerate() {
            let value = median(rounds.iter().map(|round| round[index].percentiles[number]));
            figures::add(&format!("rotation_{name}_{percentile}_ns"), value);
        }
    }
    let ratio =
        |[steady, rotating]: &[Latencies; 2]| rotating.percentiles[1] / steady.percentiles[1];
    figures::add(
        "rotation_p99_rotating_over_steady",
        median(rounds.iter().map(ratio)),
    );
    let failed: usize = rounds
        .iter()
        .flatten()
        .map(|latencies| latencies.failed)
        .sum();
    figures::add("rotation_failed_requests", failed as f64);
    // So few calls do not change a percentile.
    let after_rotation = || {
        let rotating = rounds.iter().map(|[_, rotating]| rotating);
        rotating.flat_map(|latencies| latencies.after_rotation.iter().copied())
    };
    figures::add(
        "rotation_first_call_p50_ns",
        median(after_rotation().map(f64::from)),
    );
    figures::add(
        "rotation_first_call_longest_ns",
        after_rotation().max().unwrap_or_default().into(),
    );
    let generations = generation(&runtime, &auth) - first_generation;
    figures::add("rotation_count", generations as f64);
}

/// Runs `work` while the secret rotates.
fn while_rotating<R>(memory: &MemoryProvider, work: impl FnOnce() -> R) -> R {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for count in 1.. {
                if done.load(Ordering::Relaxed) {
                    break;
                }
                rotate(memory, count);
                thread::sleep(ROTATION_INTERVAL);
            }
        });
        let result = work();
        done.store(true, Ordering::Relaxed);
        result
    })
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

struct Latencies {
    /// The 50th, the 99th and the 99.9th percentile, in nanoseconds.
    percentiles: [f64; 3],
    /// The latency of the first call that returned the build of a rotation, in nanoseconds.
    after_rotation: Vec<u32>,
    failed: usize,
}

/// Measures the latency of each call, including the cost of reading the clock.
fn latencies(runtime: &tokio::runtime::Runtime, auth: &LazyAuth<usize>) -> Latencies {
    let (mut failed, mut after_rotation) = (0, Vec::new());
    let mut last_generation = generation(runtime, auth);
    let mut latencies: Vec<u32> = runtime.block_on(async {
        let mut latencies = Vec::with_capacity(CALLS);
        for _ in 0..CALLS {
            let started = Instant::now();
            let result = black_box(auth.get().await);
            let latency = u32::try_from(started.elapsed().as_nanos()).unwrap_or(u32::MAX);
            latencies.push(latency);
            match result.map(|auth| Guard::generation(&auth)) {
                Ok(generation) if generation != last_generation => {
                    after_rotation.push(latency);
                    last_generation = generation;
                }
                Ok(_) => {}
                Err(_) => failed += 1,
            }
        }
        latencies
    });
    let percentiles = [0.5, 0.99, 0.999].map(|share| {
        let index = (CALLS as f64 * share) as usize;
        let (_, latency, _) = latencies.select_nth_unstable(index);
        f64::from(*latency)
    });
    Latencies {
        percentiles,
        after_rotation,
        failed,
    }
}
