//! Tests of `LazyAuth`: the first build, failures, runtimes and log events.
//!
//! | module | content |
//! | --- | --- |
//! | `fleet` | revocation in several processes |
//! | `failures` | panics, runtimes without a timer, dropped auths, deadlines, names |
//! | `history` | the version history of a source |
//! | `inputs` | which builds a rotation causes, and for which secrets |
//! | `limits` | more rotations than previous secrets |
//! | `pauses` | processes that are paused, and machines that are suspended |
//! | `preflight` | reports |
//! | `rebuild` | rebuilds |
//! | `revocation` | revocation by a call, and by a time in the source |
//! | `takeover` | tasks whose runtime has ended or is idle |
//! | `transitions` | the ends of grace periods and activation delays while the source fails |

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use secretwell::auth::{
    BuildContext, BuildError, Guard, KeyRing, LazyAuth, LazyAuthBuilder, Mode, NotReady,
    SecretPolicy, State, Status, VersionHistory,
};
use secretwell::backend::Capabilities;
use secretwell::{ErrorKind, ExposeSecret, MemoryProvider, Resolver, SecretString};
use secretwell_testkit::{Action, Canary, CanaryLog, FaultyProvider};
use serde::Deserialize;
use tokio::time::Instant;

use crate::support::{denied, down, faulty_source, key, pass, ring_text, secs, settle};

mod failures;
mod fleet;
mod history;
mod inputs;
mod limits;
mod pauses;
mod preflight;
mod rebuild;
mod rejected;
mod revocation;
mod scripted;
mod takeover;
mod transitions;
mod unknown_key;

const FIRST: &str = "the first secret, thirty-two bytes or more";
const SECOND: &str = "the second secret, thirty-two bytes or more";

#[derive(Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
struct Secrets {
    auth_secret: SecretString,
    auth_url: Option<String>,
}

/// The state of a build that is up to date and knows all previous secrets.
fn ready(generation: u64) -> State {
    State::Ready {
        generation,
        history: VersionHistory::Complete,
    }
}

/// The value that the tests build.
struct Built {
    secret: String,
    url: Option<String>,
    ring: KeyRing,
}

impl Built {
    /// The primary secret of the ring, and all of its secrets.
    fn ring(&self) -> (&str, Vec<&str>) {
        let all = self
            .ring
            .iter()
            .map(|value| value.expose_text().unwrap())
            .collect();
        (self.ring.primary().expose_text().unwrap(), all)
    }
}

/// An auth whose builder follows the secret: it panics, hangs or fails if the secret begins with
/// `panic`, `slow` or `reject`.
struct Fixture {
    memory: MemoryProvider,
    faulty: FaultyProvider<MemoryProvider>,
    auth: LazyAuth<Built>,
    builds: Arc<AtomicUsize>,
}

impl Fixture {
    fn builds(&self) -> usize {
        self.builds.load(Ordering::SeqCst)
    }

    fn secret(&self) -> String {
        self.auth.peek().unwrap().secret.clone()
    }
}

fn fixture(secrets: &[(&str, &str)]) -> Fixture {
    fixture_with(secrets, |builder| builder)
}

fn fixture_with(
    secrets: &[(&str, &str)],
    settings: impl FnOnce(LazyAuthBuilder) -> LazyAuthBuilder,
) -> Fixture {
    let memory: MemoryProvider = secrets.iter().copied().collect();
    fixture_of(FaultyProvider::new(memory), settings)
}

/// A fixture whose source does not report changes. Secrets are fresh for 100 s.
fn polled(deadline: Duration) -> Fixture {
    let memory = MemoryProvider::from_iter([("AUTH_SECRET", FIRST)]);
    let faulty = FaultyProvider::new(memory).with_capabilities(Capabilities::none());
    fixture_of(faulty, |builder| builder.deadline(deadline))
}

/// Returns how often the secret was read. The absent `AUTH_URL` is also read alone, with backoff.
fn reads(fixture: &Fixture) -> usize {
    let secret = key("AUTH_SECRET");
    let batches = fixture.faulty.batches();
    batches.iter().filter(|keys| keys.contains(&secret)).count()
}

