//! The Vault backend, on a real OpenBao.

mod contract;
mod server;
