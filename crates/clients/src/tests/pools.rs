//! Each test runs with both pools.

mod deadpool;
mod sqlx;

use std::fmt::Debug;
use std::net::SocketAddr;
use std::time::Duration;

use secretwell::auth::{BuildError, Guard, LazyAuth, State};
use secretwell::backend::Capabilities;
use secretwell::{Error, ErrorKind, ExposeSecret, MemoryProvider, Resolver, SecretString};
use secretwell_testkit::{Action, Canary, FaultyProvider};
use serde::Deserialize;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::server::{Server, WRONG_PASSWORD};
use super::within_limit;

#[derive(Deserialize)]
struct Secrets {
    password: SecretString,
}

/// A pool under test.
trait Subject: Clone + Debug + Send + Sync + 'static {
    /// What the pool needs to connect.
    type Options: Clone + Send + Sync + 'static;
    type Client: Debug + Send;
    type Error: std::error::Error + Send + Sync + 'static;

    fn options(servers: &[SocketAddr], password: &str) -> Self::Options;
    fn new(auth: LazyAuth<Self::Options>, max: usize) -> Self;
    fn get(&self) -> impl Future<Output = Result<Self::Client, Self::Error>> + Send;
    /// Returns a client to the pool.
    fn put(client: Self::Client) -> impl Future<Output = ()> + Send;
    fn try_query(
        client: &mut Self::Client,
        text: &'static str,
    ) -> impl Future<Output = Result<(), String>> + Send;

    fn query(client: &mut Self::Client, text: &'static str) -> impl Future<Output = ()> + Send {
        async move { Self::try_query(client, text).await.unwrap() }
    }
}

/// A pool, its server and the source of its credentials.
struct Fixture<P: Subject> {
    server: Server,
    faulty: FaultyProvider<MemoryProvider>,
    auth: LazyAuth<P::Options>,
    pool: P,
}

impl<P: Subject> Fixture<P> {
    /// The password is "one". The source does not notify of changes.
    async fn new(max: usize) -> Self {
        Self::of(&[Server::start().await], max)
    }

    fn of(servers: &[Server], max: usize) -> Self {
        let memory = MemoryProvider::from_iter([("password", "one")]);
        Self::with_source(servers, memory, max)
    }

    fn with_source(servers: &[Server], memory: MemoryProvider, max: usize) -> Self {
        let faulty = FaultyProvider::new(memory).with_capabilities(Capabilities::none());
        let addresses: Vec<SocketAddr> = servers.iter().map(|server| server.address).collect();
        let auth = LazyAuth::new(Resolver::new(faulty.clone()), move |secrets: Secrets, _| {
            let options = P::options(&addresses, secrets.password.expose_secret());
            async move { Ok::<_, BuildError>(options) }
        });
        Self {
            server: servers[0].clone(),
            faulty,
            pool: P::new(auth.clone(), max),
            auth,
        }
    }

    fn memory(&self) -> &MemoryProvider {
        self.faulty.inner()
    }

    /// Replaces the password with "two", and waits until the pool knows it.
    async fn rotate(&self) {
        self.memory().set("password", "two").unwrap();
        let newest = self.auth.rebuild().await.unwrap();
        assert_eq!(Guard::generation(&newest), 2);
    }

    async fn client(&self) -> P::Client {
        within_limit(self.pool.get())
            .await
            .expect("no deadlock")
            .unwrap()
    }

    /// Gets a client that works, after the session of an idle one has ended. The pool might not know that yet.
    async fn working_client(&self) -> P::Client {
        loop {
            let mut client = self.client().await;
            if P::try_query(&mut client, "SELECT").await.is_ok() {
                return client;
            }
        }
    }

    async fn error(&self) -> P::Error {
        let result = within_limit(self.pool.get()).await.expect("no deadlock");
        result.expect_err("no connection")
    }
}

async fn idle_connection_is_closed_at_a_rotation<P: Subject>() {
    let fixture = Fixture::<P>::new(4).await;
    let clients = [fixture.client().await, fixture.client().await];
    for client in clients {
        P::put(client).await;
    }
    fixture.rotate().await;
    // Without a call of the pool.
    fixture.server.until_open(&[]).await;
    P::put(fixture.client().await).await;
    P::put(fixture.client().await).await;
    assert_eq!(fixture.server.attempts(), ["one", "one", "two"]);
}

