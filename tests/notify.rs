//! Change notifications over the network: signed requests, and what resolvers do with them.

mod hub;
mod requests;
mod secret;

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Router;
use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use http::{Method, Request};
use http_body::{Body, Frame};
use secretwell::backend::Capabilities;
use secretwell::notify::{NotifyHub, NotifyService};
use secretwell::{MemoryProvider, Resolver};
use secretwell_testkit::FaultyProvider;
use sha2::Sha256;
use tower_service::Service;

use crate::support::{changed_now, pass, resolver, secs, settle, text};

const SECRET: &str = "the signing secret of the notifications";

type Source = FaultyProvider<MemoryProvider>;

/// Returns a source without notifications of its own.
fn source(secrets: &[(&str, &str)]) -> Source {
    let capabilities = Capabilities::none().with_versions().with_batch();
    FaultyProvider::new(secrets.iter().copied().collect()).with_capabilities(capabilities)
}

/// Returns the current Unix time in seconds.
fn unix_time() -> u64 {
    let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    time.as_secs()
}

fn code(secret: &str, text: &str) -> String {
    let mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    let code = mac.chain_update(text).finalize().into_bytes();
    code.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn signature(secret: &str, time: u64, body: &str) -> String {
    format!("t={time},v1={}", code(secret, &format!("{time}.{body}")))
}

/// Returns a signed request with the current time.
fn signed(body: &str) -> Request<Frames> {
    request(&signature(SECRET, unix_time(), body), body)
}

fn request(signature: &str, body: &str) -> Request<Frames> {
    let request = Request::post("/notify").header("x-secretwell-signature", signature);
    request.body(Frames::chunks(body)).unwrap()
}

/// Returns a webhook of Infisical for a changed secret.
fn webhook(time_ms: u64, event: &str) -> Request<Frames> {
    let body = format!(
        r#"{{"event":"{event}","project":{{"workspaceId":"63f1","environment":"prod","secretPath":"/app"}},"timestamp":{time_ms}}}"#
    );
    let signature = format!("t={time_ms};{}", code(SECRET, &body));
    let request = Request::post("/notify").header("x-infisical-signature", signature);
    request.body(Frames::chunks(&body)).unwrap()
}

/// A body that arrives in parts.
struct Frames {
    parts: VecDeque<Result<Bytes, std::io::Error>>,
    /// Whether the end of the body never arrives.
    hangs: bool,
}

impl Frames {
    /// Returns a body without a known length, in chunks of 7 bytes.
    fn chunks(body: &str) -> Self {
        let chunks = body.as_bytes().chunks(7);
        Self {
            parts: chunks
                .map(|chunk| Ok(Bytes::copy_from_slice(chunk)))
                .collect(),
            hangs: false,
        }
    }
}

impl Body for Frames {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        match self.parts.pop_front() {
            Some(part) => Poll::Ready(Some(part.map(Frame::data))),
            None if self.hangs => Poll::Pending,
            None => Poll::Ready(None),
        }
    }
}

/// A stack that contains the service.
#[derive(Debug, Clone, Copy)]
enum Stack {
    Axum,
    Tower,
}

const STACKS: [Stack; 2] = [Stack::Axum, Stack::Tower];

/// Sends a request. Returns the status and the text of the response.
async fn send(stack: Stack, service: &NotifyService, request: Request<Frames>) -> (u16, String) {
    let mut service = service.clone();
    match stack {
        Stack::Tower => {
            let response = service.call(request).await.unwrap();
            (response.status().as_u16(), response.into_body())
        }
        Stack::Axum => {
            let mut router: Router = Router::new().route_service("/notify", service);
            let response = router.call(request.map(axum::body::Body::new)).await;
            let (parts, body) = response.unwrap().into_parts();
            let body = axum::body::to_bytes(body, 1000).await.unwrap();
            let text = String::from_utf8(body.to_vec()).unwrap();
            (parts.status.as_u16(), text)
        }
    }
}

