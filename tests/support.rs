//! What several tests need.

use std::time::Duration;

use secretwell::auth::KeyRing;
use secretwell::{
    Capabilities, Error, ErrorKind, MemoryProvider, Resolver, SecretKey, SecretProvider,
    SecretValue,
};
use secretwell_testkit::FaultyProvider;

pub(crate) fn key(text: &str) -> SecretKey {
    SecretKey::parse(text).unwrap()
}

pub(crate) fn keys(texts: &[&str]) -> Vec<SecretKey> {
    texts.iter().map(|text| key(text)).collect()
}

pub(crate) fn down() -> Error {
    Error::new(ErrorKind::Unavailable, "the source is down")
}

pub(crate) fn denied() -> Error {
    Error::new(ErrorKind::Denied, "the policy says no")
}

pub(crate) fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A resolver with a ttl that makes for round numbers.
pub(crate) fn resolver(provider: impl SecretProvider) -> Resolver {
    Resolver::builder(provider)
        .ttl(secs(100))
        .max_stale(secs(1000))
        .build()
}

/// A provider without notices, so that only the resolver's own clock makes it look again.
pub(crate) fn source(secrets: &[(&str, &str)]) -> (MemoryProvider, FaultyProvider<MemoryProvider>) {
    let memory: MemoryProvider = secrets.iter().copied().collect();
    let capabilities = Capabilities::none().with_versions().with_batch();
    let faulty = FaultyProvider::new(memory.clone()).with_capabilities(capabilities);
    (memory, faulty)
}

/// The text of `key`, for comparing.
pub(crate) async fn text(resolver: &Resolver, key: &str) -> String {
    resolver
        .get(key)
        .await
        .unwrap()
        .value
        .expose_text()
        .unwrap()
        .to_owned()
}

/// Lets every task that can run do so, without moving the clock.
pub(crate) async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

/// Moves the clock, in steps so that whatever falls due in between happens in its order.
pub(crate) async fn pass(time: Duration) {
    let end = tokio::time::Instant::now() + time;
    tokio::time::sleep_until(end).await;
    settle().await;
}

/// The secret of a ring that signs, and those that verify.
pub(crate) fn ring_text(ring: &KeyRing) -> (String, String) {
    let text = |value: &SecretValue| value.expose_text().unwrap().to_owned();
    let verifying: Vec<_> = ring.verifying().map(text).collect();
    (text(ring.signing()), verifying.join(","))
}
