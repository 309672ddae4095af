//! The resolver's engine: decides for each key whether to answer, to wait or to ask.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::backoff::{between, jitter, retry_at};
use super::cache::{Cache, State, Times};
use super::config::{Config, OnDenied};
use super::crew::Crew;
use super::keeper::Keeper;
use super::ledger::{Failure, Flight, Landed, Ledger};
use super::{Freshness, Resolved};
use crate::{Error, ErrorKind, Secret, SecretKey, SecretProvider};

/// A refresh by force within this time of the last one is an ordinary read.
pub(super) const FORCE_INTERVAL: Duration = Duration::from_secs(1);
/// What is good for less than this has ended before anybody can use it.
const SHORTEST_LEASE: Duration = Duration::from_millis(20);
/// The share of its life within which a leased value is replaced, so that whoever uses it has the rest of
/// it to change to the next. Where it cannot be replaced it works to its end, and is stale.
const LEASE_USE: f64 = 0.8;
/// How often a caller whose flight was lost with its runtime sets out again.
const DEPARTURES: usize = 3;

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) provider: Arc<dyn SecretProvider>,
    pub(crate) config: Config,
    pub(crate) cache: Cache,
    ledger: Mutex<Ledger>,
    /// The keeper and the flights. They end with the resolver. Locked after the ledger, never within:
    /// a runtime that takes no more tasks drops them at once, and they clear up in the ledger.
    tasks: Mutex<JoinSet<()>>,
    /// Counts up when something happened that a watch may want to look at.
    news: watch::Sender<u64>,
    /// Wakes the keeper to look at its clock again.
    pub(crate) wake: Arc<Notify>,
}

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

/// What to do about one key.
enum Decision {
    Answer(Result<Resolved, Error>),
    /// Answer, and ask the provider behind the caller's back.
    AnswerAndAsk(Resolved),
    Wait(Flight),
    Ask,
}

impl Shared {
    pub(crate) fn new(provider: Arc<dyn SecretProvider>, config: Config) -> Self {
        let ledger = Mutex::new(Ledger::new(&config));
        let (news, _) = watch::channel(0);
        Self {
            provider,
            config,
            cache: Cache::new(),
            ledger,
            tasks: Mutex::default(),
            news,
            wake: Arc::default(),
        }
    }

    pub(crate) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn news(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }

    pub(crate) fn tell(&self) {
        self.news.send_modify(|count| *count += 1);
    }

    /// Answers `keys` from what is held, and asks for the rest in one batch.
    pub(crate) async fn get_many(
        self: &Arc<Self>,
        keys: &[SecretKey],
    ) -> Vec<Result<Resolved, Error>> {
        let mut answers: Vec<Option<Result<Resolved, Error>>> = vec![None; keys.len()];
        for _ in 0..DEPARTURES {
            let open: Vec<usize> = (0..keys.len()).filter(|&i| answers[i].is_none()).collect();
            if open.is_empty() {
                break;
            }
            let waits = self.depart(keys, &open, &mut answers);
            for (index, flight) in waits {
                let (key, since) = (&keys[index], flight.since);
                if let Some(outcome) = flight.outcome(key).await {
                    answers[index] =
                        Some(outcome.or_else(|error| self.stale_or(key, error, since)));
                }
            }
        }
        let lost = |key: &SecretKey| {
            Error::new(
                ErrorKind::Unavailable,
                "there is no tokio runtime to ask in, or it has ended",
            )
            .at(self.provider.source())
            .for_key(key)
        };
        answers
            .into_iter()
            .zip(keys)
            .map(|(answer, key)| answer.unwrap_or_else(|| Err(lost(key))))
            .collect()
    }

