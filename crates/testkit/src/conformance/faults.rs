//! Tests of the errors that a provider returns when its source fails.

use std::time::Duration;

use secretwell_core::{ErrorKind, KeyPrefix};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{
    Outcome, assert_error, assert_fails, assert_reads, assert_value, expect_failure, key, read,
    valid_keys, within,
};
use crate::{CORRUPT_MARKER, Canary, Harness};

/// The wait of a rate-limited source. It is longer than any deadline, so no provider can wait for its
/// end within one call.
const WAIT: Duration = Duration::from_secs(90);

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
