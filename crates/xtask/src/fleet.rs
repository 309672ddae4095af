//! `cargo xtask fleet`: the simulation of a fleet, and its plot.

use serde_json::Value;

use crate::plot::{BLUE, GREY, ORANGE, line, read, write};
use crate::shell::{cargo, root, text};

const INSTANCES: &str = "10000";
/// The seed of the results in the documentation.
const SEED: &str = "1";

const WIDTH: f64 = 880.0;
const HEIGHT: f64 = 260.0;
const LEFT: f64 = 60.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 20.0;
/// The space for the minutes and for the names of the phases.
const BOTTOM: f64 = 60.0;
/// The height of a name in the list of phases.
const LEGEND: f64 = 18.0;

/// Runs the simulation with another seed than that of the documentation.
///
/// # Errors
/// Returns an error if a promise is broken.
pub(crate) fn check() -> Result<(), String> {
    simulate("2").map(drop)
}

/// Runs the simulation, with the seed of the documentation or another one. Draws its requests to `docs/fleet.svg`.
///
/// # Errors
/// Returns an error if a promise is broken, or if the plot cannot be written.
pub(crate) fn run(seed: Option<&str>) -> Result<(), String> {
    let results = simulate(seed.unwrap_or(SEED))?;
    write(&root().join("docs/fleet.svg"), &plot(&results)?)
}

fn simulate(seed: &str) -> Result<Value, String> {
    let file = root().join("target/fleet.json");
    let program = [
        "run",
        "--quiet",
        "--release",
        "--package",
        "secretwell-fleet",
    ];
    let arguments = ["--", INSTANCES, seed, &text(&file)];
    cargo(&[&program[..], &arguments[..]].concat())?;
    read(&file)
}

/// Draws the requests per second over time, on a logarithmic axis, and marks the phases.
fn plot(results: &Value) -> Result<String, String> {
    let interval = results["interval"].as_f64().ok_or("no interval")?;
    let requests = results["requests"].as_array().ok_or("no requests")?;
    let rates: Option<Vec<f64>> = requests.iter().map(Value::as_f64).collect();
    let rates: Vec<f64> = rates
        .ok_or("a number of requests is missing")?
        .into_iter()
        .map(|requests| requests / interval)
        .collect();
    let phases = results["phases"].as_array().ok_or("no phases")?;
    let end = rates.len() as f64 * interval;
    let top = rates.iter().copied().fold(1.0, f64::max).log10().ceil();
    let x = |seconds: f64| WIDTH * seconds / end;
    // Less than one request in a second is at the bottom.
    let y = |rate: f64| HEIGHT * (1.0 - rate.max(1.0).log10() / top);

    let mut svg = String::new();
    let width = LEFT + WIDTH + RIGHT;
    let rows = phases.len().div_ceil(2) as f64;
    let height = TOP + HEIGHT + BOTTOM + LEGEND * rows;
    line(
        &mut svg,
        format_args!(
            r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" role="img" aria-label="Requests per second of a fleet over time" font-family="sans-serif" font-size="12" fill="{GREY}">"#
        ),
    );
    line(
        &mut svg,
        format_args!(r#"<g transform="translate({LEFT} {TOP})">"#),
    );
    draw_axes(&mut svg, end, top, x, y);
    for (index, phase) in phases.iter().enumerate() {
        let number = |name: &str| phase[name].as_f64().ok_or("a phase has no time");
        let (from, to) = (x(number("start")?), x(number("end")?));
        let name = phase["name"].as_str().ok_or("a phase has no name")?;
        draw_phase(&mut svg, index, name, from, to);
    }
    let points: Vec<String> = rates
        .iter()
        .enumerate()
        .map(|(index, rate)| format!("{:.1},{:.1}", x(index as f64 * interval), y(*rate)))
        .collect();
    line(
        &mut svg,
        format_args!(
            r#"<polyline points="{}" fill="none" stroke="{BLUE}" stroke-width="1"/>"#,
            points.join(" ")
        ),
    );
    line(&mut svg, format_args!("</g>"));
    line(&mut svg, format_args!("</svg>"));
    Ok(svg)
}

fn draw_axes(svg: &mut String, end: f64, top: f64, x: impl Fn(f64) -> f64, y: impl Fn(f64) -> f64) {
    line(
        svg,
        format_args!(r#"<text x="-8" y="-8" text-anchor="end">per s</text>"#),
    );
    let mut exponent = 0.0;
    while exponent <= top {
        let rate = 10_f64.powf(exponent);
        let height = y(rate);
        line(
            svg,
            format_args!(
                r#"<path d="M0 {height:.1}H{WIDTH}" stroke="{GREY}" stroke-opacity=".35"/><text x="-8" y="{:.1}" text-anchor="end">{rate}</text>"#,
                height + 4.0
            ),
        );
        exponent += 1.0;
    }
    let mut minute = 0.0;
    while minute * 60.0 <= end {
        line(
            svg,
            format_args!(
                r#"<text x="{:.1}" y="{}" text-anchor="middle">{minute}</text>"#,
                x(minute * 60.0),
                HEIGHT + 18.0
            ),
        );
        minute += 30.0;
    }
    line(
        svg,
        format_args!(
            r#"<text x="{}" y="{}" text-anchor="middle">minutes</text>"#,
            WIDTH / 2.0,
            HEIGHT + 34.0
        ),
    );
}

/// Marks every second phase, and lists its name below the plot.
fn draw_phase(svg: &mut String, index: usize, name: &str, from: f64, to: f64) {
    let number = index + 1;
    if index % 2 == 1 {
        line(
            svg,
            format_args!(
                r#"<rect x="{from:.1}" width="{:.1}" height="{HEIGHT}" fill="{ORANGE}" fill-opacity=".12"/>"#,
                to - from
            ),
        );
    }
    line(
        svg,
        format_args!(
            r#"<text x="{:.1}" y="-6" text-anchor="middle">{number}</text>"#,
            f64::midpoint(from, to)
        ),
    );
    line(
        svg,
        format_args!(
            r#"<text x="{}" y="{}">{number} {name}</text>"#,
            WIDTH / 2.0 * (index % 2) as f64,
            HEIGHT + BOTTOM + LEGEND * (index / 2) as f64
        ),
    );
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_interval_becomes_a_point_and_each_phase_a_number() {
        let phase = |name, start, end| json!({"name": name, "start": start, "end": end});
        let svg = plot(&json!({
            "interval": 10,
            "requests": [10_000, 100, 0, 10],
            "phases": [phase("start", 0, 20), phase("outage", 20, 40)],
        }))
        .unwrap();
        // 1,000, 10, 0 and 1 requests per second on an axis that ends at 1,000.
        let line = r#"points="0.0,0.0 220.0,173.3 440.0,260.0 660.0,260.0""#;
        assert!(svg.contains(line), "{svg}");
        assert!(
            svg.contains(">1 start<") && svg.contains(">2 outage<"),
            "{svg}"
        );
        assert!(svg.contains(r#"<rect x="440.0" width="440.0""#), "{svg}");
        assert!(!svg.contains("\n\n"), "an empty line ends an HTML block");
    }

    #[test]
    fn missing_results_are_an_error() {
        let error = plot(&json!({"interval": 10})).unwrap_err();
        assert_eq!(error, "no requests");
    }
}
