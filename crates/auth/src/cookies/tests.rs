//! Tests with the real axum-extra and tower-sessions.

mod header;
#[cfg(feature = "axum")]
mod jar;
#[cfg(feature = "axum")]
mod layer;

use secretwell_core::{Error, ErrorKind, Origin, Secret, SecretKey, SecretProvider};

use super::*;
use crate::{BuildContext, BuildError, KeyRing, LazyAuth, Mode};

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
    cookie_secret: secrecy::SecretString,
}

/// A source that cannot be reached.
#[derive(Debug, Clone)]
struct Down(Origin);

impl Down {
    fn new() -> Self {
        Self(Origin::new("down", ""))
    }
}

#[async_trait::async_trait]
impl SecretProvider for Down {
    fn origin(&self) -> &Origin {
        &self.0
    }

    async fn get(&self, _: &SecretKey) -> Result<Secret, Error> {
        Err(Error::new(ErrorKind::Unavailable, "it is down"))
    }
}

/// An auth whose new secrets sign at once.
fn lazy_keys(source: &(impl SecretProvider + Clone)) -> LazyAuth<CookieKeys> {
    lazy_keys_in(Mode::Production, source)
}

fn lazy_keys_in(mode: Mode, source: &(impl SecretProvider + Clone)) -> LazyAuth<CookieKeys> {
    let resolver = secretwell_resolver::Resolver::new(source.clone());
    LazyAuth::builder(resolver)
        .mode(mode)
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
fn error_of_a_short_secret_has_a_command_whose_output_is_long_enough() {
    let short = KeyRing::new("x".repeat(31)).unwrap();
    for (error, length) in [
        (CookieKeys::derive(&short).unwrap_err(), 32),
        (CookieKeys::from_master(&short).unwrap_err(), 64),
    ] {
        let text = error.to_string();
        let (_, bytes) = text.rsplit_once(' ').unwrap();
        let bytes: usize = bytes.trim_end_matches('`').parse().unwrap();
        let characters = bytes.div_ceil(3) * 4;
        // OpenSSL adds a line end after 64 characters.
        assert!((length..=64).contains(&characters), "{text}");
    }
}

#[test]
fn debug_output_contains_no_key() {
    let keys = keys(&[NEW, OLD]);
    assert_eq!(format!("{keys:?}"), "CookieKeys { others: 1, .. }");
}
