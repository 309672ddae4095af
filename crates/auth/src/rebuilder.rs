//! The background task of a [`LazyAuth`](crate::LazyAuth). It reads the secrets, builds, rebuilds on
//! rotation, and publishes the state.

use std::sync::Arc;
use std::time::Duration;

use secretwell_core::{Error, ErrorKind, SecretKey};
use secretwell_resolver::{Freshness, Resolved, Watch};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::attempt_span::AttemptSpan;
use crate::backoff::Backoff;
use crate::build::{build, prepare};
use crate::decide::{Decision, Next, Rotation, Snapshot, advance, advance_with_epoch, decide};
use crate::history_reads::{HistoryReads, HistorySource};
use crate::panics::{Panicked, catch, catch_future};
use crate::pulse::Pulse;
use crate::revocation::Epoch;
use crate::ring::later;
use crate::runtime::{is_in_runtime, require_runtime};
use crate::shared::{AttemptLog, Memory, RESPONSE_TIME, Shared};
use crate::source::Results;
use crate::state::{NotReady, State, VersionHistory};

/// The task shows that it runs once per ttl, within these bounds.
const MIN_HEARTBEAT: Duration = Duration::from_millis(50);
const MAX_HEARTBEAT: Duration = Duration::from_secs(5);

/// Starts the rebuild task unless it already runs on time. Must be called within a tokio runtime that
/// has a timer.
pub(crate) fn ensure<A: Send + Sync + 'static>(shared: &Arc<Shared<A>>) {
    let Some(task) = shared.new_task() else {
        return;
    };
    if let Some(late) = task.late {
        late.abort();
    }
    // Without a lock, because a runtime that is shutting down drops the task immediately.
    let started = tokio::spawn(Rebuilder::new(shared, task.id, task.wake).run());
    shared.task_started(task.id, started.abort_handle());
}

/// Starts another rebuild task in place of one that has ended or is late. Returns whether this
/// succeeded. It needs a runtime with a timer.
#[cold]
pub(crate) fn restart<A: Send + Sync + 'static>(shared: &Arc<Shared<A>>) -> bool {
    if !is_in_runtime() {
        return false;
    }
    if require_runtime().is_err() {
        shared.current.expect_within(RESPONSE_TIME);
        return false;
    }
    ensure(shared);
    true
}

/// The rebuild task. It runs from the first use of an auth until the auth is dropped or the runtime
/// ends.
///
/// Its loop makes an attempt and then waits for a change notification, a request or a timer. Requests
/// are data in [`Shared`], so a lost wake-up delays one by at most a heartbeat.
struct Rebuilder<A> {
    id: u64,
    shared: Arc<Shared<A>>,
    wake: Arc<Notify>,
    /// The changes of the secrets, or `None` before the first read and after the resolver was closed.
    watch: Option<Watch>,
    is_watching: bool,
    /// Whether the next read must start at the source, because the last one returned a revoked secret.
    reads_again: bool,
    /// Failures that the resolver does not retry: of user code, and because of revoked secrets.
    failures: Backoff,
    /// Consecutive attempts that have panicked.
    panics: Backoff,
    histories: HistoryReads,
}

/// What an attempt reads.
#[derive(Debug, Clone, Copy)]
enum Read {
    /// Nothing. It applies revocations and transitions to the secrets in memory.
    Memory,
    Source {
        /// Whether the read must start at the source.
        fresh: bool,
        /// The number of requested rebuilds, if not all of them are completed.
        rebuilds: Option<u64>,
    },
}

/// Result of one attempt.
#[derive(Default)]
struct Outcome {
    failure: Option<NotReady>,
    log: AttemptLog,
    /// Whether the rotation was stored, because there is a build of it.
    is_applied: bool,
}

/// Why an attempt has ended early.
enum Stopped {
    /// Secrets were revoked, another task has taken over, or a transition of the rings is due before the
    /// secrets were read.
    Superseded,
    /// The problems, and the time of the next attempt.
    Failed(Vec<Error>, Instant),
}

