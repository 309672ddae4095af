//! Processes that are paused for a while, such as a Lambda function between two invocations, and machines that are
//! suspended. The first reader afterwards gets the newest secret.

use secretwell_resolver::clock::suspend;

use super::*;

/// Longer than the ttl of the fixture.
const PAUSE: Duration = secs(3600);
/// A reader with a build waits for at most this time.
const MAX_WAIT: Duration = secs(1);

/// A fixture whose source has no change notifications.
async fn polled() -> Fixture {
    let (_, faulty) = faulty_source(&[("AUTH_SECRET", FIRST), ("AUTH_URL", "x")]);
    let fixture = fixture_of(faulty, |builder| builder);
    fixture.auth.get().await.unwrap();
    fixture
}

/// Pauses the process. Its timers fire before a reader runs.
async fn pause() {
    tokio::time::advance(PAUSE).await;
    settle().await;
}

#[tokio::test(start_paused = true)]
async fn first_reader_after_a_pause_gets_the_rotated_secret() {
    let fixture = polled().await;
    for secret in [SECOND, "the third secret, thirty-two bytes or more"] {
        // The read, and the end of a grace period, happen at the same time.
        let delay = Action::Delay(Duration::from_millis(100));
        fixture.faulty.always(delay);
        fixture.memory.set("AUTH_SECRET", secret).unwrap();
        let calls = fixture.faulty.calls();
        pause().await;
        let started = Instant::now();
        assert_eq!(fixture.auth.get().await.unwrap().secret, secret);
        assert!(started.elapsed() < MAX_WAIT, "{:?}", started.elapsed());
        assert_eq!(fixture.faulty.calls(), calls + 1);
    }
}

#[tokio::test(start_paused = true)]
async fn pause_during_an_attempt_does_not_hide_a_rotation() {
    let fixture = polled().await;
    fixture.faulty.push(Action::Hang);
    // The refresh hangs, and a rebuild waits for it.
    let rebuild = tokio::spawn({
        let auth = fixture.auth.clone();
        async move { auth.rebuild().await.map(drop) }
    });
    settle().await;
    fixture.memory.set("AUTH_SECRET", SECOND).unwrap();
    pause().await;
    assert_eq!(fixture.auth.get().await.unwrap().secret, SECOND);
    let _ = rebuild.await;
}

#[tokio::test(start_paused = true)]
async fn source_that_does_not_respond_after_a_pause_delays_a_reader_for_a_second() {
    let fixture = polled().await;
    for action in [Action::Hang, Action::Fail(down())] {
        fixture.faulty.always(action);
        pause().await;
        let started = Instant::now();
        assert_eq!(fixture.auth.get().await.unwrap().secret, FIRST);
        assert!(started.elapsed() <= MAX_WAIT, "{:?}", started.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn task_follows_a_rotation_after_a_pause_without_a_reader() {
    let fixture = polled().await;
    fixture.memory.set("AUTH_SECRET", SECOND).unwrap();
    let calls = fixture.faulty.calls();
    pause().await;
    pass(secs(2)).await;
    assert_eq!(fixture.auth.state(), ready(2));
    assert_eq!(fixture.faulty.calls(), calls + 1);
    assert_eq!(fixture.secret(), SECOND);
}

#[tokio::test(start_paused = true)]
async fn repeated_pauses_neither_build_nor_read_without_need() {
    let fixture = polled().await;
    for _ in 0..20 {
        // Longer than the task promises, and shorter than the ttl.
        tokio::time::advance(secs(15)).await;
        settle().await;
        assert_eq!(fixture.auth.get().await.unwrap().secret, FIRST);
    }
    // 300 s with a ttl of 100 s.
    let calls = fixture.faulty.calls();
    assert!((3..=6).contains(&calls), "{calls}");
    assert_eq!(fixture.builds(), 1);
}

#[tokio::test(start_paused = true)]
async fn first_reader_after_a_suspension_gets_the_rotated_secret() {
    let fixture = polled().await;
    let mut reader = fixture.auth.reader().unwrap();
    fixture.memory.set("AUTH_SECRET", SECOND).unwrap();
    // No timer fires, because tokio's clock stands still.
    suspend(PAUSE);
    let started = Instant::now();
    assert_eq!(fixture.auth.get().await.unwrap().secret, SECOND);
    assert!(started.elapsed() < MAX_WAIT, "{:?}", started.elapsed());
    assert_eq!(reader.get().secret, SECOND);
}

#[tokio::test(start_paused = true)]
async fn task_notices_a_suspension_without_a_reader() {
    let fixture = polled().await;
    fixture.memory.set("AUTH_SECRET", SECOND).unwrap();
    suspend(PAUSE);
    // The longest heartbeat.
    pass(secs(6)).await;
    assert_eq!(fixture.secret(), SECOND);
}
