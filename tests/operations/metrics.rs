//! The numbers that a service reports. A paused clock moves them; the recorder is that of the thread.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use metrics_exporter_prometheus::PrometheusRecorder;
use secretwell::auth::{BuildError, LazyAuth, Mode};
use secretwell::backend::Change;
use secretwell::{ErrorKind, MemoryProvider, Origin, Resolver, SecretProviderExt};
use secretwell_testkit::{Action, Canary};

use super::{Custom, Remote, Secrets, documented, recorder};
use crate::support::{denied, down, faulty_source, key, pass, secs, text};

mod lifetimes;

/// The metrics are reported within this time.
const REPORTED: u64 = 6;

fn exposition(recorder: &PrometheusRecorder) -> String {
    recorder.handle().render()
}

/// Returns the value of a series, such as `secretwell_breaker_open{source="memory"}`.
#[track_caller]
fn value(recorder: &PrometheusRecorder, series: &str) -> f64 {
    let text = exposition(recorder);
    let values = text.lines().filter_map(|line| line.strip_prefix(series));
    match &values.map(str::trim).collect::<Vec<_>>()[..] {
        [value] => value.parse().unwrap(),
        values => panic!("{series} has {} values in:\n{text}", values.len()),
    }
}

#[track_caller]
fn assert_values(recorder: &PrometheusRecorder, expected: &[(&str, f64)]) {
    for (series, expected) in expected {
        let actual = value(recorder, series);
        assert!(
            (actual - expected).abs() < 1e-9,
            "{series} is {actual} and not {expected} in:\n{}",
            exposition(recorder)
        );
    }
}

/// Checks that the exposition has each documented metric, and nothing that is not documented.
fn assert_documented(text: &str) {
    let documented = documented();
    let mut seen = BTreeSet::new();
    for line in text.lines() {
        if line.starts_with('#') || line.is_empty() {
            continue;
        }
        let (series, _) = line.rsplit_once(' ').unwrap();
        let (name, labels) = series.split_once('{').unwrap();
        let name = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|suffix| name.strip_suffix(suffix))
            .unwrap_or(name);
        let expected = documented.get(name);
        let expected = expected.unwrap_or_else(|| panic!("{name} is not documented"));
        seen.insert(name);
        let labels = labels.strip_suffix('}').unwrap().split(',');
        let labels: BTreeMap<&str, &str> = labels
            .map(|label| label.split_once('=').unwrap())
            .filter(|(label, _)| *label != "le")
            .collect();
        assert!(labels.keys().eq(expected.keys()), "labels of {line}");
        for (label, value) in labels {
            let (value, values) = (value.trim_matches('"'), &expected[label]);
            assert!(
                values.is_empty() || values.contains(value),
                "{label} of {line}"
            );
        }
    }
    let names: BTreeSet<&str> = documented.into_keys().collect();
    assert_eq!(seen, names, "{text}");
}

