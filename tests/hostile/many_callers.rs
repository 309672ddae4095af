//! Many callers at once share calls to the source.

use std::sync::Arc;
use std::time::Duration;

use secretwell::Resolver;
use secretwell::backend::Capabilities;
use secretwell_testkit::{Action, FaultyProvider};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::Source;
use crate::support::{faulty_source, pass, secs, text};

fn many() -> (Vec<String>, Source) {
    let names: Vec<String> = (0..200).map(|number| format!("K{number}")).collect();
    let memory = names.iter().map(|name| (name, "v")).collect();
    let capabilities = Capabilities::none().with_versions().with_batch();
    (
        names,
        FaultyProvider::new(memory).with_capabilities(capabilities),
    )
}

#[derive(serde::Deserialize)]
struct Loaded {
    #[serde(rename = "K0")]
    _first: String,
    #[serde(rename = "K199")]
    _last: Option<String>,
}

async fn readers_share_calls(kinds: usize) {
    for (round, delay) in [Duration::ZERO, Duration::from_millis(20)]
        .into_iter()
        .enumerate()
    {
        let (names, source) = many();
        if round > 0 {
            source.always(Action::Delay(delay));
        }
        let resolver = Resolver::new(source.clone());
        let barrier = Arc::new(tokio::sync::Barrier::new(names.len()));
        let mut readers = JoinSet::new();
        for (number, name) in names.into_iter().enumerate() {
            let (resolver, barrier) = (resolver.clone(), barrier.clone());
            readers.spawn(async move {
                barrier.wait().await;
                match number % kinds {
                    0 => drop(text(&resolver, &name).await),
                    1 => drop(resolver.refresh([&name]).await.remove(0).unwrap()),
                    2 => drop(resolver.load::<Loaded>().await.unwrap()),
                    3 => drop(resolver.watch([&name]).unwrap().next().await.unwrap()),
                    4 => drop(resolver.report_rejected(&name, &"x".into()).await.unwrap()),
                    _ => drop(
                        resolver
                            .refresh_after_write([&name])
                            .await
                            .remove(0)
                            .unwrap(),
                    ),
                }
            });
        }
        readers.join_all().await;
        assert!(
            source.calls() <= 4,
            "{} calls, delay of {delay:?}",
            source.calls()
        );
    }
}

#[tokio::test(start_paused = true)]
async fn readers_of_many_keys_share_calls() {
    readers_share_calls(1).await;
    readers_share_calls(6).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn readers_of_many_keys_on_many_threads_share_calls() {
    for kinds in [1, 2] {
        let (names, source) = many();
        source.always(Action::Delay(Duration::from_millis(50)));
        let resolver = Resolver::new(source.clone());
        let mut readers = JoinSet::new();
        for (number, name) in names.into_iter().enumerate() {
            let resolver = resolver.clone();
            readers.spawn(async move {
                match number % kinds {
                    0 => drop(text(&resolver, &name).await),
                    _ => drop(resolver.refresh([&name]).await.remove(0).unwrap()),
                }
            });
        }
        readers.join_all().await;
        assert!(source.calls() <= 4, "{} calls", source.calls());
    }
}

#[tokio::test(start_paused = true)]
async fn refreshes_that_are_due_together_share_calls() {
    let (names, source) = many();
    let resolver = Resolver::builder(source.clone()).ttl(secs(100)).build();
    // The keys are first read within a few seconds.
    let mut watches = Vec::new();
    for chunk in names.chunks(50) {
        watches.push(resolver.watch(chunk).unwrap());
        pass(secs(1)).await;
    }
    let calls = source.calls();
    assert!(calls <= 4, "{calls}");
    pass(secs(90)).await;
    assert!(
        source.calls() - calls <= 4,
        "{} calls",
        source.calls() - calls
    );
    assert!(source.keys_read() >= 400, "all keys were refreshed");
}

#[tokio::test(start_paused = true)]
async fn slow_batch_delays_later_keys_for_at_most_250_ms() {
    for slow in [Action::Hang, Action::Delay(secs(10))] {
        let (names, source) = many();
        source.push(slow);
        let resolver = Resolver::new(source.clone());
        let mut readers = JoinSet::new();
        for (number, name) in names.into_iter().take(50).enumerate() {
            let resolver = resolver.clone();
            readers.spawn(async move {
                let start = Instant::now();
                let read = timeout(secs(9), resolver.get(&name)).await;
                (number == 0 || read.is_ok(), start.elapsed())
            });
            pass(Duration::from_millis(20)).await;
        }
        for (ended, took) in readers.join_all().await {
            assert!(ended, "a reader waits for the slow batch");
            assert!(
                took <= Duration::from_millis(300) || took >= secs(9),
                "{took:?}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn callers_that_invalidate_and_read_a_key_share_calls() {
    let (_, faulty) = faulty_source(&[("K", "v")]);
    faulty.always(Action::Delay(Duration::from_millis(20)));
    let resolver = Resolver::new(faulty.clone());
    let mut callers = JoinSet::new();
    for _ in 0..10_000 {
        let resolver = resolver.clone();
        callers.spawn(async move {
            resolver.invalidate("K");
            text(&resolver, "K").await
        });
    }
    assert!(callers.join_all().await.iter().all(|value| value == "v"));
    assert!(faulty.calls() <= 4, "{}", faulty.calls());
}
