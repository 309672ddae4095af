//! The Vault backend, on a real OpenBao.

mod contract;
mod login;
mod server;
mod tls;
