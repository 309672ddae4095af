//! What the rules of the reference model depend on: the published builds, and the revoked secrets.

use std::time::{Duration, SystemTime};

use super::run::{Outcome as Run, START};
use super::schedule::{Call, Key, R, Reports, Setup};
use super::trace::{At, Build, Event, Kind, Outcome, Read, Ring, Trace, Value};

/// An auth has seen the result of a fetch after this time: the longest read of the other keys.
const SEEN_AFTER: Duration = Duration::from_secs(4);

/// Replicas are assumed to lag for at most this time.
const MAX_LAG: Duration = Duration::from_secs(60);

/// A run with what the model derives from it.
pub(super) struct Model<'a> {
    pub(super) setup: &'a Setup,
    pub(super) run: &'a Run,
    pub(super) trace: &'a Trace,
    /// The positions of the builds that were published, in the order of their generations.
    pub(super) published: Vec<usize>,
    /// The values that were certainly revoked, and since when.
    revoked: Vec<(u64, Value)>,
}

/// A violated rule.
#[derive(Debug)]
pub(super) struct Violation {
    /// The last event that matters.
    pub(super) order: u64,
    pub(super) text: String,
}

/// A revocation time that an auth has seen.
#[derive(Debug, Clone, Copy)]
pub(super) struct Epoch {
    pub(super) time: SystemTime,
    /// When the source has returned it first.
    first: At,
}

impl<'a> Model<'a> {
    pub(super) fn new(setup: &'a Setup, run: &'a Run) -> Self {
        let mut model = Self {
            setup,
            run,
            trace: &run.trace,
            published: published(&run.trace),
            revoked: Vec::new(),
        };
        model.revoked = model.revoked_values();
        model
    }

    /// Returns whether `value` was certainly revoked before `order`.
    pub(super) fn is_revoked(&self, value: Value, order: u64) -> bool {
        let mut revoked = self.revoked.iter();
        revoked.any(|(since, revoked)| *since < order && *revoked == value)
    }

