//! Caching, refresh and watches of a resolver over time. Most tests use a paused clock.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use secretwell::backend::Capabilities;
use secretwell::{ErrorKind, MemoryProvider, Resolver, Secret, Version};
use secretwell_testkit::{Action, Canary, CanaryLog, FaultyProvider};
use tokio::time::Instant;

use crate::support::{
    changed, changed_now, down, faulty_source, key, keys, pass, resolver, secs, settle, text,
};

#[tokio::test(start_paused = true)]
async fn concurrent_reads_of_a_key_share_one_fetch() {
    let (_, faulty) = faulty_source(&[("K", "v")]);
    faulty.push(Action::Delay(Duration::from_millis(50)));
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
async fn different_keys_are_fetched_concurrently() {
    let names: Vec<String> = (0..100).map(|i| format!("K{i}")).collect();
    let memory: MemoryProvider = names.iter().map(|name| (name, "v")).collect();
    let capabilities = Capabilities::none().with_versions();
    let faulty = FaultyProvider::new(memory).with_capabilities(capabilities);
    faulty.always(Action::Delay(Duration::from_millis(50)));
    let (resolver, start) = (resolver(faulty.clone()), Instant::now());
    let mut callers = tokio::task::JoinSet::new();
    for name in names.clone() {
        let resolver = resolver.clone();
        callers.spawn(async move { text(&resolver, &name).await });
    }
    callers.join_all().await;
    assert!(start.elapsed() < secs(3) && faulty.calls() == 100);

    // A batch contains only the keys that are not cached.
    let mut requested: Vec<_> = names.iter().map(|name| key(name)).collect();
    requested.push(key("K100"));
    let results = resolver.get_many(&requested).await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 100);
    assert_eq!(faulty.batches().last(), Some(&keys(&["K100"])));
}

