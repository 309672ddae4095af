//! Grace periods end, secrets become active, and revocation times apply, although the source or another
//! secret fails.

use super::scripted::{Reports, Scripted};
use super::*;

const REVOKED_AT: &str = "AUTH_SECRET_REVOKED_AT";

#[derive(Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
struct WithDatabase {
    #[expect(dead_code, reason = "the build uses its key ring")]
    auth_secret: SecretString,
    #[expect(dead_code, reason = "only its absence matters")]
    database_url: SecretString,
}

/// An auth whose rings have an activation delay of 10 s and a grace period of 60 s. It has seen the rotation
/// from `FIRST` to `SECOND`.
async fn rotated() -> (Scripted, FaultyProvider<Scripted>, LazyAuth<KeyRing>) {
    let source = Scripted::new(Reports::Times);
    source.write("AUTH_SECRET", FIRST, secs(10_000));
    source.write("DATABASE_URL", "password", secs(10_000));
    let faulty = FaultyProvider::new(source.clone());
    let resolver = Resolver::builder(faulty.clone())
        .ttl(secs(5))
        .max_stale(secs(10))
        .build();
    let auth = LazyAuth::builder(resolver)
        .mode(Mode::Production)
        .activation_delay(secs(10))
        .grace_period(secs(60))
        .revocation_key(REVOKED_AT)
        .unwrap()
        .build(|_: WithDatabase, context: BuildContext| async move {
            Ok::<_, BuildError>(context.key_ring("AUTH_SECRET")?)
        });
    auth.get().await.unwrap();
    source.write("AUTH_SECRET", SECOND, secs(0));
    auth.rebuild().await.unwrap();
    assert_ring(&auth, FIRST, &[SECOND, FIRST]);
    (source, faulty, auth)
}

fn assert_ring(auth: &LazyAuth<KeyRing>, primary: &str, all: &[&str]) {
    let ring = ring_text(&auth.peek().unwrap());
    assert_eq!(ring, (primary.to_owned(), all.join(",")));
}

#[tokio::test(start_paused = true)]
async fn rings_follow_the_time_while_the_source_fails() {
    for fault in [
        Action::Fail(down()),
        Action::Fail(denied()),
        Action::Hang,
        Action::Panic,
    ] {
        let (_, faulty, auth) = rotated().await;
        faulty.always(fault.clone());
        pass(secs(11)).await;
        assert_ring(&auth, SECOND, &[SECOND, FIRST]);
        pass(secs(57)).await;
        assert_ring(&auth, SECOND, &[SECOND, FIRST]);
        pass(secs(3)).await;
        assert_ring(&auth, SECOND, &[SECOND]);
        assert_eq!(auth.state().name(), "degraded", "{fault:?}");
        faulty.clear_faults();
        pass(secs(60)).await;
        assert_eq!(auth.state().name(), "ready", "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn rings_follow_the_time_during_forced_reads_of_a_hanging_source() {
    let (_, faulty, auth) = rotated().await;
    faulty.always(Action::Hang);
    let start = Instant::now();
    while start.elapsed() < secs(71) {
        let rebuild = tokio::time::timeout(Duration::from_millis(500), auth.rebuild());
        let rebuilt = rebuild.await.is_ok_and(|rebuilt| rebuilt.is_ok());
        assert!(!rebuilt, "the source hangs");
    }
    assert_ring(&auth, SECOND, &[SECOND]);
}

#[tokio::test(start_paused = true)]
async fn rings_follow_the_time_while_another_secret_is_invalid() {
    let (source, _, auth) = rotated().await;
    source.write("DATABASE_URL", "", secs(0));
    pass(secs(11)).await;
    assert_ring(&auth, SECOND, &[SECOND, FIRST]);
    pass(secs(60)).await;
    assert_ring(&auth, SECOND, &[SECOND]);
    let State::Degraded { failure, .. } = auth.state() else {
        panic!("{:?}", auth.state())
    };
    assert!(failure.to_string().contains("DATABASE_URL"), "{failure}");
    source.write("DATABASE_URL", "password", secs(0));
    pass(secs(60)).await;
    assert_eq!(auth.state().name(), "ready");
}

#[tokio::test(start_paused = true)]
async fn revocation_time_applies_while_another_secret_is_invalid() {
    let (source, _, auth) = rotated().await;
    source.write("DATABASE_URL", "", secs(0));
    pass(secs(20)).await;
    assert_ring(&auth, SECOND, &[SECOND, FIRST]);
    let now = std::time::SystemTime::now();
    let seconds = now.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    source.write(REVOKED_AT, &(seconds + 1).to_string(), secs(0));
    pass(secs(10)).await;
    assert_ring(&auth, SECOND, &[SECOND]);
    assert_eq!(auth.state().name(), "degraded");
}

#[tokio::test(start_paused = true)]
async fn rings_follow_the_time_after_the_resolver_was_closed() {
    let (_, _, auth) = rotated().await;
    pass(secs(2)).await;
    auth.resolver().close().await;
    pass(secs(2)).await;
    let start = Instant::now();
    let failure = auth.rebuild().await.unwrap_err();
    assert!(failure.to_string().contains("closed"), "{failure}");
    assert_eq!(start.elapsed(), secs(0));
    pass(secs(11)).await;
    assert_ring(&auth, SECOND, &[SECOND, FIRST]);
    let revoked = auth.revoke_previous().await.unwrap();
    assert_eq!(ring_text(&revoked), (SECOND.into(), SECOND.into()));
}

#[tokio::test(start_paused = true)]
async fn revocations_in_a_loop_are_confirmed() {
    let source = Scripted::new(Reports::Times);
    source.write("AUTH_SECRET", FIRST, secs(10_000));
    source.write("DATABASE_URL", "password", secs(10_000));
    let faulty = FaultyProvider::new(source.clone());
    let resolver = Resolver::builder(faulty.clone()).ttl(secs(10)).build();
    let auth = LazyAuth::builder(resolver).mode(Mode::Production).build(
        |_: WithDatabase, context: BuildContext| async move {
            Ok::<_, BuildError>(context.key_ring("AUTH_SECRET")?)
        },
    );
    auth.get().await.unwrap();
    source.write("AUTH_SECRET", SECOND, secs(0));
    faulty.always(Action::Delay(Duration::from_millis(300)));
    let start = Instant::now();
    while start.elapsed() < secs(2) {
        let call = tokio::time::timeout(Duration::from_millis(100), auth.revoke_previous());
        assert!(call.await.is_err());
    }
    assert_ring(&auth, SECOND, &[SECOND]);
    let confirmed = auth.revoke_previous().await.unwrap();
    assert_eq!(ring_text(&confirmed), (SECOND.into(), SECOND.into()));
}
