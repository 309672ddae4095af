//! Tests of the Vault backend against a real OpenBao server.

mod cleanup;
mod cluster;
mod contract;
mod custom;
pub(crate) mod database;
mod dynamic;
mod ended;
mod expiry;
mod hints;
mod lease;
mod location;
pub(crate) mod login;
mod outage;
mod permissions;
mod place;
mod refusal;
mod replication;
pub(crate) mod server;
mod stale;
mod standbys;
mod states;
pub(crate) mod tls;
