//! What happened during a run, in one order.

use std::fmt;
use std::time::SystemTime;

use secretwell::auth::State;

use crate::schedules::recorder;
pub(super) use crate::schedules::recorder::At;

use super::schedule::{Call, Key, NAMES};

/// Everything that happened during a run.
#[derive(Debug, Default)]
pub(super) struct Trace {
    /// All versions of each key, in the order of their numbers.
    pub(super) revisions: [Vec<Revision>; NAMES.len()],
    pub(super) events: Vec<(At, Event)>,
    pub(super) fetches: Vec<Fetch>,
    pub(super) builds: Vec<Build>,
    pub(super) reads: Vec<Read>,
    pub(super) samples: Vec<Sample>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Event {
    /// The clock has jumped.
    Jumped,
    /// Another runtime is driven from now on.
    Switched,
    /// A lagging replica responds.
    Lagged,
    /// A fault of the source or of the builder begins or ends. Calls that run have a reason to fail.
    Faulty,
    /// For the failure report only.
    Note(String),
}

impl Event {
    /// Returns whether the tasks of the auth might not have run.
    pub(super) fn is_interruption(&self) -> bool {
        matches!(self, Self::Switched | Self::Jumped)
    }
}

/// A value that identifies the write that it comes from. For `R`, it is a revocation time.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Value {
    pub(super) key: Key,
    /// The number of the value. Equal numbers are equal values.
    pub(super) number: usize,
    pub(super) kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Strong,
    Weak,
    /// The code of the type of the field panics.
    Panicking,
    /// A revocation time, or `None` if it is invalid.
    Time(Option<SystemTime>),
}

/// One version of a key.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Revision {
    pub(super) value: Value,
    /// The number of the version.
    pub(super) number: usize,
    pub(super) written: At,
    /// The wall time of the write. The wall clock does not advance during a run, but all events have different times.
    pub(super) created: SystemTime,
}

/// A read at the source, of current versions or of a previous one.
#[derive(Debug)]
pub(super) struct Fetch {
    pub(super) keys: Vec<Key>,
    /// Whether a previous version is read.
    pub(super) previous: bool,
    pub(super) started: At,
    /// `None` while the fetch runs, and after it was cancelled.
    pub(super) ended: Option<At>,
    /// The results of the keys, once the fetch has ended.
    pub(super) outcomes: Vec<Outcome>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Outcome {
    Found(Revision),
    Absent,
    Failed,
}

/// One call of the builder.
#[derive(Debug)]
pub(super) struct Build {
    /// The generation that the build gets if it is published.
    pub(super) generation: u64,
    pub(super) started: At,
    /// `None` if the build has not ended.
    pub(super) ended: Option<At>,
    pub(super) succeeded: bool,
    pub(super) secrets: Vec<Input>,
    pub(super) rings: Vec<Ring>,
}

/// A secret that a builder sees.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Input {
    pub(super) value: Value,
    /// The number of its version, if the source reports one.
    pub(super) version: Option<usize>,
    pub(super) is_stale: bool,
}

/// A ring that a builder sees.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Ring {
    pub(super) key: Key,
    pub(super) primary: Value,
    /// All secrets, newest first.
    pub(super) all: Vec<Value>,
}

/// A call of the auth.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) call: Call,
    pub(super) runtime: usize,
    pub(super) start: At,
    /// For a revocation that has started.
    pub(super) revoked: Option<Revoked>,
    /// `None` while the call runs.
    pub(super) end: Option<At>,
    /// The build that was returned, or the text of the failure.
    pub(super) result: Result<usize, String>,
    pub(super) cancelled: bool,
}

/// The situation in which previous secrets are revoked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Revoked {
    /// The published build.
    pub(super) build: Option<usize>,
    pub(super) wall: SystemTime,
}

/// The state of the auth after a step.
#[derive(Debug)]
pub(super) struct Sample {
    pub(super) at: At,
    pub(super) state: State,
    /// The published build.
    pub(super) build: Option<usize>,
}

pub(super) type Recorder = recorder::Recorder<Trace>;

impl Recorder {
    pub(super) fn event(&self, event: Event) {
        let at = self.at();
        self.lock().events.push((at, event));
    }
}

