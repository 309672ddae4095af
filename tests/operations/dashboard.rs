//! The dashboard and the alert rules in `docs/operations`, with a real Prometheus.

use std::collections::BTreeSet;
use std::process::Command;
use std::sync::LazyLock;

use serde_json::Value;

use super::prometheus::{JOB, Prometheus};
use super::{Labels, documented, recorder};
use crate::support::tool;
use service::Service;

mod run;
mod service;

const RULES: &str = include_str!("../../docs/operations/prometheus/alerts.yml");
const RULE_TESTS: &str = include_str!("../../docs/operations/prometheus/alerts_test.yml");
const PAGE: &str = include_str!("../../docs/operations/dashboard.md");

static DASHBOARD: LazyLock<Value> = LazyLock::new(|| {
    let text = include_str!("../../docs/operations/grafana/secretwell.json");
    serde_json::from_str(text).unwrap()
});

/// Returns the rows and panels of the dashboard, in their order.
fn panels() -> &'static [Value] {
    DASHBOARD["panels"].as_array().unwrap()
}

fn is_row(panel: &Value) -> bool {
    panel["type"] == "row"
}

/// Returns the expressions of a panel with the names of their series. The variables have the values that select all
/// services and sources, and `interval` is the time over which rates are computed.
fn queries(panel: &'static Value, interval: &str) -> Vec<(String, &'static str)> {
    let query = |target: &'static Value| {
        let expression = target["expr"].as_str().unwrap();
        let expression = expression
            .replace("$job", ".+")
            .replace("$source", ".+")
            .replace("$__rate_interval", interval);
        (expression, target["legendFormat"].as_str().unwrap())
    };
    let targets = panel["targets"].as_array();
    targets.into_iter().flatten().map(query).collect()
}

/// Returns the names of the alerts in the file of rules.
fn alerts() -> BTreeSet<&'static str> {
    let lines = RULES.lines();
    lines
        .filter_map(|line| line.trim().strip_prefix("- alert: "))
        .collect()
}

/// Returns the rules without their waits, which are tested by `promtool`.
fn rules_without_waits() -> String {
    let lines = RULES
        .lines()
        .filter(|line| !line.trim().starts_with("for: "));
    lines.flat_map(|line| [line, "\n"]).collect()
}

/// A clock that this test stops moves the service, so that an outage takes hours while Prometheus waits for seconds.
#[test]
fn every_alert_fires_in_its_situation_and_none_before_and_every_panel_has_data() {
    let recorder = recorder();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let mut service = Service::start();
    let prometheus = Prometheus::start(recorder.handle(), &rules_without_waits());
    assert_no_alert(&prometheus);
    service.break_everything();
    assert_all_alerts(&prometheus);
    service.build_again();
    for panel in panels() {
        for (expression, legend) in queries(panel, "1m") {
            assert_data(&prometheus, &expression, legend);
        }
    }
    for (series, label) in variables() {
        let expression = series.replace("$job", JOB);
        assert_data(&prometheus, &expression, &format!("{{{{{label}}}}}"));
    }
}

