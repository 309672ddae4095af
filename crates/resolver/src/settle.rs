//! What comes of a fetch: what it brought is kept, what it failed to bring is noted.

use std::time::Duration;

use tokio::time::Instant;

use crate::backoff::{between, jitter, retry_at};
use crate::builder::OnDenied;
use crate::cache::Times;
use crate::shared::Shared;
use crate::state::{Failure, FetchResults, ResolverState};
use crate::{Freshness, Resolved};
use secretwell_core::{Error, ErrorKind, Secret, SecretKey};

/// What is good for less than this has ended before anybody can use it.
const SHORTEST_LEASE: Duration = Duration::from_millis(20);
/// The share of its life within which a leased value is replaced, so that whoever uses it has the rest of
/// it to change to the next. Where it cannot be replaced it works to its end, and is stale.
const LEASE_USE: f64 = 0.8;

/// The random part of when a key is read again.
#[derive(Debug, Clone, Copy)]
struct Jitter {
    /// Of its ttl, after an answer.
    refresh: f64,
    /// Of its backoff, after a failure.
    retry: f64,
}

impl Jitter {
    fn new() -> Self {
        Self {
            refresh: between(0.75, 0.875),
            retry: jitter(),
        }
    }
}

impl Shared {
    /// Takes in what fetch `id` brought. What a newer fetch is about to bring is left to that one.
    pub(crate) fn settle(
        &self,
        id: u64,
        outcomes: Vec<(SecretKey, Result<Secret, Error>)>,
        took: Duration,
    ) -> FetchResults {
        let now = Instant::now();
        let mut state = self.state();
        self.update_breaker(&mut state, &outcomes, now);
        // Keys that are read together stay together; the others drift apart.
        let together = self.provider.capabilities().batch.then(Jitter::new);
        let results = outcomes
            .into_iter()
            .map(|(key, outcome)| {
                let jitter = together.unwrap_or_else(Jitter::new);
                let outcome = match outcome {
                    Ok(secret) => self.keep(&mut state, id, &key, secret, jitter, took, now),
                    Err(error) => {
                        let error = error.with_origin(self.provider.origin()).with_key(&key);
                        Err(match state.finish_fetch(&key, id) {
                            true => self.record_failure(&mut state, &key, error, jitter, now),
                            false => error,
                        })
                    }
                };
                (key, outcome)
            })
            .collect();
        drop(state);
        self.notify_watches();
        self.wake.notify_one();
        results
    }

    /// Tells the breaker whether the source is there: it is when it answered anything, were it no.
    fn update_breaker(
        &self,
        state: &mut ResolverState,
        outcomes: &[(SecretKey, Result<Secret, Error>)],
        now: Instant,
    ) {
        let errors = || {
            outcomes
                .iter()
                .filter_map(|(_, outcome)| outcome.as_ref().err())
        };
        let is_rate_limited =
            |error: &&Error| matches!(error.kind(), ErrorKind::RateLimited { .. });
        let all_failed = errors().filter(|error| error.is_temporary()).count() == outcomes.len();
        let trouble = match errors().find(is_rate_limited) {
            None if all_failed => errors().next(),
            rate_limited => rate_limited,
        };
        match trouble {
            Some(error) => state.breaker.failed(error, now, self.config.max_backoff),
            None => state.breaker.succeeded(),
        }
    }

    #[expect(clippy::too_many_arguments, reason = "one call, from `settle`")]
    fn keep(
        &self,
        state: &mut ResolverState,
        id: u64,
        key: &SecretKey,
        secret: Secret,
        jitter: Jitter,
        took: Duration,
        now: Instant,
    ) -> Result<Resolved, Error> {
        let resolved = Resolved {
            origin: secret
                .origin
                .unwrap_or_else(|| self.provider.origin().clone()),
            value: secret.value,
            version: secret.version,
            freshness: Freshness::Fresh,
        };
        if !state.finish_fetch(key, id) {
            return Ok(resolved);
        }
        if let Some(error) = self.version_regression(key, &resolved) {
            return Err(self.record_failure(state, key, error, jitter, now));
        }
        let lease = secret
            .valid_for
            .map(|lifetime| lifetime.saturating_sub(took));
        if lease.is_some_and(|lease| lease < SHORTEST_LEASE) {
            let error = Error::new(ErrorKind::Unavailable, "what it answered has ended already")
                .with_origin(&resolved.origin)
                .with_key(key)
                .with_hint("compare the clocks, and how long its leases are");
            return Err(self.record_failure(state, key, error, jitter, now));
        }
        let ttl = lease.map_or(self.config.ttl, |lease| {
            lease.mul_f64(LEASE_USE).min(self.config.ttl)
        });
        let expires = after(now, ttl);
        let times = Times {
            fetched: now,
            refresh: after(now, ttl.mul_f64(jitter.refresh)),
            expires,
            unusable: lease.map_or_else(
                || after(expires, self.config.max_stale),
                |lease| after(now, lease),
            ),
        };
        if let Some(failure) = state.failures.remove(key) {
            let lasted_ms = (now - failure.since).as_millis();
            tracing::info!(target: "secretwell::resolver", event = "secret_recovered", %key, origin = %resolved.origin, lasted_ms, "the secret can be read again");
        }
        let watched = &state.watched;
        let keep = |key: &SecretKey| watched.contains_key(key);
        self.cache.insert(
            key.clone(),
            resolved.clone(),
            times,
            self.config.max_entries,
            keep,
        );
        Ok(resolved)
    }

