//! What happened during a run, in one order.

use std::fmt;
use std::time::Duration;

use secretwell::{Error, ErrorKind, Freshness, Resolved};

use crate::schedules::recorder;
pub(super) use crate::schedules::recorder::At;

use super::schedule::{Call, Key, KeySet, NAMES};

/// Everything that happened during a run.
#[derive(Debug, Default)]
pub(super) struct Trace {
    pub(super) events: Vec<(At, Event)>,
    pub(super) calls: Vec<ProviderCall>,
    pub(super) reads: Vec<Read>,
    /// The times during which a runtime was driven.
    pub(super) driven: Vec<Driven>,
    /// The number of the runtime that is driven now.
    pub(super) runtime: usize,
}

/// An event that restricts later results.
#[derive(Debug, Clone)]
pub(super) enum Event {
    /// The resolver has subscribed to the notifications of a source on this runtime.
    Subscribed {
        link: usize,
        runtime: usize,
    },
    /// The source has sent a notification to the subscriber.
    Notified {
        link: usize,
        keys: KeySet,
    },
    Invalidated(Key),
    /// The next version is accepted, even if it is older.
    AcceptedOlder(Key),
    /// A caller has reported this value as rejected.
    Rejected(Value),
    /// The clock has jumped, or another runtime is driven from now on.
    Disturbed,
    /// Something was changed at a source. For the failure report only.
    Note(String),
}

/// A call to a provider.
#[derive(Debug)]
pub(super) struct ProviderCall {
    pub(super) link: usize,
    pub(super) keys: Vec<Key>,
    pub(super) started: At,
    /// The time at which the source determined the results.
    pub(super) read: Option<At>,
    /// `None` while the call runs, and after it was cancelled.
    pub(super) ended: Option<At>,
    /// The results of the keys, once the call has ended.
    pub(super) outcomes: Vec<Outcome>,
}

/// What a call returned for one key.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Outcome {
    Value(Value),
    Failed(ErrorKind),
}

/// A value that identifies the write that it comes from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Value {
    pub(super) link: usize,
    pub(super) key: Key,
    /// The number of the value. Equal numbers are equal values.
    pub(super) number: u32,
    /// `None` if the source has no versions.
    pub(super) version: Option<u32>,
}

/// A result of the resolver for one key.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) by: Reader,
    pub(super) key: Key,
    /// Whether the caller read no other key.
    pub(super) alone: bool,
    pub(super) runtime: usize,
    pub(super) start: At,
    /// `None` while the call runs.
    pub(super) end: Option<At>,
    /// `None` until the call has returned, and if `with_cached` has found nothing.
    pub(super) result: Option<Result<Returned, ErrorKind>>,
    pub(super) cancelled: bool,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Reader {
    Call(Call),
    /// The first result of the watch with this number.
    WatchStart(usize),
    /// A later result of that watch.
    WatchUpdate(usize),
}

/// A value that the resolver returned.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Returned {
    pub(super) value: Value,
    /// The reason why the value is stale.
    pub(super) stale: Option<ErrorKind>,
}

/// A time during which a runtime was driven without a jump of the clock.
#[derive(Debug)]
pub(super) struct Driven {
    pub(super) runtime: usize,
    pub(super) from: Duration,
    pub(super) to: Duration,
}

pub(super) type Recorder = recorder::Recorder<Trace>;

impl Recorder {
    pub(super) fn event(&self, event: Event) {
        let at = self.at();
        self.lock().events.push((at, event));
    }

    /// Records the start of a read. Returns the positions of its results.
    pub(super) fn start_read(&self, by: Reader, keys: &[Key]) -> std::ops::Range<usize> {
        let start = self.at();
        let mut trace = self.lock();
        let (first, runtime) = (trace.reads.len(), trace.runtime);
        trace.reads.extend(keys.iter().map(|&key| Read {
            by,
            key,
            alone: keys.len() == 1,
            runtime,
            start,
            end: None,
            result: None,
            cancelled: false,
        }));
        first..trace.reads.len()
    }

    /// Records that the first poll of a read is now.
    pub(super) fn restart_read(&self, reads: std::ops::Range<usize>) {
        let start = self.at();
        self.set_start(reads, start);
    }

