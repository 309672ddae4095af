//! `cargo xtask dashboard`: the pictures of the dashboard in `docs/operations/grafana`, one file for each of its rows.
//!
//! A test of the suite runs a service with a real Prometheus for five minutes, and writes what each panel shows.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::install::install_for_operations;
use crate::plot::{BLUE, GREY, ORANGE, line, read, step};
use crate::shell::{cargo_with_env, root, text};

const COLOURS: [&str; 8] = [
    BLUE, ORANGE, "#16a34a", "#dc2626", "#9333ea", "#0891b2", "#db2777", "#65a30d",
];

/// The size of a panel's area, and the free space around it for its texts.
const WIDTH: f64 = 320.0;
const HEIGHT: f64 = 130.0;
const LEFT: f64 = 50.0;
const RIGHT: f64 = 30.0;
const TOP: f64 = 50.0;
const BOTTOM: f64 = 60.0;
/// The space for each line of the legend, which has two entries.
const LEGEND: f64 = 18.0;
const COLUMNS: usize = 2;

/// Runs the service, and draws the pictures.
///
/// # Errors
/// Returns an error if the run fails, or if a result is missing.
pub(crate) fn run() -> Result<(), String> {
    install_for_operations()?;
    let results = root().join("target/dashboard.json");
    let suite = [
        "test",
        "--workspace",
        "--all-features",
        "--test",
        "suite",
        "--",
        "--ignored",
        "operations::dashboard::run::",
    ];
    cargo_with_env(&suite, &[("SECRETWELL_DASHBOARD_JSON", &text(&results))])?;
    draw(&results, &root().join("docs/operations/grafana"))
}

fn draw(results: &Path, directory: &Path) -> Result<(), String> {
    let results = read(results)?;
    let times = Times::of(&results).ok_or("the results have no times")?;
    for row in array(&results["rows"])? {
        let title = row["title"].as_str().ok_or("a row has no title")?;
        let panels: Result<Vec<Panel>, String> =
            array(&row["panels"])?.iter().map(Panel::of).collect();
        let file = directory.join(format!("{}.svg", title.to_lowercase()));
        fs::write(&file, picture(title, &panels?, &times))
            .map_err(|error| format!("cannot write {}: {error}", text(&file)))?;
        println!("the panels of {title} are in {}", text(&file));
    }
    Ok(())
}

/// The times of the run, in seconds since its start.
struct Times {
    /// The time between two points.
    step: f64,
    end: f64,
    rotation: f64,
    outage: (f64, f64),
}

impl Times {
    fn of(results: &Value) -> Option<Self> {
        Some(Self {
            step: results["step"].as_f64()?,
            end: results["end"].as_f64()?,
            rotation: results["rotation"].as_f64()?,
            outage: (
                results["outage"][0].as_f64()?,
                results["outage"][1].as_f64()?,
            ),
        })
    }

    fn x(&self, time: f64) -> f64 {
        WIDTH * time / self.end
    }
}

/// What a panel shows.
struct Panel {
    title: String,
    /// Whether the numbers are counts, so that the axis has only integers.
    is_count: bool,
    series: Vec<Series>,
}

struct Series {
    name: String,
    /// Times and numbers.
    points: Vec<(f64, f64)>,
}

impl Panel {
    fn of(panel: &Value) -> Result<Self, String> {
        let title = panel["title"].as_str().ok_or("a panel has no title")?;
        let (suffix, factor) = match panel["unit"].as_str() {
            Some("ops") => (", per second", 1.0),
            Some("s") => (", seconds", 1.0),
            Some("percentunit") => (", %", 100.0),
            Some("short") => ("", 1.0),
            unit => return Err(format!("the unit of {title} is unknown: {unit:?}")),
        };
        let series: Result<Vec<Series>, String> = array(&panel["series"])?
            .iter()
            .map(|series| Series::of(series, factor))
            .collect();
        let mut series = series?;
        if series.is_empty() {
            return Err(format!("{title} has no data"));
        }
        if series.iter().any(|series| series.max() > 0.0) {
            series.retain(|series| series.max() > 0.0);
        }
        Ok(Self {
            title: format!("{title}{suffix}"),
            is_count: suffix.is_empty(),
            series,
        })
    }

    fn max(&self) -> f64 {
        self.series.iter().map(Series::max).fold(0.0, f64::max)
    }

    fn legend_height(&self) -> f64 {
        LEGEND * self.series.len().div_ceil(2) as f64
    }

