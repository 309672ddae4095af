//! Settling of a fetch: values are cached, and failures are recorded. Nothing here calls a provider, logs, or
//! reads a clock.

use std::cmp::Ordering;
use std::sync::Arc;
use std::time::Duration;

use secretwell_core::{Error, ErrorKind, Origin, Secret, SecretKey, SecretValue, Version};

use crate::Freshness;
use crate::Resolved;
use crate::backoff::{first_refresh, random_between, retry_at, retry_jitter};
use crate::breaker::MAX_RETRY_AFTER;
use crate::cache::Cache;
use crate::clock::Time;
use crate::decide::{Reply, peek};
use crate::entry::{Answer, Entry, Failure, Mark, Times};
use crate::event::Event;
use crate::in_flight::{FetchResult, FetchResults, Void};
use crate::link::{LinkState, VersionGuard};
use crate::settings::OnDenied;
use crate::signal::Signal;

/// A value with a shorter remaining lifetime is treated as already expired.
const MIN_LEASE: Duration = Duration::from_millis(20);
/// The fraction of its lifetime after which a leased value has expired in the cache.
///
/// The consumer has the rest of the lifetime to switch to the new value. If the value cannot be
/// replaced, it is returned as stale until its lifetime ends.
const LEASE_FRACTION: f64 = 0.8;
/// The minimum time between two refreshes of a leased value in the background.
pub(crate) const MIN_LEASE_REFRESH: Duration = Duration::from_millis(250);

/// How often the source must return an older version before it is accepted.
const CONFIRMATIONS: u32 = 3;
/// The minimum time from the first to the last of these responses.
const CONFIRMATION_TIME: Duration = Duration::from_secs(60);

/// The random factors for the times of the next reads.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Jitter {
    /// The fraction of the ttl after which a value is refreshed.
    refresh: f64,
    /// That fraction after a read that was not a planned refresh.
    first_refresh: f64,
    /// The factor for the backoff after a failure.
    retry: f64,
}

impl Jitter {
    pub(crate) fn new(first_refresh: f64) -> Self {
        Self {
            refresh: random_between(0.75, 0.875),
            first_refresh,
            retry: retry_jitter(),
        }
    }
}

/// A fetch whose results are settled.
pub(crate) struct Settling<'a> {
    pub(crate) id: u64,
    /// The start of the call. Lifetimes count from it.
    pub(crate) started: Time,
    /// The end of the call, by which its results are dated.
    pub(crate) now: Time,
    /// How much of a lease has passed.
    pub(crate) took: Duration,
    pub(crate) origin: &'a Origin,
    pub(crate) cache: &'a Cache,
    /// The jitter that all keys share. With batches, keys that were fetched together are also refreshed
    /// together. Without batches, each key has its own, so that the refreshes are spread over time.
    pub(crate) jitter: Option<Jitter>,
    /// Whether other sources are read if this one does not have a key.
    pub(crate) is_passing: bool,
    /// Whether changes of cached values are recorded.
    pub(crate) detects_changes: bool,
    /// Returns whether a later source has a key.
    pub(crate) found_later: &'a dyn Fn(&SecretKey) -> bool,
}

/// What must be done without the lock after results were settled.
#[derive(Default)]
pub(crate) struct Settled {
    pub(crate) results: FetchResults,
    pub(crate) events: Vec<Event>,
    /// The watches whose keys have changed.
    pub(crate) signals: Vec<(Arc<Signal>, usize)>,
    /// The keys that became present or absent.
    pub(crate) moved: Vec<SecretKey>,
    /// The keys whose cached value was replaced or removed, or that were known to be absent before.
    pub(crate) changed: Vec<SecretKey>,
    /// The number of cached values that were replaced by another value.
    pub(crate) rotations: usize,
    /// Whether cached values were removed.
    pub(crate) has_removals: bool,
}

