//! The results of a simulation: phases, measured times and promises.

use std::fmt;

use serde::Serialize;

/// The length of the intervals in which requests are counted, in seconds.
pub(crate) const BUCKET: usize = 10;

/// The results of one simulation.
#[derive(Debug, Default, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// The number of instances.
    pub instances: usize,
    /// The seed that repeats the run.
    pub seed: u64,
    /// The length of an interval in which requests are counted, in seconds.
    pub interval: usize,
    /// The number of requests in each interval.
    pub requests: Vec<u32>,
    /// The phases in their order.
    pub phases: Vec<Phase>,
    /// What was measured, with its value as text.
    pub measured: Vec<(&'static str, String)>,
    /// What must hold.
    pub promises: Vec<Promise>,
}

/// A phase of a simulation.
#[derive(Debug, Serialize)]
#[non_exhaustive]
pub struct Phase {
    /// The name of the phase.
    pub name: &'static str,
    /// The start of the phase, in seconds since the start of the simulation.
    pub start: usize,
    /// The end of the phase.
    pub end: usize,
    /// The mean number of requests per second.
    pub mean: f64,
    /// The number of requests per second in the interval with the most requests.
    pub peak: f64,
    /// The number of signed tokens.
    pub signed: u64,
    /// How often a token was verified.
    pub verified: u64,
    /// How often an instance did not verify a token at first.
    pub unverified: u64,
    /// How many of these it verified after it had read the secret again.
    pub verified_later: u64,
    /// The number of started instances.
    pub started: u64,
}

/// A statement that must hold.
#[derive(Debug, Serialize)]
#[non_exhaustive]
pub struct Promise {
    /// The phase and the statement.
    pub name: String,
    /// The measured value as text.
    pub value: String,
    /// Whether the statement holds.
    pub is_kept: bool,
}

impl Report {
    /// Returns the report as JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} instances, seed {}; requests per second, in intervals of {} s\n",
            self.instances, self.seed, self.interval
        )?;
        writeln!(
            f,
            "{:42} {:>7} {:>7} {:>7} {:>7} {:>8} {:>9} {:>10} {:>10}",
            "phase",
            "minutes",
            "mean",
            "peak",
            "starts",
            "signed",
            "verified",
            "unverified",
            "then read"
        )?;
        for phase in &self.phases {
            writeln!(
                f,
                "{:42} {:7.1} {:7.1} {:7.1} {:7} {:8} {:9} {:10} {:10}",
                phase.name,
                (phase.end - phase.start) as f64 / 60.0,
                phase.mean,
                phase.peak,
                phase.started,
                phase.signed,
                phase.verified,
                phase.unverified,
                phase.verified_later
            )?;
        }
        writeln!(f)?;
        for (name, value) in &self.measured {
            writeln!(f, "{name}: {value}")?;
        }
        writeln!(f)?;
        for promise in &self.promises {
            let result = match promise.is_kept {
                true => "kept  ",
                false => "BROKEN",
            };
            writeln!(f, "{result} {}: {}", promise.name, promise.value)?;
        }
        Ok(())
    }
}
