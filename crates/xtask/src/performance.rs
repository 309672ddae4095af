//! `docs/performance.md`: generated from a template and the figures of a run of `cargo xtask bench`.
//!
//! The figures are beside the page, in `docs/performance.json`. A test compares the page with them, so it fails after a
//! change of the page by hand.

use std::fs;
use std::path::PathBuf;
use std::thread;

use serde_json::{Map, Value};

use crate::budgets::{NOT_MEASURED, NOT_MET, judge};
use crate::figures::{Figures, short};
use crate::plot;
use crate::shell::{root, run, text};

/// Markdown with names of figures in double braces. Other names are in [`special`].
const TEMPLATE: &str = include_str!("performance/template.md");

/// Writes the figures of a run on this machine, the page and its plots.
///
/// # Errors
/// Returns an error if a file cannot be written, or if the template has an unknown name.
pub(crate) fn write(figures: &Figures) -> Result<(), String> {
    let machine = machine();
    write_file("performance.json", &to_json(&machine, figures))?;
    write_page(&machine, figures)
}

/// Writes the page and its plots from the figures of the last run, after a change of the template.
///
/// # Errors
/// Returns an error like [`write()`], or if the figures cannot be read.
pub(crate) fn write_from_last_run() -> Result<(), String> {
    let (machine, figures) = last_run()?;
    write_page(&machine, &figures)
}

fn write_page(machine: &str, figures: &Figures) -> Result<(), String> {
    for (file, content) in generate(machine, figures)? {
        write_file(file, &content)?;
    }
    Ok(())
}

/// Reads the description of the machine and the figures in `docs/performance.json`.
fn last_run() -> Result<(String, Figures), String> {
    let file = docs("performance.json");
    let explain = |error: String| format!("cannot read {}: {error}", text(&file));
    let json = fs::read_to_string(&file).map_err(|error| explain(error.to_string()))?;
    let mut object: Map<String, Value> =
        serde_json::from_str(&json).map_err(|error| explain(error.to_string()))?;
    let machine = object.remove("machine");
    let machine = machine
        .as_ref()
        .and_then(Value::as_str)
        .unwrap_or("an unknown machine");
    let figures = Figures::from_json(&Value::from(object).to_string()).map_err(explain)?;
    Ok((machine.to_owned(), figures))
}

fn write_file(name: &str, content: &str) -> Result<(), String> {
    let file = docs(name);
    println!("writing {}", text(&file));
    fs::write(&file, content).map_err(|error| format!("cannot write {}: {error}", text(&file)))
}

fn docs(name: &str) -> PathBuf {
    root().join("docs").join(name)
}

/// Returns the names of the generated files, and their contents.
fn generate(machine: &str, figures: &Figures) -> Result<[(&'static str, String); 3], String> {
    Ok([
        ("performance.md", page(TEMPLATE, machine, figures)?),
        ("performance-scale.svg", plot::scale(figures)),
        ("performance-reads.svg", plot::reads(figures)),
    ])
}

/// Returns the figures with the machine before them.
fn to_json(machine: &str, figures: &Figures) -> String {
    let machine = Value::from(machine);
    let figures = figures.to_json();
    figures.replacen("{\n", &format!("{{\n  \"machine\": {machine},\n"), 1)
}

/// Describes the machine and the versions of the compiler and of Node.
fn machine() -> String {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = cpu.map_or("unknown processor", |(_, model)| model.trim());
    let version = |program: &str, arguments: &[&str]| {
        let printed = run(program, arguments).unwrap_or_default();
        let number = printed
            .split(|c: char| !c.is_ascii_digit() && c != '.')
            .find(|word| word.contains('.'));
        let mut parts = number.unwrap_or("?").split('.');
        let major = parts.next().unwrap_or_default().to_owned();
        parts
            .next()
            .map_or(major.clone(), |minor| format!("{major}.{minor}"))
    };
    format!(
        "{cores} cores ({model}), Linux {}, Rust {}, Node {}",
        version("uname", &["-r"]),
        version("rustc", &["--version"]),
        version("node", &["--version"]),
    )
}

/// Replaces the names in a template.
fn page(template: &str, machine: &str, figures: &Figures) -> Result<String, String> {
    let known = crate::figures::known();
    let mut parts = template.split("{{");
    let mut page = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (name, after) = part
            .split_once("}}")
            .ok_or_else(|| format!("braces are not closed: {part}"))?;
        match special(name, machine, figures) {
            Some(content) => page += &content,
            None if known.iter().any(|known| known == name) => {
                let figure = figures.get(name).map(short);
                page += figure.as_deref().unwrap_or(NOT_MEASURED);
            }
            None => return Err(format!("the template has the unknown name {name}")),
        }
        page += after;
    }
    Ok(page)
}

/// Returns the text for a name that is not a figure.
fn special(name: &str, machine: &str, figures: &Figures) -> Option<String> {
    match name {
        "machine" => Some(machine.to_owned()),
        "budgets" => Some(budget_table(figures)),
        "missed" => Some(missed_budgets(figures)),
        _ => None,
    }
}

fn budget_table(figures: &Figures) -> String {
    let rows = judge(figures).into_iter().map(|outcome| {
        format!(
            "| {} | {} | {} | {} |",
            outcome.about, outcome.budget, outcome.measured, outcome.status
        )
    });
    let header = "| quantity | budget | measured | |\n| --- | --- | --- | --- |".to_owned();
    let lines: Vec<String> = [header].into_iter().chain(rows).collect();
    lines.join("\n")
}

fn missed_budgets(figures: &Figures) -> String {
    let missed = judge(figures);
    let missed = missed
        .iter()
        .filter(|outcome| outcome.status == NOT_MET)
        .map(|outcome| {
            let mut name = outcome.about.chars();
            let first = name.next().map(|c| c.to_uppercase().to_string());
            let name = format!("{}{}", first.unwrap_or_default(), name.as_str());
            format!("- {name}. {}", outcome.reason)
        });
    let lines: Vec<String> = missed.collect();
    match lines.is_empty() {
        true => "All measured budgets are met.".to_owned(),
        false => format!("Budgets that are not met:\n\n{}", lines.join("\n")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_of_the_template_is_known() {
        let page = page(TEMPLATE, "a machine", &Figures::default()).unwrap();
        assert!(
            page.contains(NOT_MEASURED) && !page.contains("{{"),
            "{page}"
        );
    }

    #[test]
    fn figures_replace_their_names() {
        let mut figures = Figures::default();
        figures.add("ready_with_ns", 9.5).unwrap();
        let template = "{{ready_with_ns}} {{ready_get_ns}} {{machine}}";
        let text = page(template, "2 cores", &figures).unwrap();
        assert_eq!(text, "9.50 not measured 2 cores");
        assert!(page("{{ready}}", "", &figures).is_err());
        let missed = missed_budgets(&figures);
        assert!(
            missed.contains("- `LazyAuth::with`, 1 thread. `with` reads"),
            "{missed}"
        );
        let json = to_json("2 cores", &figures);
        let expected = "{\n  \"machine\": \"2 cores\",\n  \"ready_with_ns\": 9.5\n}\n";
        assert_eq!(json, expected);
    }

    #[test]
    fn committed_page_is_generated_from_the_committed_figures() {
        let (machine, figures) = last_run().unwrap();
        for (file, expected) in generate(&machine, &figures).unwrap() {
            let committed = fs::read_to_string(docs(file)).unwrap();
            let message = "is generated: change its template, and run `cargo xtask performance`";
            assert!(committed == expected, "docs/{file} {message}");
        }
    }
}
