//! The core of [Secretwell](https://docs.rs/secretwell): what a secret provider is, and what every
//! service wants on top of one.
//!
//! For authors of backends, who implement [`SecretProvider`]; services use it through the `secretwell`
//! crate, which re-exports all of this and brings the backends.
//!
//! ```
//! use secretwell::{MemoryProvider, Resolver, SecretProviderExt};
//! use serde::Deserialize;
//!
//! #[derive(Deserialize)]
//! #[serde(rename_all = "SCREAMING_SNAKE_CASE")]
//! struct Settings {
//!     auth_secret: secrecy::SecretString,
//!     port: u16,
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let vault = MemoryProvider::from_iter([("AUTH_SECRET", "s3cr3t")]);
//! let defaults = MemoryProvider::from_iter([("PORT", "8080")]);
//!
//! let resolver = Resolver::new(vault.or_else(defaults));
//! let settings: Settings = resolver.load().await?;
//! assert_eq!(settings.port, 8080);
//! # Ok(())
//! # }
//! ```
//!
//! # Why this shape
//! A provider is small and honest: it reads, once, and says what it saw. Everything that has to do with
//! time and trouble stands once, in the [`Resolver`], and not again in each backend: caching, refresh,
//! retries, staleness. Everything that combines sources is a provider itself: [`Chain`],
//! [`Mapped`], [`WithDeadline`]. And what a service needs is said once, by the fields of a struct that
//! [`Resolver::load`] fills.
//!
//! | to | use |
//! | --- | --- |
//! | read one secret | [`Resolver::get`], or [`Resolver::with_cached`] where nanoseconds count |
//! | read all that a type needs | [`Resolver::load`]; [`Plan`] tells the keys beforehand |
//! | ask several sources | [`SecretProviderExt::or_else`] |
//! | read under other names | [`SecretProviderExt::prefixed`], [`SecretProviderExt::renamed`] |
//! | learn of changes | [`Resolver::watch`] |
//! | test without a backend | [`MemoryProvider`], and the crate `secretwell-testkit` |
//!
//! # What is not here
//! No HTTP and no TLS. No global state. No cache but the resolver's. No value in any message.

mod adapters;
pub mod backend;
mod capabilities;
mod chain;
mod change;
mod error;
mod join;
mod key;
mod memory;
mod origin;
mod provider;
mod value;
mod version;

pub use adapters::{Mapped, SecretProviderExt, WithDeadline};
pub use chain::Chain;
pub use error::{Error, ErrorKind};
pub use key::{KeyPrefix, SecretKey};
pub use memory::MemoryProvider;
pub use origin::Origin;
pub use provider::SecretProvider;
pub use value::{Secret, SecretValue};
pub use version::Version;

// A service shares these types between threads, so a change that makes one of them thread-bound must not
// compile.
const _: () = {
    const fn assert_send_sync<T: Send + Sync>() {}
    assert_send_sync::<Chain>();
    assert_send_sync::<Error>();
    assert_send_sync::<KeyPrefix>();
    assert_send_sync::<MemoryProvider>();
    assert_send_sync::<Origin>();
    assert_send_sync::<Secret>();
    assert_send_sync::<SecretKey>();
    assert_send_sync::<SecretValue>();
    assert_send_sync::<Version>();
    assert_send_sync::<backend::ChangeSender>();
    assert_send_sync::<backend::ChangeStream>();
};
