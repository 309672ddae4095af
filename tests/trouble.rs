//! A resolver whose provider fails, hangs or refuses. The clock is paused everywhere.

use std::time::Duration;

use secretwell::{ErrorKind, Freshness, OnDenied, Resolver};
use secretwell_testkit::Step;
use tokio::time::Instant;

use crate::support::{denied, down, pass, resolver, secs, settle, source, text};

#[tokio::test(start_paused = true)]
async fn an_outage_is_bridged_by_stale_values_until_max_stale() {
    let (_, faulty) = source(&[("K", "v")]);
    let resolver = resolver(faulty.clone());
    text(&resolver, "K").await;
    text(&resolver, "K").await;
    faulty.always(Step::Fail(down()));

    pass(secs(99)).await;
    assert!(
        !resolver.get("K").await.unwrap().freshness.is_stale(),
        "within its ttl"
    );
    pass(secs(11)).await;
    let secret = resolver.get("K").await.unwrap();
    let Freshness::Stale { age, reason } = secret.freshness else {
        panic!("fresh")
    };
    assert_eq!(
        (age.as_secs(), reason.kind()),
        (110, ErrorKind::Unavailable)
    );
    assert!(
        resolver.with_cached("K", |_| ()).is_none(),
        "what is stale is told by `get` only"
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
async fn a_source_that_hangs_delays_nobody_who_has_a_value() {
    let (_, faulty) = source(&[("K", "v")]);
    let resolver = resolver(faulty.clone());
    text(&resolver, "K").await;
    text(&resolver, "K").await;
    faulty.always(Step::Hang);
    pass(secs(130)).await;
    for _ in 0..20 {
        let start = Instant::now();
        assert!(resolver.get("K").await.unwrap().freshness.is_stale());
        assert_eq!(start.elapsed(), Duration::ZERO);
        pass(secs(5)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn absence_is_remembered_for_a_second_and_then_ever_longer() {
    let (memory, faulty) = source(&[]);
    let resolver = resolver(faulty.clone());
    for _ in 0..100 {
        assert!(resolver.get("LATE").await.unwrap_err().is_not_found());
    }
    assert_eq!(faulty.calls(), 1);
    // Asked ten times a second for an hour: about every 30 s in the long run.
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
async fn a_dead_source_is_asked_ever_more_rarely_whatever_the_demand() {
    let (_, faulty) = source(&[]);
    faulty.always(Step::Fail(down()));
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
async fn the_breaker_opens_probes_once_and_closes() {
    let (_, faulty) = source(&[("A", "a"), ("B", "b"), ("C", "c"), ("D", "d")]);
    faulty.always(Step::Fail(down()));
    let resolver = resolver(faulty.clone());
    for name in ["A", "B", "C"] {
        resolver.get(name).await.unwrap_err();
    }
    assert_eq!(faulty.calls(), 3);
    assert!(
        resolver.get("D").await.unwrap_err().is_temporary(),
        "open: spared"
    );
    assert_eq!(faulty.calls(), 3);

    pass(secs(2)).await;
    faulty.heal();
    faulty.next(Step::Delay(secs(1)));
    let probe = tokio::spawn({
        let resolver = resolver.clone();
        async move { resolver.get("A").await.is_ok() }
    });
    settle().await;
    assert!(
        resolver.get("B").await.is_err(),
        "half open: one probe at a time"
    );
    assert!(probe.await.unwrap());
    assert_eq!(text(&resolver, "D").await, "d");
}

#[tokio::test(start_paused = true)]
async fn a_stated_wait_is_kept_for_the_whole_source() {
    let (_, faulty) = source(&[("A", "a"), ("B", "b")]);
    let wait = ErrorKind::RateLimited {
        retry_after: Some(secs(60)),
    };
    faulty.next(Step::Fail(secretwell::Error::new(wait, "slow down")));
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
    let (_, faulty) = source(&[]);
    faulty.always(Step::Fail(denied()));
    let resolver = Resolver::builder(faulty.clone())
        .ttl(secs(100))
        .retry_budget(10, 60)
        .build();
    let names: Vec<String> = (0..200).map(|i| format!("K{i}")).collect();
    for name in &names {
        resolver.get(name).await.unwrap_err();
    }
    assert_eq!(faulty.calls(), 200, "first asks are no retries");
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
async fn a_refusal_purges_unless_told_to_keep() {
    for (policy, error, kept) in [
        (OnDenied::Purge, denied(), false),
        (OnDenied::Purge, down(), true),
        (OnDenied::KeepUntilMaxStale, denied(), true),
    ] {
        let (_, faulty) = source(&[("K", "v")]);
        let resolver = Resolver::builder(faulty.clone())
            .ttl(secs(100))
            .on_denied(policy)
            .build();
        text(&resolver, "K").await;
        text(&resolver, "K").await;
        faulty.always(Step::Fail(error.clone()));
        pass(secs(110)).await;
        match resolver.get("K").await {
            Ok(secret) => assert!(kept && secret.freshness.is_stale()),
            Err(refusal) => assert!(!kept && refusal.kind() == error.kind()),
        }
        assert_eq!(resolver.len(), usize::from(kept));
    }
}
