//! The background task of a [`LazyAuth`](crate::LazyAuth). It reads the secrets, builds, rebuilds on
//! rotation, and publishes the state.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use secretwell_core::backend::join_bounded;
use secretwell_core::{Error, ErrorKind, SecretKey, Version};
use secretwell_resolver::{Freshness, Resolved, Watch};
use tokio::task::{AbortHandle, JoinError, JoinSet};
use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::context::{BuildContext, BuildError, Requested, RingRequests};
use crate::decide::{Decision, Next, Rotation, Snapshot, decide};
use crate::history::{has_history, read_history};
use crate::key_ring::KeyRing;
use crate::mode::Mode;
use crate::panics::{Panicked, catch, catch_future};
use crate::ring::{KeyHistory, later};
use crate::runtime::{is_in_runtime, require_runtime};
use crate::shared::{AttemptLog, Memory, Shared};
use crate::source::Results;
use crate::spec::BuildInput;
use crate::state::{NotReady, State, VersionHistory};

/// The task shows that it runs once per ttl, within these bounds.
const MIN_HEARTBEAT: Duration = Duration::from_millis(50);
const MAX_HEARTBEAT: Duration = Duration::from_secs(5);
/// The longest time that the reads of one attempt can take.
const MAX_READ: Duration = Duration::from_secs(120);
/// How long readers wait before they start the task again in a runtime without a timer.
const NO_TIMER_DELAY: Duration = Duration::from_secs(1);
/// How many version histories are read at a time.
const CONCURRENT_HISTORIES: usize = 16;

/// Starts the rebuild task unless it already runs on time. Must be called within a tokio runtime that
/// has a timer.
pub(crate) fn ensure<A: Send + Sync + 'static>(shared: &Arc<Shared<A>>) {
    let mut task = shared.task();
    if task.as_ref().is_none_or(AbortHandle::is_finished) || shared.current.is_overdue() {
        shared.current.expect_within(Duration::MAX);
        let started = tokio::spawn(Rebuilder::new(shared).run());
        if let Some(late) = task.replace(started.abort_handle()) {
            late.abort();
        }
    }
}

/// Starts another rebuild task in place of one that has ended or is late. Returns whether this
/// succeeded. It needs a runtime with a timer.
#[cold]
pub(crate) fn restart<A: Send + Sync + 'static>(shared: &Arc<Shared<A>>) -> bool {
    if !is_in_runtime() {
        return false;
    }
    if require_runtime().is_err() {
        shared.current.expect_within(NO_TIMER_DELAY);
        return false;
    }
    ensure(shared);
    true
}

/// The rebuild task. It runs from the first use of an auth until the auth is dropped or the runtime
/// ends.
///
/// Its loop makes an attempt and then waits for a change notification, a request or a timer.
struct Rebuilder<A> {
    id: u64,
    shared: Arc<Shared<A>>,
    /// The revocation for which the last build from memory was attempted.
    revision: u64,
    /// Whether the next read must start at the source, because the last one returned a revoked secret.
    reads_again: bool,
    /// Failures that the resolver does not retry: of user code, and because of revoked secrets.
    failures: Backoff,
    /// The version histories that were read and are not stored yet.
    histories: Vec<KeyHistory>,
    history_reads: JoinSet<HistoryReads>,
    history_failures: Backoff,
    /// The time of the next read of version histories that failed.
    history_due: Option<Instant>,
}

type HistoryReads = Vec<(KeyHistory, Option<(Version, Error)>)>;

/// What an attempt reads.
enum Read {
    /// The secrets that are in memory, to apply a revocation without the source.
    Memory(Results),
    Resolver {
        /// Whether the read must start at the source.
        fresh: bool,
        /// The number of requested rebuilds, if not all of them are completed.
        rebuilds: Option<u64>,
    },
}

