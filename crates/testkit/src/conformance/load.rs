//! Tests of concurrent use, of independent handles and of dropping them.

use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::JoinSet;

use super::{Outcome, TIME_LIMIT, assert_reads, assert_value, key, read, valid_keys, within};
use crate::Harness;

/// 100 tasks that share one handle read the right values.
pub async fn concurrent_use(h: &dyn Harness) -> Outcome {
    let provider = h.provider();
    let keys: Vec<_> = (0..10).map(|n| key(&format!("KEY_{n}"))).collect();
    for key in &keys {
        h.seed(key, key.as_str().as_bytes()).await;
    }
    let mut tasks = JoinSet::new();
    for task in 0..100 {
        let (provider, mut keys) = (provider.clone(), keys.clone());
        tasks.spawn(async move {
            keys.rotate_left(task % 10);
            let results = if task % 2 == 0 {
                provider.get_many(&keys).await
            } else {
                vec![provider.get(&keys[0]).await]
            };
            let requested = if task % 2 == 0 { keys.len() } else { 1 };
            assert!(results.len() == requested, "each key must have one result");
            for (key, result) in keys.iter().zip(&results) {
                assert_value(result, key, key.as_str().as_bytes());
            }
            tokio::task::yield_now().await;
        });
    }
    within("reads by 100 tasks", async {
        while let Some(ended) = tasks.join_next().await {
            if let Err(error) = ended {
                std::panic::resume_unwind(error.into_panic());
            }
        }
    })
    .await;
    Outcome::Passed
}

/// Two handles of the same source return the same values, log in separately, and do not depend on
/// each other.
pub async fn independent_handles(h: &dyn Harness) -> Outcome {
    let Some(second) = h.second_provider() else {
        return Outcome::NotApplicable("the harness creates only one handle");
    };
    let first = h.provider();
    let [key] = valid_keys(h);
    h.seed(&key, b"first").await;
    let before = h.calls().logins;
    assert_reads(&first, &key, b"first").await;
    let first_logins = h.calls().logins - before;
    assert_reads(&second, &key, b"first").await;
    let both_logins = h.calls().logins - before;
    assert!(
        both_logins == 2 * first_logins,
        "each handle must log in separately: one needed {first_logins} logins, two needed {both_logins}"
    );
    h.seed(&key, b"other").await;
    assert_reads(&second, &key, b"other").await;
    assert_reads(&first, &key, b"other").await;
    drop(second);
    h.seed(&key, b"third").await;
    assert_reads(&first, &key, b"third").await;
    Outcome::Passed
}

/// Dropping a change stream, a call in progress or a handle does not affect other handles. If the
/// harness has an exclusive runtime, no task is left.
pub async fn drop_leaves_nothing(h: &dyn Harness) -> Outcome {
    let first = h.provider();
    let [key] = valid_keys(h);
    h.seed(&key, b"value").await;
    assert_reads(&first, &key, b"value").await;
    let metrics = Handle::current().metrics();
    let before = metrics.num_alive_tasks();

    let second = h.second_provider();
    for handle in [Some(first.clone()), second].into_iter().flatten() {
        let stream = handle.watch();
        let mut other_stream = handle.watch();
        let _ = read(&handle, &key).await;
        let _ = tokio::time::timeout(Duration::ZERO, handle.get(&key)).await;
        drop(stream);
        if let Some(other) = &mut other_stream {
            h.seed(&key, b"value").await;
            let notified = within(
                "a notification after another stream was dropped",
                other.next(),
            );
            assert!(
                notified.await.is_some(),
                "dropping one stream must not end another"
            );
        }
        // The stream can outlive its provider. Its output after that is not specified.
        drop(handle);
        drop(other_stream);
    }
    if h.supports().exclusive_runtime {
        let tasks_ended = tokio::time::timeout(TIME_LIMIT, async {
            while metrics.num_alive_tasks() > before {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        });
        let tasks_left = tasks_ended.await.is_err();
        assert!(
            !tasks_left,
            "dropping streams and handles must end their tasks"
        );
    }
    assert_reads(&first, &key, b"value").await;
    Outcome::Passed
}
