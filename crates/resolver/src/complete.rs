//! Completion of a fetch: values are cached, and failures are recorded.

use std::time::Duration;

use secretwell_core::{Error, ErrorKind, Secret, SecretKey, Version};
use tokio::time::Instant;

use crate::backoff::{random_between, retry_at, retry_jitter};
use crate::breaker::MAX_RETRY_AFTER;
use crate::builder::OnDenied;
use crate::cache::{EntryState, Times};
use crate::shared::Shared;
use crate::state::{Failure, FetchResult, FetchResults, ResolverState};
use crate::{Freshness, Resolved};

/// A value with a shorter remaining lifetime is treated as already expired.
const MIN_LEASE: Duration = Duration::from_millis(20);
/// The fraction of its lifetime after which a leased value has expired in the cache.
///
/// The consumer has the rest of the lifetime to switch to the new value. If the value cannot be
/// replaced, it is returned as stale until its lifetime ends.
const LEASE_FRACTION: f64 = 0.8;

/// How often the source must return an older version before it is accepted.
const CONFIRMATIONS: u32 = 3;
/// The minimum time from the first to the last of these responses.
const CONFIRMATION_TIME: Duration = Duration::from_secs(60);

/// The random factors for the times of the next reads.
#[derive(Debug, Clone, Copy)]
struct Jitter {
    /// The fraction of the ttl after which a value is refreshed.
    refresh: f64,
    /// The factor for the backoff after a failure.
    retry: f64,
}

impl Jitter {
    fn new() -> Self {
        Self {
            refresh: random_between(0.75, 0.875),
            retry: retry_jitter(),
        }
    }
}

impl Shared {
    /// Stores the results of fetch `id`. Results for keys that have a newer fetch are returned but not
    /// stored.
    pub(crate) fn complete_fetch(
        &self,
        id: u64,
        results: Vec<(SecretKey, Result<Secret, Error>)>,
        took: Duration,
    ) -> FetchResults {
        let now = Instant::now();
        let mut state = self.state();
        self.update_breaker(&mut state, &results, now);
        // With batches, keys that were fetched together are also refreshed together. Without batches,
        // their refreshes are spread over time.
        let shared_jitter = self.provider.capabilities().batch.then(Jitter::new);
        let results = results
            .into_iter()
            .map(|(key, result)| {
                let jitter = shared_jitter.unwrap_or_else(Jitter::new);
                let superseded = !state.finish_fetch(&key, id);
                let result = match result {
                    Ok(secret) => {
                        let resolved = self.resolved(secret, took);
                        match superseded {
                            true => self.keep_if_newer(&mut state, &key, resolved, jitter, now),
                            false => self.store(&mut state, &key, resolved, jitter, now),
                        }
                    }
                    Err(error) => {
                        let error = error.with_origin(self.provider.origin()).with_key(&key);
                        Err(match superseded {
                            true => error,
                            false => self.record_failure(&mut state, &key, error, jitter, now),
                        })
                    }
                };
                (key, FetchResult { result, superseded })
            })
            .collect();
        drop(state);
        self.notify_watches();
        self.wake.notify_one();
        results
    }

    /// Reports to the breaker whether the source responded. A refusal is also a response.
    fn update_breaker(
        &self,
        state: &mut ResolverState,
        results: &[(SecretKey, Result<Secret, Error>)],
        now: Instant,
    ) {
        let errors = || {
            results
                .iter()
                .filter_map(|(_, result)| result.as_ref().err())
        };
        let is_rate_limited =
            |error: &&Error| matches!(error.kind(), ErrorKind::RateLimited { .. });
        let all_failed = errors().filter(|error| error.is_temporary()).count() == results.len();
        let failure = match errors().find(is_rate_limited) {
            None if all_failed => errors().next(),
            rate_limited => rate_limited,
        };
        match failure {
            Some(error) => state
                .breaker
                .record_failure(error, now, self.config.max_backoff),
            None => state.breaker.record_response(),
        }
    }