    /// Returns the step of the vertical axis, and the number of steps.
    fn axis(&self) -> (f64, u32) {
        let max = self.max();
        let step = match max {
            0.0 => 1.0,
            max if self.is_count => step(max).max(1.0),
            max => step(max),
        };
        let steps = (1..=4).find(|steps| f64::from(*steps) * step >= max);
        (step, steps.unwrap_or(4))
    }
}

impl Series {
    fn of(series: &Value, factor: f64) -> Result<Self, String> {
        let name = series["name"].as_str().ok_or("a series has no name")?;
        let point = |point: &Value| Some((point[0].as_f64()?, point[1].as_f64()? * factor));
        let points: Option<Vec<_>> = array(&series["points"])?.iter().map(point).collect();
        Ok(Self {
            name: name.to_owned(),
            points: points.ok_or_else(|| format!("{name} has a point without a number"))?,
        })
    }

    fn max(&self) -> f64 {
        self.points
            .iter()
            .map(|(_, value)| *value)
            .fold(0.0, f64::max)
    }

    /// Returns the parts of the line between its gaps.
    fn parts(&self, step: f64) -> impl Iterator<Item = &[(f64, f64)]> {
        self.points
            .chunk_by(move |before, after| after.0 - before.0 < 1.5 * step)
    }
}