async fn connection_in_use_is_closed_when_it_returns<P: Subject>() {
    let fixture = Fixture::<P>::new(4).await;
    let mut client = fixture.client().await;
    P::query(&mut client, "BEGIN").await;
    fixture.rotate().await;
    let mut newer = fixture.client().await;
    P::query(&mut client, "SELECT").await;
    P::query(&mut client, "COMMIT").await;
    P::query(&mut newer, "SELECT").await;
    assert_eq!(fixture.server.log().open, ["one", "two"]);
    drop(client);
    fixture.server.until_open(&["two"]).await;
    P::put(newer).await;
    fixture.client().await;
    assert_eq!(fixture.server.attempts(), ["one", "two"]);
}

async fn rotation_during_the_handshake_drains_the_connection<P: Subject>() {
    let fixture = Fixture::<P>::new(4).await;
    fixture.server.hold_logins();
    let pool = fixture.pool.clone();
    let opening = tokio::spawn(async move { pool.get().await.unwrap() });
    fixture.server.until(|log| log.attempts.len() == 1).await;
    fixture.rotate().await;
    fixture.server.continue_logins();
    let mut client = within_limit(opening).await.unwrap().unwrap();
    P::query(&mut client, "SELECT").await;
    drop(client);
    fixture.server.until_open(&[]).await;
    fixture.client().await;
    assert_eq!(fixture.server.attempts(), ["one", "two"]);
}

async fn rejected_credentials_are_reported_once<P: Subject>() {
    let fixture = Fixture::<P>::new(20).await;
    let working = fixture.client().await;
    fixture.server.reject("one", WRONG_PASSWORD);
    fixture.memory().set("password", "two").unwrap();
    let mut callers = JoinSet::new();
    for _ in 0..10 {
        let pool = fixture.pool.clone();
        callers.spawn(async move { pool.get().await.unwrap() });
    }
    let clients = within_limit(callers.join_all()).await.unwrap();
    assert_eq!(fixture.faulty.discarded().len(), 1);
    assert_eq!(fixture.server.log().open.len(), 11);
    let accepted = |log: &super::server::Log| log.open.iter().filter(|open| *open == "two").count();
    assert_eq!(accepted(&fixture.server.log()), 10);
    drop((working, clients));
    fixture
        .server
        .until(|log| !log.open.contains(&"one".to_owned()))
        .await;
}

async fn one_call_does_not_repeat_a_login_with_the_same_credentials<P: Subject>() {
    for (code, is_reported) in [(WRONG_PASSWORD, true), ("28000", true), ("3D000", false)] {
        let fixture = Fixture::<P>::new(2).await;
        fixture.server.reject("one", code);
        for attempts in 1..=3 {
            let error = fixture.error().await;
            assert!(format!("{error:?}").contains(code), "{error:?}");
            assert_eq!(fixture.server.attempts().len(), attempts);
        }
        assert_eq!(
            !fixture.faulty.discarded().is_empty(),
            is_reported,
            "{code}"
        );
    }
}

async fn newer_credentials_that_are_rejected_too_are_not_repeated<P: Subject>() {
    let fixture = Fixture::<P>::new(2).await;
    fixture.auth.get().await.unwrap();
    fixture.server.reject("one", WRONG_PASSWORD);
    fixture.server.reject("two", WRONG_PASSWORD);
    fixture.memory().set("password", "two").unwrap();
    fixture.error().await;
    assert_eq!(fixture.server.attempts(), ["one", "two"]);
}

async fn source_that_is_down_breaks_no_connection<P: Subject>() {
    let fixture = Fixture::<P>::new(4).await;
    let mut working = fixture.client().await;
    let down = Error::new(ErrorKind::Unavailable, "the source is down");
    fixture.faulty.always(Action::Fail(down));
    let mut other = fixture.client().await;
    fixture.server.reject("one", WRONG_PASSWORD);
    let error = fixture.error().await;
    assert!(format!("{error:?}").contains(WRONG_PASSWORD), "{error:?}");
    P::query(&mut working, "SELECT").await;
    P::query(&mut other, "SELECT").await;
    P::put(working).await;
    P::put(other).await;
    let (mut working, mut other) = (fixture.client().await, fixture.client().await);
    P::query(&mut working, "SELECT").await;
    P::query(&mut other, "SELECT").await;
    assert_eq!(fixture.server.attempts(), ["one"; 3]);
}

