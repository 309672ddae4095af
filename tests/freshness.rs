//! Values that a resolver returns are what they claim to be: not older than their ttl, not from another
//! source, not of another key, and not older than a change that was reported.

mod forced_reads;
mod late_readers;
mod long_reads;
mod suspension;

use std::time::Duration;

use async_trait::async_trait;
use secretwell::auth::{BuildContext, LazyAuth};
use secretwell::backend::{Capabilities, join_bounded};
use secretwell::{
    Error, ErrorKind, Freshness, MemoryProvider, Origin, Resolved, Resolver, Secret, SecretKey,
    SecretProvider, SecretProviderExt, SecretString, Version,
};
use secretwell_testkit::{Action, FaultyProvider};
use tokio::runtime::{Builder, Runtime};
use tokio::time::Instant;

use crate::support::{changed, denied, down, faulty_source, key, keys, pass, secs, settle, text};

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

const SHORT: Duration = Duration::from_millis(50);
/// How long a test waits for something that must happen. A busy machine needs some of it.
const PATIENCE: Duration = Duration::from_secs(20);

fn short_lived(provider: impl SecretProvider) -> Resolver {
    Resolver::builder(provider)
        .ttl(SHORT)
        .max_stale(Duration::ZERO)
        .build()
}

/// Returns the text of `K`, or the kind of the error.
async fn read(resolver: &Resolver) -> Result<String, ErrorKind> {
    let secret = resolver.get("K").await.map_err(|error| error.kind())?;
    Ok(secret.value.expose_text().unwrap().to_owned())
}

#[test]
fn value_expires_in_a_runtime_that_runs_only_during_reads() {
    let (memory, faulty) = faulty_source(&[("K", "v1")]);
    let (resolver, runtime) = (short_lived(faulty), runtime());
    assert_eq!(runtime.block_on(read(&resolver)), Ok("v1".into()));
    let until = |expected: Result<String, ErrorKind>| {
        let start = Instant::now();
        while runtime.block_on(read(&resolver)) != expected {
            assert!(start.elapsed() < PATIENCE, "{expected:?} never arrived");
            std::thread::yield_now();
        }
    };
    memory.set("K", "v2").unwrap();
    until(Ok("v2".into()));
    memory.remove("K").unwrap();
    until(Err(ErrorKind::NotFound));
}

#[test]
fn value_expires_although_the_runtime_of_the_first_reader_is_idle() {
    for drop_first in [false, true] {
        let (memory, faulty) = faulty_source(&[("K", "v1")]);
        let resolver = short_lived(faulty);
        let first = runtime();
        first.block_on(read(&resolver)).unwrap();
        let first = (!drop_first).then_some(first);
        memory.set("K", "v2").unwrap();
        runtime().block_on(async {
            let start = Instant::now();
            while read(&resolver).await != Ok("v2".into()) {
                assert!(start.elapsed() < PATIENCE, "v2 never arrived");
                tokio::time::sleep(SHORT / 10).await;
            }
            // A watch here has a refresher that runs.
            let mut watch = resolver.watch(["K"]).unwrap();
            assert_eq!(changed(&mut watch).await, keys(&["K"]), "the current value");
            memory.set("K", "v3").unwrap();
            let changed = tokio::time::timeout(PATIENCE, changed(&mut watch)).await;
            assert_eq!(changed.unwrap(), keys(&["K"]));
        });
        drop(first);
    }
}

#[derive(serde::Deserialize)]
struct Secrets {
    #[serde(rename = "K")]
    key: String,
}

/// A built value that contains `K`, for secrets of any length.
fn built(resolver: Resolver) -> LazyAuth<String> {
    LazyAuth::infallible(resolver, |secrets: Secrets, _| secrets.key)
}

#[test]
fn auth_follows_a_rotation_in_a_runtime_that_runs_only_during_reads() {
    let (memory, faulty) = faulty_source(&[("K", "v1")]);
    let (auth, runtime) = (built(short_lived(faulty)), runtime());
    assert_eq!(*runtime.block_on(auth.get()).unwrap(), "v1");
    memory.set("K", "v2").unwrap();
    let start = Instant::now();
    while *runtime.block_on(auth.get()).unwrap() != "v2" {
        assert!(start.elapsed() < PATIENCE, "v2 was never built");
        std::thread::yield_now();
    }
}

