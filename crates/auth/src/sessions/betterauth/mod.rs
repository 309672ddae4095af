//! Sessions that are compatible with Better Auth 1.7 and 1.4.

mod cache;
mod compact;
mod cookies;
mod date;
mod json;
mod jwt;
mod mac;
mod payload;
#[cfg(feature = "tower")]
mod principal;
mod secrets;
mod sessions;
mod signed;
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
