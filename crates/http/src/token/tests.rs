use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

/// The state of a fake server. It counts logins and renewals.
#[derive(Debug)]
struct Server {
    logins: AtomicUsize,
    renewals: AtomicUsize,
    credential: Mutex<String>,
    /// The lifetime of the tokens of a login, in seconds.
    lifetime: Mutex<Option<u64>>,
    /// The lifetime in seconds after a renewal, or the error of a renewal.
    renewal: Mutex<Result<u64, ErrorKind>>,
    /// The error of a login, if it is to fail.
    login_error: Mutex<Option<ErrorKind>>,
}

#[derive(Debug, Clone)]
struct FakeLogin(Arc<Server>);

impl FakeLogin {
    fn new(lifetime: Option<u64>, renewal: Result<u64, ErrorKind>) -> Self {
        Self(Arc::new(Server {
            credential: Mutex::new("one".into()),
            lifetime: Mutex::new(lifetime),
            renewal: Mutex::new(renewal),
            login_error: Mutex::default(),
            logins: AtomicUsize::default(),
            renewals: AtomicUsize::default(),
        }))
    }

    fn manager(&self) -> TokenManager {
        TokenManager::new(self.clone(), Origin::new("fake", ""))
    }

    fn logins(&self) -> usize {
        self.0.logins.load(Ordering::SeqCst)
    }

    fn renewals(&self) -> usize {
        self.0.renewals.load(Ordering::SeqCst)
    }

    fn set_login_error(&self, kind: Option<ErrorKind>) {
        *self.0.login_error.lock().unwrap() = kind;
    }
}

#[async_trait]
impl Login for FakeLogin {
    async fn credential(&self) -> Result<SecretValue, Error> {
        Ok(self.0.credential.lock().unwrap().as_str().into())
    }

    async fn login(&self, _: &SecretValue) -> Result<TokenLease, Error> {
        let number = self.0.logins.fetch_add(1, Ordering::SeqCst) + 1;
        tokio::time::sleep(Duration::from_millis(50)).await;
        if let Some(kind) = *self.0.login_error.lock().unwrap() {
            return Err(Error::new(kind, "no"));
        }
        Ok(TokenLease {
            token: format!("token {number}").into(),
            lifetime: self.0.lifetime.lock().unwrap().map(Duration::from_secs),
            renewable: true,
        })
    }

    async fn renew(&self, token: &SecretValue) -> Result<TokenLease, Error> {
        self.0.renewals.fetch_add(1, Ordering::SeqCst);
        match *self.0.renewal.lock().unwrap() {
            Ok(lifetime) => Ok(TokenLease {
                token: token.clone(),
                lifetime: Some(Duration::from_secs(lifetime)),
                renewable: true,
            }),
            Err(kind) => Err(Error::new(kind, "not renewed")),
        }
    }
}

async fn token_text(manager: &TokenManager) -> String {
    let token = manager.token().await.unwrap();
    token.value().expose_text().unwrap().to_owned()
}

