//! Plots of figures as SVG, for the pages of `docs/`.
//!
//! The text and the lines have medium colours, so that a plot is readable on white and on dark pages. It has no empty
//! line, because Markdown ends an HTML block there.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::figures::{Figures, short};
use crate::shell::text;

/// Numbers of keys.
const SIZES: [u32; 4] = [1_000, 10_000, 100_000, 1_000_000];

/// A diagram with lines over the number of keys.
struct Lines {
    title: &'static str,
    series: &'static [Series],
}

/// A line in a diagram. Its figures have the number of keys between `prefix` and `suffix`.
struct Series {
    prefix: &'static str,
    suffix: &'static str,
    label: &'static str,
    colour: &'static str,
}

const LINES: [Lines; 2] = [
    Lines {
        title: "CPU time per refreshed key, µs",
        series: &[
            Series {
                prefix: "scale_refresh_batch_",
                suffix: "_keys_us",
                label: "source with batches",
                colour: BLUE,
            },
            Series {
                prefix: "scale_refresh_no_batch_",
                suffix: "_keys_us",
                label: "source without batches",
                colour: ORANGE,
            },
        ],
    },
    Lines {
        title: "memory per key beside key and value, bytes",
        series: &[
            Series {
                prefix: "scale_memory_per_key_",
                suffix: "_keys_bytes",
                label: "read 1,000 at a time",
                colour: BLUE,
            },
            Series {
                prefix: "scale_memory_per_key_read_at_once_",
                suffix: "_keys_bytes",
                label: "read at once",
                colour: ORANGE,
            },
        ],
    },
];

/// A diagram with a bar for each figure.
struct Bars {
    title: &'static str,
    /// The figures and their labels.
    bars: &'static [(&'static str, &'static str)],
}

/// The bars of Secretwell have a label that begins with one of its types.
const OWN: [&str; 3] = ["LazyAuth", "Reader", "Resolver"];

