//! The resolver's engine: decides for each key whether to answer, to wait or to ask.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::cache::{Cache, State};
use super::config::Config;
use super::crew::Crew;
use super::keeper::Keeper;
use super::ledger::{Flight, Ledger};
use super::{Freshness, Resolved};
use crate::{Error, ErrorKind, SecretKey, SecretProvider};

/// A refresh by force within this time of the last one is an ordinary read.
pub(super) const FORCE_INTERVAL: Duration = Duration::from_secs(1);
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
