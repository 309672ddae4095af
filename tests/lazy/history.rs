//! The version history of a source that fails, hangs or panics.

use std::sync::Mutex;

use secretwell::Error;
use secretwell::auth::RefuseList;

use super::scripted::{Old, Reports, Scripted};
use super::*;

const THIRD: &str = "the third secret, thirty-two bytes or more";

/// An auth of a process that starts after `AUTH_SECRET` was rotated: `FIRST` 1,000 s ago, then `SECOND`
/// 100 s ago.
fn started(script: impl FnOnce(&Scripted)) -> (Scripted, LazyAuth<KeyRing>) {
    let source = Scripted::new(Reports::Times);
    source.write("AUTH_SECRET", FIRST, secs(1000));
    source.write("AUTH_SECRET", SECOND, secs(100));
    script(&source);
    let resolver = Resolver::builder(source.clone()).ttl(secs(10)).build();
    let auth = LazyAuth::builder(resolver)
        .mode(Mode::Production)
        .deadline(secs(100))
        .build_deadline(secs(30))
        .build(|_: Secrets, context: BuildContext| async move {
            Ok::<_, BuildError>(context.key_ring("AUTH_SECRET")?)
        });
    (source, auth)
}

fn incomplete(generation: u64) -> State {
    State::Ready {
        generation,
        history: VersionHistory::Incomplete,
    }
}

fn both() -> (String, String) {
    (SECOND.into(), format!("{SECOND},{FIRST}"))
}

fn newest() -> (String, String) {
    (SECOND.into(), SECOND.into())
}

#[tokio::test(start_paused = true)]
async fn previous_secret_is_known_from_the_first_build_on() {
    let (_, auth) = started(|_| {});
    assert_eq!(ring_text(&auth.get().await.unwrap()), both());
    assert_eq!(auth.state(), ready(1));
}