#[tokio::test(start_paused = true)]
async fn cancelling_the_first_caller_does_not_affect_the_others() {
    let (_, faulty) = faulty_source(&[("K", "v")]);
    faulty.push(Action::Delay(secs(1)));
    let resolver = resolver(faulty.clone());
    let first = tokio::spawn({
        let resolver = resolver.clone();
        async move { text(&resolver, "K").await }
    });
    settle().await;
    let second = tokio::spawn({
        let resolver = resolver.clone();
        async move { text(&resolver, "K").await }
    });
    settle().await;
    first.abort();
    assert_eq!(second.await.unwrap(), "v");
    assert_eq!(faulty.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn panic_of_the_provider_fails_its_callers_and_the_next_call_works() {
    let (_, faulty) = faulty_source(&[("K", "v")]);
    faulty.push(Action::Panic);
    let resolver = resolver(faulty.clone());
    let (one, two) = tokio::join!(resolver.get("K"), resolver.get("K"));
    assert!(one.unwrap_err().to_string().contains("panicked") && two.is_err());
    pass(secs(2)).await;
    assert_eq!(text(&resolver, "K").await, "v");
}

#[tokio::test(start_paused = true)]
async fn wrong_result_count_fails_the_batch_and_a_hanging_call_ends_at_the_deadline() {
    let (_, faulty) = faulty_source(&[("A", "a"), ("B", "b")]);
    faulty.push(Action::OmitLast);
    let resolver = Resolver::builder(faulty.clone()).deadline(secs(7)).build();
    let results = resolver.get_many(&keys(&["A", "B"])).await;
    for result in results {
        assert_eq!(result.unwrap_err().kind(), ErrorKind::Malformed);
    }

    faulty.push(Action::Hang);
    let start = Instant::now();
    assert_eq!(
        resolver.get("C").await.unwrap_err().kind(),
        ErrorKind::Timeout
    );
    assert_eq!(start.elapsed().as_secs(), 7);
}

#[tokio::test(start_paused = true)]
async fn used_key_is_refreshed_before_its_ttl_ends_and_an_unused_one_is_not() {
    let (memory, faulty) = faulty_source(&[("USED", "1"), ("IDLE", "1")]);
    let resolver = resolver(faulty.clone());
    text(&resolver, "IDLE").await;
    text(&resolver, "USED").await;
    assert_eq!(text(&resolver, "USED").await, "1");
    memory.set("USED", "2").unwrap();
    memory.set("IDLE", "2").unwrap();

    pass(secs(12)).await;
    assert_eq!(
        (faulty.calls(), text(&resolver, "USED").await.as_str()),
        (2, "1")
    );
    pass(secs(76)).await;
    // The refresh ran in the background, without a waiting caller.
    assert_eq!(
        resolver.with_cached("USED", |secret| secret.value.expose_bytes() == b"2"),
        Some(true)
    );
    assert_eq!(faulty.batches()[2], keys(&["USED"]));
    pass(secs(20)).await;
    assert!(
        resolver.with_cached("IDLE", |_| ()).is_none(),
        "the ttl has ended"
    );
    assert_eq!(text(&resolver, "IDLE").await, "2");
}

#[tokio::test(start_paused = true)]
async fn due_value_is_returned_and_refreshed_in_the_background() {
    let (memory, faulty) = faulty_source(&[("K", "1")]);
    let resolver = resolver(faulty.clone());
    text(&resolver, "K").await;
    memory.set("K", "2").unwrap();
    pass(secs(90)).await;
    faulty.push(Action::Delay(secs(1)));
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
async fn refreshes_without_batches_are_spread_over_time() {
    let names: Vec<String> = (0..1000).map(|i| format!("K{i}")).collect();
    let memory: MemoryProvider = names.iter().map(|name| (name, "v")).collect();
    // Without the batch capability, each key needs its own request.
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
    assert!(last - first >= secs(700), "{first:?} to {last:?}");
    assert!(
        first >= secs(125) && last <= secs(876),
        "{first:?} to {last:?}"
    );
    assert!(busiest < 20, "{busiest} in one second");
}

/// Returns the largest number of calls within 5 s of the next 90 s.
async fn busiest(faulty: &FaultyProvider<MemoryProvider>) -> usize {
    let mut busiest = 0;
    for _ in 0..18 {
        let before = faulty.calls();
        pass(secs(5)).await;
        busiest = busiest.max(faulty.calls() - before);
    }
    busiest
}

#[tokio::test(start_paused = true)]
async fn processes_that_read_at_the_same_time_do_not_refresh_at_the_same_time() {
    const PROCESSES: usize = 300;
    /// Twice the mean of 17 calls, and more than five standard deviations above it. Without the first refreshes
    /// between 1/8 and 7/8 of the ttl, there are more than 100.
    const MAX: usize = 40;
    let memory = MemoryProvider::from_iter([("K", "0")]);
    let faulty = FaultyProvider::new(memory.clone());
    let processes: Vec<Resolver> = (0..PROCESSES).map(|_| resolver(faulty.clone())).collect();
    let watches: Vec<_> = processes
        .iter()
        .map(|process| process.watch(["K"]).unwrap())
        .collect();

    settle().await;
    assert_eq!(faulty.calls(), PROCESSES, "all of them start at once");
    let calls = busiest(&faulty).await;
    assert!(calls < MAX, "{calls} after the start");

    let before = faulty.calls();
    memory.set("K", "1").unwrap();
    pass(secs(1)).await;
    assert!(faulty.calls() >= before + PROCESSES, "all are notified");
    let calls = busiest(&faulty).await;
    assert!(calls < MAX, "{calls} after a notification");

    faulty.always(Action::Fail(down()));
    pass(secs(120)).await;
    faulty.clear_faults();
    // All waits for a retry end within 1/8 of the outage and the jitter.
    pass(secs(17)).await;
    let calls = busiest(&faulty).await;
    assert!(calls < MAX, "{calls} after an outage");
    drop(watches);
}

#[tokio::test(start_paused = true)]
async fn keys_that_were_fetched_in_one_batch_are_refreshed_in_one_batch() {
    let (_, faulty) = faulty_source(&[("A", "a"), ("B", "b"), ("C", "c")]);
    let resolver = resolver(faulty.clone());
    let requested = keys(&["A", "B", "C"]);
    resolver.get_many(&requested).await;
    resolver.get_many(&requested).await;
    pass(secs(88)).await;
    assert_eq!(faulty.batches(), [requested.clone(), requested]);
}

#[tokio::test(start_paused = true)]
async fn late_result_of_a_superseded_fetch_is_not_cached() {
    let (memory, faulty) = faulty_source(&[("K", "old")]);
    let resolver = resolver(faulty.clone());
    // The first fetch reads the value immediately and returns it after 10 s. The second fetch starts
    // later and completes earlier.
    faulty.push(Action::DelayResult(secs(10)));
    let slow = tokio::spawn({
        let resolver = resolver.clone();
        async move { text(&resolver, "K").await }
    });
    settle().await;
    memory.set("K", "new").unwrap();
    let forced = resolver.refresh(["K"]).await;
    assert_eq!(forced[0].as_ref().unwrap().value.expose_bytes(), b"new");
    assert_eq!(
        slow.await.unwrap(),
        "new",
        "the caller of the superseded fetch gets the newer value"
    );
    assert_eq!(text(&resolver, "K").await, "new");
}

#[tokio::test(start_paused = true)]
async fn older_version_does_not_replace_a_newer_one() {
    let (memory, faulty) = faulty_source(&[("K", "one")]);
    let resolver = resolver(faulty.clone());
    memory.set("K", "two").unwrap();
    assert_eq!(text(&resolver, "K").await, "two");
    let stale_replica = Secret::new("one").with_version(Version::numbered(1));
    faulty.push(Action::Return(stale_replica));
    let resolved = resolver.refresh(["K"]).await.remove(0).unwrap();
    assert_eq!(resolved.value.expose_bytes(), b"two");
    assert!(
        resolved.freshness.is_stale(),
        "the source did not confirm the value"
    );
    pass(secs(2)).await;
    assert_eq!(text(&resolver, "K").await, "two");
}

#[tokio::test(start_paused = true)]
async fn leased_value_is_replaced_before_its_lease_ends_and_not_returned_after() {
    let (_, faulty) = faulty_source(&[]);
    let lease = |value: &str| Secret::new(value).valid_for(secs(20));
    faulty.push(Action::Return(lease("first")));
    faulty.push(Action::Return(lease("second")));
    faulty.always(Action::Fail(down()));
    let resolver = resolver(faulty.clone());
    text(&resolver, "K").await;
    text(&resolver, "K").await;
    pass(secs(15)).await;
    assert_eq!(text(&resolver, "K").await, "second");
    // The second value was fetched after at most 14 s. It is valid for 20 s, even during an outage.
    pass(secs(16)).await;
    let second = resolver.get("K").await.unwrap();
    assert!(second.freshness.is_stale());
    pass(secs(4)).await;
    assert!(
        resolver.get("K").await.is_err(),
        "a value is not returned after its lease, not even as stale"
    );
}

#[tokio::test(start_paused = true)]
async fn least_recently_used_value_is_evicted_above_max_entries() {
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
    assert_eq!(faulty.calls(), calls, "1,000 values are cached");
    text(&resolver, "K1000").await;
    text(&resolver, "K0").await;
    resolver.invalidate("K1000");
    assert_eq!(resolver.len(), 999);

    // Here the order of the reads is known.
    let (_, faulty) = faulty_source(&[("A", "a"), ("B", "b"), ("C", "c")]);
    let small = Resolver::builder(faulty).max_entries(2).build();
    text(&small, "A").await;
    text(&small, "B").await;
    text(&small, "A").await;
    text(&small, "C").await;
    let cached: HashSet<&str> = ["A", "B", "C"]
        .into_iter()
        .filter(|key| small.with_cached(key, |_| ()).is_some())
        .collect();
    assert_eq!(cached, HashSet::from(["A", "C"]));
}

#[tokio::test(start_paused = true)]
async fn forced_refresh_resets_backoff_and_is_rate_limited_without_waiting() {
    let (memory, faulty) = faulty_source(&[]);
    let resolver = resolver(faulty.clone());
    faulty.always(Action::Fail(down()));
    let outage = Instant::now();
    // The loop ends directly after a failed attempt. After an outage of 10 min, the next attempt is more
    // than 1 min away.
    loop {
        let calls = faulty.calls();
        resolver.get("K").await.unwrap_err();
        if outage.elapsed() > secs(600) && faulty.calls() > calls {
            break;
        }
        tokio::time::advance(secs(1)).await;
    }
    memory.set("K", "fixed").unwrap();
    faulty.clear_faults();
    assert!(
        resolver.get("K").await.is_err(),
        "the backoff has not ended"
    );
    let start = Instant::now();
    assert!(resolver.refresh(["K"]).await[0].is_ok());
    let calls = faulty.calls();
    for _ in 0..100 {
        assert!(resolver.refresh(["K"]).await[0].is_ok());
    }
    assert_eq!((faulty.calls(), start.elapsed()), (calls, Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn rejected_version_is_fetched_again_unless_another_version_is_cached() {
    let (memory, faulty) = faulty_source(&[("K", "one")]);
    let resolver = resolver(faulty.clone());
    let one = resolver.get("K").await.unwrap();
    memory.set("K", "two").unwrap();
    let two = resolver
        .report_rejected(&key("K"), &one.value)
        .await
        .unwrap();
    assert_eq!(two.value.expose_bytes(), b"two");
    // A second report about the first version returns the cached second version.
    let again = resolver
        .report_rejected(&key("K"), &one.value)
        .await
        .unwrap();
    assert_eq!((again.version, faulty.calls()), (two.version, 2));
}

#[tokio::test(start_paused = true)]
async fn watch_refreshes_its_keys_and_reports_changed_values_not_versions() {
    let (memory, faulty) = faulty_source(&[("K", "one")]);
    let resolver = resolver(faulty.clone());
    text(&resolver, "K").await;
    let mut watch = resolver.watch(["K", "LATE"]).unwrap();
    assert_eq!(
        changed(&mut watch).await,
        keys(&["K", "LATE"]),
        "the current results"
    );

    memory.set("K", "one").unwrap();
    pass(secs(90)).await;
    assert!(
        changed_now(&mut watch).is_empty(),
        "a new version of an equal value"
    );
    memory.set("K", "two").unwrap();
    memory.set("LATE", "present").unwrap();
    pass(secs(90)).await;
    assert_eq!(changed_now(&mut watch), keys(&["K", "LATE"]));
    faulty.always(Action::Fail(down()));
    pass(secs(101)).await;
    assert_eq!(changed_now(&mut watch), keys(&["K", "LATE"]), "stale");
    faulty.clear_faults();
    pass(secs(30)).await;
    assert_eq!(changed_now(&mut watch), keys(&["K", "LATE"]), "fresh again");
}

#[tokio::test(start_paused = true)]
async fn watch_polls_its_keys_without_other_reads() {
    let (memory, faulty) = faulty_source(&[("K", "present")]);
    let resolver = resolver(faulty);
    let mut watch = resolver.watch(["K", "LATE"]).unwrap();
    assert_eq!(changed(&mut watch).await, keys(&["K", "LATE"]));
    let start = Instant::now();
    memory.set("LATE", "present").unwrap();
    assert_eq!(changed(&mut watch).await, keys(&["LATE"]));
    assert!(start.elapsed() < secs(2), "{:?}", start.elapsed());
}

#[test]
fn watch_continues_in_another_runtime_after_shutdown_of_the_first() {
    let (memory, faulty) = faulty_source(&[("K", "one")]);
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
    let mut watch = resolver.watch(["K"]).unwrap();
    runtime().block_on(async {
        let waiting = tokio::spawn(async move {
            changed(&mut watch).await;
            changed(&mut watch).await
        });
        settle().await;
        first.shutdown_background();
        memory.set("K", "two").unwrap();
        let changed = tokio::time::timeout(secs(30), waiting).await;
        assert_eq!(
            changed.expect("the watch reports the change").unwrap(),
            keys(&["K"])
        );
    });
}

#[tokio::test(start_paused = true)]
async fn change_notification_causes_an_immediate_fetch() {
    let memory = MemoryProvider::from_iter([("K", "one")]);
    let faulty = FaultyProvider::new(memory.clone());
    let resolver = resolver(faulty.clone());
    let mut watch = resolver.watch(["K", "LATE"]).unwrap();
    text(&resolver, "K").await;
    settle().await;
    changed(&mut watch).await;
    let start = Instant::now();
    memory.set("LATE", "present").unwrap();
    assert_eq!(changed(&mut watch).await, keys(&["LATE"]));
    memory.set("K", "two").unwrap();
    assert_eq!(changed(&mut watch).await, keys(&["K"]));
    assert!(start.elapsed() < secs(1), "{:?}", start.elapsed());
    // A read between the notification and the result waits for the result.
    faulty.push(Action::Delay(secs(1)));
    memory.set("K", "three").unwrap();
    pass(Duration::from_millis(200)).await;
    assert_eq!(text(&resolver, "K").await, "three");
}

#[tokio::test(start_paused = true)]
async fn background_tasks_end_when_the_resolver_is_dropped() {
    let (_, faulty) = faulty_source(&[("K", "v")]);
    let token = Arc::new(());
    let provider = Counted(faulty.clone(), token.clone());
    let resolver = resolver(provider);
    let watch = resolver.watch(["K"]).unwrap();
    text(&resolver, "K").await;
    faulty.always(Action::Hang);
    pass(secs(95)).await;
    let calls = faulty.calls();
    drop(watch);
    drop(resolver);
    pass(secs(5)).await;
    assert_eq!(
        Arc::strong_count(&token),
        1,
        "a task still owns the provider"
    );
    assert_eq!(faulty.calls(), calls);
}

/// A provider with a reference count that tests can observe.
#[derive(Debug)]
struct Counted(FaultyProvider<MemoryProvider>, #[expect(dead_code)] Arc<()>);

#[async_trait::async_trait]
impl secretwell::SecretProvider for Counted {
    fn origin(&self) -> &secretwell::Origin {
        self.0.origin()
    }

    async fn get(&self, key: &secretwell::SecretKey) -> Result<Secret, secretwell::Error> {
        self.0.get(key).await
    }
}

#[test]
fn resolver_works_in_another_runtime_after_shutdown_of_the_first() {
    let (memory, faulty) = faulty_source(&[("K", "one")]);
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
    runtime().block_on(async {
        tokio::time::sleep(Duration::from_millis(5)).await;
        assert_eq!(text(&resolver, "K").await, "two");
    });
    // The next runtime ends during a fetch.
    faulty.push(Action::Hang);
    runtime().block_on(async {
        let clone = resolver.clone();
        tokio::spawn(async move { clone.get("NEW").await });
        settle().await;
    });
    memory.set("NEW", "found").unwrap();
    assert_eq!(runtime().block_on(text(&resolver, "NEW")), "found");
}

#[tokio::test(start_paused = true)]
async fn secret_values_are_not_in_logs_errors_or_debug_output() {
    let (canary, log) = (Canary::new("secret"), CanaryLog::install());
    let (memory, faulty) = faulty_source(&[]);
    memory.set("K", canary.value()).unwrap();
    let resolver = resolver(faulty.clone());
    let secret = resolver.get("K").await.unwrap();
    canary.assert_hidden(&secret);
    faulty.always(Action::Fail(down()));
    for name in ["K", "OTHER"] {
        pass(secs(120)).await;
        match resolver.get(name).await {
            Ok(secret) => canary.assert_hidden(&secret),
            Err(error) => canary.assert_hidden_error(&error),
        }
    }
    faulty.clear_faults();
    pass(secs(120)).await;
    resolver.get("K").await.unwrap();
    canary.assert_hidden(&resolver);
    canary.assert_hidden(&resolver.watch(["K"]).unwrap());
    log.assert_clean(&[&canary]);
    assert!(!log.lines_with("the secret cannot be read").is_empty());
    assert!(!log.lines_with("the secret can be read again").is_empty());
}