impl<A: Send + Sync + 'static> Rebuilder<A> {
    fn new(shared: &Arc<Shared<A>>, id: u64, wake: Arc<Notify>) -> Self {
        Self {
            id,
            shared: shared.clone(),
            wake,
            watch: None,
            is_watching: false,
            reads_again: false,
            failures: Backoff::default(),
            panics: Backoff::default(),
            histories: HistoryReads::default(),
        }
    }

    async fn run(mut self) {
        let shared = self.shared.clone();
        while shared.is_newest_task(self.id) {
            let started = Instant::now();
            let (read, revision, confirms) = self.next_read(started);
            let pulse = self.pulse(revision, confirms);
            let span = AttemptSpan::new(&shared);
            let attempt = catch_future(|| span.enter(self.attempt(read, started)));
            let outcome = match pulse.during(attempt).await {
                None | Some(Ok(None)) => continue,
                Some(Ok(Some(outcome))) => {
                    self.panics = Backoff::default();
                    outcome
                }
                Some(Err(Panicked)) => self.panicked(),
            };
            span.end(&shared, outcome.failure.as_ref(), started.elapsed());
            self.publish(read, &outcome, revision);
            let retry_at = outcome.failure.as_ref().and_then(NotReady::retry_at);
            let _ = catch(|| drop(outcome));
            match read {
                Read::Memory => shared.memory().set_advanced(started, revision),
                Read::Source { .. } => {
                    let wake_at = self.next_wake(started, retry_at);
                    // It drops what the watch returns, and logs.
                    let _ = catch_future(|| self.wait(wake_at)).await;
                }
            }
        }
    }

    /// Waits until `wake_at`, or until an attempt is needed earlier.
    async fn wait(&mut self, wake_at: Instant) {
        let shared = self.shared.clone();
        let heartbeat = self.heartbeat();
        while shared.is_newest_task(self.id) && !shared.is_requested() {
            shared.promise(self.id, heartbeat * 2);
            tokio::select! {
                is_open = next_update(&mut self.watch) => match is_open {
                    true => return,
                    false => self.watch = None,
                },
                () = self.wake.notified() => {}
                Some(reads) = self.histories.next() => {
                    self.histories.finish(&history_source(&shared), reads);
                    return;
                }
                () = tokio::time::sleep_until(wake_at) => return,
                () = tokio::time::sleep(heartbeat) => {
                    // Another auth might have the same name, and a recorder might forget old values.
                    #[cfg(feature = "metrics")]
                    shared.report_state();
                }
            }
            // This task was paused, and the secrets might have changed meanwhile.
            if shared.current.is_overdue() {
                return;
            }
        }
    }

    fn heartbeat(&self) -> Duration {
        let ttl = self.shared.source.resolver.ttl();
        ttl.clamp(MIN_HEARTBEAT, MAX_HEARTBEAT)
    }

    fn pulse(&self, revision: u64, confirms: bool) -> Pulse<A> {
        Pulse {
            id: self.id,
            shared: self.shared.clone(),
            wake: self.wake.clone(),
            interval: self.heartbeat().max(RESPONSE_TIME / 2),
            revision,
            confirms,
        }
    }

    /// Decides what the next attempt reads. What follows from memory is applied first. Also returns the
    /// number of the last revocation, and whether a later one must not supersede the attempt.
    fn next_read(&self, now: Instant) -> (Read, u64, bool) {
        let shared = &self.shared;
        let (is_due, revision, unconfirmed) = {
            let memory = shared.memory();
            let rotation = &memory.rotation;
            (memory.is_due(now), rotation.revision, rotation.unconfirmed)
        };
        if is_due {
            return (Read::Memory, revision, true);
        }
        let (completed, confirmed) = {
            let progress = shared.progress.borrow();
            (progress.completed_rebuilds, progress.confirmed_revocations)
        };
        let requested = shared.requested_rebuilds();
        let rebuilds = (requested > completed).then_some(requested);
        let fresh = rebuilds.is_some() || unconfirmed || revision > confirmed || self.reads_again;
        (Read::Source { fresh, rebuilds }, revision, unconfirmed)
    }

    /// Returns the time of the next attempt if no change notification and no request arrives.
    fn next_wake(&self, started: Instant, retry_at: Option<Instant>) -> Instant {
        let (transition, complete, call) = {
            let memory = self.shared.memory();
            let complete = memory.rotation.next_complete_history(started);
            let call = memory.rotation.call_ends_at(&self.shared.rules);
            let call = call.filter(|end| *end > started);
            (memory.next_transition(), complete, call)
        };
        let fallback = later(Instant::now(), Duration::from_secs(24 * 3600));
        let history = self.histories.due_after(started);
        // The state says that the history is complete from then on.
        let times = [retry_at, transition, history, complete, call];
        times.into_iter().flatten().min().unwrap_or(fallback)
    }

    /// Makes an attempt. Returns `None` if it was superseded.
    async fn attempt(&mut self, read: Read, started: Instant) -> Option<Outcome> {
        let mut outcome = Outcome::default();
        let result = match read {
            Read::Memory => self.advance(None, &mut outcome).await,
            Read::Source { fresh, rebuilds } => {
                self.read(fresh, rebuilds.is_some(), &mut outcome).await
            }
        };
        outcome.log.took = started.elapsed();
        match result {
            Ok(()) => {}
            Err(Stopped::Failed(problems, retry_at)) => {
                outcome.failure = Some(NotReady::new(problems, Some(retry_at)));
            }
            Err(Stopped::Superseded) => return None,
        }
        Some(outcome)
    }

    /// Reads the secrets, and builds from them if an input of the build has changed. If they cannot be
    /// used, the rings still follow the time and the revocation time.
    async fn read(
        &mut self,
        fresh: bool,
        forced: bool,
        outcome: &mut Outcome,
    ) -> Result<(), Stopped> {
        let shared = self.shared.clone();
        if shared.current.generation() == 0 {
            shared.set_state(State::Starting, None, |_| {});
        }
        let (rotation, transition) = {
            let memory = shared.memory();
            (memory.rotation.clone(), memory.next_transition())
        };
        let read_from = Instant::now();
        let results = tokio::select! {
            biased;
            // The rings follow the time also while the source hangs.
            () = sleep_until(transition) => return Err(Stopped::Superseded),
            results = self.read_results(fresh) => results,
        };
        let applied = self
            .apply(rotation, results.clone(), read_from, fresh, forced, outcome)
            .await;
        let Err(Stopped::Failed(mut problems, mut retry_at)) = applied else {
            return applied;
        };
        shared.memory().set_unusable(results.clone());
        let (_, epoch) = shared.source.split(results);
        match self.advance(Some(epoch), outcome).await {
            Err(Stopped::Failed(more, later)) => {
                problems.extend(more);
                retry_at = retry_at.max(later);
            }
            Err(Stopped::Superseded) => return Err(Stopped::Superseded),
            Ok(()) => {}
        }
        Err(Stopped::Failed(problems, retry_at))
    }

    async fn read_results(&mut self, fresh: bool) -> Results {
        if !self.is_watching {
            self.watch = self.shared.source.watch().ok();
            self.is_watching = true;
            // The watch returns the current results first. The first attempt reads the same ones.
            if !fresh && let Some(watch) = &mut self.watch {
                watch.next().await;
            }
        }
        self.shared.source.read(fresh).await
    }

    /// Builds from `results` if an input of the build has changed, and stores the rotation.
    async fn apply(
        &mut self,
        rotation: Rotation,
        results: Results,
        read_from: Instant,
        fresh: bool,
        forced: bool,
        outcome: &mut Outcome,
    ) -> Result<(), Stopped> {
        let shared = self.shared.clone();
        let is_first = shared.current.generation() == 0;
        let (fields, epoch) = shared.source.split(results.clone());
        let input = match prepare(&shared, self.id, &rotation, fields) {
            Ok(input) => input,
            Err(problems) => return Err(Stopped::Failed(problems, self.resolver_retry_at())),
        };
        outcome.log.secrets.clone_from(&input.secrets);
        if is_first {
            let source = history_source(&shared);
            let histories = &mut self.histories;
            histories
                .read_first(&source, &rotation, &input.secrets)
                .await;
        }
        let now = Instant::now();
        let mut problems = staleness(&input.secrets);
        problems.extend(epoch.as_ref().err().cloned());
        let snapshot = Snapshot {
            secrets: &input.secrets,
            read_from,
            epoch,
            histories: self.histories.histories(),
            forced,
            follows_revocation: fresh,
        };
        self.reads_again = false;
        let (next, built) = match decide(&rotation, &snapshot, &shared.rules, now) {
            Decision::Keep(next) => (next, None),
            Decision::Build(next) => match build(&shared, self.id, next, input, now).await {
                Ok((next, built)) => (next, Some(built)),
                Err(problems) => return Err(self.failed(problems)),
            },
            Decision::Fail(problems) => {
                self.reads_again = true;
                return Err(self.failed(problems));
            }
        };
        self.commit(next, results, &outcome.log.secrets, built, now)?;
        outcome.is_applied = true;
        self.failures = Backoff::default();
        if !problems.is_empty() {
            outcome.failure = Some(NotReady::new(problems, Some(self.resolver_retry_at())));
        }
        Ok(())
    }

    /// Applies what follows from memory and time alone, and from the revocation time if it was read.
    /// Builds from the secrets in memory if a ring of the current build changes.
    async fn advance(
        &mut self,
        epoch: Option<Result<Option<Epoch>, Error>>,
        outcome: &mut Outcome,
    ) -> Result<(), Stopped> {
        let shared = self.shared.clone();
        if shared.current.generation() == 0 {
            return Ok(());
        }
        let (mut memory, now) = (shared.memory().clone(), Instant::now());
        let (rotation, rules) = (&memory.rotation, &shared.rules);
        let next = match epoch {
            Some(Ok(epoch)) => advance_with_epoch(rotation, epoch, rules, now),
            Some(Err(_)) | None => advance(rotation, rules, now),
        };
        let revision = rotation.revision;
        match self.rebuild(next, &memory, now).await {
            Ok(Some((next, built))) => {
                memory.rotation = next.rotation;
                if !shared.commit(self.id, memory, built, now) {
                    return Err(Stopped::Superseded);
                }
                shared.log_revoked(&next.revoked);
                shared.log_dropped(&next.dropped);
            }
            Ok(None) => shared.memory().set_advanced(now, revision),
            Err(problems) => {
                shared.memory().set_advanced(now, revision);
                return Err(self.failed(problems));
            }
        }
        outcome.is_applied = true;
        Ok(())
    }

    /// Builds from the secrets in memory if `next` needs a build.
    async fn rebuild(
        &self,
        next: Option<Next>,
        memory: &Memory,
        now: Instant,
    ) -> Result<Option<(Next, Option<A>)>, Vec<Error>> {
        let Some(next) = next else { return Ok(None) };
        if !next.rotation.needs_build(now) {
            return Ok(Some((next, None)));
        }
        let shared = &self.shared;
        let (fields, _) = shared.source.split(memory.results.clone());
        let input = prepare(shared, self.id, &memory.rotation, fields)?;
        let (next, built) = build(shared, self.id, next, input, now).await?;
        Ok(Some((next, Some(built))))
    }

    /// Stores the rotation and publishes the build. Starts to read the version histories that are
    /// missing.
    fn commit(
        &mut self,
        next: Next,
        results: Results,
        secrets: &[(SecretKey, Resolved)],
        build: Option<A>,
        now: Instant,
    ) -> Result<(), Stopped> {
        let shared = self.shared.clone();
        let source = history_source(&shared);
        let Next {
            mut rotation,
            revoked,
            dropped,
        } = next;
        let missing = source.missing(&mut rotation, secrets);
        let history = match missing.is_empty() && !rotation.history_is_cut(now) {
            true => VersionHistory::Complete,
            false => VersionHistory::Incomplete,
        };
        let accepts_history = rotation.accepts_history();
        let signing = rotation.signing(&shared.rules);
        let memory = Memory::new(rotation, results, history);
        if !shared.commit(self.id, memory, build, now) {
            return Err(Stopped::Superseded);
        }
        self.histories.log_refused(&signing, source.name);
        self.histories.clear();
        if accepts_history {
            self.histories.start_if_due(&source, missing);
        }
        shared.log_revoked(&revoked);
        shared.log_dropped(&dropped);
        Ok(())
    }

    /// Publishes the outcome of an attempt.
    fn publish(&self, read: Read, outcome: &Outcome, revision: u64) {
        let shared = &self.shared;
        if !shared.is_newest_task(self.id) {
            return;
        }
        let (generation, history) = (shared.current.generation(), shared.memory().history);
        let mut failure = outcome.failure.clone();
        if let Read::Memory = read {
            // A build from memory says nothing about the source.
            failure = failure.or_else(|| shared.progress.borrow().failure.clone());
        }
        let state = match failure.clone() {
            None => State::Ready {
                generation,
                history,
            },
            Some(failure) if generation > 0 => State::Degraded {
                generation,
                history,
                failure,
            },
            Some(failure) => State::Failed { failure },
        };
        shared.set_state(state, Some(&outcome.log), |progress| {
            progress.failure = failure;
            if outcome.is_applied {
                progress.applied_revocations = revision;
            }
            if let Read::Source { fresh, rebuilds } = read {
                progress.attempts += 1;
                if fresh {
                    progress.confirmed_revocations = revision;
                    progress.confirmation_failure.clone_from(&outcome.failure);
                }
                if let Some(rebuilds) = rebuilds {
                    progress.completed_rebuilds = rebuilds;
                    progress.rebuild_failure.clone_from(&outcome.failure);
                }
            }
        });
    }

    /// Returns the time of the next attempt after a failure of a secret. If the resolver does not retry
    /// it, because it could be read, that is after the ttl.
    fn resolver_retry_at(&mut self) -> Instant {
        let source = &self.shared.source;
        source.retry_at().unwrap_or_else(|| {
            let now = Instant::now();
            let after_ttl = later(now, source.resolver.ttl());
            self.failures.retry_at(now).max(after_ttl)
        })
    }

    /// The result of an attempt with a failure that the resolver does not retry.
    fn failed(&mut self, problems: Vec<Error>) -> Stopped {
        Stopped::Failed(problems, self.failures.retry_at(Instant::now()))
    }

    /// The outcome of an attempt in which user code has panicked outside of the builder closure.
    fn panicked(&mut self) -> Outcome {
        self.histories.clear();
        let problem = Error::new(ErrorKind::Invalid, "user code panicked during the rebuild")
            .with_hint("see the panic message in the output of the process");
        let retry_at = self.panics.retry_at(Instant::now());
        Outcome {
            failure: Some(NotReady::new(vec![problem], Some(retry_at))),
            ..Outcome::default()
        }
    }
}