#[test]
fn auth_follows_a_rotation_although_the_runtime_of_the_first_use_is_idle() {
    for drop_first in [false, true] {
        let (memory, faulty) = faulty_source(&[("K", "v1")]);
        let auth = built(short_lived(faulty));
        let first = runtime();
        assert_eq!(*first.block_on(auth.get()).unwrap(), "v1");
        let first = (!drop_first).then_some(first);
        memory.set("K", "v2").unwrap();
        runtime().block_on(async {
            let start = Instant::now();
            while auth.with(|value| value == "v2") != Some(true) {
                assert!(start.elapsed() < PATIENCE, "v2 was never built");
                tokio::time::sleep(SHORT / 10).await;
            }
            memory.set("K", "v3").unwrap();
            let rebuilt = tokio::time::timeout(PATIENCE, auth.rebuild()).await;
            assert_eq!(*rebuilt.unwrap().unwrap(), "v3");
        });
        drop(first);
    }
}

#[tokio::test(start_paused = true)]
async fn value_is_not_returned_after_the_clock_jumped() {
    let (memory, faulty) = faulty_source(&[("K", "v1")]);
    let resolver = Resolver::builder(faulty.clone())
        .ttl(secs(10))
        .max_stale(secs(10))
        .build();
    assert_eq!(text(&resolver, "K").await, "v1");
    memory.set("K", "v2").unwrap();
    tokio::time::advance(secs(100_000)).await;
    assert!(resolver.with_cached("K", |_| ()).is_none());
    assert_eq!(text(&resolver, "K").await, "v2");

    faulty.always(Action::Fail(down()));
    tokio::time::advance(secs(100_000)).await;
    assert_eq!(read(&resolver).await, Err(ErrorKind::Unavailable));
}

#[test]
fn reader_does_not_wait_for_a_fetch_of_an_idle_runtime() {
    let (_, faulty) = faulty_source(&[("K", "v")]);
    let resolver = Resolver::builder(faulty.clone())
        .deadline(Duration::from_millis(300))
        .build();
    faulty.push(Action::Hang);
    let first = runtime();
    let started = first.block_on(async { tokio::time::timeout(SHORT, resolver.get("K")).await });
    assert!(started.is_err());

    let second = runtime();
    let readers = 20;
    let results = second.block_on(async {
        let reads = (0..readers).map(|_| read(&resolver));
        tokio::time::timeout(PATIENCE, join_bounded(readers, reads)).await
    });
    let results = results.expect("the readers have deadlines of their own");
    assert!(
        results.iter().all(|result| *result == Ok("v".into())),
        "{results:?}"
    );
    assert_eq!(faulty.calls(), 2, "the readers share one new fetch");
}

#[test]
fn runtime_without_a_timer_is_named_in_the_error() {
    let (_, faulty) = faulty_source(&[("K", "v")]);
    let resolver = short_lived(faulty);
    let runtime = Builder::new_current_thread().build().unwrap();
    let error = runtime.block_on(resolver.get("K")).unwrap_err();
    assert!(error.to_string().contains("no timer"), "{error}");
    assert!(error.to_string().contains("enable_time"), "{error}");
}

/// Returns a provider with change notifications whose reads follow a script.
fn notifying(value: &str) -> (MemoryProvider, FaultyProvider<MemoryProvider>) {
    let memory = MemoryProvider::from_iter([("K", value), ("OTHER", "x")]);
    let capabilities = Capabilities::none()
        .with_versions()
        .with_batch()
        .with_watch();
    let faulty = FaultyProvider::new(memory.clone()).with_capabilities(capabilities);
    (memory, faulty)
}

