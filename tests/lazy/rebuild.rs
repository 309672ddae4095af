//! Rebuilds of `LazyAuth`: after a rotation, after an outage, and on request.

use super::*;

#[tokio::test(start_paused = true)]
async fn new_secret_verifies_immediately_and_signs_after_the_activation_delay() {
    let fixture = fixture(&[("AUTH_SECRET", FIRST)]);
    fixture.auth.get().await.unwrap();
    let (mut reader, start) = (fixture.auth.reader().unwrap(), Instant::now());
    fixture.memory.set("AUTH_SECRET", SECOND).unwrap();
    let mut states = fixture.auth.watch_state();
    states.wait_for(|state| *state == ready(2)).await.unwrap();
    assert!(start.elapsed() < secs(1));
    assert_eq!(reader.get().ring(), (FIRST, vec![SECOND, FIRST]));
    states.wait_for(|state| *state == ready(3)).await.unwrap();
    assert_eq!(start.elapsed().as_secs(), 10);
    assert_eq!(reader.get().ring(), (SECOND, vec![SECOND, FIRST]));
    states.wait_for(|state| *state == ready(4)).await.unwrap();
    assert_eq!(start.elapsed().as_secs(), 70);
    assert_eq!(reader.get().ring(), (SECOND, vec![SECOND]));
    pass(secs(1000)).await;
    assert_eq!(
        fixture.builds(),
        4,
        "no further build after the grace period"
    );
    assert_eq!(
        fixture.auth.with(|built| built.secret.clone()).as_deref(),
        Some(SECOND)
    );
}

#[tokio::test(start_paused = true)]
async fn new_version_with_an_equal_value_does_not_rebuild() {
    let fixture = fixture(&[("AUTH_SECRET", FIRST)]);
    fixture.auth.get().await.unwrap();
    fixture.memory.set("AUTH_SECRET", FIRST).unwrap();
    pass(secs(500)).await;
    assert_eq!((fixture.builds(), fixture.auth.state()), (1, ready(1)));
}

#[tokio::test(start_paused = true)]
async fn invalid_new_secret_keeps_the_current_build_until_it_is_corrected() {
    let fixture = fixture(&[("AUTH_SECRET", FIRST)]);
    fixture.auth.get().await.unwrap();
    for (invalid, reason) in [
        ("", "empty"),
        ("short", "too weak: 5 bytes"),
        ("changeme", "example text"),
        (
            "reject, thirty-two bytes or more of it",
            "the builder failed",
        ),
        ("panic, thirty-two bytes or more of it", "panicked"),
    ] {
        fixture.memory.set("AUTH_SECRET", invalid).unwrap();
        let mut states = fixture.auth.watch_state();
        let degraded = states
            .wait_for(|state| match state {
                State::Degraded { failure, .. } => failure.to_string().contains(reason),
                _ => false,
            })
            .await
            .unwrap();
        assert_eq!(degraded.generation(), Some(1), "{reason}");
        assert_eq!(fixture.secret(), FIRST);
        pass(secs(1)).await;
    }
    fixture.memory.remove("AUTH_SECRET").unwrap();
    pass(secs(2)).await;
    assert!(matches!(fixture.auth.state(), State::Degraded { .. }));
    assert!(fixture.auth.get().await.is_ok());
    // The first secret again does not cause a build.
    let builds = fixture.builds();
    fixture.memory.set("AUTH_SECRET", FIRST).unwrap();
    fixture
        .auth
        .watch_state()
        .wait_for(|state| *state == ready(1))
        .await
        .unwrap();
    assert_eq!(fixture.builds(), builds);
}

#[tokio::test(start_paused = true)]
async fn outage_degrades_the_state_and_recovery_restores_it() {
    let fixture = fixture(&[("AUTH_SECRET", FIRST)]);
    fixture.auth.get().await.unwrap();
    fixture.faulty.always(Action::Fail(down()));
    pass(secs(99)).await;
    assert_eq!(fixture.auth.state(), ready(1), "within the ttl");
    pass(secs(5)).await;
    let State::Degraded { failure, .. } = fixture.auth.state() else {
        panic!("{:?}", fixture.auth.state())
    };
    assert!(failure.is_temporary());
    assert!(fixture.auth.get().await.is_ok());
    fixture.faulty.clear_faults();
    // The outage has lasted for 104 s, so the next retry is due after an eighth of that time.
    pass(secs(15)).await;
    assert_eq!((fixture.auth.state(), fixture.builds()), (ready(1), 1));
}

#[tokio::test(start_paused = true)]
async fn rebuild_reads_again_and_builds_from_unchanged_secrets() {
    let fixture = fixture(&[("AUTH_SECRET", FIRST)]);
    fixture.auth.get().await.unwrap();
    let calls = fixture.faulty.calls();
    assert_eq!(Guard::generation(&fixture.auth.rebuild().await.unwrap()), 2);
    assert_eq!((fixture.builds(), fixture.faulty.calls()), (2, calls + 1));
    pass(secs(2)).await;
    fixture.faulty.always(Action::Fail(secretwell::Error::new(
        ErrorKind::Denied,
        "no",
    )));
    assert!(fixture.auth.rebuild().await.is_err());
    assert!(
        fixture.auth.get().await.is_ok(),
        "the current build stays in use"
    );
}

#[tokio::test(start_paused = true)]
async fn rebuild_uses_a_newly_written_secret_and_reads_at_most_once_per_second() {
    // Without change notifications, only `rebuild` and the ttl cause reads.
    let (memory, faulty) = faulty_source(&[("AUTH_SECRET", FIRST)]);
    let resolver = Resolver::builder(faulty.clone()).ttl(secs(100)).build();
    let auth = LazyAuth::infallible(resolver, |secrets: Secrets, _| {
        secrets.auth_secret.expose_secret().to_owned()
    });
    auth.rebuild().await.unwrap();
    memory.set("AUTH_SECRET", SECOND).unwrap();
    let start = Instant::now();
    assert_eq!(*auth.rebuild().await.unwrap(), SECOND);
    assert!(start.elapsed() <= secs(1), "{:?}", start.elapsed());

    // The absent AUTH_URL is read more often, so only reads of AUTH_SECRET are counted.
    let reads = || {
        let secret = key("AUTH_SECRET");
        let batches = faulty.batches();
        batches.iter().filter(|keys| keys.contains(&secret)).count()
    };
    let (start, before) = (Instant::now(), reads());
    for _ in 0..5 {
        let mut callers = tokio::task::JoinSet::new();
        for _ in 0..20 {
            let auth = auth.clone();
            callers.spawn(async move { auth.rebuild().await.map(drop) });
        }
        assert!(callers.join_all().await.iter().all(Result::is_ok));
    }
    let (reads, seconds) = (reads() - before, start.elapsed().as_secs());
    assert!(
        reads > 0 && reads as u64 <= seconds + 1,
        "{reads} reads in {seconds} s"
    );
}