impl<A> Drop for Rebuilder<A> {
    /// If only the runtime has ended, the next use of the auth starts another task.
    fn drop(&mut self) {
        if !self.shared.is_newest_task(self.id) {
            return;
        }
        match std::thread::panicking() {
            // Readers must not start one task after the other.
            true => self.shared.current.expect_within(RESPONSE_TIME),
            false => self.shared.current.expect_now(),
        }
        self.shared.progress.send_modify(|progress| {
            if progress.state == State::Starting {
                progress.state = State::Idle;
            }
        });
        #[cfg(feature = "metrics")]
        self.shared.report_state();
    }
}

fn history_source<A>(shared: &Shared<A>) -> HistorySource<'_> {
    HistorySource {
        resolver: &shared.source.resolver,
        rules: &shared.rules,
        policies: &shared.settings.policies,
        mode: shared.settings.mode,
        deadline: shared.settings.build_deadline,
        name: shared.settings.name.as_deref(),
    }
}

/// Waits for an update. Returns `false` once, when the resolver was closed.
async fn next_update(watch: &mut Option<Watch>) -> bool {
    match watch {
        Some(watch) => watch.next().await.is_some(),
        None => std::future::pending().await,
    }
}

/// Waits until `time`, if there is one.
async fn sleep_until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// Returns one problem for each stale secret.
fn staleness(secrets: &[(SecretKey, Resolved)]) -> Vec<Error> {
    secrets
        .iter()
        .filter_map(|(key, secret)| match &secret.freshness {
            Freshness::Stale { reason, .. } => Some(reason.clone().with_key(key)),
            _ => None,
        })
        .collect()
}