fn fixture_of(
    faulty: FaultyProvider<MemoryProvider>,
    settings: impl FnOnce(LazyAuthBuilder) -> LazyAuthBuilder,
) -> Fixture {
    let memory = faulty.inner().clone();
    let resolver = Resolver::builder(faulty.clone()).ttl(secs(100)).build();
    let builds = Arc::new(AtomicUsize::new(0));
    let count = builds.clone();
    let builder = LazyAuth::builder(resolver)
        .mode(Mode::Production)
        .activation_delay(secs(10))
        .grace_period(secs(60));
    let auth = settings(builder).build(move |secrets: Secrets, context: BuildContext| {
        count.fetch_add(1, Ordering::SeqCst);
        async move {
            let secret = secrets.auth_secret.expose_secret().to_owned();
            if secret.starts_with("panic") {
                panic!("this secret makes the builder panic");
            }
            if secret.starts_with("slow") {
                tokio::time::sleep(secs(3600)).await;
            }
            if secret.starts_with("reject") {
                return Err(BuildError::msg(format!("cannot use {secret}")));
            }
            Ok(Built {
                secret,
                url: secrets.auth_url,
                ring: context.key_ring("AUTH_SECRET")?,
            })
        }
    });
    Fixture {
        memory,
        faulty,
        auth,
        builds,
    }
}

#[tokio::test(start_paused = true)]
async fn construction_reads_nothing_and_first_use_starts_the_build() {
    let fixture = fixture(&[("AUTH_SECRET", FIRST), ("AUTH_URL", "http://localhost")]);
    pass(secs(1000)).await;
    assert_eq!(
        (fixture.auth.state(), fixture.faulty.calls()),
        (State::Idle, 0)
    );
    assert!(
        fixture.auth.peek().is_none()
            && fixture.auth.with(|_| ()).is_none()
            && fixture.auth.reader().is_none()
    );
    let built = fixture.auth.get().await.unwrap();
    assert_eq!(
        (built.secret.as_str(), built.url.as_deref()),
        (FIRST, Some("http://localhost"))
    );
    assert_eq!(fixture.auth.state(), ready(1));
    assert_eq!((fixture.builds(), fixture.faulty.calls()), (1, 1));
}

#[test]
fn static_auth_works_across_several_runtimes() {
    static AUTH: std::sync::LazyLock<Fixture> =
        std::sync::LazyLock::new(|| fixture(&[("AUTH_SECRET", FIRST)]));
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    };
    let failure = AUTH.auth.try_get().unwrap_err();
    assert!(
        failure.to_string().contains("no tokio runtime"),
        "{failure}"
    );
    // The first runtime ends during the first build, whose call hangs.
    AUTH.faulty.push(Action::Hang);
    runtime().block_on(async {
        while AUTH.faulty.calls() == 0 {
            let built = AUTH.auth.get_within(Duration::from_millis(10)).await;
            built.unwrap_err();
        }
    });
    runtime().block_on(async {
        assert_eq!(AUTH.auth.get().await.unwrap().secret, FIRST);
    });
    // Another runtime follows a rotation.
    AUTH.memory.set("AUTH_SECRET", SECOND).unwrap();
    runtime().block_on(async {
        let mut states = AUTH.auth.watch_state();
        AUTH.auth.get().await.unwrap();
        let rotated =
            states.wait_for(|_| AUTH.auth.peek().is_some_and(|built| built.secret == SECOND));
        tokio::time::timeout(secs(30), rotated)
            .await
            .unwrap()
            .unwrap();
    });
}