    /// Answers what can be answered at once; returns whom to wait for about the rest.
    fn depart(
        self: &Arc<Self>,
        keys: &[SecretKey],
        open: &[usize],
        answers: &mut [Option<Result<Resolved, Error>>],
    ) -> Vec<(usize, Flight)> {
        let now = Instant::now();
        let mut ledger = self.ledger();
        self.ensure_keeper(&mut ledger);
        let mut waits = Vec::new();
        let mut asking = Vec::new();
        let mut batch = BTreeSet::new();
        for &index in open {
            match self.decide(&ledger, &keys[index], now) {
                Decision::Answer(answer) => answers[index] = Some(answer),
                Decision::AnswerAndAsk(resolved) => {
                    answers[index] = Some(Ok(resolved));
                    batch.insert(keys[index].clone());
                }
                Decision::Wait(flight) => waits.push((index, flight)),
                Decision::Ask => {
                    asking.push(index);
                    batch.insert(keys[index].clone());
                }
            }
        }
        let refused = self.launch(&mut ledger, batch, now).err();
        for index in asking {
            let key = &keys[index];
            if let Some(flight) = ledger.flights.get(key) {
                waits.push((index, flight.clone()));
                continue;
            }
            // What the source last said of this very key comes before what is the matter with it.
            let own = ledger
                .failures
                .get(key)
                .map(|failure| failure.error.clone());
            let error = own
                .or_else(|| refused.clone())
                .unwrap_or_else(|| self.not_asked());
            answers[index] = Some(self.stale_or(key, error.for_key(key), now));
        }
        drop(ledger);
        self.set_out();
        waits
    }

    fn decide(&self, ledger: &Ledger, key: &SecretKey, now: Instant) -> Decision {
        let failure = ledger.failures.get(key);
        let retry_due = failure.is_none_or(|failure| now >= failure.retry_at);
        let flight = ledger.flights.get(key);
        let held = self.cache.read(key.as_str(), |entry| {
            let fresh = now < entry.times.expires && entry.state() != State::Suspect;
            let due = now >= entry.times.refresh;
            (
                fresh,
                due,
                now < entry.times.unusable,
                entry.resolved.clone(),
                entry.times.fetched,
            )
        });
        match (held, failure) {
            (Some((true, due, _, resolved, _)), _) => {
                if due && retry_due && flight.is_none() {
                    Decision::AnswerAndAsk(resolved)
                } else {
                    Decision::Answer(Ok(resolved))
                }
            }
            // The source is known to be in trouble: nobody waits for it while there is a value.
            (Some((false, _, true, resolved, fetched)), Some(failure)) => {
                let stale = stale(resolved, now - fetched, failure.error.clone());
                if retry_due && flight.is_none() {
                    Decision::AnswerAndAsk(stale)
                } else {
                    Decision::Answer(Ok(stale))
                }
            }
            (_, Some(failure)) if !retry_due && flight.is_none() => {
                Decision::Answer(Err(failure.error.clone()))
            }
            _ => flight.cloned().map_or(Decision::Ask, Decision::Wait),
        }
    }

    /// The held value marked as stale because of `error`, which began at `since`, or `error` if there
    /// is none.
    fn stale_or(&self, key: &SecretKey, error: Error, since: Instant) -> Result<Resolved, Error> {
        let now = Instant::now();
        let held = self
            .cache
            .peek(key, |entry| (entry.resolved.clone(), entry.times));
        match held {
            // Another flight has brought it, while the one that failed was still under way.
            Some((resolved, times)) if times.fetched > since && now < times.expires => Ok(resolved),
            Some((resolved, times)) if now < times.unusable => {
                Ok(stale(resolved, now - times.fetched, error))
            }
            _ => Err(error),
        }
    }

    /// Reads `keys` again whatever is held or has failed. Within a second of the last time, that is
    /// an ordinary read.
    pub(crate) async fn refresh(
        self: &Arc<Self>,
        keys: &[SecretKey],
    ) -> Vec<Result<Resolved, Error>> {
        {
            let now = Instant::now();
            let mut ledger = self.ledger();
            self.ensure_keeper(&mut ledger);
            ledger.forced.retain(|_, at| now < *at + FORCE_INTERVAL);
            let due: BTreeSet<SecretKey> = keys
                .iter()
                .filter(|key| !ledger.forced.contains_key(*key))
                .cloned()
                .collect();
            ledger
                .forced
                .extend(due.iter().map(|key| (key.clone(), now)));
            self.force(&mut ledger, due);
        }
        self.set_out();
        let flights: Vec<Option<Flight>> = {
            let ledger = self.ledger();
            keys.iter()
                .map(|key| ledger.flights.get(key).cloned())
                .collect()
        };
        let mut answers = Vec::with_capacity(keys.len());
        for (key, flight) in keys.iter().zip(flights) {
            let since = flight
                .as_ref()
                .map_or_else(Instant::now, |flight| flight.since);
            let landed = match flight {
                Some(flight) => flight.outcome(key).await,
                None => None,
            };
            match landed {
                Some(outcome) => {
                    answers.push(outcome.or_else(|error| self.stale_or(key, error, since)));
                }
                None => answers.extend(self.get_many(std::slice::from_ref(key)).await),
            }
        }
        answers
    }

