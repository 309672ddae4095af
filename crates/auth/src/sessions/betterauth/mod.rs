//! Sessions that are compatible with Better Auth 1.7 and 1.4.

mod cache;
mod compact;
mod date;
mod json;
mod jwt;
mod mac;
mod payload;
mod secrets;
mod signed;
#[cfg(test)]
mod vectors;

pub use cache::{CacheStrategy, SessionCache};
pub use payload::{CachedSession, SessionRow};
pub use secrets::BetterAuthSecrets;
pub use signed::{SignedToken, TokenSigner, VerifiedToken};
