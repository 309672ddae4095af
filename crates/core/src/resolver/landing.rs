//! What comes of a flight: what it brought is kept, what it failed to bring is noted.

use std::time::Duration;

use tokio::time::Instant;

use super::backoff::{between, jitter, retry_at};
use super::cache::Times;
use super::config::OnDenied;
use super::ledger::{Failure, Landed, Ledger};
use super::shared::Shared;
use super::{Freshness, Resolved};
use crate::{Error, ErrorKind, Secret, SecretKey};

/// What is good for less than this has ended before anybody can use it.
const SHORTEST_LEASE: Duration = Duration::from_millis(20);
/// The share of its life within which a leased value is replaced, so that whoever uses it has the rest of
/// it to change to the next. Where it cannot be replaced it works to its end, and is stale.
const LEASE_USE: f64 = 0.8;

/// The random part of when a key is read again.
#[derive(Debug, Clone, Copy)]
struct Rhythm {
    /// Of its ttl, after an answer.
    refresh: f64,
    /// Of its backoff, after a failure.
    retry: f64,
}

impl Rhythm {
    fn new() -> Self {
        Self {
            refresh: between(0.75, 0.875),
            retry: jitter(),
        }
    }
}

impl Shared {
    /// Takes in what flight `id` brought. What a newer flight is about to bring is left to that one.
    pub(crate) fn settle(
        &self,
        id: u64,
        outcomes: Vec<(SecretKey, Result<Secret, Error>)>,
        took: Duration,
    ) -> Landed {
        let now = Instant::now();
        let mut ledger = self.ledger();
        self.judge(&mut ledger, &outcomes, now);
        // Keys that are read together stay together; the others drift apart.
        let together = self.provider.capabilities().batch.then(Rhythm::new);
        let landed = outcomes
            .into_iter()
            .map(|(key, outcome)| {
                let rhythm = together.unwrap_or_else(Rhythm::new);
                let outcome = match outcome {
                    Ok(secret) => self.keep(&mut ledger, id, &key, secret, rhythm, took, now),
                    Err(error) => {
                        let error = error.at(self.provider.source()).for_key(&key);
                        Err(match ledger.touch_down(&key, id) {
                            true => self.lose(&mut ledger, &key, error, rhythm, now),
                            false => error,
                        })
                    }
                };
                (key, outcome)
            })
            .collect();
        drop(ledger);
        self.tell();
        self.wake.notify_one();
        landed
    }

    /// Tells the breaker whether the source is there: it is when it answered anything, were it no.
    fn judge(
        &self,
        ledger: &mut Ledger,
        outcomes: &[(SecretKey, Result<Secret, Error>)],
        now: Instant,
    ) {
        let errors = || {
            outcomes
                .iter()
                .filter_map(|(_, outcome)| outcome.as_ref().err())
        };
        let asks_for_patience =
            |error: &&Error| matches!(error.kind(), ErrorKind::RateLimited { .. });
        let all_failed = errors().filter(|error| error.is_temporary()).count() == outcomes.len();
        let trouble = match errors().find(asks_for_patience) {
            None if all_failed => errors().next(),
            patience => patience,
        };
        match trouble {
            Some(error) => ledger.breaker.failed(error, now, self.config.max_backoff),
            None => ledger.breaker.succeeded(),
        }
    }

