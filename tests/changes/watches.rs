//! Watches: each change is returned once, in every order of use.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_core::Stream;
use secretwell::backend::Change;
use secretwell::{Resolver, Secret, SecretProvider, Update};
use secretwell_testkit::Action;
use tokio::time::{Instant, timeout};

use super::{Notifying, adapted};
use crate::support::{changed_now, down, key, pass, secs, settle, text};

/// Sources for tests of watches, with the provider that a resolver reads.
fn watched_sources() -> Vec<(String, Notifying, Arc<dyn SecretProvider>)> {
    let mut sources = Vec::new();
    for batch in [true, false] {
        let names = adapted(&Notifying::new(batch, &[]))
            .into_iter()
            .map(|(name, _)| name);
        for (index, name) in names.enumerate() {
            let source = Notifying::new(batch, &[("K", "one")]);
            let provider = adapted(&source).swap_remove(index).1;
            sources.push((format!("{name}, batch: {batch}"), source, provider));
        }
    }
    sources
}

fn value(updates: Option<Vec<Update>>) -> String {
    let mut updates = updates.expect("the resolver is open");
    assert_eq!(updates.len(), 1);
    let resolved = updates.remove(0).result.unwrap();
    resolved.value.expose_text().unwrap().to_owned()
}

async fn rotate(source: &Notifying, resolver: &Resolver, value: &str) {
    source.set("K", value);
    resolver.refresh_after_write(["K"]).await;
}

