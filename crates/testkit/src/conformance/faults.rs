//! Tests of the errors that a provider returns when its source fails.

use std::sync::Arc;
use std::time::Duration;

use secretwell_core::{ErrorKind, KeyPrefix, SecretKey, SecretProvider};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::{
    Outcome, assert_error, assert_fails, assert_reads, assert_value, expect_failure, key, read,
    valid_keys, within,
};
use crate::{CORRUPT_MARKER, Canary, ForeignResponse, Harness};

/// The wait of a rate-limited source. It is longer than any deadline, so no provider can wait for its
/// end within one call.
const WAIT: Duration = Duration::from_secs(90);

/// The time within which a provider must use its source again after another program responded.
const RECOVERY: Duration = Duration::from_secs(6);

/// The status and the content type of responses that no source sends. The status alone would mean an
/// absence, a refusal, a success or an outage.
const FOREIGN: [(u16, Option<&str>); 6] = [
    (404, Some("text/plain")),
    (403, Some("text/html")),
    (401, Some("application/json")),
    (200, Some("text/html")),
    (200, None),
    (503, Some("text/plain")),
];

/// Without a network, every key is `Unavailable` and never `NotFound`, whether it exists or not. Reads
/// succeed again after the network recovers.
pub async fn missing_is_not_failed(h: &dyn Harness) -> Outcome {
    if !h.supports().network {
        return Outcome::NotApplicable("the harness cannot break the network");
    }
    let provider = h.provider();
    let [present, absent] = valid_keys(h);
    h.seed(&present, b"present").await;
    assert_reads(&provider, &present, b"present").await;
    h.break_network().await;
    for key in [&present, &absent] {
        let operation = "a read without a network";
        assert_fails(&provider, key, ErrorKind::Unavailable, operation).await;
    }
    let both = [present.clone(), absent.clone()];
    let results = within("a batch read", provider.get_many(&both)).await;
    assert!(
        results.len() == 2,
        "a batch of two keys must have two results without a network"
    );
    for (key, result) in both.iter().zip(results) {
        let operation = "a batch read without a network";
        assert_error(
            &expect_failure(result, operation),
            Some(key),
            ErrorKind::Unavailable,
            operation,
        );
    }
    if provider.capabilities().list {
        let operation = "a list without a network";
        let listed = within("a list", provider.list(&KeyPrefix::root())).await;
        assert_error(
            &expect_failure(listed, operation),
            None,
            ErrorKind::Unavailable,
            operation,
        );
    }
    h.clear_faults().await;
    assert_reads(&provider, &present, b"present").await;
    let operation = "an absent key after the network recovered";
    assert_fails(&provider, &absent, ErrorKind::NotFound, operation).await;
    Outcome::Passed
}

/// A key that the login may not read is `Denied`, which is permanent. Other keys stay readable.
pub async fn denied(h: &dyn Harness) -> Outcome {
    if !h.supports().deny {
        return Outcome::NotApplicable("the harness cannot deny a key");
    }
    let provider = h.provider();
    let keys: [_; 2] = valid_keys(h);
    let [secret, open] = &keys;
    h.seed(secret, b"secret").await;
    h.seed(open, b"open").await;
    h.deny(secret).await;
    assert_fails(
        &provider,
        secret,
        ErrorKind::Denied,
        "a read of a denied key",
    )
    .await;
    assert_reads(&provider, open, b"open").await;

    let results = within("a batch read", provider.get_many(&keys)).await;
    assert!(
        results.len() == 2,
        "a batch of two keys must have two results when one is denied"
    );
    for (key, result) in keys.iter().zip(results) {
        if key == open {
            assert_value(&result, key, b"open");
        } else {
            let operation = "a batch read with one denied key";
            assert_error(
                &expect_failure(result, operation),
                Some(key),
                ErrorKind::Denied,
                operation,
            );
        }
    }
    Outcome::Passed
}

