use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use async_trait::async_trait;
use tokio::task::JoinSet;

use super::*;

mod edges;
#[cfg(feature = "metrics")]
mod report;

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
    /// Whether the server states that the credential is wrong when a login fails.
    is_wrong_credential: AtomicBool,
    /// The number of uses of the tokens of a login. 0 if it is not limited.
    uses: AtomicU64,
    /// The lifetime in seconds that a lookup returns, if the login does not return one.
    lookup: Mutex<Option<Result<u64, ErrorKind>>>,
    lookups: AtomicUsize,
    /// Whether each login has another credential.
    is_signed: AtomicBool,
    /// Whether each login returns its credential as the token.
    is_static: AtomicBool,
    /// The number of credentials that were read.
    credentials: AtomicUsize,
    /// The credential that replaces the other one during the next login.
    replacement: Mutex<Option<String>>,
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
            is_wrong_credential: AtomicBool::default(),
            uses: AtomicU64::default(),
            lookup: Mutex::default(),
            lookups: AtomicUsize::default(),
            is_signed: AtomicBool::default(),
            is_static: AtomicBool::default(),
            credentials: AtomicUsize::default(),
            replacement: Mutex::default(),
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
        let number = self.0.credentials.fetch_add(1, Ordering::SeqCst);
        let credential = self.0.credential.lock().unwrap();
        Ok(match self.is_credential_new_each_time() {
            true => format!("{credential} {number}").into(),
            false => credential.as_str().into(),
        })
    }

    fn is_credential_new_each_time(&self) -> bool {
        self.0.is_signed.load(Ordering::SeqCst)
    }

    async fn login(&self, credential: &SecretValue) -> Result<TokenLease, LoginFailure> {
        let number = self.0.logins.fetch_add(1, Ordering::SeqCst) + 1;
        tokio::time::sleep(Duration::from_millis(50)).await;
        if let Some(replacement) = self.0.replacement.lock().unwrap().take() {
            *self.0.credential.lock().unwrap() = replacement;
            let error = Error::new(ErrorKind::Unauthenticated, "the old one is wrong");
            return Err(LoginFailure::wrong_credential(error));
        }
        if let Some(kind) = *self.0.login_error.lock().unwrap() {
            let error = Error::new(kind, "no");
            return Err(match self.0.is_wrong_credential.load(Ordering::SeqCst) {
                true => LoginFailure::wrong_credential(error),
                false => error.into(),
            });
        }
        Ok(TokenLease {
            token: match self.0.is_static.load(Ordering::SeqCst) {
                true => credential.clone(),
                false => format!("token {number}").into(),
            },
            lifetime: self.0.lifetime.lock().unwrap().map(Duration::from_secs),
            renewable: true,
            uses: Some(self.0.uses.load(Ordering::SeqCst)),
        })
    }

    async fn renew(&self, token: &SecretValue) -> Result<TokenLease, Error> {
        self.0.renewals.fetch_add(1, Ordering::SeqCst);
        match *self.0.renewal.lock().unwrap() {
            Ok(lifetime) => Ok(TokenLease {
                token: token.clone(),
                lifetime: Some(Duration::from_secs(lifetime)).filter(|time| !time.is_zero()),
                renewable: true,
                uses: None,
            }),
            Err(kind) => Err(Error::new(kind, "not renewed")),
        }
    }

    async fn describe(&self, token: &SecretValue) -> Result<Option<TokenLease>, Error> {
        let Some(lookup) = *self.0.lookup.lock().unwrap() else {
            return Ok(None);
        };
        self.0.lookups.fetch_add(1, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(50)).await;
        let mut lease = TokenLease::new(token.clone());
        lease.lifetime = Some(Duration::from_secs(
            lookup.map_err(|kind| Error::new(kind, "no lookup"))?,
        ));
        lease.renewable = true;
        Ok(Some(lease))
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

/// A login whose renewals take 10 s.
#[derive(Debug)]
struct SlowRenewal(FakeLogin);

#[async_trait]
impl Login for SlowRenewal {
    async fn credential(&self) -> Result<SecretValue, Error> {
        self.0.credential().await
    }

    async fn login(&self, credential: &SecretValue) -> Result<TokenLease, LoginFailure> {
        self.0.login(credential).await
    }

    async fn renew(&self, token: &SecretValue) -> Result<TokenLease, Error> {
        tokio::time::sleep(Duration::from_secs(10)).await;
        self.0.renew(token).await
    }
}

#[tokio::test(start_paused = true)]
async fn renewal_neither_delays_callers_nor_replaces_a_newer_token() {
    let login = FakeLogin::new(Some(60), Ok(60));
    let manager = TokenManager::new(SlowRenewal(login.clone()), Origin::new("fake", ""));
    let first = manager.token().await.unwrap();
    manager.accepted(&first);
    // The renewal begins between 36 and 42 s.
    advance(44).await;
    let started = Instant::now();
    assert_eq!(token_text(&manager).await, "token 1");
    assert_eq!(started.elapsed(), Duration::ZERO);
    // The server refuses the token during its renewal.
    manager.refused(&first).unwrap();
    assert_eq!(token_text(&manager).await, "token 2");
    advance(15).await;
    assert_eq!(token_text(&manager).await, "token 2");
    assert_eq!(login.logins(), 2);

    // Without a refusal, each renewal ends before the token expires.
    for _ in 0..200 {
        assert_eq!(token_text(&manager).await, "token 2");
        advance(1).await;
    }
    assert_eq!(login.logins(), 2);
    assert!((3..=6).contains(&login.renewals()), "{}", login.renewals());
}

#[tokio::test(start_paused = true)]
async fn wrong_credential_is_held_back() {
    let login = FakeLogin::new(None, Ok(1));
    login.set_login_error(Some(ErrorKind::Unauthenticated));
    login.0.is_wrong_credential.store(true, Ordering::SeqCst);
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
}

#[tokio::test(start_paused = true)]
async fn outage_does_not_hold_the_credential_back() {
    let login = FakeLogin::new(None, Ok(1));
    login.set_login_error(Some(ErrorKind::Unavailable));
    let manager = login.manager();
    assert!(manager.token().await.unwrap_err().is_temporary());
    login.set_login_error(None);
    assert_eq!(token_text(&manager).await, "token 2");
}

#[tokio::test(start_paused = true)]
async fn role_that_appears_later_is_used_at_the_next_read() {
    let login = FakeLogin::new(None, Ok(1));
    login.set_login_error(Some(ErrorKind::Unauthenticated));
    let manager = login.manager();
    for _ in 0..1000 {
        assert!(manager.token().await.is_err());
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    assert!((2..=4).contains(&login.logins()), "{}", login.logins());

    login.set_login_error(None);
    advance(1).await;
    manager.token().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn failed_logins_with_new_credentials_are_limited_as_well() {
    let login = FakeLogin::new(None, Ok(1));
    login.0.is_signed.store(true, Ordering::SeqCst);
    login.set_login_error(Some(ErrorKind::Unauthenticated));
    let manager = login.manager();
    for _ in 0..1000 {
        assert!(manager.token().await.is_err());
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    assert!((2..=4).contains(&login.logins()), "{}", login.logins());
    let credentials = login.0.credentials.load(Ordering::SeqCst);
    assert_eq!(
        credentials,
        login.logins(),
        "a credential is created for each login only"
    );

    // The server says that one credential is wrong. The next one differs, but can contain the same secret.
    advance(1).await;
    let before = login.logins();
    login.0.is_wrong_credential.store(true, Ordering::SeqCst);
    assert!(manager.token().await.is_err());
    login.set_login_error(None);
    advance(29).await;
    assert!(manager.token().await.is_err());
    assert_eq!(login.logins(), before + 1);
    advance(1).await;
    manager.token().await.unwrap();
    assert_eq!(login.logins(), before + 2);

    // The server refuses the tokens of all logins.
    for _ in 0..26 {
        read(&manager, false).await.unwrap_err();
    }
    assert!(login.logins() <= before + 4, "{}", login.logins());
}

/// A login whose first credential is never provided.
#[derive(Debug)]
struct Hanging(FakeLogin);

#[async_trait]
impl Login for Hanging {
    async fn credential(&self) -> Result<SecretValue, Error> {
        let credential = self.0.credential().await;
        if self.0.0.credentials.load(Ordering::SeqCst) == 1 {
            std::future::pending::<()>().await;
        }
        credential
    }

    async fn login(&self, credential: &SecretValue) -> Result<TokenLease, LoginFailure> {
        self.0.login(credential).await
    }

    async fn renew(&self, token: &SecretValue) -> Result<TokenLease, Error> {
        self.0.renew(token).await
    }
}

#[tokio::test(start_paused = true)]
async fn credential_that_hangs_does_not_block_later_logins() {
    let login = FakeLogin::new(None, Ok(1));
    let manager = TokenManager::new(Hanging(login.clone()), Origin::new("fake", ""));
    let start = Instant::now();
    let error = manager.token().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert_eq!(start.elapsed(), CREDENTIAL_DEADLINE);
    manager.token().await.unwrap();
}

/// Reads with a server that accepts or refuses all tokens, as a backend does. A refused token is replaced
/// once.
async fn read(manager: &TokenManager, server_accepts: bool) -> Result<(), Error> {
    for _ in 0..2 {
        let token = manager.token().await?;
        if server_accepts {
            manager.accepted(&token);
            return Ok(());
        }
        manager.refused(&token)?;
    }
    Err(Error::new(
        ErrorKind::Unauthenticated,
        "both tokens were refused",
    ))
}

#[tokio::test(start_paused = true)]
async fn token_that_never_works_causes_few_logins() {
    let login = FakeLogin::new(None, Ok(1));
    let manager = login.manager();
    for _ in 0..26 {
        let error = read(&manager, false).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unauthenticated);
        assert!(error.message().contains("refuses its token"), "{error}");
    }
    assert_eq!(login.logins(), 2);

    let mut logins = Vec::new();
    for _ in 0..300 {
        advance(1).await;
        let _ = read(&manager, false).await;
        logins.push(login.logins());
    }
    let growth = (logins[9], logins[60], logins[299]);
    assert_eq!(growth.0, 3, "the next login follows after 5 s");
    assert!((4..=6).contains(&growth.1), "{growth:?}");
    assert!((8..=10).contains(&growth.2), "{growth:?}");

    *login.0.credential.lock().unwrap() = "two".into();
    read(&manager, true).await.unwrap();
    for _ in 0..10 {
        read(&manager, false).await.unwrap_err();
    }
    let expected = logins[299] + 3;
    assert_eq!(
        login.logins(),
        expected,
        "an accepted token ends the backoff"
    );
}

#[tokio::test(start_paused = true)]
async fn concurrent_refusals_of_one_token_count_once() {
    let login = FakeLogin::new(None, Ok(1));
    let manager = Arc::new(login.manager());
    let mut callers = JoinSet::new();
    for _ in 0..100 {
        let manager = manager.clone();
        callers.spawn(async move { read(&manager, false).await.is_err() });
    }
    assert!(callers.join_all().await.into_iter().all(|failed| failed));
    assert_eq!(login.logins(), 2);
}

#[tokio::test(start_paused = true)]
async fn refused_token_is_used_again_as_soon_as_the_server_accepts_it() {
    let login = FakeLogin::new(None, Ok(1));
    let manager = login.manager();
    for _ in 0..10 {
        read(&manager, false).await.unwrap_err();
    }
    read(&manager, true).await.unwrap();
    assert_eq!(token_text(&manager).await, "token 2");
    assert_eq!(login.logins(), 2);
}

#[tokio::test(start_paused = true)]
async fn accepted_token_is_replaced_each_time_unless_that_does_not_help() {
    let login = FakeLogin::new(None, Ok(1));
    let manager = login.manager();
    // A token with a number of uses that the server does not state.
    for number in 1..10 {
        let token = manager.token().await.unwrap();
        manager.accepted(&token);
        manager.refused(&token).unwrap();
        manager.refused(&token).expect("it was discarded already");
        assert_eq!(login.logins(), number);
    }
    // One path accepts all tokens, and another one refuses them.
    for _ in 0..10 {
        read(&manager, true).await.unwrap();
        read(&manager, false).await.unwrap_err();
    }
    assert!(login.logins() <= 12, "{}", login.logins());
    advance(6).await;
    read(&manager, false).await.unwrap_err();
    assert!(login.logins() <= 14, "{}", login.logins());
}

#[tokio::test(start_paused = true)]
async fn used_up_tokens_are_replaced() {
    let login = FakeLogin::new(Some(60), Ok(60));
    login.0.uses.store(1, Ordering::SeqCst);
    let manager = Arc::new(login.manager());
    let mut readers = JoinSet::new();
    for _ in 0..12 {
        let manager = manager.clone();
        readers.spawn(async move { token_text(&manager).await });
    }
    let mut tokens = readers.join_all().await;
    tokens.sort();
    tokens.dedup();
    assert_eq!((tokens.len(), login.logins()), (12, 12));

    login.0.uses.store(3, Ordering::SeqCst);
    let mut tokens = Vec::new();
    for _ in 0..6 {
        tokens.push(token_text(&manager).await);
    }
    assert_eq!(tokens[..3], ["token 13"; 3]);
    assert_eq!(tokens[3..], ["token 14"; 3]);
    advance(59).await;
    assert_eq!(login.renewals(), 0, "a renewal uses the token");
}

#[tokio::test(start_paused = true)]
async fn first_use_is_not_spent_on_a_lookup() {
    let login = FakeLogin::new(None, Ok(60));
    let lookups = || login.0.lookups.load(Ordering::SeqCst);
    *login.0.lookup.lock().unwrap() = Some(Err(ErrorKind::Unavailable));
    let manager = login.manager();
    let token = manager.token().await.unwrap();
    advance(5).await;
    assert_eq!(lookups(), 0);
    manager.accepted(&token);
    advance(2).await;
    assert!(lookups() >= 1, "a failed lookup is repeated");

    *login.0.lookup.lock().unwrap() = Some(Ok(60));
    advance(10).await;
    let described = manager.token().await.unwrap();
    assert!(described.expires().is_some() && described.is_accepted());
    let finished = lookups();
    manager.accepted(&described);
    advance(600).await;
    assert_eq!(token_text(&manager).await, "token 1");
    assert!(login.renewals() > 10, "the described token is renewed");
    assert_eq!((lookups(), login.logins()), (finished, 1));
}

#[tokio::test(start_paused = true)]
async fn concurrent_callers_share_a_description() {
    let login = FakeLogin::new(None, Ok(60));
    let lookups = || login.0.lookups.load(Ordering::SeqCst);
    let manager = login.manager();
    let token = manager.token().await.unwrap();
    let describe_twice = async || {
        let (first, second) = tokio::join!(manager.describe(&token), manager.describe(&token));
        [first, second].map(|result| result.map(|token| token.expires().is_some()))
    };
    for (lookup, expected) in [(Err(ErrorKind::Unavailable), 1), (Ok(60), 2), (Ok(60), 2)] {
        *login.0.lookup.lock().unwrap() = Some(lookup);
        for result in describe_twice().await {
            assert_eq!(result.map_err(|error| error.kind()), lookup.map(|_| true));
        }
        assert_eq!(lookups(), expected);
        advance(1).await;
    }
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
