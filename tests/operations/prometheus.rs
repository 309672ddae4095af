//! A real Prometheus that reads the metrics of a test.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;
use reqwest::Url;
use serde_json::Value;
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

use crate::support::tool;
use crate::vault::server::{Process, free_address};

/// The job of the metrics.
pub(super) const JOB: &str = "shop";

/// A server that reads the metrics of a recorder each second. Its methods block the thread, so that a test can stop
/// the clock of a service meanwhile.
pub(super) struct Prometheus {
    /// Runs the requests, and the web server with the metrics.
    runtime: Runtime,
    address: SocketAddr,
    _process: Process,
    _folder: TempDir,
}

impl Prometheus {
    /// Starts the server with the text of a file of alert rules.
    pub(super) fn start(metrics: PrometheusHandle, rules: &str) -> Self {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let target = runtime.block_on(serve(metrics));
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let config = format!(
            "global: {{scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}}\n\
             rule_files: [rules.yml]\n\
             scrape_configs:\n\
             - job_name: {JOB}\n  \
               static_configs: [{{targets: ['{target}']}}]\n"
        );
        std::fs::write(path("prometheus.yml"), config).unwrap();
        std::fs::write(path("rules.yml"), rules).unwrap();
        let address = free_address();
        let arguments = [
            format!("--config.file={}", path("prometheus.yml").display()),
            format!("--storage.tsdb.path={}", path("data").display()),
            format!("--web.listen-address={address}"),
        ];
        let process = Process::start(&tool("prometheus/prometheus"), &arguments);
        let prometheus = Self {
            runtime,
            address,
            _process: process,
            _folder: folder,
        };
        prometheus.wait("the first metrics", |it| {
            let up = it.query(&format!("up{{job='{JOB}'}} == 1"))?;
            (!up.is_empty()).then_some(()).ok_or("no metrics".into())
        });
        prometheus
    }

    /// Returns the series of an expression.
    pub(super) fn query(&self, expression: &str) -> Result<Vec<Value>, String> {
        let result = self.get("query", &[("query", expression)])?;
        Ok(array(&result["result"]))
    }

    /// Returns the series of an expression over time, with a value for each `step`. The times are seconds since 1970.
    pub(super) fn query_range(
        &self,
        expression: &str,
        (start, end): (f64, f64),
        step: Duration,
    ) -> Result<Vec<Value>, String> {
        let (start, end) = (start.to_string(), end.to_string());
        let step = step.as_secs_f64().to_string();
        let parameters = [
            ("query", expression),
            ("start", &start),
            ("end", &end),
            ("step", &step),
        ];
        Ok(array(&self.get("query_range", &parameters)?["result"]))
    }

    /// Returns the alert rules with their states.
    pub(super) fn rules(&self) -> Result<Vec<Value>, String> {
        let result = self.get("rules", &[])?;
        let groups = array(&result["groups"]);
        Ok(groups
            .iter()
            .flat_map(|group| array(&group["rules"]))
            .collect())
    }

    /// Repeats `check` for up to a minute, until it succeeds.
    #[track_caller]
    pub(super) fn wait<T>(&self, what: &str, check: impl Fn(&Self) -> Result<T, String>) -> T {
        let mut last = String::new();
        for _ in 0..600 {
            match check(self) {
                Ok(result) => return result,
                Err(reason) => last = reason,
            }
            let pause = Duration::from_millis(100);
            self.runtime
                .block_on(async { tokio::time::sleep(pause).await });
        }
        panic!("{what}: {last}")
    }

    fn get(&self, path: &str, parameters: &[(&str, &str)]) -> Result<Value, String> {
        let base = format!("http://{}/api/v1/{path}", self.address);
        let url = Url::parse_with_params(&base, parameters).unwrap();
        let body = self.runtime.block_on(async {
            let response = reqwest::get(url).await?;
            response.json::<Value>().await
        });
        let body = body.map_err(|error| error.to_string())?;
        match body["status"].as_str() {
            Some("success") if body["warnings"].is_null() => Ok(body["data"].clone()),
            _ => Err(format!("{parameters:?}: {body}")),
        }
    }
}

/// Serves the metrics at `/metrics`. Returns the address.
async fn serve(metrics: PrometheusHandle) -> SocketAddr {
    let render = move || {
        let text = metrics.render();
        async { text }
    };
    let router = Router::new().route("/metrics", get(render));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async { axum::serve(listener, router).await });
    address
}

fn array(value: &Value) -> Vec<Value> {
    value.as_array().cloned().unwrap_or_default()
}
