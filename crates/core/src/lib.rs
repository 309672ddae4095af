//! The [`SecretProvider`] trait, the types that it uses, and adapters that combine providers.
//!
//! This crate is for authors of backends, who implement [`SecretProvider`]. Services use the crate
//! `secretwell`, which re-exports everything here and adds the backends and the resolver.
//!
//! ```
//! use secretwell::{MemoryProvider, SecretKey, SecretProvider, SecretProviderExt};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), secretwell::Error> {
//! let secrets = MemoryProvider::from_iter([("AUTH_SECRET", "s3cr3t")]);
//! let defaults = MemoryProvider::from_iter([("PORT", "8080")]);
//!
//! // The second provider is read only for keys that the first one does not have.
//! let provider = secrets.or_else(defaults);
//! let port = provider.get(&SecretKey::parse("PORT")?).await?;
//! assert_eq!(port.value.expose_text()?, "8080");
//! # Ok(())
//! # }
//! ```
//!
//! # Why this shape
//! A provider reads its source once per call and reports the result. It has no cache, no background
//! refresh and no retry schedule. The resolver in the crate `secretwell-resolver` implements these once
//! for all providers. An adapter that combines or changes providers is a provider itself: [`Chain`],
//! [`Mapped`], [`WithDeadline`].
//!
//! | to | use |
//! | --- | --- |
//! | implement a backend | [`SecretProvider`] and the module [`backend`] |
//! | fall back to another source | [`SecretProviderExt::or_else`] |
//! | read keys under other names | [`SecretProviderExt::prefixed`], [`SecretProviderExt::renamed`] |
//! | limit the time of each call | [`SecretProviderExt::with_deadline`] |
//! | test without a backend | [`MemoryProvider`] and the crate `secretwell-testkit` |
//!
//! # Limits
//! This crate has no HTTP, no TLS and no cache. Global state contains no secret and no setting. No message contains a
//! secret value.

mod adapters;
pub mod backend;
mod batch;
mod capabilities;
mod chain;
mod change;
mod combine;
mod encrypted;
mod error;
mod fingerprint;
mod join;
#[doc(hidden)]
pub mod json;
mod key;
mod memory;
mod notice;
mod origin;
mod panics;
mod provider;
#[doc(hidden)]
pub mod suspension;
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

// Services share these types between threads. A change that removes `Send` or `Sync` from one of them
// must not compile.
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
