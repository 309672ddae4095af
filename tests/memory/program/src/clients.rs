//! Clients that log in with the secret as their password.

use std::path::Path;
use std::sync::Arc;

use secretwell::auth::{BuildError, LazyAuth};
use secretwell::{ExposeSecret, Resolver, SecretProvider, clients};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

use crate::{Secrets, step};

pub(crate) async fn deadpool(provider: Arc<dyn SecretProvider>, socket: &str) {
    use clients::deadpool_postgres::{Manager, Pool};
    use deadpool_postgres::tokio_postgres::{Config, NoTls};

    let socket = socket.to_owned();
    let auth = LazyAuth::new(Resolver::new(provider), move |secrets: Secrets, _| {
        let mut config = Config::new();
        config
            .host_path(Path::new(&socket))
            .user("canary")
            .dbname("postgres");
        config.password(secrets.canary.expose_secret());
        async move { Ok::<_, BuildError>(config) }
    });
    let pool = Pool::builder(Manager::new(auth, NoTls)).build().unwrap();
    let client = pool.get().await.unwrap();
    step("alive");
    drop(client);
    pool.close();
    drop(pool);
    step("dropped");
}

pub(crate) async fn sqlx(provider: Arc<dyn SecretProvider>, socket: &str) {
    let socket = socket.to_owned();
    let auth = LazyAuth::new(Resolver::new(provider), move |secrets: Secrets, _| {
        let options = PgConnectOptions::new_without_pgpass()
            .socket(&socket)
            .username("canary")
            .database("postgres")
            .password(secrets.canary.expose_secret());
        async move { Ok::<_, BuildError>(options) }
    });
    let pool = clients::sqlx::Pool::new(auth, PgPoolOptions::new());
    let connection = pool.acquire().await.unwrap();
    step("alive");
    drop(connection);
    drop(pool);
    step("dropped");
}

pub(crate) async fn redis(provider: Arc<dyn SecretProvider>, address: &str) {
    use clients::redis::RedisConnection;
    use redis::{AsyncConnectionConfig, Client, IntoConnectionInfo, RedisConnectionInfo};

    let url = format!("redis://{address}");
    let auth = LazyAuth::new(Resolver::new(provider), move |secrets: Secrets, _| {
        let login = RedisConnectionInfo::default()
            .set_username("canary")
            .set_password(secrets.canary.expose_secret());
        let server = url.as_str().into_connection_info().unwrap();
        async move { Ok::<_, BuildError>(Client::open(server.set_redis_settings(login))?) }
    });
    let mut connection = RedisConnection::new(auth, AsyncConnectionConfig::new());
    let ping: String = redis::cmd("PING")
        .query_async(&mut connection)
        .await
        .unwrap();
    assert_eq!(ping, "PONG");
    step("alive");
    drop(connection);
    step("dropped");
}
