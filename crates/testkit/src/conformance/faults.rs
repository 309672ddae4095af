//! What a provider says when its source fails it.

use std::time::Duration;

use secretwell_core::{ErrorKind, KeyPrefix};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{
    Outcome, assert_error, assert_fails, assert_reads, assert_value, failure, good_keys, key, read,
    within,
};
use crate::{Canary, GARBAGE, Harness};

/// The longest wait that a throttled source asks for: longer than any deadline, so that no provider
/// sits it out within a call.
const WAIT: Duration = Duration::from_secs(90);

/// Without the network, every key, present or absent, is `Unavailable` and none is `NotFound`; with
/// it, all is as before.
pub async fn missing_is_not_failed(h: &dyn Harness) -> Outcome {
    if !h.supports().network {
        return Outcome::NotApplicable("the harness cannot break the network");
    }
    let provider = h.provider();
    let [there, absent] = good_keys(h);
    h.seed(&there, b"there").await;
    assert_reads(&provider, &there, b"there").await;
    h.break_network().await;
    for key in [&there, &absent] {
        let why = "a read without a network";
        assert_fails(&provider, key, ErrorKind::Unavailable, why).await;
    }
    let both = [there.clone(), absent.clone()];
    let answers = within("a read of many", provider.get_many(&both)).await;
    assert!(
        answers.len() == 2,
        "two keys must have two results also without a network"
    );
    for (key, answer) in both.iter().zip(answers) {
        let why = "a read of many without a network";
        assert_error(
            &failure(answer, why),
            Some(key),
            ErrorKind::Unavailable,
            why,
        );
    }
    if provider.capabilities().list {
        let why = "a list without a network";
        let listed = within("a list", provider.list(&KeyPrefix::root())).await;
        assert_error(&failure(listed, why), None, ErrorKind::Unavailable, why);
    }
    h.heal().await;
    assert_reads(&provider, &there, b"there").await;
    let why = "an absent key after the network came back";
    assert_fails(&provider, &absent, ErrorKind::NotFound, why).await;
    Outcome::Passed
}

/// A key that the login may not read is `Denied`, permanent, and the others stay readable.
pub async fn denied(h: &dyn Harness) -> Outcome {
    if !h.supports().deny {
        return Outcome::NotApplicable("the harness cannot deny a key");
    }
    let provider = h.provider();
    let keys: [_; 2] = good_keys(h);
    let [secret, open] = &keys;
    h.seed(secret, b"secret").await;
    h.seed(open, b"open").await;
    h.deny(secret).await;
    assert_fails(
        &provider,
        secret,
        ErrorKind::Denied,
        "a read that is not allowed",
    )
    .await;
    assert_reads(&provider, open, b"open").await;

    let answers = within("a read of many", provider.get_many(&keys)).await;
    assert!(
        answers.len() == 2,
        "two keys must have two results also when one is denied"
    );
    for (key, answer) in keys.iter().zip(answers) {
        if key == open {
            assert_value(&answer, key, b"open");
        } else {
            let why = "a read of many of which one is not allowed";
            assert_error(&failure(answer, why), Some(key), ErrorKind::Denied, why);
        }
    }
    Outcome::Passed
}

/// A login that is refused is `Unauthenticated`, permanent; once it works again, so does the provider.
pub async fn bad_login(h: &dyn Harness) -> Outcome {
    if !h.supports().login {
        return Outcome::NotApplicable("the harness has no login to revoke");
    }
    let provider = h.provider();
    let [key] = good_keys(h);
    h.seed(&key, b"value").await;
    // Once with a token that was good, once without having had any.
    for before in [true, false] {
        if before {
            assert_reads(&provider, &key, b"value").await;
        }
        h.revoke_login().await;
        for _ in 0..2 {
            let why = "a read with a refused login";
            assert_fails(&provider, &key, ErrorKind::Unauthenticated, why).await;
        }
        h.fix_login().await;
        assert_reads(&provider, &key, b"value").await;
    }
    Outcome::Passed
}