/// A revoked login is `Unauthenticated`, which is permanent. The provider works again after the login
/// is restored.
pub async fn bad_login(h: &dyn Harness) -> Outcome {
    if !h.supports().login {
        return Outcome::NotApplicable("the harness cannot revoke the login");
    }
    let provider = h.provider();
    let [key] = valid_keys(h);
    h.seed(&key, b"value").await;
    // The first round starts with a valid token. The second round starts with one that was never used.
    for has_read in [true, false] {
        if has_read {
            assert_reads(&provider, &key, b"value").await;
        }
        h.revoke_login().await;
        for _ in 0..2 {
            let operation = "a read with a revoked login";
            assert_fails(&provider, &key, ErrorKind::Unauthenticated, operation).await;
        }
        h.restore_login().await;
        assert_reads(&provider, &key, b"value").await;
    }
    Outcome::Passed
}

/// An expired token causes exactly one login. 100 concurrent callers see no error.
pub async fn expired_login(h: &dyn Harness) -> Outcome {
    if !h.supports().token_expiry {
        return Outcome::NotApplicable("the harness cannot expire a token");
    }
    let provider = h.provider();
    let [key] = valid_keys(h);
    h.seed(&key, b"value").await;
    assert_reads(&provider, &key, b"value").await;
    let before = h.calls().logins;
    h.expire_token().await;
    let mut tasks = JoinSet::new();
    for _ in 0..100 {
        let (provider, key) = (provider.clone(), key.clone());
        tasks.spawn(async move { read(&provider, &key).await });
    }
    for result in within("100 reads", tasks.join_all()).await {
        assert_value(&result, &key, b"value");
    }
    if h.supports().call_counts {
        let logins = h.calls().logins - before;
        assert!(
            logins == 1,
            "100 reads with an expired token must cause one login, not {logins}"
        );
    }
    Outcome::Passed
}

/// A rate-limited read is `RateLimited`, with the wait that the source stated.
pub async fn throttled(h: &dyn Harness) -> Outcome {
    if !h.supports().rate_limit {
        return Outcome::NotApplicable("the harness cannot rate limit");
    }
    let provider = h.provider();
    let [key] = valid_keys(h);
    h.seed(&key, b"value").await;
    h.rate_limit(WAIT).await;
    let error = expect_failure(read(&provider, &key).await, "a rate-limited read");
    let ErrorKind::RateLimited { retry_after } = error.kind() else {
        panic!("a rate-limited read must fail with `rate limited`, but fails with: {error}");
    };
    assert_error(&error, Some(&key), error.kind(), "a rate-limited read");
    // A source can state the end of the wait in whole seconds, so a part of the wait can have passed.
    let is_stated_wait = retry_after.is_some_and(|time| time <= WAIT && time + WAIT / 9 >= WAIT);
    assert!(
        is_stated_wait,
        "the source stated a wait of {WAIT:?}, but the error has {retry_after:?}"
    );
    h.clear_faults().await;
    assert_reads(&provider, &key, b"value").await;
    Outcome::Passed
}

/// A malformed response is `Malformed`. The error contains nothing of its body, and later reads
/// succeed.
pub async fn malformed_response(h: &dyn Harness) -> Outcome {
    if !h.supports().corrupt_responses {
        return Outcome::NotApplicable("the harness cannot corrupt a response");
    }
    let provider = h.provider();
    let [present, absent] = valid_keys(h);
    h.seed(&present, b"value").await;
    h.corrupt_responses().await;
    for key in [&present, &absent] {
        let operation = "a read of a corrupt source";
        let error = assert_fails(&provider, key, ErrorKind::Malformed, operation).await;
        let body = Canary::from_text(CORRUPT_MARKER).with_label("the body of the response");
        body.assert_hidden_error(&error);
    }
    h.clear_faults().await;
    assert_reads(&provider, &present, b"value").await;
    Outcome::Passed
}

