#![doc = include_str!("../README.md")]

mod from_url;

pub use from_url::{from_url, split_urls};
pub use secrecy::{ExposeSecret, SecretString};
#[cfg(feature = "auth")]
#[doc(inline)]
pub use secretwell_auth as auth;
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
pub use secretwell_resolver::*;
#[cfg(feature = "vault")]
#[doc(inline)]
pub use secretwell_vault as vault;

/// The examples of the documents compile and run.
#[cfg(doctest)]
mod documents {
    #[doc = include_str!("../../../docs/contract.md")]
    struct Contract;
    #[doc = include_str!("../../../docs/backends/env.md")]
    struct Env;
    #[doc = include_str!("../../../docs/backends/file.md")]
    struct File;
    #[doc = include_str!("../../../docs/backends/infisical.md")]
    struct Infisical;
    #[doc = include_str!("../../../docs/backends/vault.md")]
    struct Vault;
    #[doc = include_str!("../../../docs/authjs.md")]
    struct AuthJs;
    #[doc = include_str!("../../../docs/recipes.md")]
    struct Recipes;
}
