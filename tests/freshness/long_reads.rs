//! Reads that take so long that their first answers have expired or changed before the last one arrives.

use super::*;

/// A provider whose results for `SLOW` arrive after a while. Its secrets can have a lease.
#[derive(Debug, Clone)]
struct Slow {
    source: FaultyProvider<MemoryProvider>,
    wait: Duration,
    lease: Option<Duration>,
}

impl Slow {
    /// A provider whose results for `SLOW` arrive after 5 s.
    fn new(source: FaultyProvider<MemoryProvider>) -> Self {
        Self {
            source,
            wait: secs(5),
            lease: None,
        }
    }

    /// A provider whose results for `SLOW` arrive after 25 s. Its secrets have a lease of 10 s.
    fn leased(memory: MemoryProvider) -> Self {
        Self {
            source: FaultyProvider::new(memory),
            wait: secs(25),
            lease: Some(secs(10)),
        }
    }
}

#[async_trait]
impl SecretProvider for Slow {
    fn origin(&self) -> &Origin {
        self.source.origin()
    }

    async fn get(&self, key: &SecretKey) -> Result<Secret, Error> {
        let result = self.source.get(key).await;
        if key.as_str() == "SLOW" {
            tokio::time::sleep(self.wait).await;
        }
        let secret = result?;
        Ok(match self.lease {
            Some(lease) => secret.valid_for(lease),
            None => secret,
        })
    }
}

fn is_old(secret: &Resolved) -> bool {
    secret.value.expose_bytes() == b"a1" && !secret.freshness.is_stale()
}

