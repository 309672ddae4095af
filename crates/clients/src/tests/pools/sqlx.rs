//! The pool of sqlx.

use ::sqlx::Error;
use ::sqlx::pool::PoolConnection;
use ::sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use ::sqlx::{Executor, Postgres};

use super::*;
use crate::sqlx::Pool;

impl Subject for Pool {
    type Options = PgConnectOptions;
    type Client = PoolConnection<Postgres>;
    type Error = Error;

    fn options(servers: &[SocketAddr], password: &str) -> PgConnectOptions {
        let options = PgConnectOptions::new_without_pgpass();
        let [server] = servers else {
            panic!("sqlx has one host")
        };
        let host = server.ip().to_string();
        options
            .host(&host)
            .port(server.port())
            .username("app")
            .password(password)
    }

    fn new(auth: LazyAuth<PgConnectOptions>, max: usize) -> Self {
        let max = u32::try_from(max).unwrap();
        Pool::new(auth, PgPoolOptions::new().max_connections(max))
    }

    async fn get(&self) -> Result<PoolConnection<Postgres>, Error> {
        self.acquire().await
    }

    async fn put(mut client: PoolConnection<Postgres>) {
        // `drop` does the same in another task.
        client.return_to_pool().await;
    }

    async fn try_query(
        client: &mut PoolConnection<Postgres>,
        text: &'static str,
    ) -> Result<(), String> {
        let result = client.execute(text).await;
        result.map(drop).map_err(|error| error.to_string())
    }
}

#[tokio::test]
async fn inner_pool_of_replaced_credentials_is_closed() {
    let fixture = Fixture::<Pool>::new(2).await;
    let first = fixture.pool.current().await.unwrap();
    first.execute("SELECT").await.unwrap();
    fixture.rotate().await;
    within_limit(first.close_event()).await.unwrap();
    fixture.server.until_open(&[]).await;
    let second = fixture.pool.current().await.unwrap();
    second.execute("SELECT").await.unwrap();
    assert_eq!(fixture.server.attempts(), ["one", "two"]);
    // If a caller closes it, there is no endless retry.
    second.close().await;
    assert!(matches!(
        fixture.pool.acquire().await,
        Err(Error::PoolClosed)
    ));
}

#[tokio::test]
async fn waiting_caller_gets_a_connection_of_the_next_inner_pool() {
    let fixture = Fixture::<Pool>::new(1).await;
    let mut busy = fixture.client().await;
    let pool = fixture.pool.clone();
    let waiting = tokio::spawn(async move { pool.acquire().await.unwrap() });
    tokio::task::yield_now().await;
    fixture.rotate().await;
    within_limit(waiting).await.unwrap().unwrap();
    Pool::query(&mut busy, "SELECT").await;
    assert_eq!(fixture.server.attempts(), ["one", "two"]);
}

#[tokio::test]
async fn closing_waits_for_connections_in_use_beside_idle_ones() {
    let fixture = Fixture::<Pool>::new(2).await;
    let (idle, busy) = (fixture.client().await, fixture.client().await);
    Pool::put(idle).await;
    let pool = fixture.pool.clone();
    let closing = tokio::spawn(async move { pool.close().await });
    fixture.server.until(|log| log.open.len() == 1).await;
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(!closing.is_finished());
    drop(busy);
    within_limit(closing).await.unwrap().unwrap();
    fixture.server.until_open(&[]).await;
}

#[tokio::test]
async fn closed_pool_stays_closed_after_a_rotation() {
    let fixture = Fixture::<Pool>::new(2).await;
    drop(fixture.client().await);
    within_limit(fixture.pool.close()).await.unwrap();
    fixture.server.until_open(&[]).await;
    fixture.rotate().await;
    assert!(matches!(
        fixture.pool.acquire().await,
        Err(Error::PoolClosed)
    ));
    assert!(matches!(
        fixture.pool.current().await,
        Err(Error::PoolClosed)
    ));
    assert_eq!(fixture.server.attempts(), ["one"]);
}

#[tokio::test]
async fn transaction_outlives_a_rotation_and_dropped_stream_returns_its_connection() {
    let fixture = Fixture::<Pool>::new(1).await;
    let mut transaction = fixture.pool.begin().await.unwrap();
    fixture.rotate().await;
    transaction.execute("SELECT").await.unwrap();
    transaction.commit().await.unwrap();
    fixture.server.until_open(&[]).await;
    for _ in 0..3 {
        drop((&fixture.pool).fetch_many("SELECT"));
        (&fixture.pool).execute("SELECT").await.unwrap();
    }
    assert_eq!(fixture.server.attempts(), ["one", "two"]);
}
