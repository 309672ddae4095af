//! The plot of the benchmark `scale`: cost of a refresh and memory of a key, over the number of keys.
//!
//! The text and the lines have medium colours, so that the plot is readable on white and on dark pages. It has
//! no empty line, because Markdown ends an HTML block there.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::shell::text;

/// One diagram of the plot, with its title and its lines.
struct Diagram {
    title: &'static str,
    series: &'static [Series],
}

/// A line in a diagram: the name of the row in the results, its label and its colour.
struct Series {
    row: &'static str,
    label: &'static str,
    colour: &'static str,
}

const DIAGRAMS: [Diagram; 2] = [
    Diagram {
        title: "CPU time per refreshed key, µs",
        series: &[
            Series {
                row: "refresh, with batch",
                label: "source with batches",
                colour: BLUE,
            },
            Series {
                row: "refresh, without batch",
                label: "source without batches",
                colour: ORANGE,
            },
        ],
    },
    Diagram {
        title: "memory per key beside key and value, bytes",
        series: &[
            Series {
                row: "memory, read 1,000 at a time",
                label: "read 1,000 at a time",
                colour: BLUE,
            },
            Series {
                row: "memory, read at once",
                label: "read at once",
                colour: ORANGE,
            },
        ],
    },
];

pub(crate) const GREY: &str = "#7d8590";
pub(crate) const BLUE: &str = "#3b82f6";
pub(crate) const ORANGE: &str = "#d97706";

/// The size of a diagram's area, and the free space around it for its texts.
const WIDTH: f64 = 260.0;
const HEIGHT: f64 = 150.0;
const LEFT: f64 = 50.0;
const RIGHT: f64 = 30.0;
const TOP: f64 = 60.0;
const BOTTOM: f64 = 45.0;

/// Draws the results in the JSON file `results`, and writes the plot to `file`.
///
/// # Errors
/// Returns an error if a file cannot be read or written, or if a result is missing.
pub(crate) fn draw(results: &Path, file: &Path) -> Result<(), String> {
    write(file, &plot(&read(results)?)?)
}

/// Reads the results of a run from a JSON file.
pub(crate) fn read(results: &Path) -> Result<Value, String> {
    let json =
        fs::read(results).map_err(|error| format!("cannot read {}: {error}", text(results)))?;
    serde_json::from_slice(&json).map_err(|error| format!("{} is not JSON: {error}", text(results)))
}

/// Writes a plot, and prints where it is.
pub(crate) fn write(file: &Path, svg: &str) -> Result<(), String> {
    fs::write(file, svg).map_err(|error| format!("cannot write {}: {error}", text(file)))?;
    println!("the plot is in {}", text(file));
    Ok(())
}

