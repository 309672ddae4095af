//! The answers of the sources about one key, in the order in which the sources are read.

use secretwell_core::backend::{Link, combine_errors};
use secretwell_core::{Error, Origin, SecretKey};

use crate::Resolved;
use crate::clock::Time;
use crate::decide::{Overtaken, Reply, Staleness};
use crate::entry::Times;

/// The answers of the sources about one key, as far as they were read.
#[derive(Debug, Default)]
pub(crate) struct Trail {
    /// The value, with the position of its source and the times of the answer.
    value: Option<(usize, Resolved, Times)>,
    /// The answers without a value. `None` if the source was not read.
    misses: Vec<Option<Miss>>,
    /// Whether the read needed a fetch.
    pub(crate) missed: bool,
}

/// The answer of a source that did not return a value.
#[derive(Debug)]
struct Miss {
    error: Error,
    /// Why the absence could not be confirmed.
    staleness: Option<Staleness>,
}

impl Trail {
    /// Records the answer of the source at position `link`. It replaces the previous one.
    pub(crate) fn set(&mut self, link: usize, reply: Reply) {
        let miss = match reply {
            Reply::Value(value, times) => {
                self.value = Some((link, value, times));
                return;
            }
            Reply::Absent(error, staleness) => Miss { error, staleness },
            Reply::Failed(error) => Miss {
                error,
                staleness: None,
            },
        };
        if self.misses.len() <= link {
            self.misses.resize_with(link + 1, || None);
        }
        self.misses[link] = Some(miss);
    }

    /// Returns the position of the source of the value, the value, and the times of its answer.
    pub(crate) fn found(&self) -> Option<(usize, &Resolved, &Times)> {
        let (link, value, times) = self.value.as_ref()?;
        Some((*link, value, times))
    }

    /// Returns the position of the source that decides the answer: the one that has the value, the first one that
    /// failed, or otherwise the last one that was read.
    pub(crate) fn decided_by(&self) -> usize {
        if let Some((link, ..)) = self.value {
            return link;
        }
        let is_failure = |miss: &Option<Miss>| {
            let miss = miss.as_ref();
            miss.is_some_and(|miss| !miss.error.is_not_found())
        };
        let failed = self.misses.iter().position(is_failure);
        failed.unwrap_or(self.misses.len().saturating_sub(1))
    }

    /// Replaces the answers with those of a later read.
    pub(crate) fn replace(&mut self, later: Self) {
        let missed = self.missed;
        *self = Self { missed, ..later };
    }

    /// Records that the value can no longer be returned as it is.
    pub(crate) fn overtake(&mut self, overtaken: Overtaken, now: Time) {
        let Some((link, value, times)) = self.value.take() else {
            return;
        };
        let reply = match overtaken {
            Overtaken::Stale(reason) => {
                Reply::Value(value.stale(now.since(times.fetched_at), reason), times)
            }
            Overtaken::Unusable(error) => Reply::Failed(error),
        };
        self.set(link, reply);
    }

    /// Returns whether the read goes on with `link`, given the answers of the sources before it.
    pub(crate) fn reaches(&self, link: &Link) -> bool {
        let errors = self.misses.iter();
        let errors = errors.map(|miss| miss.as_ref().map(|miss| &miss.error));
        self.value.is_none() && link.is_next(errors)
    }

    /// Returns whether each source that was read reported that it does not have the key.
    pub(crate) fn is_absent(&self) -> bool {
        let mut misses = self.misses.iter().flatten();
        self.value.is_none() && misses.all(|miss| miss.error.is_not_found())
    }

    /// Returns the answer of all sources together. `origin` is the name of all of them.
    ///
    /// A value is stale if a source before its own could not confirm that it does not have the key.
    pub(crate) fn conclude(self, origin: &Origin, key: &SecretKey) -> Reply {
        let mut misses = self.misses.into_iter();
        if let Some((link, value, times)) = self.value {
            let mut before = misses.take(link).flatten();
            return match before.find_map(|miss| miss.staleness) {
                Some((age, reason)) => Reply::Value(value.stale(age, reason), times),
                None => Reply::Value(value, times),
            };
        }
        let (mut errors, mut staleness) = (Vec::new(), None);
        for miss in misses.by_ref().flatten() {
            errors.push(miss.error);
            staleness = staleness.or(miss.staleness);
        }
        let error = combine_errors(origin, key, errors);
        let error = error.with_origin(origin).with_key(key);
        match error.is_not_found() {
            true => Reply::Absent(error, staleness),
            false => Reply::Failed(error),
        }
    }
}
