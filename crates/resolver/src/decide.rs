//! The decision what a read does, from what is known about a key. Nothing here changes a state or reads a
//! clock.

use std::time::Duration;

use secretwell_core::{Error, ErrorKind, Origin, SecretKey};

use crate::clock::Time;
use crate::entry::{Answer, Entry, Failure, Mark, Times};
use crate::{Freshness, Resolved};

/// What is known about a key at one source.
pub(crate) struct Known<'a> {
    pub(crate) entry: Option<&'a Entry>,
    pub(crate) failure: Option<&'a Failure>,
    /// Whether a fetch is under way.
    pub(crate) fetching: bool,
    /// Whether the key might have changed since that fetch started, so that another one must follow.
    pub(crate) outdated: bool,
    /// The last forced refresh limits the next one until this time.
    pub(crate) forced_until: Option<Time>,
}

impl Known<'_> {
    /// Returns whether a fetch is under way whose result will be the newest one.
    pub(crate) fn is_settling(&self) -> bool {
        self.fetching && !self.outdated
    }
}

/// What a reader does with the answer that a key is absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// The reader asks the next source. The absence is an answer like a value, and has the ttl.
    Passing,
    /// The reader reports the absence. It is checked again soon, with backoff.
    Final,
}

/// What a source says about a key.
#[derive(Debug, Clone)]
pub(crate) enum Reply {
    /// A value, with the times of the answer.
    Value(Resolved, Times),
    /// The source does not have the key.
    Absent(Error, Option<Staleness>),
    Failed(Error),
}

/// The age of an answer that the source could not confirm, and the reason.
pub(crate) type Staleness = (Duration, Error);

/// Why an answer cannot be returned as it is: it has expired, or something has happened to the key since.
#[derive(Debug, Clone)]
pub(crate) enum Overtaken {
    /// The value can be returned as stale for this reason.
    Stale(Error),
    /// The value must not be used.
    Unusable(Error),
}

impl Overtaken {
    pub(crate) fn reason(&self) -> &Error {
        match self {
            Self::Stale(reason) | Self::Unusable(reason) => reason,
        }
    }
}

/// What a read does.
#[derive(Debug)]
pub(crate) enum Decision {
    Return(Reply),
    /// Return the reply, and fetch the key in the background.
    ReturnAndFetch(Reply),
    /// Wait for the fetch that is under way.
    Wait,
    Fetch,
}

impl Reply {
    /// Returns the reply of a source without a value.
    pub(crate) fn without_value(error: Error) -> Self {
        match error.is_not_found() {
            true => Self::Absent(error, None),
            false => Self::Failed(error),
        }
    }

    /// Returns the result for the caller. An absence that could not be confirmed says so.
    pub(crate) fn into_result(self) -> Result<Resolved, Error> {
        match self {
            Self::Value(resolved, _) => Ok(resolved),
            Self::Absent(error, Some((age, reason))) => {
                let message = format!(
                    "{}; not confirmed for {age:.0?}: {}",
                    error.message(),
                    reason.message()
                );
                Err(error.with_message(message).with_source(reason))
            }
            Self::Absent(error, None) | Self::Failed(error) => Err(error),
        }
    }

    /// Returns the value of a superseded fetch instead of a temporary failure.
    pub(crate) fn or_superseded(self, superseded: Option<Self>) -> Self {
        match (self, superseded) {
            (Self::Failed(error), Some(value)) if error.is_temporary() => value,
            (reply, _) => reply,
        }
    }

    /// Returns the reply whose error or reason names the source and the key.
    pub(crate) fn located(mut self, origin: &Origin, key: &SecretKey) -> Self {
        let reason = match &mut self {
            Self::Value(
                Resolved {
                    freshness: Freshness::Stale { reason, .. },
                    ..
                },
                _,
            ) => reason,
            Self::Absent(_, Some((_, reason))) => reason,
            Self::Failed(error) => error,
            Self::Value(..) | Self::Absent(_, None) => return self,
        };
        if reason.key().is_none() {
            *reason = reason.clone().with_origin(origin).with_key(key);
        }
        self
    }

    /// Returns the cached answer of `entry` as fresh.
    pub(crate) fn fresh(entry: &Entry) -> Self {
        match &entry.answer {
            Answer::Value(resolved) => Self::Value(resolved.clone(), entry.times),
            Answer::Absent(error) => Self::Absent(error.clone(), None),
        }
    }

    /// Returns the cached answer of `entry` as stale.
    pub(crate) fn stale(entry: &Entry, now: Time, reason: Error) -> Self {
        let age = entry.age(now);
        match &entry.answer {
            Answer::Value(resolved) => {
                Self::Value(resolved.clone().stale(age, reason), entry.times)
            }
            Answer::Absent(error) => Self::Absent(error.clone(), Some((age, reason))),
        }
    }
}

