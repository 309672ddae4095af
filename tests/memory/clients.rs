//! Clients that log in with the secret as their password.

use super::sources::Place;
use super::{Needles, canary, freed_copies};
use crate::redis::Server;
use crate::vault::database::Postgres;

#[tokio::test]
#[cfg_attr(not(target_os = "linux"), ignore = "only Linux has /proc/PID/mem")]
async fn passwords_of_postgresql_remain_in_freed_memory_only() {
    let (postgres, password) = (Postgres::start(), canary());
    let role = format!("CREATE ROLE canary WITH LOGIN PASSWORD '{password}'");
    let client = postgres.pool("postgres", "").get().await.unwrap();
    client.batch_execute(&role).await.unwrap();
    let socket = postgres.socket.to_str().unwrap();
    for client in ["deadpool", "sqlx"] {
        assert_only_freed_memory_contains_it(client, socket, &password);
    }
}

#[tokio::test]
#[cfg_attr(not(target_os = "linux"), ignore = "only Linux has /proc/PID/mem")]
async fn passwords_of_redis_remain_in_freed_memory_only() {
    let (server, password) = (Server::start("redis-server").await, canary());
    server.add_user("canary", &password).await;
    assert_only_freed_memory_contains_it("redis", &server.address.to_string(), &password);
}

/// The types of the clients have their own copies of the password, which are not wiped when they are freed.
fn assert_only_freed_memory_contains_it(client: &str, server: &str, password: &str) {
    let place = Place::directory();
    place.write(password);
    let needles = Needles::default().text("secret", password);
    freed_copies(&[client, &place.url, server], &[], &needles);
}