    /// Returns the published builds with a generation below that of `build`.
    pub(super) fn before(&self, build: &Build) -> impl DoubleEndedIterator<Item = &'a Build> {
        let generation = usize::try_from(build.generation).expect("a small number");
        let before = self.published.iter().take(generation - 1);
        let trace = self.trace;
        before
            .copied()
            .collect::<Vec<_>>()
            .into_iter()
            .map(|position| &trace.builds[position])
    }

    /// Returns the published builds.
    pub(super) fn published(&self) -> impl Iterator<Item = &'a Build> {
        let trace = self.trace;
        let published = self.published.clone().into_iter();
        published.map(|position| &trace.builds[position])
    }

    /// Returns the results of the fetches of current versions of `key` that have ended before `order`.
    pub(super) fn outcomes(&self, key: Key, order: u64) -> Vec<(At, Outcome)> {
        let fetches = self.trace.fetches.iter().filter(|fetch| !fetch.previous);
        let outcomes = fetches.filter_map(|fetch| fetch.outcome(key));
        let mut outcomes: Vec<_> = outcomes.filter(|(at, _)| at.order < order).collect();
        outcomes.sort_by_key(|(at, _)| at.order);
        outcomes
    }

    /// Returns the events of this kind before `order`.
    pub(super) fn has_event(&self, event: &Event, order: u64) -> bool {
        let mut events = self.trace.events.iter();
        events.any(|(at, other)| at.order < order && other == event)
    }

    /// Returns the calls of `revoke_previous` that started before `order`.
    pub(super) fn revocations(&self, order: u64) -> impl Iterator<Item = &'a Read> {
        let reads = self.trace.reads.iter();
        reads.filter(move |read| {
            read.call == Call::RevokePrevious && read.revoked.is_some() && read.start.order < order
        })
    }

    /// Returns the revocation time that certainly is in force for `build`.
    pub(super) fn epoch(&self, build: &Build) -> Option<Epoch> {
        let mut outcomes = self.outcomes(R, build.started.order);
        outcomes.retain(|(_, outcome)| *outcome != Outcome::Failed);
        let (_, last) = *outcomes.last()?;
        let Outcome::Found(revision) = last else {
            return None;
        };
        let Kind::Time(Some(time)) = revision.value.kind else {
            return None;
        };
        let same = outcomes.iter().rev().take_while(|(_, it)| *it == last);
        let (first, _) = *same.last()?;
        let since = first.time.max(self.runs_since(build.started.order));
        let is_seen = since + SEEN_AFTER <= build.started.time;
        is_seen.then_some(Epoch { time, first })
    }

    /// Returns whether tasks of the auth might not have run between these times.
    pub(super) fn is_interrupted(&self, from: u64, to: u64) -> bool {
        let mut events = self.trace.events.iter();
        events.any(|(at, event)| at.order > from && at.order < to && event.is_interruption())
    }

    /// Returns the time since which the auth certainly has run without an interruption before `order`. After a switch
    /// to another runtime, the next call takes over.
    fn runs_since(&self, order: u64) -> Duration {
        let mut events = self.trace.events.iter().rev();
        let interruption = events.find(|(at, event)| at.order < order && event.is_interruption());
        let Some((interrupted, _)) = interruption else {
            return START;
        };
        let mut starts = self.trace.reads.iter().map(|read| read.start);
        let next = starts.find(|at| at.order > interrupted.order && at.order < order);
        next.unwrap_or(*interrupted).time
    }

    /// Returns whether the previous secret at this position of a ring was certainly revoked by time before
    /// `build`, in whose `chain` of published builds the ring is.
    pub(super) fn is_revoked_by_time(
        &self,
        ring: &Ring,
        position: usize,
        chain: &[&Build],
        build: &Build,
    ) -> bool {
        let epoch = self.epoch(build);
        if self.setup.reports == Reports::Times {
            let calls = self.revocations(build.started.order);
            let calls = calls.filter(|call| !self.has_ended(call, ring.all[position], build));
            let calls = calls.filter_map(|call| Some(call.revoked?.wall));
            let limit = calls.chain(epoch.map(|epoch| epoch.time)).max();
            let replaced = self.last_written(ring.all[position - 1], build.started.order);
            return limit.is_some_and(|limit| replaced.is_some_and(|written| written <= limit));
        }
        let replacer = last_tenure(chain, ring.all[position]).and_then(|tenure| tenure.replacer);
        epoch.is_some_and(|epoch| {
            replacer.is_some_and(|replacer| {
                replacer
                    .ended
                    .is_some_and(|it| it.order < epoch.first.order)
            })
        })
    }

    /// Returns whether the source has returned `value` so long after `call` that its replicas are assumed not to lag.
    fn has_ended(&self, call: &Read, value: Value, build: &Build) -> bool {
        let long_after = call.start.time + MAX_LAG;
        let fetches = self.trace.fetches.iter();
        let mut fetches = fetches.filter(|it| !it.previous && it.started.time >= long_after);
        fetches.any(|fetch| {
            let outcome = fetch.outcome(value.key);
            outcome.is_some_and(|(at, outcome)| {
                let is_found = matches!(outcome, Outcome::Found(it) if it.value == value);
                is_found && at.order < build.started.order
            })
        })
    }

    /// Returns the wall time of the last write of `value` before `order`.
    fn last_written(&self, value: Value, order: u64) -> Option<SystemTime> {
        let revisions = self.trace.revisions[value.key].iter();
        let written = revisions.filter(|it| it.value == value && it.written.order < order);
        written.map(|revision| revision.created).max()
    }

    fn revoked_values(&self) -> Vec<(u64, Value)> {
        let mut revoked = Vec::new();
        for call in self.revocations(u64::MAX) {
            let build = call.revoked.and_then(|revoked| revoked.build);
            let rings = build.map_or(&[][..], |build| &self.trace.builds[build].rings);
            let previous = rings.iter().flat_map(Ring::previous);
            revoked.extend(previous.map(|value| (call.start.order, *value)));
            if let Some(build) = build {
                revoked.extend(self.replaced_after_call(call, &self.trace.builds[build]));
            }
        }
        let published: Vec<&Build> = self.published().collect();
        for (position, build) in published.iter().enumerate().skip(1) {
            let chain = &published[..position];
            for ring in &chain[position - 1].rings {
                let newest = build.input(ring.key).map(|input| input.value);
                for index in 1..ring.all.len() {
                    // A secret that is the newest one again was not replaced before the revocation.
                    let is_replaced = newest != Some(ring.all[index]);
                    if is_replaced && self.is_revoked_by_time(ring, index, chain, build) {
                        revoked.push((build.started.order, ring.all[index]));
                    }
                }
            }
        }
        revoked
    }

    /// Returns the newest secrets in memory at the time of a call which a newer one has replaced after it. The newer
    /// one was written before the call.
    fn replaced_after_call(&self, call: &Read, build: &Build) -> Vec<(u64, Value)> {
        let mut revoked = Vec::new();
        for Ring { key, all, .. } in &build.rings {
            let later = self.published().find(|later| {
                let is_confirmed = later.secrets.iter().all(|input| !input.is_stale);
                let newest = later.input(*key).map(|input| input.value);
                later.started.order > call.start.order && is_confirmed && newest != Some(all[0])
            });
            let Some(later) = later else { continue };
            let newest = later.input(*key).map(|input| input.value);
            let lags = self.has_event(&Event::Lagged, later.started.order);
            if !lags && newest.is_some() && newest == self.current(*key, call.start.order) {
                revoked.push((later.started.order - 1, all[0]));
            }
        }
        revoked
    }

    /// Returns the value that was written last before `order`.
    fn current(&self, key: Key, order: u64) -> Option<Value> {
        let revisions = self.trace.revisions[key].iter();
        let mut written = revisions.filter(|revision| revision.written.order < order);
        written.next_back().map(|revision| revision.value)
    }
}

