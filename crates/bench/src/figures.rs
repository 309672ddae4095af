//! The results of the benchmarks: numbers with names.

use std::env;
use std::fs::OpenOptions;
use std::io::Write;

/// The variable with the path of the file that receives the figures. `cargo xtask bench` sets it.
const FILE: &str = "SECRETWELL_BENCH_FILE";

/// Prints a figure, and appends it to the file in the variable `SECRETWELL_BENCH_FILE`. The name ends with the unit,
/// unless the figure is a ratio.
///
/// # Panics
/// Panics if the file cannot be written.
pub fn add(name: &str, value: f64) {
    println!("{name}\t{value}");
    let Some(path) = env::var_os(FILE) else {
        return;
    };
    let file = OpenOptions::new().append(true).create(true).open(path);
    file.and_then(|mut file| writeln!(file, "{name}\t{value}"))
        .expect("the figure is written");
}