#[tokio::test(start_paused = true)]
async fn failed_history_is_retried_until_it_succeeds() {
    for old in [Old::Fail(down()), Old::Fail(denied()), Old::Panic] {
        let log = CanaryLog::install();
        let (_, auth) = started(|source| {
            for _ in 0..3 {
                source.push_old(old.clone());
            }
        });
        assert_eq!(ring_text(&auth.get().await.unwrap()), newest(), "{old:?}");
        assert_eq!(auth.state(), incomplete(1), "{old:?}");
        let start = Instant::now();
        let mut states = auth.watch_state();
        states.wait_for(|state| *state == ready(2)).await.unwrap();
        assert!(start.elapsed() < secs(5), "{old:?}: {:?}", start.elapsed());
        assert_eq!(ring_text(&auth.get().await.unwrap()), both(), "{old:?}");
        assert_eq!(log.lines_with("event=history_incomplete").len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn history_that_fails_for_long_is_read_ever_more_rarely() {
    let (source, auth) = started(|source| source.always_old(Some(Old::Fail(down()))));
    auth.get().await.unwrap();
    pass(secs(3600)).await;
    let reads = source.reads_of_old_versions();
    assert!((10..200).contains(&reads), "{reads} reads in an hour");
    assert_eq!(auth.state(), incomplete(1));
    source.always_old(None);
    pass(secs(301)).await;
    assert_eq!(ring_text(&auth.get().await.unwrap()), both());
    let reads = source.reads_of_old_versions();
    pass(secs(3600)).await;
    assert_eq!(source.reads_of_old_versions(), reads, "it is read once");
}

#[tokio::test(start_paused = true)]
async fn history_that_hangs_delays_the_start_until_the_build_deadline() {
    let (source, auth) = started(|source| source.always_old(Some(Old::Hang)));
    let start = Instant::now();
    assert_eq!(ring_text(&auth.get().await.unwrap()), newest());
    assert_eq!(start.elapsed(), secs(30));
    assert_eq!(auth.state(), incomplete(1));

    // A read that hangs in the background delays no rotation.
    pass(secs(5)).await;
    source.write("AUTH_SECRET", THIRD, secs(0));
    let start = Instant::now();
    let mut states = auth.watch_state();
    let rotated = states.wait_for(|state| state.generation() == Some(2));
    rotated.await.unwrap();
    assert!(start.elapsed() <= secs(10), "{:?}", start.elapsed());
    source.always_old(None);
    pass(secs(100)).await;
    let all = format!("{THIRD},{SECOND},{FIRST}");
    assert_eq!(ring_text(&auth.get().await.unwrap()), (THIRD.into(), all));
    assert_eq!(auth.state().history(), Some(VersionHistory::Complete));
}

#[tokio::test(start_paused = true)]
async fn failed_history_causes_no_attempts_while_the_builder_fails() {
    let source = Scripted::new(Reports::Times);
    source.write("AUTH_SECRET", FIRST, secs(1000));
    source.write("AUTH_SECRET", SECOND, secs(100));
    source.always_old(Some(Old::Fail(down())));
    let builds = Arc::new(AtomicUsize::new(0));
    let count = builds.clone();
    let auth = LazyAuth::new(Resolver::new(source), move |_: Secrets, _| {
        count.fetch_add(1, Ordering::SeqCst);
        async { Err::<(), _>(BuildError::msg("not yet")) }
    });
    assert!(auth.get().await.is_err());
    pass(secs(3600)).await;
    let builds = builds.load(Ordering::SeqCst);
    assert!((10..100).contains(&builds), "{builds} builds in an hour");
}

#[tokio::test(start_paused = true)]
async fn history_that_was_read_before_a_failed_build_is_not_read_again() {
    let source = Scripted::new(Reports::Times);
    source.write("AUTH_SECRET", FIRST, secs(1000));
    source.write("AUTH_SECRET", SECOND, secs(100));
    let is_ready = Arc::new(AtomicBool::new(false));
    let builder_is_ready = is_ready.clone();
    let resolver = Resolver::builder(source.clone()).ttl(secs(10)).build();
    let auth = LazyAuth::new(resolver, move |_: Secrets, context: BuildContext| {
        let is_ready = builder_is_ready.load(Ordering::SeqCst);
        async move {
            match is_ready {
                true => Ok(context.key_ring("AUTH_SECRET")?),
                false => Err(BuildError::msg("not yet")),
            }
        }
    });
    assert!(auth.get().await.is_err());
    let reads = source.reads_of_old_versions();
    source.always_old(Some(Old::Fail(down())));
    pass(secs(100)).await;
    assert_eq!(source.reads_of_old_versions(), reads);
    is_ready.store(true, Ordering::SeqCst);
    let ring = auth.ready(secs(100)).await.unwrap().clone();
    assert_eq!(ring_text(&ring), both());
}

#[tokio::test(start_paused = true)]
async fn secret_that_is_replaced_before_the_first_build_is_a_previous_secret() {
    let source = Scripted::new(Reports::Times);
    source.write("AUTH_SECRET", FIRST, secs(1000));
    source.write("AUTH_SECRET", SECOND, secs(100));
    let resolver = Resolver::builder(source.clone()).ttl(secs(10)).build();
    let auth = LazyAuth::new(
        resolver,
        |secrets: Secrets, context: BuildContext| async move {
            match secrets.auth_secret.expose_secret() {
                SECOND => Err(BuildError::msg("not this one")),
                _ => Ok(context.key_ring("AUTH_SECRET")?),
            }
        },
    );
    assert!(auth.get().await.is_err());
    source.write("AUTH_SECRET", THIRD, secs(20));
    let ring = auth.ready(secs(60)).await.unwrap().clone();
    let all = format!("{THIRD},{SECOND},{FIRST}");
    assert_eq!(ring_text(&ring), (THIRD.into(), all));
}

#[tokio::test(start_paused = true)]
async fn absent_version_ends_the_history() {
    let absent = Error::new(ErrorKind::NotFound, "the version was deleted");
    let (source, auth) = started(|source| source.push_old(Old::Fail(absent)));
    assert_eq!(ring_text(&auth.get().await.unwrap()), newest());
    assert_eq!(auth.state(), ready(1));
    pass(secs(1000)).await;
    assert_eq!(source.reads_of_old_versions(), 1);
}

#[tokio::test(start_paused = true)]
async fn history_has_at_most_the_configured_number_of_previous_secrets() {
    let source = Scripted::new(Reports::Times);
    for number in 0..20 {
        let value = format!("{FIRST}, {number}");
        source.write("AUTH_SECRET", &value, secs(1000 - 10 * number));
    }
    let auth = LazyAuth::builder(Resolver::new(source.clone()))
        .activation_delay(secs(5))
        .max_previous(3)
        .build(|_: Secrets, context: BuildContext| async move {
            Ok::<_, BuildError>(context.key_ring("AUTH_SECRET")?)
        });
    assert_eq!(auth.get().await.unwrap().iter().len(), 4);
    // One more shows that there are too many.
    assert_eq!(source.reads_of_old_versions(), 4);
    assert_eq!(auth.state().history(), Some(VersionHistory::Incomplete));
}

/// An auth with these settings, whose source has versions with these values and ages in seconds.
fn timed(
    versions: &[(&str, u64)],
    script: impl FnOnce(&Scripted),
    settings: impl FnOnce(LazyAuthBuilder) -> LazyAuthBuilder,
) -> LazyAuth<KeyRing> {
    let source = Scripted::new(Reports::Times);
    for (value, age) in versions {
        source.write("AUTH_SECRET", value, secs(*age));
    }
    script(&source);
    let resolver = Resolver::builder(source).ttl(secs(1)).build();
    settings(LazyAuth::builder(resolver)).build(|_: Secrets, context: BuildContext| async move {
        Ok::<_, BuildError>(context.key_ring("AUTH_SECRET")?)
    })
}

#[tokio::test(start_paused = true)]
async fn signing_secret_is_read_although_the_next_ones_were_never_active() {
    let fourth = format!("{THIRD}, replaced");
    let versions = [(FIRST, 1000), (SECOND, 17), (THIRD, 8), (&fourth, 0)];
    let auth = timed(
        &versions,
        |_| {},
        |builder| builder.activation_delay(secs(10)).grace_period(secs(5)),
    );
    let ring = ring_text(&auth.get().await.unwrap());
    assert_eq!(ring.0, FIRST);
    pass(secs(9)).await;
    assert_eq!(ring_text(&auth.peek().unwrap()).0, FIRST);
    pass(secs(2)).await;
    let all = format!("{fourth},{THIRD},{FIRST}");
    assert_eq!(ring_text(&auth.peek().unwrap()), (fourth.clone(), all));
    pass(secs(5)).await;
    assert_eq!(ring_text(&auth.peek().unwrap()), (fourth.clone(), fourth));
}

#[tokio::test(start_paused = true)]
async fn secret_that_was_rolled_back_does_not_sign_after_a_start() {
    let versions = [(FIRST, 100_000), (SECOND, 5), (FIRST, 1)];
    let auth = timed(
        &versions,
        |_| {},
        |builder| builder.activation_delay(secs(30)),
    );
    let all = format!("{FIRST},{SECOND}");
    assert_eq!(ring_text(&auth.get().await.unwrap()), (FIRST.into(), all));
}

#[tokio::test(start_paused = true)]
async fn complete_history_corrects_an_incomplete_one() {
    let versions = [(FIRST, 100_000), (SECOND, 500), (THIRD, 100)];
    let settings = |builder: LazyAuthBuilder| {
        let builder = builder.activation_delay(secs(1000));
        builder.grace_period(secs(100_000))
    };
    let all = format!("{THIRD},{SECOND},{FIRST}");
    let whole = timed(&versions, |_| {}, settings);
    let expected = (FIRST.to_owned(), all);
    assert_eq!(ring_text(&whole.get().await.unwrap()), expected);

    let partial = |source: &Scripted| source.fail_version(1, 3);
    let auth = timed(&versions, partial, settings);
    let oldest_known = (SECOND.to_owned(), format!("{THIRD},{SECOND}"));
    assert_eq!(ring_text(&auth.get().await.unwrap()), oldest_known);
    assert_eq!(auth.state(), incomplete(1));
    pass(secs(60)).await;
    assert_eq!(ring_text(&auth.get().await.unwrap()), expected);
    assert_eq!(auth.state(), ready(2));
}

#[tokio::test(start_paused = true)]
async fn history_with_too_many_versions_is_incomplete_and_not_read_again() {
    let log = CanaryLog::install();
    let source = Scripted::new(Reports::Times);
    source.write("AUTH_SECRET", FIRST, secs(7200));
    for age in 0..60 {
        source.write("AUTH_SECRET", SECOND, secs(3600 - age));
    }
    let auth = LazyAuth::new(
        Resolver::new(source.clone()),
        |_: Secrets, context: BuildContext| async move {
            Ok::<_, BuildError>(context.key_ring("AUTH_SECRET")?)
        },
    );
    assert_eq!(ring_text(&auth.get().await.unwrap()), newest());
    assert_eq!(auth.state(), incomplete(1));
    pass(secs(3600)).await;
    assert_eq!(auth.state(), incomplete(1));
    assert_eq!(source.reads_of_old_versions(), 49);
    let lines = log.lines_with("event=history_incomplete");
    assert_eq!(lines.len(), 1, "{}", log.text());
    assert!(lines[0].contains("more versions within the grace period"));
}

#[tokio::test(start_paused = true)]
async fn repeated_secrets_count_once_towards_the_limit() {
    let versions = [
        (THIRD, 100_000),
        (FIRST, 500),
        (SECOND, 400),
        (FIRST, 300),
        (SECOND, 200),
    ];
    let auth = timed(
        &versions,
        |_| {},
        |builder| {
            let builder = builder.activation_delay(secs(10));
            builder.grace_period(secs(10_000)).max_previous(2)
        },
    );
    let all = format!("{SECOND},{FIRST},{THIRD}");
    assert_eq!(ring_text(&auth.get().await.unwrap()), (SECOND.into(), all));
    assert_eq!(auth.state(), ready(1));
}

#[tokio::test(start_paused = true)]
async fn history_of_a_key_that_is_no_candidate_follows_with_the_next_build() {
    /// The type of the fields does not show that they are secrets.
    #[derive(Deserialize)]
    #[expect(dead_code, reason = "the build uses the key ring")]
    struct NewType(String);

    #[derive(Deserialize)]
    #[expect(dead_code, reason = "the build uses the key ring")]
    struct Keys {
        #[serde(rename = "AUTH_SECRET")]
        auth_secret: NewType,
        session_key: NewType,
    }
    for (key, named, is_candidate) in [
        ("session_key", false, false),
        ("session_key", true, true),
        ("AUTH_SECRET", false, true),
    ] {
        let source = Scripted::new(Reports::Times);
        for key in ["AUTH_SECRET", "session_key"] {
            source.write(key, FIRST, secs(1000));
            source.write(key, SECOND, secs(100));
        }
        let mut builder = LazyAuth::builder(Resolver::new(source)).activation_delay(secs(10));
        if named {
            builder = builder.signing([key]).unwrap();
        }
        let rings = Arc::new(Mutex::new(Vec::new()));
        let seen = rings.clone();
        let auth = builder.build(move |_: Keys, context: BuildContext| {
            let ring = context.key_ring(key);
            seen.lock()
                .unwrap()
                .extend(ring.as_ref().map(ring_text).ok());
            async move { Ok::<_, BuildError>(ring?) }
        });
        auth.get().await.unwrap();
        pass(secs(1)).await;
        let expected = match is_candidate {
            true => vec![both()],
            false => vec![newest(), both()],
        };
        assert_eq!(*rings.lock().unwrap(), expected, "{key} {named}");
        assert_eq!(auth.state(), ready(expected.len() as u64));
    }
}

/// Starts an auth whose source has a strong secret, then `refused` and then a strong one, with these
/// settings. Returns the ring of the first build, and the log.
async fn started_after(
    refused: &str,
    accepts_encrypted: bool,
    settings: impl FnOnce(LazyAuthBuilder) -> LazyAuthBuilder,
) -> ((String, String), CanaryLog, LazyAuth<KeyRing>) {
    let log = CanaryLog::install();
    let source = Scripted::new(Reports::Times);
    source.write("AUTH_SECRET", FIRST, secs(1000));
    source.write("AUTH_SECRET", refused, secs(500));
    source.write("AUTH_SECRET", SECOND, secs(100));
    let mut resolver = Resolver::builder(source).ttl(secs(10));
    if accepts_encrypted {
        resolver = resolver.accept_encrypted([key("AUTH_SECRET")]);
    }
    let builder = LazyAuth::builder(resolver.build())
        .grace_period(secs(2000))
        .activation_delay(secs(10));
    let auth = settings(builder).build(|_: Secrets, context: BuildContext| async move {
        Ok::<_, BuildError>(context.key_ring("AUTH_SECRET")?)
    });
    let ring = ring_text(&auth.get().await.unwrap());
    (ring, log, auth)
}

const LEAKED: &str = "leaked-7f3b9c2e81d04a56-leaked-QpZm";
const CIPHERTEXT: &str = "encrypted:BDqDBibm4wsYqMpVkAFNLpHk4bwjWGhZ";

fn refused() -> RefuseList {
    RefuseList::parse(LEAKED.as_bytes()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn previous_version_that_the_rules_refuse_does_not_verify() {
    for (value, reason) in [
        ("changeme", "example"),
        ("short", "at least 32"),
        ("dev-secret-$(openssl rand -hex 32)", "not expanded"),
        (LEAKED, "refuse list"),
        (CIPHERTEXT, "encrypted by dotenvx"),
    ] {
        let list = |builder: LazyAuthBuilder| builder.refuse_list(refused());
        let (ring, log, auth) = started_after(value, false, list).await;
        assert_eq!(ring, both(), "{value}");
        assert_eq!(auth.state(), incomplete(1), "{value}");
        // It would have verified for 2,000 s after `SECOND` was active.
        pass(secs(1800)).await;
        assert_eq!(auth.state().history(), Some(VersionHistory::Incomplete));
        pass(secs(400)).await;
        assert_eq!(ring_text(&auth.get().await.unwrap()), newest());
        assert_eq!(auth.state().history(), Some(VersionHistory::Complete));
        let lines = log.lines_with("event=previous_version_refused");
        let [line] = &lines[..] else {
            panic!("{value}: {}", log.text())
        };
        for part in ["key=AUTH_SECRET", "version=2", reason] {
            assert!(line.contains(part), "{line}");
        }
        assert!(!log.contains(value), "{value}");
    }
}

#[tokio::test(start_paused = true)]
async fn previous_version_that_the_settings_accept_verifies() {
    type Settings = fn(LazyAuthBuilder) -> LazyAuthBuilder;
    let development: Settings = |builder| builder.mode(Mode::Development);
    let unchecked: Settings = |builder| {
        let builder = builder.secret_policy("AUTH_SECRET", SecretPolicy::Unchecked);
        builder.unwrap()
    };
    let default: Settings = |builder| builder;
    for (value, accepts_encrypted, settings) in [
        ("changeme", false, development),
        ("changeme", false, unchecked),
        (LEAKED, false, default),
        (CIPHERTEXT, true, default),
    ] {
        let (ring, log, auth) = started_after(value, accepts_encrypted, settings).await;
        assert_eq!(ring.1, format!("{SECOND},{value},{FIRST}"));
        assert_eq!(auth.state(), ready(1));
        let lines = log.lines_with("event=previous_version_refused");
        assert!(lines.is_empty(), "{lines:?}");
    }
    // No source returns a ciphertext by accident.
    for settings in [development, unchecked] {
        let (ring, _, _) = started_after(CIPHERTEXT, false, settings).await;
        assert_eq!(ring, both());
    }
}

#[tokio::test(start_paused = true)]
async fn previous_versions_of_other_secrets_are_not_reported() {
    let log = CanaryLog::install();
    let source = Scripted::new(Reports::Times);
    for (key, ages) in [("AUTH_SECRET", [500, 100]), ("password", [500, 100])] {
        source.write(key, "changeme", secs(ages[0]));
        source.write(key, SECOND, secs(ages[1]));
    }
    #[derive(Deserialize)]
    #[expect(dead_code, reason = "the builder takes the ring")]
    struct Both {
        #[serde(rename = "AUTH_SECRET")]
        auth_secret: SecretString,
        password: SecretString,
    }
    let auth = LazyAuth::new(
        Resolver::new(source),
        |_: Both, context: BuildContext| async move { Ok(context.key_ring("AUTH_SECRET")?) },
    );
    assert_eq!(ring_text(&auth.get().await.unwrap()), newest());
    let lines = log.lines_with("event=previous_version_refused");
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains("key=AUTH_SECRET"), "{lines:?}");
}