/// Draws the panels of one row of the dashboard.
fn picture(title: &str, panels: &[Panel], times: &Times) -> String {
    let width = (LEFT + WIDTH + RIGHT) * COLUMNS as f64;
    let mut body = String::new();
    let mut y = TOP;
    for row in panels.chunks(COLUMNS) {
        for (column, panel) in row.iter().enumerate() {
            let x = LEFT + (LEFT + WIDTH + RIGHT) * column as f64;
            line(
                &mut body,
                format_args!(r#"<g transform="translate({x} {y})">"#),
            );
            draw_panel(&mut body, panel, times);
            line(&mut body, format_args!("</g>"));
        }
        let legend = row.iter().map(Panel::legend_height).fold(0.0, f64::max);
        y += HEIGHT + BOTTOM + legend + TOP;
    }
    let height = y - TOP;
    let mut svg = String::new();
    line(
        &mut svg,
        format_args!(
            r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" role="img" aria-label="{title}: the panels of the dashboard during a rotation and an outage" font-family="sans-serif" font-size="12" fill="{GREY}">"#
        ),
    );
    svg += &body;
    line(&mut svg, format_args!("</svg>"));
    svg
}

fn draw_panel(svg: &mut String, panel: &Panel, times: &Times) {
    line(
        svg,
        format_args!(
            r#"<text x="{}" y="-30" font-weight="bold">{}</text>"#,
            10.0 - LEFT,
            panel.title
        ),
    );
    draw_events(svg, times);
    let (step, steps) = panel.axis();
    let top = step * f64::from(steps);
    for tick in 0..=steps {
        let value = f64::from(tick) * step;
        let y = HEIGHT * (1.0 - value / top);
        line(
            svg,
            format_args!(
                r#"<path d="M0 {y:.1}H{WIDTH}" stroke="{GREY}" stroke-opacity=".35"/><text x="-8" y="{:.1}" text-anchor="end">{}</text>"#,
                y + 4.0,
                number(value)
            ),
        );
    }
    let mut minute = 0.0;
    while minute * 60.0 <= times.end {
        line(
            svg,
            format_args!(
                r#"<text x="{:.1}" y="{}" text-anchor="middle">{minute}</text>"#,
                times.x(minute * 60.0),
                HEIGHT + 18.0
            ),
        );
        minute += 1.0;
    }
    line(
        svg,
        format_args!(
            r#"<text x="{}" y="{}" text-anchor="middle">minutes</text>"#,
            WIDTH / 2.0,
            HEIGHT + 34.0
        ),
    );
    for (index, (series, colour)) in panel.series.iter().zip(COLOURS.iter().cycle()).enumerate() {
        for part in series.parts(times.step) {
            draw_part(svg, part, top, colour, times);
        }
        let x = WIDTH / 2.0 * (index % 2) as f64;
        let y = HEIGHT + 56.0 + LEGEND * (index / 2) as f64;
        line(
            svg,
            format_args!(
                r#"<path d="M{x} {}h14" stroke="{colour}" stroke-width="2"/><text x="{}" y="{y}">{}</text>"#,
                y - 4.0,
                x + 20.0,
                series.name
            ),
        );
    }
}

/// Marks the rotation and the outage.
fn draw_events(svg: &mut String, times: &Times) {
    let (from, to) = (times.x(times.outage.0), times.x(times.outage.1));
    let rotation = times.x(times.rotation);
    line(
        svg,
        format_args!(
            r##"<rect x="{from:.1}" width="{:.1}" height="{HEIGHT}" fill="#dc2626" fill-opacity=".12"/><text x="{:.1}" y="-8" text-anchor="middle">outage</text>"##,
            to - from,
            f64::midpoint(from, to)
        ),
    );
    line(
        svg,
        format_args!(
            r#"<path d="M{rotation:.1} 0V{HEIGHT}" stroke="{GREY}" stroke-dasharray="4 3"/><text x="{rotation:.1}" y="-8" text-anchor="middle">rotation</text>"#
        ),
    );
}

/// Draws a line without a gap. A line of one point is a dot.
fn draw_part(svg: &mut String, part: &[(f64, f64)], top: f64, colour: &str, times: &Times) {
    let place = |(time, value): (f64, f64)| (times.x(time), HEIGHT * (1.0 - value / top));
    let places: Vec<(f64, f64)> = part.iter().copied().map(place).collect();
    if let [(x, y)] = places[..] {
        line(
            svg,
            format_args!(r#"<circle cx="{x:.0}" cy="{y:.1}" r="1.5" fill="{colour}"/>"#),
        );
        return;
    }
    // Points within a horizontal part of the line add nothing.
    let is_corner = |index: usize| match (index.checked_sub(1), places.get(index + 1)) {
        (Some(before), Some(after)) => {
            places[before].1 != places[index].1 || places[index].1 != after.1
        }
        _ => true,
    };
    let points: Vec<String> = (0..places.len())
        .filter(|index| is_corner(*index))
        .map(|index| format!("{:.0},{:.1}", places[index].0, places[index].1))
        .collect();
    line(
        svg,
        format_args!(
            r#"<polyline points="{}" fill="none" stroke="{colour}" stroke-width="2"/>"#,
            points.join(" ")
        ),
    );
}

/// Returns a number of an axis without the error of its binary form.
fn number(value: f64) -> String {
    let text = format!("{value:.6}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn array(value: &Value) -> Result<&Vec<Value>, String> {
    value
        .as_array()
        .ok_or_else(|| format!("{value} is not an array"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const TIMES: Times = Times {
        step: 10.0,
        end: 120.0,
        rotation: 30.0,
        outage: (60.0, 90.0),
    };

    fn panel(unit: &str, points: &Value) -> Result<Panel, String> {
        let zero = json!({"name": "vault: absent", "points": [[0, 0], [10, 0]]});
        let series = json!({"name": "vault: hit", "points": points});
        Panel::of(&json!({"title": "Reads", "unit": unit, "series": [zero, series]}))
    }

    #[test]
    fn line_has_its_corners_and_gaps_and_events_are_marked() {
        let points = json!([
            [0, 2],
            [10, 2],
            [20, 2],
            [30, 1],
            [70, 4],
            [80, 4],
            [120, 4]
        ]);
        let svg = picture("Sources", &[panel("ops", &points).unwrap()], &TIMES);
        assert!(svg.contains("Reads, per second"), "{svg}");
        assert!(
            svg.contains(r#"points="0,65.0 53,65.0 80,97.5""#)
                && svg.contains(r#"points="187,0.0 213,0.0""#)
                && svg.contains(r#"<circle cx="320" cy="0.0""#),
            "{svg}"
        );
        assert!(
            svg.contains(r#"<rect x="160.0" width="80.0""#) && svg.contains("M80.0 0V130"),
            "{svg}"
        );
        assert!(svg.contains("vault: hit") && !svg.contains("absent"));
        assert!(!svg.contains("\n\n"), "an empty line ends an HTML block");
    }

    #[test]
    fn axis_of_counts_has_only_integers_and_any_axis_reaches_the_largest_number() {
        let axis = |unit, max: f64| panel(unit, &json!([[0, max]])).unwrap().axis();
        assert_eq!(axis("short", 1.0), (1.0, 1));
        assert_eq!(axis("short", 2.3), (1.0, 3));
        assert_eq!(axis("short", 0.0), (1.0, 1));
        assert_eq!(axis("percentunit", 1.0), (25.0, 4));
        assert_eq!(axis("s", 0.003), (0.001, 3));
        assert_eq!(number(3.0 * 0.1), "0.3");
        assert_eq!(number(100.0), "100");
    }

    #[test]
    fn panel_without_data_or_with_another_unit_is_an_error() {
        let empty = json!({"title": "Reads", "unit": "ops", "series": []});
        assert!(Panel::of(&empty).is_err_and(|error| error.contains("no data")));
        assert!(panel("bytes", &json!([])).is_err_and(|error| error.contains("bytes")));
    }
}
