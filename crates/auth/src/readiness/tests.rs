//! Readiness and probes in each state of an auth.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use secretwell_core::MemoryProvider;
use secretwell_resolver::Resolver;
use serde::Deserialize;

use super::*;
use crate::{BuildContext, BuildError};

const VALUE: &str = "K7gNU3sdo+OL0wNhqoVWhr3g6s1xYv72ol/pe/Unols=";

#[derive(Deserialize)]
struct Secrets {
    #[expect(dead_code, reason = "the build uses its key ring")]
    token: String,
}

fn auth(memory: &MemoryProvider) -> LazyAuth<()> {
    let builder = LazyAuth::builder(Resolver::new(memory.clone())).name("sessions");
    builder.build(|_: Secrets, context: BuildContext| async move {
        context.key_ring("token")?;
        Ok::<_, BuildError>(())
    })
}

fn json(probes: &Probes) -> serde_json::Value {
    serde_json::to_value(probes.readiness()).unwrap()
}

/// Waits until the state has this name.
async fn wait_for(auth: &LazyAuth<()>, name: &str) {
    let mut states = auth.watch_state();
    let reached = states.wait_for(|state| state.name() == name);
    let reached = tokio::time::timeout(Duration::from_secs(600), reached).await;
    assert!(reached.is_ok(), "{:?}", auth.state());
}

#[tokio::test(start_paused = true)]
async fn readiness_follows_the_life_of_a_service() {
    let memory = MemoryProvider::new();
    let auth = auth(&memory);
    let probes = Probes::new().auth(&auth);

    // Nobody else uses the auth, so the probe has to start the first build.
    let first = json(&probes);
    assert_eq!(first["ready"], false);
    assert_eq!(first["auths"][0]["generation"], serde_json::Value::Null);
    wait_for(&auth, "failed").await;
    let absent = serde_json::json!({"ready": false, "auths": [{
        "name": "sessions", "state": "failed", "generation": null, "age_seconds": null,
        "problems": [{"key": "token", "kind": "not_found"}],
    }]});
    assert_eq!(json(&probes), absent);

    memory.set("token", VALUE).unwrap();
    wait_for(&auth, "ready").await;
    tokio::time::advance(Duration::from_millis(1500)).await;
    let ready = probes.readiness();
    assert!(ready.ready);
    assert_eq!(ready.auths[0].generation, Some(1));
    assert!(ready.auths[0].age_seconds >= Some(1.5));
    assert_eq!(ready.auths[0].problems, []);

    memory.set("token", "too short").unwrap();
    wait_for(&auth, "degraded").await;
    let degraded = json(&probes);
    assert_eq!(degraded["ready"], true);
    let problem = serde_json::json!([{"key": "token", "kind": "invalid"}]);
    assert_eq!(degraded["auths"][0]["problems"], problem);
    assert!(!degraded.to_string().contains("too short"));

    memory
        .set("token", "3g6s1xYv72ol/pe/Unols+K7gNU3sdo+OL0wNhqoVWhr=")
        .unwrap();
    wait_for(&auth, "ready").await;
    let rotated = &probes.readiness().auths[0];
    assert_eq!(rotated.generation, Some(2));
    assert!(rotated.age_seconds < Some(1.5));
}

#[tokio::test(start_paused = true)]
async fn problems_of_the_last_attempt_are_returned_during_the_next_one() {
    let (calls, time) = (Arc::new(AtomicUsize::new(0)), Duration::from_secs(20));
    let memory = MemoryProvider::from_iter([("token", VALUE)]);
    let auth = LazyAuth::builder(Resolver::new(memory)).build(move |_: Secrets, _| {
        // The first retry is immediate.
        let fails = calls.fetch_add(1, Ordering::SeqCst) < 2;
        async move {
            tokio::time::sleep(time).await;
            match fails {
                true => Err(BuildError::msg("the database is down")),
                false => Ok(()),
            }
        }
    });
    auth.readiness();
    wait_for(&auth, "failed").await;
    wait_for(&auth, "starting").await;
    let second = auth.readiness();
    assert!(!second.is_ready());
    assert_eq!(second.problems.len(), 1, "{second:?}");
    wait_for(&auth, "ready").await;
    assert_eq!(auth.readiness().problems, []);
}

