//! A source whose values, faults and notifications the schedule controls. It records every call.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use secretwell::backend::{self, Capabilities, ChangeSender, ChangeStream};
use secretwell::{Error, ErrorKind, Origin, Secret, SecretKey, SecretProvider, Version};

use super::schedule::{Change, Fault, Key, KeySet, Latency, LinkSetup, NAMES, StreamFault};
use super::trace::{Event, Outcome, ProviderCall, Recorder, Value};
use crate::schedules::pause;

/// A source. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Source {
    link: usize,
    setup: LinkSetup,
    origin: Origin,
    recorder: Recorder,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// All states of each key, in the order of their changes. `None` means absent.
    histories: [Vec<Option<Value>>; NAMES.len()],
    fault: Option<ActiveFault>,
    latency: Latency,
    calls: usize,
    subscriber: Option<ChangeSender>,
    stream_failures: usize,
}

#[derive(Debug, Clone, Copy)]
struct ActiveFault {
    fault: Fault,
    keys: KeySet,
    /// The number of further calls that fail. `None` if all do.
    calls: Option<u8>,
}

impl Source {
    pub(super) fn new(link: usize, setup: LinkSetup, recorder: Recorder) -> Self {
        let source = Self {
            link,
            origin: Origin::new("model", link),
            recorder,
            state: Arc::default(),
            setup,
        };
        for history in &mut source.lock().histories {
            history.push(None);
        }
        for key in source.setup.keys.iter() {
            source.change(key, Change::Write);
        }
        source
    }

    /// Returns the current value of `key`.
    pub(super) fn current(&self, key: Key) -> Option<Value> {
        self.lock().histories[key].last().copied().flatten()
    }

    pub(super) fn change(&self, key: Key, change: Change) {
        let current = self.current(key);
        let next = {
            let mut state = self.lock();
            let history = &mut state.histories[key];
            let values = || history.iter().flatten();
            let last = values().map(|value| value.number).max().unwrap_or(0);
            let last_version = values().flat_map(|value| value.version).max().unwrap_or(0);
            let version = self.setup.versions.then_some(last_version + 1);
            let next = match change {
                Change::Write => Some(Value {
                    link: self.link,
                    key,
                    number: last + 1,
                    version,
                }),
                Change::Touch => current.map(|value| Value { version, ..value }),
                Change::Delete => None,
                Change::Restore => {
                    let earlier = history
                        .iter()
                        .rev()
                        .find(|value| value.is_some() && **value != current);
                    earlier.copied().unwrap_or(current)
                }
            };
            if next == current {
                return;
            }
            history.push(next);
            next
        };
        self.note(format!("{change:?}: {} is now {next:?}", NAMES[key]));
    }

    /// Sends a notification to the resolver, if it has subscribed.
    pub(super) fn notify(&self, keys: KeySet) {
        let change = match keys {
            KeySet::ALL => backend::Change::All,
            _ => backend::Change::Keys(keys.iter().map(secret_key).collect()),
        };
        let state = self.lock();
        if state
            .subscriber
            .as_ref()
            .is_some_and(|subscriber| subscriber.send(change))
        {
            self.recorder.event(Event::Notified {
                link: self.link,
                keys,
            });
        }
    }

    pub(super) fn break_stream(&self, fault: StreamFault) {
        let mut state = self.lock();
        match fault {
            StreamFault::End => {
                state.subscriber = None;
                self.note("the stream of notifications ends".to_owned());
            }
            StreamFault::Failure => {
                state.stream_failures += 1;
                let message = format!("failure {}", state.stream_failures);
                let error = Error::new(ErrorKind::Unavailable, message);
                if state
                    .subscriber
                    .as_ref()
                    .is_some_and(|subscriber| subscriber.fail(error))
                {
                    let keys = KeySet::ALL;
                    self.recorder.event(Event::Notified {
                        link: self.link,
                        keys,
                    });
                }
            }
        }
    }

    pub(super) fn fail(&self, fault: Fault, keys: KeySet, calls: u8) {
        let calls = (calls > 0).then_some(calls);
        self.lock().fault = Some(ActiveFault { fault, keys, calls });
        self.note(format!("{fault:?} for {keys:?}, {calls:?} calls"));
    }

    pub(super) fn recover(&self) {
        self.lock().fault = None;
        self.note("recovers".to_owned());
    }

    pub(super) fn set_latency(&self, latency: Latency) {
        self.lock().latency = latency;
        self.note(format!("{latency:?}"));
    }

