//! Tests of updates, versions, change notifications, capabilities and health checks.

use std::sync::Arc;

use secretwell_core::backend::ChangeStream;
use secretwell_core::{ErrorKind, KeyPrefix, SecretKey, SecretProvider, Version};

use super::{
    Outcome, assert_error, assert_fails, assert_reads, assert_value, expect_failure, read,
    valid_keys, within,
};
use crate::Harness;

/// The next read after an update returns the new value. If the provider claims versions, it also
/// returns a different version.
pub async fn update_seen(h: &dyn Harness) -> Outcome {
    let provider = h.provider();
    let [key] = valid_keys(h);
    let mut versions = Vec::new();
    // The values have equal lengths, so a provider cannot detect an update by its size.
    for value in ["first", "other", "again"] {
        h.seed(&key, value.as_bytes()).await;
        let result = read(&provider, &key).await;
        assert_value(&result, &key, value.as_bytes());
        versions.extend(result.ok().and_then(|secret| secret.version));
    }
    if provider.capabilities().versions {
        let changed = versions.windows(2).all(|pair| pair[0] != pair[1]);
        assert!(
            versions.len() == 3 && changed,
            "each update must have a new version: {versions:?}"
        );
        let backwards = versions
            .windows(2)
            .any(|pair| pair[1].is_older_than(&pair[0]));
        assert!(!backwards, "versions must not regress: {versions:?}");
    }
    Outcome::Passed
}

/// After a deletion, `get`, `get_many` and `list` no longer find the key. A value that is written
/// later is found again.
pub async fn delete_seen(h: &dyn Harness) -> Outcome {
    let provider = h.provider();
    let keys: [_; 2] = valid_keys(h);
    let [deleted, present] = &keys;
    for key in &keys {
        h.seed(key, b"value").await;
        assert_reads(&provider, key, b"value").await;
    }
    h.delete(deleted).await;
    assert_fails(&provider, deleted, ErrorKind::NotFound, "a deleted key").await;
    let mut results = within("a batch read", provider.get_many(&keys)).await;
    assert!(
        results.len() == 2,
        "a batch of two keys must have two results when one is deleted"
    );
    assert_value(&results[1], present, b"value");
    let error = expect_failure(results.swap_remove(0), "a deleted key in a batch");
    assert_error(
        &error,
        Some(deleted),
        ErrorKind::NotFound,
        "a deleted key in a batch",
    );
    if provider.capabilities().list {
        let listed = list(&provider, &KeyPrefix::root()).await;
        assert!(
            !listed.contains(deleted),
            "a deleted key must not be listed"
        );
        assert!(listed.contains(present), "the other key must be listed");
    }
    h.seed(deleted, b"again").await;
    assert_reads(&provider, deleted, b"again").await;
    Outcome::Passed
}

/// A previous version keeps its bytes. A version that never existed is a permanent error.
pub async fn old_version(h: &dyn Harness) -> Outcome {
    let provider = h.provider();
    if !provider.capabilities().old_versions {
        return Outcome::NotApplicable("the provider does not claim previous versions");
    }
    let [key] = valid_keys(h);
    let mut written = Vec::new();
    for value in ["first", "second"] {
        h.seed(&key, value.as_bytes()).await;
        let secret = read(&provider, &key)
            .await
            .expect("a written key can be read");
        let version = secret.version;
        written.push((version.expect("the provider claims versions"), value));
    }
    for (version, value) in &written {
        let pinned = within("a read of a version", provider.get_version(&key, version)).await;
        assert_value(&pinned, &key, value.as_bytes());
        let returned = pinned.ok().and_then(|secret| secret.version);
        assert!(
            returned.as_ref() == Some(version),
            "version {version} was requested, but {returned:?} was returned"
        );
    }
    let unknown = Version::numbered(999_999);
    let pinned = within("a read of a version", provider.get_version(&key, &unknown)).await;
    let error = expect_failure(pinned, "a version that never existed");
    assert!(
        !error.is_temporary(),
        "a version that never existed must be a permanent error: {error}"
    );
    Outcome::Passed
}

/// `watch` reports every change that happens after it returned. If the harness can break the network,
/// the stream must survive the outage and must not report the same error twice in a row.
pub async fn same_error_twice(h: &dyn Harness) -> Outcome {
    let provider = h.provider();
    if !provider.capabilities().watch {
        assert!(
            provider.watch().is_none(),
            "`watch` is not claimed, but returns a stream"
        );
        return Outcome::NotApplicable("the provider does not claim `watch`");
    }
    let [key] = valid_keys(h);
    h.seed(&key, b"first").await;
    let mut stream = provider.watch().expect("`watch` is claimed");
    h.seed(&key, b"other").await;
    wait_for_change(&mut stream, &key).await;
    assert_reads(&provider, &key, b"other").await;
    h.delete(&key).await;
    wait_for_change(&mut stream, &key).await;

    if h.supports().network {
        h.break_network().await;
        let _ = read(&provider, &key).await;
        h.clear_faults().await;
        h.seed(&key, b"third").await;
        wait_for_change(&mut stream, &key).await;
        assert_reads(&provider, &key, b"third").await;
    }
    Outcome::Passed
}

/// Reads change notifications until one covers `key`.
async fn wait_for_change(stream: &mut ChangeStream, key: &SecretKey) {
    let mut last = None;
    loop {
        match within("a change notification", stream.next()).await {
            Some(Ok(change)) if change.covers(key) => return,
            Some(Ok(_)) => last = None,
            Some(Err(error)) => {
                let text = Some(error.to_string());
                assert!(text != last, "the same error is reported twice: {error}");
                last = text;
            }
            None => {
                panic!("the stream of change notifications ended before its provider was dropped")
            }
        }
    }
}

