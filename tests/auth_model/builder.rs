//! A builder whose faults the schedule controls. It records the inputs of every build.

use std::panic::resume_unwind;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use secretwell::SecretString;
use secretwell::auth::{BuildContext, BuildError};
use serde::{Deserialize, Deserializer};

use super::schedule::{CodeFault, KeySet, NAMES};
use super::source::{Calls, take};
use super::trace::{Build, Event, Input, Recorder, Ring, Value};
use crate::schedules::pause;

/// The secrets of a build.
#[derive(Deserialize)]
#[serde(rename_all = "UPPERCASE")]
#[expect(dead_code, reason = "the builder reads the secrets of the context")]
pub(super) struct Secrets {
    a: SecretString,
    b: Option<SecretString>,
    c: Option<Picky>,
}

/// A type whose code panics for some values.
struct Picky;

/// What the auth builds: the position of its record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Built(pub(super) usize);

/// A builder. Clones share its faults.
#[derive(Clone)]
pub(super) struct Builder {
    rings: KeySet,
    recorder: Recorder,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    fault: Option<(CodeFault, Calls)>,
    latency: Duration,
}

impl Builder {
    pub(super) fn new(rings: KeySet, recorder: Recorder) -> Self {
        Self {
            rings,
            recorder,
            state: Arc::default(),
        }
    }

    /// Records the start of a build. Returns the future that ends it.
    pub(super) fn build(
        &self,
        context: &BuildContext,
    ) -> impl Future<Output = Result<Built, BuildError>> + Send + use<> {
        let (rings, weak) = self.take_rings(context);
        let inputs = context.secrets().iter().map(|(_, secret)| Input {
            value: Value::parse(secret.value.expose_text().expect("the values are text")),
            version: secret.version.as_ref().and_then(|version| {
                version
                    .number()
                    .map(|number| usize::try_from(number).expect("a small number"))
            }),
            is_stale: secret.freshness.is_stale(),
        });
        let build = Build {
            generation: context.generation(),
            started: self.recorder.at(),
            ended: None,
            succeeded: false,
            secrets: inputs.collect(),
            rings,
        };
        let position = {
            let mut trace = self.recorder.lock();
            trace.builds.push(build);
            trace.builds.len() - 1
        };
        self.clone().finish(position, weak)
    }

    async fn finish(self, position: usize, weak: Option<BuildError>) -> Result<Built, BuildError> {
        let (latency, fault) = {
            let mut state = self.lock();
            (state.latency, take(&mut state.fault))
        };
        pause(latency).await;
        if fault == Some(CodeFault::Hang) {
            std::future::pending::<()>().await;
        }
        let failure = match fault {
            Some(_) => Some(BuildError::msg("injected")),
            None => weak,
        };
        let ended = self.recorder.at();
        let build = &mut self.recorder.lock().builds[position];
        build.ended = Some(ended);
        build.succeeded = failure.is_none();
        match failure {
            // Unlike a panic, this does not call the panic hook, which would print a message.
            Some(_) if fault == Some(CodeFault::Panic) => resume_unwind(Box::new("injected")),
            Some(failure) => Err(failure),
            None => Ok(Built(position)),
        }
    }

    /// Returns the rings, and the error if one of them is too weak.
    fn take_rings(&self, context: &BuildContext) -> (Vec<Ring>, Option<BuildError>) {
        let (mut rings, mut weak) = (Vec::new(), None);
        for key in self.rings.iter() {
            match context.key_ring(NAMES[key]) {
                Ok(ring) => rings.push(Ring {
                    key,
                    primary: value(ring.primary()),
                    all: ring.iter().map(value).collect(),
                }),
                Err(error) if error.is_not_found() => {}
                Err(error) => weak = Some(error.into()),
            }
        }
        (rings, weak)
    }

    pub(super) fn fail(&self, fault: CodeFault, calls: Calls) {
        self.lock().fault = Some((fault, calls));
        self.recorder.event(Event::Faulty);
        let note = format!("builder: {fault:?}, {calls:?} calls");
        self.recorder.event(Event::Note(note));
    }

    pub(super) fn set_latency(&self, latency: Duration) {
        self.lock().latency = latency;
        let note = format!("builder: latency {latency:?}");
        self.recorder.event(Event::Note(note));
    }

    pub(super) fn recover(&self) {
        self.lock().fault = None;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<'de> Deserialize<'de> for Picky {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.ends_with("panicking") {
            resume_unwind(Box::new("injected"));
        }
        Ok(Self)
    }
}

fn value(value: &secretwell::SecretValue) -> Value {
    Value::parse(value.expose_text().expect("the values are text"))
}
