//! Clients whose credentials follow a rotation, for [Secretwell](https://docs.rs/secretwell).
//!
//! The crate is for services that log in to another service with a secret: a database, Redis, an HTTP interface or
//! a peer with TLS. Each client gets a [`LazyAuth`] of its credentials. A new connection uses the newest
//! credentials, connections with replaced credentials are drained or log in again, and rejected credentials are
//! reported to their source.
//!
//! | module and feature | for |
//! | --- | --- |
//! | `deadpool_postgres`, feature `deadpool-postgres` | a PostgreSQL pool of deadpool |
//! | `sqlx` | a PostgreSQL pool of sqlx |
//! | `redis` | a Redis connection that logs in again after a rotation |
//! | `reqwest` | a secret in a header of each HTTP request |
//! | `rustls` | certificates of TLS servers and clients |
//!
//! [`LazyAuth`]: secretwell_auth::LazyAuth

#![cfg_attr(secretwell_docs, feature(doc_cfg))]

#[cfg(feature = "deadpool-postgres")]
pub mod deadpool_postgres;
#[cfg(any(feature = "deadpool-postgres", feature = "sqlx"))]
mod follower;
#[cfg(any(feature = "deadpool-postgres", feature = "sqlx"))]
mod postgres;
#[cfg(feature = "redis")]
pub mod redis;
#[cfg(feature = "reqwest")]
pub mod reqwest;
#[cfg(feature = "rustls")]
pub mod rustls;
#[cfg(feature = "sqlx")]
pub mod sqlx;
#[cfg(test)]
mod testing;
#[cfg(test)]
#[cfg(all(feature = "deadpool-postgres", feature = "sqlx"))]
mod tests;

// Services share these types between threads, so they must stay `Send` and `Sync`.
const _: () = {
    #[allow(dead_code, reason = "no client is enabled")]
    const fn assert_send_sync<T: Send + Sync>() {}
    #[cfg(feature = "redis")]
    assert_send_sync::<redis::RedisConnection>();
    #[cfg(feature = "rustls")]
    assert_send_sync::<rustls::CertificateResolver>();
};
