//! The rules about whole runs: the calls to the sources, the end of the run, and the watches.

use std::time::Duration;

use secretwell::ErrorKind;

use super::rules::{Model, require};
use super::schedule::{Key, NAMES};
use super::trace::{At, Event, Outcome, ProviderCall, Reader, Returned, Value};

/// The time in which the calls for a key are counted.
const WINDOW: Duration = Duration::from_secs(1);
/// The most calls for a key in [`WINDOW`] for which no reader and no notification is the reason: refreshes of a
/// short lease, and retries.
const BACKGROUND_CALLS: usize = 6;
/// The longest wait that a source can request.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(3600);

impl Model<'_> {
    pub(super) fn check_limits(&self) -> Result<(), String> {
        self.check_requested_waits()?;
        self.check_call_rates()?;
        self.check_end()?;
        self.check_watches()
    }

    /// No call starts while a source has requested a wait.
    fn check_requested_waits(&self) -> Result<(), String> {
        for limited in &self.trace.calls {
            let Some((ended, wait)) = requested_wait(limited) else {
                continue;
            };
            let until = ended.time + wait.min(MAX_RETRY_AFTER);
            let started = self.trace.calls.iter().find(|call| {
                let time = call.started.time;
                call.link == limited.link && ended.time < time && time < until
            });
            require(started.is_none(), || {
                let started = started.map(|call| call.started);
                format!(
                    "a call starts at {started:?}, but link {} has requested a wait until {until:?}",
                    limited.link
                )
            })?;
        }
        Ok(())
    }

    /// The number of calls for a key is limited by the number of its causes.
    fn check_call_rates(&self) -> Result<(), String> {
        for key in 0..NAMES.len() {
            for link in 0..self.setup.links.len() {
                self.check_call_rate(link, key)?;
            }
        }
        Ok(())
    }

    fn check_call_rate(&self, link: usize, key: Key) -> Result<(), String> {
        let calls = self.trace.calls.iter();
        let calls = calls.filter(|call| call.link == link && call.keys.contains(&key));
        let starts: Vec<Duration> = calls.map(|call| call.started.time).collect();
        let mut causes: Vec<Duration> = Vec::new();
        causes.extend(
            self.trace
                .events
                .iter()
                .filter_map(|(at, event)| match event {
                    Event::Note(_) => None,
                    _ => Some(at.time),
                }),
        );
        causes.extend(
            self.trace
                .reads
                .iter()
                .filter(|read| read.key == key)
                .map(|read| read.start.time),
        );
        for &first in &starts {
            let in_window = |from: Duration, times: &[Duration]| {
                times
                    .iter()
                    .filter(|&&time| from <= time && time < first + WINDOW)
                    .count()
            };
            let calls = in_window(first, &starts);
            // A read can cause calls until its deadline.
            let causes = in_window(first.saturating_sub(WINDOW * 8), &causes);
            require(calls <= BACKGROUND_CALLS + 2 * causes, || {
                let name = NAMES[key];
                format!(
                    "link {link} gets {calls} calls for {name} within {WINDOW:?} from {first:?} on, with {causes} causes"
                )
            })?;
        }
        Ok(())
    }

    /// After a time without faults, all reads return the current values as fresh.
    fn check_end(&self) -> Result<(), String> {
        for read in &self.trace.reads[self.run.last_reads.clone()] {
            let expected = self.expected(read.key);
            let got = read.result.as_ref().and_then(|result| result.as_ref().ok());
            let is_expected = match expected {
                Some(value) => got == Some(&Returned { value, stale: None }),
                None => read.result == Some(Err(ErrorKind::NotFound)),
            };
            require(is_expected, || {
                let (name, result) = (NAMES[read.key], &read.result);
                format!(
                    "after the time without faults, {name} is {result:?} instead of {expected:?}"
                )
            })?;
        }
        Ok(())
    }

    /// Returns the value that a chain of the sources has at the end.
    fn expected(&self, key: Key) -> Option<Value> {
        self.run.current.iter().find_map(|link| link[key])
    }

    /// A watch begins with a result of each key, returns each change once, and ends with the current values.
    fn check_watches(&self) -> Result<(), String> {
        for (number, keys) in &self.run.watches {
            for key in keys.iter() {
                self.check_watch(*number, key).map_err(|violation| {
                    format!("watch {number} of {}: {violation}", NAMES[key])
                })?;
            }
        }
        Ok(())
    }

    fn check_watch(&self, number: usize, key: Key) -> Result<(), String> {
        let is_meant =
            |by: Reader| by == Reader::WatchStart(number) || by == Reader::WatchUpdate(number);
        let reads = self.trace.reads.iter();
        let reads =
            reads.filter(|read| read.key == key && is_meant(read.by) && read.result.is_some());
        let mut last = None;
        for read in reads {
            let seen = read.result.as_ref().map(seen);
            require(seen != last, || {
                format!("{seen:?} is returned twice, at {:?}", read.end)
            })?;
            last = seen;
        }
        let expected = match self.expected(key) {
            Some(value) => (Some(value.without_version()), None),
            None => (None, Some(ErrorKind::NotFound)),
        };
        require(last == Some(expected), || {
            format!("it ends with {last:?} instead of {expected:?}")
        })
    }
}

/// What a watch compares: the value, and the failure.
type Seen = (Option<Value>, Option<ErrorKind>);

fn seen(result: &Result<Returned, ErrorKind>) -> Seen {
    let (value, failure) = match result {
        Ok(returned) => (Some(returned.value.without_version()), returned.stale),
        Err(kind) => (None, Some(*kind)),
    };
    let failure = failure.map(|kind| match kind {
        ErrorKind::RateLimited { .. } => ErrorKind::RateLimited { retry_after: None },
        kind => kind,
    });
    (value, failure)
}

fn requested_wait(call: &ProviderCall) -> Option<(At, Duration)> {
    let waits = call.outcomes.iter().filter_map(|outcome| match outcome {
        Outcome::Failed(ErrorKind::RateLimited { retry_after }) => *retry_after,
        _ => None,
    });
    Some((call.ended?, waits.max()?))
}