async fn advance(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn concurrent_callers_share_one_login_even_if_one_is_cancelled() {
    let login = FakeLogin::new(Some(60), Ok(60));
    let manager = Arc::new(login.manager());
    let cancelled = tokio::time::timeout(Duration::from_millis(5), manager.token()).await;
    assert!(cancelled.is_err());
    let mut callers = JoinSet::new();
    for _ in 0..100 {
        let manager = manager.clone();
        callers.spawn(async move { token_text(&manager).await });
    }
    for token in callers.join_all().await {
        assert_eq!(token, "token 1");
    }
    assert_eq!(login.logins(), 1);
}

#[tokio::test(start_paused = true)]
async fn callers_of_a_failed_shared_login_share_one_more_attempt() {
    let login = FakeLogin::new(None, Ok(1));
    let manager = Arc::new(login.manager());
    login.set_login_error(Some(ErrorKind::Timeout));
    let cancelled = tokio::time::timeout(Duration::from_millis(5), manager.token()).await;
    assert!(cancelled.is_err());
    let mut callers = JoinSet::new();
    for _ in 0..100 {
        let manager = manager.clone();
        callers.spawn(async move { manager.token().await.map(drop) });
    }
    for result in callers.join_all().await {
        assert_eq!(result.unwrap_err().kind(), ErrorKind::Timeout);
    }
    assert_eq!(login.logins(), 2);
}

#[tokio::test(start_paused = true)]
async fn token_is_renewed_before_it_expires() {
    let login = FakeLogin::new(Some(60), Ok(60));
    let manager = login.manager();
    for _ in 0..600 {
        assert_eq!(token_text(&manager).await, "token 1");
        advance(1).await;
    }
    assert_eq!(login.logins(), 1);
    assert!(
        (14..=17).contains(&login.renewals()),
        "{}",
        login.renewals()
    );
}

#[tokio::test(start_paused = true)]
async fn token_at_its_maximum_or_not_renewable_is_replaced_before_it_expires() {
    for renewal in [Ok(5), Err(ErrorKind::Denied)] {
        let login = FakeLogin::new(Some(60), renewal);
        let manager = login.manager();
        for second in 0..300 {
            manager.token().await.unwrap();
            // All logins happen in the background.
            assert!(
                login.logins() <= 1 + second / 36,
                "{second}: {}",
                login.logins()
            );
            advance(1).await;
        }
        assert!(login.logins() >= 5, "{}", login.logins());
    }
}

#[tokio::test(start_paused = true)]
async fn failed_renewal_does_not_discard_a_valid_token() {
    let login = FakeLogin::new(Some(600), Err(ErrorKind::Unavailable));
    let manager = login.manager();
    assert_eq!(token_text(&manager).await, "token 1");
    login.set_login_error(Some(ErrorKind::Unavailable));
    advance(590).await;
    assert_eq!(token_text(&manager).await, "token 1");
    assert!((3..20).contains(&login.renewals()), "{}", login.renewals());
    login.set_login_error(None);
    advance(20).await;
    assert_eq!(token_text(&manager).await, "token 2");
}

#[tokio::test(start_paused = true)]
async fn refused_credential_is_not_sent_again_until_it_changes() {
    let login = FakeLogin::new(None, Ok(1));
    login.set_login_error(Some(ErrorKind::Unauthenticated));
    let manager = login.manager();
    for _ in 0..100 {
        let error = manager.token().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unauthenticated);
        advance(2).await;
    }
    assert_eq!(login.logins(), 1);

    login.set_login_error(None);
    *login.0.credential.lock().unwrap() = "two".into();
    assert_eq!(token_text(&manager).await, "token 2");

    login.set_login_error(Some(ErrorKind::Unavailable));
    let token = manager.token().await.unwrap();
    manager.reject(&token);
    assert!(manager.token().await.unwrap_err().is_temporary());
    assert!(manager.token().await.unwrap_err().is_temporary());
    assert_eq!(login.logins(), 4, "an outage must not pause the credential");
}

#[tokio::test(start_paused = true)]
async fn invalidation_is_limited_to_one_per_interval() {
    let login = FakeLogin::new(None, Ok(1));
    let manager = login.manager();
    let first = manager.token().await.unwrap();
    assert!(manager.invalidate(&first));
    let second = manager.token().await.unwrap();
    assert!(
        manager.invalidate(&first),
        "another token is cached already"
    );
    assert!(
        !manager.invalidate(&second),
        "the token was issued after the last invalidation"
    );
    assert_eq!(token_text(&manager).await, "token 2");
    manager.reject(&second);
    let third = manager.token().await.unwrap();
    advance(6).await;
    assert!(manager.invalidate(&third));
    assert_eq!(token_text(&manager).await, "token 4");
}

#[tokio::test(start_paused = true)]
async fn dropping_the_manager_stops_its_tasks() {
    let login = FakeLogin::new(Some(60), Ok(60));
    let manager = login.manager();
    manager.token().await.unwrap();
    drop(manager);
    advance(600).await;
    assert_eq!(login.renewals(), 0);
    assert_eq!(Arc::strong_count(&login.0), 1);
}
