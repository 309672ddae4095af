//! Secrets from HashiCorp Vault and OpenBao, for [Secretwell](https://docs.rs/secretwell).
//!
//! For services whose secrets are in the key-value engine, version 1 or 2, and that log in by what their
//! platform gives them. A key's directory is the path of a secret below the provider's, its name a field
//! of it: below `secret/app`, the key `db/PASSWORD` is the field `PASSWORD` of `secret/app/db`. So the
//! keys of one secret cost one read, and different secrets are read side by side.
//!
//! ```
//! use secretwell::vault::{VaultAuth, VaultProvider};
//!
//! # fn main() -> Result<(), secretwell::Error> {
//! let provider = VaultProvider::builder(["https://vault.internal:8200"], VaultAuth::kubernetes("app"))?
//!     .mount("secret")
//!     .path("app")
//!     .build()?; // no I/O: the first read logs in
//!
//! // The same, as configuration.
//! let url = "vault://vault.internal:8200/secret/app?auth=kubernetes&role=app";
//! let provider = VaultProvider::from_url(url)?;
//! # Ok(())
//! # }
//! ```
//!
//! One login serves all callers; its token is renewed ahead, and replaced by a new login before it ends
//! for good. A credential that was refused is not sent again until it has changed or five minutes have
//! passed, because the server locks out whoever goes on guessing. When a server is sealed, a standby
//! without a leader, or gone, the next address is asked.
//!
//! # Limits
//! - The server keeps numbers as floating point: write what must be exact as text. Bytes that are no
//!   UTF-8 cannot be kept at all: write them as base64.
//! - The buffers of TLS, and those in which JSON's escapes are undone, are not ours to wipe.

mod auth;
mod config;
mod lease;
mod provider;
mod server;
mod wire;

pub use auth::VaultAuth;
pub use config::VaultBuilder;
pub use provider::VaultProvider;
pub use secretwell_http::{ClientConfig, Credential};
pub use wire::KvVersion;

// A service shares these types between threads, so a change that makes one of them thread-bound must not
// compile.
const _: () = {
    const fn assert_send_sync<T: Send + Sync>() {}
    assert_send_sync::<VaultAuth>();
    assert_send_sync::<VaultBuilder>();
    assert_send_sync::<VaultProvider>();
};