    /// Returns a fetched secret with its origin, and with what is left of its lifetime.
    fn resolved(&self, secret: Secret, took: Duration) -> (Resolved, Option<Duration>) {
        let resolved = Resolved {
            origin: secret
                .origin
                .unwrap_or_else(|| self.provider.origin().clone()),
            value: secret.value,
            version: secret.version,
            freshness: Freshness::Fresh,
        };
        let lease = secret
            .valid_for
            .map(|lifetime| lifetime.saturating_sub(took));
        (resolved, lease)
    }

    /// Handles the value of a superseded fetch. It is cached if its version is newer than the newest
    /// known one. If the versions have no order, the cached value is read again before its next use.
    fn keep_if_newer(
        &self,
        state: &mut ResolverState,
        key: &SecretKey,
        (resolved, lease): (Resolved, Option<Duration>),
        jitter: Jitter,
        now: Instant,
    ) -> Result<Resolved, Error> {
        let is_newer = state.guards.get(key).is_some_and(|guard| {
            let version = resolved.version.as_ref();
            guard.origin == resolved.origin
                && version.is_some_and(|version| guard.newest.is_older_than(version))
        });
        if is_newer {
            return self.store(state, key, (resolved, lease), jitter, now);
        }
        let has_order =
            |version: &Option<Version>| version.as_ref().and_then(Version::number).is_some();
        if !state.in_flight.contains_key(key) && !has_order(&resolved.version) {
            self.cache.peek(key, |entry| {
                if entry.resolved.value != resolved.value {
                    entry.set_state(EntryState::Invalidated);
                }
            });
        }
        Ok(resolved)
    }

    /// Caches a fetched value and returns it.
    ///
    /// # Errors
    /// Returns the recorded failure if the value is older than the newest one that was seen, or if its
    /// lease has expired.
    fn store(
        &self,
        state: &mut ResolverState,
        key: &SecretKey,
        (resolved, lease): (Resolved, Option<Duration>),
        jitter: Jitter,
        now: Instant,
    ) -> Result<Resolved, Error> {
        if let Some(error) = self.version_regression(state, key, &resolved, now) {
            return Err(self.record_failure(state, key, error, jitter, now));
        }
        if lease.is_some_and(|lease| lease < MIN_LEASE) {
            let error = Error::new(
                ErrorKind::Unavailable,
                "the lease of the returned value has already expired",
            )
            .with_origin(&resolved.origin)
            .with_key(key)
            .with_hint("check the clocks, and the lease duration at the source");
            return Err(self.record_failure(state, key, error, jitter, now));
        }
        let ttl = lease.map_or(self.config.ttl, |lease| {
            lease.mul_f64(LEASE_FRACTION).min(self.config.ttl)
        });
        let expires_at = after(now, ttl);
        let times = Times {
            fetched_at: now,
            refresh_at: after(now, ttl.mul_f64(jitter.refresh)),
            expires_at,
            unusable_at: lease.map_or_else(
                || after(expires_at, self.config.max_stale),
                |lease| after(now, lease),
            ),
        };
        if let Some(failure) = state.failures.remove(key) {
            let lasted_ms = (now - failure.since).as_millis();
            tracing::info!(target: "secretwell::resolver", event = "secret_recovered", %key, origin = %resolved.origin, lasted_ms, "the secret can be read again");
        }
        self.cache.insert(
            key.clone(),
            resolved.clone(),
            times,
            self.config.max_entries,
            |key| state.is_watched(key),
        );
        Ok(resolved)
    }

