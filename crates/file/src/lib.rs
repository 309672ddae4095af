//! Secrets from files, for [Secretwell](https://docs.rs/secretwell).
//!
//! The crate is for services whose platform mounts or writes secrets as files: Docker secrets,
//! Kubernetes volumes, systemd credentials, or a `.env` file on a developer's machine. There are two
//! layouts:
//!
//! - a [directory](FileProvider::directory) in which each secret is one file
//! - one [document](FileProvider::document) that contains all secrets: `.env`, JSON, YAML or TOML
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
//! // One newline at the end of the file is removed.
//! assert_eq!(password.value.expose_text()?, "s3cr3t");
//! # Ok(())
//! # }
//! ```
//!
//! # Why this shape
//! Creating a provider does no I/O. If a directory is not mounted yet, its secrets are `NotFound`, and
//! [`watch`](secretwell_core::SecretProvider::watch) reports it as soon as it is mounted.
//!
//! Files are read at each call, on tokio's blocking threads. A file that changes during a read is read
//! again, so a value is never a mix of old and new bytes. Changes are detected by the file notifications
//! of the platform and, where these are not available, by polling every few seconds.
//!
//! The provider remembers hashes of what it has read. While a file is written in place, reads wait or fail
//! with `Unavailable`, so that an empty or incomplete file is not taken for an absence. See
//! [`FileProvider::rewrite_grace`]. The wait needs a tokio runtime with a timer.
//!
//! All keys of one `get_many` are read from one generation of a Kubernetes volume.
//!
//! # Special files and values
//! - Only a path at which nothing exists is absent. A file in the place of a directory, a directory in the
//!   place of a document and a path through a file are `InvalidConfig`.
//! - A path cannot leave the directory, neither by `..` nor by a symbolic link. Links inside the
//!   directory are followed, because Kubernetes replaces a whole volume by swapping a link.
//! - A directory, a named pipe, a device, a file that is too large and an unreadable file each have
//!   their own error.
//! - In a document, a value without quotes is returned as it is written, and a list or a table as compact
//!   JSON. `null` is absent. A duplicate name is an error, except in `.env`, where the last value is used.
//!
//! # Limits
//! Replace a secret by writing a new file and renaming it to the old name. If a program writes to the existing
//! file and pauses for more than 250 ms in the middle of a value, the first part of the value counts.

mod config;
mod directory;
mod document;
mod dotenv;
mod identity;
mod list;
mod memory;
mod open;
mod permissions;
mod place;
mod provider;
mod reader;
mod rewrite;
#[cfg(test)]
mod tests;
mod url;
mod volume;
mod watch;

pub use config::{Dialect, Format};
pub use provider::FileProvider;

// Services share these types between threads. A change that removes `Send` or `Sync` from one of them must
// not compile.
const _: () = {
    const fn assert_send_sync<T: Send + Sync>() {}
    assert_send_sync::<FileProvider>();
};
