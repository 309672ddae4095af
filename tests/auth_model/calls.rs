//! The rules about the calls of an auth, its states, and the end of a run.

use std::time::Duration;

use secretwell::auth::{State, VersionHistory};

use super::model::{Model, Violation, require};
use super::run::{BUILD_DEADLINE, DEADLINE, SOURCE_DEADLINE};
use super::schedule::{A, C, Call, Key, NAMES, R};
use super::trace::{At, Build, Event, Kind, Outcome, Read, Sample};

/// How much longer than its deadline a call can take.
const MARGIN: Duration = Duration::from_millis(50);
/// A late task is replaced, or its work is seen, within this time of an undisturbed runtime.
const SETTLED: Duration = Duration::from_secs(4);
/// An auth notices within this time that a secret has expired: the source does not respond until the deadline, and
/// the other secrets are read until another deadline.
const NOTICED: Duration = SOURCE_DEADLINE.saturating_mul(2).saturating_add(MARGIN);

impl Model<'_> {
    pub(super) fn check_calls(&self) -> Result<(), Violation> {
        for read in &self.trace.reads {
            self.check_duration(read)?;
            self.check_rebuild(read)?;
        }
        self.check_sequence()?;
        for sample in &self.trace.samples {
            self.check_state(sample)?;
            self.check_applied(sample)?;
        }
        self.check_end()
    }

    /// Every call returns within its deadline, unless its runtime is not driven.
    fn check_duration(&self, read: &Read) -> Result<(), Violation> {
        let last = self.trace.samples.last().map_or(read.start, |last| last.at);
        let end = read.end.unwrap_or(last);
        if read.cancelled || self.is_interrupted(read.start.order, end.order) {
            return Ok(());
        }
        let took = end.time - read.start.time;
        require(took <= DEADLINE + MARGIN, end, || {
            format!(
                "{:?} that started at {:?} has taken {took:?}",
                read.call, read.start
            )
        })
    }

    /// A requested build uses the secrets that were written before the request.
    fn check_rebuild(&self, read: &Read) -> Result<(), Violation> {
        let (Call::Rebuild, Some(end), Ok(build)) = (read.call, read.end, &read.result) else {
            return Ok(());
        };
        if self.has_event(&Event::Lagged, end.order) {
            return Ok(());
        }
        let build = &self.trace.builds[*build];
        for input in &build.secrets {
            let revisions = &self.trace.revisions[input.value.key];
            let written = |it: u64| {
                revisions
                    .iter()
                    .filter(move |other| other.written.order < it)
            };
            let before = written(read.start.order).count().saturating_sub(1);
            let mut current = written(end.order).skip(before);
            require(current.any(|it| it.value == input.value), end, || {
                format!(
                    "the requested build uses {:?}, which is outdated",
                    input.value
                )
            })?;
        }
        Ok(())
    }

    /// A build stays until the next one replaces it.
    fn check_sequence(&self) -> Result<(), Violation> {
        let reads = self.trace.reads.iter();
        let reads =
            reads.filter_map(|read| Some((read.end?, read.call, read.result.as_ref().ok())));
        let samples = self.trace.samples.iter();
        let samples = samples.map(|sample| (sample.at, Call::Peek, sample.build.as_ref()));
        let mut observed: Vec<_> = reads.chain(samples).collect();
        observed.sort_by_key(|(at, ..)| at.order);
        let mut generation = 0;
        for (at, call, build) in observed {
            let can_fail = matches!(call, Call::Rebuild | Call::RevokePrevious);
            let Some(build) = build else {
                // A reader exists only after the first build.
                require(generation == 0 || can_fail, at, || {
                    format!("{call:?} returns no build, although there is one")
                })?;
                continue;
            };
            let position = self.published.iter().position(|it| it == build);
            let next = position.map_or(0, |position| position + 1);
            require(next >= generation && next > 0, at, || {
                format!("{call:?} returns build {build} after one of generation {generation}")
            })?;
            generation = next;
        }
        Ok(())
    }

    /// The state belongs to the published build. It is `Ready` only if its secrets are up to date.
    fn check_state(&self, sample: &Sample) -> Result<(), Violation> {
        let (at, build) = (
            sample.at,
            sample.build.map(|build| &self.trace.builds[build]),
        );
        let generation = build.map(|build| build.generation);
        require(sample.state.generation() == generation, at, || {
            format!(
                "the state is {:?} with generation {generation:?}",
                sample.state
            )
        })?;
        let (State::Ready { history, .. }, Some(build)) = (&sample.state, build) else {
            return Ok(());
        };
        if !self.is_settled(at) {
            return Ok(());
        }
        self.check_confirmed(at, build)?;
        let revocation = self
            .outcomes(R, at.order)
            .into_iter()
            .rev()
            .find(|(_, outcome)| *outcome != Outcome::Failed);
        let is_invalid = revocation.is_some_and(|(ended, outcome)| {
            ended.time + SETTLED <= at.time
                && matches!(outcome, Outcome::Found(it) if it.value.kind == Kind::Time(None))
        });
        require(!is_invalid, at, || {
            "ready with an invalid revocation time".into()
        })?;
        // A call of `revoke_previous` also revokes the secrets in the history that were not read.
        if self.revocations(at.order).next().is_some() {
            return Ok(());
        }
        for key in self.setup.rings.iter() {
            let last = self.history_reads(key, at.order).last();
            let has_failed = matches!(last, Some((_, Outcome::Failed)));
            let is_complete = *history == VersionHistory::Complete;
            require(!(has_failed && is_complete), at, || {
                format!(
                    "the history of {} is complete, but the last read failed",
                    NAMES[key]
                )
            })?;
        }
        Ok(())
    }

    /// The source has confirmed the secrets of `build` a short time ago.
    fn check_confirmed(&self, at: At, build: &Build) -> Result<(), Violation> {
        // A call of `revoke_previous` makes the auth read all secrets again.
        let mut calls = self.revocations(at.order);
        if calls.any(|call| call.start.time + NOTICED >= at.time) {
            return Ok(());
        }
        let since = at.time.saturating_sub(self.setup.ttl + NOTICED);
        for input in &build.secrets {
            let key = input.value.key;
            let confirmed = self.outcomes(key, at.order).into_iter().rev().find(|(_, outcome)| {
                matches!(outcome, Outcome::Found(revision) if revision.value == input.value)
            });
            let is_fresh = confirmed.is_some_and(|(ended, _)| ended.time >= since);
            require(is_fresh, at, || {
                format!(
                    "ready, but {} was not confirmed since {since:?}",
                    NAMES[key]
                )
            })?;
        }
        Ok(())
    }

    /// Previous secrets are revoked at once, even if the source does not respond.
    fn check_applied(&self, sample: &Sample) -> Result<(), Violation> {
        let Some(build) = sample.build.map(|build| &self.trace.builds[build]) else {
            return Ok(());
        };
        let calls = self.revocations(sample.at.order);
        let mut calls = calls.filter(|call| call.start.time + SETTLED <= sample.at.time);
        let is_applied = |call: &Read| !self.is_hindered(call.start, sample.at);
        if !calls.any(is_applied) || !self.is_settled(sample.at) {
            return Ok(());
        }
        for value in build.rings.iter().flat_map(|ring| &ring.all) {
            let revoked = self.revocations(sample.at.order).any(|call| {
                let before = call.revoked.and_then(|revoked| revoked.build);
                let before = before.map(|before| &self.trace.builds[before]);
                is_applied(call)
                    && call.start.time + SETTLED <= sample.at.time
                    && before
                        .is_some_and(|it| it.rings.iter().any(|it| it.previous().contains(value)))
            });
            require(!revoked, sample.at, || {
                format!("the published build still contains the revoked secret {value:?}")
            })?;
        }
        Ok(())
    }

    /// After a time without faults, the newest secrets are published.
    fn check_end(&self) -> Result<(), Violation> {
        let Some(sample) = self.trace.samples.last() else {
            return Ok(());
        };
        let current = |key: Key| self.run.current[key];
        let is_good = |key: Key| {
            current(key).is_none_or(|it| match it.value.kind {
                Kind::Strong => true,
                Kind::Weak => !self.setup.signs(key),
                Kind::Panicking => false,
                Kind::Time(time) => time.is_some(),
            })
        };
        let is_good = current(A).is_some() && (0..NAMES.len()).all(is_good);
        let build = sample.build.map(|build| &self.trace.builds[build]);
        if !is_good {
            let is_ready = matches!(sample.state, State::Ready { .. });
            return require(!is_ready, sample.at, || {
                format!(
                    "{:?} at the end, although a secret is unusable",
                    sample.state
                )
            });
        }
        let expected = (A..=C).filter_map(|key| Some(current(key)?.value));
        let got = build.map(|build| build.inputs().0);
        let expected: Vec<_> = expected.collect();
        require(got.as_ref() == Some(&expected), sample.at, || {
            format!("{got:?} is published at the end, not {expected:?}")
        })?;
        // A weak previous version is left out.
        let is_refused = |key: Key| {
            let mut revisions = self.trace.revisions[key].iter();
            revisions.any(|it| it.value.kind == Kind::Weak)
        };
        // So is one beyond the limit.
        let is_beyond_limit =
            |key: Key| self.trace.revisions[key].len() > self.setup.max_previous.max(1);
        let mut signing = (0..NAMES.len()).filter(|key| self.setup.signs(*key));
        let is_refused = signing.any(|key| is_refused(key) || is_beyond_limit(key));
        let is_ready = matches!(
            sample.state,
            State::Ready { history, .. } if history == VersionHistory::Complete || is_refused
        );
        require(is_ready, sample.at, || {
            format!("{:?} at the end", sample.state)
        })?;
        if let Some(build) = build {
            for ring in &build.rings {
                let now = sample.at.time - SETTLED;
                self.check_activation(build, ring, now)?;
                self.check_expiry(build, ring, now)?;
            }
        }
        Ok(())
    }

    /// Returns whether one runtime was driven all the time before `at`, without a jump of the clock.
    fn is_settled(&self, at: At) -> bool {
        !self.trace.events.iter().any(|(other, event)| {
            let recent = match event {
                // The task might be in the runtime that is not driven.
                Event::Switched => true,
                Event::Jumped => other.time + SETTLED >= at.time,
                _ => false,
            };
            recent && other.order < at.order
        })
    }

    /// Returns whether a build might have failed or waited between these times.
    fn is_hindered(&self, from: At, to: At) -> bool {
        self.is_interrupted(from.order, to.order)
            || self.trace.builds.iter().any(|build| {
                let is_slow = build.ended.is_none_or(|it| it.time > build.started.time);
                (is_slow || !build.succeeded)
                    && build.started.order < to.order
                    && build.started.time + BUILD_DEADLINE > from.time
            })
    }
}
