//! Secrets from environment variables, for [Secretwell](https://docs.rs/secretwell).
//!
//! For services that are handed their secrets by whatever starts them: an orchestrator, a process
//! manager, a shell. A key's segments, joined by `_` behind an optional prefix, are the variable's
//! name: with the prefix `APP_`, the key `DB/PASSWORD` is the variable `APP_DB_PASSWORD`.
//!
//! ```
//! use secretwell::{SecretProvider, SecretKey};
//! use secretwell::env::EnvProvider;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), secretwell::Error> {
//! let provider = EnvProvider::with_prefix("CARGO_PKG_");
//! let name = provider.get(&SecretKey::parse("NAME")?).await?;
//! assert_eq!(name.value.expose_text()?, "secretwell-env");
//! # Ok(())
//! # }
//! ```
//!
//! The environment is read anew at each call, never copied: a variable that the process sets for
//! itself after the start is seen, within a second behind a
//! [`Resolver`](secretwell_resolver::Resolver). Nothing is decoded, unquoted or trimmed, and a value that
//! is not Unicode comes as its bytes.
//!
//! # Limits
//! A process cannot wipe its environment: the value stays readable to whoever may look into the
//! process. Prefer files where there is a choice. On Windows the names of variables have no case.

mod provider;

pub use provider::{EnvProvider, Environment};

// A service shares these types between threads, so a change that makes one of them thread-bound must not
// compile.
const _: () = {
    const fn assert_send_sync<T: Send + Sync>() {}
    assert_send_sync::<EnvProvider>();
};