#[tokio::test(start_paused = true)]
async fn watch_returns_each_change_once_in_every_order_of_use() {
    for (name, source, provider) in watched_sources() {
        let resolver = Resolver::new(provider);
        // A rotation before the watch.
        text(&resolver, "K").await;
        rotate(&source, &resolver, "two").await;
        let mut watch = resolver.watch(["K"]).unwrap();
        assert_eq!(value(watch.next().await), "two", "{name}");
        assert!(changed_now(&mut watch).is_empty(), "{name}");
        // A read in between, and another watch.
        text(&resolver, "K").await;
        let mut second = resolver.watch(["K"]).unwrap();
        // A rotation between the watch and the first call of `next`.
        rotate(&source, &resolver, "three").await;
        assert_eq!(value(second.next().await), "three", "{name}");
        assert_eq!(value(watch.next().await), "three", "{name}");
        assert!(
            changed_now(&mut watch).is_empty() && changed_now(&mut second).is_empty(),
            "{name}"
        );
        // A rotation during `next`.
        let waiting = tokio::spawn(async move { (value(watch.next().await), watch) });
        settle().await;
        rotate(&source, &resolver, "four").await;
        let (updated, mut watch) = waiting.await.unwrap();
        assert_eq!(updated, "four", "{name}");
        // A cancelled `next`, before and after the rotation.
        assert!(
            timeout(Duration::from_millis(1), watch.next())
                .await
                .is_err()
        );
        rotate(&source, &resolver, "five").await;
        drop(second.next());
        assert_eq!(value(watch.next().await), "five", "{name}");
        assert_eq!(
            value(second.next().await),
            "five",
            "{name}: both changes as one"
        );
        // The other watch is not affected by the end of this one.
        drop(watch);
        rotate(&source, &resolver, "six").await;
        assert_eq!(value(second.next().await), "six", "{name}");
        // A change that was reverted before it was returned.
        rotate(&source, &resolver, "seven").await;
        rotate(&source, &resolver, "six").await;
        assert!(changed_now(&mut second).is_empty(), "{name}");
        // As a stream.
        rotate(&source, &resolver, "eight").await;
        let next = std::future::poll_fn(|context| Pin::new(&mut second).poll_next(context));
        assert_eq!(value(next.await), "eight", "{name}");
        resolver.close().await;
        let end = std::future::poll_fn(|context| Pin::new(&mut second).poll_next(context));
        assert!(end.await.is_none(), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn cancelled_first_call_of_next_loses_and_repeats_nothing() {
    for (name, source, provider) in watched_sources() {
        let resolver = Resolver::new(provider);
        source.reads.push(Action::DelayResult(secs(5)));
        let mut watch = resolver.watch(["K"]).unwrap();
        for _ in 0..3 {
            assert!(timeout(secs(1), watch.next()).await.is_err(), "{name}");
        }
        source.set("K", "two");
        source.notify(Change::Keys([key("K")].into()));
        pass(secs(10)).await;
        assert_eq!(value(watch.next().await), "two", "{name}");
        assert!(changed_now(&mut watch).is_empty(), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn change_to_absent_and_back_and_to_stale_and_back_is_returned_once() {
    for (name, source, provider) in watched_sources() {
        let resolver = Resolver::builder(provider).ttl(secs(10)).build();
        let mut watch = resolver.watch(["K"]).unwrap();
        assert_eq!(value(watch.next().await), "one");
        source.reads.inner().remove("K").unwrap();
        pass(secs(11)).await;
        let update = watch.next().await.unwrap().remove(0);
        assert!(update.result.unwrap_err().is_not_found(), "{name}");
        pass(secs(100)).await;
        assert!(changed_now(&mut watch).is_empty(), "{name}");
        source.set("K", "one");
        pass(secs(40)).await;
        assert_eq!(value(watch.next().await), "one", "{name}");
        source.reads.always(Action::Fail(down()));
        pass(secs(60)).await;
        let update = watch.next().await.unwrap().remove(0);
        assert!(update.result.unwrap().freshness.is_stale(), "{name}");
        pass(secs(60)).await;
        assert!(changed_now(&mut watch).is_empty(), "{name}");
        source.reads.clear_faults();
        pass(secs(60)).await;
        let update = watch.next().await.unwrap().remove(0);
        assert!(!update.result.unwrap().freshness.is_stale(), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_that_reads_an_unchanged_value_is_a_change() {
    for (name, source, provider) in watched_sources() {
        let resolver = Resolver::new(provider);
        let mut watch = resolver.watch(["K", "ABSENT"]).unwrap();
        assert_eq!(watch.next().await.unwrap().len(), 2);
        let used = resolver.get("K").await.unwrap().value;
        for step in 0..8 {
            match step {
                0 => resolver.invalidate("K"),
                1 => resolver.invalidate("ABSENT"),
                2 => resolver.accept_older_versions(["K", "ABSENT"]),
                3 => drop(resolver.refresh(["K", "ABSENT"]).await),
                4 => drop(resolver.refresh_after_write(["K", "ABSENT"]).await),
                5 => drop(resolver.report_rejected("K", &used).await),
                6 => source.notify(Change::All),
                _ => source.set("K", "one"),
            }
            assert!(changed_now(&mut watch).is_empty(), "{name}, step {step}");
            pass(secs(400)).await;
            assert!(changed_now(&mut watch).is_empty(), "{name}, step {step}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn watch_that_is_not_awaited_keeps_its_keys_fresh() {
    for (name, source, provider) in watched_sources() {
        let resolver = Resolver::new(provider);
        let _watch = resolver.watch(["K"]).unwrap();
        pass(secs(1)).await;
        assert!(
            resolver.with_cached("K", |_| ()).is_some(),
            "{name}: not read at the start"
        );
        let before = source.reads.calls();
        // In between, the answers of the other sources can be due.
        pass(secs(1500)).await;
        let refreshed = source.reads.calls() - before;
        assert!(
            (4..=8).contains(&refreshed),
            "{name}: {refreshed} in 5 ttls"
        );
        source.set("K", "two");
        pass(secs(300)).await;
        assert_eq!(text(&resolver, "K").await, "two", "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn refreshes_of_short_leases_are_bounded() {
    for (lease, batch) in [25, 100, 200, 300]
        .into_iter()
        .flat_map(|ms| [(ms, true), (ms, false)])
    {
        let source = Notifying::new(batch, &[]);
        let secret = Secret::new("v").valid_for(Duration::from_millis(lease));
        source.reads.always(Action::Return(secret));
        for (name, provider) in adapted(&source) {
            let before = source.reads.calls();
            let resolver = Resolver::new(provider);
            let _watch = resolver.watch(["K"]).unwrap();
            pass(secs(60)).await;
            let calls = source.reads.calls() - before;
            assert!(
                calls <= 300,
                "{name}, batch: {batch}: {calls} calls per minute, lease of {lease} ms"
            );
            resolver.close().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn close_ends_reads_watches_and_tasks() {
    let tasks = || {
        tokio::runtime::Handle::current()
            .metrics()
            .num_alive_tasks()
    };
    for (name, source, provider) in watched_sources() {
        let before = tasks();
        let resolver = Resolver::new(provider);
        text(&resolver, "K").await;
        let mut watch = resolver.watch(["K"]).unwrap();
        watch.next().await.unwrap();
        let mut unread = resolver.watch(["K", "LATE"]).unwrap();
        source.reads.always(Action::Hang);
        let waiting = tokio::spawn(async move { watch.next().await.is_none() });
        let reader = tokio::spawn({
            let resolver = resolver.clone();
            async move { resolver.get("NEW").await }
        });
        let refresher = tokio::spawn({
            let resolver = resolver.clone();
            async move { resolver.refresh(["K"]).await.remove(0) }
        });
        pass(Duration::from_millis(600)).await;
        let start = Instant::now();
        let clone = resolver.clone();
        tokio::join!(resolver.close(), resolver.close(), clone.close());
        resolver.close().await;
        assert!(waiting.await.unwrap(), "{name}: the watch ends");
        assert!(
            reader
                .await
                .unwrap()
                .unwrap_err()
                .to_string()
                .contains("closed"),
            "{name}"
        );
        assert!(
            refresher
                .await
                .unwrap()
                .is_ok_and(|value| value.freshness.is_stale()),
            "{name}"
        );
        let _ = unread.next().await;
        assert!(
            unread.next().await.is_none(),
            "{name}: a watch without reads ends"
        );
        assert_eq!(start.elapsed(), Duration::ZERO, "{name}");
        settle().await;
        assert_eq!(tasks(), before, "{name}: tasks are left");

        let calls = source.reads.calls();
        source.reads.clear_faults();
        assert!(resolver.get("K").await.is_ok(), "{name}: cached");
        let error = resolver.get("OTHER").await.unwrap_err();
        assert!(
            error.to_string().contains("closed") && error.key() == Some(&key("OTHER")),
            "{error}"
        );
        assert!(
            resolver.refresh_after_write(["OTHER"]).await[0].is_err(),
            "{name}"
        );
        assert!(
            resolver
                .report_rejected("OTHER", &"x".into())
                .await
                .is_err(),
            "{name}"
        );
        resolver.invalidate("OTHER");
        assert!(
            resolver
                .watch(["K"])
                .unwrap()
                .next()
                .await
                .is_none_or(|updates| updates.len() == 1)
        );
        pass(secs(1000)).await;
        assert_eq!((source.reads.calls(), tasks()), (calls, before), "{name}");
    }
}
