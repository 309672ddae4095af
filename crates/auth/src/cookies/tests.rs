//! Tests with the real axum-extra and tower-sessions.

mod header;
#[cfg(feature = "axum")]
mod jar;
#[cfg(feature = "axum")]
mod layer;

use super::*;
use crate::{BuildContext, BuildError, KeyRing, LazyAuth};

/// Of 64 bytes, so that it can also be a master key.
const OLD: &str = "the old secret: K7gNU3sdo+OL0wNhqoVWhr3g6s1xYv72ol/pe/Unols=+OL0";
const NEW: &str = "the new secret: 3g6s1xYv72ol/pe/Unols=K7gNU3sdo+OL0wNhqoVWhr+s1x";

fn ring(secrets: &[&str]) -> KeyRing {
    let ring = KeyRing::new(secrets[0]).unwrap();
    let mut previous = secrets[1..].iter().copied();
    previous.try_fold(ring, KeyRing::with_previous).unwrap()
}

fn keys(secrets: &[&str]) -> CookieKeys {
    CookieKeys::derive(&ring(secrets)).unwrap()
}

#[derive(serde::Deserialize)]
#[expect(dead_code, reason = "the builds use its key ring")]
struct Secrets {
    cookie_secret: String,
}

/// An auth whose previous secrets verify for an hour, and whose new secrets sign at once.
fn lazy_keys(memory: &secretwell_core::MemoryProvider) -> LazyAuth<CookieKeys> {
    let resolver = secretwell_resolver::Resolver::new(memory.clone());
    LazyAuth::builder(resolver)
        .activation_delay(std::time::Duration::ZERO)
        .build(|_: Secrets, context: BuildContext| async move {
            Ok::<_, BuildError>(CookieKeys::derive(&context.key_ring("cookie_secret")?)?)
        })
}

#[test]
fn secret_that_is_too_short_is_an_error_and_not_a_panic() {
    let of_length = |length: usize| KeyRing::new("x".repeat(length)).unwrap();
    assert!(CookieKeys::derive(&of_length(31)).is_err());
    assert!(CookieKeys::derive(&of_length(32)).is_ok());
    assert!(CookieKeys::from_master(&of_length(63)).is_err());
    assert!(CookieKeys::from_master(&of_length(64)).is_ok());
    let short_previous = of_length(64).with_previous("short").unwrap();
    assert!(CookieKeys::derive(&short_previous).is_err());
    assert!(CookieKeys::from_master(&short_previous).is_err());
}

#[test]
fn debug_output_contains_no_key() {
    let keys = keys(&[NEW, OLD]);
    assert_eq!(format!("{keys:?}"), "CookieKeys { previous: 1, .. }");
}