/// Checks that no alert is active after each rule has seen the service twice at least.
#[track_caller]
fn assert_no_alert(prometheus: &Prometheus) {
    let first = prometheus.wait("metrics of the service", |it| {
        let ready = it.query(r#"secretwell_auth_state{type="ready"} == 1"#)?;
        match ready.is_empty() {
            true => Err("the service is not ready".into()),
            false => evaluations(it),
        }
    });
    prometheus.wait("two evaluations", |it| {
        let last = evaluations(it)?;
        match last
            .iter()
            .zip(&first)
            .all(|(last, first)| *last > first + 1.5)
        {
            true => Ok(()),
            false => Err(format!("{last:?}")),
        }
    });
    for rule in prometheus.rules().unwrap() {
        assert_eq!(rule["state"], "inactive", "{rule}");
        assert_eq!(rule["health"], "ok", "{rule}");
    }
}

/// Checks that each alert fires, with a complete summary.
#[track_caller]
fn assert_all_alerts(prometheus: &Prometheus) {
    let summaries = prometheus.wait("every alert", |it| {
        let summary = |rule: &Value| {
            let summary = &rule["alerts"][0]["annotations"]["summary"];
            let summary = summary.as_str().filter(|_| rule["state"] == "firing");
            summary.map(str::to_owned).ok_or_else(|| rule.to_string())
        };
        let rules = it.rules()?;
        rules.iter().map(summary).collect::<Result<Vec<_>, _>>()
    });
    assert_eq!(summaries.len(), alerts().len());
    for summary in summaries {
        assert!(!summary.contains("no value"), "{summary}");
    }
}

/// Checks that an expression has a number, and that its series have the labels of the legend.
#[track_caller]
fn assert_data(prometheus: &Prometheus, expression: &str, legend: &str) {
    let series = prometheus.wait("data", |it| {
        let series = it.query(expression)?;
        let is_number = |it: &Value| it["value"][1].as_str() != Some("NaN");
        match series.iter().any(is_number) {
            true => Ok(series),
            false => Err(format!("{expression}: {series:?}")),
        }
    });
    for one in series {
        let name = series_name(legend, &one["metric"]);
        assert!(!name.contains("{{"), "{legend} for {one}");
    }
}

/// Returns the times of the last evaluations of the rules, in seconds since 1970.
fn evaluations(prometheus: &Prometheus) -> Result<Vec<f64>, String> {
    let rules = prometheus.rules()?;
    let time = |rule: &Value| {
        let time = humantime::parse_rfc3339(rule["lastEvaluation"].as_str()?).ok()?;
        let since = time.duration_since(std::time::UNIX_EPOCH).ok()?;
        Some(since.as_secs_f64())
    };
    let times: Option<Vec<f64>> = rules.iter().map(time).collect();
    times.ok_or_else(|| format!("{rules:?}"))
}

/// Returns the series and the label of a variable of the dashboard, whose values are those of the label.
fn variable_query(variable: &'static Value) -> Option<(&'static str, &'static str)> {
    let query = variable["query"]["query"].as_str()?;
    let query = query.strip_prefix("label_values(")?.strip_suffix(')')?;
    query.rsplit_once(", ")
}

/// Returns the name of a series in a legend.
fn series_name(legend: &str, labels: &Value) -> String {
    let labels = labels.as_object().unwrap();
    labels
        .iter()
        .fold(legend.to_owned(), |name, (label, value)| {
            name.replace(&format!("{{{{{label}}}}}"), value.as_str().unwrap())
        })
}

#[test]
fn rules_pass_their_tests_of_promtool() {
    let rules = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../docs/operations/prometheus/"
    );
    for arguments in [
        ["check", "rules", "alerts.yml"],
        ["test", "rules", "alerts_test.yml"],
    ] {
        let output = Command::new(tool("prometheus/promtool"))
            .args(arguments)
            .current_dir(rules)
            .output()
            .unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
    }
    // Each alert has a situation in which it fires, and one in which it does not.
    for alert in alerts() {
        let name = format!("alertname: {alert}\n");
        let cases: Vec<&str> = RULE_TESTS.split(&name).skip(1).collect();
        let fires = |case: &&&str| case.trim_start().starts_with("exp_alerts");
        let firing = cases.iter().filter(fires).count();
        assert!(firing > 0 && firing < cases.len(), "{alert}");
    }
}

#[test]
fn page_explains_exactly_the_panels_and_the_alerts() {
    let first_cells = |heading: &str| -> Vec<&str> {
        let (_, section) = PAGE.split_once(&format!("\n## {heading}\n")).unwrap();
        let section = section.split("\n## ").next().unwrap();
        let rows = section.lines().filter_map(|line| line.strip_prefix("| "));
        let cells = rows.skip(1).map(|row| row.split(" |").next().unwrap());
        cells.filter(|cell| !cell.starts_with("--")).collect()
    };
    let mut row = "";
    for panel in panels() {
        let title = panel["title"].as_str().unwrap();
        if is_row(panel) {
            row = title;
        } else {
            assert!(first_cells(row).contains(&title), "{title} in {row}");
        }
    }
    let rows = panels().iter().filter(|panel| is_row(panel));
    let documented = rows.map(|row| first_cells(row["title"].as_str().unwrap()).len());
    let panels = panels().iter().filter(|panel| !is_row(panel)).count();
    assert_eq!(documented.sum::<usize>(), panels);

    let cells = first_cells("Alerts");
    let documented: BTreeSet<&str> = cells.iter().map(|cell| cell.trim_matches('`')).collect();
    assert_eq!(documented, alerts());
}

