//! Database pools that follow a rotation: leases of a real OpenBao for a real PostgreSQL.

// The number of connections is part of the log of CI.
#![allow(clippy::print_stdout)]

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use deadpool_postgres::RecyclingMethod;
use deadpool_postgres::tokio_postgres::{Config, NoTls};
use secretwell::auth::{BuildError, Generation, Guard, LazyAuth};
use secretwell::{ExposeSecret, MemoryProvider, Resolver, SecretString, clients};
use serde::Deserialize;
use serde_json::json;
use sqlx::Executor;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::support::secs;
use crate::vault::database::{Fixture, Postgres};

#[derive(Deserialize)]
struct Secrets {
    db: Credentials,
}

#[derive(Deserialize)]
struct Credentials {
    username: String,
    password: SecretString,
}

/// The number of queries at a time.
const CALLERS: usize = 4;
/// Long enough for a busy machine to create the next lease before this one ends.
const LEASE: Duration = secs(8);

/// Runs queries without a pause, over three lease lifetimes and the revocation of all leases. Asserts that no query
/// fails. `pool` creates a function whose result is the process id of its session.
async fn assert_no_query_fails<C, Q, F>(
    options: impl Fn(&Path, &str, &str) -> C + Clone + Send + Sync + 'static,
    pool: impl Fn(LazyAuth<C>) -> Q,
) where
    C: Send + Sync + 'static,
    Q: Fn() -> F,
    F: Future<Output = Result<i32, String>> + Send + 'static,
{
    let lease = LEASE.as_secs();
    let mut fixture = Fixture::new(json!({"default_ttl": lease, "max_ttl": lease})).await;
    // A query fails if its credentials cannot be read in time, as on a busy machine.
    fixture.deadline = secs(30);
    let mut load = Load::default();
    let generations = {
        let auth = auth(&fixture, options.clone()).await;
        let query = pool(auth.clone());
        let start = Instant::now();
        let has_rotated = || start.elapsed() > 3 * LEASE && newest(&auth) > 3;
        load.during(&query, until(has_rotated)).await;
        newest(&auth)
    };
    // With long leases, only a rejected login leads to newer credentials.
    let role = format!("{}/roles/app", fixture.name);
    let long = json!({"db_name": "pg", "default_ttl": "1h", "max_ttl": "1h"});
    fixture.bao.root("POST", &role, long).await;
    let auth = auth(&fixture, options).await;
    let query = pool(auth.clone());
    load.during(&query, until(|| newest(&auth) == 1)).await;
    let prefix = format!("sys/leases/revoke-prefix/{}/creds/app", fixture.name);
    let revocation = fixture.bao.root("POST", &prefix, json!({"sync": true}));
    load.during(&query, revocation).await;
    load.during(&query, until(|| newest(&auth) == 2)).await;

    assert_sessions_are_drained(&fixture).await;
    println!(
        "{} queries of {CALLERS} callers, 0 failed; {} connections for {generations} leases, and {} with a revocation",
        load.queries,
        load.sessions[0].len(),
        load.sessions[1..]
            .iter()
            .flatten()
            .collect::<BTreeSet<_>>()
            .len(),
    );
    let most = usize::try_from(generations).unwrap() * CALLERS;
    assert!(load.sessions[0].len() <= most, "{:?}", load.sessions[0]);
}

/// Queries, and the sessions that have answered them.
#[derive(Default)]
struct Load {
    queries: usize,
    /// For each call of [`during`](Self::during).
    sessions: Vec<BTreeSet<i32>>,
}

impl Load {
    /// Runs queries until `work` has ended.
    async fn during<F>(&mut self, query: &impl Fn() -> F, work: impl Future)
    where
        F: Future<Output = Result<i32, String>> + Send + 'static,
    {
        let has_ended = AtomicBool::new(false);
        let work = async {
            let limited = timeout(secs(60), work).await;
            assert!(limited.is_ok(), "the condition is not reached");
            has_ended.store(true, Ordering::Relaxed);
        };
        let mut sessions = BTreeSet::new();
        let queries = async {
            while !has_ended.load(Ordering::Relaxed) {
                let mut callers: JoinSet<_> = (0..CALLERS).map(|_| query()).collect();
                while let Some(result) = callers.join_next().await {
                    sessions.insert(result.unwrap().expect("no query fails"));
                    self.queries += 1;
                }
            }
        };
        tokio::join!(work, queries);
        self.sessions.push(sessions);
    }
}

async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn newest<C: Send + Sync + 'static>(auth: &LazyAuth<C>) -> Generation {
    auth.peek().map_or(0, |guard| Guard::generation(&guard))
}

/// Returns the auth of the credentials for a database. `options` creates what a pool needs to connect.
async fn auth<C: Send + Sync + 'static>(
    fixture: &Fixture,
    options: impl Fn(&Path, &str, &str) -> C + Clone + Send + Sync + 'static,
) -> LazyAuth<C> {
    let provider = fixture.provider(json!({"token_ttl": "1h"})).await;
    let socket = fixture.postgres.socket.clone();
    LazyAuth::new(
        Resolver::new(provider),
        move |Secrets { db }: Secrets, _| {
            let options = options(&socket, &db.username, db.password.expose_secret());
            async move { Ok::<_, BuildError>(options) }
        },
    )
}

