//! Runs a schedule with an auth, and records what happens.

use std::ops::Deref;
use std::time::{Duration, SystemTime};

use secretwell::Resolver;
use secretwell::auth::{LazyAuth, Mode, NotReady, Reader};
use tokio::task::JoinHandle;

use super::builder::{Builder, Built, Secrets};
use super::runtimes::Runtimes;
use super::schedule::{A, B, Call, Change, NAMES, R, Schedule, Setup, Step};
use super::source::Source;
use super::trace::{Event, Read, Recorder, Revision, Revoked, Sample, Trace};

/// The time at which a run begins. Versions at that time have an age.
pub(super) const START: Duration = Duration::from_secs(20_000);
/// The maximum duration of a call of the auth, of a build and of one call to the source.
pub(super) const DEADLINE: Duration = Duration::from_secs(10);
pub(super) const BUILD_DEADLINE: Duration = Duration::from_secs(5);
pub(super) const SOURCE_DEADLINE: Duration = Duration::from_secs(3);
const MAX_BACKOFF: Duration = Duration::from_secs(8);
/// The time between two checks of an absent key.
const NEGATIVE_TTL: Duration = Duration::from_secs(5);
/// The time without faults at the end of a run: the longest ttl, backoff of the resolver and build. The auth delays
/// a retry by an eighth of the run in addition.
const CALM: Duration = Duration::from_secs(60);
/// The time between two reads during [`CALM`].
const CALM_READ: Duration = Duration::from_secs(15);

/// The result of a run.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) trace: Trace,
    /// The versions of the source at the end, by key.
    pub(super) current: [Option<Revision>; NAMES.len()],
}

pub(super) fn run(schedule: &Schedule) -> Outcome {
    let mut runner = Runner::new(&schedule.setup);
    for step in &schedule.steps {
        runner.step(step);
    }
    runner.finish()
}

struct Runner {
    recorder: Recorder,
    source: Source,
    builder: Builder,
    auth: LazyAuth<Built>,
    reader: Option<Reader<Built>>,
    runtimes: Runtimes,
    /// The positions of the calls that were started, and their tasks.
    calls: Vec<(usize, JoinHandle<()>)>,
}

