//! Benchmarks of the access to a built `LazyAuth`, and of alternatives such as arc-swap and `OnceLock`.

mod measure;

use std::sync::{Arc, OnceLock, RwLock};

use arc_swap::{ArcSwap, Cache};
use criterion::{Criterion, criterion_group, criterion_main};
use secretwell::auth::{BuildContext, LazyAuth};
use secretwell::{ExposeSecret, MemoryProvider, Resolver, SecretString};
use serde::Deserialize;

use measure::measure;

#[derive(Deserialize)]
struct Secrets {
    secret: SecretString,
}

/// The built value. Each call reads its one field.
struct Built {
    length: usize,
}

fn ready(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Runtime::new().expect("the runtime starts");
    let built = || Built { length: 44 };

    let memory = MemoryProvider::new();
    memory
        .set("secret", "a-secret-that-is-long-enough-to-be-accepted!")
        .expect("a valid key");
    let lazy = LazyAuth::infallible(
        Resolver::new(memory),
        |secrets: Secrets, _: BuildContext| Built {
            length: secrets.secret.expose_secret().len(),
        },
    );
    runtime
        .block_on(lazy.get())
        .expect("the first build succeeds");

    let swap = ArcSwap::from_pointee(built());
    let shared_swap = Arc::new(ArcSwap::from_pointee(built()));
    let once_lock: OnceLock<Built> = OnceLock::new();
    let _ = once_lock.set(built());
    let once_cell = tokio::sync::OnceCell::new_with(Some(built()));
    let lock = RwLock::new(Arc::new(built()));

    let mut group = criterion.benchmark_group("ready");
    measure!(
        group,
        "secretwell get",
        match lazy.get().await {
            Ok(auth) => auth.length,
            Err(_) => return,
        }
    );
    measure!(group, "secretwell with", lazy.with(|auth| auth.length));
    measure!(group, "secretwell reader", reader.get().length, with
        let mut reader = lazy.reader().expect("the value is built"));
    measure!(group, "arc-swap load", swap.load().length);
    measure!(group, "arc-swap cache", cache.load().length, with
        let mut cache = Cache::new(shared_swap.clone()));
    measure!(
        group,
        "std OnceLock (never swaps)",
        once_lock.get().map(|auth| auth.length)
    );
    measure!(
        group,
        "tokio OnceCell (never swaps)",
        once_cell.get_or_init(async || built()).await.length
    );
    measure!(
        group,
        "std RwLock<Arc>",
        match lock.read() {
            Ok(auth) => auth.clone().length,
            Err(_) => return,
        }
    );
    group.finish();
}

criterion_group!(benches, ready);
criterion_main!(benches);
