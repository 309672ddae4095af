//! Session tokens and the cookie cache of Better Auth 1.7, for a service that shares the login of a
//! JavaScript application. Cookies of version 1.4 are readable.
//!
//! The application has two cookies. `session_token` is a signed token: see [`TokenSigner`]. Only the
//! database knows whether it is still a session. `session_data` is a cache of the rows of the session and its
//! user: see [`SessionCache`]. The types show which of them was verified:
//!
//! | type | what is known |
//! | --- | --- |
//! | [`VerifiedToken`] | the application has signed this token |
//! | [`CachedSession`] | the user, as of the time of the cache |
//!
//! ```
//! use std::time::{Duration, SystemTime};
//!
//! use secretwell::auth::sessions::Scheme;
//! use secretwell::auth::sessions::betterauth::{
//!     BetterAuthSecrets, CacheStrategy, Remember, SessionCookies, SessionRow, Sessions,
//! };
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Serialize, Deserialize)]
//! struct User {
//!     id: String,
//!     email: String,
//!     name: String,
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let list = "2:the newer secret of the application,1:the older secret of the application";
//! let secrets = BetterAuthSecrets::from_list(list)?;
//! let cookies = SessionCookies::new(Scheme::Https);
//! let sessions = Sessions::with_cache(cookies, &secrets, CacheStrategy::Compact)?;
//!
//! // What the application does at a log-in.
//! let end = SystemTime::now() + Duration::from_secs(7 * 24 * 60 * 60);
//! let row = SessionRow::new("session-1", "user-1", "tOkEnAbCdEfGhIjKlMnOpQrStUvWx0123", end);
//! let ada = User { id: "user-1".into(), email: "ada@example.test".into(), name: "Ada".into() };
//! let set_cookies = sessions.start(&row, &ada, Remember::UntilExpiry, "")?;
//!
//! // What the service does with the `Cookie` header of the next request.
//! let pairs: Vec<_> = set_cookies.iter().filter_map(|set| set.split(';').next()).collect();
//! let header = pairs.join("; ");
//! let session = sessions.find::<User>(&header)?.expect("a valid cache");
//! assert_eq!(session.user.name, "Ada");
//! let token = sessions.token(&header).expect("a valid token");
//! assert_eq!(token.expose(), "tOkEnAbCdEfGhIjKlMnOpQrStUvWx0123");
//! # Ok(())
//! # }
//! ```
//!
//! A [`LazyAuth`](crate::LazyAuth) builds [`Sessions`] from [`BetterAuthSecrets::from_context`]. With the
//! feature `tower`, `Session` and `TokenWithCache` are the principals of requests, and
//! `LazyAuth::session_layer` adds the response headers.
//!
//! # Differences from the package
//! - Base64 must be canonical. A compact cache must have the members and the order that the package writes.
//! - A JWT must use HS256. The package also accepts HS384 and HS512.
//! - A cache without an end is refused, and so is a bearer token without a signature.
//! - A compact cache is accepted if a column looks like a date without milliseconds. The package cannot read
//!   such a cache, although it has written it.
//! - Times have 64 bits. The package uses 32 bits for `jwe`, so its caches from 2038 on are expired at once.
//! - Claims that the service reads must not nest deeper than 128 levels. An unpaired surrogate in a claim is
//!   decoded as U+FFFD, and refused in an id or a token.

mod cache;
mod compact;
mod cookies;
mod date;
mod diagnosis;
mod json;
mod jwt;
mod mac;
mod object;
mod payload;
#[cfg(feature = "tower")]
mod principal;
mod secrets;
#[cfg(test)]
mod session_tests;
mod sessions;
mod signed;
#[cfg(test)]
mod tests;
mod user;
#[cfg(test)]
mod vectors;

pub use cache::{CacheStrategy, SessionCache};
pub use cookies::{CookieKey, SessionCookies};
pub use payload::{CachedSession, SessionRow};
#[cfg(feature = "tower")]
pub use principal::{Session, TokenWithCache};
pub use secrets::BetterAuthSecrets;
pub use sessions::{Remember, Sessions};
pub use signed::{SignedToken, TokenSigner, VerifiedToken};