#[tokio::test(start_paused = true)]
async fn first_value_of_a_long_read_is_not_returned_after_its_lease_or_an_invalidation() {
    for invalidates in [false, true] {
        let memory = MemoryProvider::from_iter([("A", "a1"), ("SLOW", "b1")]);
        let leased = Slow::leased(memory.clone());
        let chain = MemoryProvider::new().or_else(leased.clone());
        for resolver in [Resolver::builder(leased), Resolver::builder(chain)] {
            memory.set("A", "a1").unwrap();
            let resolver = resolver.max_stale(Duration::ZERO).build();
            text(&resolver, "A").await;
            let read = tokio::spawn({
                let resolver = resolver.clone();
                async move { resolver.get_many(["A", "SLOW"]).await }
            });
            pass(secs(1)).await;
            memory.set("A", "a2").unwrap();
            if invalidates {
                resolver.invalidate("A");
            }
            let results = read.await.unwrap();
            let first = results[0].as_ref().unwrap();
            assert!(!is_old(first), "{invalidates}: {first:?}");
            assert!(results[1].is_err(), "its lease has expired: {results:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn stale_value_of_a_long_read_is_not_returned_after_its_lease() {
    let memory = MemoryProvider::from_iter([("A", "a1"), ("SLOW", "b1")]);
    let leased = Slow::leased(memory);
    let resolver = Resolver::new(leased.clone());
    text(&resolver, "A").await;
    leased.source.always(Action::Fail(down()));
    pass(secs(9)).await;
    let stale = resolver.get("A").await.unwrap();
    assert!(stale.freshness.is_stale(), "{stale:?}");
    let results = resolver.get_many(["A", "SLOW"]).await;
    assert!(results[0].is_err(), "{results:?}");
}

#[tokio::test(start_paused = true)]
async fn value_that_the_source_refuses_during_a_long_read_is_not_returned() {
    for is_read_again in [false, true] {
        let (_, faulty) = faulty_source(&[("A", "a1"), ("SLOW", "b1")]);
        let resolver = Resolver::builder(Slow::new(faulty.clone()))
            .ttl(secs(100))
            .build();
        text(&resolver, "A").await;
        let read = tokio::spawn({
            let resolver = resolver.clone();
            async move { resolver.get_many(["A", "SLOW"]).await }
        });
        settle().await;
        faulty.always(Action::Fail(denied()));
        let refused = resolver.refresh(["A"]).await.remove(0).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Denied);
        if is_read_again {
            // While the source is read again, the refusal is not known any more.
            pass(secs(4)).await;
            faulty.always(Action::Hang);
            let resolver = resolver.clone();
            tokio::spawn(async move { resolver.refresh(["A"]).await });
        }
        let results = read.await.unwrap();
        assert!(results[0].is_err(), "{is_read_again}: {results:?}");
        assert!(results[1].is_ok(), "{is_read_again}: {results:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn later_one_of_two_answers_of_the_same_time_is_returned() {
    let (memory, faulty) = faulty_source(&[("A", "a1"), ("SLOW", "b1")]);
    let resolver = Resolver::builder(Slow::new(faulty)).ttl(secs(100)).build();
    let start = Instant::now();
    text(&resolver, "A").await;
    let read = tokio::spawn({
        let resolver = resolver.clone();
        async move { resolver.get_many(["A", "SLOW"]).await }
    });
    settle().await;
    memory.set("A", "a2").unwrap();
    resolver.refresh(["A"]).await.remove(0).unwrap();
    assert_eq!(Instant::now(), start);
    let results = read.await.unwrap();
    let first = results[0].as_ref().unwrap();
    assert_eq!(first.value.expose_bytes(), b"a2");
}

#[tokio::test(start_paused = true)]
async fn value_that_is_invalidated_before_its_reader_runs_is_read_again() {
    let (memory, faulty) = faulty_source(&[("K", "v1")]);
    let resolver = Resolver::new(faulty);
    let read = tokio::spawn({
        let resolver = resolver.clone();
        async move { text(&resolver, "K").await }
    });
    while resolver.is_empty() {
        tokio::task::yield_now().await;
    }
    memory.set("K", "v2").unwrap();
    resolver.invalidate("K");
    assert_eq!(read.await.unwrap(), "v2");
}

/// A provider that calls back during each read.
struct Calling<F>(MemoryProvider, F);

impl<F> std::fmt::Debug for Calling<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Calling")
    }
}

#[async_trait]
impl<F: Fn() + Send + Sync + 'static> SecretProvider for Calling<F> {
    fn origin(&self) -> &Origin {
        self.0.origin()
    }

    async fn get(&self, key: &SecretKey) -> Result<Secret, Error> {
        self.1();
        self.0.get(key).await
    }
}

#[tokio::test(start_paused = true)]
async fn absent_key_that_is_invalidated_during_each_read_has_a_fitting_error() {
    let invalidated: std::sync::Arc<std::sync::OnceLock<Resolver>> = std::sync::Arc::default();
    let resolver = Resolver::new(Calling(MemoryProvider::new(), {
        let invalidated = invalidated.clone();
        move || invalidated.get().unwrap().invalidate("K")
    }));
    invalidated.set(resolver.clone()).unwrap();
    let error = resolver.get("K").await.unwrap_err();
    assert!(error.to_string().contains("another change"), "{error}");
}

/// Lets time pass without running the tasks in between.
async fn suspend(time: Duration) {
    tokio::time::advance(time).await;
    settle().await;
}

#[tokio::test(start_paused = true)]
async fn results_are_dated_by_the_end_of_the_call_and_not_by_the_time_at_which_they_are_stored() {
    let names: Vec<String> = (0..2500).map(|number| format!("K{number}")).collect();
    let leased = Slow::leased(names.iter().map(|name| (name.as_str(), "v")).collect());
    let resolver = Resolver::builder(leased).max_stale(Duration::ZERO).build();
    let read = tokio::spawn({
        let (resolver, names) = (resolver.clone(), names.clone());
        async move { resolver.get_many(names).await }
    });
    while resolver.len() < 1000 {
        tokio::task::yield_now().await;
    }
    assert!(resolver.len() < 2500, "all results are stored");
    read.abort();
    suspend(secs(11)).await;
    let is_fresh = |name: &&String| resolver.with_cached(name, |_| ()).is_some();
    assert_eq!(names.iter().find(is_fresh), None, "the leases have expired");
}

#[tokio::test(start_paused = true)]
async fn response_that_arrives_long_after_the_deadline_is_not_fresh() {
    let (memory, faulty) = faulty_source(&[("K", "v1")]);
    let resolver = Resolver::builder(faulty.clone())
        .ttl(secs(3))
        .deadline(secs(2))
        .build();
    faulty.push(Action::DelayResult(secs(1)));
    let read = tokio::spawn({
        let resolver = resolver.clone();
        async move { resolver.get("K").await }
    });
    settle().await;
    memory.set("K", "v2").unwrap();
    suspend(secs(20)).await;
    let cached = resolver.with_cached("K", |secret| secret.value.clone());
    assert_ne!(cached, Some("v1".into()));
    let result = read.await.unwrap();
    assert!(!result.is_ok_and(|secret| {
        secret.value.expose_bytes() == b"v1" && !secret.freshness.is_stale()
    }));
}
