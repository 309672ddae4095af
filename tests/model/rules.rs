//! The reference model: which results a read can have, given what the sources have returned to the resolver,
//! and when.

use std::time::Duration;

use secretwell::ErrorKind;

use super::run::Outcome as Run;
use super::schedule::{Call, DEADLINE, Key, KeySet, LinkSetup, Schedule, Setup};
use super::trace::{At, Event, Outcome, ProviderCall, Read, Reader, Returned, Trace, Value};

/// The resolution of the clock.
const RESOLUTION: Duration = Duration::from_millis(1);
/// The resolver has seen a notification once its runtime was driven for this long. It handles at most one in
/// 100 ms.
const NOTIFICATION_TIME: Duration = Duration::from_millis(150);
/// How much longer than the deadline a read can take: a batch waits for the one before it.
const DEADLINE_MARGIN: Duration = Duration::from_millis(400);
/// How long a reader with a usable value waits.
const MAX_WAIT: Duration = Duration::from_millis(1050);
const FORCE_INTERVAL: Duration = Duration::from_secs(1);

/// A run with what the model derives from it.
pub(super) struct Model<'a> {
    pub(super) setup: &'a Setup,
    pub(super) run: &'a Run,
    pub(super) trace: &'a Trace,
    notifications: Vec<SeenNotification>,
}

/// A change notification that the resolver has seen.
struct SeenNotification {
    link: usize,
    keys: KeySet,
    sent: At,
    seen_by: Duration,
}

/// A requirement that calls must fulfil to justify a result.
struct Evidence {
    key: Key,
    /// The call has started after this event.
    after: u64,
    /// The last event that has removed the key from the cache. The call has started after it, or has returned a
    /// newer version than all before.
    invalidated: u64,
    /// The result was usable at this time.
    usable_at: Duration,
}

impl<'a> Model<'a> {
    pub(super) fn new(schedule: &'a Schedule, run: &'a Run) -> Self {
        let mut model = Self {
            setup: &schedule.setup,
            run,
            trace: &run.trace,
            notifications: Vec::new(),
        };
        model.notifications = model.notifications();
        model
    }

    /// Checks every result of every read.
    ///
    /// # Errors
    /// Returns the position of the first read with a wrong result, and the rule that it violates.
    pub(super) fn check_reads(&self) -> Result<(), (usize, String)> {
        for (position, read) in self.trace.reads.iter().enumerate() {
            let checked = match (read.end, &read.result) {
                (Some(end), Some(Ok(returned))) => self.check_value(read, end, returned),
                (Some(end), Some(Err(kind))) => self.check_error(read, end, *kind),
                _ => Ok(()),
            };
            let checked = checked.and_then(|()| self.check_duration(read));
            checked.map_err(|violation| (position, violation))?;
        }
        Ok(())
    }

    fn check_value(&self, read: &Read, end: At, returned: &Returned) -> Result<(), String> {
        let value = returned.value;
        require(value.key == read.key, || {
            "the value belongs to another key".into()
        })?;
        match returned.stale {
            None => self.check_fresh(read, end, value)?,
            Some(_) => self.check_stale(read, end, value)?,
        }
        for link in 0..value.link {
            self.check_earlier_link(read, end, link, returned)?;
        }
        self.check_version(read, end, returned)
    }

    /// A fresh value was returned by a call within the ttl. The call has started after each event that might
    /// have changed the value.
    fn check_fresh(&self, read: &Read, end: At, value: Value) -> Result<(), String> {
        let link = &self.setup.links[value.link];
        let at = end.time;
        let mut after = self.notified(read, value.link, at);
        if read.by == Reader::Call(Call::RefreshAfterWrite) {
            after = after.max(read.start.order);
        }
        if let Some(rejected) = self.rejected(read, value) {
            // Within this time of the last forced refresh, another one is not sent.
            after = after.max(self.order_at(rejected.time.saturating_sub(FORCE_INTERVAL)));
        }
        let evidence = Evidence {
            key: read.key,
            after,
            invalidated: self.invalidated(read),
            usable_at: at,
        };
        let is_fresh = |call: &ProviderCall| link.fresh_until(call);
        require(self.has_returned(end, value, &evidence, is_fresh), || {
            let after = self.time_of(after);
            format!(
                "fresh, but no call that started after {after:?} has returned it within the ttl before {at:?}"
            )
        })
    }

