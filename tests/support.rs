//! Helpers for several test modules.

use std::path::{Path, PathBuf};
use std::time::Duration;

use secretwell::auth::KeyRing;
use secretwell::backend::{Capabilities, NoticeKind};
use secretwell::{
    Error, ErrorKind, KeyPrefix, MemoryProvider, Resolver, SecretKey, SecretProvider, SecretValue,
    Watch,
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
    Error::new(ErrorKind::Denied, "the policy does not allow it")
}

pub(crate) const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Returns a resolver with a ttl of 100 s and `max_stale` of 1,000 s, for round numbers in tests.
pub(crate) fn resolver(provider: impl SecretProvider) -> Resolver {
    Resolver::builder(provider)
        .ttl(secs(100))
        .max_stale(secs(1000))
        .build()
}

/// Returns an in-memory provider and a faulty provider around it. The latter has no change
/// notifications, so the resolver refreshes only by time.
pub(crate) fn faulty_source(
    secrets: &[(&str, &str)],
) -> (MemoryProvider, FaultyProvider<MemoryProvider>) {
    let memory: MemoryProvider = secrets.iter().copied().collect();
    let capabilities = Capabilities::none().with_versions().with_batch();
    let faulty = FaultyProvider::new(memory.clone()).with_capabilities(capabilities);
    (memory, faulty)
}

/// Asserts that the provider lists these keys below `prefix`, and that it has notices of these names, which cannot be
/// keys.
pub(crate) async fn assert_lists(
    provider: &impl SecretProvider,
    prefix: &str,
    listed: &[&str],
    not_keys: &[&str],
) {
    let prefix = KeyPrefix::parse(prefix).unwrap();
    assert_eq!(provider.list(&prefix).await.unwrap(), keys(listed));
    let notices = provider.notices(&prefix).await.unwrap();
    let names: Vec<_> = notices.iter().map(|notice| notice.name.as_str()).collect();
    assert_eq!(names, not_keys);
    for notice in notices {
        assert_eq!(notice.kind, NoticeKind::NotAKey);
        assert!(notice.hint.is_some());
    }
}

/// Replaces a file atomically: writes a temporary file in the same folder and renames it.
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

/// Returns the value of `key` as text.
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

/// Waits for changes, and returns the changed keys.
pub(crate) async fn changed(watch: &mut Watch) -> Vec<SecretKey> {
    let updates = watch.next().await.expect("the resolver is open");
    updates.into_iter().map(|update| update.key).collect()
}

/// Returns the keys that have changed, without waiting.
pub(crate) fn changed_now(watch: &mut Watch) -> Vec<SecretKey> {
    let mut next = std::pin::pin!(changed(watch));
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match next.as_mut().poll(&mut context) {
        std::task::Poll::Ready(keys) => keys,
        std::task::Poll::Pending => Vec::new(),
    }
}

/// Lets all ready tasks run, without advancing the clock.
pub(crate) async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

/// Advances the paused clock by `time`. Timers in between fire in their order.
pub(crate) async fn pass(time: Duration) {
    let end = tokio::time::Instant::now() + time;
    tokio::time::sleep_until(end).await;
    settle().await;
}

/// Returns a fault that replaces the server's response. `head` is the status and optional headers.
pub(crate) fn response(head: &str, body: &str) -> Fault {
    let text = format!("HTTP/1.1 {head}\r\nconnection: close\r\n\r\n{body}");
    Fault::Respond(text.into_bytes())
}

/// Returns faults of a remote source, with a name and the expected kind of error for each.
///
/// - `member`: the JSON member of a response that contains the secrets
/// - `duplicate`: a response body in which a name occurs twice
/// - `redirect`: the address of another server
/// - `truncate_at`: a length at which a response is incomplete
pub(crate) fn remote_faults(
    member: &str,
    duplicate: &str,
    redirect: &str,
    truncate_at: usize,
) -> Vec<(&'static str, Fault, ErrorKind)> {
    let redirect = format!("307 Temporary Redirect\r\nlocation: {redirect}\r\ncontent-length: 0");
    let (open, close) = ("[".repeat(10_000), "]".repeat(10_000));
    // Each backend also recognizes its own responses by other members.
    let deep = format!("{{\"lease_id\":\"\",\"{member}\":{open}{close}}}");
    let drip = |pause| Fault::Drip(Duration::from_millis(pause));
    let not_http = Fault::Respond(b"SSH-2.0\r\n".to_vec());
    vec![
        ("close", Fault::Close, ErrorKind::Unavailable),
        ("reset", Fault::Reset, ErrorKind::Unavailable),
        ("stall", Fault::Stall, ErrorKind::Timeout),
        ("delay", Fault::Delay(secs(60)), ErrorKind::Timeout),
        ("drip", drip(50), ErrorKind::Timeout),
        ("slow drip", drip(1_000), ErrorKind::Timeout),
        (
            "truncated",
            Fault::Truncate(truncate_at),
            ErrorKind::Unavailable,
        ),
        ("endless", Fault::Endless, ErrorKind::TooLarge),
        ("redirect", response(&redirect, ""), ErrorKind::Unavailable),
        ("html", response("200 OK", "<html>"), ErrorKind::Unavailable),
        ("empty", response("200 OK", ""), ErrorKind::Unavailable),
        (
            "no content",
            response("204 No Content", ""),
            ErrorKind::Unavailable,
        ),
        ("deep", response("200 OK", &deep), ErrorKind::Malformed),
        (
            "duplicate name",
            response("200 OK", duplicate),
            ErrorKind::Malformed,
        ),
        ("not HTTP", not_http, ErrorKind::Unavailable),
        ("teapot", response("418 No", ""), ErrorKind::Unavailable),
    ]
}

/// Returns the primary secret of a ring, and all its secrets joined by commas.
pub(crate) fn ring_text(ring: &KeyRing) -> (String, String) {
    let text = |value: &SecretValue| value.expose_text().unwrap().to_owned();
    let all: Vec<_> = ring.iter().map(text).collect();
    (text(ring.primary()), all.join(","))
}

/// Returns the path of a tool that `cargo xtask test` has installed.
pub(crate) fn tool(path: &str) -> PathBuf {
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools");
    let path = tools.join(path);
    assert!(
        path.exists(),
        "{} does not exist; run this test with its part of `cargo xtask test`",
        path.display()
    );
    path
}
