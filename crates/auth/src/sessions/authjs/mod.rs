//! Session tokens, session cookies and CSRF tokens that are compatible with next-auth 4, next-auth 5
//! and `@auth/core`.
//!
//! This module is for a Rust service that shares its login with a Next.js application. The encryption
//! keys are derived once for each [`KeyRing`](crate::KeyRing), so a request costs one decryption.
//!
//! ```
//! use std::time::Duration;
//!
//! use secretwell::auth::KeyRing;
//! use secretwell::auth::sessions::authjs::SessionTokens;
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Serialize, Deserialize)]
//! struct User {
//!     name: String,
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let ring = KeyRing::new("a secret of thirty-two bytes or more")?;
//! let tokens = SessionTokens::v5("authjs.session-token", &ring)?;
//! let ada = User { name: "Ada".into() };
//! let token = tokens.encode(&ada, Duration::from_secs(30 * 24 * 60 * 60))?;
//!
//! let session = tokens.decode::<User>(&token)?;
//! assert_eq!(session.claims.name, "Ada");
//! # Ok(())
//! # }
//! ```
//!
//! Most services use [`Sessions`], which combines the token with its cookie. A
//! [`LazyAuth`](crate::LazyAuth) builds it from the key ring that [`SecretOrder`] returns. With the
//! feature `tower`, `LazyAuth::session_layer` adds the response headers.
//!
//! # Differences from the packages
//! - Times have 64 bits. The packages use 32 bits, so tokens that they create from 2038 on are expired
//!   at once.
//! - Compressed tokens are rejected. The packages decode them, but do not create them.
//! - Base64 must be canonical: without padding, other alphabets or unused trailing bits.
//! - Claims must not nest deeper than 128 levels, and each number must fit into a 64-bit float, as far as
//!   the type of the claims contains them.
//! - An unpaired surrogate in a claim is decoded as U+FFFD.

#[cfg(test)]
mod agreement;
mod cookie;
mod csrf;
mod diagnosis;
mod order;
mod renewal;
mod session;
mod sessions;
#[cfg(test)]
mod tests;
mod tokens;
#[cfg(test)]
mod vectors;

pub use cookie::SessionCookie;
pub use csrf::{Csrf, CsrfCookie, CsrfTokens};
pub use order::SecretOrder;
pub use session::{Session, SessionTokens, Sessions};
