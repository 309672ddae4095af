//! Chains of sources, with every adapter around them. Each source has its own ttl, versions, failures and waits.

mod failures;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use secretwell::backend::Capabilities;
use secretwell::{
    Chain, MemoryProvider, Resolver, Secret, SecretProvider, SecretProviderExt, SecretString,
    Version, from_url,
};
use secretwell_testkit::{Action, FaultyProvider};

use crate::support::{changed_now, key, pass, secs, settle, text};

type Source = FaultyProvider<MemoryProvider>;

/// Returns a source with versions. A key can be read with and without the prefix `app`.
fn source(ttl: u64, batch: bool, secrets: &[(&str, &str)]) -> Source {
    let memory = MemoryProvider::new();
    for (name, value) in secrets {
        set(&memory, name, value);
    }
    let mut capabilities = Capabilities::none().with_versions().with_ttl(secs(ttl));
    capabilities.batch = batch;
    FaultyProvider::new(memory).with_capabilities(capabilities)
}

fn local(batch: bool, secrets: &[(&str, &str)]) -> Source {
    source(1, batch, secrets)
}

fn remote(batch: bool, secrets: &[(&str, &str)]) -> Source {
    source(300, batch, secrets)
}

fn set(memory: &MemoryProvider, name: &str, value: &str) {
    memory.set(name, value).unwrap();
    memory.set(format!("app/{name}"), value).unwrap();
}

fn remove(memory: &MemoryProvider, name: &str) {
    memory.remove(name).unwrap();
    memory.remove(format!("app/{name}")).unwrap();
}

/// Returns chains that read `first` and then `second`, with each adapter around and inside of them.
fn adapted(first: &Source, second: &Source) -> Vec<(&'static str, Arc<dyn SecretProvider>)> {
    let chain = || first.clone().or_else(second.clone());
    let boxed: Box<dyn SecretProvider> = Box::new(chain());
    let inner = first
        .clone()
        .with_deadline(secs(20))
        .or_else(Box::new(second.clone()).renamed([("X", "Y")]).unwrap());
    vec![
        ("chain", Arc::new(chain())),
        ("deadline", Arc::new(chain().with_deadline(secs(20)))),
        ("boxed", Arc::new(Arc::new(boxed))),
        ("prefixed", Arc::new(chain().prefixed("app").unwrap())),
        ("renamed", Arc::new(chain().renamed([("X", "Y")]).unwrap())),
        ("first", Arc::new(chain().or_else(remote(true, &[])))),
        ("last", Arc::new(local(false, &[]).or_else(chain()))),
        (
            "iterator",
            Arc::new(Chain::from_iter([first.clone(), second.clone()])),
        ),
        ("adapters inside", Arc::new(inner)),
    ]
}

const NAMES: [&str; 10] = ["K0", "K1", "K2", "K3", "K4", "K5", "K6", "K7", "K8", "K9"];

/// Reads ten keys every five seconds for ten minutes. Returns the number of calls to `source`.
async fn calls_in_ten_minutes(source: &Source, provider: impl SecretProvider) -> usize {
    let before = source.calls();
    let resolver = Resolver::new(provider);
    for _ in 0..120 {
        for name in NAMES {
            assert!(!resolver.get(name).await.unwrap().freshness.is_stale());
        }
        pass(secs(5)).await;
    }
    resolver.close().await;
    source.calls() - before
}

