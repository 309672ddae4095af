//! Failures in a chain: outages, sources that hang, requested waits and absences.

use std::sync::Arc;
use std::time::Duration;

use secretwell::backend::Change;
use secretwell::{
    Chain, Error, ErrorKind, MemoryProvider, Resolver, SecretProvider, SecretProviderExt,
};
use secretwell_testkit::{Action, CanaryLog};
use tokio::time::{Instant, timeout};

use super::{adapted, local, remote, set};
use crate::changes::Notifying;
use crate::support::{denied, down, key, keys, pass, secs, text};

#[tokio::test(start_paused = true)]
async fn outage_of_the_second_source_does_not_affect_keys_of_the_first() {
    let limited = ErrorKind::RateLimited {
        retry_after: Some(secs(600)),
    };
    let faults = [
        Action::Fail(down()),
        Action::Fail(denied()),
        Action::Fail(Error::new(limited, "slow down")),
        Action::Panic,
        Action::OmitLast,
    ];
    for (fault, batch) in faults
        .iter()
        .flat_map(|fault| [(fault, true), (fault, false)])
    {
        let first = local(batch, &[("E", "e"), ("E2", "e2")]);
        let second = remote(batch, &[("REMOTE", "r")]);
        for (name, provider) in adapted(&first, &second) {
            second.always(fault.clone());
            let resolver = Resolver::new(provider);
            text(&resolver, "E").await;
            for _ in 0..60 {
                assert!(resolver.get("REMOTE").await.is_err(), "{name}");
                pass(secs(1)).await;
            }
            let fresh = |result: &Result<secretwell::Resolved, Error>| {
                result
                    .as_ref()
                    .is_ok_and(|value| !value.freshness.is_stale())
            };
            for key in ["E2", "E"] {
                assert!(fresh(&resolver.get(key).await), "{name}: {key}, {fault:?}");
                assert!(
                    fresh(&resolver.refresh([key]).await[0]),
                    "{name}: {key}, {fault:?}"
                );
            }
            let results = resolver.get_many(["E", "REMOTE", "E2"]).await;
            let are_fresh: Vec<bool> = results.iter().map(fresh).collect();
            assert_eq!(are_fresh, [true, false, true], "{name}: {fault:?}");
            resolver.close().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn retry_time_belongs_to_the_source_that_failed() {
    let second = remote(true, &[("K", "v")]);
    let resolver = Resolver::new(local(false, &[]).or_else(second.clone()));
    text(&resolver, "K").await;
    for _ in 0..3 {
        assert_eq!(resolver.retry_in(["K"]), None, "K did not fail");
        pass(Duration::from_millis(700)).await;
    }
    second.always(Action::Fail(down()));
    let start = Instant::now();
    let mut attempts = second.calls();
    while start.elapsed() < secs(300) || second.calls() == attempts {
        attempts = second.calls();
        resolver.get("NEW").await.unwrap_err();
        pass(secs(1)).await;
    }
    let wait = resolver.retry_in(["NEW"]).unwrap();
    assert!(wait > secs(20), "the next attempt is in {wait:?}");
}

#[tokio::test(start_paused = true)]
async fn hanging_source_leaves_time_for_each_fallback() {
    let hanging = || {
        let source = remote(true, &[("K", "primary")]);
        source.always(Action::Hang);
        source
    };
    let good = || local(false, &[("K", "fallback")]);
    let nested = Chain::new(hanging()).or_else_on_failure(hanging().or_else_on_failure(good()));
    let flat = || {
        Chain::new(hanging())
            .or_else_on_failure(hanging())
            .or_else_on_failure(good())
    };
    let one = || Chain::new(hanging()).or_else_on_failure(good());
    let chains: Vec<(u64, Arc<dyn SecretProvider>)> = vec![
        (15, Arc::new(one())),
        (15, Arc::new(Box::new(one()).renamed([("X", "Y")]).unwrap())),
        (5, Arc::new(one().with_deadline(secs(5)))),
        (20, Arc::new(flat())),
        (20, Arc::new(nested)),
        (20, Arc::new(flat().with_deadline(secs(60)))),
    ];
    for (limit, provider) in chains {
        let start = Instant::now();
        let resolver = Resolver::new(provider.clone());
        assert_eq!(text(&resolver, "K").await, "fallback", "{provider:?}");
        assert!(
            start.elapsed() < secs(limit + 2),
            "{:?}: {provider:?}",
            start.elapsed()
        );
        resolver.close().await;
    }
}

#[tokio::test(start_paused = true)]
async fn hanging_source_delays_a_reader_with_a_cached_fallback_for_at_most_a_second() {
    let hanging = remote(true, &[("K", "primary")]);
    hanging.always(Action::Hang);
    let chain = Chain::new(hanging).or_else_on_failure(remote(true, &[("K", "fallback")]));
    let resolver = Resolver::new(chain);
    assert_eq!(text(&resolver, "K").await, "fallback");
    let mut slowest = Duration::ZERO;
    for _ in 0..200 {
        let start = Instant::now();
        assert_eq!(text(&resolver, "K").await, "fallback");
        slowest = slowest.max(start.elapsed());
        pass(secs(1)).await;
    }
    assert!(slowest <= Duration::from_millis(1100), "{slowest:?}");
}

#[tokio::test(start_paused = true)]
async fn several_hanging_sources_delay_a_reader_with_cached_answers_for_at_most_a_second() {
    for batch in [true, false] {
        let secrets = [("K", "v")];
        let sources = [
            remote(batch, &[]),
            remote(batch, &[]),
            remote(batch, &secrets),
        ];
        let resolver = Resolver::builder(Chain::from_iter(sources.clone()))
            .ttl(secs(10))
            .build();
        text(&resolver, "K").await;
        resolver.get("ABSENT").await.unwrap_err();
        sources
            .iter()
            .for_each(|source| source.always(Action::Hang));
        pass(secs(20)).await;
        for name in ["K", "ABSENT"] {
            let start = Instant::now();
            let result = resolver.get(name).await;
            assert!(
                start.elapsed() <= Duration::from_millis(1100),
                "{name}: {:?}",
                start.elapsed()
            );
            assert!(
                result.map_or(name == "ABSENT", |value| value.freshness.is_stale()),
                "{name}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn watch_reports_the_fallback_after_the_stale_value_has_ended() {
    for batch in [true, false] {
        let (first, second) = (
            remote(batch, &[("K", "primary")]),
            remote(batch, &[("K", "fallback")]),
        );
        let chain = Chain::new(first.clone()).or_else_on_failure(second);
        let resolver = Resolver::builder(chain)
            .ttl(secs(10))
            .max_stale(secs(30))
            .build();
        let mut watch = resolver.watch(["K"]).unwrap();
        watch.next().await.unwrap();
        first.always(Action::Fail(down()));
        let fallback = timeout(secs(90), async {
            loop {
                let update = watch.next().await.unwrap().remove(0);
                if update
                    .result
                    .is_ok_and(|value| value.value.expose_bytes() == b"fallback")
                {
                    break;
                }
            }
        });
        assert!(
            fallback.await.is_ok(),
            "the watch never returned the fallback"
        );
        first.clear_faults();
        pass(secs(60)).await;
        let update = watch.next().await.unwrap().remove(0);
        assert_eq!(update.result.unwrap().value.expose_bytes(), b"primary");
    }
}

#[tokio::test(start_paused = true)]
async fn requested_wait_of_a_source_is_kept_by_every_read_and_limits_no_other_source() {
    let wait = ErrorKind::RateLimited {
        retry_after: Some(secs(600)),
    };
    for batch in [true, false] {
        let second = remote(batch, &[("K", "v")]);
        for (name, provider) in adapted(&local(batch, &[("E", "e")]), &second) {
            let resolver = Resolver::builder(provider).ttl(secs(5)).build();
            text(&resolver, "K").await;
            second.always(Action::Fail(Error::new(wait, "slow down")));
            let _watch = resolver.watch(["K", "LATE"]).unwrap();
            pass(secs(8)).await;
            let calls = second.calls();
            for _ in 0..20 {
                resolver.refresh(["K", "E"]).await;
                resolver.refresh_after_write(["K"]).await;
                let _ = resolver.report_rejected("K", &"v".into()).await;
                resolver.invalidate("K");
                resolver.get("K").await.unwrap_err();
                resolver.accept_older_versions(["K"]);
                assert_eq!(
                    resolver.get("OTHER").await.unwrap_err().kind(),
                    wait,
                    "{name}"
                );
                assert_eq!(text(&resolver, "E").await, "e", "{name}");
                pass(secs(2)).await;
            }
            assert_eq!(second.calls(), calls, "{name}");
            second.clear_faults();
            pass(secs(600)).await;
            assert_eq!(text(&resolver, "K").await, "v", "{name}");
            resolver.close().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn notification_supersedes_a_first_fetch_although_the_answer_before_it_has_ended() {
    let second = Notifying::new(true, &[("K", "v1"), ("OTHER", "x")]);
    let chain = local(false, &[]).or_else(second.clone());
    let resolver = Resolver::builder(chain).max_stale(Duration::ZERO).build();
    text(&resolver, "OTHER").await;
    second.reads.push(Action::DelayResult(secs(5)));
    let first = tokio::spawn({
        let resolver = resolver.clone();
        async move { text(&resolver, "K").await }
    });
    pass(secs(3)).await;
    second.set("K", "v2");
    second.notify(Change::Keys([key("K")].into()));
    pass(secs(3)).await;
    assert_eq!(text(&resolver, "K").await, "v2");
    assert_eq!(first.await.unwrap(), "v2");
}

#[tokio::test(start_paused = true)]
async fn absence_in_every_source_ends_within_the_backoff_of_the_source_that_gets_the_key() {
    for position in 0..3 {
        let sources = [remote(true, &[]), remote(false, &[]), remote(true, &[])];
        let resolver = Resolver::new(Chain::from_iter(sources.clone()));
        for _ in 0..300 {
            resolver.get("LATE").await.unwrap_err();
            pass(secs(1)).await;
        }
        set(sources[position].inner(), "LATE", "here");
        pass(secs(34)).await;
        assert_eq!(text(&resolver, "LATE").await, "here", "source {position}");
        let results = resolver.get_many(keys(&["LATE", "NEVER"])).await;
        assert!(results[0].is_ok() && results[1].is_err());
    }
}

#[tokio::test(start_paused = true)]
async fn loss_of_a_key_that_a_later_source_has_is_logged_once() {
    let first = MemoryProvider::from_iter([("A", "first"), ("B", "first")]);
    let second = MemoryProvider::from_iter([("A", "second"), ("C", "second")]);
    let resolver = Resolver::new(first.clone().or_else(second));
    let log = CanaryLog::install();
    assert_eq!(text(&resolver, "A").await, "first");
    assert_eq!(text(&resolver, "C").await, "second");
    // The first source never had `C`.
    assert_eq!(log.lines_with("secret_source_lost"), [""; 0]);
    for round in 1..=2 {
        first.remove("A").unwrap();
        for _ in 0..5 {
            pass(secs(600)).await;
            assert_eq!(text(&resolver, "A").await, "second");
        }
        let lines = log.lines_with("secret_source_lost");
        assert_eq!(lines.len(), round, "{lines:?}");
        assert!(
            lines
                .iter()
                .all(|line| line.contains("WARN") && line.contains('A'))
        );
        first.set("A", "first again").unwrap();
        pass(secs(600)).await;
        assert_eq!(text(&resolver, "A").await, "first again");
    }
}
