//! The Infisical backend, on a fake that is held to what was recorded on a real server, or on a real
//! server that the environment names.

mod changes;
mod clients;
mod contract;
mod login;
pub(crate) mod place;
mod reads;
mod replay;
mod trouble;
