//! Secret provider for [Infisical](https://infisical.com), cloud or self-hosted. Part of
//! [Secretwell](https://docs.rs/secretwell).
//!
//! This crate is for services that log in with a machine identity. A key's prefix is a folder below the
//! provider's folder, and its name is a secret in that folder. With the folder `/app`, the key
//! `db/PASSWORD` is the secret `PASSWORD` in the folder `/app/db`. All keys of one folder are read with
//! one list request. If the folder has not changed, the server responds without a body.
//!
//! ```
//! use secretwell::infisical::{Credential, InfisicalAuth, InfisicalProvider};
//!
//! # fn main() -> Result<(), secretwell::Error> {
//! let login = InfisicalAuth::universal("the-client-id", Credential::file("/etc/app/client-secret"));
//! let provider = InfisicalProvider::builder("https://app.infisical.com", login)?
//!     .project("my-project")
//!     .environment("prod")
//!     .folder("/app")
//!     .build()?; // does no I/O: the first read logs in
//!
//! // The same provider, configured by a URL.
//! let url = "infisical://app.infisical.com/my-project/prod/app\
//!            ?client_id=the-client-id&client_secret_file=/etc/app/client-secret";
//! let provider = InfisicalProvider::from_url(url)?;
//! # Ok(())
//! # }
//! ```
//!
//! # Why this shape
//! An HTTP status of this server is ambiguous. It responds 401 to an expired token, to a wrong login and
//! to a mistyped query, and it lists a missing folder as empty with 200. The provider therefore reads the
//! error name in each response, and checks the folder before it reports a secret as missing. A response
//! without the shape of this server is from another program, such as a gateway, and never means that a secret
//! is missing or that a login was refused.
//!
//! Servers allow few reads per minute. A read counts even if its response has no body. The provider
//! therefore reads whole folders with conditional requests, and the first reads of several keys share a list.
//! When few requests remain, it spreads them over the rest of the minute.
//!
//! # Limits
//! - Values are text. The server trims white space around a value when it is written.
//! - Servers of 2024 change `$$`, `$&` and `$1` in a value that another secret refers to. The provider cannot
//!   see that. Do not use references to such values on these servers.
//! - The provider keeps the last list of each folder in memory, to compare it with the server's.
//!   `Debug` does not print it.

mod api;
mod auth;
mod budget;
mod config;
mod error;
mod folder;
mod lists;
mod provider;
mod reference;
mod settings;
mod values;
mod wire;

pub use auth::InfisicalAuth;
pub use config::InfisicalBuilder;
pub use provider::InfisicalProvider;
pub use secretwell_http::{
    AwsCredentials, AwsIdentity, AwsKeys, ClientConfig, Credential, LoginBody, json_object,
};
pub use settings::ApiVersion;

// Services share these types between threads. A change that removes `Send` or `Sync` from one of them must
// not compile.
const _: () = {
    const fn assert_send_sync<T: Send + Sync>() {}
    assert_send_sync::<InfisicalAuth>();
    assert_send_sync::<InfisicalBuilder>();
    assert_send_sync::<InfisicalProvider>();
};
