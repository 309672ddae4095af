//! The Vault backend, on a real OpenBao.

mod cluster;
mod contract;
mod lease;
mod login;
mod restart;
mod server;
mod states;
mod tls;
