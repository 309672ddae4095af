//! Gauges that are right over the life of resolvers, auths, runtimes and recorders.

use std::sync::Mutex;
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use metrics_exporter_prometheus::PrometheusRecorder;
use secretwell::auth::{BuildError, LazyAuth, Mode};
use secretwell::{Error, ErrorKind, MemoryProvider, Resolver};
use secretwell_testkit::Action;

use super::{REPORTED, assert_values, recorder, value};
use crate::operations::Secrets;
use crate::support::{faulty_source, pass, secs, settle, text};

#[tokio::test(start_paused = true)]
async fn short_lived_resolver_does_not_change_the_gauges_of_another_one_with_its_label() {
    let recorder = recorder();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let (_, faulty) = faulty_source(&[]);
    let wait = ErrorKind::RateLimited {
        retry_after: Some(secs(600)),
    };
    faulty.push(Action::Fail(Error::new(wait, "slow down")));
    let resolver = Resolver::new(faulty);
    resolver.get("A").await.unwrap_err();
    pass(secs(REPORTED)).await;
    let job = Resolver::new(MemoryProvider::from_iter([("B", "b")]));
    text(&job, "B").await;
    drop(job);
    let found = r#"secretwell_fetched_keys_total{source="memory",outcome="found"}"#;
    let open = r#"secretwell_breaker_open{source="memory"}"#;
    assert_values(&recorder, &[(found, 1.0), (open, 1.0)]);
    drop(resolver);
    assert_values(&recorder, &[(open, 0.0)]);
}

#[test]
fn short_lived_runtimes_report_as_well() {
    let recorder = recorder();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let resolver = Resolver::new(MemoryProvider::from_iter([("A", "a")]));
    // A program without async code might start a runtime for each read. None of them lives for 5 s.
    for start in 1..=2 {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build();
        runtime.unwrap().block_on(async {
            tokio::time::advance(secs(10 * start)).await;
            resolver.refresh(["A"]).await.pop().unwrap().unwrap();
            settle().await;
        });
    }
    let found = r#"secretwell_fetched_keys_total{source="memory",outcome="found"}"#;
    assert!(value(&recorder, found) >= 1.0);
}

/// Returns an auth with the default name, whose builder takes `time`.
fn auth(memory: &MemoryProvider, time: Duration) -> LazyAuth<()> {
    let resolver = Resolver::builder(memory.clone()).ttl(secs(100)).build();
    let builder = LazyAuth::builder(resolver).mode(Mode::Production);
    builder.build(move |_: Secrets, _| async move {
        tokio::time::sleep(time).await;
        Ok::<_, BuildError>(())
    })
}

fn with_secret() -> MemoryProvider {
    let secret = "a secret, thirty-two bytes or more, one";
    MemoryProvider::from_iter([("AUTH_SECRET", secret)])
}

#[tokio::test(start_paused = true)]
async fn state_is_repeated_for_a_late_recorder_and_after_another_auth_with_its_name() {
    let auth = auth(&with_secret(), secs(0));
    auth.get().await.unwrap();
    let recorder = recorder();
    let _guard = metrics::set_default_local_recorder(&recorder);
    pass(secs(REPORTED)).await;
    let ready = r#"secretwell_auth_state{name="auth",type="ready"}"#;
    let generation = r#"secretwell_auth_generation{name="auth"}"#;
    assert_values(&recorder, &[(ready, 1.0), (generation, 1.0)]);

    drop(self::auth(&MemoryProvider::new(), secs(0)));
    assert_values(&recorder, &[(ready, 0.0), (generation, 0.0)]);
    pass(secs(REPORTED)).await;
    assert_values(&recorder, &[(ready, 1.0), (generation, 1.0)]);
    drop(auth);
    assert_values(&recorder, &[(ready, 0.0), (generation, 0.0)]);
}

#[tokio::test(start_paused = true)]
async fn further_attempts_do_not_interrupt_the_reported_failure() {
    let recorder = recorder();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let (_, faulty) = faulty_source(&[]);
    let resolver = Resolver::builder(faulty.clone()).build();
    let auth = LazyAuth::builder(resolver)
        .mode(Mode::Production)
        .build(|_: Secrets, _| async { Ok::<_, BuildError>(()) });
    let starting = r#"secretwell_auth_state{name="auth",type="starting"}"#;
    let failed = r#"secretwell_auth_state{name="auth",type="failed"}"#;
    faulty.always(Action::Hang);
    drop(tokio::time::timeout(secs(1), auth.get()).await);
    assert_values(&recorder, &[(starting, 1.0), (failed, 0.0)]);
    let mut states = auth.watch_state();
    states.wait_for(|state| state.name() == "failed").await;
    for _ in 0..60 {
        pass(secs(2)).await;
        assert_values(&recorder, &[(starting, 0.0), (failed, 1.0)]);
    }
}

#[test]
fn auth_whose_runtime_has_ended_is_not_reported_as_ready_or_starting() {
    let recorder = recorder();
    let _guard = metrics::set_default_local_recorder(&recorder);
    for (time, expected) in [(0, "degraded"), (600, "idle")] {
        let auth = auth(&with_secret(), secs(time));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build();
        let runtime = runtime.unwrap();
        let _ = runtime.block_on(async { tokio::time::timeout(secs(1), auth.get()).await });
        drop(runtime);
        let state = format!(r#"secretwell_auth_state{{name="auth",type="{expected}"}}"#);
        assert_values(&recorder, &[(&state, 1.0)]);
    }
}

/// A recorder that drops an auth during the first report of a build.
#[derive(Default)]
struct DropsAuth {
    inner: Option<PrometheusRecorder>,
    auth: Mutex<Option<LazyAuth<()>>>,
}

impl Recorder for DropsAuth {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, metadata: &Metadata<'_>) -> Counter {
        self.inner.as_ref().unwrap().register_counter(key, metadata)
    }

    fn register_gauge(&self, key: &Key, metadata: &Metadata<'_>) -> Gauge {
        let auth = self.auth.lock().unwrap().take();
        drop(auth);
        self.inner.as_ref().unwrap().register_gauge(key, metadata)
    }

    fn register_histogram(&self, key: &Key, metadata: &Metadata<'_>) -> Histogram {
        let inner = self.inner.as_ref().unwrap();
        inner.register_histogram(key, metadata)
    }
}

#[tokio::test(start_paused = true)]
async fn auth_that_is_dropped_during_a_report_has_no_state_afterwards() {
    let recorder = DropsAuth {
        inner: Some(recorder()),
        ..DropsAuth::default()
    };
    let auth = auth(&with_secret(), secs(0));
    let _guard = metrics::set_default_local_recorder(&recorder);
    auth.get().await.unwrap();
    *recorder.auth.lock().unwrap() = Some(auth);
    pass(secs(REPORTED)).await;
    assert!(recorder.auth.lock().unwrap().is_none());
    let inner = recorder.inner.as_ref().unwrap();
    for name in ["idle", "starting", "ready", "degraded", "failed"] {
        let state = format!(r#"secretwell_auth_state{{name="auth",type="{name}"}}"#);
        assert_values(inner, &[(&state, 0.0)]);
    }
    assert_values(
        inner,
        &[(r#"secretwell_auth_generation{name="auth"}"#, 0.0)],
    );
}
