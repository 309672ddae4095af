//! A machine that was suspended: tokio's clock has stood still meanwhile.

use secretwell_resolver::clock::suspend;

use super::*;

#[tokio::test(start_paused = true)]
async fn value_whose_ttl_has_ended_during_a_suspension_is_read_again() {
    let (memory, faulty) = faulty_source(&[("K", "v1")]);
    let resolver = Resolver::builder(faulty.clone()).ttl(secs(100)).build();
    assert_eq!(text(&resolver, "K").await, "v1");
    memory.set("K", "v2").unwrap();
    suspend(secs(50));
    assert_eq!(text(&resolver, "K").await, "v1");
    suspend(secs(51));
    assert!(resolver.with_cached("K", |_| ()).is_none());
    let started = Instant::now();
    assert_eq!(text(&resolver, "K").await, "v2");
    assert_eq!(started.elapsed(), Duration::ZERO);
    assert_eq!(faulty.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn suspension_counts_towards_the_limit_of_stale_values() {
    let (_, faulty) = faulty_source(&[("K", "v1")]);
    let resolver = Resolver::builder(faulty.clone())
        .ttl(secs(100))
        .max_stale(secs(1000))
        .build();
    text(&resolver, "K").await;
    faulty.always(Action::Fail(down()));
    suspend(secs(500));
    let stale = resolver.get("K").await.unwrap();
    let Freshness::Stale { age, .. } = stale.freshness else {
        panic!("the value is fresh")
    };
    assert!(age >= secs(500), "{age:?}");
    suspend(secs(601));
    assert_eq!(read(&resolver).await, Err(ErrorKind::Unavailable));
}

#[tokio::test(start_paused = true)]
async fn lease_that_has_ended_during_a_suspension_is_not_used() {
    let (_, faulty) = faulty_source(&[]);
    let secret = Secret::new("leased").valid_for(secs(3600));
    faulty.push(Action::Return(secret));
    let resolver = Resolver::new(faulty.clone());
    assert_eq!(text(&resolver, "K").await, "leased");
    faulty.always(Action::Fail(down()));
    suspend(secs(3601));
    assert_eq!(read(&resolver).await, Err(ErrorKind::Unavailable));
}

#[tokio::test(start_paused = true)]
async fn fetch_that_was_interrupted_by_a_suspension_is_replaced() {
    let (_, faulty) = faulty_source(&[("K", "v1")]);
    faulty.push(Action::Hang);
    let resolver = Resolver::new(faulty.clone());
    let first = tokio::spawn({
        let resolver = resolver.clone();
        async move { resolver.get("K").await.is_ok() }
    });
    settle().await;
    suspend(secs(3600));
    let started = Instant::now();
    assert_eq!(text(&resolver, "K").await, "v1");
    assert!(started.elapsed() <= secs(1), "{:?}", started.elapsed());
    assert!(first.await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn timers_after_a_suspension_wait_for_the_rest_only() {
    let (memory, faulty) = faulty_source(&[("K", "v1")]);
    let resolver = Resolver::builder(faulty.clone()).ttl(secs(100)).build();
    let mut watch = resolver.watch(["K"]).unwrap();
    changed(&mut watch).await;
    suspend(secs(1_000_000));
    memory.set("K", "v2").unwrap();
    // A reader starts the refresher again.
    assert_eq!(text(&resolver, "K").await, "v2");
    changed(&mut watch).await;
    memory.set("K", "v3").unwrap();
    let started = Instant::now();
    changed(&mut watch).await;
    assert!(started.elapsed() <= secs(100), "{:?}", started.elapsed());
}