    fn note(&self, text: String) {
        self.recorder
            .event(Event::Note(format!("link {}: {text}", self.link)));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records the start of a call. Returns its number, and how it will go.
    fn start(&self, keys: &[Key]) -> (usize, Latency, Option<ActiveFault>) {
        let started = self.recorder.at();
        let number = {
            let mut trace = self.recorder.lock();
            trace.calls.push(ProviderCall {
                link: self.link,
                keys: keys.to_vec(),
                started,
                read: None,
                ended: None,
                outcomes: Vec::new(),
            });
            trace.calls.len() - 1
        };
        let mut state = self.lock();
        let covers = |fault: &ActiveFault| keys.iter().any(|&key| fault.keys.contains(key));
        let fault = state.fault.filter(covers);
        if let Some(ActiveFault {
            calls: Some(calls), ..
        }) = &mut state.fault
            && fault.is_some()
        {
            *calls -= 1;
            if *calls == 0 {
                state.fault = None;
            }
        }
        state.calls += 1;
        let latency = match state.latency.alternates && state.calls.is_multiple_of(2) {
            true => Latency::default(),
            false => state.latency,
        };
        (number, latency, fault)
    }

    /// Returns what the source, or a replica of it, responds for `key` now.
    fn outcome(&self, key: Key, fault: Option<ActiveFault>) -> Outcome {
        let lag = match fault.map(|active| (active.fault, active.keys.contains(key))) {
            Some((Fault::WrongCount, _)) => return Outcome::Failed(ErrorKind::Malformed),
            Some((Fault::Panic, _)) => return Outcome::Failed(ErrorKind::Unavailable),
            Some((Fault::Unavailable, true)) => return Outcome::Failed(ErrorKind::Unavailable),
            Some((Fault::Denied, true)) => return Outcome::Failed(ErrorKind::Denied),
            Some((Fault::RateLimited(retry_after), true)) => {
                return Outcome::Failed(ErrorKind::RateLimited { retry_after });
            }
            Some((Fault::Lag(changes), true)) => usize::from(changes),
            _ => 0,
        };
        let state = self.lock();
        let history = &state.histories[key];
        match history[(history.len() - 1).saturating_sub(lag)] {
            Some(value) => Outcome::Value(value),
            None => Outcome::Failed(ErrorKind::NotFound),
        }
    }

    fn result(&self, outcome: &Outcome) -> Result<Secret, Error> {
        match outcome {
            Outcome::Failed(kind) => Err(Error::new(*kind, "injected")),
            Outcome::Value(value) => {
                let mut secret = Secret::new(value.text());
                if let Some(version) = value.version {
                    secret = secret.with_version(Version::numbered(version.into()));
                }
                Ok(match self.setup.lease {
                    Some(lease) => secret.valid_for(lease),
                    None => secret,
                })
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
        let mut capabilities = Capabilities::none().with_ttl(self.setup.ttl);
        capabilities.versions = self.setup.versions;
        capabilities.batch = self.setup.batch;
        capabilities.watch = self.setup.watch;
        capabilities.lease = self.setup.lease.is_some();
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
        let (number, latency, fault) = self.start(&keys);
        pause(latency.before).await;
        let kind = fault.map(|active| active.fault);
        if kind == Some(Fault::Hang) {
            std::future::pending::<()>().await;
        }
        let read = self.recorder.at();
        let outcomes = keys.iter().map(|&key| self.outcome(key, fault));
        let outcomes: Vec<Outcome> = outcomes.collect();
        let mut results: Vec<_> = outcomes
            .iter()
            .map(|outcome| self.result(outcome))
            .collect();
        pause(latency.after).await;
        let ended = self.recorder.at();
        {
            let mut trace = self.recorder.lock();
            let call = &mut trace.calls[number];
            call.read = Some(read);
            call.ended = Some(ended);
            call.outcomes = outcomes;
        }
        match kind {
            // Unlike a panic, this does not call the panic hook, which would print a message.
            Some(Fault::Panic) => std::panic::resume_unwind(Box::new("injected")),
            Some(Fault::WrongCount) => drop(results.pop()),
            _ => {}
        }
        results
    }

    fn watch(&self) -> Option<ChangeStream> {
        let (sender, stream) = ChangeStream::channel();
        self.lock().subscriber = Some(sender);
        let (link, runtime) = (self.link, self.recorder.lock().runtime);
        self.recorder.event(Event::Subscribed { link, runtime });
        Some(stream)
    }
}

fn secret_key(key: Key) -> SecretKey {
    SecretKey::parse(NAMES[key]).expect("the names are keys")
}

fn position(key: &SecretKey) -> Key {
    let position = NAMES.iter().position(|name| *name == key.as_str());
    position.expect("the resolver reads only the keys of the test")
}