#[tokio::test(start_paused = true)]
async fn notification_supersedes_the_first_fetch_of_a_key() {
    let (memory, faulty) = notifying("v1");
    let resolver = Resolver::builder(faulty.clone()).ttl(secs(60)).build();
    text(&resolver, "OTHER").await;
    faulty.push(Action::DelayResult(secs(5)));
    let first = tokio::spawn({
        let resolver = resolver.clone();
        async move { text(&resolver, "K").await }
    });
    settle().await;
    memory.set("K", "v2").unwrap();
    pass(secs(6)).await;
    assert_eq!(first.await.unwrap(), "v2");
    assert_eq!(text(&resolver, "K").await, "v2");
}

#[tokio::test(start_paused = true)]
async fn flood_of_notifications_starves_no_reader() {
    let (memory, faulty) = notifying("v0");
    let resolver = Resolver::builder(faulty.clone()).ttl(secs(60)).build();
    text(&resolver, "OTHER").await;
    faulty.always(Action::DelayResult(secs(2)));
    let reader = tokio::spawn({
        let resolver = resolver.clone();
        async move { resolver.get("K").await }
    });
    for change in 0..100 {
        memory.set("K", format!("v{change}").as_str()).unwrap();
        pass(Duration::from_millis(500)).await;
    }
    assert!(reader.is_finished(), "the reader still waits");
    let secret = reader.await.unwrap().unwrap();
    assert!(secret.freshness.is_stale(), "{secret:?}");
}

#[tokio::test(start_paused = true)]
async fn newer_version_of_a_superseded_fetch_is_kept() {
    let (_, faulty) = faulty_source(&[("K", "x")]);
    let version = |number, value: &str| {
        Action::Return(Secret::new(value).with_version(Version::numbered(number)))
    };
    let resolver = Resolver::builder(Scripted::new([
        (secs(10), version(2, "v2")),
        (secs(1), version(1, "v1")),
    ]))
    .ttl(secs(60))
    .build();
    drop(faulty);
    let slow = tokio::spawn({
        let resolver = resolver.clone();
        async move { read(&resolver).await }
    });
    settle().await;
    let forced = resolver.refresh(["K"]).await.remove(0).unwrap();
    assert_eq!(forced.value.expose_bytes(), b"v1");
    pass(secs(10)).await;
    slow.await.unwrap().unwrap();
    assert_eq!(text(&resolver, "K").await, "v2");
}

/// A provider whose reads return fixed secrets after fixed times, in the order of their start.
#[derive(Debug)]
struct Scripted {
    origin: Origin,
    reads: std::sync::Mutex<std::collections::VecDeque<(Duration, Action)>>,
}

impl Scripted {
    fn new(reads: impl IntoIterator<Item = (Duration, Action)>) -> Self {
        Self {
            origin: Origin::new("scripted", ""),
            reads: std::sync::Mutex::new(reads.into_iter().collect()),
        }
    }
}

#[async_trait]
impl SecretProvider for Scripted {
    fn origin(&self) -> &Origin {
        &self.origin
    }

