//! The state of one link behind its lock. A cache hit does not take this lock.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use secretwell_core::{Error, ErrorKind, Origin, Secret, SecretKey, Version};

use crate::backoff::{FirstRefresh, RetryBudget};
use crate::breaker::Breaker;
use crate::cache::Cache;
use crate::clock::Time;
use crate::decide::{Known, due_at, not_attempted};
use crate::entry::{Answer, Entry, Failure, Mark, Times};
use crate::in_flight::{InFlight, NewFetch};
use crate::key_map::KeyMap;
use crate::settings::Settings;
use crate::signal::Signal;
use crate::slots::Slots;

/// The minimum time between two forced refreshes of a key. Within that time, a further refresh is treated
/// as an ordinary read.
pub(crate) const FORCE_INTERVAL: Duration = Duration::from_secs(1);

/// Which fetches under way a forced read joins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Joins {
    /// Forced ones that have started less than a second ago.
    Forced,
    Any,
}

#[derive(Debug)]
pub(crate) struct LinkState {
    pub(crate) settings: Settings,
    pub(crate) in_flight: InFlight,
    pub(crate) failures: KeyMap<Failure>,
    /// The time of the last forced refresh of each key, for as long as it limits the next one or might be under way.
    pub(crate) forced: KeyMap<Time>,
    /// The fraction of the ttl after which keys are refreshed that were read first.
    first_refresh: FirstRefresh,
    pub(crate) breaker: Breaker,
    pub(crate) budget: RetryBudget,
    /// The newest version of keys that are not cached, so that a stale replica cannot bring back an older
    /// value. The guard of a cached key is the version of its entry, until an older one was seen.
    pub(crate) guards: KeyMap<VersionGuard>,
    pub(crate) slots: Slots,
    /// The end of the lease of each cached value that has one.
    #[cfg(feature = "metrics")]
    pub(crate) leases: HashMap<SecretKey, Time, foldhash::fast::RandomState>,
    /// The number of cached values.
    pub(crate) values: usize,
    /// Whether entries were replaced or removed.
    retired: bool,
    /// Errors that were removed. They are dropped after the lock, because their sources are code of others.
    garbage: Vec<Error>,
    watched: HashMap<SecretKey, Watched, foldhash::fast::RandomState>,
    /// The times at which watched keys are read that are not cached.
    polls: BTreeSet<(Time, SecretKey)>,
}

/// A key with watches.
#[derive(Debug, Default)]
struct Watched {
    /// The signals of the watches, each with the position of the key in the watch.
    signals: Vec<(Arc<Signal>, usize)>,
    poll_at: Option<Time>,
}

/// The newest version of a key that was seen, and the place that it belongs to.
#[derive(Debug, Clone)]
pub(crate) struct VersionGuard {
    pub(crate) origin: Origin,
    pub(crate) newest: Version,
    /// An older version that the source returns, since when, and how often.
    pub(crate) older: Option<(Version, Time, u32)>,
}

impl LinkState {
    pub(crate) fn new(settings: Settings, now: Time) -> Self {
        Self {
            in_flight: InFlight::default(),
            failures: KeyMap::default(),
            forced: KeyMap::default(),
            first_refresh: FirstRefresh::default(),
            breaker: Breaker::default(),
            budget: RetryBudget::new(settings.retry_budget, now),
            guards: KeyMap::default(),
            slots: Slots::new(now),
            #[cfg(feature = "metrics")]
            leases: HashMap::default(),
            values: 0,
            retired: false,
            garbage: Vec::new(),
            watched: HashMap::default(),
            polls: BTreeSet::new(),
            settings,
        }
    }

    /// Returns those of `keys` for which a forced read starts a fetch, if the source can be called.
    pub(crate) fn due_for_force(
        &self,
        keys: &[SecretKey],
        joins: Joins,
        now: Time,
    ) -> Vec<SecretKey> {
        let is_due = |key: &&SecretKey| {
            let joins = joins == Joins::Any && self.in_flight.contains(key);
            !joins && !self.is_forced(key, now)
        };
        keys.iter().filter(is_due).cloned().collect()
    }

    /// Forgets the fetch of `key` if its task does not run.
    pub(crate) fn drop_lost(&mut self, key: &SecretKey, now: Time) {
        let longest_call = self.settings.longest_call();
        if self.in_flight.drop_lost(key, longest_call, now) {
            self.breaker.abandon_probe();
            // A forced refresh without a result does not limit the next one.
            self.forced.remove(key);
        }
    }

    /// Returns whether a forced refresh of `key` has started within [`FORCE_INTERVAL`].
    pub(crate) fn is_forced(&self, key: &SecretKey, now: Time) -> bool {
        let at = self.forced.get(key);
        at.is_some_and(|at| now < at.after(FORCE_INTERVAL))
    }

