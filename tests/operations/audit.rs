//! The callbacks for fetches, changes and accesses.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, OnceLock};

use secretwell::auth::{BuildError, LazyAuth, Mode};
use secretwell::{
    ErrorKind, MemoryProvider, Resolver, ResolverBuilder, SecretEvent, SecretProvider,
    SecretProviderExt,
};
use secretwell_testkit::{Action, Canary, CanaryLog};
use serde_json::json;

use super::Secrets;
use crate::support::{denied, down, faulty_source, pass, resolver, secs, settle, text};

/// The events of one callback.
#[derive(Clone, Default)]
struct Events(Arc<Mutex<Vec<SecretEvent>>>);

impl Events {
    fn callback(&self) -> impl Fn(SecretEvent) + Send + Sync + 'static {
        let events = self.0.clone();
        move |event| events.lock().unwrap().push(event)
    }

    /// Returns the new events as text: the key, the version, the result and the consumer.
    fn take(&self) -> Vec<String> {
        let events = std::mem::take(&mut *self.0.lock().unwrap());
        let text = |event: SecretEvent| {
            let version = event
                .version
                .map_or_else(String::new, |it| format!("@{it}"));
            let result = match &event.result {
                Ok(freshness) if freshness.is_stale() => "stale",
                Ok(_) => "fresh",
                Err(error) => error.kind().name(),
            };
            let consumer = event
                .consumer
                .map_or_else(String::new, |it| format!(" by {it}"));
            format!("{}{version} {result}{consumer}", event.key)
        };
        events.into_iter().map(text).collect()
    }
}

/// Returns a resolver with a ttl of 100 s, and the events of its callbacks: fetches, changes, accesses.
fn audited(provider: impl SecretProvider) -> (Resolver, [Events; 3]) {
    let events: [Events; 3] = Default::default();
    let resolver = Resolver::builder(provider)
        .ttl(secs(100))
        .on_fetch(events[0].callback())
        .on_change(events[1].callback())
        .on_access(events[2].callback())
        .build();
    (resolver, events)
}

#[tokio::test(start_paused = true)]
async fn fetches_and_changes_are_reported_and_the_first_fetch_is_no_change() {
    let (memory, faulty) = faulty_source(&[("A", "one")]);
    let (resolver, [fetches, changes, _]) = audited(faulty.clone());
    text(&resolver, "A").await;
    assert_eq!(fetches.take(), ["A@1 fresh"]);
    text(&resolver, "A").await;
    assert!(fetches.take().is_empty(), "a hit is no fetch");

    // A new version with an equal value is no change.
    memory.set("A", "one").unwrap();
    pass(secs(2)).await;
    resolver.refresh(["A"]).await;
    assert_eq!(fetches.take(), ["A@2 fresh"]);
    assert!(changes.take().is_empty());

    memory.set("A", "two").unwrap();
    pass(secs(2)).await;
    resolver.refresh(["A"]).await;
    assert_eq!(changes.take(), ["A@3 fresh"]);

    // An outage is no change, but each attempt is reported.
    fetches.take();
    faulty.push(Action::Fail(down()));
    pass(secs(2)).await;
    resolver.refresh(["A"]).await;
    assert_eq!(fetches.take(), ["A unavailable"]);
    assert!(changes.take().is_empty());

    memory.remove("A").unwrap();
    pass(secs(2)).await;
    resolver.refresh(["A"]).await;
    assert_eq!(changes.take(), ["A not_found"]);
    memory.set("A", "three").unwrap();
    pass(secs(2)).await;
    resolver.refresh(["A"]).await;
    assert_eq!(changes.take(), ["A@5 fresh"]);

    faulty.push(Action::Fail(denied()));
    pass(secs(2)).await;
    resolver.refresh(["A"]).await;
    assert_eq!(changes.take(), ["A denied"]);
}

#[tokio::test(start_paused = true)]
async fn change_is_reported_before_a_watch_returns_it() {
    let (memory, faulty) = faulty_source(&[("A", "one")]);
    let (resolver, [_, changes, _]) = audited(faulty);
    let mut watch = resolver.watch(["A"]).unwrap();
    watch.next().await.unwrap();
    memory.set("A", "two").unwrap();
    watch.next().await.unwrap();
    assert_eq!(changes.take(), ["A@2 fresh"]);
}

#[tokio::test(start_paused = true)]
async fn each_way_of_reading_is_an_access_with_the_name_of_the_reader() {
    let (_, faulty) = faulty_source(&[("A", "a"), ("B", "b")]);
    let (resolver, [fetches, _, accesses]) = audited(faulty.clone());
    let orders = resolver.for_consumer("orders");
    orders.get("A").await.unwrap();
    assert_eq!(accesses.take(), ["A@1 fresh by orders"]);
    assert_eq!(fetches.take(), ["A@1 fresh"]);
    resolver.get("A").await.unwrap();
    orders.with_cached("A", |_| ()).unwrap();
    assert_eq!(accesses.take(), ["A@1 fresh", "A@1 fresh by orders"]);
    assert!(orders.with_cached("B", |_| ()).is_none());
    assert!(accesses.take().is_empty(), "nothing was returned");

    let results = orders.get_many(["A", "", "ABSENT"]).await;
    assert_eq!(results.len(), 3);
    let expected = ["A@1 fresh by orders", "ABSENT not_found by orders"];
    assert_eq!(accesses.take(), expected);

    let mut watch = orders.for_consumer("watcher").watch(["B"]).unwrap();
    watch.next().await.unwrap();
    assert_eq!(accesses.take(), ["B@1 fresh by watcher"]);

    faulty.always(Action::Fail(down()));
    pass(secs(150)).await;
    accesses.take();
    orders.get("A").await.unwrap();
    assert_eq!(accesses.take(), ["A@1 stale by orders"]);
    assert_eq!(resolver.counters().stale, orders.counters().stale);
}

