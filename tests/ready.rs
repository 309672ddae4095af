//! Reads of a ready auth and of a cached secret do not allocate.

use std::future::ready;
use std::pin::pin;
use std::task::{Context, Waker};

use allocation_counter::measure;
use secretwell::auth::{BuildError, LazyAuth};
use secretwell::{ExposeSecret, MemoryProvider, Resolver, SecretString};
use serde::Deserialize;

#[derive(Deserialize)]
struct Secrets {
    secret: SecretString,
}

#[tokio::test]
async fn ready_path_does_not_allocate() {
    let memory = MemoryProvider::new();
    memory
        .set("secret", "a-secret-that-is-long-enough-to-be-accepted")
        .unwrap();
    let resolver = Resolver::new(memory);
    let auth = LazyAuth::new(resolver.clone(), |secrets: Secrets, _| {
        ready(Ok::<_, BuildError>(secrets.secret))
    });
    drop(auth.get().await.unwrap());
    let mut reader = auth.reader().unwrap();
    // The first read on a thread is allowed to allocate.
    assert!(auth.with(|_| ()).is_some());
    assert!(resolver.get("secret").await.is_ok());

    let mut context = Context::from_waker(Waker::noop());
    let reads: [(&str, &mut dyn FnMut() -> bool); 6] = [
        ("get", &mut || {
            pin!(auth.get()).poll(&mut context).is_ready()
        }),
        ("try_get", &mut || auth.try_get().is_ok()),
        ("with", &mut || auth.with(|_| ()).is_some()),
        ("reader", &mut || !reader.get().expose_secret().is_empty()),
        ("with_cached", &mut || {
            resolver.with_cached("secret", |_| ()).is_some()
        }),
        ("peek", &mut || auth.peek().is_some()),
    ];
    for (name, read) in reads {
        let mut succeeded = false;
        let allocations = measure(|| succeeded = read());
        assert!(succeeded, "{name} returned no value");
        assert_eq!(allocations.count_total, 0, "{name} allocated");
    }
}