/// Decides what a read of a key does.
pub(crate) fn decide(known: &Known<'_>, need: Need, now: Time) -> Decision {
    let retry_due = known.failure.is_none_or(|failure| now >= failure.retry_at);
    let can_fetch = retry_due && !known.fetching;
    let answer = |reply, fetch: bool| match fetch {
        true => Decision::ReturnAndFetch(reply),
        false => Decision::Return(reply),
    };
    let wait_or_fetch = || match known.fetching {
        true => Decision::Wait,
        false => Decision::Fetch,
    };
    let is_limited = known.forced_until.is_some_and(|until| now < until);
    match (known.entry, known.failure) {
        // An absence that is reported to the caller is checked again with backoff, not after the ttl.
        (Some(entry), Some(failure))
            if need == Need::Final && entry.value().is_none() && entry.is_usable(now) =>
        {
            match now < failure.retry_at && !known.fetching {
                true if failure.error.is_not_found() && failure.is_postponed => {
                    Decision::Return(Reply::stale(entry, now, not_attempted()))
                }
                true if failure.error.is_not_found() => Decision::Return(Reply::fresh(entry)),
                true => Decision::Return(Reply::stale(entry, now, failure.error.clone())),
                false => wait_or_fetch(),
            }
        }
        // The backoff of the absence is not known any more.
        (Some(entry), None) if need == Need::Final && entry.value().is_none() => wait_or_fetch(),
        (Some(entry), failure) if entry.is_fresh(now) => {
            // The backoff of a reported absence does not limit its refresh.
            let is_absence = failure.is_some_and(|failure| failure.error.is_not_found());
            let can_fetch = can_fetch || is_absence && !known.fetching;
            answer(
                Reply::fresh(entry),
                can_fetch && now >= entry.times.refresh_at,
            )
        }
        // The last fetch failed, so the stale answer is returned without waiting for another one.
        (Some(entry), Some(failure)) if entry.is_usable(now) && !is_reread(entry, failure) => {
            answer(Reply::stale(entry, now, failure.error.clone()), can_fetch)
        }
        // A rejected value is fetched at most once per second, however often it is rejected.
        (Some(entry), None)
            if entry.mark() == Mark::Rejected
                && entry.is_usable(now)
                && is_limited
                && !known.fetching =>
        {
            Decision::Return(Reply::stale(entry, now, rejected()))
        }
        // A passing reader needs an absence that is not older than the ttl.
        (_, Some(failure))
            if !can_fetch
                && !known.fetching
                && (need == Need::Final || !failure.error.is_not_found()) =>
        {
            Decision::Return(Reply::without_value(failure.error.clone()))
        }
        _ => wait_or_fetch(),
    }
}

/// Returns whether the failure is the absence itself, whose ttl has ended.
fn is_reread(entry: &Entry, failure: &Failure) -> bool {
    entry.value().is_none() && failure.error.is_not_found()
}

/// Returns the reply that a read would get without a fetch, or `None` while that is not known.
pub(crate) fn peek(known: &Known<'_>, now: Time) -> Option<Reply> {
    match (known.entry, known.failure) {
        (Some(entry), _) if entry.is_fresh(now) => Some(Reply::fresh(entry)),
        // An absence whose ttl has ended is not known any more. A failure is, until it is retried.
        (Some(entry), Some(failure)) if entry.is_usable(now) && !is_reread(entry, failure) => {
            Some(Reply::stale(entry, now, failure.error.clone()))
        }
        (None, Some(failure)) if !failure.error.is_not_found() || now < failure.retry_at => {
            Some(Reply::without_value(failure.error.clone()))
        }
        _ => None,
    }
}

/// Returns the time at which a key is read again in the background. `found_later` is true if a later
/// source has the key, so that its absence here is not reported to anybody.
pub(crate) fn due_at(known: &Known<'_>, found_later: bool) -> Time {
    match (known.entry, known.failure) {
        (Some(entry), None) if entry.mark() == Mark::Rejected => {
            known.forced_until.unwrap_or(Time::MIN)
        }
        (Some(entry), None) if entry.mark() == Mark::Changed => Time::MIN,
        (Some(entry), Some(failure)) if found_later && is_reread(entry, failure) => {
            entry.times.refresh_at
        }
        (_, Some(failure)) => failure.retry_at,
        (Some(entry), None) => entry.times.refresh_at,
        (None, None) => Time::MIN,
    }
}

/// Returns the error of a reader that does not wait longer for a refresh.
pub(crate) fn still_refreshing() -> Error {
    Error::new(ErrorKind::Unavailable, "the refresh is still in progress")
        .with_hint("check that the source responds")
}

/// Returns the reason why a key was not read again in time.
pub(crate) fn not_attempted() -> Error {
    Error::new(
        ErrorKind::Unavailable,
        "no request was sent, because the retry budget is exhausted",
    )
    .with_hint("read it again later, or raise the retry budget")
}

/// Returns the reason why a rejected value is stale that was read again less than a second ago.
fn rejected() -> Error {
    Error::new(
        ErrorKind::Unavailable,
        "the value was rejected, and the source was asked for another one less than 1 s ago",
    )
    .with_hint("read it again in a second")
}

/// Returns the reason why a result is not fresh that its reader has received late.
pub(crate) fn expired() -> Error {
    Error::new(
        ErrorKind::Unavailable,
        "the answer of the source expired before the read ended",
    )
    .with_hint("read the key separately, and check that the runtime is not blocked")
}

/// Returns the reason why a value is stale that might have changed again since it was read.
pub(crate) fn changed() -> Error {
    Error::new(
        ErrorKind::Unavailable,
        "the source reported another change during the read",
    )
    .with_hint("read it again")
}

#[cfg(test)]
mod tests;