    /// Records that a forced refresh of `keys` starts.
    pub(crate) fn force(&mut self, keys: &[SecretKey], now: Time) {
        // The result of a slow fetch also depends on whether it was forced.
        let longest_call = self.settings.longest_call();
        self.forced
            .remove_while(|at| now >= at.after(FORCE_INTERVAL).after(longest_call));
        for key in keys {
            self.forced.insert(key, now);
        }
    }

    /// Returns the fraction of the ttl after which keys are refreshed that are first read at `now`.
    pub(crate) fn first_refresh(&mut self, now: Time) -> f64 {
        self.first_refresh.fraction(now, self.settings.ttl)
    }

    /// Returns what is known about `key`, for a decision.
    pub(crate) fn known<'a>(&'a self, entry: Option<&'a Entry>, key: &SecretKey) -> Known<'a> {
        Known {
            entry,
            failure: self.failures.get(key),
            fetching: self.in_flight.contains(key),
            outdated: self.in_flight.is_outdated(key),
            forced_until: self.forced.get(key).map(|at| at.after(FORCE_INTERVAL)),
        }
    }

    /// Returns the error of the last fetch of `key`, if it has failed.
    pub(crate) fn last_error(&self, key: &SecretKey) -> Option<Error> {
        let failure = self.failures.get(key);
        failure.map(|failure| failure.error.clone())
    }

    /// Prepares one fetch of those keys that the breaker and the retry budget allow. `retries` are keys
    /// whose last fetch failed.
    ///
    /// # Errors
    /// Returns an error if no fetch is prepared: the failure that opened the breaker, or a note that no
    /// request was sent.
    pub(crate) fn prepare_fetch(
        &mut self,
        cache: &Cache,
        mut keys: Vec<SecretKey>,
        retries: Vec<SecretKey>,
        now: Time,
    ) -> Result<Option<NewFetch>, Error> {
        if keys.is_empty() && retries.is_empty() {
            return Ok(None);
        }
        self.breaker.admit(now, self.settings.longest_call())?;
        if retries.is_empty() || self.budget.try_acquire(now) {
            keys.extend(retries);
        } else {
            let next = self.budget.next_at(now);
            for key in &retries {
                if let Some(failure) = self.failures.get_mut(key) {
                    failure.retry_at = failure.retry_at.max(next);
                    failure.is_postponed = true;
                }
            }
        }
        if keys.is_empty() {
            self.breaker.abandon_probe();
            return Err(not_attempted());
        }
        // The fetch of a rejected value limits the next forced one.
        let is_rejected = |key: &&SecretKey| {
            cache.peek(key, |entry| entry.mark() == Mark::Rejected) == Some(true)
        };
        let rejected: Vec<SecretKey> = keys.iter().filter(is_rejected).cloned().collect();
        self.force(&rejected, now);
        Ok(self.in_flight.add(keys, self.settings.batch, now))
    }

    /// Prepares a fetch of `keys` regardless of backoff and of fetches that have started, which might return
    /// a value from before the event that caused this fetch.
    ///
    /// # Errors
    /// Returns the failure that opened the breaker, if the source requested a wait, or within a second of the
    /// last attempt.
    pub(crate) fn prepare_forced_fetch(
        &mut self,
        keys: Vec<SecretKey>,
        now: Time,
    ) -> Result<Option<NewFetch>, Error> {
        if keys.is_empty() {
            return Ok(None);
        }
        self.breaker
            .admit_forced(now, self.settings.longest_call())?;
        for key in &keys {
            self.recover(key);
        }
        Ok(self.in_flight.add(keys, self.settings.batch, now))
    }

    /// Returns whether the last fetch of `key` has failed, and its retry is not due yet.
    pub(crate) fn is_backing_off(&self, key: &SecretKey, now: Time) -> bool {
        let failure = self.failures.get(key);
        failure.is_some_and(|failure| now < failure.retry_at)
    }

    /// Prepares a fetch of `keys` regardless of fetches that have started, as far as the breaker and the retry
    /// budget allow it.
    ///
    /// # Errors
    /// The same as for [`prepare_fetch`](Self::prepare_fetch).
    pub(crate) fn prepare_revalidation(
        &mut self,
        cache: &Cache,
        keys: &[SecretKey],
        now: Time,
    ) -> Result<Option<NewFetch>, Error> {
        let has_failed = |key: &SecretKey| self.failures.get(key).is_some();
        let (retries, keys) = keys.iter().cloned().partition(has_failed);
        self.prepare_fetch(cache, keys, retries, now)
    }

