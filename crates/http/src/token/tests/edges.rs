//! Unusual lifetimes, and credentials that change or fail at an unusual time.

use super::*;

#[tokio::test(start_paused = true)]
async fn renewal_without_a_lifetime_extends_nothing() {
    let login = FakeLogin::new(Some(100), Ok(0));
    let manager = login.manager();
    let first = manager.token().await.unwrap();
    advance(75).await;
    assert_eq!((login.renewals(), login.logins()), (1, 1));
    let renewed = manager.token().await.unwrap();
    assert_eq!(renewed.expires(), first.expires());
    advance(20).await;
    assert_eq!(token_text(&manager).await, "token 2");
    assert_eq!((login.renewals(), login.logins()), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn remaining_lifetime_counts_from_the_call_or_from_the_later_login() {
    let called = Instant::now();
    advance(5).await;
    let token = FakeLogin::new(Some(100), Ok(0)).manager().token().await;
    let token = token.unwrap();
    assert_eq!(token.remaining(called), Some(Duration::from_secs(100)));
    let later = called + Duration::from_secs(15);
    assert_eq!(token.remaining(later), Some(Duration::from_secs(90)));
    let endless = FakeLogin::new(None, Ok(0)).manager().token().await;
    assert_eq!(endless.unwrap().remaining(later), None);
}

#[tokio::test(start_paused = true)]
async fn huge_lifetimes_mean_no_expiry() {
    for (lifetime, renewal) in [(u64::MAX, 60), (100, u64::MAX)] {
        let login = FakeLogin::new(Some(lifetime), Ok(renewal));
        let manager = login.manager();
        manager.token().await.unwrap();
        advance(1000).await;
        let token = manager.token().await.unwrap();
        assert_eq!((token.expires(), login.logins()), (None, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn credential_that_changes_during_its_refusal_is_used_at_once() {
    let login = FakeLogin::new(Some(60), Ok(60));
    *login.0.replacement.lock().unwrap() = Some("two".into());
    login.0.is_static.store(true, Ordering::SeqCst);
    let manager = login.manager();
    assert_eq!(token_text(&manager).await, "two");
    assert_eq!(login.logins(), 2);
}

#[tokio::test(start_paused = true)]
async fn configured_token_keeps_its_expiry_if_it_is_read_again_unchanged() {
    let login = FakeLogin::new(None, Err(ErrorKind::Unauthenticated));
    login.0.is_static.store(true, Ordering::SeqCst);
    *login.0.lookup.lock().unwrap() = Some(Ok(100));
    let manager = login.manager();
    let token = manager.token().await.unwrap();
    manager.accepted(&token);
    advance(5).await;
    let described = manager.token().await.unwrap();
    assert!(described.expires().is_some());
    advance(90).await;
    let late = manager.token().await.unwrap();
    assert_eq!(late.expires(), described.expires());
    assert!(login.logins() > 1, "it was read again");
    assert!(login.logins() < 12, "{} logins", login.logins());

    *login.0.credential.lock().unwrap() = "two".into();
    advance(10).await;
    assert_eq!(token_text(&manager).await, "two");
}

/// A login whose first one succeeds. All others panic.
#[derive(Debug, Default)]
struct Panicking(Arc<AtomicUsize>);

#[async_trait]
impl Login for Panicking {
    async fn credential(&self) -> Result<SecretValue, Error> {
        let number = self.0.fetch_add(1, Ordering::SeqCst);
        assert_eq!(number, 0, "a defect in the code of a user");
        Ok("one".into())
    }

    async fn login(&self, credential: &SecretValue) -> Result<TokenLease, LoginFailure> {
        let mut lease = TokenLease::new(credential.clone());
        lease.lifetime = Some(Duration::from_secs(1000));
        Ok(lease)
    }

    async fn renew(&self, _: &SecretValue) -> Result<TokenLease, Error> {
        Err(Error::new(ErrorKind::Unsupported, "not renewable"))
    }
}

#[tokio::test(start_paused = true)]
async fn panics_of_logins_in_the_background_are_repeated_with_backoff() {
    let login = Panicking::default();
    let attempts = Arc::clone(&login.0);
    let manager = TokenManager::new(login, Origin::new("fake", ""));
    manager.token().await.unwrap();
    advance(990).await;
    assert_eq!(token_text(&manager).await, "one");
    let attempts = attempts.load(Ordering::SeqCst);
    assert!((2..20).contains(&attempts), "{attempts} attempts");
}

#[tokio::test(start_paused = true)]
async fn refusal_of_a_token_is_known_to_its_earlier_forms() {
    let login = FakeLogin::new(Some(60), Ok(60));
    let manager = login.manager();
    let first = manager.token().await.unwrap();
    manager.accepted(&first);
    advance(50).await;
    let renewed = manager.token().await.unwrap();
    assert!(login.renewals() > 0 && !first.is_refused());
    manager.refused(&renewed).unwrap();
    assert!(first.is_refused());
    assert!(!manager.token().await.unwrap().is_refused());
}

#[tokio::test(start_paused = true)]
async fn login_that_returns_the_refused_token_does_not_help() {
    let login = FakeLogin::new(None, Ok(60));
    login.0.is_static.store(true, Ordering::SeqCst);
    let manager = login.manager();
    for is_accepted in [true, false] {
        let token = manager.token().await.unwrap();
        if is_accepted {
            manager.accepted(&token);
        }
        manager.refused(&token).unwrap();
        for _ in 0..3 {
            let error = manager.token().await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{error}");
        }
        // An operator might have repaired the reason.
        advance(2).await;
    }
    let token = manager.token().await.unwrap();
    manager.refused(&token).unwrap_err();
    *login.0.credential.lock().unwrap() = "two".into();
    manager.refused(&token).unwrap_err();
    assert_eq!(token_text(&manager).await, "two");
}
