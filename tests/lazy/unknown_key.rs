//! `refresh_if_used`: the read of the secrets because of a request with an unknown key.

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use secretwell::Error;
use tokio::task::JoinSet;

use super::*;

/// The time between two reads because of unknown keys.
const INTERVAL: Duration = secs(10);

/// Refreshes because of a request to the current build. Returns the secret of the newer build.
async fn refresh(fixture: &Fixture) -> Option<String> {
    let used = Guard::generation(&fixture.auth.peek().unwrap());
    let newer = fixture.auth.refresh_if_used(used).await?;
    assert!(Guard::generation(&newer) > used);
    Some(newer.secret.clone())
}

/// Refreshes because of a number of concurrent requests to the current build.
async fn refresh_many(fixture: &Fixture, requests: usize) -> Vec<Option<String>> {
    let mut callers = JoinSet::new();
    let used = Guard::generation(&fixture.auth.peek().unwrap());
    for _ in 0..requests {
        let auth = fixture.auth.clone();
        callers.spawn(async move {
            let newer = auth.refresh_if_used(used).await;
            newer.map(|newer| newer.secret.clone())
        });
    }
    callers.join_all().await
}

#[tokio::test(start_paused = true)]
async fn new_secret_is_used_before_its_ttl_ends() {
    let fixture = polled(secs(5));
    fixture.auth.get().await.unwrap();
    fixture.memory.set("AUTH_SECRET", SECOND).unwrap();
    let start = Instant::now();
    assert_eq!(refresh(&fixture).await.as_deref(), Some(SECOND));
    assert!(start.elapsed() < secs(1));
    assert_eq!((fixture.builds(), reads(&fixture)), (2, 2));
    assert!(fixture.faulty.discarded().is_empty(), "leases are kept");

    // A request that has used the first build gets the second one without another read.
    let newer = fixture.auth.refresh_if_used(1).await.unwrap();
    assert_eq!((Guard::generation(&newer), reads(&fixture)), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn forged_requests_cost_one_read_in_each_interval_and_no_build() {
    let fixture = polled(secs(5));
    fixture.auth.get().await.unwrap();
    for interval in 1..=3 {
        for _ in 0..3 {
            let newer = refresh_many(&fixture, 1000).await;
            assert!(newer.iter().all(Option::is_none));
            assert_eq!(reads(&fixture), 1 + interval);
            pass(INTERVAL / 4).await;
        }
        pass(INTERVAL / 4).await;
    }
    assert_eq!((fixture.builds(), fixture.auth.state()), (1, ready(1)));
}

#[tokio::test(start_paused = true)]
async fn concurrent_requests_share_one_read_and_one_build() {
    let fixture = polled(secs(5));
    fixture.auth.get().await.unwrap();
    fixture.memory.set("AUTH_SECRET", SECOND).unwrap();
    fixture.faulty.always(Action::Delay(secs(2)));
    let newer = refresh_many(&fixture, 1000).await;
    assert!(newer.iter().all(|newer| newer.as_deref() == Some(SECOND)));
    assert_eq!((fixture.builds(), reads(&fixture)), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn cancelled_request_does_not_cancel_the_read_of_the_others() {
    let fixture = polled(secs(5));
    fixture.auth.get().await.unwrap();
    fixture.memory.set("AUTH_SECRET", SECOND).unwrap();
    fixture.faulty.push(Action::Delay(secs(2)));
    let first = tokio::spawn({
        let auth = fixture.auth.clone();
        async move { auth.refresh_if_used(1).await.is_some() }
    });
    settle().await;
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    assert_eq!(refresh(&fixture).await.as_deref(), Some(SECOND));
    assert_eq!((fixture.builds(), reads(&fixture)), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn source_that_fails_is_not_read_more_often_and_requests_do_not_wait() {
    for error in [
        down().with_retry_after(secs(90)),
        Error::new(
            ErrorKind::RateLimited {
                retry_after: Some(secs(90)),
            },
            "slow down",
        ),
    ] {
        let fixture = polled(secs(5));
        fixture.auth.get().await.unwrap();
        fixture.faulty.always(Action::Fail(error));
        let start = Instant::now();
        for _ in 0..16 {
            assert_eq!(refresh(&fixture).await, None);
            pass(secs(5)).await;
        }
        assert_eq!(start.elapsed().as_secs(), 80, "requests do not wait");
        assert_eq!(reads(&fixture), 2, "the source requested a wait");
        assert!(fixture.auth.get().await.is_ok());
        assert_eq!(fixture.builds(), 1);

        // After the outage, the new secret is found again.
        fixture.faulty.clear_faults();
        fixture.memory.set("AUTH_SECRET", SECOND).unwrap();
        pass(secs(30)).await;
        let _ = refresh(&fixture).await;
        assert_eq!(fixture.secret(), SECOND);
    }
}

#[tokio::test(start_paused = true)]
async fn source_that_hangs_delays_unknown_keys_until_the_deadline_and_nobody_else() {
    let fixture = polled(secs(5));
    fixture.auth.get().await.unwrap();
    fixture.faulty.always(Action::Hang);
    let start = Instant::now();
    let refreshes = refresh_many(&fixture, 10);
    let others = async {
        settle().await;
        for _ in 0..10 {
            assert_eq!(fixture.auth.get().await.unwrap().secret, FIRST);
        }
        assert_eq!(start.elapsed(), Duration::ZERO);
    };
    let (newer, ()) = tokio::join!(refreshes, others);
    assert!(newer.iter().all(Option::is_none));
    assert_eq!(start.elapsed().as_secs(), 5);
    assert_eq!(reads(&fixture), 2);
}

#[tokio::test(start_paused = true)]
async fn secret_that_cannot_be_used_ends_the_wait() {
    for invalid in ["short", "reject, thirty-two bytes or more of it"] {
        let fixture = polled(secs(600));
        fixture.auth.get().await.unwrap();
        fixture.memory.set("AUTH_SECRET", invalid).unwrap();
        let start = Instant::now();
        assert_eq!(refresh(&fixture).await, None);
        assert!(start.elapsed() < secs(2), "{invalid}");
        assert_eq!(fixture.secret(), FIRST);
    }
}

/// The results of a read are compared for a while after it, also with a build from a later read.
#[tokio::test(start_paused = true)]
async fn secret_that_was_rotated_after_the_read_delays_no_request() {
    let fixture = polled(secs(600));
    fixture.auth.get().await.unwrap();
    fixture.memory.set("AUTH_SECRET", SECOND).unwrap();
    assert_eq!(refresh(&fixture).await.as_deref(), Some(SECOND));
    pass(secs(2)).await;
    let third = "the third secret, thirty-two bytes or more";
    fixture.memory.set("AUTH_SECRET", third).unwrap();
    fixture.auth.rebuild().await.unwrap();

    let start = Instant::now();
    assert_eq!(refresh(&fixture).await, None);
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert_eq!(fixture.secret(), third);
}

#[tokio::test(start_paused = true)]
async fn secret_that_remains_unusable_delays_no_later_request() {
    for invalid in ["short", "reject, thirty-two bytes or more of it"] {
        let fixture = polled(secs(600));
        fixture.auth.get().await.unwrap();
        fixture.memory.set("AUTH_SECRET", invalid).unwrap();
        for _ in 0..20 {
            let start = Instant::now();
            assert_eq!(refresh(&fixture).await, None);
            assert!(
                start.elapsed() < secs(2),
                "{invalid}: {:?}",
                start.elapsed()
            );
            pass(INTERVAL).await;
        }
        assert_eq!(fixture.secret(), FIRST);
        // The corrected secret is still found by a request.
        fixture.memory.set("AUTH_SECRET", SECOND).unwrap();
        pass(INTERVAL).await;
        let _ = refresh(&fixture).await;
        assert_eq!(fixture.secret(), SECOND);
    }
}

#[tokio::test(start_paused = true)]
async fn requests_to_a_build_that_is_newer_than_the_last_refresh_do_not_wait() {
    let fixture = polled(secs(600));
    fixture.auth.get().await.unwrap();
    assert_eq!(refresh(&fixture).await, None);
    fixture.memory.set("AUTH_SECRET", SECOND).unwrap();
    fixture.auth.rebuild().await.unwrap();
    let (start, reads_before) = (Instant::now(), reads(&fixture));
    assert!(
        refresh_many(&fixture, 100)
            .await
            .iter()
            .all(Option::is_none)
    );
    assert_eq!(
        (start.elapsed(), reads(&fixture)),
        (Duration::ZERO, reads_before)
    );
}

#[tokio::test(start_paused = true)]
async fn removed_secret_keeps_the_build_and_ends_the_wait() {
    let fixture = polled(secs(600));
    fixture.auth.get().await.unwrap();
    fixture.memory.remove("AUTH_SECRET").unwrap();
    let start = Instant::now();
    assert_eq!(refresh(&fixture).await, None);
    assert!(start.elapsed() < secs(2));
    assert_eq!(fixture.secret(), FIRST);
}

#[test]
fn without_a_runtime_or_after_its_end_the_key_stays_unknown() {
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    };
    let fixture = polled(secs(3600));
    let first = runtime();
    first.block_on(async { fixture.auth.get().await.unwrap() });
    fixture.faulty.push(Action::Hang);
    first.block_on(async {
        let refresh = fixture.auth.refresh_if_used(1);
        let timed = tokio::time::timeout(Duration::from_millis(10), refresh);
        assert!(timed.await.is_err(), "the source hangs");
    });

    // The wait of another runtime ends when the runtime of the read ends, not after an hour.
    let waiting = {
        let auth = fixture.auth.clone();
        std::thread::spawn(move || {
            runtime().block_on(async { auth.refresh_if_used(1).await.is_some() })
        })
    };
    drop(first);
    assert!(!waiting.join().unwrap());

    let mut refresh = pin!(fixture.auth.refresh_if_used(1));
    let polled = refresh
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()));
    assert!(matches!(polled, Poll::Ready(None)));
    let no_timer = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    assert!(no_timer.block_on(fixture.auth.refresh_if_used(1)).is_none());
}
