//! `report_rejected`: another service has rejected the credentials of a build.

use secretwell::SecretValue;
use tokio::task::JoinSet;

use super::*;

/// Reports the current build. Returns the secret of the newer build.
async fn report(fixture: &Fixture) -> Option<String> {
    let used = Guard::generation(&fixture.auth.peek().unwrap());
    let newer = fixture.auth.report_rejected(used).await?;
    assert!(Guard::generation(&newer) > used);
    Some(newer.secret.clone())
}

async fn report_many(fixture: &Fixture, connections: usize) -> Vec<Option<String>> {
    let mut callers = JoinSet::new();
    let used = Guard::generation(&fixture.auth.peek().unwrap());
    for _ in 0..connections {
        let auth = fixture.auth.clone();
        callers.spawn(async move {
            let newer = auth.report_rejected(used).await;
            newer.map(|newer| newer.secret.clone())
        });
    }
    callers.join_all().await
}

/// Writes each secret, asserts that a report of the previous one returns it, and waits for as many seconds.
async fn assert_used_at_once(fixture: &Fixture, secrets: &[(&str, u64)]) {
    for &(secret, pause) in secrets {
        fixture.memory.set("AUTH_SECRET", secret).unwrap();
        assert_eq!(report(fixture).await.as_deref(), Some(secret));
        pass(secs(pause)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn rejected_secret_is_discarded_and_the_new_one_is_used() {
    let fixture = polled(secs(5));
    fixture.auth.get().await.unwrap();
    fixture.memory.set("AUTH_SECRET", SECOND).unwrap();
    let start = Instant::now();
    assert_eq!(report(&fixture).await.as_deref(), Some(SECOND));
    assert!(start.elapsed() < secs(1));
    assert_eq!((fixture.builds(), reads(&fixture)), (2, 2));
    let rejected = (key("AUTH_SECRET"), Some(SecretValue::from(FIRST)));
    assert_eq!(fixture.faulty.discarded(), [rejected]);

    // A connection of the first build gets the second one without another read.
    let newer = fixture.auth.report_rejected(1).await.unwrap();
    assert_eq!((Guard::generation(&newer), reads(&fixture)), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn connections_share_one_read_and_one_build() {
    let fixture = polled(secs(5));
    fixture.auth.get().await.unwrap();
    fixture.memory.set("AUTH_SECRET", SECOND).unwrap();
    fixture.faulty.always(Action::Delay(secs(2)));
    let newer = report_many(&fixture, 1000).await;
    assert!(newer.iter().all(|newer| newer.as_deref() == Some(SECOND)));
    assert_eq!((fixture.builds(), reads(&fixture)), (2, 2));
}

/// A database that rejects every login must not cause a new lease for each connection.
#[tokio::test(start_paused = true)]
async fn service_that_rejects_valid_credentials_costs_fewer_and_fewer_reads() {
    let fixture = polled(secs(5));
    fixture.auth.get().await.unwrap();
    let mut expected = 0;
    for interval in [1, 2, 4, 8, 16, 32, 60, 60].map(secs) {
        expected += 1;
        let start = Instant::now();
        for _ in 0..4 {
            let newer = report_many(&fixture, 1000).await;
            assert!(newer.iter().all(Option::is_none));
            assert_eq!(fixture.faulty.discarded().len(), expected, "{interval:?}");
            pass(interval / 5).await;
        }
        pass(interval - start.elapsed()).await;
    }
    assert_eq!((fixture.builds(), fixture.auth.state()), (1, ready(1)));
}

/// Somebody revokes a login, and then the next one as well.
#[tokio::test(start_paused = true)]
async fn second_rotation_is_not_delayed_by_the_first_one() {
    let fixture = polled(secs(5));
    fixture.auth.get().await.unwrap();
    assert_used_at_once(
        &fixture,
        &[(SECOND, 3), (FIRST, 5), (SECOND, 3), (FIRST, 1)],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn rotation_after_an_outage_is_not_delayed() {
    let fixture = polled(secs(5));
    fixture.auth.get().await.unwrap();
    fixture.faulty.always(Action::Fail(down()));
    for _ in 0..30 {
        assert_eq!(report(&fixture).await, None);
        pass(secs(1)).await;
    }
    fixture.faulty.clear_faults();
    fixture.memory.set("AUTH_SECRET", SECOND).unwrap();
    pass(secs(30)).await;
    assert_eq!(fixture.secret(), SECOND);
    assert_used_at_once(&fixture, &[(FIRST, 2), (SECOND, 2)]).await;
}

/// A read because of a forged request does not use up the read because of a rejected login, although the
/// resolver reads a key at most once in a second.
#[tokio::test(start_paused = true)]
async fn forged_requests_do_not_delay_a_report() {
    let fixture = polled(secs(5));
    fixture.auth.get().await.unwrap();
    assert!(fixture.auth.refresh_if_used(1).await.is_none());
    fixture.memory.set("AUTH_SECRET", SECOND).unwrap();
    let start = Instant::now();
    assert_eq!(report(&fixture).await.as_deref(), Some(SECOND));
    assert!(start.elapsed() < secs(2), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn source_that_is_down_keeps_the_build() {
    let fixture = polled(secs(5));
    fixture.auth.get().await.unwrap();
    fixture.faulty.always(Action::Fail(down()));
    let start = Instant::now();
    assert_eq!(report(&fixture).await, None);
    assert!(start.elapsed() < secs(5), "{:?}", start.elapsed());
    assert_eq!(fixture.secret(), FIRST);

    // After the outage, the report is made again.
    fixture.faulty.clear_faults();
    fixture.memory.set("AUTH_SECRET", SECOND).unwrap();
    pass(secs(30)).await;
    let _ = report(&fixture).await;
    assert_eq!(fixture.secret(), SECOND);
}

#[tokio::test(start_paused = true)]
async fn cancelled_report_does_not_cancel_the_read() {
    let fixture = polled(secs(5));
    fixture.auth.get().await.unwrap();
    fixture.memory.set("AUTH_SECRET", SECOND).unwrap();
    fixture.faulty.push(Action::Delay(secs(2)));
    let first = tokio::spawn({
        let auth = fixture.auth.clone();
        async move { auth.report_rejected(1).await.is_some() }
    });
    settle().await;
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    assert_eq!(report(&fixture).await.as_deref(), Some(SECOND));
    assert_eq!((fixture.builds(), reads(&fixture)), (2, 2));
}

/// A user and a password that are used together are also read together. No build has one of each.
#[tokio::test(start_paused = true)]
async fn user_and_password_are_read_in_one_batch() {
    #[derive(serde::Deserialize)]
    struct Login {
        username: String,
        password: SecretString,
    }

    let login = |number: usize| {
        [
            ("username", format!("user-{number}")),
            ("password", format!("a password of user-{number}")),
        ]
    };
    let memory = MemoryProvider::from_iter(login(1));
    let faulty = FaultyProvider::new(memory.clone()).with_capabilities(Capabilities::none());
    let resolver = Resolver::new(faulty.clone());
    let auth = LazyAuth::new(resolver, |login: Login, _| async move {
        assert!(login.password.expose_secret().ends_with(&login.username));
        Ok(login)
    });
    auth.get().await.unwrap();
    for number in 2..=5 {
        for (key, value) in login(number) {
            memory.set(key, value).unwrap();
        }
        let used = Guard::generation(&auth.peek().unwrap());
        let newer = auth.report_rejected(used).await.unwrap();
        assert_eq!(newer.username, format!("user-{number}"));
        assert_eq!(Guard::generation(&newer), used + 1);
        pass(secs(3)).await;
    }
    assert!(faulty.batches().iter().all(|keys| keys.len() == 2));
}