fn plot(results: &Value) -> Result<String, String> {
    let mut svg = String::new();
    let (step, height) = (LEFT + WIDTH + RIGHT, TOP + HEIGHT + BOTTOM);
    let width = step * DIAGRAMS.len() as f64;
    line(
        &mut svg,
        format_args!(
            r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" role="img" aria-label="Refresh cost and memory over the number of keys" font-family="sans-serif" font-size="12" fill="{GREY}">"#
        ),
    );
    for (index, diagram) in DIAGRAMS.iter().enumerate() {
        let x = LEFT + step * index as f64;
        line(
            &mut svg,
            format_args!(r#"<g transform="translate({x} {TOP})">"#),
        );
        draw_diagram(&mut svg, diagram, results)?;
        line(&mut svg, format_args!("</g>"));
    }
    line(&mut svg, format_args!("</svg>"));
    Ok(svg)
}

fn draw_diagram(svg: &mut String, diagram: &Diagram, results: &Value) -> Result<(), String> {
    let sizes = numbers(&results["sizes"]).ok_or("the results have no sizes")?;
    let lines: Result<Vec<Vec<f64>>, String> = diagram
        .series
        .iter()
        .map(|series| values(results, series.row))
        .collect();
    let lines = lines?;
    let (first, last) = match sizes[..] {
        [first, .., last] => (first.log10(), last.log10()),
        _ => return Err("the plot needs results for two sizes".into()),
    };
    let step = step(lines.iter().flatten().copied().fold(0.0, f64::max));
    let top = 4.0 * step;
    let x = |size: f64| WIDTH * (size.log10() - first) / (last - first);
    let y = |value: f64| HEIGHT * (1.0 - value / top);

    line(
        svg,
        format_args!(
            r#"<text x="{}" y="-42" font-weight="bold">{}</text>"#,
            10.0 - LEFT,
            diagram.title
        ),
    );
    for tick in 0..=4 {
        let value = f64::from(tick) * step;
        let y = y(value);
        line(
            svg,
            format_args!(
                r#"<path d="M0 {y:.1}H{WIDTH}" stroke="{GREY}" stroke-opacity=".35"/><text x="-8" y="{:.1}" text-anchor="end">{value}</text>"#,
                y + 4.0
            ),
        );
    }
    for &size in &sizes {
        line(
            svg,
            format_args!(
                r#"<text x="{:.1}" y="{}" text-anchor="middle">{}</text>"#,
                x(size),
                HEIGHT + 18.0,
                label(size)
            ),
        );
    }
    line(
        svg,
        format_args!(
            r#"<text x="{}" y="{}" text-anchor="middle">number of keys</text>"#,
            WIDTH / 2.0,
            HEIGHT + 36.0
        ),
    );
    for (index, (series, values)) in diagram.series.iter().zip(&lines).enumerate() {
        let colour = series.colour;
        let points: Vec<String> = sizes
            .iter()
            .zip(values)
            .map(|(&size, &value)| format!("{:.1},{:.1}", x(size), y(value)))
            .collect();
        line(
            svg,
            format_args!(
                r#"<polyline points="{}" fill="none" stroke="{colour}" stroke-width="2"/>"#,
                points.join(" ")
            ),
        );
        line(
            svg,
            format_args!(
                r#"<text x="{}" y="-20" fill="{colour}">{}</text>"#,
                WIDTH / 2.0 * index as f64,
                series.label
            ),
        );
    }
    Ok(())
}

/// Appends a line of text.
pub(crate) fn line(svg: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = writeln!(svg, "{text}");
}

fn values(results: &Value, name: &str) -> Result<Vec<f64>, String> {
    let rows = results["rows"].as_array();
    let row = rows.and_then(|rows| rows.iter().find(|row| row["name"] == name));
    row.and_then(|row| numbers(&row["values"]))
        .ok_or_else(|| format!("the results have no complete row `{name}`"))
}

fn numbers(value: &Value) -> Option<Vec<f64>> {
    value.as_array()?.iter().map(Value::as_f64).collect()
}

/// Returns a round number of which four reach `max`.
pub(crate) fn step(max: f64) -> f64 {
    let exponent = (max / 4.0).max(f64::MIN_POSITIVE).log10().floor();
    let unit = 10_f64.powf(exponent);
    let steps = [1.0, 2.0, 2.5, 5.0, 10.0].map(|factor| factor * unit);
    let reaching = steps.into_iter().find(|step| 4.0 * step >= max);
    reaching.unwrap_or(10.0 * unit)
}

/// Returns a number of keys in short: `10 k`, `1 M`.
fn label(size: f64) -> String {
    match size {
        1e6.. => format!("{} M", size / 1e6),
        1e3.. => format!("{} k", size / 1e3),
        _ => size.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn results() -> Value {
        let rows: Vec<Value> = DIAGRAMS
            .iter()
            .flat_map(|diagram| diagram.series)
            .map(|series| json!({"name": series.row, "values": [1.5, 3.0]}))
            .collect();
        json!({"sizes": [1000, 1_000_000], "rows": rows})
    }

    #[test]
    fn every_result_becomes_a_point_of_its_line() {
        let svg = plot(&results()).unwrap();
        // The axis ends at 4, so the values are drawn at 5/8 and at 1/4 of the height.
        let line = r#"points="0.0,93.8 260.0,37.5""#;
        assert_eq!(svg.matches(line).count(), 4, "{svg}");
        assert!(svg.contains(">1 k<") && svg.contains(">1 M<"), "{svg}");
        assert!(!svg.contains("\n\n"), "an empty line ends an HTML block");
    }

    #[test]
    fn missing_result_is_an_error() {
        let mut incomplete = results();
        incomplete["rows"][0]["values"][1] = Value::Null;
        let error = plot(&incomplete).unwrap_err();
        assert!(error.contains("refresh, with batch"), "{error}");
    }

    #[test]
    fn step_of_an_axis_is_round_and_large_enough() {
        assert_eq!(step(3.0), 1.0);
        assert_eq!(step(4.1), 2.0);
        assert_eq!(step(290.0), 100.0);
        assert_eq!(step(0.9), 0.25);
    }
}
