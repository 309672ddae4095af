//! The time of a cache hit and of a read of a built value, in nanoseconds.
//!
//! `cargo xtask bench metrics` builds this program with the feature `metrics` and without it, and runs both in turns.
//! It compares their figures.

use std::hint::black_box;
use std::time::Instant;

use secretwell::auth::{BuildContext, LazyAuth};
use secretwell::{ExposeSecret, MemoryProvider, Resolver, SecretString};
use secretwell_bench::figures;
use serde::Deserialize;

const CALLS: u32 = 5_000_000;

#[derive(Deserialize)]
struct Secrets {
    auth_secret: SecretString,
}

fn main() {
    #[cfg(feature = "metrics")]
    metrics_exporter_prometheus::PrometheusBuilder::new()
        .install_recorder()
        .expect("no other recorder is installed");
    let runtime = tokio::runtime::Runtime::new().expect("the runtime starts");
    let value = "a-secret-that-is-long-enough-to-be-accepted!";
    let memory = MemoryProvider::from_iter([("auth_secret", value)]);
    let resolver = Resolver::new(memory);
    let auth = LazyAuth::infallible(resolver.clone(), |secrets: Secrets, _: BuildContext| {
        secrets.auth_secret
    });
    runtime
        .block_on(auth.get())
        .expect("the first build succeeds");

    print("metrics_with_cached_ns", || {
        resolver.with_cached("auth_secret", |secret| secret.value.expose_bytes().len())
    });
    print("metrics_with_ns", || {
        auth.with(|secret| secret.expose_secret().len())
    });
    runtime.block_on(async {
        let started = Instant::now();
        for _ in 0..CALLS {
            black_box(auth.get().await.is_ok());
        }
        print_time("metrics_get_ns", started);
    });
}

fn print<R>(name: &str, mut read: impl FnMut() -> R) {
    let started = Instant::now();
    for _ in 0..CALLS {
        black_box(read());
    }
    print_time(name, started);
}

fn print_time(name: &str, started: Instant) {
    let nanoseconds = started.elapsed().as_secs_f64() * 1e9 / f64::from(CALLS);
    figures::add(name, nanoseconds);
}
