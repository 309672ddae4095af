//! Secrets from [Infisical](https://infisical.com), cloud or self-hosted, for
//! [Secretwell](https://docs.rs/secretwell).
//!
//! For services that log in with a machine identity. A key's directory is a folder below the provider's,
//! its name a secret in it: below `/app`, the key `db/PASSWORD` is the secret `PASSWORD` of the folder
//! `/app/db`. So the keys of one folder cost one list, and a folder that has not changed costs an answer
//! without a body.
//!
//! ```
//! use secretwell::infisical::{InfisicalAuth, Credential, InfisicalProvider};
//!
//! # fn main() -> Result<(), secretwell::Error> {
//! let login = InfisicalAuth::universal("the-client-id", Credential::file("/etc/app/client-secret"));
//! let provider = InfisicalProvider::builder("https://app.infisical.com", login)?
//!     .project("my-project")
//!     .environment("prod")
//!     .folder("/app")
//!     .build()?; // no I/O: the first read logs in
//!
//! // The same, as configuration.
//! let url = "infisical://app.infisical.com/my-project/prod/app\
//!            ?client_id=the-client-id&client_secret_file=/etc/app/client-secret";
//! let provider = InfisicalProvider::from_url(url)?;
//! # Ok(())
//! # }
//! ```
//!
//! # Why this shape
//! A status of this server decides nothing by itself: a dead token, a wrong login and a mistyped query are
//! all 401, a folder that is not there lists as empty with 200. So every answer is read for what it says,
//! and an empty list is checked before a secret counts as absent. Servers allow few reads a minute, and
//! unchanged answers count: the whole folder is read at once, on condition that it has changed, and the
//! requests that are left are spread over the minute.
//!
//! # Limits
//! - Values are text, and the server trims white space around them when they are written.
//! - The last list of each folder that was read is kept, to compare with; `Debug` does not show it.
//! - Logging in by AWS, GCP or Azure is not there; give a token, or use another method.

mod api;
mod auth;
mod budget;
mod config;
mod folder;
mod provider;
mod wire;

pub use auth::InfisicalAuth;
pub use config::InfisicalBuilder;
pub use provider::InfisicalProvider;
pub use secretwell_http::{ClientConfig, Credential};
pub use wire::ApiVersion;

// A service shares these types between threads, so a change that makes one of them thread-bound must not
// compile.
const _: () = {
    const fn assert_send_sync<T: Send + Sync>() {}
    assert_send_sync::<InfisicalAuth>();
    assert_send_sync::<InfisicalBuilder>();
    assert_send_sync::<InfisicalProvider>();
};