impl Settling<'_> {
    /// Settles the result of one key. A result for a key that has a newer fetch is returned but not stored,
    /// unless its version is newer than the known one.
    pub(crate) fn settle(
        &self,
        state: &mut LinkState,
        key: SecretKey,
        result: Result<Secret, Error>,
        settled: &mut Settled,
    ) {
        let before = self.observe(state, &key);
        let cached = self.cached(&key);
        let mut jitter = self.jitter.unwrap_or_else(|| Jitter::new(first_refresh()));
        // Each read of a leased value creates another one at the source.
        let is_leased = matches!(&result, Ok(secret) if secret.valid_for.is_some());
        if !is_leased && !self.is_planned(state, &key) {
            jitter.refresh = jitter.first_refresh;
        }
        let void = state.in_flight.void(&key, self.id);
        let superseded = !state.in_flight.finish(&key, self.id);
        let times;
        let result = match result {
            Ok(secret) => {
                let fetched = self.fetched(state, secret, jitter);
                times = fetched.times;
                // Most values need no comparison, because they replace what is cached.
                let is_compared = superseded || void.is_some() || state.guards.get(&key).is_some();
                let order = is_compared
                    .then(|| self.compare(state, &key, &fetched.resolved))
                    .flatten();
                if order.is_some_and(Ordering::is_ge)
                    && let Some(guard) = state.guards.get_mut(&key)
                {
                    // The source has the newest version after all.
                    guard.older = None;
                }
                match superseded {
                    _ if void.is_some() => {
                        if void == Some(Void::Invalidated) && order == Some(Ordering::Greater) {
                            self.remember_version(state, &key, &fetched.resolved);
                            state.mark(self.cache, &key, Mark::Changed);
                        }
                        Ok(fetched.resolved)
                    }
                    true => self.keep_if_newer(state, &key, fetched, order, jitter, settled),
                    false => self.store(state, &key, fetched, jitter, settled),
                }
            }
            Err(error) => {
                let error = error.with_origin(self.origin).with_key(&key);
                times = self.times(state, None, jitter);
                if !superseded {
                    self.fail(state, &key, error.clone(), jitter, settled);
                }
                Err(error)
            }
        };
        let found_later = state.is_watched(&key) && (self.found_later)(&key);
        state.plan(self.cache, &key, self.now, self.now, found_later);
        let after = self.observe(state, &key);
        if before != after {
            settled.signals.extend_from_slice(state.signals(&key));
        }
        if before.map(|seen| seen.value.is_some()) != after.map(|seen| seen.value.is_some()) {
            settled.moved.push(key.clone());
        }
        if let Some(cached) = cached {
            let now_cached = self.cached(&key).flatten();
            settled.rotations +=
                usize::from(cached.is_some() && now_cached.is_some() && cached != now_cached);
            if cached != now_cached {
                settled.changed.push(key.clone());
            }
        }
        let result = FetchResult {
            result,
            times,
            superseded,
            is_void: void.is_some(),
        };
        settled.results.insert(key, result);
    }

    /// Returns whether the fetch is the planned refresh of a cached answer. A refresh that is due within 1/8 of the ttl counts
    /// as planned, because it joins a batch, unless the read was forced.
    fn is_planned(&self, state: &LinkState, key: &SecretKey) -> bool {
        let soon = self.started.after(state.settings.ttl / 8);
        let is_due = |entry: &Entry| entry.mark() == Mark::None && entry.times.refresh_at <= soon;
        let failure = state.failures.get(key);
        let has_responded = failure.is_none_or(|failure| failure.error.is_not_found());
        has_responded
            && !state.is_forced(key, self.started)
            && self.cache.peek(key, is_due) == Some(true)
    }

    /// Returns what a watch would see. Keys without a watch are not observed.
    fn observe(&self, state: &LinkState, key: &SecretKey) -> Option<Seen> {
        if !state.is_watched(key) {
            return None;
        }
        let reply = self
            .cache
            .with(key, |entry| peek(&state.known(entry, key), self.now))?;
        Some(Seen::of(&reply))
    }

    /// Returns the cached value of `key`, if changes are recorded and an answer is cached.
    fn cached(&self, key: &SecretKey) -> Option<Option<SecretValue>> {
        let value = |entry: &Entry| entry.value().map(|resolved| resolved.value.clone());
        let cached = self.detects_changes.then(|| self.cache.peek(key, value));
        cached.flatten()
    }

    /// Returns a fetched secret with its origin, and with what is left of its lifetime.
    fn fetched(&self, state: &LinkState, secret: Secret, jitter: Jitter) -> Fetched {
        let lease = secret
            .valid_for
            .map(|lifetime| lifetime.saturating_sub(self.took));
        Fetched {
            resolved: Resolved {
                origin: secret.origin.unwrap_or_else(|| self.origin.clone()),
                value: secret.value,
                version: secret.version,
                freshness: Freshness::Fresh,
            },
            lease,
            times: self.times(state, lease, jitter),
        }
    }

    /// Compares the version of a fetched value with the newest known one. Returns `None` if they have no order.
    /// The first known version with an order is newer.
    fn compare(&self, state: &LinkState, key: &SecretKey, fetched: &Resolved) -> Option<Ordering> {
        let version = ordered_version(fetched)?;
        let order = with_newest(state, self.cache, key, |origin, newest| {
            if *origin != fetched.origin {
                None
            } else if newest.is_older_than(version) {
                Some(Ordering::Greater)
            } else if version.is_older_than(newest) {
                Some(Ordering::Less)
            } else {
                (version == newest).then_some(Ordering::Equal)
            }
        });
        order.unwrap_or(Some(Ordering::Greater))
    }

    /// Remembers the version of a value that is not cached.
    fn remember_version(&self, state: &mut LinkState, key: &SecretKey, fetched: &Resolved) {
        if let Some(version) = ordered_version(fetched) {
            state.guard(key, fetched.origin.clone(), version.clone());
        }
    }

    /// Handles the value of a superseded fetch. It is cached if its version is newer than the newest known one.
    /// `order` is the result of that comparison.
    ///
    /// Without an order, it is cached if the cached answer is from before this fetch. The cached value is read
    /// again before its next use.
    /// After an invalidation, or if a later fetch found that the key is absent, only the version is remembered.
    fn keep_if_newer(
        &self,
        state: &mut LinkState,
        key: &SecretKey,
        fetched: Fetched,
        order: Option<Ordering>,
        jitter: Jitter,
        settled: &mut Settled,
    ) -> Result<Resolved, Error> {
        let cached = self.cache.peek(key, |entry| {
            let is_later = entry.times.fetched_at >= self.started;
            let is_same = entry
                .value()
                .is_some_and(|cached| cached.value == fetched.resolved.value);
            (entry.value().is_some(), is_same, is_later)
        });
        let is_invalidated = cached.is_none() && !state.in_flight.contains(key);
        let (is_value, is_same, is_later) = cached.unwrap_or_default();
        match order {
            Some(Ordering::Equal) if is_value => return Ok(fetched.resolved),
            // If the version is an equal one, the cached value was removed.
            Some(Ordering::Greater | Ordering::Equal) => {}
            // Nothing is cached that could be newer.
            None if !is_later && !is_same => {}
            Some(Ordering::Less) => {
                let origin = &fetched.resolved.origin;
                return Err(older_version().with_origin(origin).with_key(key));
            }
            None => {
                if !is_same {
                    state.mark(self.cache, key, Mark::Changed);
                }
                return Ok(fetched.resolved);
            }
        }
        let is_deleted = is_later && !is_value;
        if is_invalidated || is_deleted {
            self.remember_version(state, key, &fetched.resolved);
            return Ok(fetched.resolved);
        }
        let result = self.store(state, key, fetched, jitter, settled);
        state.mark(self.cache, key, Mark::Changed);
        result
    }

    /// Caches a fetched value and returns it.
    ///
    /// # Errors
    /// Returns the recorded failure if the value is older than the newest one that was seen, or if its
    /// lease has expired.
    fn store(
        &self,
        state: &mut LinkState,
        key: &SecretKey,
        fetched: Fetched,
        jitter: Jitter,
        settled: &mut Settled,
    ) -> Result<Resolved, Error> {
        let Fetched {
            resolved,
            lease,
            times,
        } = fetched;
        let problem = match lease {
            Some(lease) if lease < MIN_LEASE => Some(
                Error::new(
                    ErrorKind::Unavailable,
                    "the lease of the returned value has already expired",
                )
                .with_hint(
                    "check the clocks, the lease duration at the source, and how fast it responds",
                ),
            ),
            _ => self.version_regression(state, key, &resolved, settled),
        };
        if let Some(problem) = problem {
            let error = problem.with_origin(&resolved.origin).with_key(key);
            self.fail(state, key, error.clone(), jitter, settled);
            return Err(error);
        }
        let failure = state.failures.get(key);
        let was_passed_on =
            self.is_passing && failure.is_some_and(|failure| failure.error.is_not_found());
        if let Some(since) = state.recover(key)
            && !was_passed_on
        {
            settled.events.push(Event::Recovered {
                key: key.clone(),
                origin: resolved.origin.clone(),
                lasted: self.now.since(since),
            });
        }
        state.guards.remove(key);
        state.insert(self.cache, key, Answer::Value(resolved.clone()), times);
        #[cfg(feature = "metrics")]
        match lease {
            Some(lease) => drop(state.leases.insert(key.clone(), self.now.after(lease))),
            None => drop(state.leases.remove(key)),
        }
        Ok(resolved)
    }

    fn times(&self, state: &LinkState, lease: Option<Duration>, jitter: Jitter) -> Times {
        let settings = &state.settings;
        let ttl = lease.map_or(settings.ttl, |lease| {
            lease.mul_f64(LEASE_FRACTION).min(settings.ttl)
        });
        let mut refresh_after = ttl.mul_f64(jitter.refresh);
        if lease.is_some() {
            refresh_after = refresh_after.max(MIN_LEASE_REFRESH);
        }
        let expires_at = self.now.after(ttl);
        let stale_until = expires_at.after(settings.max_stale);
        Times {
            fetched_at: self.now,
            refresh_at: self.now.after(refresh_after),
            expires_at,
            unusable_at: match lease {
                Some(lease) => stale_until.min(self.now.after(lease)),
                None => stale_until,
            },
        }
    }

    /// Returns an error if the fetched version is older than the newest one that was seen at the same
    /// place. A stale replica of the source can cause this. It is treated as a failed fetch.
    ///
    /// After a restore from a backup, the older version is the right one. It is accepted when the source
    /// has returned it at least [`CONFIRMATIONS`] times over at least [`CONFIRMATION_TIME`].
    fn version_regression(
        &self,
        state: &mut LinkState,
        key: &SecretKey,
        fetched: &Resolved,
        settled: &mut Settled,
    ) -> Option<Error> {
        let version = fetched.version.as_ref()?;
        let newer = with_newest(state, self.cache, key, |origin, newest| {
            let is_older = *origin == fetched.origin && version.is_older_than(newest);
            is_older.then(|| (origin.clone(), newest.clone()))
        });
        let (origin, newest) = newer.flatten()?;
        if state.guards.get(key).is_none() {
            state.guard(key, origin, newest);
        }
        let guard = state.guards.get_mut(key)?;
        let (since, count) = match &guard.older {
            Some((older, since, count)) if older == version => (*since, count + 1),
            _ => (self.now, 1),
        };
        if count >= CONFIRMATIONS && self.now >= since.after(CONFIRMATION_TIME) {
            settled.events.push(Event::OlderVersionAccepted {
                key: key.clone(),
                origin: fetched.origin.clone(),
                version: version.clone(),
            });
            return None;
        }
        guard.older = Some((version.clone(), since, count));
        Some(older_version())
    }

    /// Records that the fetch of `key` failed. An absence is cached as an answer as well.
    fn fail(
        &self,
        state: &mut LinkState,
        key: &SecretKey,
        error: Error,
        jitter: Jitter,
        settled: &mut Settled,
    ) {
        let previous = state.failures.get(key);
        let is_repetition = match previous {
            Some(failure) => failure.error.kind() == error.kind(),
            // A notification or a forced read has removed the failure, but not the absence.
            None => {
                let was_absent = || self.cache.peek(key, |entry| entry.absence().is_some());
                error.is_not_found() && was_absent() == Some(true)
            }
        };
        let requested_wait = error.retry_after();
        // A refusal and an outage are separate failures, so each has its own duration.
        let since = previous
            .filter(|failure| failure.error.is_refusal() == error.is_refusal())
            .map_or(self.now, |failure| failure.since);
        let cap = match error.is_refusal() {
            true => state.settings.negative_ttl,
            false => state.settings.max_backoff,
        };
        let cap = cap.min(error.backoff_limit().unwrap_or(Duration::MAX));
        let backoff_ends = retry_at(self.now, since, cap, jitter.retry);
        let retry_at = requested_wait.map_or(backoff_ends, |wait| {
            backoff_ends.max(self.now.after(wait.min(MAX_RETRY_AFTER)))
        });
        let keeps_value = state.settings.on_denied == OnDenied::KeepUntilMaxStale
            && self.cache.peek(key, |entry| entry.value().is_some()) == Some(true);
        let is_passed_on = error.is_not_found() && self.is_passing;
        if !is_repetition {
            let (key, error) = (key.clone(), error.clone());
            settled.events.push(match is_passed_on {
                true => Event::PassedOn {
                    key,
                    origin: self.origin.clone(),
                },
                false => Event::Failed { key, error },
            });
        }
        if error.is_refusal() && !keeps_value {
            let was_value = state.remove(self.cache, key);
            settled.has_removals |= was_value;
            if was_value {
                let key = key.clone();
                settled.events.push(match is_passed_on {
                    true => Event::SourceLost {
                        key,
                        origin: self.origin.clone(),
                    },
                    false => Event::Purged {
                        key,
                        error: error.clone(),
                    },
                });
            }
            if error.is_not_found() {
                let times = self.times(state, None, jitter);
                state.insert(self.cache, key, Answer::Absent(error.clone()), times);
            }
        }
        let failure = Failure {
            error,
            since,
            retry_at,
            is_postponed: false,
        };
        state.fail(key, failure);
    }
}