    /// Adds or replaces the entry of `key`. Then evicts entries above the maximum.
    pub(crate) fn insert(&mut self, cache: &Cache, key: &SecretKey, answer: Answer, times: Times) {
        let is_value = matches!(answer, Answer::Value(_));
        let existing = cache.peek(key, |entry| {
            self.garbage.extend(entry.absence().cloned());
            (entry.slot, entry.value().is_some())
        });
        self.values += usize::from(is_value);
        let slot = match existing {
            Some((slot, was_value)) => {
                self.values -= usize::from(was_value);
                cache.insert(key.clone(), answer, times, slot);
                slot
            }
            None => {
                let slot = self.slots.add(key.clone(), self.is_watched(key));
                let last_read = cache.insert(key.clone(), answer, times, slot);
                self.slots.set_last_read(slot, last_read);
                slot
            }
        };
        self.retired = true;
        while self.slots.len() > self.settings.max_entries {
            let last_read = |key: &SecretKey| cache.peek(key, Entry::last_read);
            match self.slots.victim(slot, last_read) {
                Some(key) => self.remove(cache, &key),
                None => break,
            };
        }
    }

    /// Removes the entry of `key`. The newest version is remembered. Returns whether there was a value.
    pub(crate) fn remove(&mut self, cache: &Cache, key: &SecretKey) -> bool {
        let removed = cache.peek(key, |entry| {
            self.garbage.extend(entry.absence().cloned());
            let guard = entry.value().and_then(|resolved| {
                let newest = resolved.version.clone()?;
                newest.number()?;
                Some((resolved.origin.clone(), newest))
            });
            (entry.slot, entry.value().is_some(), guard)
        });
        let Some((slot, was_value, guard)) = removed else {
            return false;
        };
        if let Some((origin, newest)) = guard
            && self.guards.get(key).is_none()
        {
            self.guard(key, origin, newest);
        }
        self.values -= usize::from(was_value);
        self.slots.remove(slot);
        #[cfg(feature = "metrics")]
        self.leases.remove(key);
        cache.remove(key);
        self.retired = true;
        was_value
    }

    /// Remembers the newest version of `key`. Keeps the number of guards in proportion to the maximum number
    /// of entries.
    pub(crate) fn guard(&mut self, key: &SecretKey, origin: Origin, newest: Version) {
        let guard = VersionGuard {
            origin,
            newest,
            older: None,
        };
        self.guards.insert(key, guard);
        let watched = &self.watched;
        let max = self.settings.max_entries.saturating_mul(2);
        self.guards
            .shrink(max, |key| watched.contains_key(key), drop);
    }

    /// Records a failure. Keeps the number of failures below the maximum number of entries.
    pub(crate) fn fail(&mut self, key: &SecretKey, failure: Failure) {
        self.recover(key);
        self.failures.insert(key, failure);
        let (watched, garbage) = (&self.watched, &mut self.garbage);
        self.failures.shrink(
            self.settings.max_entries,
            |key| watched.contains_key(key),
            |failure| garbage.push(failure.error),
        );
    }

    /// Removes the failure of `key`. Returns the time of the first failure.
    pub(crate) fn recover(&mut self, key: &SecretKey) -> Option<Time> {
        let failure = self.failures.remove(key)?;
        self.garbage.push(failure.error);
        Some(failure.since)
    }

    /// Reports to the breaker that the source responded, or why it did not.
    pub(crate) fn update_breaker(
        &mut self,
        keys: &[SecretKey],
        failure: Option<&Error>,
        now: Time,
    ) {
        self.garbage.extend(self.breaker.error().cloned());
        match failure {
            Some(error) => {
                let cap = self.settings.max_backoff;
                self.breaker.record_failure(keys, error, now, cap);
            }
            None => self.breaker.record_response(now),
        }
    }

    /// Returns the errors that must be dropped without the lock, and whether entries were replaced or removed.
    pub(crate) fn take_garbage(&mut self) -> (Vec<Error>, bool) {
        let retired = std::mem::take(&mut self.retired);
        (std::mem::take(&mut self.garbage), retired)
    }

