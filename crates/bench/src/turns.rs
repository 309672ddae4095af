//! Measurement of alternatives in turns.

use std::time::Duration;

use crate::figures;

/// Makes a number of calls, and returns how long they took.
type Run<'a> = Box<dyn FnMut(u64) -> Duration + 'a>;

/// Alternatives that are measured in turns. In each round, each of them runs one batch of calls.
pub struct Turns<'a> {
    rounds: usize,
    batch: Duration,
    alternatives: Vec<(String, Run<'a>)>,
}

impl<'a> Turns<'a> {
    /// Creates a measurement with batches that take about `batch`. If it is zero, each batch is one call.
    pub fn new(rounds: usize, batch: Duration) -> Self {
        Self {
            rounds,
            batch,
            alternatives: Vec::new(),
        }
    }

    /// Adds an alternative. `run` makes the given number of calls, and returns how long they took.
    pub fn add(&mut self, name: &str, run: impl FnMut(u64) -> Duration + 'a) {
        self.alternatives.push((name.to_owned(), Box::new(run)));
    }

    /// Measures all alternatives.
    pub fn measure(mut self) -> Times {
        let batch = self.batch;
        let calls: Vec<u64> = self
            .alternatives
            .iter_mut()
            .map(|(_, run)| calls_per_batch(run, batch))
            .collect();
        let mut seconds = vec![Vec::with_capacity(self.rounds); calls.len()];
        for round in 0..self.rounds {
            for turn in 0..calls.len() {
                // Every second round has the opposite order, so that no alternative always follows the same one.
                let index = match round % 2 {
                    0 => turn,
                    _ => calls.len() - 1 - turn,
                };
                let time = (self.alternatives[index].1)(calls[index]);
                seconds[index].push(time.as_secs_f64() / calls[index] as f64);
            }
        }
        let names = self.alternatives.into_iter().map(|(name, _)| name);
        Times {
            alternatives: names.zip(seconds).collect(),
        }
    }
}

/// Returns the number of calls that take about `batch`. The calls that find it out warm up caches.
fn calls_per_batch(run: &mut Run<'_>, batch: Duration) -> u64 {
    let mut calls = 1;
    loop {
        let time = run(calls);
        if 2 * time >= batch {
            let factor = batch.as_secs_f64() / time.as_secs_f64().max(f64::MIN_POSITIVE);
            return ((calls as f64 * factor) as u64).max(1);
        }
        calls *= 2;
    }
}

/// The unit of the figures.
#[derive(Debug, Clone, Copy)]
pub enum Unit {
    Nanoseconds,
    Microseconds,
    Milliseconds,
}

impl Unit {
    fn suffix(self) -> &'static str {
        match self {
            Self::Nanoseconds => "ns",
            Self::Microseconds => "us",
            Self::Milliseconds => "ms",
        }
    }

    fn per_second(self) -> f64 {
        match self {
            Self::Nanoseconds => 1e9,
            Self::Microseconds => 1e6,
            Self::Milliseconds => 1e3,
        }
    }
}

/// The times of one call of each alternative, in seconds, by round.
pub struct Times {
    alternatives: Vec<(String, Vec<f64>)>,
}

impl Times {
    /// Adds the median time of each alternative as a figure: `PREFIX_NAME_UNIT`.
    pub fn report(&self, prefix: &str, unit: Unit) {
        for (name, _) in &self.alternatives {
            let value = self.median(name).unwrap_or(f64::NAN) * unit.per_second();
            figures::add(&format!("{prefix}_{name}_{}", unit.suffix()), value);
        }
    }

    /// Returns the median time of an alternative in seconds, if it was measured.
    pub fn median(&self, name: &str) -> Option<f64> {
        Some(median(self.seconds(name)?.iter().copied()))
    }

    fn seconds(&self, name: &str) -> Option<&Vec<f64>> {
        let found = self.alternatives.iter().find(|(other, _)| other == name);
        found.map(|(_, seconds)| seconds)
    }

    /// Adds the ratio of two alternatives as a figure: the median of the ratios within a round. Adds nothing if one
    /// of them was not measured.
    pub fn report_ratio(&self, figure: &str, numerator: &str, denominator: &str) {
        if let Some(value) = self.compare(numerator, denominator, |a, b| a / b) {
            figures::add(figure, value);
        }
    }

    /// Adds the difference of two alternatives as a figure: the median of the differences within a round.
    pub fn report_difference(&self, figure: &str, minuend: &str, subtrahend: &str, unit: Unit) {
        if let Some(value) = self.compare(minuend, subtrahend, |a, b| a - b) {
            figures::add(figure, value * unit.per_second());
        }
    }

    fn compare(&self, first: &str, second: &str, of: fn(f64, f64) -> f64) -> Option<f64> {
        let pairs = self.seconds(first)?.iter().zip(self.seconds(second)?);
        Some(median(pairs.map(|(a, b)| of(*a, *b))))
    }
}

/// Returns the median, or NaN without values.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match (values.len() % 2, values.get(middle)) {
        (_, None) => f64::NAN,
        (0, Some(upper)) => f64::midpoint(values[middle - 1], *upper),
        (_, Some(value)) => *value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_is_the_middle_or_between_the_two_middles() {
        assert_eq!(median([3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median([4.0, 1.0, 3.0, 2.0]), 2.5);
        assert!(median([]).is_nan());
    }

    #[test]
    fn alternatives_run_in_turns_with_calibrated_batches() {
        let log = std::cell::RefCell::new(Vec::new());
        let mut turns = Turns::new(2, Duration::from_millis(8));
        turns.add("fast", |calls| {
            log.borrow_mut().push(("fast", calls));
            Duration::from_micros(calls * 500)
        });
        turns.add("slow", |calls| {
            log.borrow_mut().push(("slow", calls));
            Duration::from_millis(calls * 2)
        });
        let times = turns.measure();
        let rounds = log.borrow()[log.borrow().len() - 4..].to_vec();
        assert_eq!(
            rounds,
            [("fast", 16), ("slow", 4), ("slow", 4), ("fast", 16)]
        );
        let ratio = times.compare("slow", "fast", |a, b| a / b);
        assert!(
            ratio.is_some_and(|ratio| (ratio - 4.0).abs() < 1e-9),
            "{ratio:?}"
        );
        assert_eq!(times.compare("slow", "other", |a, b| a / b), None);
    }

    #[test]
    fn ratio_is_the_median_of_the_ratios_within_a_round() {
        let alternatives = [("a", [1.0, 20.0, 3.0]), ("b", [2.0, 10.0, 30.0])];
        let times = Times {
            alternatives: alternatives
                .map(|(name, seconds)| (name.to_owned(), seconds.to_vec()))
                .into(),
        };
        assert_eq!(times.compare("a", "b", |a, b| a / b), Some(0.5));
    }
}
