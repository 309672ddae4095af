//! The hub: several resolvers, chains and adapters, leases, and runtimes that end.

use std::sync::Arc;

use secretwell::backend::{Capabilities, Change};
use secretwell::notify::{NotifyHub, NotifyService};
use secretwell::{
    Error, ErrorKind, KeyPrefix, MemoryProvider, SecretKey, SecretProvider, SecretProviderExt,
};
use secretwell_testkit::FaultyProvider;
use tokio::runtime::Builder;

use super::{SECRET, STACKS, Source, send, signed, source};
use crate::changes::Notifying;
use crate::support::{key, keys, pass, resolver, secs, settle, text};

fn named(names: &[&str]) -> Change {
    Change::Keys(keys(names).into_iter().collect())
}

/// Returns the names of the keys that were discarded.
fn discarded(source: &Source) -> Vec<String> {
    let discarded = source.discarded().into_iter();
    discarded.map(|(key, _)| key.to_string()).collect()
}

#[tokio::test(start_paused = true)]
async fn changed_keys_are_discarded_before_they_are_read() {
    let hub = NotifyHub::new();
    let source = source(&[("A", "0"), ("B", "0"), ("C", "0")]);
    let provider = hub.wrap(source.clone());
    let read = async |names: &[&str]| {
        for result in provider.get_many(&keys(names)).await {
            result.unwrap();
        }
        discarded(&source)
    };
    assert!(read(&["A", "B"]).await.is_empty());
    hub.notify(named(&["A", "C"]));
    assert_eq!(read(&["A", "B"]).await, ["A"]);
    provider.get(&key("C")).await.unwrap();
    provider.get(&key("C")).await.unwrap();
    assert_eq!(discarded(&source), ["A", "C"]);
    hub.notify(Change::All);
    assert_eq!(read(&["B", "A", "B"]).await, ["A", "C", "B", "A"]);
    assert_eq!(read(&["A", "B"]).await, ["A", "C", "B", "A"]);
    provider.discard(&key("A"), Some(&"rejected".into()));
    let last = source.discarded().pop();
    assert_eq!(last, Some((key("A"), Some("rejected".into()))));
}

#[tokio::test(start_paused = true)]
async fn unnamed_change_keeps_leases() {
    let hub = NotifyHub::new();
    let capabilities = Capabilities::none().with_lease();
    let source = FaultyProvider::new(MemoryProvider::from_iter([("A", "0")]))
        .with_capabilities(capabilities);
    let resolver = resolver(hub.wrap(source.clone()));
    assert_eq!(text(&resolver, "A").await, "0");
    source.inner().set("A", "1").unwrap();
    hub.notify(Change::All);
    pass(secs(1)).await;
    assert_eq!(text(&resolver, "A").await, "1", "the key is read");
    assert!(source.discarded().is_empty());
    hub.notify(named(&["A"]));
    pass(secs(1)).await;
    assert_eq!(text(&resolver, "A").await, "1");
    assert_eq!(discarded(&source), ["A"]);
}

