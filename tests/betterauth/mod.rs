//! Tests with the real Better Auth: the programs of `docs/guides/better-auth.md`, and a service that shares their
//! sessions.

mod browser;
mod guide;
mod jwks;
mod late_secret;
mod next;
mod rotation;
mod secret;
mod tokens;

/// A secret of an application.
const FIRST: &str = "the first secret: 0123456789 abcdefghijklm";
/// The secret that replaces it.
const SECOND: &str = "the second secret; 9876543210 nopqrstuvwxyz";
/// The secret that Better Auth uses in development if none is set.
const PUBLISHED: &str = "better-auth-secret-12345678901234567890";
