#![doc = include_str!("../README.md")]
#![cfg_attr(secretwell_docs, feature(doc_cfg))]

mod from_url;
// The pages need all features, because their examples do.
#[cfg(any(doc, all(doctest, feature = "full")))]
pub mod guide;

pub use from_url::{credential_variables, from_url, split_urls};
pub use secrecy::{ExposeSecret, SecretString};
#[cfg(feature = "auth")]
#[doc(inline)]
pub use secretwell_auth as auth;
#[cfg(feature = "clients")]
#[doc(inline)]
pub use secretwell_clients as clients;
pub use secretwell_core::*;
#[cfg(feature = "env")]
#[doc(inline)]
pub use secretwell_env as env;
#[cfg(feature = "file")]
#[doc(inline)]
pub use secretwell_file as file;
#[cfg(feature = "infisical")]
#[doc(inline)]
pub use secretwell_infisical as infisical;
#[cfg(feature = "notify")]
#[doc(inline)]
pub use secretwell_notify as notify;
pub use secretwell_resolver::*;
#[cfg(feature = "vault")]
#[doc(inline)]
pub use secretwell_vault as vault;