#[tokio::test(start_paused = true)]
async fn signed_change_is_read_at_once() {
    for stack in STACKS {
        let hub = NotifyHub::new();
        let by_key = NotifyService::signed(hub.clone(), SECRET);
        let by_webhook = NotifyService::infisical(hub.clone(), SECRET);
        let source = source(&[("A", "0"), ("B", "0")]);
        let resolver = resolver(hub.wrap(source.clone()));
        let mut watch = resolver.watch(["A", "B"]).unwrap();
        watch.next().await.unwrap();
        let now_ms = unix_time() * 1000;
        let requests = [
            (&by_key, signed(r#"{"keys":["A","unknown"]}"#)),
            (&by_key, signed("")),
            (&by_webhook, webhook(now_ms, "secrets.modified")),
        ];
        for (number, (service, request)) in requests.into_iter().enumerate() {
            let value = format!("{}", number + 1);
            source.inner().set("A", value.as_str()).unwrap();
            pass(secs(1)).await;
            assert!(changed_now(&mut watch).is_empty(), "{stack:?}, no request");
            let start = tokio::time::Instant::now();
            assert_eq!(send(stack, &service.clone(), request).await.0, 204);
            let updates = watch.next().await.unwrap();
            assert!(start.elapsed() < secs(1), "{stack:?}, request {number}");
            let names: Vec<_> = updates.iter().map(|update| update.key.as_str()).collect();
            assert_eq!(names, ["A"]);
            assert_eq!(text(&resolver, "A").await, value);
        }
        let batches = source.batches();
        let named = batches[1].iter().map(|key| key.as_str());
        assert_eq!(
            named.collect::<Vec<_>>(),
            ["A"],
            "the first notification names a key"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn replayed_old_or_forged_notification_changes_nothing() {
    let body = r#"{"keys":["A"]}"#;
    for stack in STACKS {
        let hub = NotifyHub::new();
        let service = NotifyService::signed(hub.clone(), SECRET);
        let source = source(&[("A", "0")]);
        let resolver = resolver(hub.wrap(source.clone()));
        let mut watch = resolver.watch(["A"]).unwrap();
        watch.next().await.unwrap();

        let accepted = signature(SECRET, unix_time(), body);
        assert_eq!(send(stack, &service, request(&accepted, body)).await.0, 204);
        settle().await;
        let reads = source.calls();
        source.inner().set("A", "1").unwrap();
        let other = format!("{accepted},v1={}", "0".repeat(64));
        let (now, forged) = (unix_time(), "a guessed secret");
        for (name, request, status) in [
            ("replayed", request(&accepted, body), 409),
            ("replayed with another code", request(&other, body), 409),
            ("other body", request(&accepted, "{}"), 401),
            (
                "old",
                request(&signature(SECRET, now - 301, body), body),
                401,
            ),
            (
                "future",
                request(&signature(SECRET, now + 400, body), body),
                401,
            ),
            ("forged", request(&signature(forged, now, body), body), 401),
            (
                "empty secret",
                request(&signature("", now, body), body),
                401,
            ),
            ("of a webhook", webhook(now * 1000, "secrets.modified"), 401),
        ] {
            let response = send(stack, &service, request).await;
            assert_eq!(response.0, status, "{stack:?}, {name}: {}", response.1);
            pass(secs(1)).await;
            assert_eq!(source.calls(), reads, "{stack:?}, {name}");
        }
        // Test events of Infisical are accepted, and are no changes.
        let webhooks = NotifyService::infisical(hub, SECRET);
        for event in ["test", "secrets.rotation-failed"] {
            let response = send(stack, &webhooks, webhook(now * 1000, event)).await;
            assert_eq!(response.0, 204);
        }
        let modified = || webhook(now * 1000 + 1, "secrets.modified");
        pass(secs(1)).await;
        assert_eq!(source.calls(), reads);
        assert_eq!(send(stack, &webhooks, modified()).await.0, 204);
        assert_eq!(send(stack, &webhooks, modified()).await.0, 409);
    }
}

#[tokio::test(start_paused = true)]
async fn notification_carries_no_value() {
    for stack in STACKS {
        let hub = NotifyHub::new();
        let service = NotifyService::signed(hub.clone(), SECRET);
        let resolver = resolver(hub.wrap(source(&[("A", "true")])));
        assert_eq!(text(&resolver, "A").await, "true");
        for (number, body) in [
            r#"{"keys":["A"],"A":"forged","value":"forged","values":{"A":"forged"}}"#,
            r#"{"A":"forged"}"#,
        ]
        .into_iter()
        .enumerate()
        {
            let (status, response) = send(stack, &service, signed(body)).await;
            assert_eq!((status, response.as_str()), (204, ""), "{number}");
            pass(secs(1)).await;
            assert_eq!(text(&resolver, "A").await, "true");
        }
        let objects = r#"{"keys":[{"A":"forged"}]}"#;
        let (status, response) = send(stack, &service, signed(objects)).await;
        assert_eq!(status, 400);
        assert!(!response.contains("forged"), "{response}");
    }
}

#[tokio::test(start_paused = true)]
async fn flood_causes_few_reads() {
    for stack in STACKS {
        let hub = NotifyHub::new();
        let service = NotifyService::signed(hub.clone(), SECRET);
        let source = source(&[("A", "0"), ("B", "0")]);
        let wrapped = std::sync::Arc::new(hub.wrap(source.clone()));
        let resolver = Resolver::builder(wrapped.clone()).ttl(secs(100)).build();
        let mut watch = resolver.watch(["A", "B"]).unwrap();
        watch.next().await.unwrap();
        let mut stream = secretwell::SecretProvider::watch(&wrapped).unwrap();
        let received = tokio::spawn(async move {
            let mut count = 0;
            while let Ok(next) = tokio::time::timeout(secs(3), stream.next()).await {
                next.unwrap().unwrap();
                count += 1;
            }
            count
        });
        let reads = source.calls();
        for number in 0..1000 {
            let body = format!(r#"{{"id":{number},"keys":["A","K{number}"]}}"#);
            assert_eq!(send(stack, &service, signed(&body)).await.0, 204);
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        source.inner().set("A", "1").unwrap();
        assert_eq!(send(stack, &service, signed("")).await.0, 204);
        pass(secs(1)).await;
        assert_eq!(text(&resolver, "A").await, "1", "the last one is not lost");
        let reads = source.calls() - reads;
        assert!((2..=60).contains(&reads), "{stack:?}: {reads} reads in 5 s");
        let received = received.await.unwrap();
        assert!(
            (40..=55).contains(&received),
            "{stack:?}: {received} notifications in 5 s"
        );
    }
}

/// Sends a request with another method.
fn with_method(method: Method) -> Request<Frames> {
    let mut request = signed("");
    *request.method_mut() = method;
    request
}
