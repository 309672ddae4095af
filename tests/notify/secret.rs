//! The signing secret: rotations, failures, and how often it is read.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::{Method, Request};
use secretwell::auth::{BuildError, KeyRing, LazyAuth};
use secretwell::notify::{NotifyHub, NotifySecret, NotifyService};
use secretwell::{MemoryProvider, Resolver, SecretProvider, SecretValue};
use secretwell_testkit::{Action, Canary, CanaryLog, FaultyProvider};
use serde::Deserialize;
use tokio::time::{Instant, timeout};
use tower_service::Service;

use super::{
    Frames, SECRET, STACKS, Stack, request, send, signature, signed, source, unix_time, with_method,
};
use crate::support::{down, key, pass, secs};

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

/// Returns a secret that is read from `provider`, and the number of reads.
fn counted<P: SecretProvider>(provider: P) -> (NotifySecret, Arc<AtomicUsize>) {
    let (provider, reads) = (Arc::new(provider), Arc::new(AtomicUsize::new(0)));
    let count = reads.clone();
    let secret = NotifySecret::from_fn(move || {
        count.fetch_add(1, Ordering::Relaxed);
        let provider = provider.clone();
        async move {
            let secret = provider.get(&key("notify_secret")).await?;
            Ok::<_, secretwell::Error>(vec![secret.value])
        }
    });
    (secret, reads)
}

/// Returns a request that only the check of its signature can refuse.
fn forged(number: usize) -> Request<Frames> {
    let body = format!(r#"{{"id":{number}}}"#);
    request(&signature("a guessed secret", unix_time(), &body), &body)
}

#[tokio::test(start_paused = true)]
async fn unacceptable_request_does_not_cause_a_read_of_the_secret() {
    let (secret, reads) = counted(source(&[("notify_secret", SECRET)]));
    let too_large = "x".repeat(64 * 1024 + 1);
    for stack in STACKS {
        let service = NotifyService::signed(NotifyHub::new(), secret.clone());
        let unsigned = Request::post("/notify").body(Frames::chunks("")).unwrap();
        let mut slow = signed("");
        slow.body_mut().hangs = true;
        let mut broken = signed("{}");
        broken.body_mut().parts[0] = Err(std::io::Error::other("the connection was reset"));
        for (request, expected) in [
            (with_method(Method::GET), 405),
            (unsigned, 401),
            (request("t=1", ""), 400),
            (request(&signature(SECRET, unix_time() - 400, ""), ""), 401),
            (request(&signature(SECRET, unix_time() + 400, ""), ""), 401),
            (signed(&too_large), 413),
            (slow, 408),
            (broken, 400),
        ] {
            let (status, text) = send(stack, &service, request).await;
            assert_eq!(status, expected, "{stack:?}: {text}");
        }
        assert_eq!(reads.load(Ordering::Relaxed), 0, "{stack:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn flood_of_forged_requests_causes_one_read_of_the_secret_per_second() {
    let (secret, reads) = counted(source(&[("notify_secret", SECRET)]));
    let first = NotifyService::signed(NotifyHub::new(), secret.clone());
    let second = NotifyService::signed(NotifyHub::new(), secret);
    for second_number in 0..5 {
        for number in 0..100 {
            for service in [&first, &second] {
                let response = send(Stack::Tower, service, forged(number)).await;
                assert_eq!(response.0, 401, "{}", response.1);
            }
        }
        assert_eq!(reads.load(Ordering::Relaxed), second_number + 1);
        tokio::time::sleep(secs(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn failed_reads_of_the_secret_are_limited_too() {
    let provider = source(&[("notify_secret", SECRET)]);
    provider.always(Action::Fail(down()));
    let (secret, reads) = counted(provider.clone());
    let service = NotifyService::signed(NotifyHub::new(), secret);
    for _ in 0..100 {
        assert_eq!(send(Stack::Tower, &service, signed("")).await.0, 503);
    }
    assert_eq!(reads.load(Ordering::Relaxed), 1);
    provider.clear_faults();
    tokio::time::sleep(secs(1)).await;
    assert_eq!(send(Stack::Tower, &service, signed("")).await.0, 204);
}

#[tokio::test(start_paused = true)]
async fn slow_read_of_the_secret_is_shared_and_outlives_its_request() {
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let reads = Arc::new(AtomicUsize::new(0));
    let (opened, count) = (gate.clone(), reads.clone());
    let secret = NotifySecret::from_fn(move || {
        count.fetch_add(1, Ordering::Relaxed);
        let gate = opened.clone();
        async move { gate.acquire().await.map(|_| vec![SECRET.into()]) }
    });
    let service = NotifyService::signed(NotifyHub::new(), secret);
    for number in 0..5 {
        let cancelled = timeout(secs(1), service.clone().call(forged(number))).await;
        assert!(cancelled.is_err());
    }
    let waiting: Vec<_> = (0..10)
        .map(|number| {
            let mut service = service.clone();
            let request = signed(&format!(r#"{{"id":{number}}}"#));
            tokio::spawn(async move { service.call(request).await.unwrap().status() })
        })
        .collect();
    pass(secs(1)).await;
    gate.add_permits(1);
    for response in waiting {
        assert_eq!(response.await.unwrap(), 204);
    }
    assert_eq!(reads.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn rotation_of_the_secret_is_followed_within_a_second() {
    let provider = source(&[("notify_secret", "the previous secret")]);
    let (secret, _) = counted(provider.clone());
    let service = NotifyService::signed(NotifyHub::new(), secret);
    let previous = |body: &str| request(&signature("the previous secret", unix_time(), body), body);
    assert_eq!(send(Stack::Tower, &service, previous("{}")).await.0, 204);
    provider.inner().set("notify_secret", SECRET).unwrap();
    tokio::time::sleep(secs(1)).await;
    assert_eq!(send(Stack::Tower, &service, signed("")).await.0, 204);
    assert_eq!(send(Stack::Tower, &service, previous("")).await.0, 401);
}

#[tokio::test(start_paused = true)]
async fn panic_of_the_closure_is_a_failure_that_ends() {
    let calls = AtomicUsize::new(0);
    let secret = NotifySecret::from_fn(move || {
        let is_first = calls.fetch_add(1, Ordering::Relaxed) == 0;
        assert!(!is_first, "the first call panics");
        async { Ok::<_, String>(vec![SECRET.into()]) }
    });
    let service = NotifyService::signed(NotifyHub::new(), secret);
    let log = CanaryLog::install();
    assert_eq!(send(Stack::Tower, &service, signed("")).await.0, 503);
    let warnings = log.lines_with("signing_secret_failed");
    assert!(warnings[0].contains("panicked"), "{warnings:?}");
    tokio::time::sleep(secs(1)).await;
    assert_eq!(send(Stack::Tower, &service, signed("")).await.0, 204);
}