    /// Plans the next time at which the refresher checks `key`. It is not fetched before `earliest`.
    pub(crate) fn plan(
        &mut self,
        cache: &Cache,
        key: &SecretKey,
        earliest: Time,
        now: Time,
        found_later: bool,
    ) {
        let is_watched = self.is_watched(key);
        let longest_call = self.settings.longest_call();
        let fetch = self.in_flight.get(key);
        let overdue_at = fetch.map(|fetch| fetch.lost_at(longest_call).max(earliest));
        let planned = cache.peek(key, |entry| {
            let known = self.known(Some(entry), key);
            let due = due_at(&known, found_later).max(earliest);
            let mut next = entry.times.unusable_at;
            if !known.is_settling() && (is_watched || entry.is_used() || now < due) {
                next = next.min(due);
            }
            if is_watched && now < entry.times.expires_at {
                next = next.min(entry.times.expires_at);
            }
            if let Some(overdue_at) = overdue_at {
                next = next.min(overdue_at);
            }
            (entry.slot, next)
        });
        match planned {
            Some((slot, next)) => {
                self.slots.plan(slot, next);
                self.poll(key, None);
            }
            None => {
                let known = self.known(None, key);
                let is_due = is_watched && !known.is_settling();
                let due = is_due.then(|| due_at(&known, found_later).max(earliest));
                self.poll(key, due.or(overdue_at.filter(|_| is_watched)));
            }
        }
    }

    fn poll(&mut self, key: &SecretKey, at: Option<Time>) {
        let Some(watched) = self.watched.get_mut(key) else {
            return;
        };
        let before = std::mem::replace(&mut watched.poll_at, at);
        if before != at {
            if let Some(before) = before {
                self.polls.remove(&(before, key.clone()));
            }
            if let Some(at) = at {
                self.polls.insert((at, key.clone()));
            }
        }
    }

    /// Returns the time of the next planned check.
    pub(crate) fn next(&self) -> Option<Time> {
        let poll = self.polls.first().map(|(at, _)| *at);
        [poll, self.slots.next()].into_iter().flatten().min()
    }

    /// Returns a key whose planned check is due at `until`, and removes it from the plan.
    pub(crate) fn pop(&mut self, until: Time) -> Option<SecretKey> {
        match self.polls.first() {
            Some((at, key)) if *at <= until => {
                let key = key.clone();
                self.poll(&key, None);
                Some(key)
            }
            _ => self.slots.pop(until),
        }
    }

    pub(crate) fn is_watched(&self, key: &SecretKey) -> bool {
        self.watched.contains_key(key)
    }

    pub(crate) fn watched(&self) -> impl Iterator<Item = &SecretKey> {
        self.watched.keys()
    }

    /// Adds the signal of a watch, which has `key` at `position`.
    pub(crate) fn watch(
        &mut self,
        cache: &Cache,
        key: &SecretKey,
        signal: &Arc<Signal>,
        position: usize,
    ) {
        let watched = self.watched.entry(key.clone()).or_default();
        watched.signals.push((signal.clone(), position));
        if let Some(slot) = cache.peek(key, |entry| entry.slot) {
            self.slots.pin(slot);
        }
    }

    /// Removes the signal of a watch.
    pub(crate) fn unwatch(&mut self, cache: &Cache, key: &SecretKey, signal: &Arc<Signal>) {
        let Some(watched) = self.watched.get_mut(key) else {
            return;
        };
        watched
            .signals
            .retain(|(other, _)| !Arc::ptr_eq(other, signal));
        if watched.signals.is_empty() {
            self.poll(key, None);
            self.watched.remove(key);
            if let Some(slot) = cache.peek(key, |entry| entry.slot) {
                self.slots.unpin(slot);
            }
        }
    }

    /// Returns the signals of the watches of `key`.
    pub(crate) fn signals(&self, key: &SecretKey) -> &[(Arc<Signal>, usize)] {
        self.watched
            .get(key)
            .map_or(&[], |watched| &watched.signals)
    }

    /// Returns the signals of all watches.
    pub(crate) fn all_signals(&self) -> Vec<Arc<Signal>> {
        let signals = self.watched.values().flat_map(|watched| &watched.signals);
        signals.map(|(signal, _)| signal.clone()).collect()
    }

    /// Marks the cached answer of `key`. Returns whether there is one that was used.
    pub(crate) fn mark(&self, cache: &Cache, key: &SecretKey, mark: Mark) -> bool {
        let used = cache.peek(key, |entry| {
            entry.set_mark(mark);
            entry.is_used()
        });
        used.unwrap_or(false)
    }
}

/// Reports to the breaker whether the source responded. A refusal is also a response.
pub(crate) fn update_breaker(
    state: &mut LinkState,
    keys: &[SecretKey],
    results: &[Result<Secret, Error>],
    now: Time,
) {
    let errors = || results.iter().filter_map(|result| result.as_ref().err());
    let is_rate_limited = |error: &&Error| matches!(error.kind(), ErrorKind::RateLimited { .. });
    let all_failed = errors().filter(|error| error.is_temporary()).count() == results.len();
    let failure = match errors().find(is_rate_limited) {
        None if all_failed => errors().next(),
        rate_limited => rate_limited,
    };
    state.update_breaker(keys, failure, now);
}

#[cfg(test)]
mod tests;