/// A response of another program, such as a gateway, is `Unavailable`. It is never an absence, a refusal or a
/// value, whether the provider is logged in or not. The error names the status and the content type, and
/// contains nothing of the body. Reads succeed again when the source responds.
pub async fn foreign_response(h: &dyn Harness) -> Outcome {
    if !h.supports().foreign_responses {
        return Outcome::NotApplicable("the harness cannot respond in the place of the source");
    }
    let provider = h.provider();
    let keys = valid_keys::<2>(h);
    let [present, absent] = &keys;
    h.seed(present, b"value").await;
    assert_reads(&provider, present, b"value").await;
    for (status, content_type) in FOREIGN {
        let body = match content_type {
            Some("application/json") => format!("{{\"message\":\"{CORRUPT_MARKER}\"}}"),
            Some(_) => format!("<p>{CORRUPT_MARKER}</p>"),
            None => String::new(),
        };
        let mut response = ForeignResponse::new("another program", status, body);
        if let Some(content_type) = content_type {
            response = response.with_header("content-type", content_type);
        }
        let unused = h.second_provider().unwrap_or_else(|| provider.clone());
        h.respond_with(&response).await;
        tokio::join!(
            assert_foreign(&provider, &keys, &response),
            assert_foreign(&unused, &keys, &response),
        );
        h.clear_faults().await;
        for provider in [&provider, &unused] {
            assert_recovers(provider, present, b"value").await;
            let operation = "an absent key after the source responds again";
            assert_fails(provider, absent, ErrorKind::NotFound, operation).await;
        }
    }
    Outcome::Passed
}

/// Asserts that every operation fails as `Unavailable` while another program responds.
async fn assert_foreign(
    provider: &Arc<dyn SecretProvider>,
    keys: &[SecretKey; 2],
    response: &ForeignResponse,
) {
    let status = response.status.to_string();
    let content_type = response.header("content-type").unwrap_or_default();
    let batch = async {
        let results = within("a batch read", provider.get_many(keys)).await;
        assert!(
            results.len() == 2,
            "a batch of two keys must have two results"
        );
        results.into_iter().map(|result| result.map(drop)).collect()
    };
    let list = async {
        match provider.capabilities().list {
            true => vec![
                within("a list", provider.list(&KeyPrefix::root()))
                    .await
                    .map(drop),
            ],
            false => Vec::new(),
        }
    };
    let health = async { vec![within("a health check", provider.health()).await] };
    let (present, absent) = (read(provider, &keys[0]), read(provider, &keys[1]));
    let (present, absent, batch, list, health): (_, _, Vec<_>, Vec<_>, Vec<_>) =
        tokio::join!(present, absent, batch, list, health);
    let reads = [
        (Some(&keys[0]), present.map(drop)),
        (Some(&keys[1]), absent.map(drop)),
    ];
    let batch = [Some(&keys[0]), Some(&keys[1])].into_iter().zip(batch);
    let others = list.into_iter().chain(health).map(|result| (None, result));
    for (key, result) in reads.into_iter().chain(batch).chain(others) {
        let operation = format!(
            "an operation while another program responds with {status} and `{content_type}`"
        );
        let error = expect_failure(result, &operation);
        assert_error(&error, key, ErrorKind::Unavailable, &operation);
        let text = error.to_string();
        assert!(
            text.contains(&status) && text.contains(content_type),
            "{operation}: the error must name the status and the content type: {text}"
        );
        let body = Canary::from_text(CORRUPT_MARKER).with_label("the body of the response");
        body.assert_hidden_error(&error);
    }
}

/// Asserts that a read succeeds soon.
async fn assert_recovers(provider: &Arc<dyn SecretProvider>, key: &SecretKey, value: &[u8]) {
    let end = Instant::now() + RECOVERY;
    let mut result = read(provider, key).await;
    while result.is_err() && Instant::now() < end {
        sleep(RECOVERY / 60).await;
        result = read(provider, key).await;
    }
    assert_value(&result, key, value);
}

/// A read of a source that does not respond is `Timeout`, within the deadline. A canceled call leaves
/// the provider usable.
pub async fn deadline(h: &dyn Harness) -> Outcome {
    if !h.supports().stall {
        return Outcome::NotApplicable("the harness cannot stall");
    }
    let provider = h.provider();
    let [present] = valid_keys(h);
    h.seed(&present, b"value").await;
    h.stall().await;
    let operation = "a read of a stalled source";
    assert_fails(&provider, &present, ErrorKind::Timeout, operation).await;
    let many = [present.clone(), key("OTHER")];
    for result in within("a batch read", provider.get_many(&many)).await {
        assert_error(
            &expect_failure(result, operation),
            None,
            ErrorKind::Timeout,
            operation,
        );
    }
    // This read is canceled or fails. Both must leave the provider usable.
    let _ = timeout(Duration::from_millis(5), provider.get(&present)).await;
    h.clear_faults().await;
    assert_reads(&provider, &present, b"value").await;
    Outcome::Passed
}
