//! Hostile sources and callers: panics, wrong counts, code of others that uses the resolver, many callers at
//! once.

mod foreign_code;
mod idle_runtimes;
mod many_callers;
mod reports;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use secretwell::backend::{Capabilities, Change};
use secretwell::{
    Error, ErrorKind, MemoryProvider, Origin, Resolver, Secret, SecretKey, SecretProvider,
    SecretProviderExt, Version,
};
use secretwell_testkit::{Action, FaultyProvider};
use tokio::time::Instant;

use crate::changes::Notifying;
use crate::support::{down, key, keys, pass, secs, settle, text};

type Source = FaultyProvider<MemoryProvider>;

fn source(batch: bool, secrets: &[(&str, &str)]) -> Source {
    let mut capabilities = Capabilities::none().with_versions();
    capabilities.batch = batch;
    FaultyProvider::new(secrets.iter().copied().collect()).with_capabilities(capabilities)
}

fn behind_others(source: impl SecretProvider) -> impl SecretProvider {
    let empty = || FaultyProvider::new(MemoryProvider::new());
    empty().or_else(source).or_else(empty())
}

/// Returns the source alone, and as one of three.
fn alone_and_chained(source: impl SecretProvider + Clone) -> [Arc<dyn SecretProvider>; 2] {
    [Arc::new(source.clone()), Arc::new(behind_others(source))]
}

type Read = dyn Fn(&[SecretKey]) -> Vec<Result<Secret, Error>> + Send + Sync;

/// A source whose results a function computes.
#[derive(Clone)]
struct Computed {
    origin: Origin,
    read: Arc<Read>,
}

impl std::fmt::Debug for Computed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Computed")
    }
}

impl Computed {
    fn new(
        read: impl Fn(&[SecretKey]) -> Vec<Result<Secret, Error>> + Send + Sync + 'static,
    ) -> Self {
        Self {
            origin: Origin::new("computed", ""),
            read: Arc::new(read),
        }
    }
}

#[async_trait]
impl SecretProvider for Computed {
    fn origin(&self) -> &Origin {
        &self.origin
    }

    async fn get(&self, key: &SecretKey) -> Result<Secret, Error> {
        (self.read)(std::slice::from_ref(key)).remove(0)
    }

    async fn get_many(&self, keys: &[SecretKey]) -> Vec<Result<Secret, Error>> {
        (self.read)(keys)
    }
}