impl Fetch {
    /// Returns the result for `key` with its time, once the fetch has ended.
    pub(super) fn outcome(&self, key: Key) -> Option<(At, Outcome)> {
        let position = self.keys.iter().position(|other| *other == key)?;
        Some((self.ended?, *self.outcomes.get(position)?))
    }
}

impl Build {
    pub(super) fn input(&self, key: Key) -> Option<&Input> {
        self.secrets.iter().find(|input| input.value.key == key)
    }

    pub(super) fn ring(&self, key: Key) -> Option<&Ring> {
        self.rings.iter().find(|ring| ring.key == key)
    }

    /// Returns the values and the rings, which are all that a builder depends on.
    pub(super) fn inputs(&self) -> (Vec<Value>, &[Ring]) {
        let values = self.secrets.iter().map(|input| input.value);
        (values.collect(), &self.rings)
    }
}

impl Ring {
    pub(super) fn previous(&self) -> &[Value] {
        &self.all[1..]
    }
}

impl Value {
    /// Returns a text from which [`parse`](Self::parse) reads the value.
    pub(super) fn text(self) -> String {
        let Self { key, number, .. } = self;
        match self.kind {
            Kind::Strong => format!("{key}.{number}.strong, with thirty-two bytes or more"),
            Kind::Weak => format!("{key}.{number}.weak"),
            Kind::Panicking => format!("{key}.{number}.panicking"),
            Kind::Time(Some(time)) => humantime::format_rfc3339_nanos(time).to_string(),
            Kind::Time(None) => format!("yesterday, {number}"),
        }
    }

    /// Parses the text of a value that is not a revocation time.
    pub(super) fn parse(text: &str) -> Self {
        let mut parts = text.splitn(3, '.');
        let mut part = || parts.next().expect("the text has three parts");
        Self {
            key: part().parse().expect("a position"),
            number: part().parse().expect("a number"),
            kind: match part() {
                "weak" => Kind::Weak,
                "panicking" => Kind::Panicking,
                _ => Kind::Strong,
            },
        }
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", NAMES[self.key], self.number)?;
        match self.kind {
            Kind::Strong => Ok(()),
            kind => write!(f, " ({kind:?})"),
        }
    }
}

impl Trace {
    /// Returns one line for each event, in their order, up to `last`.
    pub(super) fn until(&self, last: u64) -> String {
        let mut lines: Vec<(At, String)> = Vec::new();
        for (at, event) in &self.events {
            lines.push((*at, format!("{event:?}")));
        }
        for revision in self.revisions.iter().flatten() {
            let Revision { value, number, .. } = revision;
            lines.push((
                revision.written,
                format!("version {number} is written: {value:?}"),
            ));
        }
        for (number, fetch) in self.fetches.iter().enumerate() {
            let keys: String = fetch.keys.iter().map(|&key| NAMES[key]).collect();
            let of = if fetch.previous { "previous " } else { "" };
            lines.push((
                fetch.started,
                format!("fetch {number} of {of}{keys} starts"),
            ));
            let outcomes: Vec<String> = fetch.outcomes.iter().map(|it| it.to_string()).collect();
            let ended = fetch.ended.map(|ended| (ended, outcomes));
            lines.extend(ended.map(|(at, it)| (at, format!("fetch {number} returns {it:?}"))));
        }
        for (number, build) in self.builds.iter().enumerate() {
            let Build {
                generation,
                secrets,
                rings,
                succeeded,
                ..
            } = build;
            lines.push((
                build.started,
                format!("build {number} of generation {generation} from {secrets:?}, {rings:?}"),
            ));
            let end = format!("build {number} ends, success: {succeeded}");
            lines.extend(build.ended.map(|at| (at, end)));
        }
        for (number, read) in self.reads.iter().enumerate() {
            let name = format!("read {number}, {:?} in runtime {}", read.call, read.runtime);
            lines.push((read.start, format!("{name} starts")));
            let end = format!("{name} returns {:?}", read.result);
            lines.extend(read.end.map(|at| (at, end)));
        }
        for sample in &self.samples {
            let Sample { at, state, build } = sample;
            lines.push((*at, format!("state {state:?}, build {build:?}")));
        }
        recorder::until(last, lines)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Found(revision) => write!(f, "{:?} v{}", revision.value, revision.number),
            other => write!(f, "{other:?}"),
        }
    }
}