    /// Returns an error if the fetched version is older than the newest one that was seen at the same
    /// place. A stale replica of the source can cause this. It is treated as a failed fetch.
    ///
    /// After a restore from a backup, the older version is the right one. It is accepted when the source
    /// has returned it at least [`CONFIRMATIONS`] times over at least [`CONFIRMATION_TIME`].
    fn version_regression(
        &self,
        state: &mut ResolverState,
        key: &SecretKey,
        fetched: &Resolved,
        now: Instant,
    ) -> Option<Error> {
        let version = fetched.version.as_ref()?;
        let Some(guard) = state
            .guards
            .get_mut(key)
            .filter(|guard| guard.origin == fetched.origin && version.is_older_than(&guard.newest))
        else {
            state.set_guard(key, &fetched.origin, version, self.config.max_entries);
            return None;
        };
        let (since, count) = match &guard.older {
            Some((older, since, count)) if older == version => (*since, count + 1),
            _ => (now, 1),
        };
        if count >= CONFIRMATIONS && now >= since + CONFIRMATION_TIME {
            state.set_guard(key, &fetched.origin, version, self.config.max_entries);
            tracing::warn!(target: "secretwell::resolver", event = "older_version_accepted", %key, origin = %fetched.origin, %version, "the source confirmed an older version, which is accepted");
            return None;
        }
        guard.older = Some((version.clone(), since, count));
        Some(
            Error::new(
                ErrorKind::Unavailable,
                "the source returned an older version than the cached one",
            )
            .with_origin(&fetched.origin)
            .with_key(key)
            .with_hint("check the replication of the source"),
        )
    }

    /// Records that the fetch of `key` failed. Returns the error to report for `key`, which can be an
    /// earlier `NotFound`.
    fn record_failure(
        &self,
        state: &mut ResolverState,
        key: &SecretKey,
        error: Error,
        jitter: Jitter,
        now: Instant,
    ) -> Error {
        let previous = state.failures.get(key);
        if previous.is_none_or(|failure| failure.error.kind() != error.kind()) {
            tracing::warn!(target: "secretwell::resolver", event = "secret_failed", %key, %error, temporary = error.is_temporary(), "the secret cannot be read");
        }
        let requested_wait = match error.kind() {
            ErrorKind::RateLimited { retry_after } => retry_after,
            _ => None,
        };
        // A key that was absent before an outage is reported as absent during it. This ends after the
        // time for which a cached value would be returned as stale.
        let max_age = self.config.ttl.saturating_add(self.config.max_stale);
        let (error, confirmed_at) = match previous {
            Some(absence)
                if absence.error.is_not_found()
                    && error.is_temporary()
                    && now < after(absence.confirmed_at, max_age) =>
            {
                (absence.error.clone(), absence.confirmed_at)
            }
            _ => (error, now),
        };
        // A refusal and an outage are separate failures, so each has its own duration.
        let since = previous
            .filter(|failure| failure.error.is_refusal() == error.is_refusal())
            .map_or(now, |failure| failure.since);
        let cap = if error.is_refusal() {
            self.config.negative_ttl()
        } else {
            self.config.max_backoff
        };
        let backoff_ends = retry_at(now, since, cap, jitter.retry);
        let retry_at = requested_wait.map_or(backoff_ends, |wait| {
            backoff_ends.max(now + wait.min(MAX_RETRY_AFTER))
        });
        let failure = Failure {
            error: error.clone(),
            since,
            retry_at,
            confirmed_at,
        };
        state.insert_failure(key, failure, self.config.max_entries);
        if error.is_refusal() && self.config.on_denied == OnDenied::Purge && self.cache.remove(key)
        {
            tracing::warn!(target: "secretwell::resolver", event = "secret_purged", %key, %error, "the cached value was purged because the source refused it");
        }
        error
    }

    /// Allows an immediate retry of keys in `batch` whose first failure was at `now` or later.
    pub(crate) fn retry_immediately(&self, batch: &[SecretKey], now: Instant) {
        let mut state = self.state();
        for key in batch {
            if let Some(failure) = state.failures.get_mut(key)
                && failure.since >= now
            {
                failure.retry_at = failure.since;
            }
        }
        drop(state);
        self.wake.notify_one();
    }

    /// Removes a fetch that ended without results, so that the next caller starts a new one.
    pub(crate) fn abandon_fetch(&self, id: u64, batch: &[SecretKey]) {
        let mut state = self.state();
        state.breaker.abandon_probe();
        for key in batch {
            state.finish_fetch(key, id);
        }
        drop(state);
        self.notify_watches();
        self.wake.notify_one();
    }
}

/// Returns `instant + wait`, with `wait` limited to 100 years to avoid an overflow of the clock.
fn after(instant: Instant, wait: Duration) -> Instant {
    const MAX_WAIT: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
    instant + wait.min(MAX_WAIT)
}