#[tokio::test(start_paused = true)]
async fn wrong_result_counts_fail_every_key_through_every_adapter() {
    let counts: [fn(usize) -> usize; 4] = [
        |_| 0,
        |count| count - 1,
        |count| count + 1,
        |count| count * 2,
    ];
    for count in counts {
        let computed = || {
            Computed::new(move |keys| {
                let secret = |index: usize| Ok(Secret::new(keys[index % keys.len()].as_str()));
                (0..count(keys.len())).map(secret).collect()
            })
        };
        let empty = MemoryProvider::new;
        let boxed: Box<dyn SecretProvider> = Box::new(computed().with_deadline(secs(5)));
        let providers: Vec<Arc<dyn SecretProvider>> = vec![
            Arc::new(computed()),
            Arc::new(empty().or_else(computed())),
            Arc::new(computed().or_else_on_failure(empty())),
            Arc::new(
                computed()
                    .prefixed("p")
                    .unwrap()
                    .renamed([("A", "B")])
                    .unwrap(),
            ),
            Arc::new(
                empty()
                    .or_else(computed())
                    .prefixed("p")
                    .unwrap()
                    .with_deadline(secs(5)),
            ),
            Arc::new(empty().or_else(boxed.renamed([("X", "Y")]).unwrap().or_else(empty()))),
        ];
        for provider in providers {
            let direct = provider.get_many(&keys(&["A", "B", "C"])).await;
            // The last adapter is responsible only for its own batches.
            assert!(
                direct.iter().all(Result::is_err) || direct.len() != 3,
                "{provider:?}"
            );
            let resolver = Resolver::new(provider);
            for round in 0..2 {
                let results = match round {
                    0 => resolver.get_many(["A", "B", "C"]).await,
                    _ => resolver.refresh(["A", "B", "C"]).await,
                };
                assert_eq!(results.len(), 3);
                for (result, name) in results.into_iter().zip(["A", "B", "C"]) {
                    let error = result.unwrap_err();
                    assert_eq!(
                        (error.kind(), error.key()),
                        (ErrorKind::Malformed, Some(&key(name)))
                    );
                }
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn errors_of_every_read_name_the_key_and_the_origin() {
    let kinds = [
        ErrorKind::Unavailable,
        ErrorKind::NotFound,
        ErrorKind::Denied,
        ErrorKind::Invalid,
    ];
    for kind in kinds {
        let bare =
            Computed::new(move |keys| keys.iter().map(|_| Err(Error::new(kind, "bare"))).collect());
        for provider in alone_and_chained(bare) {
            let resolver = Resolver::builder(provider).retry_budget(1, 1).build();
            for round in 0..6 {
                let mut errors = vec![resolver.get("K").await.unwrap_err()];
                errors.extend(
                    resolver
                        .get_many(["K", "K"])
                        .await
                        .into_iter()
                        .map(Result::unwrap_err),
                );
                errors.push(resolver.refresh(["K"]).await.remove(0).unwrap_err());
                errors.push(
                    resolver
                        .report_rejected("K", &"x".into())
                        .await
                        .unwrap_err(),
                );
                let mut watch = resolver.watch(["K"]).unwrap();
                errors.push(watch.next().await.unwrap().remove(0).result.unwrap_err());
                for error in errors {
                    assert!(
                        error.key() == Some(&key("K")) && error.origin().is_some(),
                        "{round}: {error}"
                    );
                }
                let other = resolver.get(format!("NEW{round}")).await.unwrap_err();
                assert_eq!(other.key(), Some(&key(&format!("NEW{round}"))), "{other}");
                assert!(other.origin().is_some(), "{other}");
                pass(Duration::from_millis(300)).await;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn missing_key_delays_readers_of_cached_keys_in_its_batch_for_at_most_a_second() {
    for batch in [true, false] {
        let hanging = source(batch, &[("A", "a"), ("B", "b")]);
        for provider in alone_and_chained(hanging.clone()) {
            hanging.clear_faults();
            let resolver = Resolver::builder(provider).ttl(secs(10)).build();
            resolver.get_many(["A", "B", "ABSENT"]).await;
            pass(secs(12)).await;
            hanging.always(Action::Hang);
            let start = Instant::now();
            // The absence is known, so it is not withheld either.
            let results = resolver.get_many(["A", "B", "ABSENT"]).await;
            assert!(
                start.elapsed() <= Duration::from_millis(1100),
                "{:?}",
                start.elapsed()
            );
            assert!(
                results[0]
                    .as_ref()
                    .is_ok_and(|value| value.freshness.is_stale())
            );
            assert!(results[2].as_ref().unwrap_err().is_not_found());
            // A key that was never read is in the same batch, for another reader.
            let (start, new) = (Instant::now(), resolver.get("NEW"));
            tokio::select! {
                biased;
                _ = new => panic!("the source hangs"),
                result = resolver.get("A") => assert!(result.unwrap().freshness.is_stale()),
            }
            assert!(
                start.elapsed() <= Duration::from_millis(1100),
                "{:?}",
                start.elapsed()
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn hanging_forced_refresh_of_another_caller_delays_no_reader_of_a_cached_value() {
    for batch in [true, false] {
        let hanging = source(batch, &[("K", "v"), ("OTHER", "x")]);
        for provider in alone_and_chained(hanging.clone()) {
            hanging.clear_faults();
            let resolver = Resolver::builder(provider).ttl(secs(100)).build();
            resolver.get_many(["K", "OTHER"]).await;
            hanging.always(Action::Hang);
            let forced = tokio::spawn({
                let resolver = resolver.clone();
                async move { resolver.refresh(["K"]).await.remove(0) }
            });
            let mut slowest = Duration::ZERO;
            for _ in 0..30 {
                let start = Instant::now();
                let results = resolver.get_many(["K", "", "OTHER"]).await;
                slowest = slowest.max(start.elapsed());
                let texts = [0, 2].map(|index| results[index].as_ref().unwrap().value.len());
                assert_eq!(texts, [1, 1]);
                assert_eq!(
                    results[1].as_ref().unwrap_err().kind(),
                    ErrorKind::InvalidKey
                );
                pass(secs(1)).await;
            }
            assert!(slowest <= Duration::from_millis(1100), "{slowest:?}");
            pass(secs(5)).await;
            let forced = forced.await.unwrap().unwrap();
            assert!(
                forced.freshness.is_stale(),
                "the refresh waited for its own fetch"
            );
        }
    }
}

/// Returns a source whose reads return these results, each after its time.
#[derive(Debug)]
struct Timed(Source, Mutex<VecDeque<(u64, Secret)>>);

#[async_trait]
impl SecretProvider for Timed {
    fn origin(&self) -> &Origin {
        self.0.origin()
    }

    async fn get(&self, _: &SecretKey) -> Result<Secret, Error> {
        let next = self.1.lock().unwrap().pop_front();
        let (wait, secret) = next.ok_or_else(down)?;
        tokio::time::sleep(secs(wait)).await;
        Ok(secret)
    }
}

fn timed(reads: impl IntoIterator<Item = (u64, Secret)>) -> Resolver {
    let timed = Timed(source(false, &[]), Mutex::new(reads.into_iter().collect()));
    Resolver::builder(timed).ttl(secs(60)).build()
}

#[tokio::test(start_paused = true)]
async fn newer_version_of_a_superseded_fetch_is_kept_whichever_fetch_ends_first() {
    let version = |number: u64| {
        Secret::new(format!("v{number}").as_str()).with_version(Version::numbered(number))
    };
    for (slow, forced) in [(10, 1), (3, 10)] {
        for cached in [false, true] {
            let first = cached.then(|| (0, version(1)));
            let reads = [(slow, version(3)), (forced, version(2)), (0, version(3))];
            let resolver = timed(first.into_iter().chain(reads));
            if cached {
                text(&resolver, "K").await;
                pass(secs(61)).await;
            }
            let reader = tokio::spawn({
                let resolver = resolver.clone();
                async move { resolver.get("K").await }
            });
            settle().await;
            let _ = resolver.refresh(["K"]).await;
            pass(secs(12)).await;
            reader.await.unwrap().unwrap();
            assert_eq!(
                text(&resolver, "K").await,
                "v3",
                "{slow} s, {forced} s, cached: {cached}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn value_of_a_superseded_fetch_whose_version_has_no_order_causes_another_read() {
    let object = |number, id| Version::numbered(number).with_identity(id);
    for [old, new] in [
        ["old", "new"].map(Version::opaque),
        [object(7, "first object"), object(1, "second object")],
    ] {
        let secret = |value, version: &Version| Secret::new(value).with_version(version.clone());
        let resolver = timed([
            (10, secret("new", &new)),
            (1, secret("old", &old)),
            (0, secret("new", &new)),
        ]);
        let reader = tokio::spawn({
            let resolver = resolver.clone();
            async move { text(&resolver, "K").await }
        });
        settle().await;
        resolver.refresh(["K"]).await.remove(0).unwrap();
        pass(secs(12)).await;
        reader.await.unwrap();
        assert_eq!(text(&resolver, "K").await, "new", "{new:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn value_of_a_superseded_fetch_is_not_returned_after_its_lease() {
    for lease in [2, 600] {
        let leased = |lease| {
            let version = Version::numbered(1);
            Secret::new("v1")
                .with_version(version)
                .valid_for(secs(lease))
        };
        let resolver = timed([(0, leased(2)), (1, leased(lease)), (3600, leased(2))]);
        text(&resolver, "K").await;
        pass(secs(4)).await;
        let reader = tokio::spawn({
            let resolver = resolver.clone();
            async move { (resolver.get("K").await, Instant::now()) }
        });
        let started = Instant::now();
        settle().await;
        let refreshed = resolver.refresh(["K"]).await.remove(0);
        assert_eq!(
            refreshed.is_ok(),
            lease == 600,
            "the source hangs until the lease has ended"
        );
        let (read, end) = reader.await.unwrap();
        assert!(
            read.is_ok_and(|value| value.freshness.is_stale()),
            "{lease}"
        );
        assert!(end < started + secs(lease), "{lease}");
    }
}

#[tokio::test(start_paused = true)]
async fn cached_value_is_equally_fresh_for_every_read_after_close() {
    let resolver = Resolver::builder(source(false, &[("K", "v")]))
        .ttl(secs(100))
        .build();
    text(&resolver, "K").await;
    resolver.close().await;
    for (wait, is_fresh) in [(1, true), (97, true), (4, false)] {
        pass(secs(wait)).await;
        let cached = resolver.with_cached("K", |cached| cached.freshness.is_stale());
        assert_eq!(cached, is_fresh.then_some(false), "{wait}");
        let read = resolver.get("K").await.unwrap();
        assert_eq!(read.freshness.is_stale(), !is_fresh, "{wait}");
    }
}

#[tokio::test(start_paused = true)]
async fn repeated_key_of_one_call_is_read_once() {
    for batch in [true, false] {
        let counted = source(batch, &[("A", "a")]);
        for provider in alone_and_chained(counted.clone()) {
            let before = counted.keys_read();
            let resolver = Resolver::new(provider);
            assert!(
                resolver
                    .get_many(["A", "A", "A"])
                    .await
                    .iter()
                    .all(Result::is_ok)
            );
            assert_eq!(counted.keys_read() - before, 1);
            pass(secs(2)).await;
            assert!(resolver.refresh(["A", "A"]).await.iter().all(Result::is_ok));
            assert_eq!(counted.keys_read() - before, 2);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn forced_reads_of_many_keys_make_one_call_per_second_while_the_source_is_down() {
    let limited = |wait| {
        Error::new(
            ErrorKind::RateLimited {
                retry_after: Some(wait),
            },
            "slow down",
        )
    };
    for error in [
        down(),
        limited(Duration::ZERO),
        limited(Duration::from_millis(10)),
    ] {
        for batch in [true, false] {
            let faulty = source(batch, &[]);
            faulty.always(Action::Fail(error.clone()));
            for provider in alone_and_chained(faulty.clone()) {
                let before = faulty.calls();
                let resolver = Resolver::new(provider);
                for _ in 0..30 {
                    for number in 0..50 {
                        let name = format!("K{number}");
                        resolver.refresh([&name]).await.remove(0).unwrap_err();
                        resolver
                            .report_rejected(&name, &"x".into())
                            .await
                            .unwrap_err();
                        resolver.invalidate(&name);
                    }
                    pass(secs(1)).await;
                }
                let calls = faulty.calls() - before;
                assert!(calls <= 66, "{calls} calls in 30 s: {error}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn invalidation_of_a_probe_does_not_block_the_source() {
    for batch in [true, false] {
        let faulty = source(batch, &[("K", "v")]);
        for provider in alone_and_chained(faulty.clone()) {
            faulty.always(Action::Fail(down()));
            let resolver = Resolver::new(provider);
            for number in 0..5 {
                resolver.get(format!("N{number}")).await.unwrap_err();
            }
            faulty.clear_faults();
            pass(secs(2)).await;
            // The read is the probe of the breaker. It is superseded before it starts.
            let (_, ()) =
                tokio::join!(biased; resolver.get("K"), async { resolver.invalidate("K") });
            pass(secs(600)).await;
            assert_eq!(text(&resolver, "K").await, "v", "batch: {batch}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn notification_during_a_probe_does_not_block_the_source() {
    let source = Notifying::new(true, &[("K", "v"), ("OTHER", "x")]);
    let resolver = Resolver::new(source.clone());
    text(&resolver, "OTHER").await;
    source.reads.always(Action::Fail(down()));
    for number in 0..5 {
        resolver.get(format!("N{number}")).await.unwrap_err();
    }
    source.reads.clear_faults();
    pass(secs(2)).await;
    let _watch = resolver.watch(["K"]).unwrap();
    let notify = async { source.notify(Change::Keys([key("K")].into())) };
    let (_, ()) = tokio::join!(biased; resolver.get("K"), notify);
    pass(secs(600)).await;
    assert_eq!(text(&resolver, "K").await, "v");
}

#[tokio::test(start_paused = true)]
async fn absent_key_is_read_at_most_once_per_second_without_a_negative_ttl() {
    for batch in [true, false] {
        let faulty = source(batch, &[]);
        for provider in alone_and_chained(faulty.clone()) {
            let before = faulty.calls();
            let resolver = Resolver::builder(provider)
                .negative_ttl(Duration::ZERO)
                .build();
            let _watch = resolver.watch(["ABSENT"]).unwrap();
            for _ in 0..200 {
                resolver.get("ABSENT").await.unwrap_err();
                pass(Duration::from_millis(50)).await;
            }
            let calls = faulty.calls() - before;
            assert!((8..=13).contains(&calls), "{calls} calls in 10 s");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn counters_add_up() {
    for batch in [true, false] {
        let faulty = source(batch, &[("A", "a"), ("B", "b")]);
        for provider in alone_and_chained(faulty.clone()) {
            faulty.clear_faults();
            let resolver = Resolver::builder(provider).ttl(secs(10)).build();
            let count = || {
                let counters = resolver.counters();
                [
                    counters.hits,
                    counters.misses,
                    counters.stale,
                    counters.failures,
                ]
            };
            resolver.get_many(["A", "B", "ABSENT"]).await;
            assert_eq!(count(), [0, 3, 0, 0]);
            resolver.get_many(["A", "B"]).await;
            text(&resolver, "A").await;
            assert!(resolver.with_cached("A", |_| ()).is_some());
            assert!(resolver.with_cached("NEVER", |_| ()).is_none());
            assert_eq!(count(), [4, 3, 0, 0]);
            resolver.get("ABSENT").await.unwrap_err();
            assert_eq!(count(), [4, 4, 0, 0]);
            faulty.always(Action::Fail(down()));
            pass(secs(11)).await;
            assert!(resolver.get("A").await.unwrap().freshness.is_stale());
            let [hits, misses, stale, failures] = count();
            assert_eq!([hits, misses, stale], [4, 4, 1]);
            assert!(failures >= 1);
            assert!(resolver.counters().fetches >= 2);
        }
    }
}
