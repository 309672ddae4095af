//! Clients that log in with the secret as their password.

use super::sources::Place;
use super::{Allocator, Needles, Program, canary};
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

/// The types of the clients have their own copies of the password. They are not wiped when they are freed.
fn assert_only_freed_memory_contains_it(client: &str, server: &str, password: &str) {
    let place = Place::directory();
    place.write(password);
    let needles = Needles::default().text("password", password);
    let arguments = [client, &place.url, server];
    let mut program = Program::with(Allocator::Zeroing, &arguments, &[]);
    program.reach("alive");
    program.assert_found(&needles, "password");
    program.go_on("dropped");
    program.assert_clean(&needles, client);

    let mut program = Program::start(&arguments);
    program.reach("alive");
    program.go_on("dropped");
    let found = program.remaining(&needles);
    println!("{client}: {} copies in freed memory", found.len());
}