    /// A stale value was returned by a call that is not older than the ttl and `max_stale`.
    fn check_stale(&self, read: &Read, end: At, value: Value) -> Result<(), String> {
        let link = &self.setup.links[value.link];
        let evidence = Evidence {
            key: read.key,
            after: 0,
            invalidated: self.invalidated(read),
            usable_at: end.time,
        };
        let max_stale = self.setup.max_stale;
        let is_usable = |call: &ProviderCall| link.usable_until(call, max_stale);
        require(self.has_returned(end, value, &evidence, is_usable), || {
            format!(
                "stale, but no call has returned it within the ttl and max_stale before {:?}",
                evidence.usable_at
            )
        })
    }

    /// A value of a later link requires that the earlier ones have reported the key as absent, or have failed if
    /// the chain allows that.
    fn check_earlier_link(
        &self,
        read: &Read,
        end: At,
        link: usize,
        returned: &Returned,
    ) -> Result<(), String> {
        let setup = &self.setup.links[link];
        let max_stale = match returned.stale {
            Some(_) => self.setup.max_stale,
            None => Duration::ZERO,
        };
        let evidence = Evidence {
            key: read.key,
            after: match returned.stale {
                Some(_) => 0,
                None => self.notified(read, link, read.start.time),
            },
            invalidated: self.invalidated(read),
            usable_at: read.start.time,
        };
        let is_usable = |call: &ProviderCall| setup.absent_until(call, max_stale);
        let absent = Outcome::Failed(ErrorKind::NotFound);
        let key = returned.value.key;
        let absent = self
            .returns(link, key, absent)
            .any(|call| self.justifies(&evidence, call, end, is_usable(call)));
        // After a failure of one key, the breaker can block the others.
        let failed = || {
            let calls = self.trace.calls.iter().filter(|call| call.link == link);
            let mut calls = calls.filter(|call| call.started.order < end.order);
            calls.any(|call| self.has_failed(call))
        };
        require(absent || self.setup.on_failure && failed(), || {
            format!("link {link} has not reported the key as absent within its ttl")
        })
    }

    /// Returns whether a call has failed for one of its keys. A result with an older version or an expired lease
    /// is a failure too.
    fn has_failed(&self, call: &ProviderCall) -> bool {
        let Some(ended) = call.ended else {
            return true;
        };
        let lease = self.setup.links[call.link].lease;
        let is_expired = lease.is_some_and(|lease| {
            ended.time.saturating_sub(call.started.time) + RESOLUTION * 20 >= lease
        });
        is_expired
            || call.outcomes.iter().any(|outcome| match outcome {
                Outcome::Failed(kind) => *kind != ErrorKind::NotFound,
                Outcome::Value(value) => {
                    let mut earlier = self
                        .calls(value.link, value.key)
                        .filter(|call| call.has_ended_before(ended));
                    earlier.any(|call| call.version(value.key) > value.version)
                }
            })
    }

    fn check_error(&self, read: &Read, end: At, kind: ErrorKind) -> Result<(), String> {
        if kind == ErrorKind::NotFound {
            return (0..self.setup.links.len())
                .try_for_each(|link| self.check_absent(read, end, link));
        }
        self.check_kind(read, end, kind)?;
        let is_refusal = kind == ErrorKind::Denied;
        let withheld = !is_refusal && self.reads_only(read) && self.is_surely_usable(read, end);
        require(!withheld, || "a usable value is cached".into())
    }

    /// An absent key was reported as absent by each link, not longer ago than the ttl and `max_stale`.
    fn check_absent(&self, read: &Read, end: At, link: usize) -> Result<(), String> {
        let setup = &self.setup.links[link];
        let evidence = Evidence {
            key: read.key,
            after: 0,
            invalidated: self.invalidated(read),
            usable_at: read.start.time,
        };
        let is_usable = |call: &ProviderCall| setup.absent_until(call, self.setup.max_stale);
        let absent = Outcome::Failed(ErrorKind::NotFound);
        let mut calls = self.returns(link, read.key, absent);
        require(
            calls.any(|call| self.justifies(&evidence, call, end, is_usable(call))),
            || format!("not found, but link {link} has not reported the key as absent"),
        )
    }