/// Waits until all sessions of the pool have the same user, and none has a user that was dropped.
async fn assert_sessions_are_drained(fixture: &Fixture) {
    const USERS: &str = "SELECT DISTINCT coalesce(usename, 'dropped')::text FROM pg_stat_activity
        WHERE backend_type = 'client backend' AND usename IS DISTINCT FROM 'postgres'";
    let administrator = fixture.postgres.pool("postgres", "");
    let administrator = administrator.get().await.unwrap();
    let start = Instant::now();
    loop {
        let users = administrator.query(USERS, &[]).await.unwrap();
        let users: Vec<String> = users.iter().map(|row| row.get(0)).collect();
        if users.len() <= 1 && !users.contains(&"dropped".to_owned()) {
            return;
        }
        assert!(start.elapsed() < secs(60), "{users:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn no_query_of_deadpool_fails_over_three_leases_and_a_revocation() {
    let options = |socket: &Path, user: &str, password: &str| {
        let mut config = Config::new();
        config.host_path(socket).dbname("postgres");
        config.user(user).password(password);
        config
    };
    let pool = |auth| {
        // The sessions of a role that was dropped stay open.
        let check = RecyclingMethod::Custom("SELECT current_user".into());
        let manager = clients::deadpool_postgres::Manager::new(auth, NoTls).recycling_method(check);
        let pool = clients::deadpool_postgres::Pool::builder(manager);
        let pool = pool.max_size(CALLERS).build().unwrap();
        move || {
            let pool = pool.clone();
            async move {
                let client = pool.get().await.map_err(|error| format!("{error:?}"))?;
                let row = client.query_one("SELECT pg_backend_pid()", &[]).await;
                Ok(row.map_err(|error| format!("{error:?}"))?.get(0))
            }
        }
    };
    assert_no_query_fails(options, pool).await;
}

fn sqlx_options(socket: &Path, user: &str, password: &str) -> PgConnectOptions {
    let options = PgConnectOptions::new_without_pgpass().socket(socket);
    options
        .database("postgres")
        .username(user)
        .password(password)
}

#[tokio::test]
async fn no_query_of_sqlx_fails_over_three_leases_and_a_revocation() {
    let pool = |auth| {
        let options = PgPoolOptions::new()
            .max_connections(CALLERS.try_into().unwrap())
            .test_before_acquire(false)
            .before_acquire(|connection, _| {
                Box::pin(async move {
                    connection.execute("SELECT current_user").await?;
                    Ok(true)
                })
            });
        let pool = clients::sqlx::Pool::new(auth, options);
        move || {
            let pool = pool.clone();
            async move {
                let pid = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&pool);
                pid.await.map_err(|error| format!("{error:?}"))
            }
        }
    };
    assert_no_query_fails(sqlx_options, pool).await;
}

#[tokio::test]
async fn pool_of_sqlx_is_used_like_a_pg_pool() {
    let postgres = Postgres::start();
    let socket = postgres.socket.clone();
    let memory = MemoryProvider::from_iter([("db/username", "postgres"), ("db/password", "any")]);
    let auth = LazyAuth::new(Resolver::new(memory), move |Secrets { db }: Secrets, _| {
        let options = sqlx_options(&socket, &db.username, db.password.expose_secret());
        async move { Ok::<_, BuildError>(options) }
    });
    let pool = clients::sqlx::Pool::new(auth, PgPoolOptions::new().max_connections(1));
    let sum =
        sqlx::query_scalar::<_, i64>("SELECT sum(n) FROM generate_series(1, $1) AS n").bind(100);
    assert_eq!(sum.fetch_one(&pool).await.unwrap(), 5_050);
    let rows = sqlx::query("SELECT generate_series(1, 1000)").fetch_all(&pool);
    assert_eq!(rows.await.unwrap().len(), 1_000);
    let mut transaction = pool.begin().await.unwrap();
    let create = "CREATE TEMPORARY TABLE numbers ON COMMIT DROP AS SELECT 1 AS n";
    sqlx::query(create)
        .execute(&mut *transaction)
        .await
        .unwrap();
    let update = sqlx::query("UPDATE numbers SET n = $1").bind(2);
    let updated = update.execute(&mut *transaction).await.unwrap();
    assert_eq!(updated.rows_affected(), 1);
    transaction.commit().await.unwrap();
    let failed = sqlx::raw_sql("SELECT 1; SELECT nothing")
        .execute(&pool)
        .await
        .unwrap_err();
    assert!(failed.to_string().contains("nothing"), "{failed}");
    pool.close().await;
    assert!(matches!(pool.begin().await, Err(sqlx::Error::PoolClosed)));
}
