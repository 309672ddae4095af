//! Caching, background refresh and typed loading for any [`SecretProvider`].
//!
//! This crate is for services that read secrets at run time. Services use it through the crate
//! `secretwell`, which re-exports it. Authors of backends need only `secretwell-core`.
//!
//! ```
//! use secretwell::{MemoryProvider, Resolver, SecretProviderExt, SecretString};
//! use serde::Deserialize;
//!
//! #[derive(Deserialize)]
//! #[serde(rename_all = "SCREAMING_SNAKE_CASE")]
//! struct Settings {
//!     auth_secret: SecretString,
//!     port: u16,
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let secrets = MemoryProvider::from_iter([("AUTH_SECRET", "s3cr3t")]);
//! let defaults = MemoryProvider::from_iter([("PORT", "8080")]);
//!
//! let resolver = Resolver::new(secrets.or_else(defaults));
//! let settings: Settings = resolver.load().await?;
//! assert_eq!(settings.port, 8080);
//! # Ok(())
//! # }
//! ```
//!
//! # Why this shape
//! A provider reads its source once per call and reports the result. This crate implements everything
//! that depends on time once for all providers: caching, refresh, retries and stale values.
//!
//! A service declares the secrets that it needs as fields of a struct. [`Resolver::load`] reads them
//! all at once and reports all problems together.
//!
//! | to | use |
//! | --- | --- |
//! | read one secret | [`Resolver::get`], or [`Resolver::with_cached`] on a hot path |
//! | read all secrets of a type | [`Resolver::load`] |
//! | get the keys of a type before reading | [`load::Plan`] |
//! | wait for changes | [`Resolver::watch`] |
//! | write an audit log | [`ResolverBuilder::on_fetch`], [`ResolverBuilder::on_change`], [`ResolverBuilder::on_access`] |
//! | read without async code | `blocking::Resolver`, feature `blocking` |
//!
//! # Limits
//! This crate contains no backend, no HTTP and no TLS. Global state contains no secret and no setting, only the clocks,
//! the numbers of the threads and the runtime of the feature `blocking`.
//!
//! [`SecretProvider`]: secretwell_core::SecretProvider

#![cfg_attr(secretwell_docs, feature(doc_cfg))]

mod audit;
mod backoff;
#[cfg(feature = "blocking")]
pub mod blocking;
mod breaker;
mod builder;
mod cache;
#[doc(hidden)]
pub mod clock;
mod counters;
mod decide;
mod entry;
mod error;
mod event;
mod fetch;
#[cfg(test)]
mod fixtures;
mod in_flight;
mod key_map;
mod link;
pub mod load;
mod map;
mod read;
mod reading;
mod refresher;
#[cfg(feature = "metrics")]
mod report;
mod resolved;
mod resolver;
mod settings;
mod settle;
mod shared;
mod signal;
mod slots;
mod source;
mod sync;
mod trail;
mod watch;

#[cfg(all(test, shuttle))]
mod concurrency;

pub use audit::SecretEvent;
pub use builder::ResolverBuilder;
pub use counters::Counters;
pub use error::LoadError;
pub use resolved::{Freshness, Resolved};
pub use resolver::Resolver;
pub use settings::OnDenied;
pub use watch::{Update, Watch};

// Services share these types between threads. A change that removes `Send` or `Sync` from one of them
// must not compile.
const _: () = {
    const fn assert_send_sync<T: Send + Sync>() {}
    assert_send_sync::<Freshness>();
    assert_send_sync::<LoadError>();
    assert_send_sync::<Resolved>();
    assert_send_sync::<Resolver>();
    assert_send_sync::<ResolverBuilder>();
    assert_send_sync::<SecretEvent>();
    assert_send_sync::<Watch>();
    #[cfg(feature = "blocking")]
    assert_send_sync::<blocking::Resolver>();
    assert_send_sync::<load::Plan<()>>();
};
