//! What passes between a resolver and its provider as time goes by. The clock is paused everywhere.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use secretwell::backend::Capabilities;
use secretwell::{ErrorKind, MemoryProvider, Resolver, Secret, Version};
use secretwell_testkit::{Canary, CanaryLog, FaultyProvider, Step};
use tokio::time::Instant;

use crate::support::{down, key, keys, origin, pass, resolver, secs, settle, text};

#[tokio::test(start_paused = true)]
async fn ten_thousand_callers_cause_one_call() {
    let (_, faulty) = origin(&[("K", "v")]);
    faulty.next(Step::Delay(Duration::from_millis(50)));
    let resolver = resolver(faulty.clone());
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..10_000 {
        let resolver = resolver.clone();
        callers.spawn(async move { text(&resolver, "K").await });
    }
    assert!(callers.join_all().await.iter().all(|value| value == "v"));
    assert_eq!(faulty.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_hundred_keys_are_read_side_by_side() {
    let names: Vec<String> = (0..100).map(|i| format!("K{i}")).collect();
    let memory: MemoryProvider = names.iter().map(|name| (name, "v")).collect();
    let faulty = FaultyProvider::new(memory);
    faulty.always(Step::Delay(Duration::from_millis(50)));
    let (resolver, start) = (resolver(faulty.clone()), Instant::now());
    let mut callers = tokio::task::JoinSet::new();
    for name in names.clone() {
        let resolver = resolver.clone();
        callers.spawn(async move { text(&resolver, &name).await });
    }
    callers.join_all().await;
    assert!(start.elapsed() < secs(3) && faulty.calls() == 100);

    // Together they are one batch, and what is held is not asked again.
    let mut asked: Vec<_> = names.iter().map(|name| key(name)).collect();
    asked.push(key("K100"));
    let answers = resolver.get_many(&asked).await;
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 100);
    assert_eq!(faulty.batches().last(), Some(&keys(&["K100"])));
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_leader_leaves_the_others_served() {
    let (_, faulty) = origin(&[("K", "v")]);
    faulty.next(Step::Delay(secs(1)));
    let resolver = resolver(faulty.clone());
    let leader = tokio::spawn({
        let resolver = resolver.clone();
        async move { text(&resolver, "K").await }
    });
    settle().await;
    let follower = tokio::spawn({
        let resolver = resolver.clone();
        async move { text(&resolver, "K").await }
    });
    settle().await;
    leader.abort();
    assert_eq!(follower.await.unwrap(), "v");
    assert_eq!(faulty.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_panic_fails_its_callers_and_the_next_call_works() {
    let (_, faulty) = origin(&[("K", "v")]);
    faulty.next(Step::Panic);
    let resolver = resolver(faulty.clone());
    let (one, two) = tokio::join!(resolver.get("K"), resolver.get("K"));
    assert!(one.unwrap_err().to_string().contains("panicked") && two.is_err());
    assert_eq!(text(&resolver, "K").await, "v");
}

#[tokio::test(start_paused = true)]
async fn too_few_answers_are_malformed_and_a_hang_ends_at_the_deadline() {
    let (_, faulty) = origin(&[("A", "a"), ("B", "b")]);
    faulty.next(Step::Short);
    let resolver = Resolver::builder(faulty.clone()).deadline(secs(7)).build();
    let answers = resolver.get_many(&keys(&["A", "B"])).await;
    assert!(answers[0].is_ok());
    assert_eq!(
        answers[1].as_ref().unwrap_err().kind(),
        ErrorKind::Malformed
    );

    faulty.next(Step::Hang);
    let start = Instant::now();
    assert_eq!(
        resolver.get("C").await.unwrap_err().kind(),
        ErrorKind::Timeout
    );
    assert_eq!(start.elapsed().as_secs(), 7);
}

#[tokio::test(start_paused = true)]
async fn a_key_in_use_is_refreshed_before_its_ttl_ends_and_an_idle_one_is_not() {
    let (memory, faulty) = origin(&[("USED", "1"), ("IDLE", "1")]);
    let resolver = resolver(faulty.clone());
    text(&resolver, "IDLE").await;
    text(&resolver, "USED").await;
    assert_eq!(text(&resolver, "USED").await, "1");
    memory.set("USED", "2").unwrap();
    memory.set("IDLE", "2").unwrap();

    pass(secs(74)).await;
    assert_eq!(
        (faulty.calls(), text(&resolver, "USED").await.as_str()),
        (2, "1")
    );
    pass(secs(14)).await;
    // Read in the background: no caller had to wait for it.
    assert_eq!(
        resolver.with_cached("USED", |secret| secret.value.expose_bytes() == b"2"),
        Some(true)
    );
    assert_eq!(faulty.batches()[2], keys(&["USED"]));
    pass(secs(20)).await;
    assert!(
        resolver.with_cached("IDLE", |_| ()).is_none(),
        "past its ttl"
    );
    assert_eq!(text(&resolver, "IDLE").await, "2");
}

#[tokio::test(start_paused = true)]
async fn what_is_due_is_handed_out_and_refreshed_behind() {
    let (memory, faulty) = origin(&[("K", "1")]);
    let resolver = resolver(faulty.clone());
    text(&resolver, "K").await;
    memory.set("K", "2").unwrap();
    pass(secs(90)).await;
    faulty.next(Step::Delay(secs(1)));
    let start = Instant::now();
    assert_eq!(text(&resolver, "K").await, "1");
    assert_eq!(start.elapsed(), Duration::ZERO);
    pass(secs(2)).await;
    assert_eq!(
        (text(&resolver, "K").await.as_str(), faulty.calls()),
        ("2", 2)
    );
}

#[tokio::test(start_paused = true)]
async fn refreshes_of_a_thousand_keys_are_spread_over_a_tenth_of_the_ttl() {
    let names: Vec<String> = (0..1000).map(|i| format!("K{i}")).collect();
    let memory: MemoryProvider = names.iter().map(|name| (name, "v")).collect();
    // No batches: each key has a request of its own.
    let faulty = FaultyProvider::new(memory).with_capabilities(Capabilities::none());
    let resolver = Resolver::builder(faulty.clone())
        .ttl(secs(1000))
        .max_entries(1000)
        .build();
    for name in &names {
        text(&resolver, name).await;
    }
    for name in &names {
        text(&resolver, name).await;
    }
    let start = Instant::now();
    let (mut first, mut last, mut busiest) = (None, Duration::ZERO, 0);
    while faulty
        .batches()
        .iter()
        .skip(1000)
        .map(Vec::len)
        .sum::<usize>()
        < 1000
    {
        let before = faulty.batches().len();
        pass(secs(1)).await;
        let burst: usize = faulty.batches()[before..].iter().map(Vec::len).sum();
        if burst > 0 {
            first.get_or_insert(start.elapsed());
            last = start.elapsed();
            busiest = busiest.max(burst);
        }
        assert!(start.elapsed() < secs(1000));
    }
    let first = first.unwrap();
    assert!(last - first >= secs(100), "{first:?} to {last:?}");
    assert!(
        first >= secs(750) && last <= secs(876),
        "{first:?} to {last:?}"
    );
    assert!(busiest < 40, "{busiest} in one second");
}

#[tokio::test(start_paused = true)]
async fn keys_of_a_batching_source_stay_together() {
    let (_, faulty) = origin(&[("A", "a"), ("B", "b"), ("C", "c")]);
    let resolver = resolver(faulty.clone());
    let asked = keys(&["A", "B", "C"]);
    resolver.get_many(&asked).await;
    resolver.get_many(&asked).await;
    pass(secs(88)).await;
    assert_eq!(faulty.batches(), [asked.clone(), asked]);
}

#[tokio::test(start_paused = true)]
async fn a_late_answer_changes_nothing() {
    let (memory, faulty) = origin(&[("K", "old")]);
    let resolver = resolver(faulty.clone());
    // The first call takes its answer at once and brings it late; the second overtakes it.
    faulty.next(Step::Late(secs(10)));
    let slow = tokio::spawn({
        let resolver = resolver.clone();
        async move { text(&resolver, "K").await }
    });
    settle().await;
    memory.set("K", "new").unwrap();
    let forced = resolver.refresh(&keys(&["K"])).await;
    assert_eq!(forced[0].as_ref().unwrap().value.expose_bytes(), b"new");
    assert_eq!(
        slow.await.unwrap(),
        "old",
        "its own caller gets what it asked for then"
    );
    assert_eq!(text(&resolver, "K").await, "new");
}

#[tokio::test(start_paused = true)]
async fn an_older_version_never_replaces_a_newer_one() {
    let (memory, faulty) = origin(&[("K", "one")]);
    let resolver = resolver(faulty.clone());
    memory.set("K", "two").unwrap();
    assert_eq!(text(&resolver, "K").await, "two");
    let lagging = Secret::new("one").with_version(Version::numbered(1));
    faulty.next(Step::Return(lagging));
    let answer = resolver.refresh(&keys(&["K"])).await.remove(0).unwrap();
    assert_eq!(answer.value.expose_bytes(), b"two");
    assert!(
        answer.freshness.is_stale(),
        "and it says that the source could not confirm it"
    );
    pass(secs(2)).await;
    assert_eq!(text(&resolver, "K").await, "two");
}

#[tokio::test(start_paused = true)]
async fn a_leased_value_is_replaced_before_its_end_and_never_used_after() {
    let (_, faulty) = origin(&[]);
    let lease = |value: &str| Secret::new(value).valid_for(secs(20));
    faulty.next(Step::Return(lease("first")));
    faulty.next(Step::Return(lease("second")));
    faulty.always(Step::Fail(down()));
    let resolver = resolver(faulty.clone());
    text(&resolver, "K").await;
    text(&resolver, "K").await;
    pass(secs(15)).await;
    assert_eq!(text(&resolver, "K").await, "second");
    // It came after at most 14 of the 20 seconds, and works for 20 whatever the source does.
    pass(secs(16)).await;
    let kept = resolver.get("K").await.unwrap();
    assert!(kept.freshness.is_stale());
    pass(secs(4)).await;
    assert!(resolver.get("K").await.is_err(), "not even as stale");
}

#[tokio::test(start_paused = true)]
async fn the_thousand_and_first_key_puts_out_the_least_recently_read() {
    let names: Vec<String> = (0..1001).map(|i| format!("K{i}")).collect();
    let memory: MemoryProvider = names.iter().map(|name| (name, "v")).collect();
    let faulty = FaultyProvider::new(memory);
    let resolver = resolver(faulty.clone());
    for name in &names[..1000] {
        text(&resolver, name).await;
    }
    let calls = faulty.calls();
    for name in &names[..1000] {
        text(&resolver, name).await;
    }
    assert_eq!(faulty.calls(), calls, "a thousand fit");
    text(&resolver, "K1000").await;
    text(&resolver, "K0").await;
    resolver.invalidate(&key("K1000"));
    assert_eq!(resolver.len(), 999);

    // With the order of reading known, the coldest goes.
    let (_, faulty) = origin(&[("A", "a"), ("B", "b"), ("C", "c")]);
    let small = Resolver::builder(faulty).max_entries(2).build();
    text(&small, "A").await;
    text(&small, "B").await;
    text(&small, "A").await;
    text(&small, "C").await;
    let held: HashSet<&str> = ["A", "B", "C"]
        .into_iter()
        .filter(|k| small.with_cached(k, |_| ()).is_some())
        .collect();
    assert_eq!(held, HashSet::from(["A", "C"]));
}

#[tokio::test(start_paused = true)]
async fn refresh_now_resets_backoff_and_is_rate_limited_without_a_wait() {
    let (memory, faulty) = origin(&[]);
    let resolver = resolver(faulty.clone());
    faulty.always(Step::Fail(down()));
    let outage = Instant::now();
    // Until a try has failed just now: after ten minutes, the next one is more than a minute away.
    loop {
        let calls = faulty.calls();
        resolver.get("K").await.unwrap_err();
        if outage.elapsed() > secs(600) && faulty.calls() > calls {
            break;
        }
        tokio::time::advance(secs(1)).await;
    }
    memory.set("K", "fixed").unwrap();
    faulty.heal();
    assert!(resolver.get("K").await.is_err(), "still in its backoff");
    let start = Instant::now();
    assert!(resolver.refresh(&keys(&["K"])).await[0].is_ok());
    let calls = faulty.calls();
    for _ in 0..100 {
        assert!(resolver.refresh(&keys(&["K"])).await[0].is_ok());
    }
    assert_eq!((faulty.calls(), start.elapsed()), (calls, Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn a_rejected_version_is_read_again_unless_another_is_held() {
    let (memory, faulty) = origin(&[("K", "one")]);
    let resolver = resolver(faulty.clone());
    let one = resolver.get("K").await.unwrap();
    memory.set("K", "two").unwrap();
    let two = resolver
        .report_rejected(&key("K"), one.version.as_ref())
        .await
        .unwrap();
    assert_eq!(two.value.expose_bytes(), b"two");
    // Whoever still complains about the first gets the second without another call.
    let again = resolver
        .report_rejected(&key("K"), one.version.as_ref())
        .await
        .unwrap();
    assert_eq!((again.version, faulty.calls()), (two.version, 2));
}

#[tokio::test(start_paused = true)]
async fn a_watch_keeps_its_keys_fresh_and_tells_of_values_not_versions() {
    let (memory, faulty) = origin(&[("K", "one")]);
    let resolver = resolver(faulty.clone());
    text(&resolver, "K").await;
    let mut watch = resolver.watch(&keys(&["K", "LATE"]));
    let changed = |watch: &mut secretwell::Watch| {
        let mut watch = std::pin::pin!(watch.changed());
        let now = std::future::poll_fn(|cx| std::task::Poll::Ready(watch.as_mut().poll(cx)));
        let now = Box::pin(now);
        // Polled once: is there a change by now?
        match futures_now(now) {
            std::task::Poll::Ready(keys) => keys,
            std::task::Poll::Pending => Vec::new(),
        }
    };
    settle().await;
    assert_eq!(
        changed(&mut watch),
        keys(&["LATE"]),
        "it is known to be absent now"
    );

    memory.set("K", "one").unwrap();
    pass(secs(90)).await;
    assert!(
        changed(&mut watch).is_empty(),
        "a new version of an equal value"
    );
    memory.set("K", "two").unwrap();
    memory.set("LATE", "here").unwrap();
    pass(secs(90)).await;
    assert_eq!(changed(&mut watch), keys(&["K", "LATE"]));
    faulty.always(Step::Fail(down()));
    pass(secs(101)).await;
    assert_eq!(changed(&mut watch), keys(&["K", "LATE"]), "stale");
    faulty.heal();
    pass(secs(30)).await;
    assert_eq!(changed(&mut watch), keys(&["K", "LATE"]), "fresh again");
}

#[tokio::test(start_paused = true)]
async fn a_watch_needs_nobody_else_to_read() {
    let (memory, faulty) = origin(&[("K", "here")]);
    let resolver = resolver(faulty);
    let mut watch = resolver.watch(&keys(&["K", "LATE"]));
    assert_eq!(watch.changed().await, keys(&["K", "LATE"]));
    let start = Instant::now();
    memory.set("LATE", "here").unwrap();
    assert_eq!(watch.changed().await, keys(&["LATE"]));
    assert!(start.elapsed() < secs(2), "{:?}", start.elapsed());
}

#[test]
fn a_watch_outlives_the_runtime_that_kept_its_keys() {
    let (memory, faulty) = origin(&[("K", "one")]);
    let resolver = Resolver::builder(faulty)
        .ttl(Duration::from_millis(1))
        .build();
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    };
    let first = runtime();
    first.block_on(text(&resolver, "K"));
    let mut watch = resolver.watch(&keys(&["K"]));
    runtime().block_on(async {
        let waiting = tokio::spawn(async move { watch.changed().await });
        settle().await;
        first.shutdown_background();
        memory.set("K", "two").unwrap();
        let changed = tokio::time::timeout(secs(30), waiting).await;
        assert_eq!(changed.expect("it is told").unwrap(), keys(&["K"]));
    });
}

/// Polls a future that is ready at once.
fn futures_now<T>(mut future: std::pin::Pin<Box<impl Future<Output = T>>>) -> T {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match future.as_mut().poll(&mut context) {
        std::task::Poll::Ready(value) => value,
        std::task::Poll::Pending => panic!("not ready"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_notice_is_followed_at_once() {
    let memory = MemoryProvider::from_iter([("K", "one")]);
    let faulty = FaultyProvider::new(memory.clone());
    let resolver = resolver(faulty.clone());
    let mut watch = resolver.watch(&keys(&["K", "LATE"]));
    text(&resolver, "K").await;
    settle().await;
    watch.changed().await;
    let start = Instant::now();
    memory.set("LATE", "here").unwrap();
    assert_eq!(watch.changed().await, keys(&["LATE"]));
    memory.set("K", "two").unwrap();
    assert_eq!(watch.changed().await, keys(&["K"]));
    assert!(start.elapsed() < secs(1), "{:?}", start.elapsed());
    // A reader who comes between notice and answer waits for the answer.
    faulty.next(Step::Delay(secs(1)));
    memory.set("K", "three").unwrap();
    pass(Duration::from_millis(200)).await;
    assert_eq!(text(&resolver, "K").await, "three");
}

#[tokio::test(start_paused = true)]
async fn everything_ends_with_the_resolver() {
    let (_, faulty) = origin(&[("K", "v")]);
    let token = Arc::new(());
    let provider = Holding(faulty.clone(), token.clone());
    let resolver = resolver(provider);
    let watch = resolver.watch(&keys(&["K"]));
    text(&resolver, "K").await;
    faulty.always(Step::Hang);
    pass(secs(95)).await;
    let calls = faulty.calls();
    drop(watch);
    drop(resolver);
    pass(secs(5)).await;
    assert_eq!(
        Arc::strong_count(&token),
        1,
        "a task still holds the provider"
    );
    assert_eq!(faulty.calls(), calls);
}

/// A provider whose lifetime shows.
#[derive(Debug)]
struct Holding(FaultyProvider<MemoryProvider>, #[expect(dead_code)] Arc<()>);

#[async_trait::async_trait]
impl secretwell::SecretProvider for Holding {
    fn origin(&self) -> &secretwell::Origin {
        self.0.origin()
    }

    async fn get(&self, key: &secretwell::SecretKey) -> Result<Secret, secretwell::Error> {
        self.0.get(key).await
    }
}

#[test]
fn a_resolver_outlives_the_runtime_it_was_first_used_in() {
    let (memory, faulty) = origin(&[("K", "one")]);
    let resolver = Resolver::builder(faulty.clone())
        .ttl(Duration::from_millis(1))
        .build();
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    };
    assert_eq!(runtime().block_on(text(&resolver, "K")), "one");
    memory.set("K", "two").unwrap();
    assert!(
        resolver.with_cached("K", |_| ()).is_none(),
        "nobody keeps its time"
    );
    std::thread::yield_now();
    runtime().block_on(async {
        tokio::time::sleep(Duration::from_millis(5)).await;
        assert_eq!(text(&resolver, "K").await, "two");
    });
    // One that ends in the middle of a call.
    faulty.next(Step::Hang);
    runtime().block_on(async {
        let lost = resolver.clone();
        tokio::spawn(async move { lost.get("NEW").await });
        settle().await;
    });
    memory.set("NEW", "found").unwrap();
    assert_eq!(runtime().block_on(text(&resolver, "NEW")), "found");
}

#[tokio::test(start_paused = true)]
async fn no_secret_is_logged_or_shown() {
    let (canary, log) = (Canary::new("secret"), CanaryLog::install());
    let (memory, faulty) = origin(&[]);
    memory.set("K", canary.value()).unwrap();
    let resolver = resolver(faulty.clone());
    let secret = resolver.get("K").await.unwrap();
    canary.assert_hidden(&secret);
    faulty.always(Step::Fail(down()));
    for name in ["K", "OTHER"] {
        pass(secs(120)).await;
        match resolver.get(name).await {
            Ok(secret) => canary.assert_hidden(&secret),
            Err(error) => canary.assert_hidden_error(&error),
        }
    }
    faulty.heal();
    pass(secs(120)).await;
    resolver.get("K").await.unwrap();
    canary.assert_hidden(&resolver);
    canary.assert_hidden(&resolver.watch(&keys(&["K"])));
    log.assert_clean(&[&canary]);
    assert!(!log.lines_with("the secret cannot be read").is_empty());
    assert!(!log.lines_with("the secret can be read again").is_empty());
}
