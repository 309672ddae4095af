//! Requests: malformed, old and slow ones, and what responses and logs contain.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request};
use http_body::{Body, Frame};
use secretwell::backend::Change;
use secretwell::notify::{NotifyHub, NotifySecret, NotifyService};
use secretwell::{MemoryProvider, Resolver, SecretProvider};
use secretwell_testkit::{Canary, CanaryLog, FaultyProvider};
use tokio::time::Instant;
use tower_service::Service;

use super::{
    Frames, SECRET, STACKS, Stack, request, send, signature, signed, unix_time, webhook,
    with_method,
};
use crate::support::{pass, secs};

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
async fn old_request_is_refused_before_its_body_is_read() {
    for stack in STACKS {
        let signed = NotifyService::signed(NotifyHub::new(), SECRET);
        let webhooks = NotifyService::infisical(NotifyHub::new(), SECRET);
        let old = unix_time() - 301;
        for (service, mut request) in [
            (signed, request(&signature(SECRET, old, ""), "")),
            (webhooks, webhook(old * 1000, "secrets.modified")),
        ] {
            request.body_mut().hangs = true;
            let start = Instant::now();
            let (status, text) = send(stack, &service, request).await;
            assert_eq!(status, 401, "{stack:?}");
            assert!(text.contains("5 minutes"), "{stack:?}: {text}");
            assert_eq!(start.elapsed(), secs(0), "{stack:?}");
        }
    }
}

/// A body of empty frames that are always ready. It ends when `other_task_ran` is set, and fails after many.
struct EmptyFrames {
    other_task_ran: Arc<AtomicBool>,
    remaining: u32,
}

impl Body for EmptyFrames {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        if self.other_task_ran.load(Ordering::Relaxed) {
            return Poll::Ready(None);
        }
        self.remaining -= 1;
        Poll::Ready(Some(match self.remaining {
            0 => Err(std::io::Error::other("no other task ran")),
            _ => Ok(Frame::data(Bytes::new())),
        }))
    }
}

#[tokio::test]
async fn empty_frames_do_not_block_other_tasks() {
    let mut service = NotifyService::signed(NotifyHub::new(), SECRET);
    let other_task_ran = Arc::new(AtomicBool::new(false));
    let body = EmptyFrames {
        other_task_ran: other_task_ran.clone(),
        remaining: 100_000,
    };
    let other_task = tokio::spawn(async move { other_task_ran.store(true, Ordering::Relaxed) });
    let response = service.call(signed("").map(|_| body)).await.unwrap();
    assert_eq!(response.status(), 204, "{}", response.body());
    other_task.await.unwrap();
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
async fn flood_of_one_kind_of_rejection_does_not_hide_another_kind() {
    let log = CanaryLog::install();
    let service = NotifyService::signed(NotifyHub::new(), SECRET);
    for _ in 0..10 {
        let forged = request(&signature("other", unix_time(), ""), "");
        let late = request(&signature(SECRET, unix_time() - 400, ""), "");
        for request in [forged, late, with_method(Method::GET)] {
            send(Stack::Tower, &service, request).await;
        }
    }
    let lines = log.lines_with("notification_rejected");
    assert_eq!(lines.len(), 30);
    let warnings: Vec<_> = lines.iter().filter(|line| line.contains("WARN")).collect();
    assert_eq!(warnings.len(), 3, "{warnings:?}");
    for (warning, reason) in warnings.iter().zip(["wrong", "5 minutes", "POST"]) {
        assert!(warning.contains(reason), "{warning}");
    }
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