#[tokio::test]
async fn exposition_of_a_service_has_exactly_the_documented_metrics_and_no_secret_key_or_path() {
    let recorder = recorder();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let (remote, next) = (Remote::new().await, Canary::new("next secret"));
    let local = Canary::new("local secret");
    let memory = MemoryProvider::new();
    memory.set("LOCAL_CANARY", local.value()).unwrap();
    let provider = Arc::new(remote.provider());
    let resolver = Resolver::builder(memory.or_else(provider.clone()))
        .ttl(secs(3600))
        .build();
    let auth = LazyAuth::builder(resolver.clone())
        .name("sessions")
        .mode(Mode::Production)
        .build(|_: Secrets, _| async { Ok::<_, BuildError>(()) });
    auth.get().await.unwrap();
    resolver.get("LOCAL_CANARY").await.unwrap();
    for _ in 0..3 {
        resolver.with_cached("LOCAL_CANARY", |_| ()).unwrap();
    }
    resolver.get("ABSENT_CANARY").await.unwrap_err();
    remote.set(&next);
    auth.rebuild().await.unwrap();
    provider.push(Action::Fail(denied()));
    let error = resolver.get("FAILED_CANARY").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    assert_values(
        &recorder,
        &[
            (
                r#"secretwell_auth_state{name="sessions",type="ready"}"#,
                1.0,
            ),
            (r#"secretwell_auth_state{name="sessions",type="idle"}"#, 0.0),
            (r#"secretwell_auth_generation{name="sessions"}"#, 2.0),
        ],
    );
    tokio::time::pause();
    pass(secs(REPORTED)).await;
    tokio::time::resume();
    resolver.close().await;
    // The server refuses this login.
    let client_secret = remote.client_secret();
    let wrong = Canary::new("wrong client secret");
    remote.place.write_client_secret(wrong.text());
    let refused = Resolver::new(remote.provider());
    refused.get("AUTH_SECRET").await.unwrap_err();
    drop(refused);
    let logins = r#"secretwell_login_duration_seconds_count{source="infisical",outcome="refused"}"#;
    assert!(value(&recorder, logins) >= 1.0);

    let text = exposition(&recorder);
    assert_documented(&text);
    assert_values(
        &recorder,
        &[
            (
                r#"secretwell_cache_reads_total{source="memory",outcome="hit"}"#,
                3.0,
            ),
            (
                r#"secretwell_cache_reads_total{source="memory",outcome="miss"}"#,
                1.0,
            ),
            (
                r#"secretwell_cache_reads_total{source="infisical",outcome="absent"}"#,
                1.0,
            ),
            (
                r#"secretwell_cache_reads_total{source="infisical",outcome="failed"}"#,
                2.0,
            ),
            (
                r#"secretwell_fetched_keys_total{source="memory",outcome="found"}"#,
                1.0,
            ),
            (r#"secretwell_rotations_total{source="infisical"}"#, 1.0),
            (r#"secretwell_rotations_total{source="memory"}"#, 0.0),
            (
                r#"secretwell_login_duration_seconds_count{source="infisical",outcome="success"}"#,
                1.0,
            ),
            (
                r#"secretwell_fetch_duration_seconds_count{source="infisical",outcome="failure"}"#,
                2.0,
            ),
        ],
    );
    for canary in [&remote.secret, &next, &local, &client_secret, &wrong] {
        canary.assert_not_in(&text, "the exposition");
    }
    let place = &remote.place;
    for other in [
        "CANARY",
        "AUTH_SECRET",
        &place.folder,
        &place.project,
        "127.0.0.1",
    ] {
        assert!(!text.contains(other), "{other} in:\n{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn outage_is_visible_and_its_end_as_well() {
    let recorder = recorder();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let (_, faulty) = faulty_source(&[("A", "a"), ("B", "b")]);
    let resolver = Resolver::builder(faulty.clone())
        .ttl(secs(100))
        .max_stale(secs(1000))
        .retry_budget(10, 1)
        .build();
    for name in ["A", "B", "A", "B"] {
        text(&resolver, name).await;
    }
    faulty.always(Action::Fail(down()));
    pass(secs(300)).await;
    assert!(resolver.get("A").await.unwrap().freshness.is_stale());
    pass(secs(REPORTED)).await;
    assert_values(
        &recorder,
        &[
            (r#"secretwell_breaker_open{source="memory"}"#, 1.0),
            (
                r#"secretwell_cache_reads_total{source="memory",outcome="stale"}"#,
                1.0,
            ),
            (
                r#"secretwell_fetch_duration_seconds_count{source="memory",outcome="success"}"#,
                2.0,
            ),
        ],
    );
    let age = value(
        &recorder,
        r#"secretwell_stale_age_seconds{source="memory"}"#,
    );
    assert!((295.0..=306.0).contains(&age), "{age}");
    let budget = r#"secretwell_retry_budget_remaining_ratio{source="memory"}"#;
    assert!((0.0..0.9).contains(&value(&recorder, budget)));
    let unavailable = r#"secretwell_fetched_keys_total{source="memory",outcome="unavailable"}"#;
    assert!(value(&recorder, unavailable) >= 6.0);

    faulty.clear_faults();
    pass(secs(120)).await;
    assert_values(
        &recorder,
        &[
            (r#"secretwell_breaker_open{source="memory"}"#, 0.0),
            (r#"secretwell_stale_age_seconds{source="memory"}"#, 0.0),
        ],
    );
    // A dropped resolver loses no count.
    text(&resolver, "A").await;
    pass(secs(REPORTED)).await;
    let hits = r#"secretwell_cache_reads_total{source="memory",outcome="hit"}"#;
    let before = value(&recorder, hits);
    resolver.with_cached("A", |_| ()).unwrap();
    drop(resolver);
    assert_values(&recorder, &[(hits, before + 1.0)]);
}

#[tokio::test(start_paused = true)]
async fn remaining_lease_time_falls_and_is_not_a_number_without_a_lease() {
    let recorder = recorder();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let resolver = Resolver::new(Custom::new(Origin::new("leased", "db")).with_lease(secs(60)));
    resolver.get("DB_PASSWORD").await.unwrap();
    let series = r#"secretwell_lease_remaining_seconds{source="leased"}"#;
    pass(secs(REPORTED)).await;
    let first = value(&recorder, series);
    pass(secs(20)).await;
    let second = value(&recorder, series);
    assert!((50.0..=60.0).contains(&first), "{first}");
    assert!(
        (18.0..=22.0).contains(&(first - second)),
        "{first} {second}"
    );
    // Nobody reads the key again, so its lease ends.
    pass(secs(60)).await;
    assert!(value(&recorder, series).is_nan());
}

#[tokio::test(start_paused = true)]
async fn sources_share_a_label_unless_they_have_names() {
    let recorder = recorder();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let source = |name: &str| MemoryProvider::from_iter([(name, "value")]);
    let unnamed = Resolver::new(source("A").or_else(source("B")));
    let chain = source("A").or_else(source("B")).or_else(source("C"));
    let named = Resolver::builder(chain)
        .source_names(["primary", "standby"])
        .build();
    let odd = Resolver::new(Custom::new(Origin::new("/run/secrets/AUTH_SECRET", "x")));
    for resolver in [&unnamed, &named, &odd] {
        let results = resolver.get_many(["A", "B"]).await;
        assert!(results.iter().all(Result::is_ok));
    }
    pass(secs(REPORTED)).await;
    assert_values(
        &recorder,
        &[
            (
                r#"secretwell_cache_reads_total{source="memory",outcome="miss"}"#,
                2.0,
            ),
            (
                r#"secretwell_cache_reads_total{source="primary",outcome="miss"}"#,
                1.0,
            ),
            (
                r#"secretwell_cache_reads_total{source="standby",outcome="miss"}"#,
                1.0,
            ),
            (
                r#"secretwell_cache_reads_total{source="other",outcome="miss"}"#,
                2.0,
            ),
            (
                r#"secretwell_fetched_keys_total{source="primary",outcome="absent"}"#,
                1.0,
            ),
        ],
    );
    assert!(!exposition(&recorder).contains("AUTH_SECRET"));
}

#[tokio::test(start_paused = true)]
async fn hits_of_all_threads_are_reported_once() {
    let recorder = recorder();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let resolver = Resolver::new(MemoryProvider::from_iter([("A", "a")]));
    text(&resolver, "A").await;
    for _ in 0..2 {
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..1000 {
                        resolver.with_cached("A", |_| ()).unwrap();
                    }
                });
            }
        });
        pass(secs(3 * REPORTED)).await;
    }
    let hits = r#"secretwell_cache_reads_total{source="memory",outcome="hit"}"#;
    assert_values(&recorder, &[(hits, 8000.0)]);
    resolver.close().await;
    drop(resolver);
    assert_values(&recorder, &[(hits, 8000.0)]);
}

#[tokio::test(start_paused = true)]
async fn change_notifications_are_counted_by_kind() {
    let recorder = recorder();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let (source, changes) = Custom::new(Origin::new("watched", "x")).with_changes();
    let resolver = Resolver::new(source);
    resolver.get("A").await.unwrap();
    pass(secs(1)).await;
    changes.send(Change::Keys([key("A")].into()));
    pass(secs(1)).await;
    changes.send(Change::All);
    pass(secs(1)).await;
    changes.fail(down());
    pass(secs(REPORTED)).await;
    let series = |kind| {
        format!(r#"secretwell_change_notifications_total{{source="watched",type="{kind}"}}"#)
    };
    let kinds = ["keys", "all", "lost"].map(series);
    assert_values(&recorder, &kinds.each_ref().map(|it| (it.as_str(), 1.0)));
}

#[tokio::test(start_paused = true)]
async fn state_and_builds_of_an_auth_are_reported_until_it_is_dropped() {
    let recorder = recorder();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let state = |name| format!(r#"secretwell_auth_state{{name="auth",type="{name}"}}"#);
    let builds = |outcome| {
        format!(
            r#"secretwell_auth_build_duration_seconds_count{{name="auth",outcome="{outcome}"}}"#
        )
    };
    let generation = r#"secretwell_auth_generation{name="auth"}"#;
    let (memory, faulty) = faulty_source(&[]);
    let resolver = Resolver::builder(faulty.clone()).ttl(secs(100)).build();
    let auth = LazyAuth::builder(resolver)
        .mode(Mode::Production)
        .build(|_: Secrets, _| async { Ok::<_, BuildError>(()) });
    assert_values(&recorder, &[(&state("idle"), 1.0), (generation, 0.0)]);

    auth.get().await.unwrap_err();
    assert_values(&recorder, &[(&state("failed"), 1.0), (&state("idle"), 0.0)]);
    assert_values(&recorder, &[(&builds("failure"), 1.0)]);

    memory
        .set("AUTH_SECRET", "a secret, thirty-two bytes or more, one")
        .unwrap();
    auth.ready(secs(60)).await.unwrap();
    assert_values(
        &recorder,
        &[(&state("ready"), 1.0), (&state("failed"), 0.0)],
    );
    assert_values(&recorder, &[(&builds("success"), 1.0), (generation, 1.0)]);

    faulty.always(Action::Fail(down()));
    pass(secs(200)).await;
    assert_values(
        &recorder,
        &[(&state("degraded"), 1.0), (&state("ready"), 0.0)],
    );

    drop(auth);
    for name in [
        "idle", "starting", "ready", "rotating", "degraded", "failed",
    ] {
        assert_values(&recorder, &[(&state(name), 0.0)]);
    }
}

/// A recorder that uses the resolver that reports to it, and then panics.
#[derive(Default)]
struct Hostile {
    resolver: OnceLock<Resolver>,
    calls: AtomicUsize,
}

impl Hostile {
    fn call(&self) -> ! {
        self.calls.fetch_add(1, Ordering::SeqCst);
        if let Some(resolver) = self.resolver.get() {
            let _ = (
                resolver.len(),
                resolver.counters(),
                resolver.retry_in(["A"]),
            );
            resolver.with_cached("A", |_| ());
        }
        panic!("the recorder is broken")
    }
}

impl Recorder for Hostile {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
        self.call()
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        self.call()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        self.call()
    }
}

#[tokio::test(start_paused = true)]
async fn recorder_that_panics_and_uses_the_resolver_does_not_affect_reads_or_builds() {
    let recorder = Hostile::default();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let (memory, faulty) = faulty_source(&[("A", "first")]);
    memory
        .set("AUTH_SECRET", "a secret, thirty-two bytes or more, one")
        .unwrap();
    let resolver = Resolver::builder(faulty).ttl(secs(100)).build();
    assert!(recorder.resolver.set(resolver.clone()).is_ok());
    let auth = LazyAuth::builder(resolver.clone())
        .mode(Mode::Production)
        .build(|_: Secrets, _| async { Ok::<_, BuildError>(()) });
    auth.get().await.unwrap();
    for (name, next) in [("first", "second"), ("second", "third"), ("third", "last")] {
        assert_eq!(text(&resolver, "A").await, name);
        memory.set("A", next).unwrap();
        pass(secs(100)).await;
    }
    assert_eq!(text(&resolver, "A").await, "last");
    assert!(recorder.calls.load(Ordering::SeqCst) > 20);
    drop((auth, resolver));
}
