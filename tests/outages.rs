//! A resolver whose provider fails, hangs or refuses. Most tests use a paused clock.

use std::time::Duration;

use secretwell::{
    Chain, Error, ErrorKind, Freshness, MemoryProvider, OnDenied, Resolver, Secret, SecretProvider,
    SecretProviderExt,
};
use secretwell_testkit::Action;
use tokio::time::Instant;

use crate::support::{
    changed, denied, down, faulty_source, key, keys, pass, resolver, secs, settle, text,
};

#[tokio::test(start_paused = true)]
async fn stale_values_are_returned_during_an_outage_until_max_stale() {
    let (_, faulty) = faulty_source(&[("K", "v")]);
    let resolver = resolver(faulty.clone());
    text(&resolver, "K").await;
    text(&resolver, "K").await;
    faulty.always(Action::Fail(down()));

    pass(secs(99)).await;
    assert!(
        !resolver.get("K").await.unwrap().freshness.is_stale(),
        "the ttl has not ended"
    );
    pass(secs(11)).await;
    let secret = resolver.get("K").await.unwrap();
    let Freshness::Stale { age, reason } = secret.freshness else {
        panic!("the value is fresh")
    };
    assert_eq!(
        (age.as_secs(), reason.kind()),
        (110, ErrorKind::Unavailable)
    );
    assert!(
        resolver.with_cached("K", |_| ()).is_none(),
        "`with_cached` does not return stale values"
    );

    pass(secs(985)).await;
    assert!(resolver.get("K").await.unwrap().freshness.is_stale());
    pass(secs(10)).await;
    assert_eq!(
        resolver.get("K").await.unwrap_err().kind(),
        ErrorKind::Unavailable
    );
    assert!(resolver.is_empty());
}