    /// Asks for `keys` in spite of backoff, breaker and flights that are under way already: these
    /// may have set out before whatever is the reason to ask again. The flight sets out with
    /// [`set_out`](Self::set_out).
    pub(crate) fn force(self: &Arc<Self>, ledger: &mut Ledger, keys: BTreeSet<SecretKey>) {
        if keys.is_empty() {
            return;
        }
        for key in &keys {
            ledger.failures.remove(key);
        }
        ledger.breaker.forgive();
        self.prepare(ledger, keys);
    }

    /// Prepares one flight for those of `keys` that breaker and budget let out. It sets out with
    /// [`set_out`](Self::set_out).
    ///
    /// # Errors
    /// Why nothing at all is asked at the moment.
    pub(crate) fn launch(
        self: &Arc<Self>,
        ledger: &mut Ledger,
        keys: BTreeSet<SecretKey>,
        now: Instant,
    ) -> Result<(), Error> {
        if keys.is_empty() {
            return Err(self.not_asked());
        }
        ledger.breaker.admit(now)?;
        let (again, mut out): (BTreeSet<_>, BTreeSet<_>) = keys
            .into_iter()
            .partition(|key| ledger.failures.contains_key(key));
        if again.is_empty() || ledger.budget.take(now) {
            out.extend(again);
        } else {
            let next = ledger.budget.next_at(now);
            for key in &again {
                if let Some(failure) = ledger.failures.get_mut(key) {
                    failure.retry_at = failure.retry_at.max(next);
                }
            }
        }
        if out.is_empty() {
            ledger.breaker.abandoned();
            return Err(self.not_asked());
        }
        self.prepare(ledger, out);
        Ok(())
    }

    fn not_asked(&self) -> Error {
        Error::new(ErrorKind::Unavailable, "it is not asked for at the moment")
            .at(self.provider.source())
    }

    fn prepare(self: &Arc<Self>, ledger: &mut Ledger, keys: BTreeSet<SecretKey>) {
        let batch: Vec<SecretKey> = keys.into_iter().collect();
        let (flight, landed) = ledger.take_off(&batch);
        let crew = Crew {
            shared: Arc::downgrade(self),
            id: flight.id,
            batch,
            landed,
        };
        ledger.departing.push(crew);
    }

    /// Starts what was prepared under the lock. Whoever prepared something calls this without it.
    pub(crate) fn set_out(self: &Arc<Self>) {
        let (starts_keeper, departing) = {
            let mut ledger = self.ledger();
            let starts_keeper = std::mem::take(&mut ledger.keeper_wanted);
            (starts_keeper, std::mem::take(&mut ledger.departing))
        };
        if tokio::runtime::Handle::try_current().is_err() {
            if starts_keeper {
                self.orphan();
            }
            return;
        }
        // It subscribes to the source's notices before anything is read, so that no change falls
        // between.
        let keeper = starts_keeper.then(|| Keeper::new(self));
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        if let Some(keeper) = keeper {
            tasks.spawn(keeper.run());
        }
        for crew in departing {
            tasks.spawn(crew.fly(self.provider.clone(), self.config.deadline));
        }
    }

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

    /// Forgets what is held of `key` and what has failed, and what is under way as well.
    pub(crate) fn invalidate(&self, key: &SecretKey) {
        let mut ledger = self.ledger();
        ledger.flights.remove(key);
        ledger.failures.remove(key);
        self.cache.remove(key);
        drop(ledger);
        self.tell();
        self.wake.notify_one();
    }
}

fn stale(resolved: Resolved, age: Duration, reason: Error) -> Resolved {
    Resolved {
        freshness: Freshness::Stale { age, reason },
        ..resolved
    }
}

/// `wait` from `instant`, or in effect never where that is beyond what the clock can hold.
fn after(instant: Instant, wait: Duration) -> Instant {
    const AGES: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
    instant + wait.min(AGES)
}
