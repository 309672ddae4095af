//! Many tasks, many handles, and the end of them.

use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::JoinSet;

use super::{Outcome, PATIENCE, assert_reads, assert_value, good_keys, key, read, within};
use crate::Harness;

/// 100 tasks that share one handle all read the right values.
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
            let answers = if task % 2 == 0 {
                provider.get_many(&keys).await
            } else {
                vec![provider.get(&keys[0]).await]
            };
            let asked = if task % 2 == 0 { keys.len() } else { 1 };
            assert!(answers.len() == asked, "each key must have one result");
            for (key, answer) in keys.iter().zip(&answers) {
                assert_value(answer, key, key.as_str().as_bytes());
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

/// Two handles of the same source see the same, log in on their own, and outlive each other.
pub async fn independent_handles(h: &dyn Harness) -> Outcome {
    let Some(second) = h.another() else {
        return Outcome::NotApplicable("the harness makes one handle only");
    };
    let first = h.provider();
    let [key] = good_keys(h);
    h.seed(&key, b"first").await;
    let before = h.calls().logins;
    assert_reads(&first, &key, b"first").await;
    let alone = h.calls().logins - before;
    assert_reads(&second, &key, b"first").await;
    let both = h.calls().logins - before;
    assert!(
        both == 2 * alone,
        "each handle must log in by itself: one cost {alone} logins, two cost {both}"
    );
    h.seed(&key, b"other").await;
    assert_reads(&second, &key, b"other").await;
    assert_reads(&first, &key, b"other").await;
    drop(second);
    h.seed(&key, b"third").await;
    assert_reads(&first, &key, b"third").await;
    Outcome::Passed
}

/// Dropping a stream of notices, a call under way and a handle ends quickly, leaves the other handles
/// as they are and, where the harness can tell, leaves no task.
pub async fn drop_leaves_nothing(h: &dyn Harness) -> Outcome {
    let first = h.provider();
    let [key] = good_keys(h);
    h.seed(&key, b"value").await;
    assert_reads(&first, &key, b"value").await;
    let metrics = Handle::current().metrics();
    let before = metrics.num_alive_tasks();

    let second = h.another();
    for handle in [Some(first.clone()), second].into_iter().flatten() {
        let stream = handle.watch();
        let mut other_stream = handle.watch();
        let _ = read(&handle, &key).await;
        let _ = tokio::time::timeout(Duration::ZERO, handle.get(&key)).await;
        drop(stream);
        if let Some(other) = &mut other_stream {
            h.seed(&key, b"value").await;
            let told = within("a notice after another stream was dropped", other.next()).await;
            assert!(told.is_some(), "one stream's end must not end the other");
        }
        // The stream is allowed to outlive its provider; what it says then is its own affair.
        drop(handle);
        drop(other_stream);
    }
    if h.supports().quiet_runtime {
        let settled = tokio::time::timeout(PATIENCE, async {
            while metrics.num_alive_tasks() > before {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        });
        let left = settled.await.is_err();
        assert!(!left, "dropping streams and handles must end their tasks");
    }
    assert_reads(&first, &key, b"value").await;
    Outcome::Passed
}
