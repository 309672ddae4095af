//! Changes, versions, notices, and what a provider claims of itself.

use std::sync::Arc;

use secretwell_core::backend::ChangeStream;
use secretwell_core::{ErrorKind, KeyPrefix, SecretKey, SecretProvider, Version};

use super::{
    Outcome, assert_error, assert_fails, assert_reads, assert_value, failure, good_keys, read,
    within,
};
use crate::Harness;

/// The next read after an update has the new value and, where versions are claimed, another version.
pub async fn update_seen(h: &dyn Harness) -> Outcome {
    let provider = h.provider();
    let [key] = good_keys(h);
    let mut versions = Vec::new();
    // Of equal length, and back to the first value: neither size nor content tells revisions apart.
    for value in ["first", "other", "again"] {
        h.seed(&key, value.as_bytes()).await;
        let answer = read(&provider, &key).await;
        assert_value(&answer, &key, value.as_bytes());
        versions.extend(answer.ok().and_then(|secret| secret.version));
    }
    if provider.capabilities().versions {
        let changed = versions.windows(2).all(|pair| pair[0] != pair[1]);
        assert!(
            versions.len() == 3 && changed,
            "each update must have a version of its own: {versions:?}"
        );
        let backwards = versions
            .windows(2)
            .any(|pair| pair[1].is_older_than(&pair[0]));
        assert!(
            !backwards,
            "a newer version must not come before an older one: {versions:?}"
        );
    }
    Outcome::Passed
}

/// The next read after a deletion is `NotFound`, alone, among many and in a list; what is written
/// afterwards is there.
pub async fn delete_seen(h: &dyn Harness) -> Outcome {
    let provider = h.provider();
    let keys: [_; 2] = good_keys(h);
    let [gone, there] = &keys;
    for key in &keys {
        h.seed(key, b"value").await;
        assert_reads(&provider, key, b"value").await;
    }
    h.delete(gone).await;
    assert_fails(&provider, gone, ErrorKind::NotFound, "a deleted key").await;
    let mut answers = within("a read of many", provider.get_many(&keys)).await;
    assert!(
        answers.len() == 2,
        "two keys must have two results also when one is deleted"
    );
    assert_value(&answers[1], there, b"value");
    let error = failure(answers.swap_remove(0), "a deleted key among many");
    assert_error(
        &error,
        Some(gone),
        ErrorKind::NotFound,
        "a deleted key among many",
    );
    if provider.capabilities().list {
        let listed = list(&provider, &KeyPrefix::root()).await;
        assert!(!listed.contains(gone), "a deleted key must not be listed");
        assert!(listed.contains(there), "the other key must be listed");
    }
    h.seed(gone, b"anew").await;
    assert_reads(&provider, gone, b"anew").await;
    Outcome::Passed
}

/// An earlier version still has the bytes that it had; one that never was is a lasting failure.
pub async fn old_version(h: &dyn Harness) -> Outcome {
    let provider = h.provider();
    if !provider.capabilities().old_versions {
        return Outcome::NotApplicable("the provider claims no earlier versions");
    }
    let [key] = good_keys(h);
    let mut written = Vec::new();
    for value in ["first", "second"] {
        h.seed(&key, value.as_bytes()).await;
        let secret = read(&provider, &key)
            .await
            .expect("what was written is read");
        let version = secret.version;
        written.push((version.expect("whoever reads versions tells them"), value));
    }
    for (version, value) in &written {
        let pinned = within("a read of a version", provider.get_version(&key, version)).await;
        assert_value(&pinned, &key, value.as_bytes());
        let told = pinned.ok().and_then(|secret| secret.version);
        assert!(
            told.as_ref() == Some(version),
            "version {version} was asked for, and {told:?} answered"
        );
    }
    let never = Version::numbered(999_999);
    let pinned = within("a read of a version", provider.get_version(&key, &never)).await;
    let error = failure(pinned, "a version that never was");
    assert!(
        !error.is_temporary(),
        "a version that never was must fail for good: {error}"
    );
    Outcome::Passed
}

/// A change after `watch` returned is told. Where the network can be broken, the stream outlives that,
/// and does not tell the same error twice in a row.
pub async fn same_error_twice(h: &dyn Harness) -> Outcome {
    let provider = h.provider();
    if !provider.capabilities().watch {
        assert!(
            provider.watch().is_none(),
            "no watch is claimed, and there is one"
        );
        return Outcome::NotApplicable("the provider claims no watch");
    }
    let [key] = good_keys(h);
    h.seed(&key, b"first").await;
    let mut stream = provider.watch().expect("a watch is claimed");
    h.seed(&key, b"other").await;
    told(&mut stream, &key).await;
    assert_reads(&provider, &key, b"other").await;
    h.delete(&key).await;
    told(&mut stream, &key).await;

    if h.supports().network {
        h.break_network().await;
        let _ = read(&provider, &key).await;
        h.heal().await;
        h.seed(&key, b"third").await;
        told(&mut stream, &key).await;
        assert_reads(&provider, &key, b"third").await;
    }
    Outcome::Passed
}

/// Reads notices until one covers `key`.
async fn told(stream: &mut ChangeStream, key: &SecretKey) {
    let mut last = None;
    loop {
        match within("a notice of a change", stream.next()).await {
            Some(Ok(change)) if change.covers(key) => return,
            Some(Ok(_)) => last = None,
            Some(Err(error)) => {
                let text = Some(error.to_string());
                assert!(text != last, "the same error is told twice: {error}");
                last = text;
            }
            None => panic!("the stream of notices ended while the provider lives"),
        }
    }
}

