//! The Vault backend, on a real OpenBao.

mod cluster;
mod contract;
mod dynamic;
mod lag;
mod lease;
mod login;
pub(crate) mod server;
mod states;
mod tls;