#[tokio::test(start_paused = true)]
async fn concurrent_first_callers_share_one_read_and_one_build() {
    let fixture = fixture(&[("AUTH_SECRET", FIRST)]);
    fixture
        .faulty
        .push(Action::Delay(Duration::from_millis(50)));
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..10_000 {
        let auth = fixture.auth.clone();
        callers.spawn(async move { auth.get().await.is_ok_and(|built| built.secret == FIRST) });
    }
    assert!(callers.join_all().await.into_iter().all(|served| served));
    assert_eq!((fixture.faulty.calls(), fixture.builds()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn callers_have_separate_deadlines_and_cancellation_does_not_stop_the_build() {
    let fixture = fixture(&[("AUTH_SECRET", FIRST)]);
    fixture.faulty.push(Action::Delay(secs(5)));
    let start = Instant::now();
    let cancelled = tokio::spawn({
        let auth = fixture.auth.clone();
        async move { auth.get().await.is_ok() }
    });
    settle().await;
    let timed_out = fixture.auth.get_within(secs(1)).await.unwrap_err();
    assert!(timed_out.is_temporary() && timed_out.to_string().contains("in progress"));
    assert_eq!(start.elapsed().as_secs(), 1);
    assert!(fixture.auth.try_get().unwrap_err().is_temporary());
    cancelled.abort();
    assert!(fixture.auth.get_within(secs(10)).await.is_ok());
    assert_eq!(
        (
            start.elapsed().as_secs(),
            fixture.faulty.calls(),
            fixture.builds()
        ),
        (5, 1, 1)
    );
}

#[tokio::test(start_paused = true)]
async fn late_secret_is_found_without_a_request() {
    let fixture = fixture(&[]);
    let failure = fixture.auth.get().await.unwrap_err();
    assert_eq!(failure.problems()[0].kind(), ErrorKind::NotFound);
    assert!(!failure.is_temporary());
    assert!(matches!(fixture.auth.state(), State::Failed { .. }));
    let calls = fixture.faulty.calls();
    for _ in 0..100 {
        fixture.auth.get().await.unwrap_err();
    }
    assert_eq!(
        fixture.faulty.calls(),
        calls,
        "the failure is returned until its backoff ends"
    );

    fixture.memory.set("AUTH_SECRET", FIRST).unwrap();
    let start = Instant::now();
    let mut states = fixture.auth.watch_state();
    states.wait_for(State::is_serving).await.unwrap();
    assert!(start.elapsed() < secs(1), "{:?}", start.elapsed());
    assert_eq!(fixture.secret(), FIRST);
}

#[tokio::test(start_paused = true)]
async fn first_build_is_retried_until_an_outage_ends() {
    let fixture = fixture(&[("AUTH_SECRET", FIRST)]);
    fixture.faulty.always(Action::Fail(down()));
    let failure = fixture.auth.get().await.unwrap_err();
    assert!(failure.is_temporary() && failure.retry_after() >= secs(1));
    pass(secs(20)).await;
    assert!(matches!(
        fixture.auth.state(),
        State::Failed { .. } | State::Starting
    ));
    fixture.faulty.clear_faults();
    let start = Instant::now();
    fixture
        .auth
        .watch_state()
        .wait_for(State::is_serving)
        .await
        .unwrap();
    assert!(
        start.elapsed() < secs(4),
        "the retry took longer than an eighth of the outage: {:?}",
        start.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn panic_in_the_builder_does_not_break_later_calls() {
    let fixture = fixture(&[("AUTH_SECRET", "panic, thirty-two bytes or more of it")]);
    let failure = fixture.auth.get().await.unwrap_err();
    assert!(failure.to_string().contains("panicked"));

    let builds = Arc::new(AtomicUsize::new(0));
    let count = builds.clone();
    let memory = MemoryProvider::from_iter([("AUTH_SECRET", FIRST)]);
    let once = LazyAuth::infallible(Resolver::new(memory), move |_: Secrets, _| {
        assert!(
            count.fetch_add(1, Ordering::SeqCst) > 0,
            "the first build panics"
        );
    });
    // The first retry is immediate, so the first caller might get its result.
    let _ = once.get().await;
    assert!(once.get().await.is_ok());
    assert_eq!(builds.load(Ordering::SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn failing_builder_is_reported_without_its_secret_and_retried_with_backoff() {
    let fixture = fixture_with(
        &[("AUTH_SECRET", "reject, thirty-two bytes or more of it")],
        |builder| builder.build_deadline(secs(5)),
    );
    let failure = fixture.auth.get().await.unwrap_err();
    assert_eq!(
        failure.to_string(),
        "not ready: (1) invalid: the builder failed: cannot use <AUTH_SECRET>"
    );
    pass(secs(3600)).await;
    assert!(
        (10..100).contains(&fixture.builds()),
        "{} builds in an hour",
        fixture.builds()
    );

    fixture
        .memory
        .set("AUTH_SECRET", "slow, thirty-two bytes or more of it")
        .unwrap();
    pass(secs(6)).await;
    let State::Failed { failure } = fixture.auth.state() else {
        panic!("{:?}", fixture.auth.state())
    };
    assert!(
        failure.to_string().contains("did not finish within"),
        "{failure}"
    );
    fixture.memory.set("AUTH_SECRET", FIRST).unwrap();
    fixture
        .auth
        .watch_state()
        .wait_for(State::is_serving)
        .await
        .unwrap();
}

#[test]
fn calls_outside_of_a_runtime_fail_and_do_not_block_later_calls() {
    /// The error of a future that fails on its first poll.
    fn poll_once<T>(future: impl Future<Output = Result<T, NotReady>>) -> NotReady {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match std::pin::pin!(future).poll(&mut context) {
            std::task::Poll::Ready(Err(failure)) => failure,
            std::task::Poll::Ready(Ok(_)) => panic!("it succeeded outside of a runtime"),
            std::task::Poll::Pending => panic!("it waits outside of a runtime"),
        }
    }
    let fixture = fixture(&[("AUTH_SECRET", FIRST)]);
    for failure in [
        poll_once(fixture.auth.get()),
        poll_once(fixture.auth.get_within(secs(1))),
        poll_once(fixture.auth.rebuild()),
        fixture.auth.try_get().err().unwrap(),
    ] {
        assert!(failure.is_temporary() && failure.to_string().contains("no tokio runtime"));
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime
        .block_on(async { fixture.auth.rebuild().await.map(drop) })
        .unwrap();
    assert!(poll_once(fixture.auth.rebuild()).is_temporary());
    assert_eq!(fixture.builds(), 1);
}

#[tokio::test(start_paused = true)]
async fn development_placeholder_is_stable_and_logged() {
    let log = CanaryLog::install();
    let fixture = fixture_with(&[], |builder| builder.mode(Mode::Development));
    let placeholder = fixture.auth.get().await.unwrap().secret.clone();
    assert_eq!(placeholder.len(), 64);
    assert_eq!(fixture.auth.rebuild().await.unwrap().secret, placeholder);
    assert_eq!(log.lines_with("a random placeholder is used").len(), 1);
    log.assert_clean(&[&Canary::from_text(placeholder)]);
    // A real secret replaces the placeholder.
    fixture.memory.set("AUTH_SECRET", FIRST).unwrap();
    let mut states = fixture.auth.watch_state();
    states
        .wait_for(|_| {
            fixture
                .auth
                .peek()
                .is_some_and(|built| built.secret == FIRST)
        })
        .await
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn type_without_known_fields_is_reported_on_first_use() {
    let auth = LazyAuth::infallible(
        Resolver::new(MemoryProvider::new()),
        |map: std::collections::HashMap<String, String>, _| map,
    );
    let failure = auth.get().await.unwrap_err();
    assert_eq!(failure.problems()[0].kind(), ErrorKind::InvalidConfig);
    assert!(!auth.preflight(Mode::Development).await.is_ready());
}

#[tokio::test(start_paused = true)]
async fn each_state_change_is_one_event_without_secrets() {
    let (log, canary, next) = (
        CanaryLog::install(),
        Canary::new("secret"),
        Canary::new("secret"),
    );
    let fixture = fixture(&[]);
    fixture.auth.get().await.unwrap_err();
    pass(secs(300)).await;
    fixture.memory.set("AUTH_SECRET", canary.value()).unwrap();
    fixture
        .auth
        .watch_state()
        .wait_for(State::is_serving)
        .await
        .unwrap();
    fixture.memory.set("AUTH_SECRET", next.value()).unwrap();
    pass(secs(100)).await;
    fixture.memory.set("AUTH_SECRET", "").unwrap();
    pass(secs(100)).await;
    let states: Vec<String> = log
        .lines_with("message=auth is")
        .iter()
        .map(|line| {
            line.split("message=auth is ")
                .nth(1)
                .unwrap()
                .split(' ')
                .next()
                .unwrap()
                .to_owned()
        })
        .collect();
    let rotation = ["rotating", "ready"];
    let expected: Vec<&str> = ["starting", "failed", "ready"]
        .into_iter()
        .chain(rotation)
        .chain(rotation)
        .chain(rotation)
        .chain(["degraded"])
        .collect();
    assert_eq!(states, expected, "{}", log.text());
    let ready = &log.lines_with("message=auth is ready")[0];
    for field in [
        "generation=1",
        "mode=production",
        "origin=memory://",
        "AUTH_SECRET@1 fresh from memory://",
        "took=",
    ] {
        assert!(ready.contains(field), "{field} in {ready}");
    }
    canary.assert_hidden(&fixture.auth);
    canary.assert_hidden(&fixture.auth.get().await.unwrap());
    log.assert_clean(&[&canary, &next]);
}

#[tokio::test(start_paused = true)]
async fn dropping_the_auth_stops_its_task_and_its_state_watches() {
    let fixture = fixture(&[("AUTH_SECRET", FIRST)]);
    fixture.auth.get().await.unwrap();
    let mut states = fixture.auth.watch_state();
    drop(fixture.auth);
    assert_eq!(states.changed().await, None);
    let calls = fixture.faulty.calls();
    pass(secs(1000)).await;
    assert_eq!(fixture.faulty.calls(), calls);
}