    /// An error that only a source can cause was returned by one.
    fn check_kind(&self, read: &Read, end: At, kind: ErrorKind) -> Result<(), String> {
        // The resolver returns these kinds itself too.
        if matches!(kind, ErrorKind::Unavailable | ErrorKind::Timeout) {
            return Ok(());
        }
        let is_shared = matches!(kind, ErrorKind::RateLimited { .. });
        let mut calls = self
            .trace
            .calls
            .iter()
            .filter(|call| call.has_ended_before(end));
        let caused = calls.any(|call| match is_shared {
            true => call.outcomes.contains(&Outcome::Failed(kind)),
            false => call.outcome(read.key) == Some(Outcome::Failed(kind)),
        });
        require(caused, || format!("no source has returned {kind:?}"))
    }

    /// A read ends by its deadline, and soon if a usable value is cached.
    fn check_duration(&self, read: &Read) -> Result<(), String> {
        let Some(end) = read.end else {
            return require(read.cancelled, || "the read has not returned".into());
        };
        let before = read.start.time.saturating_sub(DEADLINE * 2);
        let is_disturbed = self.trace.events.iter().any(|(at, event)| {
            matches!(event, Event::Disturbed) && at.time >= before && at.order <= end.order
        });
        if is_disturbed {
            return Ok(());
        }
        let links = u32::try_from(self.setup.links.len()).unwrap_or(u32::MAX);
        let limit = match () {
            () if read.alone && self.reads_only(read) && self.is_surely_usable(read, end) => {
                MAX_WAIT
            }
            // A superseded read waits for a second fetch. Absent keys are looked up twice in a chain.
            () => (DEADLINE + DEADLINE_MARGIN) * 4 * links + FORCE_INTERVAL,
        };
        let took = end.time.saturating_sub(read.start.time);
        require(took <= limit, || {
            format!("the read has taken {took:?}, not {limit:?}")
        })
    }

    /// Returns whether the read is a plain read of one source.
    fn reads_only(&self, read: &Read) -> bool {
        self.setup.links.len() == 1 && matches!(read.by, Reader::Call(Call::Get | Call::GetMany))
    }

    /// Returns whether a usable value was cached during the whole read. The model does not know all such cases:
    /// it ignores leases, and those in which fetches overlap or something else has happened to the key.
    fn is_surely_usable(&self, read: &Read, end: At) -> bool {
        let (link, key) = (&self.setup.links[0], read.key);
        let ended = |call: &&ProviderCall| call.has_ended_before(read.start);
        let values = self.calls(0, key).filter(ended);
        let values = values.filter(|call| matches!(call.outcome(key), Some(Outcome::Value(_))));
        let Some(last) = values.max_by_key(|call| call.ended.map(|ended| ended.order)) else {
            return false;
        };
        let overlaps = self.calls(0, key).any(|call| {
            let same = std::ptr::eq(call, last);
            !same && call.started.order < last.ended_order() && !call.has_ended_before(last.started)
        });
        let refused = self.calls(0, key).any(|call| {
            let refusals = [ErrorKind::NotFound, ErrorKind::Denied].map(Outcome::Failed);
            let refused = call
                .outcome(key)
                .is_some_and(|outcome| refusals.contains(&outcome));
            refused && call.ended_order() > last.started.order && call.has_ended_before(end)
        });
        let version = |call: &ProviderCall| call.version(key);
        let newest = self
            .calls(0, key)
            .filter(|call| call.has_ended_before(end))
            .map(version)
            .max();
        let is_regression = newest.is_some_and(|newest| newest > version(last));
        let touched = self.trace.events.iter().any(|(at, event)| {
            let concerns = match event {
                Event::Invalidated(other) | Event::AcceptedOlder(other) => *other == key,
                Event::Rejected(value) => value.key == key,
                Event::Notified { keys, .. } => keys.contains(key),
                Event::Subscribed { .. } | Event::Disturbed => true,
                Event::Note(_) => false,
            };
            // The resolver might see a notification, or the end of a pause, after the start of the call.
            concerns && at.time + NOTIFICATION_TIME >= last.started.time && at.order < end.order
        });
        let usable_until = link.usable_until(last, self.setup.max_stale);
        let is_usable = usable_until.is_some_and(|until| end.time + RESOLUTION < until);
        link.lease.is_none() && is_usable && !overlaps && !refused && !is_regression && !touched
    }

