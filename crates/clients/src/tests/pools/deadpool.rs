//! The pool of deadpool-postgres.

use ::deadpool_postgres::tokio_postgres::{Config, NoTls};

use super::*;
use crate::deadpool_postgres::{Client, Manager, Pool, PoolError};

impl Subject for Pool {
    type Options = Config;
    type Client = Client;
    type Error = PoolError;

    fn options(servers: &[SocketAddr], password: &str) -> Config {
        let mut config = Config::new();
        for server in servers {
            config.host(server.ip().to_string()).port(server.port());
        }
        config.user("app").password(password);
        config
    }

    fn new(auth: LazyAuth<Config>, max: usize) -> Self {
        let builder = Pool::builder(Manager::new(auth, NoTls));
        builder.max_size(max).build().unwrap()
    }

    async fn get(&self) -> Result<Client, PoolError> {
        Pool::get(self).await
    }

    async fn put(client: Client) {
        drop(client);
    }

    async fn try_query(client: &mut Client, text: &'static str) -> Result<(), String> {
        let result = client.batch_execute(text).await;
        result.map_err(|error| error.to_string())
    }
}

#[tokio::test]
async fn next_host_is_used_if_one_rejects_the_credentials() {
    let (lagging, current) = (Server::start().await, Server::start().await);
    lagging.reject("one", WRONG_PASSWORD);
    let fixture = Fixture::<Pool>::of(&[lagging.clone(), current.clone()], 2);
    fixture.client().await;
    assert_eq!(current.attempts(), ["one"]);
    assert!(fixture.faulty.discarded().is_empty());
    // Both reject the credentials.
    current.reject("one", WRONG_PASSWORD);
    current.terminate();
    current.until_open(&[]).await;
    fixture.memory().set("password", "two").unwrap();
    fixture.working_client().await;
    assert_eq!(lagging.attempts().last().unwrap(), "two");
}

#[tokio::test]
async fn taken_connection_does_not_return() {
    let fixture = Fixture::<Pool>::new(1).await;
    let taken = Client::take(fixture.client().await);
    let other = fixture.client().await;
    assert_eq!(fixture.server.log().open.len(), 2);
    drop(taken);
    fixture.server.until_open(&["one"]).await;
    drop(other);
}