#[tokio::test(start_paused = true)]
async fn service_is_ready_when_every_auth_is() {
    assert!(Probes::new().readiness().ready);
    let (memory, empty) = (MemoryProvider::new(), MemoryProvider::new());
    memory.set("token", VALUE).unwrap();
    let (present, absent) = (auth(&memory), auth(&empty));
    let probes = Probes::new().auth(&present).auth(&absent);
    assert!(!probes.readiness().ready);
    wait_for(&present, "ready").await;
    wait_for(&absent, "failed").await;
    assert!(!probes.readiness().ready);
    empty.set("token", VALUE).unwrap();
    wait_for(&absent, "ready").await;
    assert!(probes.readiness().ready);
}

#[tokio::test(start_paused = true)]
async fn frequent_probes_cause_no_further_reads() {
    let memory = MemoryProvider::new();
    let auth = auth(&memory);
    let probes = Probes::new().auth(&auth);
    probes.readiness();
    wait_for(&auth, "failed").await;
    let fetches = auth.resolver().counters().fetches;
    for _ in 0..1000 {
        assert!(!probes.readiness().ready);
        tokio::task::yield_now().await;
    }
    assert_eq!(auth.resolver().counters().fetches, fetches);
}

#[test]
fn probe_outside_of_a_runtime_is_not_ready() {
    let memory = MemoryProvider::from_iter([("token", VALUE)]);
    let readiness = Probes::new().auth(&auth(&memory)).readiness();
    assert!(!readiness.ready);
    assert_eq!(readiness.auths[0].state, "idle");
}

#[cfg(feature = "tower")]
#[tokio::test(start_paused = true)]
async fn probes_respond_with_their_status_and_are_not_stored() {
    use http::Request;
    use tower_service::Service;

    let memory = MemoryProvider::new();
    let auth = auth(&memory);
    let probes = Probes::new().auth(&auth);
    probes.readiness();
    wait_for(&auth, "failed").await;
    for (state, status) in [("failed", 503), ("ready", 200)] {
        let response = probes.ready().call(Request::new(())).await.unwrap();
        assert_eq!(response.status(), status);
        assert_eq!(response.headers()["content-type"], "application/json");
        assert_eq!(response.headers()["cache-control"], "no-store");
        let body: serde_json::Value = serde_json::from_str(response.body()).unwrap();
        assert_eq!(body["auths"][0]["state"], state);

        let response = probes.live().call(Request::new(())).await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.body(), r#"{"live":true}"#);
        memory.set("token", VALUE).unwrap();
        wait_for(&auth, "ready").await;
    }
}

#[cfg(feature = "axum")]
#[tokio::test(start_paused = true)]
async fn each_method_gets_the_status_and_head_no_body() {
    use axum::Router;
    use axum::body::{Body, to_bytes};
    use http::Request;
    use tower_service::Service;

    let probes = Probes::new().auth(&auth(&MemoryProvider::new()));
    let mut router: Router = Router::new().route_service("/ready", probes.ready());
    for (method, has_body) in [("GET", true), ("HEAD", false), ("POST", true)] {
        let request = Request::builder().method(method).uri("/ready");
        let response = router.call(request.body(Body::empty()).unwrap()).await;
        let response = response.unwrap();
        assert_eq!(response.status(), 503, "{method}");
        assert_eq!(response.headers()["cache-control"], "no-store");
        let body = to_bytes(response.into_body(), 10_000).await.unwrap();
        assert_eq!(!body.is_empty(), has_body, "{method}");
    }
}
