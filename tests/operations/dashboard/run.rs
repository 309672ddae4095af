//! The run that the pictures in `docs/operations` show: five minutes in real time.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use secretwell::auth::{BuildError, LazyAuth, Mode};
use secretwell::backend::Change;
use secretwell::infisical::ApiVersion;
use secretwell::{Origin, Resolver};
use secretwell_testkit::infisical::Identity;
use secretwell_testkit::{Action, Canary, FaultyProvider};
use serde_json::{Value, json};
use tokio::runtime::Builder;
use tokio::time::{Instant, sleep_until};

use super::{RULES, is_row, panels, queries, series_name};
use crate::infisical::place::Place;
use crate::operations::prometheus::Prometheus;
use crate::operations::{Custom, Remote, Secrets, recorder};
use crate::support::{down, key, secs};

const ROTATION: Duration = secs(60);
const OUTAGE: (Duration, Duration) = (secs(120), secs(200));
const END: Duration = secs(300);
const STEP: Duration = secs(2);
/// The time over which rates are computed. It contains three reports of the resolver.
const INTERVAL: &str = "16s";

/// Writes what each panel shows to the file that the environment names.
#[test]
#[ignore = "takes five minutes; run by `cargo xtask dashboard`"]
fn run_with_a_rotation_and_an_outage() {
    let file = std::env::var_os("SECRETWELL_DASHBOARD_JSON");
    let recorder = recorder();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let prometheus = Prometheus::start(recorder.handle(), RULES);
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let start = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let start = start.as_secs_f64();
    runtime.block_on(run());

    let mut rows: Vec<Value> = Vec::new();
    for panel in panels() {
        if is_row(panel) {
            rows.push(json!({"title": panel["title"], "panels": []}));
            continue;
        }
        let mut series = Vec::new();
        for (expression, legend) in queries(panel, INTERVAL) {
            let range = (start, start + END.as_secs_f64());
            for one in prometheus.query_range(&expression, range, STEP).unwrap() {
                let name = series_name(legend, &one["metric"]);
                series.push(json!({"name": name, "points": points(&one["values"], start)}));
            }
        }
        let unit = &panel["fieldConfig"]["defaults"]["unit"];
        let panel = json!({"title": panel["title"], "unit": unit, "series": series});
        let row = rows.last_mut().unwrap()["panels"].as_array_mut();
        row.unwrap().push(panel);
    }
    let seconds = |time: Duration| time.as_secs();
    let results = json!({
        "rows": rows,
        "step": seconds(STEP),
        "end": seconds(END),
        "rotation": seconds(ROTATION),
        "outage": [seconds(OUTAGE.0), seconds(OUTAGE.1)],
    });
    std::fs::write(file.unwrap(), results.to_string()).unwrap();
}

/// Returns the points of a series: the seconds since the start, and the number.
fn points(values: &Value, start: f64) -> Vec<(f64, f64)> {
    let values = values.as_array().unwrap().iter();
    let point = |pair: &Value| {
        let value: f64 = pair[1].as_str().unwrap().parse().unwrap();
        (pair[0].as_f64().unwrap() - start, value)
    };
    values
        .map(point)
        .filter(|(_, value)| value.is_finite())
        .collect()
}

/// A service with an Infisical and a database, both of which are down for a while.
async fn run() {
    let start = Instant::now();
    let login = |identity: Identity| identity.token_ttl(secs(40)).token_max_ttl(secs(80));
    let remote = Remote::at(Place::fake_with(ApiVersion::V4, login).await);
    let provider = Arc::new(remote.provider());
    let resolver = Resolver::builder(provider.clone())
        .ttl(secs(10))
        .max_backoff(secs(10))
        .retry_budget(30, 30)
        .build();
    let sessions = LazyAuth::builder(resolver.clone())
        .name("sessions")
        .mode(Mode::Production)
        .build(|_: Secrets, _| async { Ok::<_, BuildError>(()) });
    let custom = Custom::new(Origin::new("database", "")).with_lease(secs(60));
    let (custom, changes) = custom.with_changes();
    let database = Arc::new(FaultyProvider::new(custom));
    let leases = Resolver::new(database.clone());

    let requests = async {
        let mut ticks = tokio::time::interval(Duration::from_millis(50));
        loop {
            ticks.tick().await;
            let _ = sessions.get().await;
            let _ = resolver.get("AUTH_SECRET").await;
        }
    };
    let queries = async {
        let mut ticks = tokio::time::interval(Duration::from_millis(100));
        loop {
            ticks.tick().await;
            let _ = leases.get("DB_PASSWORD").await;
        }
    };
    // A key that does not exist. Its reads fail during the outage.
    let optional = async {
        let mut ticks = tokio::time::interval(secs(1));
        loop {
            ticks.tick().await;
            let _ = resolver.get("OPTIONAL").await;
        }
    };
    let events = async {
        sleep_until(start + ROTATION).await;
        let next = Canary::new("next secret");
        remote.set(&next);
        changes.send(Change::Keys([key("DB_PASSWORD")].into()));

        sleep_until(start + OUTAGE.0).await;
        let fake = remote.place.as_fake();
        let logins = "POST /api/v1/auth";
        fake.fail_requests(logins, 503, "ServiceUnavailable", "the server is down");
        provider.always(Action::Fail(down()));
        database.always(Action::Fail(down()));
        changes.fail(down());

        sleep_until(start + OUTAGE.1).await;
        fake.clear_failures();
        provider.clear_faults();
        database.clear_faults();
        sleep_until(start + END).await;
    };
    tokio::select! {
        () = events => {}
        () = requests => {}
        () = queries => {}
        () = optional => {}
    }
}
