//! The rules about the inputs of builds: which secrets a ring can contain, and when a build happens.

use std::time::Duration;

use super::model::{Model, Violation, last_tenure, require};
use super::run::START;
use super::schedule::{Call, Key, R, Reports};
use super::trace::{At, Build, Outcome, Revision, Ring, Value};

/// The confirmations that make an older version acceptable, and the time that they must span.
const CONFIRMATIONS: (usize, Duration) = (3, Duration::from_secs(59));
/// The real time that a run can take. The wall clock advances by it, so that versions in the history are older.
const REAL_TIME: Duration = Duration::from_secs(5);
/// The most builds within a second for which nothing else is the reason.
const SPONTANEOUS_BUILDS: usize = 5;

impl Model<'_> {
    pub(super) fn check_rings(&self) -> Result<(), Violation> {
        for build in &self.trace.builds {
            self.check_values(build)?;
            self.check_change(build)?;
            for ring in &build.rings {
                self.check_content(build, ring)?;
                self.check_primary(build, ring)?;
                self.check_expiry(build, ring, build.started.time)?;
                self.check_kept(build, ring)?;
            }
        }
        self.check_rate()
    }

    /// All values come from the source. Only the operator brings back an older one. A revoked one does not come back.
    fn check_values(&self, build: &Build) -> Result<(), Violation> {
        let order = build.started.order;
        for input in &build.secrets {
            let (value, key) = (input.value, input.value.key);
            let outcomes = self.outcomes(key, order);
            let returned =
                |outcome: &Outcome| matches!(outcome, Outcome::Found(it) if it.value == value);
            require(
                outcomes.iter().any(|(_, it)| returned(it)),
                build.started,
                || format!("{value:?} is built, but the source has not returned it"),
            )?;
            require(!self.is_revoked(value, order), build.started, || {
                format!("the revoked secret {value:?} is built")
            })?;
            // After an older version was accepted, the versions after it are newer again.
            let mut before = self.before(build).rev();
            let newest = before.find_map(|it| it.input(key)?.version);
            if newest > input.version {
                let times = outcomes.iter().filter_map(|(at, outcome)| match outcome {
                    Outcome::Found(it) if Some(it.number) == input.version => Some(at.time),
                    _ => None,
                });
                let times: Vec<Duration> = times.collect();
                let span = times.last().zip(times.first());
                let span = span.map_or(Duration::ZERO, |(last, first)| *last - *first);
                let is_confirmed = times.len() >= CONFIRMATIONS.0 && span >= CONFIRMATIONS.1;
                require(is_confirmed, build.started, || {
                    format!("{value:?} is built again, although version {newest:?} was accepted")
                })?;
            }
        }
        Ok(())
    }

    /// A build has other inputs than the published one, unless it was requested.
    fn check_change(&self, build: &Build) -> Result<(), Violation> {
        let order = build.started.order;
        let Some(last) = self.before(build).next_back() else {
            return Ok(());
        };
        let is_changed = last.inputs() != build.inputs();
        let requested = || {
            let reads = self.trace.reads.iter();
            let mut requests =
                reads.filter(|read| read.call == Call::Rebuild && read.start.order < order);
            // The first build might belong to an attempt that was under way. The second one completes the request,
            // unless it is interrupted.
            requests.next_back().is_some_and(|request| {
                let builds = self.trace.builds.iter().filter(|other| {
                    other.started.order > request.start.order
                        && other.ended.is_some_and(|ended| ended.order < order)
                });
                // After a failure, the same attempt can build from the secrets in memory.
                let failed = builds.clone().filter(|build| !build.succeeded).count();
                builds.count() < 2 + failed || self.is_disturbed(request.start.order, order)
            })
        };
        require(is_changed || requested(), build.started, || {
            "a build starts, although no input has changed".into()
        })
    }

    /// Returns whether something has interrupted attempts in this time.
    fn is_disturbed(&self, from: u64, to: u64) -> bool {
        self.is_interrupted(from, to) || self.revocations(to).any(|call| call.start.order > from)
    }

    /// A ring has the newest secret first, is bounded, and has no revoked secrets.
    fn check_content(&self, build: &Build, ring: &Ring) -> Result<(), Violation> {
        let newest = build.input(ring.key).map(|input| input.value);
        let is_well_formed = ring.all.first().copied() == newest
            && ring.all.contains(&ring.primary)
            && ring.all.len() <= self.setup.max_previous + 1
            && (1..ring.all.len()).all(|index| !ring.all[..index].contains(&ring.all[index]));
        require(is_well_formed, build.started, || {
            format!("malformed: {ring:?}")
        })?;
        let chain: Vec<&Build> = self.before(build).chain([build]).collect();
        for (index, value) in ring.all.iter().enumerate().skip(1) {
            let is_revoked = self.is_revoked(*value, build.started.order)
                || self.is_revoked_by_time(ring, index, &chain, build);
            require(!is_revoked, build.started, || {
                format!("a ring contains the revoked secret {value:?}")
            })?;
        }
        Ok(())
    }

    /// A new secret signs exactly after its activation delay. One that was replaced before never signs.
    fn check_primary(&self, build: &Build, ring: &Ring) -> Result<(), Violation> {
        let (now, delay) = (build.started.time, self.setup.activation_delay);
        if ring.all.len() == 1 {
            return Ok(());
        }
        let (newest, primary) = (ring.all[0], ring.primary);
        // The first secret of a process signs at once.
        let has_signed = self
            .before(build)
            .any(|it| it.ring(ring.key).is_some_and(|it| it.primary == primary));
        if primary == newest {
            let known = self.known_since(newest, build.started.order);
            let is_active = has_signed || known.is_some_and(|known| now >= known + delay);
            require(
                is_active || self.may_have_revoked(build),
                build.started,
                || format!("{primary:?} signs before its activation delay is over"),
            )?;
        } else {
            let chain: Vec<&Build> = self.before(build).chain([build]).collect();
            let lasted = last_tenure(&chain, primary).is_some_and(|tenure| {
                let replacer = tenure.replacer.unwrap_or(build);
                let first = tenure.first.started.time;
                let known = self.known_since(primary, build.started.order);
                let since = known.map_or(first, |known| known.min(first));
                replacer.started.time >= since + delay
            });
            let is_known = lasted || has_signed || self.was_active(primary, build.started.order);
            require(is_known, build.started, || {
                format!("{primary:?} signs, but was replaced before it was active")
            })?;
            self.check_activation(build, ring, now)?;
        }
        Ok(())
    }

    /// The newest secret of the ring of `build` signs at `now`, if its activation delay is over.
    pub(super) fn check_activation(
        &self,
        build: &Build,
        ring: &Ring,
        now: Duration,
    ) -> Result<(), Violation> {
        let newest = ring.all[0];
        let chain: Vec<&Build> = self.before(build).chain([build]).collect();
        let accepted = last_tenure(&chain, newest).map(|tenure| tenure.first.started.time);
        let history = self.history_reads(ring.key, build.started.order);
        let since = history.map(|(at, _)| at).max().max(accepted);
        let is_over = since.is_some_and(|since| now >= since + self.setup.activation_delay);
        require(ring.primary == newest || !is_over, build.started, || {
            format!("{newest:?} does not sign, although its activation delay is over")
        })
    }

    /// A previous secret is in the ring for at most the activation delay and the grace period. If it signs for
    /// longer, because the next one was replaced before it was active, the grace period begins later.
    pub(super) fn check_expiry(
        &self,
        build: &Build,
        ring: &Ring,
        now: Duration,
    ) -> Result<(), Violation> {
        let chain: Vec<&Build> = self.before(build).chain([build]).collect();
        for value in ring.previous() {
            let replaced = last_tenure(&chain, *value).and_then(|tenure| tenure.replacer);
            let replaced = replaced.map(|it| it.started.time + self.setup.overlap());
            let history = self.history_end(*value, build.started.order);
            let has_signed = |it: &&Build| it.ring(ring.key).is_some_and(|it| it.primary == *value);
            let signed = chain.iter().rposition(has_signed);
            let signed = signed.map(|last| chain.get(last + 1).map_or(now, |it| it.started.time));
            let signed = signed.map(|until| until + self.setup.grace_period);
            let until = [replaced, history.map(|(_, latest)| latest), signed];
            let until = until.into_iter().flatten().max();
            let is_valid = until.is_some_and(|until| now < until);
            require(is_valid, build.started, || {
                format!("{value:?} verifies after the end of its grace period at {until:?}")
            })?;
        }
        Ok(())
    }

    /// A ring keeps each previous secret until its grace period ends, unless there are too many, or it is revoked.
    fn check_kept(&self, build: &Build, ring: &Ring) -> Result<(), Violation> {
        let last = self.before(build).next_back();
        let Some(before) = last.and_then(|last| last.ring(ring.key)) else {
            return Ok(());
        };
        if self.may_have_revoked(build) || ring.all.len() > self.setup.max_previous {
            return Ok(());
        }
        let chain: Vec<&Build> = self.before(build).chain([build]).collect();
        for value in &before.all {
            let replaced = last_tenure(&chain, *value).and_then(|tenure| tenure.replacer);
            let replaced = replaced.map(|it| it.started.time + self.setup.grace_period);
            let history = self.history_end(*value, build.started.order);
            let history = history.map(|(earliest, _)| earliest);
            let until = replaced.into_iter().chain(history).min();
            let is_expired = until.is_some_and(|until| build.started.time >= until);
            require(
                ring.all.contains(value) || is_expired,
                build.started,
                || format!("{value:?} is lost, although it verifies until {until:?}"),
            )?;
        }
        Ok(())
    }

    /// Failures of user code and of the source do not lead to loops.
    fn check_rate(&self) -> Result<(), Violation> {
        let second = Duration::from_secs(1);
        let starts: Vec<_> = self
            .trace
            .builds
            .iter()
            .map(|build| build.started)
            .collect();
        let events = self.trace.events.iter().map(|(at, _)| at.time);
        let reads = self.trace.reads.iter().map(|read| read.start.time);
        let revisions = self.trace.revisions.iter().flatten();
        let writes = revisions.map(|revision| revision.written.time);
        let causes: Vec<Duration> = events.chain(reads).chain(writes).collect();
        for first in &starts {
            let end = first.time + second;
            let builds = starts
                .iter()
                .filter(|at| at.time >= first.time && at.time < end);
            let causes = causes
                .iter()
                .filter(|at| **at + second * 10 >= first.time && **at < end);
            let (builds, causes) = (builds.count(), causes.count());
            require(builds <= SPONTANEOUS_BUILDS + 2 * causes, *first, || {
                format!("{builds} builds within a second, with {causes} causes")
            })?;
        }
        Ok(())
    }

    /// Returns whether secrets might have been revoked before `build`. Then a secret signs without a delay.
    fn may_have_revoked(&self, build: &Build) -> bool {
        let order = build.started.order;
        let times = self.trace.revisions[R].iter();
        self.revocations(order).next().is_some()
            || times.clone().any(|revision| revision.written.order < order)
    }

    /// Returns since when all instances can know `value`: since it was written before the start, or since it was
    /// read.
    fn known_since(&self, value: Value, order: u64) -> Option<Duration> {
        let revisions = self.trace.revisions[value.key].iter();
        let at_start = revisions.filter(|it| it.value == value && it.written.time < START);
        let written = at_start.map(|revision| revision.written.time).min();
        let outcomes = self.outcomes(value.key, order);
        let read = outcomes
            .into_iter()
            .find_map(|(at, outcome)| match outcome {
                Outcome::Found(revision) if revision.value == value => Some(at.time),
                _ => None,
            });
        let has_history = self.history_reads(value.key, order).next().is_some();
        let real_time = if has_history {
            REAL_TIME
        } else {
            Duration::ZERO
        };
        Some(written.or(read)?.saturating_sub(real_time))
    }

    /// Returns whether `value` was active according to the version history: it has lasted for the activation delay, or
    /// it is the oldest known secret. A read of the history that fails or is cut off knows only a part of it.
    fn was_active(&self, value: Value, order: u64) -> bool {
        let mut revisions = self.trace.revisions[value.key].windows(2);
        let has_lasted = revisions.any(|it| {
            let lasted = it[1].written.time - it[0].written.time;
            it[0].value == value && lasted >= self.setup.activation_delay
        });
        let reads = self.history_reads(value.key, order);
        let read = reads.filter_map(|(_, outcome)| match outcome {
            Outcome::Found(revision) => Some(revision),
            Outcome::Absent | Outcome::Failed => None,
        });
        let read: Vec<_> = read.collect();
        let oldest = read.iter().min_by_key(|revision| revision.number);
        let is_read = read.iter().any(|revision| revision.value == value);
        let is_oldest = oldest.is_some_and(|oldest| oldest.value == value);
        is_read && (has_lasted || is_oldest || self.is_oldest_of_a_part(value, order))
    }

    /// Returns whether the read of the version before `value` had failed or was cut off before `order`.
    fn is_oldest_of_a_part(&self, value: Value, order: u64) -> bool {
        let fetches = self.trace.fetches.iter();
        let fetches: Vec<_> = fetches
            .filter(|it| it.previous && it.keys.contains(&value.key) && it.started.order < order)
            .map(|it| it.outcome(value.key).filter(|(at, _)| at.order < order))
            .collect();
        let found = |outcome: Option<(At, Outcome)>| match outcome {
            Some((_, Outcome::Found(revision))) => Some(revision.value),
            _ => None,
        };
        let mut pairs = fetches.windows(2);
        pairs.any(|it| found(it[0]) == Some(value) && found(it[1]).is_none())
    }

    /// Returns until when `value` verifies at least and at most, according to reads of the version history.
    fn history_end(&self, value: Value, order: u64) -> Option<(Duration, Duration)> {
        let reads = self.history_reads(value.key, order);
        let reads = reads.filter(
            |(_, outcome)| matches!(outcome, Outcome::Found(revision) if revision.value == value),
        );
        let times: Vec<Duration> = reads.map(|(at, _)| at).collect();
        let first = *times.first()?;
        // The times are derived when all versions are read.
        let last = self
            .history_reads(value.key, order)
            .map(|(at, _)| at)
            .max()?;
        let revisions = &self.trace.revisions[value.key];
        let replaced = revisions.windows(2).filter(|it| it[0].value == value);
        // A version that was written during the run has no age, because the wall clock does not advance.
        let age = |revision: &Revision| START.saturating_sub(revision.written.time);
        let oldest = replaced.clone().map(|it| age(&it[1])).max()?;
        // A secret verifies until the grace period after the next one was active.
        let last_number = replaced.clone().map(|it| it[0].number).max()?;
        let mut later = revisions[last_number..].windows(2);
        let active = later.find(|it| age(&it[0]) - age(&it[1]) >= self.setup.activation_delay);
        let newest = age(active.map_or(revisions.last()?, |it| &it[0]));
        // A secret that returns might be active already.
        let returns = replaced.clone().any(|it| {
            let mut before = revisions
                .iter()
                .take_while(|other| other.number < it[1].number);
            before.any(|other| other.value == it[1].value)
        });
        let at_least = match returns {
            true => self.setup.grace_period,
            false => self.setup.overlap(),
        };
        let end = |read: Duration, period: Duration, age| (read + period).saturating_sub(age);
        let earliest = end(first, at_least, oldest + REAL_TIME);
        Some((earliest, end(last, self.setup.overlap(), newest)))
    }

    /// Returns the reads of the version history of `key` that have ended before `order`.
    pub(super) fn history_reads(
        &self,
        key: Key,
        order: u64,
    ) -> impl Iterator<Item = (Duration, Outcome)> {
        let is_read = self.setup.reports == Reports::Times;
        let fetches = self
            .trace
            .fetches
            .iter()
            .filter(move |it| is_read && it.previous);
        let ended = fetches.filter_map(move |fetch| fetch.outcome(key));
        let before = ended.filter(move |(at, _)| at.order < order);
        before.map(|(at, outcome)| (at.time, outcome))
    }
}
