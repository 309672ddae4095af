//! The Vault backend, on a real OpenBao.

mod cluster;
mod contract;
mod dynamic;
mod ends;
mod expiry;
mod lag;
mod lease;
mod login;
mod place;
pub(crate) mod server;
mod states;
pub(crate) mod tls;