    /// Returns the last notification seen before `at`. It makes calls which started before it insufficient for
    /// a fresh result of `link`.
    fn notified(&self, read: &Read, link: usize, at: Duration) -> u64 {
        let notifications = self.notifications.iter().filter(|notification| {
            notification.link == link
                && notification.keys.contains(read.key)
                && notification.seen_by < at
        });
        notifications
            .map(|notification| notification.sent.order)
            .max()
            .unwrap_or(0)
    }

    /// Returns the last event before the read that has removed the key from the cache.
    fn invalidated(&self, read: &Read) -> u64 {
        let events = self.trace.events.iter().filter(|(at, event)| {
            let (Event::Invalidated(key) | Event::AcceptedOlder(key)) = event else {
                return false;
            };
            *key == read.key && at.order < read.start.order
        });
        events.map(|(at, _)| at.order).max().unwrap_or(0)
    }

    /// Returns the last report that `value` was rejected which has returned before the read, or which is the read. A
    /// repeated report counts like the first one, unless the source has returned the value in between.
    fn rejected(&self, read: &Read, value: Value) -> Option<At> {
        let reports = self.trace.reads.iter().filter(|report| {
            let is_own = report.start == read.start;
            report.by == Reader::Call(Call::ReportRejected)
                && (is_own || report.end.is_some_and(|end| end.order < read.start.order))
        });
        let reports = reports.filter_map(|report| {
            self.trace.events.iter().find(|(at, event)| {
                let is_value = matches!(event, Event::Rejected(rejected) if rejected.without_version() == value.without_version());
                // The report is the first event after the start of its read.
                is_value && at.order == report.start.order + 1
            })
        });
        let mut reports: Vec<At> = reports.map(|(at, _)| *at).collect();
        reports.sort_by_key(|at| at.order);
        let chunks = reports.chunk_by(|first, next| {
            let mut calls = self.returns(value.link, value.key, Outcome::Value(value));
            !calls.any(|call| {
                let ended = call.ended.map(|ended| ended.order);
                ended.is_some_and(|ended| ended > first.order && ended < next.order)
            })
        });
        chunks.last()?.first().copied()
    }

    /// Returns whether a call returned `value`, and justifies it at `end`.
    fn has_returned(
        &self,
        end: At,
        value: Value,
        evidence: &Evidence,
        usable_until: impl Fn(&ProviderCall) -> Option<Duration>,
    ) -> bool {
        let mut calls = self.returns(value.link, value.key, Outcome::Value(value));
        calls.any(|call| self.justifies(evidence, call, end, usable_until(call)))
    }

    /// Returns whether `call`, whose result could be used until `usable_until`, justifies a result at `end`.
    fn justifies(
        &self,
        evidence: &Evidence,
        call: &ProviderCall,
        end: At,
        usable_until: Option<Duration>,
    ) -> bool {
        let is_usable = usable_until.is_some_and(|until| evidence.usable_at < until + RESOLUTION);
        let is_valid =
            || call.started.order > evidence.invalidated || self.is_newest(call, evidence.key);
        is_usable && call.has_ended_before(end) && call.started.order > evidence.after && is_valid()
    }

    /// Returns whether a call returned a newer version than all calls that ended before it.
    fn is_newest(&self, call: &ProviderCall, key: Key) -> bool {
        let Some(ended) = call.ended else {
            return false;
        };
        let before = self
            .calls(call.link, key)
            .filter(|other| other.has_ended_before(ended));
        before.map(|other| other.version(key)).max() < Some(call.version(key))
    }