impl Runner {
    fn new(setup: &Setup) -> Self {
        let runtimes = Runtimes::new();
        let recorder = runtimes.enter(Recorder::new);
        runtimes.advance(START);
        let source = runtimes.enter(|| Source::new(setup, recorder.clone()));
        let builder = Builder::new(setup.rings, recorder.clone());
        Self {
            auth: auth(setup, &source, &builder),
            recorder,
            source,
            builder,
            reader: None,
            runtimes,
            calls: Vec::new(),
        }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Pass(duration) => self.runtimes.pass(duration),
            Step::Jump(duration) => {
                self.runtimes.advance(duration);
                self.event(Event::Jumped);
            }
            Step::SwitchRuntime => {
                self.runtimes.switch();
                self.event(Event::Switched);
            }
            Step::EndRuntime => {
                let ended = self.runtimes.end();
                self.cancel_calls_of(ended);
                self.event(Event::Switched);
            }
            _ => {
                let handle = self.runtimes.handle();
                let _context = handle.enter();
                self.step_within_runtime(step);
            }
        }
        self.sample();
    }

    fn step_within_runtime(&mut self, step: &Step) {
        let calls = |calls: u8| (calls > 0).then_some(calls);
        match *step {
            Step::Call(call) => self.call(call),
            Step::Cancel => self.cancel(),
            Step::Change(key, change) => self.source.change(key, change),
            Step::Revoke(time) => self.source.revoke(time),
            Step::Notify(keys) => self.source.notify(keys),
            Step::Fault(fault, keys, number) => self.source.fail(fault, keys, calls(number)),
            Step::HistoryFault(fault, number) => self.source.fail_history(fault, calls(number)),
            Step::BuilderFault(fault, number) => self.builder.fail(fault, calls(number)),
            Step::Recover => self.recover(),
            Step::Latency(source, builder) => {
                self.source.set_latency(source);
                self.builder.set_latency(builder);
            }
            Step::Pass(_) | Step::Jump(_) | Step::SwitchRuntime | Step::EndRuntime => {}
        }
    }

    fn recover(&self) {
        self.source.recover();
        self.builder.recover();
    }

    /// Ends all faults, and waits until the auth must have recovered.
    fn finish(mut self) -> Outcome {
        let ended = self.runtimes.end_idle();
        ended
            .into_iter()
            .for_each(|ended| self.cancel_calls_of(ended));
        let handle = self.runtimes.handle();
        let context = handle.enter();
        self.recover();
        self.source.set_latency(Duration::ZERO);
        self.builder.set_latency(Duration::ZERO);
        for key in [A, B] {
            // A value that was replaced before might be revoked, so that the auth must not accept it. A lagging
            // replica can do this to the newest value.
            let (newest, has_lagged) = {
                let trace = self.recorder.lock();
                let mut events = trace.events.iter();
                let has_lagged = events.any(|(_, event)| *event == Event::Lagged);
                (trace.revisions[key].len(), has_lagged)
            };
            let is_new = |revision: Revision| revision.value.number + 1 == newest && !has_lagged;
            if self
                .source
                .current(key)
                .is_some_and(|current| !is_new(current))
            {
                self.source.change(key, Change::Write);
            }
        }
        drop(context);
        let calm = CALM + (self.runtimes.enter(|| self.recorder.now()) - START) / 8;
        for _ in 0..calm.as_secs() / CALM_READ.as_secs() {
            self.step(&Step::Call(Call::Get));
            self.step(&Step::Pass(CALM_READ));
        }
        // An attempt that starts now must end.
        self.step(&Step::Pass(Duration::from_millis(100)));
        Outcome {
            trace: self.recorder.take(),
            current: std::array::from_fn(|key| self.source.current(key)),
        }
    }

    fn call(&mut self, call: Call) {
        let read = Read {
            call,
            runtime: self.runtimes.number(),
            start: self.recorder.at(),
            revoked: None,
            end: None,
            result: Err("pending".into()),
            cancelled: false,
        };
        let position = {
            let mut trace = self.recorder.lock();
            trace.reads.push(read);
            trace.reads.len() - 1
        };
        let none = || Err("no build".to_owned());
        let result = match call {
            Call::Get | Call::Rebuild | Call::RevokePrevious => {
                let task = call_async(self.auth.clone(), call, position, self.recorder.clone());
                self.calls.push((position, tokio::spawn(task)));
                return;
            }
            Call::TryGet => built(self.auth.try_get()),
            Call::Peek => self.auth.peek().map_or_else(none, |built| Ok(built.0)),
            Call::With => self.auth.with(|built| built.0).map_or_else(none, Ok),
            Call::Reader => {
                self.reader = self.reader.take().or_else(|| self.auth.reader());
                let reader = self.reader.as_mut();
                reader.map_or_else(none, |reader| Ok(reader.get().0))
            }
        };
        end(&self.recorder, position, result);
    }

    fn cancel(&mut self) {
        let mut trace = self.recorder.lock();
        let pending = self.calls.iter().find(|(position, _)| {
            let read = &trace.reads[*position];
            read.end.is_none() && !read.cancelled
        });
        if let Some((position, task)) = pending {
            task.abort();
            trace.reads[*position].cancelled = true;
        }
    }

    /// Records that the calls in a runtime that has ended do not return.
    fn cancel_calls_of(&self, runtime: usize) {
        for read in &mut self.recorder.lock().reads {
            read.cancelled |= read.runtime == runtime && read.end.is_none();
        }
    }

    fn sample(&self) {
        let sample = Sample {
            at: self.runtimes.enter(|| self.recorder.at()),
            state: self.auth.state(),
            // Outside of a runtime, this does not restart a late task.
            build: self.auth.peek().map(|built| built.0),
        };
        self.recorder.lock().samples.push(sample);
    }

    fn event(&self, event: Event) {
        self.runtimes.enter(|| self.recorder.event(event));
    }
}

fn auth(setup: &Setup, source: &Source, builder: &Builder) -> LazyAuth<Built> {
    let resolver = Resolver::builder(source.clone())
        .ttl(setup.ttl)
        .deadline(SOURCE_DEADLINE)
        .max_backoff(MAX_BACKOFF)
        .negative_ttl(NEGATIVE_TTL)
        .build();
    let mut auth = LazyAuth::builder(resolver)
        .mode(Mode::Production)
        .deadline(DEADLINE)
        .build_deadline(BUILD_DEADLINE)
        .activation_delay(setup.activation_delay)
        .grace_period(setup.grace_period)
        .max_previous(setup.max_previous)
        .revocation_key(NAMES[R])
        .expect("the name is a key");
    if setup.named {
        auth = auth
            .signing([NAMES[A], NAMES[B]])
            .expect("the names are keys");
    }
    let builder = builder.clone();
    auth.build(move |_: Secrets, context| builder.build(&context))
}

async fn call_async(auth: LazyAuth<Built>, call: Call, position: usize, recorder: Recorder) {
    {
        let start = recorder.at();
        let revoked = (call == Call::RevokePrevious).then(|| Revoked {
            build: auth.peek().map(|built| built.0),
            wall: SystemTime::now(),
        });
        let read = &mut recorder.lock().reads[position];
        (read.start, read.revoked) = (start, revoked);
    }
    let result = match call {
        Call::Rebuild => built(auth.rebuild().await),
        Call::RevokePrevious => built(auth.revoke_previous().await),
        _ => built(auth.get().await),
    };
    end(&recorder, position, result);
}

fn end(recorder: &Recorder, position: usize, result: Result<usize, String>) {
    let end = recorder.at();
    let read = &mut recorder.lock().reads[position];
    read.end = Some(end);
    read.result = result;
}

fn built(result: Result<impl Deref<Target = Built>, NotReady>) -> Result<usize, String> {
    result
        .map(|built| built.0)
        .map_err(|error| error.to_string())
}