#[tokio::test(start_paused = true)]
async fn remote_source_is_read_equally_often_alone_and_behind_other_sources() {
    let secrets = NAMES.map(|name| (name, "v"));
    for batch in [true, false] {
        let remote_source = remote(batch, &secrets);
        let alone = calls_in_ten_minutes(&remote_source, remote_source.clone()).await;
        for (name, provider) in adapted(&local(false, &[]), &remote_source) {
            let behind = calls_in_ten_minutes(&remote_source, provider).await;
            let expected = alone / 2..=alone * 3 / 2 + 2;
            assert!(
                expected.contains(&behind),
                "{name}: {behind}, alone: {alone}"
            );
        }
        // A remote source that has none of the keys, between two others.
        let empty = remote(batch, &[]);
        let chain = local(false, &[])
            .or_else(empty.clone())
            .or_else(remote_source.clone());
        let calls = calls_in_ten_minutes(&empty, chain).await;
        assert!(
            calls <= alone * 3 / 2 + 2,
            "absences: {calls}, alone: {alone}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn versions_are_compared_only_within_a_source_for_every_adapter() {
    for batch in [true, false] {
        let (first, second) = (local(batch, &[]), local(batch, &[("K", "base")]));
        for (name, provider) in adapted(&first, &second) {
            for value in ["one", "two", "leaked"] {
                set(first.inner(), "K", value);
            }
            let resolver = Resolver::builder(provider).ttl(secs(2)).build();
            assert_eq!(text(&resolver, "K").await, "leaked", "{name}");
            remove(first.inner(), "K");
            pass(secs(3)).await;
            let resolved = resolver.get("K").await.unwrap();
            assert_eq!(resolved.value.expose_bytes(), b"base", "{name}");
            assert!(!resolved.freshness.is_stale(), "{name}");
            assert_eq!(resolved.origin, *second.origin(), "{name}");
        }
        // A provider that hides the sources of a chain, with an older version in the second one.
        set(first.inner(), "K", "leaked");
        let hidden = FaultyProvider::new(first.clone().or_else(second.clone()));
        let resolver = Resolver::builder(hidden).ttl(secs(2)).build();
        assert_eq!(text(&resolver, "K").await, "leaked");
        remove(first.inner(), "K");
        pass(secs(3)).await;
        assert_eq!(text(&resolver, "K").await, "base");
    }
}

#[tokio::test(start_paused = true)]
async fn lower_version_of_another_object_is_accepted_immediately() {
    let time = |seconds| SystemTime::UNIX_EPOCH + secs(seconds);
    let recreated = |number, created| Version::numbered(number).with_created_at(time(created));
    let moved = |number, id: &str| Version::numbered(number).with_identity(id);
    for (old, new) in [
        (recreated(7, 100), recreated(1, 200)),
        (moved(7, "a"), moved(1, "b")),
    ] {
        for sources in [1, 2] {
            let second = remote(true, &[]);
            let provider: Arc<dyn SecretProvider> = match sources {
                1 => Arc::new(second.clone()),
                _ => Arc::new(local(false, &[]).or_else(second.clone())),
            };
            let resolver = Resolver::builder(provider).ttl(secs(10)).build();
            second.always(Action::Return(Secret::new("old").with_version(old.clone())));
            assert_eq!(text(&resolver, "K").await, "old");
            second.always(Action::Return(Secret::new("new").with_version(new.clone())));
            pass(secs(11)).await;
            assert_eq!(text(&resolver, "K").await, "new");
            second.always(Action::Return(Secret::new("old").with_version(old.clone())));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn restored_version_of_the_second_source_is_accepted_and_a_lagging_one_is_not() {
    let returned = |number: u64, value: &str| {
        Action::Return(Secret::new(value).with_version(Version::numbered(number)))
    };
    for batch in [true, false] {
        let second = remote(batch, &[]);
        for (name, provider) in adapted(&local(batch, &[]), &second) {
            let resolver = Resolver::builder(provider).ttl(secs(10)).build();
            second.always(returned(5, "five"));
            assert_eq!(text(&resolver, "K").await, "five", "{name}");
            second.always(returned(3, "three"));
            pass(secs(11)).await;
            assert_eq!(text(&resolver, "K").await, "five", "{name}: not confirmed");
            resolver.invalidate("K");
            assert!(
                resolver.get("K").await.is_err(),
                "{name}: the guard survives"
            );
            resolver.accept_older_versions(["K"]);
            assert_eq!(text(&resolver, "K").await, "three", "{name}");
            second.always(returned(2, "two"));
            resolver.refresh(["K"]).await;
            pass(secs(11)).await;
            assert_eq!(
                text(&resolver, "K").await,
                "three",
                "{name}: a lagging replica"
            );
            resolver.close().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn provider_of_a_value_is_the_source_that_has_it() {
    let (over, base) = (MemoryProvider::new(), MemoryProvider::new());
    over.set("K", "not of base").unwrap();
    over.remove("K").unwrap();
    base.set("K", "first").unwrap();
    base.set("K", "second").unwrap();
    let resolver = Resolver::new(over.or_else(base));
    let resolved = resolver.get("K").await.unwrap();
    let provider = resolver.provider_of(&key("K"), &resolved);
    let previous = provider
        .get_version(&key("K"), &Version::numbered(1))
        .await
        .unwrap();
    assert_eq!(previous.value.expose_bytes(), b"first");
}

#[tokio::test]
async fn previous_version_is_read_from_the_source_of_the_version_in_nested_chains() {
    let memory = |name: &str| {
        let memory = MemoryProvider::new();
        memory.set("K", format!("{name} 1")).unwrap();
        memory.set("K", format!("{name} 2")).unwrap();
        memory
    };
    let sources = ["a", "b", "c", "d"].map(memory);
    for (absent, name) in ["a", "b", "c", "d"].iter().enumerate() {
        let [a, b, c, d] = sources.clone();
        let chain = Chain::new(a.or_else(b)).or_else(c.or_else(d));
        let read = chain.get(&key("K")).await.unwrap();
        assert_eq!(read.value.expose_text().unwrap(), format!("{name} 2"));
        let first = Version::numbered(1);
        for version in [read.version.unwrap(), first] {
            let read = chain.get_version(&key("K"), &version).await.unwrap();
            let number = version.number().unwrap();
            // A version that names no source is the one of the first source that has it.
            let expected = match number {
                1 => "a 1".to_owned(),
                _ => format!("{name} 2"),
            };
            assert_eq!(read.value.expose_text().unwrap(), expected);
        }
        sources[absent].remove("K").unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn watched_key_of_the_second_source_is_refreshed_although_nobody_reads_it() {
    for (batch, max_stale) in [(true, 0), (false, 0), (true, 1000), (false, 1000)] {
        let second = remote(batch, &[("K", "v")]);
        for (name, provider) in adapted(&local(batch, &[]), &second) {
            let before = second.calls();
            let resolver = Resolver::builder(provider)
                .max_stale(secs(max_stale))
                .build();
            let _watch = resolver.watch(["K"]).unwrap();
            pass(secs(1500)).await;
            let calls = second.calls() - before;
            assert!(
                (5..=9).contains(&calls),
                "{name}: {calls} calls in 5 ttls, {max_stale}"
            );
            resolver.close().await;
        }
    }
}

#[derive(Debug, serde::Deserialize)]
struct Api {
    #[serde(rename = "API_KEY")]
    _key: SecretString,
}

#[tokio::test(start_paused = true)]
async fn error_of_an_absent_key_names_the_place_in_each_source() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!(
        "env://SECRETWELL_ABSENT_,file://{}",
        folder.path().display()
    );
    let provider = from_url(&url).unwrap();
    let wrapped = MemoryProvider::new()
        .or_else(provider.clone())
        .with_deadline(secs(9));
    for provider in [provider, Arc::new(wrapped)] {
        let resolver = Resolver::new(provider);
        let mut texts = Vec::new();
        for _ in 0..2 {
            texts.push(resolver.get("API_KEY").await.unwrap_err().to_string());
            texts.push(resolver.load::<Api>().await.unwrap_err().to_string());
        }
        texts.push(
            resolver.refresh(["API_KEY"]).await[0]
                .as_ref()
                .unwrap_err()
                .to_string(),
        );
        let mut watch = resolver.watch(["API_KEY"]).unwrap();
        let update = watch.next().await.unwrap().remove(0);
        texts.push(update.result.unwrap_err().to_string());
        for text in texts {
            let path = folder.path().to_str().unwrap();
            for place in ["API_KEY from ", "`SECRETWELL_ABSENT_API_KEY`", path] {
                assert!(text.contains(place), "{place} is not in: {text}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn invalidation_of_a_watched_key_is_not_a_change_for_every_adapter() {
    for batch in [true, false] {
        for (name, provider) in adapted(&local(batch, &[]), &remote(batch, &[("K", "v")])) {
            let resolver = Resolver::new(provider);
            let mut watch = resolver.watch(["K"]).unwrap();
            watch.next().await.unwrap();
            for _ in 0..3 {
                resolver.invalidate("K");
                assert!(changed_now(&mut watch).is_empty(), "{name}");
                pass(secs(2)).await;
                assert!(changed_now(&mut watch).is_empty(), "{name}");
                assert_eq!(text(&resolver, "K").await, "v", "{name}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn readers_of_many_keys_share_calls_to_the_second_source_for_every_adapter() {
    let names: Vec<String> = (0..200).map(|number| format!("N{number}")).collect();
    let secrets: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "v")).collect();
    for first_batch in [true, false] {
        let second = remote(true, &secrets);
        for (adapter, provider) in adapted(&local(first_batch, &[]), &second) {
            second.always(Action::Delay(Duration::from_millis(20)));
            let before = second.calls();
            let resolver = Resolver::new(provider);
            let mut readers = tokio::task::JoinSet::new();
            for name in names.clone() {
                let resolver = resolver.clone();
                readers.spawn(async move { text(&resolver, &name).await });
            }
            readers.join_all().await;
            let calls = second.calls() - before;
            assert!(calls <= 4, "{adapter}: {calls}");
            settle().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn rejected_value_of_the_second_source_is_replaced_and_discarded_for_every_adapter() {
    for batch in [true, false] {
        let second = remote(batch, &[("K", "leaked")]);
        for (name, provider) in adapted(&local(batch, &[]), &second) {
            set(second.inner(), "K", "leaked");
            let resolver = Resolver::new(provider);
            let leaked = resolver.get("K").await.unwrap().value;
            set(second.inner(), "K", "new");
            let discarded = second.discarded().len();
            let replaced = resolver.report_rejected("K", &leaked).await.unwrap();
            assert_eq!(replaced.value.expose_bytes(), b"new", "{name}");
            let discarded = second.discarded().split_off(discarded);
            let expected = (
                if name == "prefixed" {
                    key("app/K")
                } else {
                    key("K")
                },
                Some(leaked),
            );
            assert!(discarded.contains(&expected), "{name}: {discarded:?}");
            assert_eq!(text(&resolver, "K").await, "new", "{name}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn rejected_value_of_the_second_source_does_not_return_when_the_first_one_is_deleted() {
    for batch in [true, false] {
        let second = remote(batch, &[("K", "leaked")]);
        let first = local(batch, &[]);
        for (name, provider) in adapted(&first, &second) {
            set(second.inner(), "K", "leaked");
            let resolver = Resolver::new(provider);
            let leaked = resolver.get("K").await.unwrap().value;
            set(first.inner(), "K", "override");
            pass(secs(2)).await;
            assert_eq!(text(&resolver, "K").await, "override", "{name}");
            set(second.inner(), "K", "new");
            let replaced = resolver.report_rejected("K", &leaked).await.unwrap();
            assert_eq!(replaced.value.expose_bytes(), b"override", "{name}");
            remove(first.inner(), "K");
            pass(secs(2)).await;
            assert_eq!(text(&resolver, "K").await, "new", "{name}");
        }
    }
}