    async fn get(&self, _: &SecretKey) -> Result<Secret, Error> {
        let read = self.reads.lock().unwrap().pop_front();
        match read {
            Some((wait, Action::Return(secret))) => {
                tokio::time::sleep(wait).await;
                Ok(secret)
            }
            _ => Err(down()),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn hanging_source_delays_a_reader_with_a_cached_value_for_at_most_a_second() {
    for ttl in [1, 5, 30, 120] {
        let (_, faulty) = faulty_source(&[("K", "v")]);
        let resolver = Resolver::builder(faulty.clone()).ttl(secs(ttl)).build();
        text(&resolver, "K").await;
        faulty.always(Action::Hang);
        let end = Instant::now() + secs(4 * ttl + 40);
        let mut slowest = Duration::ZERO;
        while Instant::now() < end {
            let start = Instant::now();
            let secret = resolver.get("K").await.unwrap();
            slowest = slowest.max(start.elapsed());
            if start.elapsed() >= secs(1) {
                let Freshness::Stale { reason, .. } = secret.freshness else {
                    panic!("a value that could not be refreshed is fresh")
                };
                assert!(reason.is_temporary(), "{reason}");
            }
            pass(Duration::from_millis(100)).await;
        }
        assert!(
            slowest <= Duration::from_millis(1001),
            "ttl {ttl} s: {slowest:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn hanging_source_delays_a_reader_after_a_notification_for_at_most_a_second() {
    let (memory, faulty) = notifying("v1");
    let resolver = Resolver::builder(faulty.clone()).ttl(secs(600)).build();
    text(&resolver, "K").await;
    settle().await;
    faulty.always(Action::Hang);
    memory.set("K", "v2").unwrap();
    pass(Duration::from_millis(200)).await;
    let start = Instant::now();
    let secret = resolver.get("K").await.unwrap();
    assert!(
        start.elapsed() <= Duration::from_millis(1001),
        "{:?}",
        start.elapsed()
    );
    assert!(secret.freshness.is_stale(), "{secret:?}");
}

#[tokio::test(start_paused = true)]
async fn versions_of_two_sources_are_not_compared() {
    let (over, base) = (MemoryProvider::new(), MemoryProvider::new());
    for value in ["o1", "o2", "leaked"] {
        over.set("K", value).unwrap();
    }
    base.set("K", "base").unwrap();
    let resolver = Resolver::builder(over.clone().or_else(base.clone()))
        .ttl(secs(2))
        .build();
    assert_eq!(text(&resolver, "K").await, "leaked");

    over.remove("K").unwrap();
    pass(secs(3)).await;
    assert_eq!(text(&resolver, "K").await, "base");
    assert!(!resolver.get("K").await.unwrap().freshness.is_stale());

    // The other direction: an override that appears with a lower version number.
    for value in ["b2", "b3", "b4", "b5", "b6", "b7"] {
        base.set("K", value).unwrap();
    }
    pass(secs(3)).await;
    assert_eq!(text(&resolver, "K").await, "b7");
    over.set("K", "override").unwrap();
    pass(secs(3)).await;
    assert_eq!(text(&resolver, "K").await, "override");
}

#[tokio::test(start_paused = true)]
async fn version_guard_survives_an_invalidation() {
    let version = |number, value: &str| {
        (
            Duration::ZERO,
            Action::Return(Secret::new(value).with_version(Version::numbered(number))),
        )
    };
    let resolver = Resolver::builder(Scripted::new([
        version(2, "new"),
        version(1, "leaked"),
        version(1, "leaked"),
    ]))
    .ttl(secs(60))
    .build();
    assert_eq!(text(&resolver, "K").await, "new");
    resolver.invalidate("K");
    assert_eq!(read(&resolver).await, Err(ErrorKind::Unavailable));
}

#[tokio::test(start_paused = true)]
async fn older_version_is_accepted_after_it_was_confirmed_for_a_minute() {
    let (_, faulty) = faulty_source(&[]);
    let returned = |number, value: &str| {
        Action::Return(Secret::new(value).with_version(Version::numbered(number)))
    };
    let resolver = Resolver::builder(faulty.clone()).ttl(secs(10)).build();
    faulty.always(returned(5, "five"));
    assert_eq!(text(&resolver, "K").await, "five");

    faulty.always(returned(3, "restored"));
    let restored_at = Instant::now();
    while text(&resolver, "K").await != "restored" {
        pass(secs(1)).await;
        assert!(
            restored_at.elapsed() < secs(300),
            "the restored version is never accepted"
        );
    }
    assert!(
        restored_at.elapsed() >= secs(60),
        "{:?}",
        restored_at.elapsed()
    );

    // One response of a lagging replica changes nothing.
    faulty.push(returned(2, "lagging"));
    pass(secs(11)).await;
    assert_eq!(text(&resolver, "K").await, "restored");
}

/// A provider that leaves out the keys that it does not have.
#[derive(Debug)]
struct Gappy(MemoryProvider);

#[async_trait]
impl SecretProvider for Gappy {
    fn origin(&self) -> &Origin {
        self.0.origin()
    }

    async fn get(&self, key: &SecretKey) -> Result<Secret, Error> {
        self.0.get(key).await
    }

    async fn get_many(&self, keys: &[SecretKey]) -> Vec<Result<Secret, Error>> {
        let mut results = self.0.get_many(keys).await;
        results.retain(Result::is_ok);
        results
    }
}

#[tokio::test]
async fn results_of_a_wrong_count_are_assigned_to_no_key() {
    let gappy = || {
        Gappy(MemoryProvider::from_iter([
            ("A", "a"),
            ("C", "c"),
            ("p/A", "a"),
            ("p/C", "c"),
        ]))
    };
    let requested = keys(&["A", "B", "C"]);
    let direct = Resolver::new(gappy()).get_many(&requested).await;
    for result in direct {
        assert_eq!(result.unwrap_err().kind(), ErrorKind::Malformed);
    }
    let adapters: [Box<dyn SecretProvider>; 3] = [
        Box::new(gappy().prefixed("p").unwrap()),
        Box::new(gappy().or_else(MemoryProvider::new())),
        Box::new(
            gappy()
                .renamed([("B", "D")])
                .unwrap()
                .with_deadline(secs(5)),
        ),
    ];
    for provider in adapters {
        let results = provider.get_many(&requested).await;
        assert_eq!(results.len(), 3);
        for result in results {
            assert_eq!(
                result.unwrap_err().kind(),
                ErrorKind::Malformed,
                "{provider:?}"
            );
        }
    }
}

#[tokio::test]
async fn limit_of_zero_runs_one_future_at_a_time() {
    let results = join_bounded(0, (0..3).map(std::future::ready)).await;
    assert_eq!(results, [0, 1, 2]);
}

#[tokio::test(start_paused = true)]
async fn requested_wait_is_kept_by_forced_refreshes_and_rejections() {
    let (_, faulty) = faulty_source(&[]);
    let resolver = Resolver::builder(faulty.clone()).ttl(secs(60)).build();
    let wait = ErrorKind::RateLimited {
        retry_after: Some(secs(600)),
    };
    faulty.always(Action::Fail(Error::new(wait, "slow down")));
    let requested: Vec<SecretKey> = (0..200).map(|number| key(&format!("K{number}"))).collect();
    for _ in 0..60 {
        for key in &requested {
            let rejected = resolver
                .report_rejected(key, &"v".into())
                .await
                .unwrap_err();
            assert!(rejected.is_temporary(), "{rejected}");
        }
        resolver.refresh(&requested).await;
        pass(secs(1)).await;
    }
    assert_eq!(faulty.calls(), 1);
    pass(secs(600)).await;
    faulty.clear_faults();
    faulty.inner().set("K0", "v").unwrap();
    assert_eq!(text(&resolver, "K0").await, "v");
}

/// A provider whose version history never returns.
#[derive(Debug)]
struct NoHistory(MemoryProvider);

#[async_trait]
impl SecretProvider for NoHistory {
    fn origin(&self) -> &Origin {
        self.0.origin()
    }

    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }

    async fn get(&self, key: &SecretKey) -> Result<Secret, Error> {
        let secret = self.0.get(key).await?;
        let version = secret.version.clone();
        let version = version.map(|v| v.with_created_at(std::time::SystemTime::now()));
        Ok(match version {
            Some(version) => secret.with_version(version),
            None => secret,
        })
    }

    async fn get_version(&self, _: &SecretKey, _: &Version) -> Result<Secret, Error> {
        std::future::pending().await
    }
}

#[tokio::test(start_paused = true)]
async fn hanging_version_history_delays_the_start_by_at_most_the_build_deadline() {
    #[derive(serde::Deserialize)]
    #[expect(dead_code, reason = "the key ring contains it")]
    struct Signing {
        #[serde(rename = "K")]
        key: SecretString,
    }

    let memory = MemoryProvider::new();
    for value in [
        "the first secret, thirty-two bytes or more",
        "the second secret, thirty-two bytes or more",
    ] {
        memory.set("K", value).unwrap();
    }
    let auth = LazyAuth::builder(Resolver::new(NoHistory(memory)))
        .build_deadline(secs(5))
        .deadline(secs(60))
        .build(|_: Signing, cx: BuildContext| async move { Ok(cx.key_ring("K")?.iter().len()) });
    let start = Instant::now();
    assert_eq!(*auth.get().await.unwrap(), 1);
    assert!(start.elapsed() <= secs(6), "{:?}", start.elapsed());
}