/// Returns the version of a value, if it can be ordered.
fn ordered_version(resolved: &Resolved) -> Option<&Version> {
    let version = resolved.version.as_ref();
    version.filter(|version| version.number().is_some())
}

fn older_version() -> Error {
    Error::new(
        ErrorKind::Unavailable,
        "the source returned an older version than the cached one",
    )
    .with_hint(
        "check the replication of the source; after a restore from a backup, call `accept_older_versions`",
    )
}

/// A value that was fetched, with what is left of its lifetime.
struct Fetched {
    resolved: Resolved,
    lease: Option<Duration>,
    /// The times of its entry in the cache.
    times: Times,
}

/// What a watch compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen {
    /// The fingerprint of the value.
    value: Option<u64>,
    /// The kind of the error, or of the reason why the value is stale.
    failure: Option<ErrorKind>,
    /// The kind of the reason why an absence is stale.
    staleness: Option<ErrorKind>,
}

impl Seen {
    pub(crate) fn of(reply: &Reply) -> Self {
        match reply {
            Reply::Value(resolved, _) => Self {
                value: Some(resolved.value.fingerprint()),
                failure: match &resolved.freshness {
                    Freshness::Fresh => None,
                    Freshness::Stale { reason, .. } => Some(kind(reason)),
                },
                staleness: None,
            },
            Reply::Absent(error, staleness) => Self {
                value: None,
                failure: Some(kind(error)),
                staleness: staleness.as_ref().map(|(_, reason)| kind(reason)),
            },
            Reply::Failed(error) => Self {
                value: None,
                failure: Some(kind(error)),
                staleness: None,
            },
        }
    }

    /// Returns what a caller compares: an absence is the same whether it was confirmed or not.
    pub(crate) fn by_caller(reply: &Reply) -> Self {
        Self {
            staleness: None,
            ..Self::of(reply)
        }
    }
}

/// Returns the kind of an error without details that differ from one attempt to the next.
fn kind(error: &Error) -> ErrorKind {
    match error.kind() {
        ErrorKind::RateLimited { .. } => ErrorKind::RateLimited { retry_after: None },
        kind => kind,
    }
}

/// Calls `reader` with the newest version of `key` that was seen, and its place.
fn with_newest<R>(
    state: &LinkState,
    cache: &Cache,
    key: &SecretKey,
    reader: impl FnOnce(&Origin, &Version) -> R,
) -> Option<R> {
    if let Some(VersionGuard { origin, newest, .. }) = state.guards.get(key) {
        return Some(reader(origin, newest));
    }
    cache.with(key, |entry| {
        let resolved = entry?.value()?;
        Some(reader(&resolved.origin, resolved.version.as_ref()?))
    })
}

#[cfg(test)]
mod tests;
