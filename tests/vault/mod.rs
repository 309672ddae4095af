//! The Vault backend, on a real OpenBao.

mod contract;
mod lease;
mod login;
mod server;
mod tls;