/// A token that has ended costs one login and is noticed by no caller, however many they are.
pub async fn expired_login(h: &dyn Harness) -> Outcome {
    if !h.supports().expire {
        return Outcome::NotApplicable("the harness has no token to end");
    }
    let provider = h.provider();
    let [key] = good_keys(h);
    h.seed(&key, b"value").await;
    assert_reads(&provider, &key, b"value").await;
    let before = h.calls().logins;
    h.expire_token().await;
    let mut tasks = JoinSet::new();
    for _ in 0..100 {
        let (provider, key) = (provider.clone(), key.clone());
        tasks.spawn(async move { read(&provider, &key).await });
    }
    for answer in within("100 reads", tasks.join_all()).await {
        assert_value(&answer, &key, b"value");
    }
    if h.supports().calls {
        let logins = h.calls().logins - before;
        assert!(
            logins == 1,
            "100 reads with an ended token must cost one login, not {logins}"
        );
    }
    Outcome::Passed
}

/// A source that asks for patience is `RateLimited` with the time that it asked for.
pub async fn throttled(h: &dyn Harness) -> Outcome {
    if !h.supports().throttle {
        return Outcome::NotApplicable("the harness cannot throttle");
    }
    let provider = h.provider();
    let [key] = good_keys(h);
    h.seed(&key, b"value").await;
    h.throttle(WAIT).await;
    let error = failure(read(&provider, &key).await, "a read of a throttled source");
    let ErrorKind::RateLimited { retry_after } = error.kind() else {
        panic!("a read of a throttled source must be rate limited, and is: {error}");
    };
    assert_error(
        &error,
        Some(&key),
        error.kind(),
        "a read of a throttled source",
    );
    // A source may tell the end of the wait, of which some has passed, in whole seconds.
    let told = retry_after.is_some_and(|time| time <= WAIT && time + WAIT / 9 >= WAIT);
    assert!(
        told,
        "the source said to wait {WAIT:?}, and the error says {retry_after:?}"
    );
    h.heal().await;
    assert_reads(&provider, &key, b"value").await;
    Outcome::Passed
}

/// An answer that makes no sense is `Malformed`, shows nothing of its body, and is forgotten.
pub async fn malformed_answer(h: &dyn Harness) -> Outcome {
    if !h.supports().garble {
        return Outcome::NotApplicable("the harness cannot garble an answer");
    }
    let provider = h.provider();
    let [there, absent] = good_keys(h);
    h.seed(&there, b"value").await;
    h.garble().await;
    for key in [&there, &absent] {
        let why = "an answer that makes no sense";
        let error = assert_fails(&provider, key, ErrorKind::Malformed, why).await;
        let body = Canary::from_text(GARBAGE).with_label("the body of the answer");
        body.assert_hidden_error(&error);
    }
    h.heal().await;
    assert_reads(&provider, &there, b"value").await;
    Outcome::Passed
}

/// A source that never answers is `Timeout`, soon enough; a call that its caller gave up on leaves the
/// provider as it was.
pub async fn deadline(h: &dyn Harness) -> Outcome {
    if !h.supports().stall {
        return Outcome::NotApplicable("the harness cannot stall");
    }
    let provider = h.provider();
    let [there] = good_keys(h);
    h.seed(&there, b"value").await;
    h.stall().await;
    let why = "a source that never answers";
    assert_fails(&provider, &there, ErrorKind::Timeout, why).await;
    let many = [there.clone(), key("OTHER")];
    for answer in within("a read of many", provider.get_many(&many)).await {
        assert_error(&failure(answer, why), None, ErrorKind::Timeout, why);
    }
    // Whether it is given up on or ends by itself is all the same; that is what is tested below.
    let _ = timeout(Duration::from_millis(5), provider.get(&there)).await;
    h.heal().await;
    assert_reads(&provider, &there, b"value").await;
    Outcome::Passed
}
