//! Measurements of the resolver with 1,000 to 1,000,000 keys.
//!
//! Each value has 32 bytes and a numbered version. The source is in this process, and its own cost is
//! subtracted. Costs are CPU times, and each is the smallest of several runs.
//!
//! `cargo bench --package secretwell-bench --bench scale -- PART… MAX` runs only some parts, with at most `MAX`
//! keys. `cargo xtask bench scale` runs all of them.

mod callers;
mod forced;
mod hits;
mod insertion;
mod meter;
mod pauses;
mod refresh;
mod report;
mod source;
mod watches;

use std::env;

use secretwell::SecretKey;

use report::Report;

const SIZES: [usize; 4] = [1_000, 10_000, 100_000, 1_000_000];
const HIT_SIZES: [usize; 5] = [1, 100, 1_000, 10_000, 100_000];

/// Adds the results for some keys to a report.
type Measure = fn(&mut Report, &Keys);

/// The parts of the measurements by name.
const PARTS: [(&str, Measure); 6] = [
    ("refresh", refresh::measure),
    ("insertion", insertion::measure),
    ("memory", insertion::measure_memory),
    ("pauses", pauses::measure),
    ("forced", forced::measure),
    ("watches", watches::measure),
];

fn main() {
    // Cargo passes `--bench`.
    let arguments: Vec<String> = env::args().skip(1).collect();
    let max = arguments.iter().find_map(|argument| argument.parse().ok());
    let names: Vec<&str> = arguments
        .iter()
        .map(String::as_str)
        .filter(|name| !name.starts_with('-') && name.parse::<usize>().is_err())
        .collect();
    let is_selected = |name: &str| names.is_empty() || names.contains(&name);

    let up_to_max = |sizes: &[usize]| -> Vec<usize> {
        let sizes = sizes.iter().copied();
        sizes
            .filter(|&size| max.is_none_or(|max| size <= max))
            .collect()
    };

    let sizes = up_to_max(&SIZES);
    let mut report = Report::default();
    for &size in &sizes {
        let keys = Keys::new(size);
        for (name, measure) in PARTS {
            if is_selected(name) {
                measure(&mut report, &keys);
            }
        }
    }
    report.add_growth();
    if is_selected("hits") {
        for size in up_to_max(&HIT_SIZES) {
            hits::measure(&Keys::new(size));
        }
    }
    if is_selected("callers") {
        callers::measure();
    }
}

/// The keys of one size.
pub(crate) struct Keys {
    pub(crate) all: Vec<SecretKey>,
}

impl Keys {
    fn new(size: usize) -> Self {
        Self {
            all: numbered_keys("SECRET", size),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }

    /// Returns how often a measurement is repeated. A large size is its own average.
    pub(crate) fn runs(&self) -> usize {
        match self.len() {
            1_000_000.. => 2,
            _ => 3,
        }
    }
}

/// Returns `count` keys that begin with `name`, all of the same length.
pub(crate) fn numbered_keys(name: &str, count: usize) -> Vec<SecretKey> {
    (0..count)
        .map(|number| format!("{name}_{number:07}").parse().expect("a valid key"))
        .collect()
}
