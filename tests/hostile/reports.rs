//! Reports of rejected values, also many at once, as from a pool of connections.

use std::time::Duration;

use async_trait::async_trait;
use secretwell::backend::{Capabilities, ChangeStream};
use secretwell::{Error, MemoryProvider, Origin, Resolver, Secret, SecretKey, SecretProvider};
use secretwell_testkit::{Action, FaultyProvider};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::{alone_and_chained, source};
use crate::support::{down, key, pass, secs};

/// A provider whose secrets have no versions, and perhaps a lease.
#[derive(Debug, Clone)]
struct Unordered {
    memory: MemoryProvider,
    is_leased: bool,
}

/// Returns a source without versions that reports changes.
fn watched(memory: &MemoryProvider) -> FaultyProvider<Unordered> {
    let unordered = Unordered {
        memory: memory.clone(),
        is_leased: false,
    };
    FaultyProvider::new(unordered).with_capabilities(Capabilities::none().with_watch())
}

#[async_trait]
impl SecretProvider for Unordered {
    fn origin(&self) -> &Origin {
        self.memory.origin()
    }

    async fn get(&self, key: &SecretKey) -> Result<Secret, Error> {
        let secret = Secret::new(self.memory.get(key).await?.value);
        Ok(match self.is_leased {
            true => secret.valid_for(secs(3600)),
            false => secret,
        })
    }

    fn watch(&self) -> Option<ChangeStream> {
        self.memory.watch()
    }
}

const LATENCY: Duration = Duration::from_millis(300);

#[tokio::test(start_paused = true)]
async fn overlapping_reports_get_the_new_value_and_share_its_fetch() {
    for (is_leased, pause) in [(false, 20), (true, 20), (false, 200), (true, 200)] {
        let memory = MemoryProvider::from_iter([("K", "v1")]);
        let source = FaultyProvider::new(Unordered {
            memory: memory.clone(),
            is_leased,
        });
        let resolver = Resolver::new(source.clone());
        let rejected = resolver.get("K").await.unwrap().value;
        source.always(Action::Delay(LATENCY));
        memory.set("K", "v2").unwrap();
        let mut reports = JoinSet::new();
        for _ in 0..100 {
            let (resolver, rejected) = (resolver.clone(), rejected.clone());
            reports.spawn(async move { resolver.report_rejected("K", &rejected).await });
            sleep(Duration::from_millis(pause)).await;
        }
        let failed = reports.join_all().await.into_iter().filter(|result| {
            let is_new = |secret: &secretwell::Resolved| secret.value.expose_bytes() == b"v2";
            !result.as_ref().is_ok_and(is_new)
        });
        assert_eq!(failed.count(), 0, "{is_leased}, {pause} ms");
        assert_eq!(source.calls(), 2, "{is_leased}, {pause} ms");
    }
}

#[tokio::test(start_paused = true)]
async fn notification_during_a_forced_read_does_not_bring_back_the_value_before_it() {
    for reports in [false, true] {
        let memory = MemoryProvider::from_iter([("K", "v1")]);
        let source = watched(&memory);
        let resolver = Resolver::new(source.clone());
        let rejected = resolver.get("K").await.unwrap().value;
        pass(secs(5)).await;
        // The read starts, and then the notification of the write arrives.
        source.always(Action::Delay(LATENCY));
        let read = tokio::spawn({
            let resolver = resolver.clone();
            async move {
                match reports {
                    true => resolver.report_rejected("K", &rejected).await,
                    false => resolver.refresh_after_write(["K"]).await.remove(0),
                }
            }
        });
        pass(LATENCY / 3).await;
        memory.set("K", "v2").unwrap();
        let secret = read.await.unwrap().unwrap();
        assert_eq!(secret.value.expose_bytes(), b"v2", "{reports}: {secret:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn value_without_versions_is_replaced_although_notifications_arrive_all_the_time() {
    let memory = MemoryProvider::from_iter([("K", "v1"), ("OTHER", "x")]);
    let source = watched(&memory);
    let resolver = Resolver::new(source.clone());
    resolver.get("K").await.unwrap();
    source.always(Action::DelayResult(Duration::from_millis(1500)));
    memory.set("K", "v2").unwrap();
    let mut secret = resolver.get("K").await.unwrap();
    for _ in 0..40 {
        // The same value again, so that only the notification is new.
        memory.set("K", "v2").unwrap();
        secret = resolver.get("K").await.unwrap();
        pass(Duration::from_millis(300)).await;
    }
    assert_eq!(secret.value.expose_bytes(), b"v2", "{secret:?}");
}

#[tokio::test(start_paused = true)]
async fn rejections_are_limited_to_one_call_per_second() {
    for batch in [true, false] {
        let leaked = source(batch, &[("K", "leaked")]);
        for provider in alone_and_chained(leaked.clone()) {
            let resolver = Resolver::new(provider);
            let rejected = resolver.get("K").await.unwrap().value;
            let calls = leaked.calls();
            for _ in 0..100 {
                match resolver.report_rejected("K", &rejected).await {
                    Ok(result) => assert_eq!(result.value, rejected, "the source still has it"),
                    // The source was asked less than a second ago.
                    Err(error) => assert!(error.is_temporary(), "{error}"),
                }
                tokio::time::advance(Duration::from_millis(100)).await;
            }
            let calls = leaked.calls() - calls;
            assert!((9..=12).contains(&calls), "{calls} calls in 10 s");
            // Many callers at once share one call.
            pass(secs(2)).await;
            let calls = leaked.calls();
            let mut callers = JoinSet::new();
            for _ in 0..1000 {
                let (resolver, rejected) = (resolver.clone(), rejected.clone());
                callers.spawn(async move { resolver.report_rejected("K", &rejected).await });
            }
            callers.join_all().await;
            assert_eq!(leaked.calls() - calls, 1);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn rejection_returns_the_error_of_a_source_that_is_down_and_other_values_at_once() {
    for batch in [true, false] {
        let faulty = source(batch, &[("K", "one")]);
        for provider in alone_and_chained(faulty.clone()) {
            faulty.clear_faults();
            let resolver = Resolver::builder(provider).ttl(secs(60)).build();
            let cached = resolver.get("K").await.unwrap().value;
            faulty.always(Action::Fail(down()));
            let error = resolver.report_rejected("K", &cached).await.unwrap_err();
            assert!(error.is_temporary(), "{error}");
            let again = resolver.report_rejected("K", &cached).await.unwrap_err();
            assert_eq!(again.key(), Some(&key("K")), "{again}");
            assert!(again.origin().is_some(), "{again}");
            pass(secs(5)).await;
            let other = resolver
                .report_rejected("K", &"other".into())
                .await
                .unwrap();
            assert!(other.value == cached && other.freshness.is_stale());
        }
    }
}
