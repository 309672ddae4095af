//! A source whose values, faults and notifications the schedule controls. It records every read.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use secretwell::backend::{self, Capabilities, ChangeSender, ChangeStream};
use secretwell::{Error, ErrorKind, Origin, Secret, SecretKey, SecretProvider, Version};

use super::run::START;
use super::schedule::{
    A, Change, CodeFault, Fault, Key, KeySet, NAMES, R, Reports, RevocationTime, Setup,
};
use super::trace::{At, Event, Fetch, Kind, Outcome, Recorder, Revision, Value};
use crate::schedules::pause;

/// A source. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Source {
    reports: Reports,
    watch: bool,
    origin: Origin,
    recorder: Recorder,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// All states of each key, in the order of their changes. `None` means absent.
    states: [Vec<Option<Revision>>; NAMES.len()],
    fault: Option<((Fault, KeySet), Calls)>,
    history_fault: Option<(CodeFault, Calls)>,
    latency: Duration,
    subscriber: Option<ChangeSender>,
}

/// The number of further calls that fail. `None` if all do.
pub(super) type Calls = Option<u8>;

impl Source {
    pub(super) fn new(setup: &Setup, recorder: Recorder) -> Self {
        let source = Self {
            reports: setup.reports,
            watch: setup.watch,
            origin: Origin::new("model", ""),
            recorder,
            state: Arc::default(),
        };
        for &age in setup.ages {
            source.write(A, Kind::Strong, Duration::from_secs(age));
        }
        source
    }

    pub(super) fn change(&self, key: Key, change: Change) {
        let none = Duration::ZERO;
        match change {
            Change::Write => self.write(key, Kind::Strong, none),
            Change::Weak => self.write(key, Kind::Weak, none),
            Change::Panicking => self.write(key, Kind::Panicking, none),
            Change::Again => self.write_again(key),
            Change::Delete => self.delete(key),
        }
    }

    pub(super) fn revoke(&self, time: RevocationTime) {
        const FAR: Duration = Duration::from_secs(100);
        let now = SystemTime::now();
        let time = match time {
            RevocationTime::Now => Some(now),
            RevocationTime::Past => Some(now - FAR),
            RevocationTime::Future => Some(now + FAR),
            RevocationTime::Invalid => None,
            RevocationTime::Absent => return self.delete(R),
        };
        self.write(R, Kind::Time(time), Duration::ZERO);
    }

    /// Returns the current version of `key`.
    pub(super) fn current(&self, key: Key) -> Option<Revision> {
        self.lock().states[key].last().copied().flatten()
    }

    /// Writes a new value that is `age` old.
    fn write(&self, key: Key, kind: Kind, age: Duration) {
        let number = self.recorder.lock().revisions[key].len();
        self.push(key, Value { key, number, kind }, age);
    }

    /// Writes the last value again that differs from the current one.
    fn write_again(&self, key: Key) {
        let current = self.current(key).map(|revision| revision.value);
        let earlier = {
            let trace = self.recorder.lock();
            let mut values = trace.revisions[key].iter().rev();
            values
                .find(|revision| Some(revision.value) != current)
                .copied()
        };
        if let Some(earlier) = earlier {
            self.push(key, earlier.value, Duration::ZERO);
        }
    }

    fn push(&self, key: Key, value: Value, age: Duration) {
        let mut written = self.recorder.at();
        if !age.is_zero() {
            written.time = START - age;
        }
        let created = SystemTime::now() - age;
        let mut trace = self.recorder.lock();
        let revision = Revision {
            value,
            number: trace.revisions[key].len() + 1,
            written,
            created,
        };
        trace.revisions[key].push(revision);
        drop(trace);
        self.lock().states[key].push(Some(revision));
    }

    fn delete(&self, key: Key) {
        self.lock().states[key].push(None);
        self.note(format!("{} is deleted", NAMES[key]));
    }

    /// Sends a notification to the resolver, if it has subscribed.
    pub(super) fn notify(&self, keys: KeySet) {
        let change = match keys {
            KeySet::ALL => backend::Change::All,
            _ => backend::Change::Keys(keys.iter().map(secret_key).collect()),
        };
        if let Some(subscriber) = &self.lock().subscriber {
            subscriber.send(change);
        }
        self.note(format!("notification of {keys:?}"));
    }

    pub(super) fn fail(&self, fault: Fault, keys: KeySet, calls: Calls) {
        let keys = match fault {
            Fault::Lag(_) => KeySet(keys.0 & !(1 << R)),
            _ => keys,
        };
        self.lock().fault = Some(((fault, keys), calls));
        if let Fault::Lag(_) = fault {
            self.recorder.event(Event::Lagged);
        }
        self.recorder.event(Event::Faulty);
        self.note(format!("{fault:?} for {keys:?}, {calls:?} calls"));
    }

    pub(super) fn fail_history(&self, fault: CodeFault, calls: Calls) {
        self.lock().history_fault = Some((fault, calls));
        self.recorder.event(Event::Faulty);
        self.note(format!("history: {fault:?}, {calls:?} calls"));
    }

    pub(super) fn set_latency(&self, latency: Duration) {
        self.lock().latency = latency;
        self.note(format!("latency {latency:?}"));
    }

    pub(super) fn recover(&self) {
        let mut state = self.lock();
        state.fault = None;
        state.history_fault = None;
        drop(state);
        self.recorder.event(Event::Faulty);
        self.note("recovers".to_owned());
    }