async fn exhausted_pool_recovers_after_a_rotation<P: Subject>() {
    let fixture = Fixture::<P>::new(1).await;
    let busy = fixture.client().await;
    let mut callers = JoinSet::new();
    for _ in 0..5 {
        let pool = fixture.pool.clone();
        callers.spawn(async move { drop(pool.get().await.unwrap()) });
    }
    fixture.rotate().await;
    drop(busy);
    within_limit(callers.join_all()).await.expect("no deadlock");
    fixture.server.until_open(&["two"]).await;
}

async fn cancelled_callers_leave_no_connection_behind<P: Subject>() {
    let fixture = Fixture::<P>::new(1).await;
    fixture.server.reject("one", WRONG_PASSWORD);
    fixture.memory().set("password", "one").unwrap();
    // During the login.
    fixture.server.hold_logins();
    for attempts in 1..=3 {
        let pool = fixture.pool.clone();
        let opening = tokio::spawn(async move { pool.get().await });
        fixture
            .server
            .until(|log| log.attempts.len() == attempts)
            .await;
        opening.abort();
        assert!(opening.await.unwrap_err().is_cancelled());
    }
    // While the credentials are reported.
    fixture.server.continue_logins();
    fixture
        .faulty
        .push(Action::Delay(Duration::from_millis(300)));
    let pool = fixture.pool.clone();
    let opening = tokio::spawn(async move { pool.get().await });
    while fixture.faulty.discarded().is_empty() {
        tokio::task::yield_now().await;
    }
    fixture.memory().set("password", "two").unwrap();
    opening.abort();
    assert!(opening.await.unwrap_err().is_cancelled());
    // The read that was started goes on, and the only permit is free.
    let mut client = fixture.client().await;
    P::query(&mut client, "SELECT").await;
    fixture.server.until_open(&["two"]).await;
}

async fn connection_that_the_server_has_ended_is_replaced<P: Subject>() {
    let fixture = Fixture::<P>::new(2).await;
    P::put(fixture.client().await).await;
    fixture.server.terminate();
    fixture.server.until_open(&[]).await;
    // The lease of "one" has ended, and the source does not notify.
    fixture.server.reject("one", WRONG_PASSWORD);
    fixture.memory().set("password", "two").unwrap();
    fixture.server.until_open(&[]).await;
    fixture.working_client().await;
    assert_eq!(fixture.server.attempts(), ["one", "one", "two"]);
}

async fn pool_without_credentials_works_once_they_exist<P: Subject>() {
    let server = Server::start().await;
    let fixture = Fixture::<P>::with_source(&[server], MemoryProvider::new(), 2);
    let error = fixture.error().await;
    assert!(
        error
            .to_string()
            .contains("not ready: (1) password from memory://"),
        "{error}"
    );
    assert!(fixture.server.attempts().is_empty());
    fixture.memory().set("password", "one").unwrap();
    fixture.auth.rebuild().await.unwrap();
    fixture.client().await;
}

async fn dropped_pool_closes_its_connections<P: Subject>() {
    let fixture = Fixture::<P>::new(2).await;
    let mut client = fixture.client().await;
    P::put(fixture.client().await).await;
    let Fixture {
        server, pool, auth, ..
    } = fixture;
    drop(pool);
    P::query(&mut client, "SELECT").await;
    drop(client);
    server.until_open(&[]).await;
    drop(auth);
}

async fn password_is_in_no_error_or_debug_text<P: Subject>() {
    let canary = Canary::new("password");
    let memory = MemoryProvider::new();
    memory.set("password", canary.value()).unwrap();
    let server = Server::start().await;
    let fixture = Fixture::<P>::with_source(&[server], memory, 2);
    let client = fixture.client().await;
    canary.assert_hidden(&client);
    P::put(client).await;
    canary.assert_hidden(&fixture.pool);
    fixture.server.reject(canary.text(), WRONG_PASSWORD);
    let _busy = fixture.client().await;
    canary.assert_hidden_error(&fixture.error().await);
}

