//! Tests of what a service reports about itself: metrics, spans and callbacks.
//!
//! | module | content |
//! | --- | --- |
//! | `metrics` | the Prometheus exposition of a service, during outages, rotations and leases |
//! | `spans` | the spans of fetches, logins and builds |
//! | `audit` | the callbacks for fetches, changes and accesses |
//! | `dashboard` | the dashboard and the alert rules, with a real Prometheus |
//! | `prometheus` | a real Prometheus that reads the metrics of a test |

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusRecorder};
use secretwell::backend::{Capabilities, ChangeSender, ChangeStream};
use secretwell::infisical::{ApiVersion, InfisicalProvider};
use secretwell::{Error, Origin, Secret, SecretKey, SecretProvider, SecretString};
use secretwell_testkit::{Canary, FaultyProvider};
use serde::Deserialize;

use crate::infisical::place::Place;

mod audit;
mod dashboard;
mod metrics;
mod prometheus;
mod spans;

#[derive(Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[expect(dead_code, reason = "the tests only build from it")]
struct Secrets {
    auth_secret: SecretString,
}

/// Returns the tokens in backticks.
fn quoted(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

/// Returns the recorder of the documentation.
fn recorder() -> PrometheusRecorder {
    let seconds = [0.001, 0.01, 0.1, 0.5, 1.0, 5.0, 30.0];
    PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_duration_seconds".into()), &seconds)
        .unwrap()
        .build_recorder()
}

/// The labels of a metric, with their values. An empty set stands for any name.
type Labels = BTreeMap<&'static str, BTreeSet<&'static str>>;

/// Returns the documented labels of each metric.
fn documented() -> BTreeMap<&'static str, Labels> {
    let page = include_str!("../docs/operations/metrics.md");
    let rows = page
        .lines()
        .filter(|line| line.starts_with("| `secretwell_"));
    let row = |line: &'static str| {
        let cells: Vec<&str> = line.split('|').collect();
        let (mut labels, mut last) = (BTreeMap::<_, BTreeSet<_>>::new(), "");
        for token in quoted(cells[3]) {
            if ["source", "name", "outcome", "type"].contains(&token) {
                last = token;
                labels.entry(token).or_default();
            } else {
                labels.entry(last).or_default().insert(token);
            }
        }
        (quoted(cells[1])[0], labels)
    };
    rows.map(row).collect()
}

/// A fake Infisical with one secret, whose value, folder and login must not be reported.
struct Remote {
    place: Place,
    secret: Canary,
}

impl Remote {
    async fn new() -> Self {
        Self::at(Place::fake(ApiVersion::V4).await)
    }

    fn at(place: Place) -> Self {
        let secret = Canary::new("secret");
        let remote = Self { place, secret };
        remote.set(&remote.secret);
        remote
    }

    fn set(&self, value: &Canary) {
        let Place {
            project,
            environment,
            folder,
            ..
        } = &self.place;
        let fake = self.place.as_fake();
        fake.set(project, environment, folder, "AUTH_SECRET", value.text());
    }

    /// Returns a provider whose reads can be made to fail.
    fn provider(&self) -> FaultyProvider<InfisicalProvider> {
        FaultyProvider::new(self.place.provider().build().unwrap())
    }

    fn client_secret(&self) -> Canary {
        Canary::from_text(self.place.client_secret()).with_label("client secret")
    }
}

/// A source with any origin, leases and change notifications.
#[derive(Debug)]
struct Custom {
    origin: Origin,
    lease: Option<Duration>,
    changes: Mutex<Option<ChangeStream>>,
}

impl Custom {
    fn new(origin: Origin) -> Self {
        Self {
            origin,
            lease: None,
            changes: Mutex::default(),
        }
    }

    fn with_lease(self, lease: Duration) -> Self {
        Self {
            lease: Some(lease),
            ..self
        }
    }

    fn with_changes(self) -> (Self, ChangeSender) {
        let (sender, stream) = ChangeStream::channel();
        let changes = Mutex::new(Some(stream));
        (Self { changes, ..self }, sender)
    }
}

#[async_trait]
impl SecretProvider for Custom {
    fn origin(&self) -> &Origin {
        &self.origin
    }

    fn capabilities(&self) -> Capabilities {
        match self.changes.lock().unwrap().is_some() {
            true => Capabilities::none().with_watch(),
            false => Capabilities::none(),
        }
    }

    async fn get(&self, _: &SecretKey) -> Result<Secret, Error> {
        let secret = Secret::new("value");
        Ok(match self.lease {
            Some(lease) => secret.valid_for(lease),
            None => secret,
        })
    }

    fn watch(&self) -> Option<ChangeStream> {
        self.changes.lock().unwrap().take()
    }
}