    fn note(&self, text: String) {
        self.recorder.event(Event::Note(text));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start(&self, keys: Vec<Key>, previous: bool) -> usize {
        let started = self.recorder.at();
        let mut trace = self.recorder.lock();
        trace.fetches.push(Fetch {
            keys,
            previous,
            started,
            ended: None,
            outcomes: Vec::new(),
        });
        trace.fetches.len() - 1
    }

    fn end(&self, fetch: usize, outcomes: Vec<Outcome>) {
        let ended: At = self.recorder.at();
        let fetch = &mut self.recorder.lock().fetches[fetch];
        fetch.ended = Some(ended);
        fetch.outcomes = outcomes;
    }

    /// Returns what the source, or a replica of it, responds for `key` now.
    fn outcome(&self, key: Key, fault: Option<(Fault, KeySet)>) -> Outcome {
        let fault = fault.filter(|(fault, keys)| *fault == Fault::Panic || keys.contains(key));
        let lag = match fault {
            Some((Fault::Lag(changes), _)) => usize::from(changes),
            Some(_) => return Outcome::Failed,
            None => 0,
        };
        let states = &self.lock().states[key];
        let position = states.len().checked_sub(lag + 1);
        match position.and_then(|position| states[position]) {
            Some(revision) => Outcome::Found(revision),
            None => Outcome::Absent,
        }
    }

    fn result(&self, outcome: Outcome, fault: Option<Fault>) -> Result<Secret, Error> {
        match outcome {
            Outcome::Failed => Err(match fault {
                Some(Fault::Denied) => Error::new(ErrorKind::Denied, "injected"),
                _ => Error::new(ErrorKind::Unavailable, "injected"),
            }),
            Outcome::Absent => Err(Error::new(ErrorKind::NotFound, "it is not written")),
            Outcome::Found(revision) => {
                let text = revision.value.text();
                let number = revision.number as u64;
                let version = match self.reports {
                    Reports::Times => Version::numbered(number).with_created_at(revision.created),
                    Reports::Numbers => Version::numbered(number),
                    Reports::Nothing => Version::from_content(text.as_bytes()),
                };
                Ok(Secret::new(text).with_version(version))
            }
        }
    }
}

#[async_trait]
impl SecretProvider for Source {
    fn origin(&self) -> &Origin {
        &self.origin
    }

    fn capabilities(&self) -> Capabilities {
        let mut capabilities = Capabilities::none().with_batch();
        capabilities.versions = self.reports != Reports::Nothing;
        capabilities.old_versions = self.reports == Reports::Times;
        capabilities.watch = self.watch;
        capabilities
    }

    async fn get(&self, key: &SecretKey) -> Result<Secret, Error> {
        let mut results = self.get_many(std::slice::from_ref(key)).await;
        results
            .pop()
            .unwrap_or_else(|| Err(Error::wrong_result_count()))
    }

    async fn get_many(&self, keys: &[SecretKey]) -> Vec<Result<Secret, Error>> {
        let keys: Vec<Key> = keys.iter().map(position).collect();
        let fetch = self.start(keys.clone(), false);
        let (latency, fault) = {
            let mut state = self.lock();
            let concerns = |((_, covered), _): &((_, KeySet), _)| {
                keys.iter().any(|key| covered.contains(*key))
            };
            let is_concerned = state.fault.as_ref().is_some_and(concerns);
            let fault = is_concerned.then(|| take(&mut state.fault)).flatten();
            (state.latency, fault)
        };
        pause(latency).await;
        let kind = fault.map(|(fault, _)| fault);
        if kind == Some(Fault::Hang) {
            std::future::pending::<()>().await;
        }
        let outcomes: Vec<_> = keys.iter().map(|&key| self.outcome(key, fault)).collect();
        self.end(fetch, outcomes.clone());
        if kind == Some(Fault::Panic) {
            // Unlike a panic, this does not call the panic hook, which would print a message.
            std::panic::resume_unwind(Box::new("injected"));
        }
        let results = outcomes.into_iter();
        results.map(|outcome| self.result(outcome, kind)).collect()
    }

    async fn get_version(&self, key: &SecretKey, version: &Version) -> Result<Secret, Error> {
        let key = position(key);
        let fetch = self.start(vec![key], true);
        let (latency, fault) = {
            let mut state = self.lock();
            (state.latency, take(&mut state.history_fault))
        };
        pause(latency).await;
        if fault == Some(CodeFault::Hang) {
            std::future::pending::<()>().await;
        }
        let outcome = match fault {
            Some(_) => Outcome::Failed,
            None => {
                let number = version.number().expect("the versions have numbers");
                let position = usize::try_from(number).expect("a small number") - 1;
                let trace = self.recorder.lock();
                let revision = trace.revisions[key].get(position);
                revision.map_or(Outcome::Absent, |revision| Outcome::Found(*revision))
            }
        };
        self.end(fetch, vec![outcome]);
        if fault == Some(CodeFault::Panic) {
            std::panic::resume_unwind(Box::new("injected"));
        }
        self.result(outcome, None)
    }

    fn watch(&self) -> Option<ChangeStream> {
        let (sender, stream) = ChangeStream::channel();
        self.lock().subscriber = Some(sender);
        Some(stream)
    }
}

/// Returns the fault of a call, and counts that call. The fault ends with its last call.
pub(super) fn take<F: Copy>(fault: &mut Option<(F, Calls)>) -> Option<F> {
    let (kind, calls) = fault.as_mut()?;
    let kind = *kind;
    if let Some(calls) = calls {
        *calls -= 1;
        if *calls == 0 {
            *fault = None;
        }
    }
    Some(kind)
}

fn secret_key(key: Key) -> SecretKey {
    SecretKey::parse(NAMES[key]).expect("the names are keys")
}

fn position(key: &SecretKey) -> Key {
    let position = NAMES.iter().position(|name| *name == key.as_str());
    position.expect("the auth reads only the keys of the test")
}
