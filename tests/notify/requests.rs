//! Requests: malformed and slow ones, rotations of the signing secret, and what responses and logs contain.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request};
use secretwell::auth::{BuildError, KeyRing, LazyAuth};
use secretwell::backend::Change;
use secretwell::notify::{NotifyHub, NotifySecret, NotifyService};
use secretwell::{MemoryProvider, Resolver, SecretProvider, SecretValue};
use secretwell_testkit::{Action, Canary, CanaryLog, FaultyProvider};
use serde::Deserialize;
use tokio::time::Instant;
use tower_service::Service;

use super::{
    Frames, SECRET, STACKS, Stack, request, send, signature, signed, unix_time, webhook,
    with_method,
};
use crate::support::{down, pass, secs};

#[tokio::test(start_paused = true)]
async fn malformed_requests_are_refused_with_their_reason() {
    let big = "x".repeat(64 * 1024 + 1);
    let largest = " ".repeat(64 * 1024);
    for stack in STACKS {
        let service = NotifyService::signed(NotifyHub::new(), SECRET);
        let without = || Request::post("/notify").body(Frames::chunks("")).unwrap();
        let with_header = |header: HeaderValue| {
            let mut request = signed("");
            let name = HeaderName::from_static("x-secretwell-signature");
            request.headers_mut().append(name, header);
            request
        };
        let mut opaque = without();
        let bytes = HeaderValue::from_bytes(b"t=1,v1=\xFF").unwrap();
        opaque.headers_mut().insert("x-secretwell-signature", bytes);
        let mut broken = signed("{}");
        broken.body_mut().parts[0] = Err(std::io::Error::other("the connection was reset"));
        for (request, expected) in [
            (with_method(Method::GET), (405, "POST")),
            (with_method(Method::PUT), (405, "POST")),
            (without(), (401, "missing")),
            (
                with_header(HeaderValue::from_static("t=1")),
                (400, "several"),
            ),
            (opaque, (400, "malformed")),
            (broken, (400, "incomplete")),
            (signed("[]"), (400, "JSON")),
            (signed(r#"{"keys":["a//b"]}"#), (400, "valid key")),
            (signed(&big), (413, "64 KiB")),
            (signed(&largest), (204, "")),
        ] {
            let (status, text) = send(stack, &service, request).await;
            assert_eq!(status, expected.0, "{stack:?}, {}: {text}", expected.1);
            assert!(text.contains(expected.1), "{stack:?}: {text}");
        }
    }
}

#[tokio::test]
async fn too_large_body_is_refused_by_its_announced_length() {
    let mut service = NotifyService::signed(NotifyHub::new(), SECRET);
    let length = 64 * 1024 + 1;
    let body = "x".repeat(length);
    // A `String` knows its length.
    let request = request(&signature(SECRET, unix_time(), &body), "").map(|_| body);
    let response = service.call(request).await.unwrap();
    assert_eq!(response.status(), 413);
    let response = service.call(with_method(Method::GET)).await.unwrap();
    assert_eq!(response.headers()["allow"], "POST");
}

#[tokio::test(start_paused = true)]
async fn slow_body_ends_after_ten_seconds() {
    for stack in STACKS {
        let hub = NotifyHub::new();
        let service = NotifyService::signed(hub.clone(), SECRET);
        let provider = hub.wrap(MemoryProvider::new());
        let mut stream = provider.watch().unwrap();
        let mut slow = signed("");
        slow.body_mut().hangs = true;
        let start = Instant::now();
        assert_eq!(send(stack, &service, slow).await.0, 408);
        assert_eq!(start.elapsed().as_secs(), 10);
        let nothing = tokio::time::timeout(secs(1), stream.next()).await;
        assert!(nothing.is_err(), "{stack:?}: {nothing:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn cancelled_request_changes_nothing() {
    let hub = NotifyHub::new();
    let mut service = NotifyService::signed(hub.clone(), SECRET);
    let provider = hub.wrap(MemoryProvider::new());
    let mut stream = provider.watch().unwrap();
    let header = signature(SECRET, unix_time(), "");
    let mut slow = request(&header, "");
    slow.body_mut().hangs = true;
    let cancelled = tokio::time::timeout(secs(1), service.call(slow)).await;
    assert!(cancelled.is_err());
    let nothing = tokio::time::timeout(secs(1), stream.next()).await;
    assert!(nothing.is_err(), "{nothing:?}");
    // The same notification was not received before.
    let repeated = service.call(request(&header, "")).await.unwrap();
    assert_eq!(repeated.status(), 204);
    assert_eq!(stream.next().await.unwrap().unwrap(), Change::All);
}

#[derive(Deserialize)]
struct Secrets {
    #[expect(dead_code, reason = "the build takes its key ring")]
    notify_secret: String,
}

/// Returns the signing secret from a key ring.
fn ring(resolver: Resolver) -> NotifySecret {
    let ring: LazyAuth<KeyRing> = LazyAuth::new(resolver, |_: Secrets, context| async move {
        Ok::<_, BuildError>(context.key_ring("notify_secret")?)
    });
    NotifySecret::from_fn(move || {
        let ring = ring.clone();
        async move {
            let ring = ring.get().await;
            ring.map(|ring| ring.iter().cloned().collect())
        }
    })
}

#[tokio::test(start_paused = true)]
async fn previous_secret_is_accepted_during_a_rotation() {
    let (old, new) = (Canary::new("old"), Canary::new("new"));
    let memory = MemoryProvider::from_iter([("notify_secret", old.value())]);
    let service = NotifyService::signed(NotifyHub::new(), ring(Resolver::new(memory.clone())));
    let call = async |secret: &Canary, body: &str| {
        let header = signature(secret.text(), unix_time(), body);
        send(Stack::Tower, &service, request(&header, body)).await.0
    };
    assert_eq!(call(&old, r#"{"id":1}"#).await, 204);
    assert_eq!(call(&new, r#"{"id":2}"#).await, 401);
    memory.set("notify_secret", new.value()).unwrap();
    pass(secs(10)).await;
    assert_eq!(call(&new, r#"{"id":2}"#).await, 204);
    assert_eq!(call(&old, r#"{"id":3}"#).await, 204);
    // One message is one notification, whichever secret signs it.
    assert_eq!(call(&new, r#"{"id":3}"#).await, 409);

    let both = [old.value(), new.value()];
    let service = NotifyService::signed(NotifyHub::new(), NotifySecret::values(both));
    for secret in [&old, &new] {
        let body = format!(r#"{{"id":"{}"}}"#, &secret.text()[..4]);
        let header = signature(secret.text(), unix_time(), &body);
        let response = send(Stack::Axum, &service, request(&header, &body)).await;
        assert_eq!(response.0, 204);
    }
}

#[tokio::test(start_paused = true)]
async fn notification_is_refused_while_the_signing_secret_cannot_be_read() {
    let source = FaultyProvider::new(MemoryProvider::new());
    source.always(Action::Fail(down()));
    let hanging = NotifySecret::from_fn(std::future::pending::<Result<Vec<SecretValue>, String>>);
    for (name, secret) in [
        ("unreachable", ring(Resolver::new(source))),
        ("hanging", hanging),
        ("empty", NotifySecret::from("")),
        ("none", NotifySecret::values([] as [&str; 0])),
    ] {
        let log = CanaryLog::install();
        let mut service = NotifyService::signed(NotifyHub::new(), secret);
        for secret in [SECRET, ""] {
            let forged = request(&signature(secret, unix_time(), ""), "");
            let start = Instant::now();
            let response = service.call(forged).await.unwrap();
            assert_eq!(response.status(), 503, "{name}");
            assert_eq!(response.headers()["retry-after"], "1");
            assert!(start.elapsed() <= secs(11), "{name}");
        }
        let warnings = log.lines_with("signing_secret_failed");
        assert!((1..=2).contains(&warnings.len()), "{name}: {warnings:?}");
        assert!(warnings[0].contains("WARN"), "{name}: {warnings:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn rejections_do_not_fill_the_log() {
    let log = CanaryLog::install();
    let service = NotifyService::signed(NotifyHub::new(), SECRET);
    for _ in 0..3 {
        for _ in 0..100 {
            let forged = request(&signature("other", unix_time(), ""), "");
            assert_eq!(send(Stack::Tower, &service, forged).await.0, 401);
        }
        pass(secs(61)).await;
    }
    let lines = log.lines_with("notification_rejected");
    assert_eq!(lines.len(), 300);
    let warnings = lines.iter().filter(|line| line.contains("WARN"));
    assert_eq!(warnings.count(), 3);
}

#[tokio::test(start_paused = true)]
async fn signing_secret_occurs_in_no_output() {
    let log = CanaryLog::install();
    let canary = Canary::new("signing secret");
    let secret = NotifySecret::from(canary.text());
    canary.assert_hidden(&secret);
    let hub = NotifyHub::new();
    let wrapped = Arc::new(hub.wrap(MemoryProvider::new()));
    let _stream = wrapped.watch();
    for service in [
        NotifyService::signed(hub.clone(), secret.clone()),
        NotifyService::infisical(hub.clone(), canary.text().to_owned()),
        NotifyService::signed(hub.clone(), canary.value()),
    ] {
        canary.assert_hidden(&service);
        // A sender that confuses the secret with the code or with a key.
        let key = format!(r#"{{"keys":["{}/../x"]}}"#, canary.text());
        for request in [
            request(&signature(canary.text(), unix_time(), "{}"), "{}"),
            request(&signature(canary.text(), unix_time(), &key), &key),
            request(&format!("t={},v1={}", unix_time(), canary.text()), ""),
            request(
                &signature("other", unix_time(), canary.text()),
                canary.text(),
            ),
            webhook(unix_time() * 1000, "secrets.modified"),
        ] {
            let (_, text) = send(Stack::Axum, &service, request).await;
            canary.assert_not_in(&text, "the response");
        }
        canary.assert_hidden(&service);
    }
    canary.assert_hidden(&hub);
    canary.assert_hidden(&wrapped);
    assert!(log.contains("notification_accepted"));
    assert!(log.contains("notification_rejected"));
    log.assert_clean(&[&canary]);
}

/// A server with a real socket, and a client that sends a chunked body.
#[tokio::test]
async fn request_over_http_is_read_at_once() {
    let hub = NotifyHub::new();
    let memory = MemoryProvider::from_iter([("A", "0")]);
    let capabilities = secretwell::backend::Capabilities::none().with_versions();
    let source = FaultyProvider::new(memory.clone()).with_capabilities(capabilities);
    let resolver = Resolver::new(hub.wrap(source));
    let mut watch = resolver.watch(["A"]).unwrap();
    watch.next().await.unwrap();
    let service = NotifyService::signed(hub, SECRET);
    let app = axum::Router::new().route_service("/notify", service);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/notify", listener.local_addr().unwrap());
    let server = tokio::spawn(async move { axum::serve(listener, app).await });
    memory.set("A", "1").unwrap();
    let body = r#"{"keys":["A"]}"#;
    let header = signature(SECRET, unix_time(), body);
    let response = reqwest::Client::new()
        .post(&url)
        .header("x-secretwell-signature", header)
        .body(reqwest::Body::from(Bytes::from(body)))
        .send()
        .await
        .unwrap();
    assert_eq!(response.status().as_u16(), 204);
    let updates = watch.next().await.unwrap();
    let secret = updates[0].result.as_ref().unwrap();
    assert_eq!(secret.value.expose_text().unwrap(), "1");
    let wrong = reqwest::Client::new().post(&url).send().await.unwrap();
    assert_eq!(wrong.status().as_u16(), 401);
    server.abort();
}