#[tokio::test(start_paused = true)]
async fn every_resolver_of_every_provider_is_notified() {
    let hub = NotifyHub::new();
    let service = NotifyService::signed(hub.clone(), SECRET);
    let (first, second) = (source(&[("A", "0")]), source(&[("A", "0"), ("app/A", "0")]));
    let shared = Arc::new(hub.wrap(first.clone()));
    let chain = source(&[("X", "0")]).or_else(second.clone());
    let resolvers = [
        ("first", resolver(shared.clone())),
        ("first again", resolver(shared)),
        ("wrapped chain", resolver(hub.wrap(chain))),
        (
            "chained",
            resolver(source(&[]).or_else(hub.wrap(second.clone()))),
        ),
        (
            "prefixed",
            resolver(hub.wrap(second.clone()).prefixed("app").unwrap()),
        ),
        (
            "with a deadline",
            resolver(hub.wrap(second.clone()).with_deadline(secs(9))),
        ),
    ];
    let dropped = resolver(hub.wrap(first.clone()));
    text(&dropped, "A").await;
    drop(dropped);
    for (number, stack) in STACKS.into_iter().enumerate() {
        let value = format!("{}", number + 1);
        for (_, resolver) in &resolvers {
            text(resolver, "A").await;
        }
        for source in [&first, &second] {
            source.inner().set("A", value.as_str()).unwrap();
            source.inner().set("app/A", value.as_str()).unwrap();
        }
        let body = format!(r#"{{"id":{number},"keys":["A","app/A"]}}"#);
        assert_eq!(send(stack, &service, signed(&body)).await.0, 204);
        pass(secs(1)).await;
        for (name, resolver) in &resolvers {
            assert_eq!(text(resolver, "A").await, value, "{name}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn change_before_the_first_read_of_a_key_is_not_lost() {
    let hub = NotifyHub::new();
    let source = source(&[("A", "0")]);
    let provider = hub.wrap(source.clone());
    hub.notify(Change::All);
    provider.get(&key("A")).await.unwrap();
    assert_eq!(discarded(&source), ["A"]);
    // An absent key that a notification announces.
    let resolver = resolver(provider);
    let mut watch = resolver.watch(["LATE"]).unwrap();
    watch.next().await.unwrap();
    source.inner().set("LATE", "here").unwrap();
    hub.notify(named(&["LATE"]));
    let updates = tokio::time::timeout(secs(1), watch.next()).await.unwrap();
    assert!(updates.unwrap()[0].result.is_ok());
}

#[tokio::test(start_paused = true)]
async fn own_notifications_failures_and_the_end_are_forwarded() {
    let hub = NotifyHub::new();
    let source = Notifying::new(true, &[("A", "0")]);
    let provider = hub.wrap(source.clone());
    assert!(provider.capabilities().watch);
    let mut stream = provider.watch().unwrap();
    source.notify(named(&["A"]));
    assert_eq!(stream.next().await.unwrap().unwrap(), named(&["A"]));
    hub.notify(named(&["B"]));
    assert_eq!(stream.next().await.unwrap().unwrap(), named(&["B"]));
    source.fail("the watcher failed");
    assert!(stream.next().await.unwrap().is_err());
    source.end_streams();
    assert!(stream.next().await.is_none(), "so that it is opened again");
    let mut reopened = provider.watch().unwrap();
    hub.notify(Change::All);
    assert_eq!(reopened.next().await.unwrap().unwrap(), Change::All);
}

#[test]
fn resolver_follows_notifications_after_its_runtime_has_ended() {
    let runtime = || {
        Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap()
    };
    let hub = NotifyHub::new();
    let source = source(&[("A", "0")]);
    let resolver = resolver(hub.wrap(source.clone()));
    let first = runtime();
    first.block_on(async {
        assert_eq!(text(&resolver, "A").await, "0");
        settle().await;
    });
    assert_eq!(format!("{hub:?}"), "NotifyHub { subscribers: 1, .. }");
    drop(first);
    assert_eq!(format!("{hub:?}"), "NotifyHub { subscribers: 0, .. }");
    hub.notify(named(&["A"]));
    source.inner().set("A", "1").unwrap();
    runtime().block_on(async {
        let mut watch = resolver.watch(["A"]).unwrap();
        watch.next().await.unwrap();
        pass(secs(1)).await;
        assert_eq!(text(&resolver, "A").await, "1");
        source.inner().set("A", "2").unwrap();
        hub.notify(named(&["A"]));
        pass(secs(1)).await;
        assert_eq!(text(&resolver, "A").await, "2");
    });
}

#[tokio::test(start_paused = true)]
async fn all_other_calls_are_forwarded() {
    let memory = MemoryProvider::from_iter([("A", "0"), ("db/B", "0")]);
    let provider = NotifyHub::new().wrap(memory.clone());
    let first = memory.get(&key("A")).await.unwrap().version.unwrap();
    memory.set("A", "1").unwrap();
    assert_eq!(provider.origin(), memory.origin());
    assert_eq!(provider.capabilities(), memory.capabilities());
    let old = provider.get_version(&key("A"), &first).await.unwrap();
    assert_eq!(old.value.expose_text().unwrap(), "0");
    let listed = provider.list(&KeyPrefix::root()).await.unwrap();
    assert_eq!(listed, keys(&["A", "db/B"]));
    let absent: SecretKey = key("absent");
    let results = provider.get_many(&[key("A"), absent]).await;
    let kinds = results
        .iter()
        .map(|result| result.as_ref().err().map(Error::kind));
    assert_eq!(kinds.collect::<Vec<_>>(), [None, Some(ErrorKind::NotFound)]);
    provider.health().await.unwrap();
    assert!(provider.links().is_empty());
    let faulty = source(&[]);
    faulty.always(secretwell_testkit::Action::Fail(crate::support::down()));
    let chain = faulty.or_else_on_failure(memory);
    let links: Vec<_> = chain.links();
    let wrapped = NotifyHub::new().wrap(chain);
    let tolerated = |links: &[secretwell::backend::Link]| {
        let tolerated = links.iter().map(|link| link.tolerated().collect());
        tolerated.collect::<Vec<Vec<usize>>>()
    };
    assert_eq!(tolerated(&wrapped.links()), tolerated(&links));
    assert!(
        wrapped
            .links()
            .iter()
            .all(|link| link.provider().capabilities().watch)
    );
    assert!(wrapped.health().await.is_err());
}
