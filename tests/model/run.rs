//! Runs a schedule with a resolver, and records what happens.

use std::ops::Range;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use secretwell::{Chain, Resolver, SecretKey, SecretValue, Watch};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Mutex;
use tokio::task::{JoinHandle, yield_now};
use tokio::time::{Instant, advance, sleep};

use super::schedule::{
    Call, DEADLINE, Key, KeySet, Latency, MAX_BACKOFF, NAMES, Schedule, Setup, Step,
};
use super::source::Source;
use super::trace::{At, Driven, Event, Reader, Recorder, Trace, Value};

/// The paused clock of a runtime starts at the real time. The run begins this much later, so that the clocks
/// of all its runtimes can be set to the same time.
const LEAD: Duration = Duration::from_secs(3600);
/// The time without faults at the end of a run: the longest backoff, wait and ttl, and the time in which an
/// older version is confirmed.
pub(super) const CALM: Duration = Duration::from_secs(130);
/// The time between two reads of all keys during [`CALM`].
const CALM_READ: Duration = Duration::from_secs(10);

/// The result of a run.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) trace: Trace,
    /// The values of each link at the end, by key.
    pub(super) current: Vec<[Option<Value>; NAMES.len()]>,
    /// The positions of the last reads of all keys.
    pub(super) last_reads: Range<usize>,
    /// The numbers of the watches that still exist, with their keys.
    pub(super) watches: Vec<(usize, KeySet)>,
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
    sources: Vec<Source>,
    resolver: Resolver,
    runtime: NumberedRuntime,
    idle: Option<NumberedRuntime>,
    last_runtime: usize,
    reads: Vec<PendingRead>,
    watches: Vec<FollowedWatch>,
    last_watch: usize,
}

struct NumberedRuntime {
    number: usize,
    runtime: Runtime,
}

struct PendingRead {
    reads: Range<usize>,
    task: JoinHandle<()>,
}

/// A watch, and the task that waits for its updates.
struct FollowedWatch {
    number: usize,
    keys: KeySet,
    watch: Arc<Mutex<StartedWatch>>,
    task: JoinHandle<()>,
}

struct StartedWatch {
    watch: Watch,
    /// The time of the first poll.
    started: Option<At>,
    returned_first: bool,
}

