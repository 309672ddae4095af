//! Secrets from files, for [Secretwell](https://docs.rs/secretwell).
//!
//! For services whose secrets are mounted or written beside them: Docker secrets, Kubernetes volumes,
//! systemd credentials, a `.env` file on a developer's machine. Either each secret is a file below a
//! [directory](FileProvider::directory), or one [document](FileProvider::document) holds them all.
//!
//! ```
//! use secretwell::{SecretKey, SecretProvider};
//! use secretwell::file::FileProvider;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let folder = tempfile::tempdir()?;
//! std::fs::create_dir(folder.path().join("db"))?;
//! std::fs::write(folder.path().join("db/PASSWORD"), "s3cr3t\n")?;
//!
//! let provider = FileProvider::directory(folder.path());
//! let password = provider.get(&SecretKey::parse("db/PASSWORD")?).await?;
//! assert_eq!(password.value.expose_text()?, "s3cr3t", "without the newline");
//! # Ok(())
//! # }
//! ```
//!
//! Making a provider does no I/O: a directory that is not mounted yet is a secret that is not there
//! yet, and its arrival is noticed. Files are read anew at each call, from one moment each, on threads
//! that may block. [`watch`](secretwell_core::SecretProvider::watch) tells of changes by the platform's
//! notices and, where these do not come, by looking every few seconds.
//!
//! # What stands in place of a file
//! Nothing leads out of a directory, neither `..` nor a symbolic link; links inside it are followed,
//! which is how Kubernetes replaces a whole volume in one step. A directory, a named pipe, a device, a
//! file that is too large or may not be read: each has its own error. Values of a document that are no
//! text come as compact JSON; `null` is absent; a name that stands twice is an error.
//!
//! # Limits
//! Whoever replaces a secret should write a new file and rename it into place. A file that is emptied
//! and then written can be seen empty in between.

mod config;
mod document;
mod dotenv;
mod open;
mod provider;
#[cfg(test)]
mod tests;
mod url;
mod watch;

pub use config::Format;
pub use provider::FileProvider;

// A service shares these types between threads, so a change that makes one of them thread-bound must not
// compile.
const _: () = {
    const fn assert_send_sync<T: Send + Sync>() {}
    assert_send_sync::<FileProvider>();
};
