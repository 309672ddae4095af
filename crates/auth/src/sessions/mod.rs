//! Sessions that a Rust service shares with a JavaScript application.
//!
//! | library of the application | module | feature |
//! | --- | --- | --- |
//! | Auth.js: next-auth 4, next-auth 5, `@auth/core` | [`authjs`] | `authjs` |
//! | Better Auth | [`betterauth`] | `betterauth` |
//!
//! Each module reads and writes the tokens and cookies of its library. A [`LazyAuth`](crate::LazyAuth) builds
//! its type `Sessions` from the secrets. What the libraries share is in this module:
//!
//! | task | API |
//! | --- | --- |
//! | take the session in a handler | the type `Session` of the library, in `Auth<Session<_>>` |
//! | response headers, renewal, redirect to the sign-in page | `LazyAuth::session_layer`, `SignIn`, feature `tower` |
//! | middleware of a framework without tower | `SessionLayer::start`, `SessionExchange::finish`, feature `tower` |
//! | several applications, or sessions beside other values | [`HasSessions`] |
//! | the scheme and attributes of the cookie | [`Scheme`], [`SameSite`] |

#[cfg(feature = "authjs")]
pub mod authjs;
#[cfg(feature = "betterauth")]
pub mod betterauth;

mod claims;
mod cookie;
// Some of the warnings are about the tokens of Auth.js only.
#[cfg_attr(not(feature = "authjs"), allow(dead_code))]
mod diagnosis;
mod encoding;
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