impl Runner {
    fn new(setup: &Setup) -> Self {
        let runtime = new_runtime();
        let (recorder, sources, resolver) = runtime.block_on(async {
            advance(LEAD).await;
            let recorder = Recorder::new();
            let sources = setup.links.iter().enumerate();
            let sources = sources
                .map(|(link, setup)| Source::new(link, setup.clone(), recorder.clone()))
                .collect::<Vec<_>>();
            let resolver = resolver(setup, &sources);
            (recorder, sources, resolver)
        });
        Self {
            recorder,
            sources,
            resolver,
            runtime: NumberedRuntime { number: 0, runtime },
            idle: None,
            last_runtime: 0,
            reads: Vec::new(),
            watches: Vec::new(),
            last_watch: 0,
        }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Pass(duration) => self.pass(duration),
            Step::Jump(duration) => {
                self.runtime.advance(duration);
                self.event(Event::Disturbed);
            }
            Step::SwitchRuntime => {
                let idle = self.enter_other_runtime();
                self.idle = Some(idle);
            }
            Step::EndRuntime => {
                let ended = self.enter_other_runtime();
                self.end(ended);
                self.restart_watches();
            }
            _ => {
                let handle = self.runtime.runtime.handle().clone();
                let _context = handle.enter();
                self.step_within_runtime(step);
            }
        }
    }

    fn step_within_runtime(&mut self, step: &Step) {
        let source = |link: usize| &self.sources[link.min(self.sources.len() - 1)];
        match *step {
            Step::Read(call, keys) => self.read(call, keys),
            Step::Cancel => self.cancel(),
            Step::Invalidate(key) => {
                self.resolver.invalidate(NAMES[key]);
                self.recorder.event(Event::Invalidated(key));
            }
            Step::AcceptOlderVersions(key) => {
                self.resolver.accept_older_versions([NAMES[key]]);
                self.recorder.event(Event::AcceptedOlder(key));
            }
            Step::Watch(keys) => self.watch(keys),
            Step::Unwatch => {
                if !self.watches.is_empty() {
                    self.watches.remove(0).task.abort();
                }
            }
            Step::Change(link, key, change) => source(link).change(key, change),
            Step::Notify(link, keys) => source(link).notify(keys),
            Step::BreakStream(link, fault) => source(link).break_stream(fault),
            Step::Fault(link, fault, keys, calls) => source(link).fail(fault, keys, calls),
            Step::Recover(link) => source(link).recover(),
            Step::Latency(link, latency) => source(link).set_latency(latency),
            Step::Pass(_) | Step::Jump(_) | Step::SwitchRuntime | Step::EndRuntime => {}
        }
    }

    /// Ends all faults, and waits until the resolver must have recovered.
    fn finish(mut self) -> Outcome {
        if let Some(idle) = self.idle.take() {
            self.end(idle);
        }
        let handle = self.runtime.runtime.handle().clone();
        let context = handle.enter();
        for source in &self.sources {
            source.recover();
            source.set_latency(Latency::default());
        }
        drop(context);
        self.restart_watches();
        let rounds = CALM.as_secs() / CALM_READ.as_secs();
        for _ in 0..rounds {
            self.read_all();
            self.pass(CALM_READ);
        }
        let last_reads = self.read_all();
        self.pass(Duration::from_secs(1));
        let trace = self.recorder.take();
        let current = self.sources.iter();
        let current = current.map(|source| std::array::from_fn(|key| source.current(key)));
        let watches = self.watches.iter();
        Outcome {
            trace,
            current: current.collect(),
            last_reads,
            watches: watches.map(|watch| (watch.number, watch.keys)).collect(),
        }
    }

    fn read_all(&mut self) -> Range<usize> {
        self.step(&Step::Read(Call::GetMany, KeySet::ALL));
        self.reads[self.reads.len() - 1].reads.clone()
    }

    fn pass(&mut self, duration: Duration) {
        let from = self.now();
        self.block_on(async {
            if duration.is_zero() {
                for _ in 0..5 {
                    yield_now().await;
                }
            } else {
                sleep(duration).await;
            }
        });
        let to = self.now();
        let runtime = self.runtime.number;
        let driven = Driven { runtime, from, to };
        self.recorder.lock().driven.push(driven);
    }

    fn read(&mut self, call: Call, keys: KeySet) {
        let first = keys.first().into_iter().collect();
        let keys: Vec<Key> = match call {
            Call::GetMany | Call::Refresh | Call::RefreshAfterWrite => keys.iter().collect(),
            _ => first,
        };
        let names: Vec<&str> = keys.iter().map(|&key| NAMES[key]).collect();
        let rejected = self.last_value(keys[0]);
        let reads = self.recorder.start_read(Reader::Call(call), &keys);
        let (resolver, recorder) = (self.resolver.clone(), self.recorder.clone());
        let positions = reads.clone();
        let read = async move {
            recorder.restart_read(positions.clone());
            let results = match (call, rejected) {
                (Call::WithCached, _) => vec![resolver.with_cached(names[0], Clone::clone).map(Ok)],
                (Call::ReportRejected, Some(rejected)) => {
                    recorder.event(Event::Rejected(rejected));
                    let value = SecretValue::from(rejected.text().into_bytes());
                    vec![Some(resolver.report_rejected(names[0], &value).await)]
                }
                (Call::Get | Call::ReportRejected, _) => vec![Some(resolver.get(names[0]).await)],
                (Call::GetMany, _) => some(resolver.get_many(names).await),
                (Call::Refresh, _) => some(resolver.refresh(names).await),
                (Call::RefreshAfterWrite, _) => some(resolver.refresh_after_write(names).await),
            };
            recorder.end_read(positions, results);
        };
        let task = tokio::spawn(read);
        self.reads.push(PendingRead { reads, task });
    }

    /// Returns the value of `key` that was returned last.
    fn last_value(&self, key: Key) -> Option<Value> {
        let trace = self.recorder.lock();
        let returned = trace.reads.iter().filter(|read| read.key == key);
        let returned = returned.filter_map(|read| Some((read.end?, read.result?.ok()?)));
        let last = returned.max_by_key(|(end, _)| end.order);
        last.map(|(_, returned)| returned.value)
    }

    fn cancel(&mut self) {
        let pending = self.reads.iter().find(|pending| {
            let trace = self.recorder.lock();
            let mut reads = trace.reads[pending.reads.clone()].iter();
            reads.all(|read| read.end.is_none() && !read.cancelled)
        });
        if let Some(pending) = pending {
            pending.task.abort();
            for read in &mut self.recorder.lock().reads[pending.reads.clone()] {
                read.cancelled = true;
            }
        }
    }

    fn watch(&mut self, keys: KeySet) {
        let names = keys.iter().map(|key| NAMES[key]);
        let watch = StartedWatch {
            watch: self.resolver.watch(names).expect("the names are keys"),
            started: None,
            returned_first: false,
        };
        let watch = Arc::new(Mutex::new(watch));
        self.last_watch += 1;
        let number = self.last_watch;
        let task = tokio::spawn(follow(watch.clone(), number, self.recorder.clone()));
        self.watches.push(FollowedWatch {
            number,
            keys,
            watch,
            task,
        });
    }

    /// Continues on another runtime, at the same time. Returns the runtime before.
    fn enter_other_runtime(&mut self) -> NumberedRuntime {
        let now = self.now();
        let next = self.idle.take().unwrap_or_else(|| {
            self.last_runtime += 1;
            NumberedRuntime {
                number: self.last_runtime,
                runtime: new_runtime(),
            }
        });
        next.advance_to(self.recorder.instant(now));
        self.recorder.lock().runtime = next.number;
        let previous = std::mem::replace(&mut self.runtime, next);
        self.event(Event::Disturbed);
        previous
    }

    /// Follows the watches on this runtime whose tasks have ended with their runtime.
    fn restart_watches(&mut self) {
        let _context = self.runtime.runtime.enter();
        for followed in &mut self.watches {
            if followed.task.is_finished() {
                let watch = followed.watch.clone();
                let task = follow(watch, followed.number, self.recorder.clone());
                followed.task = tokio::spawn(task);
            }
        }
    }

    fn end(&self, ended: NumberedRuntime) {
        let mut trace = self.recorder.lock();
        let cancelled = trace.reads.iter_mut();
        for read in cancelled.filter(|read| read.runtime == ended.number && read.end.is_none()) {
            read.cancelled = true;
        }
        drop(trace);
        ended.advance_to(self.recorder.instant(self.now()));
        drop(ended);
    }

    fn event(&self, event: Event) {
        let _context = self.runtime.runtime.enter();
        self.recorder.event(event);
    }

    fn now(&self) -> Duration {
        let _context = self.runtime.runtime.enter();
        self.recorder.now()
    }

    fn block_on(&self, future: impl Future<Output = ()>) {
        self.runtime.runtime.block_on(future);
    }
}

