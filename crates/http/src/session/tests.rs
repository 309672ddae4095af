use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

/// A server that counts, and grants what it is told to.
#[derive(Debug)]
struct Server {
    logins: AtomicUsize,
    renewals: AtomicUsize,
    credential: Mutex<String>,
    /// For how many seconds logins and renewals are good.
    lifetime: Mutex<Option<u64>>,
    renewed: Mutex<Result<u64, ErrorKind>>,
    refuses: Mutex<Option<ErrorKind>>,
}

#[derive(Debug, Clone)]
struct FakeLogin(Arc<Server>);

impl FakeLogin {
    fn new(lifetime: Option<u64>, renewed: Result<u64, ErrorKind>) -> Self {
        Self(Arc::new(Server {
            credential: Mutex::new("one".into()),
            lifetime: Mutex::new(lifetime),
            renewed: Mutex::new(renewed),
            refuses: Mutex::default(),
            logins: AtomicUsize::default(),
            renewals: AtomicUsize::default(),
        }))
    }

    fn session(&self) -> TokenManager {
        TokenManager::new(self.clone(), Origin::new("fake", ""))
    }

    fn logins(&self) -> usize {
        self.0.logins.load(Ordering::SeqCst)
    }

    fn renewals(&self) -> usize {
        self.0.renewals.load(Ordering::SeqCst)
    }

    fn refuse(&self, kind: Option<ErrorKind>) {
        *self.0.refuses.lock().unwrap() = kind;
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
        if let Some(kind) = *self.0.refuses.lock().unwrap() {
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
        match *self.0.renewed.lock().unwrap() {
            Ok(lifetime) => Ok(TokenLease {
                token: token.clone(),
                lifetime: Some(Duration::from_secs(lifetime)),
                renewable: true,
            }),
            Err(kind) => Err(Error::new(kind, "not renewed")),
        }
    }
}

async fn text(session: &TokenManager) -> String {
    let token = session.token().await.unwrap();
    token.value().expose_text().unwrap().to_owned()
}

async fn pass(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn a_hundred_callers_share_one_login_and_a_cancelled_one_stops_nothing() {
    let login = FakeLogin::new(Some(60), Ok(60));
    let session = Arc::new(login.session());
    let gave_up = tokio::time::timeout(Duration::from_millis(5), session.token()).await;
    assert!(gave_up.is_err());
    let mut callers = JoinSet::new();
    for _ in 0..100 {
        let session = session.clone();
        callers.spawn(async move { text(&session).await });
    }
    for token in callers.join_all().await {
        assert_eq!(token, "token 1");
    }
    assert_eq!(login.logins(), 1);
}

#[tokio::test(start_paused = true)]
async fn who_joins_a_login_that_fails_takes_part_in_one_more() {
    let login = FakeLogin::new(None, Ok(1));
    let session = Arc::new(login.session());
    login.refuse(Some(ErrorKind::Timeout));
    let gave_up = tokio::time::timeout(Duration::from_millis(5), session.token()).await;
    assert!(gave_up.is_err());
    let mut callers = JoinSet::new();
    for _ in 0..100 {
        let session = session.clone();
        callers.spawn(async move { session.token().await.map(drop) });
    }
    for outcome in callers.join_all().await {
        assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Timeout);
    }
    assert_eq!(login.logins(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_token_is_renewed_ahead_for_as_long_as_that_works() {
    let login = FakeLogin::new(Some(60), Ok(60));
    let session = login.session();
    for _ in 0..600 {
        assert_eq!(text(&session).await, "token 1");
        pass(1).await;
    }
    assert_eq!(login.logins(), 1);
    assert!(
        (14..=17).contains(&login.renewals()),
        "{}",
        login.renewals()
    );
}

#[tokio::test(start_paused = true)]
async fn near_its_maximum_or_not_renewable_it_is_replaced_before_its_end() {
    for renewed in [Ok(5), Err(ErrorKind::Denied)] {
        let login = FakeLogin::new(Some(60), renewed);
        let session = login.session();
        for second in 0..300 {
            session.token().await.unwrap();
            // Never a login that a caller had to wait for.
            assert!(
                login.logins() <= 1 + second / 36,
                "{second}: {}",
                login.logins()
            );
            pass(1).await;
        }
        assert!(login.logins() >= 5, "{}", login.logins());
    }
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_cannot_be_made_drops_no_token_that_is_good() {
    let login = FakeLogin::new(Some(600), Err(ErrorKind::Unavailable));
    let session = login.session();
    assert_eq!(text(&session).await, "token 1");
    login.refuse(Some(ErrorKind::Unavailable));
    pass(590).await;
    assert_eq!(text(&session).await, "token 1");
    assert!((3..20).contains(&login.renewals()), "{}", login.renewals());
    login.refuse(None);
    pass(20).await;
    assert_eq!(text(&session).await, "token 2");
}

#[tokio::test(start_paused = true)]
async fn a_refused_credential_is_sent_once_until_it_changes() {
    let login = FakeLogin::new(None, Ok(1));
    login.refuse(Some(ErrorKind::Unauthenticated));
    let session = login.session();
    for _ in 0..100 {
        let error = session.token().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unauthenticated);
        pass(2).await;
    }
    assert_eq!(login.logins(), 1);

    login.refuse(None);
    *login.0.credential.lock().unwrap() = "two".into();
    assert_eq!(text(&session).await, "token 2");

    login.refuse(Some(ErrorKind::Unavailable));
    let token = session.token().await.unwrap();
    session.reject(&token);
    assert!(session.token().await.unwrap_err().is_temporary());
    assert!(session.token().await.unwrap_err().is_temporary());
    assert_eq!(login.logins(), 4, "an outage is no refusal");
}

#[tokio::test(start_paused = true)]
async fn a_suspected_token_is_given_up_once_and_not_in_a_loop() {
    let login = FakeLogin::new(None, Ok(1));
    let session = login.session();
    let first = session.token().await.unwrap();
    assert!(session.invalidate(&first));
    let second = session.token().await.unwrap();
    assert!(session.invalidate(&first), "there is another already");
    assert!(!session.invalidate(&second), "it is a moment old");
    assert_eq!(text(&session).await, "token 2");
    session.reject(&second);
    let third = session.token().await.unwrap();
    pass(6).await;
    assert!(session.invalidate(&third));
    assert_eq!(text(&session).await, "token 4");
}

#[tokio::test(start_paused = true)]
async fn what_it_started_ends_with_it() {
    let login = FakeLogin::new(Some(60), Ok(60));
    let session = login.session();
    session.token().await.unwrap();
    drop(session);
    pass(600).await;
    assert_eq!(login.renewals(), 0);
    assert_eq!(Arc::strong_count(&login.0), 1);
}