const BARS: [Bars; 2] = [
    Bars {
        title: "reading a built value, ns",
        bars: &[
            ("ready_get_ns", "LazyAuth::get"),
            ("ready_with_ns", "LazyAuth::with"),
            ("ready_reader_ns", "Reader::get"),
            ("ready_arc_swap_load_ns", "arc-swap load"),
            ("ready_arc_swap_cache_ns", "arc-swap Cache"),
            ("ready_once_cell_ns", "tokio OnceCell"),
            ("ready_rwlock_ns", "std RwLock<Arc>"),
        ],
    },
    Bars {
        title: "reading one of 100 cached secrets, ns",
        bars: &[
            ("hit_with_cached_ns", "Resolver::with_cached"),
            ("hit_get_ns", "Resolver::get"),
            ("hit_quick_cache_ns", "quick_cache"),
            ("hit_moka_ns", "moka"),
            ("hit_secret_vault_ns", "secret-vault"),
            ("hit_rwlock_hashmap_ns", "std RwLock<HashMap>"),
            ("hit_env_var_ns", "std env::var"),
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
/// The height of a row of a diagram with bars, and the space for their labels.
const BAR: f64 = 20.0;
const LABEL: f64 = 150.0;

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

/// Draws the cost of a refresh and the memory of a key over the number of keys.
pub(crate) fn scale(figures: &Figures) -> String {
    side_by_side(
        "Refresh cost and memory over the number of keys",
        TOP + HEIGHT + BOTTOM,
        &LINES,
        |svg, diagram| draw_lines(svg, diagram, figures),
    )
}

/// Draws the time of reads, as bars.
pub(crate) fn reads(figures: &Figures) -> String {
    let rows = BARS.iter().map(|diagram| diagram.bars.len()).max();
    side_by_side(
        "Time of reads with Secretwell and with other libraries",
        TOP + BAR * rows.unwrap_or_default() as f64,
        &BARS,
        |svg, diagram| draw_bars(svg, diagram, figures),
    )
}

/// Draws diagrams beside each other.
fn side_by_side<D>(
    label: &str,
    height: f64,
    diagrams: &[D],
    draw: impl Fn(&mut String, &D),
) -> String {
    let mut svg = String::new();
    let step = LEFT + WIDTH + RIGHT;
    let width = step * diagrams.len() as f64;
    line(
        &mut svg,
        format_args!(
            r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" role="img" aria-label="{label}" font-family="sans-serif" font-size="12" fill="{GREY}">"#
        ),
    );
    for (index, diagram) in diagrams.iter().enumerate() {
        let x = LEFT + step * index as f64;
        line(
            &mut svg,
            format_args!(r#"<g transform="translate({x} {TOP})">"#),
        );
        draw(&mut svg, diagram);
        line(&mut svg, format_args!("</g>"));
    }
    line(&mut svg, format_args!("</svg>"));
    svg
}

/// Draws a bar for each measured figure, with its label on the left and its value on the right.
fn draw_bars(svg: &mut String, diagram: &Bars, figures: &Figures) {
    line(
        svg,
        format_args!(
            r#"<text x="{}" y="-20" font-weight="bold">{}</text>"#,
            10.0 - LEFT,
            diagram.title
        ),
    );
    let values = diagram.bars.iter().map(|(name, _)| figures.get(name));
    let longest = values.flatten().fold(f64::MIN_POSITIVE, f64::max);
    // The labels are left of the bars, and the values right of them.
    let (start, longest_bar) = (LABEL - LEFT, LEFT + WIDTH - LABEL - 2.0 * RIGHT);
    for (index, (name, label)) in diagram.bars.iter().enumerate() {
        let Some(value) = figures.get(name) else {
            continue;
        };
        let y = BAR * index as f64;
        let width = longest_bar * value / longest;
        let colour = match OWN.iter().any(|own| label.starts_with(own)) {
            true => BLUE,
            false => ORANGE,
        };
        let label = label.replace('<', "&lt;");
        line(
            svg,
            format_args!(
                r#"<text x="{}" y="{:.1}" text-anchor="end">{label}</text><rect x="{start}" y="{y}" width="{width:.1}" height="14" fill="{colour}"/><text x="{:.1}" y="{:.1}">{}</text>"#,
                start - 6.0,
                y + 11.0,
                start + width + 6.0,
                y + 11.0,
                short(value)
            ),
        );
    }
}

fn draw_lines(svg: &mut String, diagram: &Lines, figures: &Figures) {
    // Each line has a point for each measured figure.
    let lines: Vec<Vec<(f64, f64)>> = diagram
        .series
        .iter()
        .map(|series| {
            let figure = |size| figures.get(&format!("{}{size}{}", series.prefix, series.suffix));
            let points = SIZES.iter();
            points
                .filter_map(|&size| Some((f64::from(size), figure(size)?)))
                .collect()
        })
        .collect();
    let sizes = SIZES.map(f64::from);
    let (first, last) = (sizes[0].log10(), sizes[SIZES.len() - 1].log10());
    let values = lines.iter().flatten().map(|(_, value)| *value);
    let step = step(values.fold(0.0, f64::max));
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
    for size in sizes {
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
    for (index, (series, points)) in diagram.series.iter().zip(&lines).enumerate() {
        let colour = series.colour;
        let points: Vec<String> = points
            .iter()
            .map(|&(size, value)| format!("{:.1},{:.1}", x(size), y(value)))
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
}

/// Appends a line of text.
pub(crate) fn line(svg: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = writeln!(svg, "{text}");
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
    use super::*;

    #[test]
    fn every_figure_becomes_a_point_of_its_line() {
        let mut figures = Figures::default();
        for series in LINES.iter().flat_map(|diagram| diagram.series) {
            for (size, value) in [(1_000, 1.5), (1_000_000, 3.0)] {
                let name = format!("{}{size}{}", series.prefix, series.suffix);
                figures.add(&name, value).unwrap();
            }
        }
        let svg = scale(&figures);
        // The axis ends at 4, so the values are drawn at 5/8 and at 1/4 of the height.
        let line = r#"points="0.0,93.8 260.0,37.5""#;
        assert_eq!(svg.matches(line).count(), 4, "{svg}");
        assert!(svg.contains(">1 k<") && svg.contains(">1 M<"), "{svg}");
        assert!(!svg.contains("\n\n"), "an empty line ends an HTML block");
    }

    #[test]
    fn every_measured_figure_becomes_a_bar() {
        let mut figures = Figures::default();
        figures.add("ready_get_ns", 20.0).unwrap();
        figures.add("ready_rwlock_ns", 10.0).unwrap();
        let svg = reads(&figures);
        let width = |colour, width| format!(r#"width="{width}" height="14" fill="{colour}""#);
        assert!(svg.contains(&width(BLUE, "100.0")), "{svg}");
        assert!(svg.contains(&width(ORANGE, "50.0")), "{svg}");
        assert!(svg.contains("std RwLock&lt;Arc>"), "{svg}");
        assert_eq!(svg.matches("<rect").count(), 2, "{svg}");
        assert!(!svg.contains("\n\n"), "an empty line ends an HTML block");
    }

    #[test]
    fn names_of_plotted_figures_are_known() {
        let lines = LINES.iter().flat_map(|diagram| diagram.series);
        let names = lines.map(|series| format!("{}1000{}", series.prefix, series.suffix));
        let bars = BARS.iter().flat_map(|diagram| diagram.bars);
        let known = crate::figures::known();
        for name in names.chain(bars.map(|(name, _)| (*name).to_owned())) {
            assert!(known.contains(&name), "{name}");
        }
    }

    #[test]
    fn step_of_an_axis_is_round_and_large_enough() {
        assert_eq!(step(3.0), 1.0);
        assert_eq!(step(4.1), 2.0);
        assert_eq!(step(290.0), 100.0);
        assert_eq!(step(0.9), 0.25);
    }
}
