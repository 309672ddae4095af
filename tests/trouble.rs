//! A resolver whose provider fails, hangs or refuses. The clock is paused everywhere.

use std::time::Duration;

use secretwell::{Chain, Error, ErrorKind, Freshness, OnDenied, Resolver, Secret, SecretProvider};
use secretwell_testkit::Step;
use tokio::time::Instant;

use crate::support::{denied, down, key, keys, origin, pass, resolver, secs, settle, text};

#[tokio::test(start_paused = true)]
async fn an_outage_is_bridged_by_stale_values_until_max_stale() {
    let (_, faulty) = origin(&[("K", "v")]);
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
    let (_, faulty) = origin(&[("K", "v")]);
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
    let (memory, faulty) = origin(&[]);
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
    let (_, faulty) = origin(&[]);
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
    let (_, faulty) = origin(&[("A", "a"), ("B", "b"), ("C", "c"), ("D", "d")]);
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
    let (_, faulty) = origin(&[("A", "a"), ("B", "b")]);
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
    let (_, faulty) = origin(&[]);
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
    let no_login_yet = Error::new(ErrorKind::Unauthenticated, "no login yet").temporary();
    for (policy, error, kept) in [
        (OnDenied::Purge, denied(), false),
        (OnDenied::Purge, down(), true),
        // A credential's file that is missing while it is replaced, say.
        (OnDenied::Purge, no_login_yet, true),
        (OnDenied::KeepUntilMaxStale, denied(), true),
    ] {
        let (_, faulty) = origin(&[("K", "v")]);
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

#[tokio::test(start_paused = true)]
async fn one_key_never_gets_what_was_said_of_another() {
    let (memory, faulty) = origin(&[("THERE", "v")]);
    let resolver = Resolver::builder(faulty.clone())
        .ttl(secs(100))
        .retry_budget(1, 1)
        .build();
    for _ in 0..4 {
        assert!(resolver.get("ABSENT").await.unwrap_err().is_not_found());
        pass(secs(2)).await;
    }
    // The budget is empty and ABSENT is due again: THERE was never asked for, and is.
    let answers = resolver.get_many(&keys(&["ABSENT", "THERE"])).await;
    assert!(answers[0].as_ref().unwrap_err().is_not_found());
    assert_eq!(
        answers[1].as_ref().unwrap().value.expose_text().unwrap(),
        "v"
    );

    // An outage makes no failure of an absence, however often it is asked about.
    memory.set("HELD", "held").unwrap();
    resolver.get("HELD").await.unwrap();
    faulty.always(Step::Fail(down()));
    for _ in 0..600 {
        let answers = resolver.get_many(&keys(&["HELD", "ABSENT"])).await;
        assert!(answers[0].is_ok());
        assert!(answers[1].as_ref().unwrap_err().is_not_found());
        pass(secs(7)).await;
    }
    // What comes late is found when the source is asked again at all: the breaker waits for 7 min,
    // give or take a tenth, and the retry that closes it takes the budget of a minute.
    faulty.heal();
    memory.set("ABSENT", "late").unwrap();
    pass(secs(540)).await;
    assert!(resolver.get("ABSENT").await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_panic_at_the_refresh_of_a_watched_key_blinds_nobody() {
    let (memory, faulty) = origin(&[("K", "old")]);
    let resolver = resolver(faulty.clone());
    let mut watch = resolver.watch(&keys(&["K"]));
    resolver.get("K").await.unwrap();
    faulty.push(Step::Panic);
    faulty.push(Step::Panic);
    memory.set("K", "new").unwrap();
    let start = Instant::now();
    loop {
        watch.changed().await;
        if text(&resolver, "K").await == "new" {
            break;
        }
    }
    assert!(start.elapsed() < secs(100), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn what_has_ended_when_it_comes_is_no_answer_and_not_asked_for_in_a_loop() {
    let (_, faulty) = origin(&[]);
    faulty.always(Step::Return(Secret::new("v").valid_for(Duration::ZERO)));
    let resolver = resolver(faulty.clone());
    let _watch = resolver.watch(&keys(&["K"]));
    let error = resolver.get("K").await.unwrap_err();
    assert!(
        error.is_temporary() && error.to_string().contains("has ended"),
        "{error}"
    );
    pass(secs(60)).await;
    assert!(faulty.calls() < 40, "{} calls", faulty.calls());
}

#[tokio::test(start_paused = true)]
async fn durations_without_end_are_taken_as_such() {
    let (_, faulty) = origin(&[("K", "v")]);
    let resolver = Resolver::builder(faulty)
        .ttl(Duration::MAX)
        .max_stale(Duration::MAX)
        .build();
    assert_eq!(text(&resolver, "K").await, "v");
}

#[tokio::test(start_paused = true)]
async fn a_weaker_source_stands_in_only_where_it_is_told_to() {
    let (down_source, empty) = (origin(&[("K", "strong")]).1, origin(&[]).1);
    down_source.always(Step::Fail(down()));
    let weak = origin(&[("K", "weak")]).0;
    let chain = Chain::new(down_source)
        .or_else_on_failure(empty)
        .or_else(weak);
    let error = chain.get(&key("K")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    let answers = chain.get_many(&keys(&["K"])).await;
    assert_eq!(
        answers[0].as_ref().unwrap_err().kind(),
        ErrorKind::Unavailable
    );
}

#[test]
fn outside_of_a_runtime_a_miss_is_an_error_and_wedges_nobody() {
    let (_, faulty) = origin(&[("A", "a"), ("B", "b")]);
    let resolver = Resolver::new(faulty);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(resolver.get("A")).unwrap();
    let alone = resolver.clone();
    let outside = std::thread::spawn(move || {
        let mut asked = Box::pin(alone.get("B"));
        let waker = std::task::Waker::noop();
        asked
            .as_mut()
            .poll(&mut std::task::Context::from_waker(waker))
            .map(|got| got.is_err())
    });
    assert_eq!(outside.join().unwrap(), std::task::Poll::Ready(true));
    runtime.block_on(resolver.get("B")).unwrap();
}
