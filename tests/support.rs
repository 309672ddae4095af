//! What several tests need.

use std::path::{Path, PathBuf};
use std::time::Duration;

use secretwell::auth::KeyRing;
use secretwell::backend::Capabilities;
use secretwell::{
    Error, ErrorKind, MemoryProvider, Resolver, SecretKey, SecretProvider, SecretValue,
};
use secretwell_testkit::{Fault, FaultyProvider};

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

pub(crate) const fn secs(seconds: u64) -> Duration {
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
pub(crate) fn origin(secrets: &[(&str, &str)]) -> (MemoryProvider, FaultyProvider<MemoryProvider>) {
    let memory: MemoryProvider = secrets.iter().copied().collect();
    let capabilities = Capabilities::none().with_versions().with_batch();
    let faulty = FaultyProvider::new(memory.clone()).with_capabilities(capabilities);
    (memory, faulty)
}

/// Writes a file as whoever replaces a secret should: beside its place, then into it.
pub(crate) fn replace(path: &Path, bytes: &[u8]) {
    let folder = path.parent().unwrap();
    std::fs::create_dir_all(folder).unwrap();
    let file = tempfile::Builder::new()
        .prefix(".new")
        .tempfile_in(folder)
        .unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    file.persist(path).unwrap();
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

/// A whole answer in place of the server's.
pub(crate) fn answer(head: &str, body: &str) -> Fault {
    let text = format!("HTTP/1.1 {head}\r\nconnection: close\r\n\r\n{body}");
    Fault::Respond(text.into_bytes())
}

/// What may become of a request to any remote source, and what kind of error it is: `member` is where its
/// answers hold the secrets, `twice` an answer that says a name twice, `redirect` the address of another
/// server, and `cut` a length at which an answer is not whole.
pub(crate) fn remote_faults(
    member: &str,
    twice: &str,
    redirect: &str,
    cut: usize,
) -> Vec<(&'static str, Fault, ErrorKind)> {
    let redirect = format!("307 Temporary Redirect\r\nlocation: {redirect}\r\ncontent-length: 0");
    let (open, close) = ("[".repeat(10_000), "]".repeat(10_000));
    let deep = format!("{{\"{member}\":{open}{close}}}");
    let drip = |pause| Fault::Drip(Duration::from_millis(pause));
    let foreign = Fault::Respond(b"SSH-2.0\r\n".to_vec());
    vec![
        ("cut", Fault::Cut, ErrorKind::Unavailable),
        ("reset", Fault::Reset, ErrorKind::Unavailable),
        ("stall", Fault::Stall, ErrorKind::Timeout),
        ("delay", Fault::Delay(secs(60)), ErrorKind::Timeout),
        ("drip", drip(50), ErrorKind::Timeout),
        ("slow drip", drip(1_000), ErrorKind::Timeout),
        ("truncated", Fault::Truncate(cut), ErrorKind::Unavailable),
        ("endless", Fault::Endless, ErrorKind::TooLarge),
        ("redirect", answer(&redirect, ""), ErrorKind::Malformed),
        ("html", answer("200 OK", "<html>"), ErrorKind::Malformed),
        ("empty", answer("200 OK", ""), ErrorKind::Malformed),
        (
            "no content",
            answer("204 No Content", ""),
            ErrorKind::Malformed,
        ),
        ("deep", answer("200 OK", &deep), ErrorKind::Malformed),
        (
            "a name twice",
            answer("200 OK", twice),
            ErrorKind::Malformed,
        ),
        ("not HTTP", foreign, ErrorKind::Unavailable),
        ("teapot", answer("418 No", ""), ErrorKind::Malformed),
    ]
}

/// The secret of a ring that signs, and those that verify.
pub(crate) fn ring_text(ring: &KeyRing) -> (String, String) {
    let text = |value: &SecretValue| value.expose_text().unwrap().to_owned();
    let verifying: Vec<_> = ring.iter().map(text).collect();
    (text(ring.primary()), verifying.join(","))
}

/// Something that `cargo xtask test` has installed.
pub(crate) fn tool(path: &str) -> PathBuf {
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools");
    let path = tools.join(path);
    assert!(
        path.exists(),
        "there is no {}: run the part of `cargo xtask test` that this test belongs to",
        path.display()
    );
    path
}