impl NumberedRuntime {
    /// Advances the clock, without running a task.
    fn advance(&self, duration: Duration) {
        let _context = self.runtime.enter();
        let mut context = Context::from_waker(Waker::noop());
        // The first poll advances the clock. The second one would let other tasks run.
        let _ = pin!(advance(duration)).poll(&mut context);
    }

    /// Advances the clock to `instant`, unless it has passed.
    fn advance_to(&self, instant: Instant) {
        let now = {
            let _context = self.runtime.enter();
            Instant::now()
        };
        self.advance(instant.saturating_duration_since(now));
    }
}

fn new_runtime() -> Runtime {
    let mut builder = Builder::new_current_thread();
    let runtime = builder.enable_time().start_paused(true).build();
    runtime.expect("a runtime without I/O needs nothing of the system")
}

fn resolver(setup: &Setup, sources: &[Source]) -> Resolver {
    let mut chain = Chain::new(sources[0].clone());
    for source in &sources[1..] {
        chain = match setup.on_failure {
            true => chain.or_else_on_failure(source.clone()),
            false => chain.or_else(source.clone()),
        };
    }
    // With fallbacks on failure, the sources share the deadline.
    let shares = match setup.on_failure {
        true => u32::try_from(sources.len()).expect("at most two sources"),
        false => 1,
    };
    Resolver::builder(chain)
        .max_stale(setup.max_stale)
        .deadline(DEADLINE * shares)
        .max_backoff(MAX_BACKOFF)
        .build()
}

/// Records all updates of a watch.
async fn follow(watch: Arc<Mutex<StartedWatch>>, number: usize, recorder: Recorder) {
    let mut followed = watch.lock().await;
    loop {
        let started = *followed.started.get_or_insert_with(|| recorder.at());
        let Some(updates) = followed.watch.next().await else {
            return;
        };
        let by = match std::mem::replace(&mut followed.returned_first, true) {
            true => Reader::WatchUpdate(number),
            false => Reader::WatchStart(number),
        };
        let name = |key: &SecretKey| NAMES.iter().position(|name| *name == key.as_str());
        let keys = updates.iter().flat_map(|update| name(&update.key));
        let keys: Vec<Key> = keys.collect();
        let reads = recorder.start_read(by, &keys);
        if let Reader::WatchStart(_) = by {
            recorder.set_start(reads.clone(), started);
        }
        recorder.end_read(reads, some(updates.into_iter().map(|update| update.result)));
    }
}

fn some<T>(results: impl IntoIterator<Item = T>) -> Vec<Option<T>> {
    results.into_iter().map(Some).collect()
}
