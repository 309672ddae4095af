//! Secrets from HashiCorp Vault and OpenBao, for [Secretwell](https://docs.rs/secretwell).
//!
//! This crate is for services that read secrets from the key-value engine, version 1 or 2. It also reads
//! dynamic secrets, such as database credentials. Services log in with what their platform provides, such as
//! a Kubernetes service account.
//!
//! ```
//! use secretwell::vault::{VaultAuth, VaultProvider};
//!
//! # fn main() -> Result<(), secretwell::Error> {
//! let provider = VaultProvider::builder(["https://vault.internal:8200"], VaultAuth::kubernetes("app"))?
//!     .mount("secret")
//!     .path("app")
//!     .build()?; // the first read logs in
//!
//! // The same provider, configured by a URL.
//! let url = "vault://vault.internal:8200/secret/app?auth=kubernetes&role=app";
//! let provider = VaultProvider::from_url(url)?;
//! # drop(provider);
//! # Ok(())
//! # }
//! ```
//!
//! # Keys
//! The prefix of a key is the path of a secret below the provider's path. The name of the key is a field of
//! that secret. Below `secret/app`, the key `db/PASSWORD` is the field `PASSWORD` of `secret/app/db`.
//!
//! # Why this shape
//! The keys of one secret share one request, and different secrets are read in parallel. One login serves all
//! callers. Its token is renewed in the background, and replaced by a new login before it expires. A wrong
//! secret id or password is not sent again until it changes or five minutes have passed, because the server
//! locks an account after a few wrong attempts. If a server is sealed, unreachable, or a standby without an active
//! server, the next address is tried.
//!
//! # Limits
//! - The server stores numbers as floating point. Write exact numbers as text.
//! - The server cannot store bytes that are not UTF-8. Write them as base64.
//! - The buffers of the TLS library and of the JSON parser's unescaping are not wiped.

mod auth;
mod config;
mod detection;
mod dynamic;
mod error;
mod header;
mod lease;
mod location;
mod lock;
mod place;
mod provider;
mod server;
mod session;
mod settings;
mod turns;
mod wire;

pub use auth::VaultAuth;
pub use config::VaultBuilder;
pub use provider::VaultProvider;
pub use secretwell_http::{
    AwsCredentials, AwsIdentity, AwsKeys, ClientConfig, Credential, LoginBody, json_object,
};
pub use wire::KvVersion;

// Services share these types between threads. A change that removes `Send` or `Sync` from one of them must
// not compile.
const _: () = {
    const fn assert_send_sync<T: Send + Sync>() {}
    assert_send_sync::<VaultAuth>();
    assert_send_sync::<VaultBuilder>();
    assert_send_sync::<VaultProvider>();
};
