//! Parsing and classification of the server's responses.
//!
//! The behaviour was observed on OpenBao 2.7.2. The statements about HashiCorp Vault are from its source and
//! documentation.

mod capabilities;
mod document;
mod envelope;
mod failure;
mod index;
mod lease;
mod login;
mod mount;
mod protocol;
mod recognition;
#[cfg(test)]
mod tests;

pub(crate) use capabilities::{CAPABILITIES, capabilities_body, check_capabilities};
pub(crate) use document::{Document, other_version, read_v1, read_v2, server_clock, time};
pub(crate) use failure::{
    Forbidden, denied_write, forbidden, is_missing_mount, wrong_version_1, wrong_version_2,
};
pub(crate) use index::{HEALTH, Health, INDEX, Index, forward_to_active, refuses_to_forward};
pub(crate) use lease::{LeaseInfo, lease_info, updated_lease};
pub(crate) use login::{
    check_token, is_bare_denial, is_outside_of_api, login_refused, looked_up_token, no_api,
    refused_token, token_lease, unwrapped_secret_id, wrapping_token,
};
pub use mount::KvVersion;
pub(crate) use mount::{Mount, listed, mount};
pub(crate) use protocol::{SEAL_STATUS, Vault, is_sealed, seal_status};