/// Each password is revoked when its successor is known. A login that has started with it is rejected then.
async fn many_rotations_under_load_leave_only_the_newest_connections<P: Subject>() {
    const CALLERS: usize = 4;
    let server = Server::start().await;
    let memory = MemoryProvider::from_iter([("password", "0")]);
    let addresses = [server.address];
    let auth = LazyAuth::new(Resolver::new(memory.clone()), move |secrets: Secrets, _| {
        let password = secrets.password.expose_secret().to_owned();
        let options = P::options(&addresses, &password);
        async move { Ok::<_, BuildError>(options) }
    });
    let pool = P::new(auth.clone(), CALLERS);
    let rounds = watch::Sender::new([0; CALLERS]);
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        let (pool, rounds) = (pool.clone(), rounds.clone());
        callers.spawn(async move {
            loop {
                let mut client = pool.get().await.unwrap();
                P::query(&mut client, "SELECT").await;
                P::put(client).await;
                rounds.send_modify(|rounds| rounds[caller] += 1);
                tokio::task::yield_now().await;
            }
        });
    }
    // A rotation waits until each caller has ended what it did during the last one.
    let mut progress = rounds.subscribe();
    let mut states = auth.watch_state();
    for rotation in 1..=50 {
        let before = *progress.borrow();
        let has_ended = |now: &[usize; CALLERS]| {
            now.iter()
                .zip(before)
                .all(|(now, before)| *now > before + 1)
        };
        let ended = within_limit(progress.wait_for(has_ended)).await;
        drop(ended.expect("no caller hangs"));
        memory.set("password", rotation.to_string()).unwrap();
        let is_built = |state: &State| state.generation() > Some(rotation);
        within_limit(states.wait_for(is_built)).await.unwrap();
        server.reject(&(rotation - 1).to_string(), WRONG_PASSWORD);
    }
    server
        .until(|log| log.open.iter().all(|password| password == "50"))
        .await;
    assert!(callers.try_join_next().is_none(), "no query failed");
}

/// The runtime that the pool was used in first has ended.
fn pool_works_in_another_runtime<P: Subject>() {
    let runtime = || {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(1).enable_all().build().unwrap()
    };
    let servers = runtime();
    let server = servers.block_on(Server::start());
    let fixture = Fixture::<P>::of(&[server], 2);
    let first = runtime();
    first.block_on(async { P::put(fixture.client().await).await });
    drop(first);
    runtime().block_on(async {
        fixture.rotate().await;
        fixture.working_client().await;
        fixture
            .server
            .until(|log| !log.open.contains(&"one".to_owned()))
            .await;
    });
    assert_eq!(fixture.server.attempts(), ["one", "two"]);
}

/// Defines a test for each pool.
macro_rules! tests {
    ($($name:ident)*) => {
        mod with_deadpool {
            $(#[tokio::test]
            async fn $name() {
                super::$name::<crate::deadpool_postgres::Pool>().await;
            })*

            #[test]
            fn pool_works_in_another_runtime() {
                super::pool_works_in_another_runtime::<crate::deadpool_postgres::Pool>();
            }
        }

        mod with_sqlx {
            $(#[tokio::test]
            async fn $name() {
                super::$name::<crate::sqlx::Pool>().await;
            })*

            #[test]
            fn pool_works_in_another_runtime() {
                super::pool_works_in_another_runtime::<crate::sqlx::Pool>();
            }
        }
    };
}

tests! {
    idle_connection_is_closed_at_a_rotation
    connection_in_use_is_closed_when_it_returns
    rotation_during_the_handshake_drains_the_connection
    rejected_credentials_are_reported_once
    one_call_does_not_repeat_a_login_with_the_same_credentials
    newer_credentials_that_are_rejected_too_are_not_repeated
    source_that_is_down_breaks_no_connection
    exhausted_pool_recovers_after_a_rotation
    cancelled_callers_leave_no_connection_behind
    connection_that_the_server_has_ended_is_replaced
    pool_without_credentials_works_once_they_exist
    dropped_pool_closes_its_connections
    password_is_in_no_error_or_debug_text
    many_rotations_under_load_leave_only_the_newest_connections
}