/// Result of one attempt.
struct Outcome {
    /// When the secrets were read. The attempt covers all transitions of the rings up to this time.
    read_at: Instant,
    failure: Option<NotReady>,
    log: AttemptLog,
    /// Whether the rotation was stored, because there is a build of it.
    is_applied: bool,
}

impl<A: Send + Sync + 'static> Rebuilder<A> {
    fn new(shared: &Arc<Shared<A>>) -> Self {
        Self {
            id: shared.next_task_id(),
            shared: shared.clone(),
            revision: shared.progress.borrow().applied_revocations,
            reads_again: false,
            failures: Backoff::default(),
            histories: Vec::new(),
            history_reads: JoinSet::new(),
            history_failures: Backoff::default(),
            history_due: None,
        }
    }

    async fn run(mut self) {
        let shared = self.shared.clone();
        let Ok(mut watch) = shared.source.watch() else {
            return;
        };
        self.expect_within(MAX_READ);
        if shared.current.generation() == 0 {
            shared.set_state(State::Starting, None, |_| {});
        }
        // The watch returns the current results first. The first attempt reads the same ones.
        tokio::select! {
            biased;
            () = shared.interrupt.notified() => {}
            _ = watch.next() => {}
        }
        while shared.is_newest_task(self.id) {
            let longest = shared.settings.build_deadline.saturating_add(MAX_READ);
            self.expect_within(longest);
            let revision = shared.memory().rotation.revision;
            let read = self.next_read(revision);
            let outcome = tokio::select! {
                biased;
                // The attempt might use a secret that was just revoked.
                () = shared.interrupt.notified() => None,
                outcome = self.attempt(&read) => outcome,
            };
            let Some(outcome) = outcome else { continue };
            self.publish(&read, &outcome, revision);
            if let Read::Memory(_) = read {
                self.revision = revision;
                continue;
            }
            let wake_at = self.next_wake(&outcome);
            drop(outcome);
            self.wait(&mut watch, wake_at).await;
        }
    }

    /// Waits until `wake_at`, or until an attempt is needed earlier.
    async fn wait(&mut self, watch: &mut Watch, wake_at: Instant) {
        let shared = self.shared.clone();
        let ttl = shared.source.resolver.ttl();
        let heartbeat = ttl.clamp(MIN_HEARTBEAT, MAX_HEARTBEAT);
        while shared.is_newest_task(self.id) {
            self.expect_within(heartbeat * 2);
            tokio::select! {
                updates = watch.next() => match updates {
                    Some(_) => return,
                    // The resolver was closed, so nothing changes any more.
                    None => std::future::pending().await,
                },
                () = shared.wake.notified() => return,
                () = shared.interrupt.notified() => return,
                Some(read) = self.history_reads.join_next() => {
                    self.finish_history_reads(read);
                    return;
                }
                () = tokio::time::sleep_until(wake_at) => return,
                () = tokio::time::sleep(heartbeat) => {}
            }
        }
    }

    /// Promises to act within `time`. Afterwards, a reader starts another task on its own runtime.
    fn expect_within(&self, time: Duration) {
        if self.shared.is_newest_task(self.id) {
            self.shared.current.expect_within(time);
        }
    }

    /// Decides what the next attempt reads. A revocation with the number `revision` is first applied
    /// to the secrets in memory.
    fn next_read(&self, revision: u64) -> Read {
        let shared = &self.shared;
        let memory = shared.memory();
        if revision > self.revision && shared.current.generation() > 0 {
            return Read::Memory(memory.results.clone());
        }
        let requested = shared.requested_rebuilds.load(Ordering::SeqCst);
        let completed = shared.progress.borrow().completed_rebuilds;
        let rebuilds = (requested > completed).then_some(requested);
        Read::Resolver {
            fresh: rebuilds.is_some() || memory.rotation.unconfirmed || self.reads_again,
            rebuilds,
        }
    }

    /// Returns the time of the next attempt if no change notification and no request arrives.
    fn next_wake(&self, outcome: &Outcome) -> Instant {
        let retry = outcome.failure.as_ref().and_then(NotReady::retry_at);
        let memory = self.shared.memory();
        let transition = memory.rotation.rings.next_transition(outcome.read_at);
        let fallback = later(Instant::now(), Duration::from_secs(24 * 3600));
        // A read of a history that is overdue starts with the next rotation that is stored.
        let history = self.history_due.filter(|due| *due > outcome.read_at);
        let times = [retry, transition, history];
        times.into_iter().flatten().min().unwrap_or(fallback)
    }

    /// Reads the secrets, and builds from them if an input of the build has changed. Returns `None` if
    /// secrets were revoked meanwhile, or if another task has taken over.
    async fn attempt(&mut self, read: &Read) -> Option<Outcome> {
        let started = Instant::now();
        let shared = self.shared.clone();
        let is_first = shared.current.generation() == 0;
        if is_first {
            shared.set_state(State::Starting, None, |_| {});
        }
        let rotation = shared.memory().rotation.clone();
        let results = match read {
            Read::Memory(results) => results.clone(),
            Read::Resolver { fresh, .. } => shared.source.read(*fresh).await,
        };
        let mut outcome = Outcome {
            read_at: Instant::now(),
            failure: None,
            log: AttemptLog::default(),
            is_applied: false,
        };
        let (fields, epoch) = shared.source.split(results.clone());
        let checks = shared.checks(&rotation, shared.settings.mode);
        let input = match shared.spec.prepare(fields, checks) {
            Ok(input) => input,
            Err(problems) => {
                let retry_at = self.resolver_retry_at();
                return Some(outcome.failed(problems, retry_at, started));
            }
        };
        outcome.log.secrets.clone_from(&input.secrets);
        if is_first {
            self.read_first_histories(&rotation, &input.secrets).await;
        }
        let now = Instant::now();
        outcome.read_at = now;

        let mut problems = staleness(&input.secrets);
        problems.extend(epoch.as_ref().err().cloned());
        let is_fresh = matches!(read, Read::Resolver { fresh: true, .. });
        let forced = matches!(
            read,
            Read::Resolver {
                rebuilds: Some(_),
                ..
            }
        );
        let snapshot = Snapshot {
            secrets: &input.secrets,
            epoch,
            histories: &self.histories,
            forced,
            follows_revocation: is_fresh,
        };
        self.reads_again = false;
        let decision = decide(&rotation, &snapshot, &shared.rules, now);
        let (Next { rotation, revoked }, build) = match decision {
            Decision::Keep(next) => (next, None),
            Decision::Build(next) => match self.build(next, input, now).await {
                Ok((next, build)) => (next, Some(build)),
                Err(problems) => {
                    if is_first {
                        // The secret can be replaced before the first build, so they are read again.
                        self.histories.clear();
                    }
                    let retry_at = self.failures.retry_at(Instant::now());
                    return Some(outcome.failed(problems, retry_at, started));
                }
            },
            Decision::Fail(problems) => {
                self.reads_again = true;
                let retry_at = self.failures.retry_at(Instant::now());
                return Some(outcome.failed(problems, retry_at, started));
            }
        };
        if !self.commit(rotation, results, &outcome.log.secrets, build) {
            return None;
        }
        shared.log_revoked(&revoked);
        self.failures = Backoff::default();
        outcome.is_applied = true;
        Some(match problems.is_empty() {
            true => outcome.finished(started),
            false => outcome.failed(problems, self.resolver_retry_at(), started),
        })
    }

    /// Builds from `input`. Returns the rotation with the rings that the builder has requested, and
    /// the build.
    async fn build(
        &self,
        mut next: Next,
        input: BuildInput<A>,
        now: Instant,
    ) -> Result<(Next, A), Vec<Error>> {
        let shared = &self.shared;
        let generation = shared.current.generation();
        if generation > 0 {
            let history = shared.memory().history;
            let state = State::Rotating {
                generation,
                history,
            };
            shared.set_state(state, None, |_| {});
        }
        let requests = RingRequests::default();
        let context = BuildContext {
            mode: shared.settings.mode,
            generation: generation + 1,
            secrets: input.secrets.clone(),
            rings: next.rotation.rings.snapshots(now),
            policies: shared.settings.policies.clone(),
            requests: requests.clone(),
        };
        let rings = context.rings.clone();
        let building = catch_future(move || (input.build)(context));
        let built = tokio::time::timeout(shared.settings.build_deadline, building).await;
        let Requested { keys, mut weak } = requests.take();
        if shared.settings.mode == Mode::Production && !weak.is_empty() {
            return Err(weak.into_values().collect());
        }
        let problem = match built {
            Ok(Ok(Ok(build))) => {
                for problem in input.accepted_weaknesses {
                    problem
                        .key()
                        .map(|key| weak.insert(key.clone(), problem.clone()));
                }
                for weakness in weak.into_values() {
                    tracing::warn!(target: "secretwell::auth", event = "weak_secret_accepted", name = shared.settings.name.as_deref(), %weakness, "development mode: a weak secret is accepted");
                }
                let rotation = &mut next.rotation;
                rotation.built(&input.secrets, keys, &shared.rules, now);
                return Ok((next, build));
            }
            Ok(Ok(Err(error))) => builder_failed(&error, &input.secrets, &rings),
            Ok(Err(Panicked)) => Error::new(ErrorKind::Invalid, "the builder panicked")
                .with_hint("see the panic message in the output of the process"),
            Err(_) => Error::new(
                ErrorKind::Timeout,
                "the builder did not finish within the build deadline",
            )
            .with_hint("check what the builder waits for, or raise the build deadline"),
        };
        Err(vec![problem])
    }

    /// Stores the rotation and publishes the build. Starts to read the version histories that are
    /// missing. Returns whether the rotation was stored.
    fn commit(
        &mut self,
        mut rotation: Rotation,
        results: Results,
        secrets: &[(SecretKey, Resolved)],
        build: Option<A>,
    ) -> bool {
        let shared = self.shared.clone();
        let missing = self.missing_histories(&mut rotation, secrets);
        let history = match missing.is_empty() {
            true => VersionHistory::Complete,
            false => VersionHistory::Incomplete,
        };
        let accepts_history = rotation.accepts_history();
        let memory = Memory {
            rotation,
            results,
            history,
        };
        let is_stored = shared.commit(self.id, memory, build);
        if is_stored {
            self.histories.clear();
            let is_due = self.history_due.is_none_or(|due| due <= Instant::now());
            if accepts_history && is_due && self.history_reads.is_empty() {
                self.start_history_reads(missing);
            }
        }
        is_stored
    }

    /// Returns the secrets whose version history must be read. Records the keys without one.
    fn missing_histories(
        &self,
        rotation: &mut Rotation,
        secrets: &[(SecretKey, Resolved)],
    ) -> Vec<(SecretKey, Resolved)> {
        let resolver = &self.shared.source.resolver;
        let missing = rotation.missing_histories(secrets, &self.shared.rules);
        let timing = self.shared.rules.timing;
        let (missing, without): (Vec<_>, Vec<_>) =
            missing.into_iter().partition(|(key, secret)| {
                let provider = resolver.provider_of(key, secret);
                has_history(provider.as_ref(), secret, timing)
            });
        for (key, _) in without {
            rotation.has_no_history(key);
        }
        missing.into_iter().cloned().collect()
    }

    /// Reads the version histories that the first build needs. The start must not depend on them, so
    /// a source that hangs or fails here only delays it until the build deadline.
    async fn read_first_histories(
        &mut self,
        rotation: &Rotation,
        secrets: &[(SecretKey, Resolved)],
    ) {
        if self.history_reads.is_empty() && self.history_failures.is_empty() {
            let missing = self.missing_histories(&mut rotation.clone(), secrets);
            self.start_history_reads(missing);
        }
        while let Some(read) = self.history_reads.join_next().await {
            self.finish_history_reads(read);
        }
    }

    fn start_history_reads(&mut self, missing: Vec<(SecretKey, Resolved)>) {
        if missing.is_empty() {
            return;
        }
        self.history_due = None;
        let deadline = later(Instant::now(), self.shared.settings.build_deadline);
        let timing = self.shared.rules.timing;
        let resolver = self.shared.source.resolver.clone();
        // It is a task of its own, so that reads of the secrets never wait for it.
        self.history_reads.spawn(async move {
            let reads = missing.into_iter().map(|(key, secret)| {
                let provider = resolver.provider_of(&key, &secret).clone();
                read_history(provider, key, secret, timing, deadline)
            });
            join_bounded(CONCURRENT_HISTORIES, reads).await
        });
    }

    fn finish_history_reads(&mut self, reads: Result<HistoryReads, JoinError>) {
        let is_first_failure = self.history_failures.is_empty();
        let mut failed = reads.is_err();
        for (read, failure) in reads.unwrap_or_default() {
            if let Some((version, error)) = failure {
                failed = true;
                if is_first_failure {
                    tracing::warn!(target: "secretwell::auth", event = "history_incomplete", name = self.shared.settings.name.as_deref(), key = %read.key, %version, %error, "cannot read a previous version of the secret; older secrets do not verify until a retry succeeds");
                }
            }
            self.histories.push(read);
        }
        match failed {
            true => self.history_due = Some(self.history_failures.retry_at(Instant::now())),
            false => self.history_failures = Backoff::default(),
        }
    }

    /// Publishes the outcome of an attempt.
    fn publish(&self, read: &Read, outcome: &Outcome, revision: u64) {
        let shared = &self.shared;
        if !shared.is_newest_task(self.id) {
            return;
        }
        let (generation, history) = (shared.current.generation(), shared.memory().history);
        let mut failure = outcome.failure.clone();
        if let Read::Memory(_) = read {
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
            progress.attempts += 1;
            progress.failure = failure;
            if outcome.is_applied {
                progress.applied_revocations = revision;
            }
            if let Read::Resolver { fresh, rebuilds } = read {
                if *fresh {
                    progress.confirmed_revocations = revision;
                    progress.confirmation_failure.clone_from(&outcome.failure);
                }
                if let Some(rebuilds) = rebuilds {
                    progress.completed_rebuilds = *rebuilds;
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
}

impl<A> Drop for Rebuilder<A> {
    /// If only the runtime has ended, the next use of the auth starts another task.
    fn drop(&mut self) {
        if !self.shared.is_newest_task(self.id) {
            return;
        }
        self.shared.current.expect_now();
        self.shared.progress.send_modify(|progress| {
            if progress.state == State::Starting {
                progress.state = State::Idle;
            }
        });
    }
}

impl Outcome {
    fn finished(mut self, started: Instant) -> Self {
        self.log.took = started.elapsed();
        self
    }

    fn failed(mut self, problems: Vec<Error>, retry_at: Instant, started: Instant) -> Self {
        self.failure = Some(NotReady::new(problems, Some(retry_at)));
        self.finished(started)
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

/// The problem that the builder closure returned `error`, without the secret values in its text.
fn builder_failed(
    error: &BuildError,
    secrets: &[(SecretKey, Resolved)],
    rings: &HashMap<SecretKey, KeyRing>,
) -> Error {
    // The error is a type of the user, and so is the code that formats it.
    let Ok(scrubbed) = catch(|| error.scrubbed(secrets, rings)) else {
        return Error::new(
            ErrorKind::Invalid,
            "the builder failed, and its error panicked while it was formatted",
        );
    };
    let message = format!("the builder failed: {}", scrubbed.chain());
    let problem = Error::new(ErrorKind::Invalid, message);
    match scrubbed.source {
        Some(source) => problem.with_source(source),
        None => problem,
    }
}