#[test]
fn dashboard_and_rules_use_only_documented_metrics_and_labels_and_the_dashboard_shows_all() {
    let mut shown = BTreeSet::new();
    for panel in panels() {
        for (expression, _) in queries(panel, "1m") {
            shown.extend(checked_metrics(&expression));
        }
    }
    for (series, label) in variables() {
        checked_metrics(&format!("sum by ({label}) ({series})"));
    }
    let all: BTreeSet<&str> = documented().into_keys().collect();
    assert_eq!(shown, all);
    for text in [RULES, RULE_TESTS] {
        let lines = text.lines().filter(|line| line.contains("secretwell_"));
        for line in lines {
            checked_metrics(line);
        }
    }
    for label in RULES.split("$labels.").skip(1) {
        let end = label.find(|c: char| !is_name(c)).unwrap();
        assert!(is_label(&label[..end], documented().values()), "{label}");
    }
}

#[test]
#[should_panic(expected = "unavaliable")]
fn misspelled_label_value_is_found() {
    checked_metrics(r#"rate(secretwell_fetched_keys_total{outcome=~"invalid|unavaliable"}[5m])"#);
}

#[test]
#[should_panic(expected = "soruce")]
fn misspelled_grouping_is_found() {
    checked_metrics("max by (soruce) (secretwell_breaker_open)");
}

fn variables() -> impl Iterator<Item = (&'static str, &'static str)> {
    let variables = DASHBOARD["templating"]["list"].as_array().unwrap();
    variables.iter().filter_map(variable_query)
}

/// Returns the metrics of an expression.
///
/// # Panics
/// Panics if a metric, a label or the value of a label does not exist.
fn checked_metrics(expression: &str) -> BTreeSet<&'static str> {
    let documented = documented();
    let mut metrics = BTreeSet::new();
    for (start, _) in expression.match_indices("secretwell_") {
        let rest = &expression[start..];
        let end = rest.find(|c: char| !is_name(c)).unwrap_or(rest.len());
        let (name, rest) = rest.split_at(end);
        let base = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|suffix| name.strip_suffix(suffix))
            .unwrap_or(name);
        let found = documented.get_key_value(base);
        let (metric, labels) = found.unwrap_or_else(|| panic!("{name} in {expression}"));
        metrics.insert(*metric);
        let matchers = rest.strip_prefix('{').and_then(|rest| rest.split_once('}'));
        let matchers = matchers.map_or("", |(matchers, _)| matchers);
        for matcher in matchers.split(',').filter(|matcher| !matcher.is_empty()) {
            let (label, value) = matcher.trim().split_once('=').unwrap();
            assert!(is_label(label, [labels]), "{label} in {expression}");
            let Some(values) = labels.get(label).filter(|values| !values.is_empty()) else {
                continue;
            };
            let value = value.trim_start_matches('~').trim_matches('"');
            for value in value.split('|') {
                assert!(values.contains(value), "{value} in {expression}");
            }
        }
    }
    let groups = expression
        .split("by (")
        .chain(expression.split("without ("));
    let groups = groups.filter(|group| !expression.starts_with(group));
    for group in groups {
        let labels = group.split(')').next().unwrap().split(", ");
        for label in labels {
            let of_metrics = documented
                .iter()
                .filter(|(name, _)| metrics.contains(*name));
            let of_metrics = of_metrics.map(|(_, labels)| labels);
            assert!(is_label(label, of_metrics), "{label} in {expression}");
        }
    }
    metrics
}

/// Returns whether one of the metrics has this label, or Prometheus adds it.
fn is_label<'a>(label: &str, metrics: impl IntoIterator<Item = &'a Labels>) -> bool {
    let mut metrics = metrics.into_iter();
    ["job", "instance", "le"].contains(&label) || metrics.any(|labels| labels.contains_key(label))
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}