async fn list(provider: &Arc<dyn SecretProvider>, prefix: &KeyPrefix) -> Vec<SecretKey> {
    let listed = within("a list", provider.list(prefix)).await;
    listed.unwrap_or_else(|error| panic!("a list is claimed, and fails: {error}"))
}

/// What is claimed works, what is not claimed is `Unsupported`, and the claims stay the same.
pub async fn capabilities_are_true(h: &dyn Harness) -> Outcome {
    let provider = h.provider();
    let claimed = provider.capabilities();
    let keys: Vec<SecretKey> = h.good_keys().into_iter().map(super::key).collect();
    for key in &keys {
        h.seed(key, b"value").await;
    }
    let secret = read(&provider, &keys[0])
        .await
        .expect("what was written is read");
    assert!(
        !claimed.ttl.is_zero(),
        "answers must be worth keeping for some time"
    );
    assert!(
        !claimed.versions || secret.version.is_some(),
        "versions are claimed, and an answer has none"
    );
    assert!(
        claimed.lease || secret.valid_for.is_none(),
        "no leases are claimed, and an answer has a lifetime"
    );
    if claimed.list {
        list_is_true(&provider, &keys, h.supports().flat_names).await;
    } else {
        let listed = within("a list", provider.list(&KeyPrefix::root())).await;
        let why = "a list that is not claimed";
        assert_error(&failure(listed, why), None, ErrorKind::Unsupported, why);
    }
    if claimed.old_versions {
        assert!(
            claimed.versions,
            "earlier versions are claimed, and no versions"
        );
        let current = secret.version.expect("seen above");
        let pinned = within("a version", provider.get_version(&keys[0], &current)).await;
        assert_value(&pinned, &keys[0], b"value");
    } else {
        let version = secret.version.unwrap_or_else(|| Version::numbered(1));
        let pinned = within("a version", provider.get_version(&keys[0], &version)).await;
        let why = "an earlier version, which is not claimed";
        assert_error(
            &failure(pinned, why),
            Some(&keys[0]),
            ErrorKind::Unsupported,
            why,
        );
    }
    assert!(
        provider.watch().is_some() == claimed.watch,
        "`watch` must be claimed exactly when there is one"
    );
    assert!(
        provider.capabilities() == claimed,
        "the claims must stay the same"
    );
    Outcome::Passed
}

async fn list_is_true(provider: &Arc<dyn SecretProvider>, keys: &[SecretKey], flat: bool) {
    let listed = list(provider, &KeyPrefix::root()).await;
    assert!(listed.is_sorted(), "a list must be sorted: {listed:?}");
    for key in keys.iter().filter(|key| !flat || key.prefix().is_none()) {
        let times = listed.iter().filter(|other| *other == key).count();
        assert!(
            times == 1,
            "`{key}` must be listed once, and is {times} times"
        );
    }
    let Some(directory) = keys.iter().find_map(SecretKey::prefix) else {
        return;
    };
    let prefix = KeyPrefix::parse(directory).expect("a key's directory is a prefix");
    let below = list(provider, &prefix).await;
    let expected = keys.iter().filter(|key| prefix.contains(key));
    for key in expected {
        assert!(
            below.contains(key),
            "`{key}` must be listed below `{directory}`"
        );
    }
    for key in &below {
        assert!(
            prefix.contains(key),
            "`{key}` must not be listed below `{directory}`"
        );
    }
}

/// A provider is healthy after a good read and unhealthy when the next read would fail; finding out
/// is no read.
pub async fn health(h: &dyn Harness) -> Outcome {
    let provider = h.provider();
    let [key] = good_keys(h);
    h.seed(&key, b"value").await;
    assert_reads(&provider, &key, b"value").await;
    let before = h.calls().reads;
    healthy(&provider, "after a good read").await;
    let reads = h.calls().reads - before;
    assert!(reads == 0, "a health check must be no read, and is {reads}");

    if h.supports().garble && h.supports().whole_health {
        h.garble().await;
        let garbled = within("a health check", provider.health()).await;
        let why = "the health of a source that makes no sense";
        assert_error(&failure(garbled, why), None, ErrorKind::Malformed, why);
        h.heal().await;
        healthy(&provider, "after the source makes sense again").await;
    }
    if h.supports().network {
        h.break_network().await;
        let error = within("a health check", provider.health()).await;
        let error = failure(error, "the health without a network");
        assert!(
            error.is_temporary(),
            "a broken network must be a temporary failure: {error}"
        );
        h.heal().await;
        healthy(&provider, "after the network came back").await;
    }
    if h.supports().login {
        h.revoke_login().await;
        let refused = within("a health check", provider.health()).await;
        let why = "the health with a refused login";
        assert_error(
            &failure(refused, why),
            None,
            ErrorKind::Unauthenticated,
            why,
        );
        h.fix_login().await;
        healthy(&provider, "after the login works again").await;
    }
    Outcome::Passed
}

async fn healthy(provider: &Arc<dyn SecretProvider>, when: &str) {
    if let Err(error) = within("a health check", provider.health()).await {
        panic!("the provider must be healthy {when}, and is not: {error}");
    }
}