async fn list(provider: &Arc<dyn SecretProvider>, prefix: &KeyPrefix) -> Vec<SecretKey> {
    let listed = within("a list", provider.list(prefix)).await;
    listed.unwrap_or_else(|error| panic!("`list` is claimed, but fails: {error}"))
}

/// Every claimed capability works, every other one returns `Unsupported`, and the claims do not change.
pub async fn capabilities_are_true(h: &dyn Harness) -> Outcome {
    let provider = h.provider();
    let claimed = provider.capabilities();
    let keys: Vec<SecretKey> = h.valid_keys().into_iter().map(super::key).collect();
    for key in &keys {
        h.seed(key, b"value").await;
    }
    let secret = read(&provider, &keys[0])
        .await
        .expect("a written key can be read");
    assert!(!claimed.ttl.is_zero(), "the ttl must not be zero");
    assert!(
        !claimed.versions || secret.version.is_some(),
        "versions are claimed, but a result has no version"
    );
    assert!(
        claimed.lease || secret.valid_for.is_none(),
        "leases are not claimed, but a result has a lifetime"
    );
    if claimed.list {
        check_list(&provider, &keys, h.supports().flat_names).await;
    } else {
        let listed = within("a list", provider.list(&KeyPrefix::root())).await;
        let operation = "a list that is not claimed";
        assert_error(
            &expect_failure(listed, operation),
            None,
            ErrorKind::Unsupported,
            operation,
        );
    }
    if claimed.old_versions {
        assert!(
            claimed.versions,
            "previous versions are claimed, but versions are not"
        );
        let current = secret.version.expect("checked above");
        let pinned = within("a version", provider.get_version(&keys[0], &current)).await;
        assert_value(&pinned, &keys[0], b"value");
    } else {
        let version = secret.version.unwrap_or_else(|| Version::numbered(1));
        let pinned = within("a version", provider.get_version(&keys[0], &version)).await;
        let operation = "a previous version, which is not claimed";
        assert_error(
            &expect_failure(pinned, operation),
            Some(&keys[0]),
            ErrorKind::Unsupported,
            operation,
        );
    }
    assert!(
        provider.watch().is_some() == claimed.watch,
        "`watch` must be claimed if and only if it returns a stream"
    );
    assert!(
        provider.capabilities() == claimed,
        "the capabilities must not change"
    );
    Outcome::Passed
}

async fn check_list(provider: &Arc<dyn SecretProvider>, keys: &[SecretKey], flat: bool) {
    let listed = list(provider, &KeyPrefix::root()).await;
    assert!(listed.is_sorted(), "a list must be sorted: {listed:?}");
    for key in keys.iter().filter(|key| !flat || key.prefix().is_none()) {
        let times = listed.iter().filter(|other| *other == key).count();
        assert!(
            times == 1,
            "`{key}` must be listed once, but is listed {times} times"
        );
    }
    let Some(folder) = keys.iter().find_map(SecretKey::prefix) else {
        return;
    };
    let prefix = KeyPrefix::parse(folder).expect("the prefix of a key is valid");
    let below = list(provider, &prefix).await;
    let expected = keys.iter().filter(|key| prefix.contains(key));
    for key in expected {
        assert!(
            below.contains(key),
            "`{key}` must be listed below `{folder}`"
        );
    }
    for key in &below {
        assert!(
            prefix.contains(key),
            "`{key}` must not be listed below `{folder}`"
        );
    }
}

/// `health` succeeds after a successful read and fails when the next read would fail. It is not
/// counted as a read.
pub async fn health(h: &dyn Harness) -> Outcome {
    let provider = h.provider();
    let [key] = valid_keys(h);
    h.seed(&key, b"value").await;
    assert_reads(&provider, &key, b"value").await;
    let before = h.calls().reads;
    assert_healthy(&provider, "after a successful read").await;
    let reads = h.calls().reads - before;
    assert!(
        reads == 0,
        "a health check must not read secrets, but caused {reads} reads"
    );

    if h.supports().corrupt_responses && h.supports().full_health_check {
        h.corrupt_responses().await;
        let corrupt = within("a health check", provider.health()).await;
        let operation = "a health check of a corrupt source";
        assert_error(
            &expect_failure(corrupt, operation),
            None,
            ErrorKind::Malformed,
            operation,
        );
        h.clear_faults().await;
        assert_healthy(&provider, "after the source was repaired").await;
    }
    if h.supports().network {
        h.break_network().await;
        let error = within("a health check", provider.health()).await;
        let error = expect_failure(error, "a health check without a network");
        assert!(
            error.is_temporary(),
            "an error of a broken network must be temporary: {error}"
        );
        h.clear_faults().await;
        assert_healthy(&provider, "after the network recovered").await;
    }
    if h.supports().login {
        h.revoke_login().await;
        let refused = within("a health check", provider.health()).await;
        let operation = "a health check with a revoked login";
        assert_error(
            &expect_failure(refused, operation),
            None,
            ErrorKind::Unauthenticated,
            operation,
        );
        h.restore_login().await;
        assert_healthy(&provider, "after the login was restored").await;
    }
    Outcome::Passed
}

async fn assert_healthy(provider: &Arc<dyn SecretProvider>, when: &str) {
    if let Err(error) = within("a health check", provider.health()).await {
        panic!("the provider must be healthy {when}, but is not: {error}");
    }
}
