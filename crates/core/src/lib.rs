//! The core of Secretwell (draft docs).

mod adapters;
mod capabilities;
mod chain;
mod change;
mod error;
mod join;
mod key;
mod load;
mod memory;
mod provider;
mod resolver;
mod source;
mod value;
mod version;

pub use adapters::{Mapped, SecretProviderExt, WithDeadline};
pub use capabilities::Capabilities;
pub use chain::Chain;
pub use change::{Change, ChangeSender, ChangeStream};
pub use error::{Error, ErrorKind};
pub use key::{KeyPrefix, SecretKey};
pub use load::{LoadError, Loaded, Plan, PlannedField};
pub use memory::MemoryProvider;
pub use provider::SecretProvider;
pub use resolver::{Freshness, OnDenied, Resolved, Resolver, ResolverBuilder, Watch};
pub use source::Source;
pub use value::{Secret, SecretValue};
pub use version::Version;
