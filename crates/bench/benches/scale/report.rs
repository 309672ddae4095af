//! The figures by number of keys.

use secretwell_bench::figures;

/// The results so far.
#[derive(Debug, Default)]
pub(crate) struct Report {
    results: Vec<(String, usize, f64)>,
}

impl Report {
    /// Adds the result `value` for `size` keys as a figure.
    pub(crate) fn add(&mut self, name: &str, unit: &str, size: usize, value: f64) {
        figures::add(&format!("scale_{name}_{size}_keys_{unit}"), value);
        self.results.push((name.to_owned(), size, value));
    }

    /// Adds the ratio of the result for 1,000,000 keys to that for 1,000 keys, for each quantity that has both.
    pub(crate) fn add_growth(&self) {
        let of_size = |wanted| {
            let results = self.results.iter();
            results.filter(move |(_, size, _)| *size == wanted)
        };
        for (name, _, few) in of_size(1_000) {
            if let Some((_, _, many)) = of_size(1_000_000).find(|(other, ..)| other == name) {
                figures::add(&format!("scale_{name}_1000000_over_1000_keys"), many / few);
            }
        }
    }
}