/// The builds of a chain with the same newest secret of a key, without an interruption.
pub(super) struct Tenure<'a> {
    pub(super) first: &'a Build,
    /// The build that has replaced the secret.
    pub(super) replacer: Option<&'a Build>,
}

/// Returns the last tenure of `value` as the newest secret of its key.
pub(super) fn last_tenure<'a>(chain: &[&'a Build], value: Value) -> Option<Tenure<'a>> {
    let is_newest = |build: &&Build| {
        build
            .input(value.key)
            .is_some_and(|input| input.value == value)
    };
    let last = chain.iter().rposition(is_newest)?;
    let others = chain[..last].iter().rposition(|build| !is_newest(build));
    Some(Tenure {
        first: chain[others.map_or(0, |other| other + 1)],
        replacer: chain.get(last + 1).copied(),
    })
}

/// Returns the last successful build of each generation that was published: the next generation was built, or it
/// was read.
fn published(trace: &Trace) -> Vec<usize> {
    let mut published = Vec::new();
    for generation in 1.. {
        let builds = trace.builds.iter();
        let is_meant = |build: &Build| build.generation == generation && build.succeeded;
        let Some(last) = builds.clone().rposition(is_meant) else {
            break;
        };
        let is_replaced = builds.clone().any(|build| build.generation > generation);
        let reads = trace.reads.iter().map(|read| read.result.as_ref().ok());
        let samples = trace.samples.iter().map(|sample| sample.build.as_ref());
        if !is_replaced && !reads.chain(samples).any(|read| read == Some(&last)) {
            break;
        }
        published.push(last);
    }
    published
}

pub(super) fn require(
    condition: bool,
    at: At,
    text: impl FnOnce() -> String,
) -> Result<(), Violation> {
    match condition {
        true => Ok(()),
        false => Err(Violation {
            order: at.order,
            text: text(),
        }),
    }
}
