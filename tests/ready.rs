//! The ready path: what every request goes through.

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
async fn it_allocates_nothing() {
    let memory = MemoryProvider::new();
    memory
        .set("secret", "a-secret-that-is-long-enough-to-be-accepted")
        .unwrap();
    let resolver = Resolver::new(memory);
    let auth = LazyAuth::new(resolver.clone(), |secrets: Secrets, _| {
        ready(Ok::<_, BuildError>(secrets.secret))
    });
    drop(auth.get().await.unwrap());
    let mut handle = auth.reader().unwrap();
    // The first look of a thread may.
    assert!(auth.with(|_| ()).is_some());
    assert!(resolver.get("secret").await.is_ok());

    let mut context = Context::from_waker(Waker::noop());
    let reads: [(&str, &mut dyn FnMut() -> bool); 6] = [
        ("get", &mut || {
            pin!(auth.get()).poll(&mut context).is_ready()
        }),
        ("try_get", &mut || auth.try_get().is_ok()),
        ("with", &mut || auth.with(|_| ()).is_some()),
        ("handle", &mut || !handle.get().expose_secret().is_empty()),
        ("with_cached", &mut || {
            resolver.with_cached("secret", |_| ()).is_some()
        }),
        ("peek", &mut || auth.peek().is_some()),
    ];
    for (name, read) in reads {
        let mut read_something = false;
        let allocated = measure(|| read_something = read());
        assert!(read_something, "{name} read nothing");
        assert_eq!(allocated.count_total, 0, "{name} allocated");
    }
}