    /// An answer that is older than what is cached comes from a replica that lags behind: as good as
    /// no answer.
    fn version_regression(&self, key: &SecretKey, answer: &Resolved) -> Option<Error> {
        let older = self.cache.peek(key, |entry| {
            matches!((&answer.version, &entry.resolved.version),
                (Some(new), Some(cached)) if new.is_older_than(cached))
        });
        older.unwrap_or(false).then(|| {
            Error::new(
                ErrorKind::Unavailable,
                "the source answered with an older version",
            )
            .with_origin(&answer.origin)
            .with_key(key)
        })
    }

    /// Notes that `key` could not be read, and returns what is now said of it.
    fn record_failure(
        &self,
        state: &mut ResolverState,
        key: &SecretKey,
        error: Error,
        jitter: Jitter,
        now: Instant,
    ) -> Error {
        let before = state.failures.get(key);
        if before.is_none_or(|failure| failure.error.kind() != error.kind()) {
            tracing::warn!(target: "secretwell::resolver", event = "secret_failed", %key, %error, temporary = error.is_temporary(), "the secret cannot be read");
        }
        let stated_wait = match error.kind() {
            ErrorKind::RateLimited { retry_after } => retry_after,
            _ => None,
        };
        // What was absent before an outage is taken to be absent during it, as long as a value that
        // was there would be taken to be there.
        let known = self.config.ttl.saturating_add(self.config.max_stale);
        let (error, confirmed_at) = match before {
            Some(absence)
                if absence.error.is_not_found()
                    && error.is_temporary()
                    && now < after(absence.confirmed_at, known) =>
            {
                (absence.error.clone(), absence.confirmed_at)
            }
            _ => (error, now),
        };
        // A refusal and an outage are two troubles: the one says nothing of how long the other lasts.
        let since = before
            .filter(|failure| failure.error.is_refusal() == error.is_refusal())
            .map_or(now, |failure| failure.since);
        let cap = if error.is_refusal() {
            self.config.negative_ttl()
        } else {
            self.config.max_backoff
        };
        let soon = retry_at(now, since, cap, jitter.retry);
        let retry_at = stated_wait.map_or(soon, |wait| {
            soon.max(now + wait.min(Duration::from_secs(3600)))
        });
        let failure = Failure {
            error: error.clone(),
            since,
            retry_at,
            confirmed_at,
        };
        state.note_failure(key, failure, self.config.max_entries);
        if error.is_refusal() && self.config.on_denied == OnDenied::Purge && self.cache.remove(key)
        {
            tracing::warn!(target: "secretwell::resolver", event = "secret_purged", %key, %error, "the cached value was purged because the source refused it");
        }
        error
    }

    /// Lets what failed for the first time just now be asked again at once.
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

    /// Gives up the keys of a fetch that ended without an answer, so that the next caller asks anew.
    pub(crate) fn abandon(&self, id: u64, batch: &[SecretKey]) {
        let mut state = self.state();
        state.breaker.abandoned();
        for key in batch {
            state.finish_fetch(key, id);
        }
        drop(state);
        self.notify_watches();
        self.wake.notify_one();
    }
}

/// `wait` from `instant`, or in effect never where that is beyond what the clock can hold.
fn after(instant: Instant, wait: Duration) -> Instant {
    const AGES: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
    instant + wait.min(AGES)
}
