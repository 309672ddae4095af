//! The lazily built auth: starts, rotations, failures, and what it says of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use secretwell::auth::{
    BuildContext, BuildError, KeyRing, LazyAuth, LazyAuthBuilder, Mode, NotReady, SecretPolicy,
    State, Status,
};
use secretwell::{ErrorKind, ExposeSecret, MemoryProvider, Resolver, SecretString};
use secretwell_testkit::{Canary, CanaryLog, FaultyProvider, Step};
use serde::Deserialize;
use tokio::time::Instant;

use crate::support::{down, key, origin, pass, secs, settle};

mod preflight;

const FIRST: &str = "the first secret, thirty-two bytes or more";
const SECOND: &str = "the second secret, thirty-two bytes or more";

#[derive(Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
struct Secrets {
    auth_secret: SecretString,
    auth_url: Option<String>,
}

/// What the tests build: the secret, its ring, and the number of the build.
struct Built {
    secret: String,
    url: Option<String>,
    ring: KeyRing,
}

impl Built {
    fn ring(&self) -> (&str, Vec<&str>) {
        let verifying = self
            .ring
            .iter()
            .map(|value| value.expose_text().unwrap())
            .collect();
        (self.ring.primary().expose_text().unwrap(), verifying)
    }
}

struct Stage {
    memory: MemoryProvider,
    faulty: FaultyProvider<MemoryProvider>,
    auth: LazyAuth<Built>,
    builds: Arc<AtomicUsize>,
}

impl Stage {
    fn builds(&self) -> usize {
        self.builds.load(Ordering::SeqCst)
    }

    fn secret(&self) -> String {
        self.auth.peek().unwrap().secret.clone()
    }
}

fn stage(secrets: &[(&str, &str)]) -> Stage {
    stage_with(secrets, |builder| builder)
}

fn stage_with(
    secrets: &[(&str, &str)],
    settings: impl FnOnce(LazyAuthBuilder) -> LazyAuthBuilder,
) -> Stage {
    let memory: MemoryProvider = secrets.iter().copied().collect();
    let faulty = FaultyProvider::new(memory.clone());
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
                panic!("the builder was told to");
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
    Stage {
        memory,
        faulty,
        auth,
        builds,
    }
}

#[tokio::test(start_paused = true)]
async fn construction_asks_nothing_and_the_first_use_starts_it() {
    let stage = stage(&[("AUTH_SECRET", FIRST), ("AUTH_URL", "http://localhost")]);
    pass(secs(1000)).await;
    assert_eq!((stage.auth.state(), stage.faulty.calls()), (State::Idle, 0));
    assert!(
        stage.auth.peek().is_none()
            && stage.auth.with(|_| ()).is_none()
            && stage.auth.reader().is_none()
    );
    let built = stage.auth.get().await.unwrap();
    assert_eq!(
        (built.secret.as_str(), built.url.as_deref()),
        (FIRST, Some("http://localhost"))
    );
    assert_eq!(stage.auth.state(), State::Ready { generation: 1 });
    assert_eq!((stage.builds(), stage.faulty.calls()), (1, 1));
}

