//! The table that is printed, and the file for the plot.

use std::{env, fs};

use serde::Serialize;

/// The variable with the path of the file for the plot.
const FILE: &str = "SECRETWELL_SCALE_JSON";

/// The results, by number of keys.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    sizes: Vec<usize>,
    rows: Vec<Row>,
}

/// One measured quantity.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    unit: &'static str,
    /// The result for each number of keys. `None` if it is not measured for this number.
    values: Vec<Option<f64>>,
}

impl Report {
    pub(crate) fn new(sizes: &[usize]) -> Self {
        Self {
            sizes: sizes.to_vec(),
            rows: Vec::new(),
        }
    }

    /// Adds the result `value` for `size` keys.
    pub(crate) fn add(&mut self, name: &str, unit: &'static str, size: usize, value: f64) {
        println!("{name}, {} keys: {} {unit}", grouped(size), short(value));
        let index = match self.rows.iter().position(|row| row.name == name) {
            Some(index) => index,
            None => {
                self.rows.push(Row {
                    name: name.to_owned(),
                    unit,
                    values: vec![None; self.sizes.len()],
                });
                self.rows.len() - 1
            }
        };
        let column = self.sizes.iter().position(|&column| column == size);
        self.rows[index].values[column.expect("a size of the report")] = Some(value);
    }

    /// Prints all results as a Markdown table. The last column is the ratio of the last to the first number
    /// of keys.
    pub(crate) fn print(&self) {
        if self.rows.is_empty() {
            return;
        }
        let sizes: Vec<String> = self.sizes.iter().map(|&size| grouped(size)).collect();
        println!("\n| keys | {} | ratio |", sizes.join(" | "));
        println!("| --- |{}", " --- |".repeat(sizes.len() + 1));
        for row in &self.rows {
            let cell = |value: &Option<f64>| value.map_or_else(String::new, short);
            let cells: Vec<String> = row.values.iter().map(cell).collect();
            let ratio = match (row.values.first(), row.values.last()) {
                (Some(Some(first)), Some(Some(last))) if *first > 0.0 => short(last / first),
                _ => String::new(),
            };
            let (name, unit) = (&row.name, row.unit);
            println!("| {name}, {unit} | {} | {ratio} |", cells.join(" | "));
        }
    }

    /// Writes the results to the file in the variable `SECRETWELL_SCALE_JSON`, if it is set.
    pub(crate) fn write(&self) {
        if let Some(file) = env::var_os(FILE) {
            let json = serde_json::to_vec(self).expect("the report is valid JSON");
            fs::write(file, json).expect("the report is written");
        }
    }
}

/// Returns a number with three significant digits, and without decimals from 100 on.
pub(crate) fn short(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if size < 1.0 => format!("{value:.3}"),
        size if size < 10.0 => format!("{value:.2}"),
        size if size < 100.0 => format!("{value:.1}"),
        _ => grouped(value.round() as usize),
    }
}

/// Returns a number with commas between thousands.
fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let groups: Vec<&[u8]> = digits.as_bytes().rchunks(3).rev().collect();
    String::from_utf8_lossy(&groups.join(&b',')).into_owned()
}