    pub(super) fn set_start(&self, reads: std::ops::Range<usize>, start: At) {
        for read in &mut self.lock().reads[reads] {
            read.start = start;
        }
    }

    /// Records the results of a read.
    pub(super) fn end_read(
        &self,
        reads: std::ops::Range<usize>,
        results: Vec<Option<Result<Resolved, Error>>>,
    ) {
        let end = self.at();
        assert_eq!(reads.len(), results.len(), "one result for each key");
        for (read, result) in self.lock().reads[reads].iter_mut().zip(results) {
            read.end = Some(end);
            read.result = result.map(|result| {
                result
                    .map(|resolved| Returned::of(&resolved))
                    .map_err(|error| error.kind())
            });
        }
    }
}

impl ProviderCall {
    pub(super) fn outcome(&self, key: Key) -> Option<Outcome> {
        let position = self.keys.iter().position(|other| *other == key)?;
        self.outcomes.get(position).copied()
    }

    pub(super) fn version(&self, key: Key) -> Option<u32> {
        match self.outcome(key)? {
            Outcome::Value(value) => value.version,
            Outcome::Failed(_) => None,
        }
    }

    pub(super) fn has_ended_before(&self, at: At) -> bool {
        self.ended.is_some_and(|ended| ended.order < at.order)
    }

    pub(super) fn ended_order(&self) -> u64 {
        self.ended.map_or(u64::MAX, |ended| ended.order)
    }
}

impl Value {
    /// Parses the text that [`text`](Self::text) returns.
    fn parse(text: &str, version: Option<&str>) -> Option<Self> {
        let mut parts = text.split('.').map(|part| part.parse().ok());
        let [link, key, number] = [parts.next()??, parts.next()??, parts.next()??];
        Some(Self {
            link: link as usize,
            key: key as usize,
            number,
            version: version.and_then(|version| version.parse().ok()),
        })
    }

    /// Returns a value that is equal for all versions with the same bytes.
    pub(super) fn without_version(self) -> Self {
        let version = None;
        Self { version, ..self }
    }

    pub(super) fn text(&self) -> String {
        format!("{}.{}.{}", self.link, self.key, self.number)
    }
}

impl Returned {
    fn of(resolved: &Resolved) -> Self {
        let text = resolved.value.expose_text().expect("the values are text");
        let version = resolved.version.as_ref().map(|version| version.as_str());
        Self {
            value: Value::parse(text, version).expect("the values come from a source of the test"),
            stale: match &resolved.freshness {
                Freshness::Stale { reason, .. } => Some(reason.kind()),
                _ => None,
            },
        }
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}#{} of link {}",
            NAMES[self.key], self.number, self.link
        )?;
        match self.version {
            Some(version) => write!(f, " (version {version})"),
            None => Ok(()),
        }
    }
}

impl Trace {
    /// Returns one line for each event, in their order, up to `last`.
    pub(super) fn until(&self, last: u64) -> String {
        let names = |keys: &[Key]| keys.iter().map(|&key| NAMES[key]).collect::<String>();
        let mut lines: Vec<(At, String)> = Vec::new();
        for (at, event) in &self.events {
            let line = match event {
                Event::Note(text) => text.clone(),
                event => format!("{event:?}"),
            };
            lines.push((*at, line));
        }
        for (number, call) in self.calls.iter().enumerate() {
            let name = format!(
                "provider call {number} of link {} {}",
                call.link,
                names(&call.keys)
            );
            lines.push((call.started, format!("{name} starts")));
            if let Some(ended) = call.ended {
                lines.push((ended, format!("{name} returns {:?}", call.outcomes)));
            }
        }
        for (number, read) in self.reads.iter().enumerate() {
            let name = format!("read {number} {:?} {}", read.by, NAMES[read.key]);
            lines.push((
                read.start,
                format!("{name} starts in runtime {}", read.runtime),
            ));
            if let Some(end) = read.end {
                lines.push((end, format!("{name} returns {:?}", read.result)));
            }
        }
        recorder::until(last, lines)
    }
}
