//! Secrets from environment variables, for [Secretwell](https://docs.rs/secretwell).
//!
//! The crate is for services that receive their secrets from an orchestrator, a process manager or a
//! shell. The name of a variable consists of an optional prefix and the segments of the key, joined with
//! `_`. With the prefix `APP_`, the key `DB/PASSWORD` is the variable `APP_DB_PASSWORD`.
//! [`separator`](EnvProvider::separator) sets another text than `_`.
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
//! # Why this shape
//! The provider reads the environment at each call and keeps no copy. If the process sets a variable
//! after its start, a [`Resolver`](https://docs.rs/secretwell/latest/secretwell/struct.Resolver.html)
//! returns the new value within 1 s.
//!
//! Values are returned unchanged: nothing is decoded, unquoted or trimmed. A value that is not Unicode
//! is returned as bytes. A variable that is set but empty is absent, because many tools pass an unset variable as an
//! empty one. [`keep_empty`](EnvProvider::keep_empty) returns it as a value. A variable with only white space is a value.
//!
//! With [`file_suffix`](EnvProvider::file_suffix), a variable can name a file that contains the value, as in the official
//! images of Docker.
//!
//! # Limits
//! A process cannot wipe its environment. Everyone who can inspect the process can read the values, so
//! prefer files if you can choose. On Windows the names of variables are case-insensitive.

mod config;
mod environment;
mod named_file;
mod names;
mod provider;
#[cfg(test)]
mod tests;
mod url;

pub use environment::Environment;
pub use provider::EnvProvider;

// Services share these types between threads. A change that removes `Send` or `Sync` from one of them must
// not compile.
const _: () = {
    const fn assert_send_sync<T: Send + Sync>() {}
    assert_send_sync::<EnvProvider>();
};