    #[expect(clippy::too_many_arguments, reason = "one call, from `settle`")]
    fn keep(
        &self,
        ledger: &mut Ledger,
        id: u64,
        key: &SecretKey,
        secret: Secret,
        rhythm: Rhythm,
        took: Duration,
        now: Instant,
    ) -> Result<Resolved, Error> {
        let resolved = Resolved {
            source: secret
                .source
                .unwrap_or_else(|| self.provider.source().clone()),
            value: secret.value,
            version: secret.version,
            freshness: Freshness::Fresh,
        };
        if !ledger.touch_down(key, id) {
            return Ok(resolved);
        }
        if let Some(error) = self.went_back(key, &resolved) {
            return Err(self.lose(ledger, key, error, rhythm, now));
        }
        let lease = secret
            .valid_for
            .map(|lifetime| lifetime.saturating_sub(took));
        if lease.is_some_and(|lease| lease < SHORTEST_LEASE) {
            let error = Error::new(ErrorKind::Unavailable, "what it answered has ended already")
                .at(&resolved.source)
                .for_key(key)
                .hint("compare the clocks, and how long its leases are");
            return Err(self.lose(ledger, key, error, rhythm, now));
        }
        let ttl = lease.map_or(self.config.ttl, |lease| {
            lease.mul_f64(LEASE_USE).min(self.config.ttl)
        });
        let expires = after(now, ttl);
        let times = Times {
            fetched: now,
            refresh: after(now, ttl.mul_f64(rhythm.refresh)),
            expires,
            unusable: lease.map_or_else(
                || after(expires, self.config.max_stale),
                |lease| after(now, lease),
            ),
        };
        if let Some(failure) = ledger.failures.remove(key) {
            let lasted_ms = (now - failure.since).as_millis();
            tracing::info!(%key, source = %resolved.source, lasted_ms, "secret can be read again");
        }
        let pins = &ledger.pins;
        let keep = |key: &SecretKey| pins.contains_key(key);
        self.cache.insert(
            key.clone(),
            resolved.clone(),
            times,
            self.config.max_entries,
            keep,
        );
        Ok(resolved)
    }

    /// An answer that is older than what is held comes from a replica that lags behind: as good as
    /// no answer.
    fn went_back(&self, key: &SecretKey, answer: &Resolved) -> Option<Error> {
        let older = self.cache.peek(key, |entry| {
            matches!((&answer.version, &entry.resolved.version),
                (Some(new), Some(held)) if new.is_older_than(held))
        });
        older.unwrap_or(false).then(|| {
            Error::new(
                ErrorKind::Unavailable,
                "the source answered with an older version",
            )
            .at(&answer.source)
            .for_key(key)
        })
    }

    /// Notes that `key` could not be read, and returns what is now said of it.
    fn lose(
        &self,
        ledger: &mut Ledger,
        key: &SecretKey,
        error: Error,
        rhythm: Rhythm,
        now: Instant,
    ) -> Error {
        let before = ledger.failures.get(key);
        if before.is_none_or(|failure| failure.error.kind() != error.kind()) {
            tracing::warn!(%key, %error, temporary = error.is_temporary(), "secret cannot be read");
        }
        let told = match error.kind() {
            ErrorKind::RateLimited { retry_after } => retry_after,
            _ => None,
        };
        // What was absent before an outage is taken to be absent during it, as long as a value that
        // was there would be taken to be there.
        let known = self.config.ttl.saturating_add(self.config.max_stale);
        let (error, said_at) = match before {
            Some(absence)
                if absence.error.is_not_found()
                    && error.is_temporary()
                    && now < after(absence.said_at, known) =>
            {
                (absence.error.clone(), absence.said_at)
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
        let soon = retry_at(now, since, cap, rhythm.retry);
        let retry_at = told.map_or(soon, |wait| {
            soon.max(now + wait.min(Duration::from_secs(3600)))
        });
        let failure = Failure {
            error: error.clone(),
            since,
            retry_at,
            said_at,
        };
        ledger.note_failure(key, failure, self.config.max_entries);
        if error.is_refusal() && self.config.on_denied == OnDenied::Purge && self.cache.remove(key)
        {
            tracing::warn!(%key, %error, "held value purged: the source says no");
        }
        error
    }

    /// Lets what failed for the first time just now be asked again at once.
    pub(crate) fn excuse(&self, batch: &[SecretKey], now: Instant) {
        let mut ledger = self.ledger();
        for key in batch {
            if let Some(failure) = ledger.failures.get_mut(key)
                && failure.since >= now
            {
                failure.retry_at = failure.since;
            }
        }
        drop(ledger);
        self.wake.notify_one();
    }

    /// Gives up the keys of a flight that ended without an answer, so that the next caller asks anew.
    pub(crate) fn abandon(&self, id: u64, batch: &[SecretKey]) {
        let mut ledger = self.ledger();
        ledger.breaker.abandoned();
        for key in batch {
            ledger.touch_down(key, id);
        }
        drop(ledger);
        self.tell();
        self.wake.notify_one();
    }
}

/// `wait` from `instant`, or in effect never where that is beyond what the clock can hold.
fn after(instant: Instant, wait: Duration) -> Instant {
    const AGES: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
    instant + wait.min(AGES)
}
