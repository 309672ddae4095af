//! Sessions that a Rust service shares with a JavaScript application.
//!
//! | library of the application | module | feature |
//! | --- | --- | --- |
//! | Auth.js: next-auth 4, next-auth 5, `@auth/core` | [`authjs`] | `authjs` |
//! | Better Auth | [`betterauth`] | `betterauth` |
//!
//! Each module reads and writes the tokens and cookies of its library. What they share is in this module.

#[cfg(feature = "authjs")]
pub mod authjs;
#[cfg(feature = "betterauth")]
pub mod betterauth;

mod claims;
mod cookie;
// Some of the warnings are about the tokens of Auth.js only.
#[cfg_attr(not(feature = "authjs"), allow(dead_code))]
mod diagnosis;
mod error;
mod format;
mod jwe;
mod keys;
#[cfg(feature = "tower")]
mod layer;
mod mismatch;
#[cfg(feature = "tower")]
mod sign_in;
mod text;

#[cfg(feature = "tower")]
pub use cookie::cookies;
pub use cookie::{SameSite, Scheme};
pub use error::{ClaimsError, TokenError};
pub use format::{HasSessions, SessionFormat};
#[cfg(feature = "tower")]
pub use layer::{SessionExchange, SessionLayer, SessionService};
#[cfg(feature = "tower")]
pub use sign_in::SignIn;