    pub(super) fn calls(&self, link: usize, key: Key) -> impl Iterator<Item = &'a ProviderCall> {
        let calls = self.trace.calls.iter();
        calls.filter(move |call| call.link == link && call.keys.contains(&key))
    }

    fn returns(
        &self,
        link: usize,
        key: Key,
        outcome: Outcome,
    ) -> impl Iterator<Item = &'a ProviderCall> {
        self.calls(link, key)
            .filter(move |call| call.outcome(key) == Some(outcome))
    }

    /// Returns what a link has returned for a key, in the order of the results.
    pub(super) fn outcomes(&self, link: usize, key: Key) -> Vec<(At, Outcome)> {
        let calls = self.calls(link, key);
        let outcomes = calls.filter_map(|call| Some((call.ended?, call.outcome(key)?)));
        let mut outcomes: Vec<(At, Outcome)> = outcomes.collect();
        outcomes.sort_by_key(|(at, _)| at.order);
        outcomes
    }

    /// Returns the notifications that the resolver has seen. A subscription after the first one counts as one
    /// of all keys, because notifications might have been missed before it.
    fn notifications(&self) -> Vec<SeenNotification> {
        let mut subscribers: Vec<Option<usize>> = vec![None; self.setup.links.len()];
        let mut notifications = Vec::new();
        for (at, event) in &self.trace.events {
            let (link, keys) = match *event {
                Event::Subscribed { link, runtime } => match subscribers[link].replace(runtime) {
                    Some(_) => (link, KeySet::ALL),
                    None => continue,
                },
                Event::Notified { link, keys } => (link, keys),
                _ => continue,
            };
            let seen_by = subscribers[link].and_then(|runtime| self.seen_by(link, runtime, *at));
            notifications.extend(seen_by.map(|seen_by| SeenNotification {
                link,
                keys,
                sent: *at,
                seen_by,
            }));
        }
        notifications
    }

    /// Returns the time by which the subscriber of `link` on `runtime` has seen a notification. Returns `None` if
    /// it was replaced before.
    fn seen_by(&self, link: usize, runtime: usize, sent: At) -> Option<Duration> {
        let replaced = self.trace.events.iter().find(|(at, event)| {
            at.order > sent.order
                && matches!(event, Event::Subscribed { link: other, .. } if *other == link)
        });
        let mut missing = NOTIFICATION_TIME;
        for driven in self
            .trace
            .driven
            .iter()
            .filter(|driven| driven.runtime == runtime)
        {
            let from = driven.from.max(sent.time);
            let driven = driven.to.saturating_sub(from);
            if driven >= missing {
                let seen_by = from + missing;
                return replaced
                    .is_none_or(|(at, _)| at.time > seen_by)
                    .then_some(seen_by);
            }
            missing -= driven;
        }
        None
    }

    /// Returns the order of the last event before `time`.
    fn order_at(&self, time: Duration) -> u64 {
        let starts = self.trace.calls.iter().map(|call| call.started);
        let before = starts.filter(|at| at.time < time);
        before.map(|at| at.order).max().unwrap_or(0)
    }

    fn time_of(&self, order: u64) -> Option<At> {
        self.trace
            .events
            .iter()
            .map(|(at, _)| *at)
            .find(|at| at.order == order)
    }
}

impl LinkSetup {
    /// Returns the time until which the values of `call` are fresh.
    fn fresh_until(&self, call: &ProviderCall) -> Option<Duration> {
        self.limited_by_lease(call, call.ended?.time + self.ttl)
    }

    /// Returns the time until which the values of `call` are returned at all.
    fn usable_until(&self, call: &ProviderCall, max_stale: Duration) -> Option<Duration> {
        match self.lease {
            Some(lease) => Some(call.read?.time + lease),
            None => Some(call.ended?.time + self.ttl + max_stale),
        }
    }

    /// Returns the time until which the absence that `call` has reported is used. It is checked again after the
    /// ttl, but at least 1 s, with a jitter of a tenth.
    fn absent_until(&self, call: &ProviderCall, max_stale: Duration) -> Option<Duration> {
        let checked_after = self.ttl.max(Duration::from_secs(1)).mul_f64(1.1);
        Some(call.ended?.time + checked_after.max(self.ttl + max_stale))
    }

    fn limited_by_lease(&self, call: &ProviderCall, until: Duration) -> Option<Duration> {
        match self.lease {
            Some(lease) => Some(until.min(call.read?.time + lease)),
            None => Some(until),
        }
    }
}

pub(super) fn require(condition: bool, violation: impl FnOnce() -> String) -> Result<(), String> {
    match condition {
        true => Ok(()),
        false => Err(violation()),
    }
}