#[tokio::test(start_paused = true)]
async fn hanging_source_does_not_delay_reads_of_cached_values() {
    let (_, faulty) = faulty_source(&[("K", "v")]);
    let resolver = resolver(faulty.clone());
    text(&resolver, "K").await;
    text(&resolver, "K").await;
    faulty.always(Action::Hang);
    pass(secs(130)).await;
    for _ in 0..20 {
        let start = Instant::now();
        assert!(resolver.get("K").await.unwrap().freshness.is_stale());
        assert_eq!(start.elapsed(), Duration::ZERO);
        pass(secs(5)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn absence_is_cached_for_one_second_and_then_with_backoff() {
    let (memory, faulty) = faulty_source(&[]);
    let resolver = resolver(faulty.clone());
    for _ in 0..100 {
        assert!(resolver.get("LATE").await.unwrap_err().is_not_found());
    }
    assert_eq!(faulty.calls(), 1);
    // With ten reads per second for one hour, the source is polled about every 30 s in the long run.
    for _ in 0..36_000 {
        assert!(resolver.get("LATE").await.is_err());
        tokio::time::advance(Duration::from_millis(100)).await;
    }
    let calls = faulty.calls();
    assert!((100..190).contains(&calls), "{calls}");
    memory.set("LATE", "here").unwrap();
    pass(secs(34)).await;
    assert_eq!(text(&resolver, "LATE").await, "here");
}

#[tokio::test(start_paused = true)]
async fn absence_that_cannot_be_confirmed_says_so() {
    let (_, faulty) = faulty_source(&[]);
    let absent = MemoryProvider::new();
    for provider in [
        std::sync::Arc::new(faulty.clone()) as std::sync::Arc<dyn SecretProvider>,
        std::sync::Arc::new(absent.or_else(faulty.clone())),
    ] {
        faulty.clear_faults();
        let resolver = resolver(provider);
        let confirmed = resolver.get("K").await.unwrap_err();
        assert!(
            !confirmed.to_string().contains("not confirmed"),
            "{confirmed}"
        );
        faulty.always(Action::Fail(down()));
        pass(secs(600)).await;
        for read in 1..=2 {
            let error = resolver.get("K").await.unwrap_err();
            assert!(error.is_not_found(), "{read}: {error}");
            let text = error.to_string();
            assert!(
                text.contains("not confirmed for 600s: the source is down"),
                "{read}: {text}"
            );
        }
        pass(secs(600)).await;
        let error = resolver.get("K").await.unwrap_err();
        assert_eq!(
            error.kind(),
            ErrorKind::Unavailable,
            "after ttl and max_stale"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn unavailable_source_is_polled_with_backoff_regardless_of_demand() {
    let (_, faulty) = faulty_source(&[]);
    faulty.always(Action::Fail(down()));
    let resolver = resolver(faulty.clone());
    for _ in 0..24 * 3600 {
        for name in ["A", "B", "C"] {
            assert!(resolver.get(name).await.is_err());
        }
        tokio::time::advance(secs(1)).await;
    }
    let calls = faulty.calls();
    assert!((200..400).contains(&calls), "{calls} calls in a day");
}

#[tokio::test(start_paused = true)]
async fn breaker_opens_admits_one_probe_and_closes() {
    let (_, faulty) = faulty_source(&[("A", "a"), ("B", "b"), ("C", "c"), ("D", "d")]);
    faulty.always(Action::Fail(down()));
    let resolver = resolver(faulty.clone());
    for name in ["A", "B", "C"] {
        resolver.get(name).await.unwrap_err();
    }
    assert_eq!(faulty.calls(), 3);
    assert!(
        resolver.get("D").await.unwrap_err().is_temporary(),
        "the breaker is open"
    );
    assert_eq!(faulty.calls(), 3);

    pass(secs(2)).await;
    faulty.clear_faults();
    faulty.push(Action::Delay(secs(1)));
    let probe = tokio::spawn({
        let resolver = resolver.clone();
        async move { resolver.get("A").await.is_ok() }
    });
    settle().await;
    assert!(
        resolver.get("B").await.is_err(),
        "only one probe is admitted at a time"
    );
    assert!(probe.await.unwrap());
    assert_eq!(text(&resolver, "D").await, "d");
}

#[tokio::test(start_paused = true)]
async fn retry_after_applies_to_all_keys_of_the_source() {
    let (_, faulty) = faulty_source(&[("A", "a"), ("B", "b")]);
    let wait = ErrorKind::RateLimited {
        retry_after: Some(secs(60)),
    };
    faulty.push(Action::Fail(secretwell::Error::new(wait, "slow down")));
    let resolver = resolver(faulty.clone());
    assert_eq!(resolver.get("A").await.unwrap_err().kind(), wait);
    pass(secs(58)).await;
    assert_eq!(resolver.get("B").await.unwrap_err().kind(), wait);
    assert_eq!(faulty.calls(), 1);
    pass(secs(3)).await;
    assert_eq!(
        (text(&resolver, "A").await, text(&resolver, "B").await),
        ("a".into(), "b".into())
    );
}

#[tokio::test(start_paused = true)]
async fn retries_of_many_keys_share_one_budget() {
    let (_, faulty) = faulty_source(&[]);
    faulty.always(Action::Fail(denied()));
    let resolver = Resolver::builder(faulty.clone())
        .ttl(secs(100))
        .retry_budget(10, 60)
        .build();
    let names: Vec<String> = (0..200).map(|i| format!("K{i}")).collect();
    for name in &names {
        resolver.get(name).await.unwrap_err();
    }
    assert_eq!(faulty.calls(), 200, "first reads are not retries");
    for _ in 0..60 {
        pass(secs(1)).await;
        for name in &names {
            assert_eq!(
                resolver.get(name).await.unwrap_err().kind(),
                ErrorKind::Denied
            );
        }
    }
    let retries = faulty.calls() - 200;
    assert!((50..=72).contains(&retries), "{retries}");
}

#[tokio::test(start_paused = true)]
async fn refusal_purges_the_cached_value_unless_configured_to_keep_it() {
    let no_login_yet = Error::new(ErrorKind::Unauthenticated, "no login yet").temporary();
    for (policy, error, kept) in [
        (OnDenied::Purge, denied(), false),
        (OnDenied::Purge, down(), true),
        // For example, a credential file is missing while it is replaced.
        (OnDenied::Purge, no_login_yet, true),
        (OnDenied::KeepUntilMaxStale, denied(), true),
    ] {
        let (_, faulty) = faulty_source(&[("K", "v")]);
        let resolver = Resolver::builder(faulty.clone())
            .ttl(secs(100))
            .on_denied(policy)
            .build();
        text(&resolver, "K").await;
        text(&resolver, "K").await;
        faulty.always(Action::Fail(error.clone()));
        pass(secs(110)).await;
        match resolver.get("K").await {
            Ok(secret) => assert!(kept && secret.freshness.is_stale()),
            Err(refusal) => assert!(!kept && refusal.kind() == error.kind()),
        }
        assert_eq!(resolver.len(), usize::from(kept));
    }
}

#[tokio::test(start_paused = true)]
async fn error_of_one_key_is_not_returned_for_another() {
    let (memory, faulty) = faulty_source(&[("PRESENT", "v")]);
    let resolver = Resolver::builder(faulty.clone())
        .ttl(secs(100))
        .retry_budget(1, 1)
        .build();
    for _ in 0..4 {
        assert!(resolver.get("ABSENT").await.unwrap_err().is_not_found());
        pass(secs(2)).await;
    }
    // The retry budget is exhausted, so ABSENT is not fetched although it is due. PRESENT was never
    // fetched, so its fetch is not a retry.
    let results = resolver.get_many(&keys(&["ABSENT", "PRESENT"])).await;
    assert!(results[0].as_ref().unwrap_err().is_not_found());
    assert_eq!(
        results[1].as_ref().unwrap().value.expose_text().unwrap(),
        "v"
    );

    // During an outage, an absent key is still reported as absent.
    memory.set("CACHED", "cached").unwrap();
    resolver.get("CACHED").await.unwrap();
    faulty.always(Action::Fail(down()));
    for _ in 0..600 {
        let results = resolver.get_many(&keys(&["CACHED", "ABSENT"])).await;
        assert!(results[0].is_ok());
        assert!(results[1].as_ref().unwrap_err().is_not_found());
        pass(secs(7)).await;
    }
    // The new value is found when the next request is allowed. The breaker waits 7 min with 10 %
    // jitter. The retry that closes it uses the budget of one minute.
    faulty.clear_faults();
    memory.set("ABSENT", "late").unwrap();
    pass(secs(540)).await;
    assert!(resolver.get("ABSENT").await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn watch_reports_a_change_after_panics_of_the_provider() {
    let (memory, faulty) = faulty_source(&[("K", "old")]);
    let resolver = resolver(faulty.clone());
    let mut watch = resolver.watch(["K"]).unwrap();
    resolver.get("K").await.unwrap();
    faulty.push(Action::Panic);
    faulty.push(Action::Panic);
    memory.set("K", "new").unwrap();
    let start = Instant::now();
    loop {
        changed(&mut watch).await;
        if text(&resolver, "K").await == "new" {
            break;
        }
    }
    assert!(start.elapsed() < secs(100), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn expired_lease_is_an_error_and_is_not_fetched_in_a_loop() {
    let (_, faulty) = faulty_source(&[]);
    faulty.always(Action::Return(Secret::new("v").valid_for(Duration::ZERO)));
    let resolver = resolver(faulty.clone());
    let _watch = resolver.watch(["K"]).unwrap();
    let error = resolver.get("K").await.unwrap_err();
    assert!(
        error.is_temporary() && error.to_string().contains("has already expired"),
        "{error}"
    );
    pass(secs(60)).await;
    assert!(faulty.calls() < 40, "{} calls", faulty.calls());
}

#[tokio::test(start_paused = true)]
async fn maximum_durations_do_not_overflow() {
    let (_, faulty) = faulty_source(&[("K", "v")]);
    let resolver = Resolver::builder(faulty)
        .ttl(Duration::MAX)
        .max_stale(Duration::MAX)
        .build();
    assert_eq!(text(&resolver, "K").await, "v");
}

#[tokio::test(start_paused = true)]
async fn fallback_after_a_failure_needs_or_else_on_failure() {
    let (unavailable, empty) = (faulty_source(&[("K", "first")]).1, faulty_source(&[]).1);
    unavailable.always(Action::Fail(down()));
    let fallback = faulty_source(&[("K", "fallback")]).0;
    let chain = Chain::new(unavailable)
        .or_else_on_failure(empty)
        .or_else(fallback);
    let error = chain.get(&key("K")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    let results = chain.get_many(&keys(&["K"])).await;
    assert_eq!(
        results[0].as_ref().unwrap_err().kind(),
        ErrorKind::Unavailable
    );
}

#[test]
fn miss_without_a_runtime_is_an_error_and_does_not_block_later_reads() {
    let (_, faulty) = faulty_source(&[("A", "a"), ("B", "b")]);
    let resolver = Resolver::new(faulty);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(resolver.get("A")).unwrap();
    let clone = resolver.clone();
    let failed = std::thread::spawn(move || {
        let mut read = Box::pin(clone.get("B"));
        let waker = std::task::Waker::noop();
        read.as_mut()
            .poll(&mut std::task::Context::from_waker(waker))
            .map(|result| result.is_err())
    });
    assert_eq!(failed.join().unwrap(), std::task::Poll::Ready(true));
    runtime.block_on(resolver.get("B")).unwrap();
}

#[tokio::test(start_paused = true)]
async fn absence_is_not_confirmed_if_the_retry_budget_has_prevented_its_check() {
    let (memory, faulty) = faulty_source(&[]);
    let resolver = Resolver::builder(faulty)
        .ttl(secs(1))
        .negative_ttl(secs(1))
        .retry_budget(1, 1)
        .build();
    for _ in 0..3 {
        resolver.get("K").await.unwrap_err();
        pass(Duration::from_millis(1300)).await;
    }
    pass(secs(10)).await;
    memory.set("K", "v").unwrap();
    pass(secs(20)).await;
    let error = resolver.get("K").await.unwrap_err();
    assert!(error.to_string().contains("not confirmed"), "{error}");
}
