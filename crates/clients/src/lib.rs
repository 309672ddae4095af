//! Clients whose credentials follow a rotation, for [Secretwell](https://docs.rs/secretwell).
//!
//! The crate is for services that log in to another service with a secret: a database, Redis, an HTTP interface or
//! a peer with TLS. Each client gets a [`LazyAuth`] of its credentials. A new connection uses the newest
//! credentials, connections with replaced credentials are drained, and rejected credentials are reported to their
//! source.
//!
//! [`LazyAuth`]: secretwell_auth::LazyAuth

#![cfg_attr(secretwell_docs, feature(doc_cfg))]

#[cfg(feature = "deadpool-postgres")]
pub mod deadpool_postgres;
#[cfg(any(feature = "deadpool-postgres", feature = "sqlx"))]
mod follower;
#[cfg(any(feature = "deadpool-postgres", feature = "sqlx"))]
mod postgres;
#[cfg(feature = "sqlx")]
pub mod sqlx;
#[cfg(test)]
#[cfg(all(feature = "deadpool-postgres", feature = "sqlx"))]
mod tests;
