//! Tests of the Infisical backend. They run on a fake server, which is compared with recordings of a real
//! one. If the environment names a real server, most of them run on that instead.

mod callers;
mod changes;
mod clients;
mod contract;
mod custom;
mod failures;
mod hostile;
mod imports;
mod lists;
mod login;
pub(crate) mod place;
mod reads;
mod references;
mod replay;
mod versions;
