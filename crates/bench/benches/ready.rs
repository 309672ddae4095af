//! Benchmarks of the access to a built `LazyAuth`, and of alternatives such as arc-swap and `OnceLock`.

mod calls;

use std::sync::{Arc, OnceLock, RwLock};

use arc_swap::{ArcSwap, Cache};
use secretwell::auth::{BuildContext, LazyAuth};
use secretwell::{ExposeSecret, MemoryProvider, Resolver, SecretString};
use secretwell_bench::figures;
use secretwell_bench::turns::Times;
use serde::Deserialize;

use calls::{Calls, add};

#[derive(Deserialize)]
struct Secrets {
    secret: SecretString,
}

/// The built value. Each call reads its one field.
struct Built {
    length: usize,
}

fn main() {
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

    let mut calls = Calls::new("ready");
    add!(
        calls,
        "get",
        lazy.get().await.expect("the value is built").length
    );
    add!(calls, "with", lazy.with(|auth| auth.length));
    add!(calls, "reader", reader.get().length, with
        let mut reader = lazy.reader().expect("the value is built"));
    add!(calls, "arc_swap_load", swap.load().length);
    add!(calls, "arc_swap_cache", cache.load().length, with
        let mut cache = Cache::new(shared_swap.clone()));
    // Neither of these two can replace its value.
    add!(calls, "once_lock", once_lock.get().map(|auth| auth.length));
    add!(
        calls,
        "once_cell",
        once_cell.get_or_init(async || built()).await.length
    );
    add!(
        calls,
        "rwlock",
        lock.read().expect("not poisoned").clone().length
    );
    let [one_thread, two_threads] = calls.measure();
    for (name, times) in [("ready", &one_thread), ("ready_two_threads", &two_threads)] {
        let figure = format!("{name}_get_over_arc_swap_load");
        times.report_ratio(&figure, "get", "arc_swap_load");
    }
    let get = |times: &Times| times.median("get").expect("it was measured");
    let figure = "ready_get_two_threads_over_one_thread";
    figures::add(figure, get(&two_threads) / get(&one_thread));
}