#[tokio::test(start_paused = true)]
async fn accesses_of_a_chain_name_the_origin_of_the_value() {
    let origins = Arc::new(Mutex::new(Vec::new()));
    let seen = origins.clone();
    let environment = secretwell::env::EnvProvider::with_prefix("SECRETWELL_TESTS_ABSENT_");
    let resolver = Resolver::builder(environment.or_else(MemoryProvider::from_iter([("A", "a")])))
        .on_access(move |event| seen.lock().unwrap().push(event.origin.to_string()))
        .build();
    resolver.get("A").await.unwrap();
    resolver.with_cached("A", |_| ()).unwrap();
    assert_eq!(*origins.lock().unwrap(), ["memory://", "memory://"]);
}

#[tokio::test(start_paused = true)]
async fn access_is_reported_before_its_reader_runs_and_even_if_it_panics() {
    let (_, faulty) = faulty_source(&[("A", "a")]);
    let (resolver, [_, _, accesses]) = audited(faulty);
    resolver.get("A").await.unwrap();
    accesses.take();
    let read = || {
        resolver.with_cached("A", |_| {
            assert_eq!(accesses.take(), ["A@1 fresh"]);
            panic!("the reader panics")
        })
    };
    let panicked: Result<Option<()>, _> = std::panic::catch_unwind(AssertUnwindSafe(read));
    let message = *panicked.unwrap_err().downcast::<&str>().unwrap();
    assert_eq!(message, "the reader panics");
}

#[tokio::test(start_paused = true)]
async fn auth_reads_under_its_name() {
    let (memory, faulty) = faulty_source(&[]);
    memory
        .set("AUTH_SECRET", "a secret, thirty-two bytes or more, one")
        .unwrap();
    let (resolver, [_, _, accesses]) = audited(faulty);
    let auth = LazyAuth::builder(resolver)
        .name("sessions")
        .mode(Mode::Production)
        .build(|_: Secrets, _| async { Ok::<_, BuildError>(()) });
    auth.get().await.unwrap();
    let accesses = accesses.take();
    assert!(!accesses.is_empty());
    for access in &accesses {
        assert_eq!(access, "AUTH_SECRET@1 fresh by sessions");
    }
}

#[tokio::test(start_paused = true)]
async fn callbacks_that_panic_or_use_the_resolver_do_not_affect_reads() {
    let log = CanaryLog::install();
    let (memory, faulty) = faulty_source(&[("A", "one")]);
    let this: Arc<OnceLock<Resolver>> = Arc::default();
    let hostile = |builder: ResolverBuilder| {
        let callback = || {
            let this = this.clone();
            move |_: SecretEvent| {
                if let Some(resolver) = this.get() {
                    let _ = (resolver.len(), resolver.counters());
                    resolver.invalidate("OTHER");
                    let _ = resolver.watch(["OTHER"]);
                }
                panic!("the callback is broken");
            }
        };
        let builder = builder.on_fetch(callback()).on_change(callback());
        builder.on_access(callback()).build()
    };
    let resolver = hostile(Resolver::builder(faulty).ttl(secs(100)));
    assert!(this.set(resolver.clone()).is_ok());
    for (value, next) in [("one", "two"), ("two", "three")] {
        assert_eq!(text(&resolver, "A").await, value);
        resolver.with_cached("A", |_| ()).unwrap();
        memory.set("A", next).unwrap();
        pass(secs(100)).await;
    }
    assert_eq!(text(&resolver, "A").await, "three");
    assert!(!log.lines_with("event=callback_panicked").is_empty());
    resolver.close().await;
    settle().await;
}

#[tokio::test(start_paused = true)]
async fn event_is_one_flat_object_without_a_value() {
    let canary = Canary::new("secret");
    let (memory, faulty) = faulty_source(&[]);
    memory.set("A", canary.value()).unwrap();
    let (resolver, events) = audited(faulty.clone());
    let resolver = resolver.for_consumer("orders");
    resolver.get("A").await.unwrap();
    resolver.get("ABSENT").await.unwrap_err();
    faulty.always(Action::Fail(down()));
    pass(secs(150)).await;
    resolver.get("A").await.unwrap();
    let all: Vec<SecretEvent> = events
        .iter()
        .flat_map(|events| events.0.lock().unwrap().clone())
        .collect();
    canary.assert_not_in(&format!("{all:?} {all:#?}"), "the events");
    let objects: Vec<_> = all
        .iter()
        .map(|event| serde_json::to_value(event).unwrap())
        .collect();
    canary.assert_not_in(&json!(objects).to_string(), "the events");
    assert_eq!(
        objects[0],
        json!({"key": "A", "origin": "memory://", "version": "1", "freshness": "fresh", "consumer": null})
    );
    let stale = objects.last().unwrap();
    assert_eq!(stale["freshness"], "stale");
    assert_eq!(stale["reason"]["kind"], "unavailable");
    assert_eq!(stale["consumer"], "orders");
    let absent = objects.iter().find(|object| object["key"] == "ABSENT");
    assert_eq!(absent.unwrap()["error"]["kind"], "not_found");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_reported_without_a_callback() {
    let (_, faulty) = faulty_source(&[("A", "a")]);
    let resolver = resolver(faulty);
    resolver.get("A").await.unwrap();
    let error = resolver.get("B").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(resolver.counters().hits + resolver.counters().misses, 2);
}