#[test]
fn it_may_be_a_static_made_without_a_runtime_and_used_in_several() {
    static AUTH: std::sync::LazyLock<Stage> =
        std::sync::LazyLock::new(|| stage(&[("AUTH_SECRET", FIRST)]));
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
    // The first runtime ends in the middle of the start.
    AUTH.faulty.next(Step::Hang);
    runtime().block_on(async {
        AUTH.auth
            .get_within(Duration::from_millis(10))
            .await
            .unwrap_err();
    });
    runtime().block_on(async {
        assert_eq!(AUTH.auth.get().await.unwrap().secret, FIRST);
    });
    // And the next one follows a rotation.
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
async fn ten_thousand_first_callers_cause_one_call_and_one_build() {
    let stage = stage(&[("AUTH_SECRET", FIRST)]);
    stage.faulty.next(Step::Delay(Duration::from_millis(50)));
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..10_000 {
        let auth = stage.auth.clone();
        callers.spawn(async move { auth.get().await.is_ok_and(|built| built.secret == FIRST) });
    }
    assert!(callers.join_all().await.into_iter().all(|served| served));
    assert_eq!((stage.faulty.calls(), stage.builds()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn each_caller_has_a_deadline_of_its_own_and_cancelling_stops_nothing() {
    let stage = stage(&[("AUTH_SECRET", FIRST)]);
    stage.faulty.next(Step::Delay(secs(5)));
    let start = Instant::now();
    let cancelled = tokio::spawn({
        let auth = stage.auth.clone();
        async move { auth.get().await.is_ok() }
    });
    settle().await;
    let hasty = stage.auth.get_within(secs(1)).await.unwrap_err();
    assert!(hasty.is_temporary() && hasty.to_string().contains("under way"));
    assert_eq!(start.elapsed().as_secs(), 1);
    assert!(stage.auth.try_get().unwrap_err().is_temporary());
    cancelled.abort();
    assert!(stage.auth.get_within(secs(10)).await.is_ok());
    assert_eq!(
        (
            start.elapsed().as_secs(),
            stage.faulty.calls(),
            stage.builds()
        ),
        (5, 1, 1)
    );
}

#[tokio::test(start_paused = true)]
async fn a_late_secret_is_found_without_anybody_asking_for_it() {
    let stage = stage(&[]);
    let failure = stage.auth.get().await.unwrap_err();
    assert_eq!(failure.problems()[0].kind(), ErrorKind::NotFound);
    assert!(!failure.is_temporary());
    assert!(matches!(stage.auth.state(), State::Failed { .. }));
    let calls = stage.faulty.calls();
    for _ in 0..100 {
        stage.auth.get().await.unwrap_err();
    }
    assert_eq!(
        stage.faulty.calls(),
        calls,
        "the failure is remembered for its backoff"
    );

    stage.memory.set("AUTH_SECRET", FIRST).unwrap();
    let start = Instant::now();
    let mut states = stage.auth.watch_state();
    states.wait_for(State::is_serving).await.unwrap();
    assert!(start.elapsed() < secs(1), "{:?}", start.elapsed());
    assert_eq!(stage.secret(), FIRST);
}

#[tokio::test(start_paused = true)]
async fn a_source_that_is_down_at_the_start_is_tried_again() {
    let stage = stage(&[("AUTH_SECRET", FIRST)]);
    stage.faulty.always(Step::Fail(down()));
    let failure = stage.auth.get().await.unwrap_err();
    assert!(failure.is_temporary() && failure.retry_after() >= secs(1));
    pass(secs(20)).await;
    assert!(matches!(
        stage.auth.state(),
        State::Failed { .. } | State::Starting
    ));
    stage.faulty.heal();
    let start = Instant::now();
    stage
        .auth
        .watch_state()
        .wait_for(State::is_serving)
        .await
        .unwrap();
    assert!(
        start.elapsed() < secs(4),
        "an eighth of the outage: {:?}",
        start.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn a_panic_of_the_builder_leaves_the_next_call_working() {
    let stage = stage(&[("AUTH_SECRET", "panic, thirty-two bytes or more of it")]);
    let failure = stage.auth.get().await.unwrap_err();
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
    // The next try comes at once, and whoever waits may get what it makes.
    let _ = once.get().await;
    assert!(once.get().await.is_ok());
    assert_eq!(builds.load(Ordering::SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn a_builder_that_rejects_or_hangs_is_told_without_its_secret_and_not_hammered() {
    let stage = stage_with(
        &[("AUTH_SECRET", "reject, thirty-two bytes or more of it")],
        |builder| builder.build_deadline(secs(5)),
    );
    let failure = stage.auth.get().await.unwrap_err();
    assert_eq!(
        failure.to_string(),
        "not ready: (1) invalid: the builder failed: cannot use <AUTH_SECRET>"
    );
    pass(secs(3600)).await;
    assert!(
        (10..100).contains(&stage.builds()),
        "{} builds in an hour",
        stage.builds()
    );

    stage
        .memory
        .set("AUTH_SECRET", "slow, thirty-two bytes or more of it")
        .unwrap();
    pass(secs(6)).await;
    let State::Failed { failure } = stage.auth.state() else {
        panic!("{:?}", stage.auth.state())
    };
    assert!(failure.to_string().contains("took too long"), "{failure}");
    stage.memory.set("AUTH_SECRET", FIRST).unwrap();
    stage
        .auth
        .watch_state()
        .wait_for(State::is_serving)
        .await
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn rotation_verifies_at_once_signs_later_and_ends_the_old_after_the_grace() {
    let stage = stage(&[("AUTH_SECRET", FIRST)]);
    stage.auth.get().await.unwrap();
    let (mut handle, start) = (stage.auth.reader().unwrap(), Instant::now());
    stage.memory.set("AUTH_SECRET", SECOND).unwrap();
    let mut states = stage.auth.watch_state();
    states
        .wait_for(|state| *state == State::Ready { generation: 2 })
        .await
        .unwrap();
    assert!(start.elapsed() < secs(1));
    assert_eq!(handle.get().ring(), (FIRST, vec![SECOND, FIRST]));
    states
        .wait_for(|state| *state == State::Ready { generation: 3 })
        .await
        .unwrap();
    assert_eq!(start.elapsed().as_secs(), 10);
    assert_eq!(handle.get().ring(), (SECOND, vec![SECOND, FIRST]));
    states
        .wait_for(|state| *state == State::Ready { generation: 4 })
        .await
        .unwrap();
    assert_eq!(start.elapsed().as_secs(), 70);
    assert_eq!(handle.get().ring(), (SECOND, vec![SECOND]));
    pass(secs(1000)).await;
    assert_eq!(stage.builds(), 4, "and then nothing more");
    assert_eq!(
        stage.auth.with(|built| built.secret.clone()).as_deref(),
        Some(SECOND)
    );
}

#[tokio::test(start_paused = true)]
async fn an_equal_value_under_a_new_version_is_no_rotation() {
    let stage = stage(&[("AUTH_SECRET", FIRST)]);
    stage.auth.get().await.unwrap();
    stage.memory.set("AUTH_SECRET", FIRST).unwrap();
    pass(secs(500)).await;
    assert_eq!(
        (stage.builds(), stage.auth.state()),
        (1, State::Ready { generation: 1 })
    );
}

#[tokio::test(start_paused = true)]
async fn a_bad_rotation_leaves_the_old_one_serving_until_it_is_repaired() {
    let stage = stage(&[("AUTH_SECRET", FIRST)]);
    stage.auth.get().await.unwrap();
    for (bad, why) in [
        ("", "empty"),
        ("short", "too weak: 5 bytes"),
        ("changeme", "placeholder"),
        (
            "reject, thirty-two bytes or more of it",
            "the builder failed",
        ),
        ("panic, thirty-two bytes or more of it", "panicked"),
    ] {
        stage.memory.set("AUTH_SECRET", bad).unwrap();
        let mut states = stage.auth.watch_state();
        let degraded = states
            .wait_for(|state| match state {
                State::Degraded { failure, .. } => failure.to_string().contains(why),
                _ => false,
            })
            .await
            .unwrap();
        assert_eq!(degraded.generation(), Some(1), "{why}");
        assert_eq!(stage.secret(), FIRST);
        pass(secs(1)).await;
    }
    stage.memory.remove("AUTH_SECRET").unwrap();
    pass(secs(2)).await;
    assert!(matches!(stage.auth.state(), State::Degraded { .. }));
    assert!(stage.auth.get().await.is_ok());
    // The old secret again: there is nothing to build.
    let builds = stage.builds();
    stage.memory.set("AUTH_SECRET", FIRST).unwrap();
    stage
        .auth
        .watch_state()
        .wait_for(|state| *state == State::Ready { generation: 1 })
        .await
        .unwrap();
    assert_eq!(stage.builds(), builds);
}

#[tokio::test(start_paused = true)]
async fn an_outage_degrades_and_its_end_repairs() {
    let stage = stage(&[("AUTH_SECRET", FIRST)]);
    stage.auth.get().await.unwrap();
    stage.faulty.always(Step::Fail(down()));
    pass(secs(99)).await;
    assert_eq!(
        stage.auth.state(),
        State::Ready { generation: 1 },
        "within its ttl"
    );
    pass(secs(5)).await;
    let State::Degraded { failure, .. } = stage.auth.state() else {
        panic!("{:?}", stage.auth.state())
    };
    assert!(failure.is_temporary());
    assert!(stage.auth.get().await.is_ok());
    stage.faulty.heal();
    // The outage has lasted for 104 s, so its end is noticed after an eighth of that.
    pass(secs(15)).await;
    assert_eq!(
        (stage.auth.state(), stage.builds()),
        (State::Ready { generation: 1 }, 1)
    );
}

#[tokio::test(start_paused = true)]
async fn rebuild_reads_anew_and_builds_even_from_the_same() {
    let stage = stage(&[("AUTH_SECRET", FIRST)]);
    stage.auth.get().await.unwrap();
    let calls = stage.faulty.calls();
    assert_eq!(stage.auth.rebuild().await.unwrap().generation(), 2);
    assert_eq!((stage.builds(), stage.faulty.calls()), (2, calls + 1));
    pass(secs(2)).await;
    stage
        .faulty
        .always(Step::Fail(secretwell::Error::new(ErrorKind::Denied, "no")));
    assert!(stage.auth.rebuild().await.is_err());
    assert!(stage.auth.get().await.is_ok(), "the old one serves on");
}

#[tokio::test(start_paused = true)]
async fn rebuild_sees_what_was_written_since_the_last_one_and_asks_once_a_second() {
    // Without notices, so that nothing else has it read anew.
    let (memory, faulty) = origin(&[("AUTH_SECRET", FIRST)]);
    let resolver = Resolver::builder(faulty.clone()).ttl(secs(100)).build();
    let auth = LazyAuth::infallible(resolver, |secrets: Secrets, _| {
        secrets.auth_secret.expose_secret().to_owned()
    });
    auth.rebuild().await.unwrap();
    memory.set("AUTH_SECRET", SECOND).unwrap();
    let start = Instant::now();
    assert_eq!(*auth.rebuild().await.unwrap(), SECOND);
    assert!(start.elapsed() <= secs(1), "{:?}", start.elapsed());

    // Beside that, the URL that is absent is looked for now and then.
    let asked = || {
        let secret = key("AUTH_SECRET");
        let batches = faulty.batches();
        batches.iter().filter(|keys| keys.contains(&secret)).count()
    };
    let (start, before) = (Instant::now(), asked());
    for _ in 0..5 {
        let mut callers = tokio::task::JoinSet::new();
        for _ in 0..20 {
            let auth = auth.clone();
            callers.spawn(async move { auth.rebuild().await.map(drop) });
        }
        assert!(callers.join_all().await.iter().all(Result::is_ok));
    }
    let (asked, took) = (asked() - before, start.elapsed().as_secs());
    assert!(asked > 0 && asked as u64 <= took + 1, "{asked} in {took} s");
}

#[test]
fn outside_of_a_runtime_every_way_in_is_an_error_and_wedges_nobody() {
    /// What `future` comes to without anybody to wait for.
    fn now<T>(future: impl Future<Output = Result<T, NotReady>>) -> NotReady {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match std::pin::pin!(future).poll(&mut context) {
            std::task::Poll::Ready(Err(failure)) => failure,
            std::task::Poll::Ready(Ok(_)) => panic!("there is nothing to build in"),
            std::task::Poll::Pending => panic!("it waits for a runtime"),
        }
    }
    let stage = stage(&[("AUTH_SECRET", FIRST)]);
    for failure in [
        now(stage.auth.get()),
        now(stage.auth.get_within(secs(1))),
        now(stage.auth.rebuild()),
        stage.auth.try_get().err().unwrap(),
    ] {
        assert!(failure.is_temporary() && failure.to_string().contains("no tokio runtime"));
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime
        .block_on(async { stage.auth.rebuild().await.map(drop) })
        .unwrap();
    assert!(now(stage.auth.rebuild()).is_temporary());
    assert_eq!(stage.builds(), 1);
}

#[tokio::test(start_paused = true)]
async fn development_makes_up_a_secret_that_lasts_and_says_so() {
    let log = CanaryLog::install();
    let stage = stage_with(&[], |builder| builder.mode(Mode::Development));
    let made_up = stage.auth.get().await.unwrap().secret.clone();
    assert_eq!(made_up.len(), 64);
    assert_eq!(stage.auth.rebuild().await.unwrap().secret, made_up);
    assert_eq!(log.lines_with("a random one is used").len(), 1);
    log.assert_clean(&[&Canary::from_text(made_up)]);
    // The real one takes over when it comes.
    stage.memory.set("AUTH_SECRET", FIRST).unwrap();
    let mut states = stage.auth.watch_state();
    states
        .wait_for(|_| stage.auth.peek().is_some_and(|built| built.secret == FIRST))
        .await
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_type_whose_secrets_cannot_be_known_is_told_on_use() {
    let auth = LazyAuth::infallible(
        Resolver::new(MemoryProvider::new()),
        |map: std::collections::HashMap<String, String>, _| map,
    );
    let failure = auth.get().await.unwrap_err();
    assert_eq!(failure.problems()[0].kind(), ErrorKind::InvalidConfig);
    assert!(!auth.preflight(Mode::Development).await.is_ready());
}

#[tokio::test(start_paused = true)]
async fn each_change_of_state_is_one_event_and_no_secret_is_in_it() {
    let (log, canary, next) = (
        CanaryLog::install(),
        Canary::new("secret"),
        Canary::new("secret"),
    );
    let stage = stage(&[]);
    stage.auth.get().await.unwrap_err();
    pass(secs(300)).await;
    stage.memory.set("AUTH_SECRET", canary.value()).unwrap();
    stage
        .auth
        .watch_state()
        .wait_for(State::is_serving)
        .await
        .unwrap();
    stage.memory.set("AUTH_SECRET", next.value()).unwrap();
    pass(secs(100)).await;
    stage.memory.set("AUTH_SECRET", "").unwrap();
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
    let turn = ["rotating", "ready"];
    let expected: Vec<&str> = ["starting", "failed", "ready"]
        .into_iter()
        .chain(turn)
        .chain(turn)
        .chain(turn)
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
    canary.assert_hidden(&stage.auth);
    canary.assert_hidden(&stage.auth.get().await.unwrap());
    log.assert_clean(&[&canary, &next]);
}

#[tokio::test(start_paused = true)]
async fn everything_ends_with_the_auth() {
    let stage = stage(&[("AUTH_SECRET", FIRST)]);
    stage.auth.get().await.unwrap();
    let mut states = stage.auth.watch_state();
    drop(stage.auth);
    assert_eq!(states.changed().await, None);
    let calls = stage.faulty.calls();
    pass(secs(1000)).await;
    assert_eq!(stage.faulty.calls(), calls);
}
