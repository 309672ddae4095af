//! [`Shared`]: the state that a [`LazyAuth`](crate::LazyAuth), its readers and its rebuild task share.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use secretwell_core::SecretKey;
use secretwell_resolver::load::PlannedField;
use secretwell_resolver::{Resolved, Resolver, clock};
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::built::Current;
use crate::decide::{Rotation, Rules};
use crate::mode::Mode;
use crate::panics::catch;
use crate::policy::{Policies, SecretPolicy, is_secret};
use crate::progress::Progress;
use crate::refresh::{Pace, Refreshes, has_changed};
use crate::ring::Timing;
use crate::source::{Results, Source};
use crate::spec::{BuildSpec, Checks, keys};
use crate::state::{Generation, NotReady, State, VersionHistory};

/// How long a caller that needs the rebuild task waits for a sign of it.
pub(crate) const RESPONSE_TIME: Duration = Duration::from_secs(1);
/// How long user code can block its thread beyond its deadline, before a reader starts another task.
const MAX_BLOCKING: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) mode: Mode,
    pub(crate) deadline: Duration,
    pub(crate) build_deadline: Duration,
    pub(crate) timing: Timing,
    pub(crate) policies: Arc<Policies>,
    pub(crate) revocation_key: Option<SecretKey>,
    pub(crate) name: Option<String>,
}

pub(crate) struct Shared<A> {
    pub(crate) source: Source,
    pub(crate) spec: Box<dyn BuildSpec<A>>,
    pub(crate) settings: Settings,
    pub(crate) rules: Rules,
    pub(crate) current: Current<A>,
    pub(crate) progress: watch::Sender<Progress>,
    /// Number of calls of [`LazyAuth::rebuild`](crate::LazyAuth::rebuild).
    pub(crate) requested_rebuilds: AtomicU64,
    /// The reads because of unknown keys.
    pub(crate) refreshes: Refreshes,
    /// The reads because of rejected builds.
    pub(crate) rejections: Refreshes,
    memory: Mutex<Memory>,
    task: Mutex<Task>,
}

/// The newest rebuild task. Only this one acts.
#[derive(Debug, Default)]
struct Task {
    /// The number of the task, or 0 before the first one.
    id: u64,
    abort: Option<AbortHandle>,
    /// Wakes this task. With one `Notify` for all tasks, a replaced one could take the wake-up.
    wake: Arc<Notify>,
    runs_user_code: bool,
    /// Whether the last clone of the auth was dropped.
    is_closed: bool,
}

/// A rebuild task that the caller must start.
#[derive(Debug)]
pub(crate) struct NewTask {
    pub(crate) id: u64,
    pub(crate) wake: Arc<Notify>,
    /// The task that it replaces.
    pub(crate) late: Option<AbortHandle>,
}

/// While it exists, the rebuild task runs user code.
pub(crate) struct UserCode<'a, A> {
    shared: &'a Shared<A>,
    task: u64,
}

/// What is remembered between two attempts, also when a rebuild task replaces another one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Memory {
    pub(crate) rotation: Rotation,
    /// The results that the current build was checked against last.
    pub(crate) results: Results,
    /// The results of the last attempt, if it could not use them.
    unusable: Option<Results>,
    pub(crate) history: VersionHistory,
    /// The time and the revocation that the rings were advanced to, or `None` before the first build.
    advanced_to: Option<(Instant, u64)>,
    /// The number of the last call of `revoke_previous` that has removed a secret. An attempt that started
    /// before is discarded, because it might use that secret.
    removed_by: u64,
}

/// What the log of an attempt contains beside the state.
#[derive(Debug, Default)]
pub(crate) struct AttemptLog {
    pub(crate) secrets: Vec<(SecretKey, Resolved)>,
    pub(crate) took: Duration,
}

impl Memory {
    /// Returns the memory after an attempt.
    pub(crate) fn new(rotation: Rotation, results: Results, history: VersionHistory) -> Self {
        Self {
            rotation,
            results,
            history,
            ..Self::default()
        }
    }

    /// Records that an attempt could not use `results`.
    pub(crate) fn set_unusable(&mut self, results: Results) {
        self.unusable = Some(results);
    }

    /// Returns whether an attempt has used these results, or has found that it cannot use them.
    pub(crate) fn knows(&self, results: &Results) -> bool {
        let known = std::iter::once(&self.results).chain(&self.unusable);
        known.into_iter().any(|known| !has_changed(known, results))
    }

    /// Returns the time of the next transition of the rings that was not applied yet.
    pub(crate) fn next_transition(&self) -> Option<Instant> {
        let (time, _) = self.advanced_to?;
        self.rotation.rings.next_transition(time)
    }

    /// Returns whether the rings must be advanced, because of a transition or a revocation.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.advanced_to
            .is_some_and(|(_, revision)| self.rotation.revision > revision)
            || self.next_transition().is_some_and(|time| time <= now)
    }

    /// Records an attempt to advance the rings. After a failure, the following attempts repeat it.
    pub(crate) fn set_advanced(&mut self, now: Instant, revision: u64) {
        if self.advanced_to.is_some() {
            self.advanced_to = Some((now, revision));
        }
    }

    /// Returns whether secrets were revoked in memory after the revocation with the number `revision`.
    pub(crate) fn was_revoked_after(&self, revision: u64) -> bool {
        self.removed_by > revision
    }

    /// Revokes all previous secrets. Returns the key of each of them.
    fn revoke_previous(&mut self) -> Vec<SecretKey> {
        let revoked = self.rotation.revoke_previous(Instant::now(), clock::wall());
        if !revoked.is_empty() {
            self.removed_by = self.rotation.revision;
        }
        revoked
    }
}

impl<A> Drop for UserCode<'_, A> {
    fn drop(&mut self) {
        let mut task = self.shared.task();
        if task.id == self.task {
            task.runs_user_code = false;
        }
    }
}

impl<A> Shared<A> {
    pub(crate) fn new(resolver: Resolver, spec: Box<dyn BuildSpec<A>>, settings: Settings) -> Self {
        let keys = keys(spec.as_ref());
        let named = settings.policies.signing.clone();
        let fields = spec.fields().unwrap_or_default().iter();
        // Before the first build, it is not known which rings the builder takes.
        let might_sign = |field: &&PlannedField| {
            SecretPolicy::of_key(&field.key) != SecretPolicy::Unchecked
                || named.is_empty() && is_secret(field)
        };
        let candidates = fields.filter(might_sign).map(|field| field.key.clone());
        let ttl = resolver.ttl();
        Self {
            source: Source::new(resolver, keys, settings.revocation_key.clone()),
            rules: Rules {
                timing: settings.timing,
                ttl,
                candidates: candidates.collect(),
                named,
            },
            spec,
            settings,
            current: Current::default(),
            progress: watch::channel(Progress::idle()).0,
            requested_rebuilds: AtomicU64::new(0),
            refreshes: Refreshes::new(Pace::STEADY),
            rejections: Refreshes::new(Pace::DOUBLING),
            memory: Mutex::default(),
            task: Mutex::default(),
        }
    }

    pub(crate) fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn task(&self) -> MutexGuard<'_, Task> {
        self.task.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the rebuild task that the caller must start, unless one already runs on time.
    pub(crate) fn new_task(&self) -> Option<NewTask> {
        let mut task = self.task();
        let runs = task.id > 0 && !self.current.is_overdue();
        if runs || task.is_closed {
            return None;
        }
        // The runtime of the caller might never run the task.
        self.current.expect_within(RESPONSE_TIME);
        task.id += 1;
        task.wake = Arc::default();
        task.runs_user_code = false;
        Some(NewTask {
            id: task.id,
            wake: task.wake.clone(),
            late: task.abort.take(),
        })
    }

    /// Records that the task `id` was started.
    pub(crate) fn task_started(&self, id: u64, abort: AbortHandle) {
        let mut task = self.task();
        if task.id == id {
            task.abort = Some(abort);
        } else {
            drop(task);
            abort.abort();
        }
    }

    /// Returns whether `id` is the number of the newest rebuild task.
    pub(crate) fn is_newest_task(&self, id: u64) -> bool {
        self.task().id == id
    }

    /// The task `id` promises to act within `time`. Afterwards, a reader starts another task on its own
    /// runtime.
    pub(crate) fn promise(&self, id: u64, time: Duration) {
        let task = self.task();
        if task.id == id && !task.runs_user_code {
            self.current.expect_within(time);
        }
    }

    /// The task `id` runs user code for at most `time`. User code can block the thread, so callers must
    /// not expect the task to respond earlier.
    pub(crate) fn user_code(&self, id: u64, time: Duration) -> UserCode<'_, A> {
        let mut task = self.task();
        if task.id == id {
            // A task that was paused is still late.
            if !self.is_paused() {
                self.current
                    .expect_within(time.saturating_add(MAX_BLOCKING));
            }
            task.runs_user_code = true;
        }
        UserCode {
            shared: self,
            task: id,
        }
    }

    /// Wakes the rebuild task for a caller that needs it. If it does not respond within
    /// [`RESPONSE_TIME`], it is overdue.
    pub(crate) fn wake(&self) {
        let wake = {
            let task = self.task();
            if !task.runs_user_code {
                self.current.expect_at_most(RESPONSE_TIME);
            }
            task.wake.clone()
        };
        wake.notify_one();
    }

    /// Returns whether a caller waits for an attempt to read the source that has not ended yet.
    pub(crate) fn is_requested(&self) -> bool {
        let revision = self.memory().rotation.revision;
        let progress = self.progress.borrow();
        self.requested_rebuilds() > progress.completed_rebuilds
            || revision > progress.confirmed_revocations
    }

    /// Returns the number of calls of [`LazyAuth::rebuild`](crate::LazyAuth::rebuild).
    pub(crate) fn requested_rebuilds(&self) -> u64 {
        self.requested_rebuilds.load(Ordering::SeqCst)
    }

    /// Returns whether the rebuild task was paused, so that the current build might be outdated.
    pub(crate) fn is_paused(&self) -> bool {
        self.current.generation() > 0 && self.current.is_overdue()
    }

    /// Returns the results that the current build uses, unless it is newer than `generation`.
    pub(crate) fn results_of(&self, generation: Generation) -> Option<Results> {
        let memory = self.memory();
        (self.current.generation() <= generation).then(|| memory.results.clone())
    }

    /// Returns how the secrets of a build are checked.
    pub(crate) fn checks<'a>(&'a self, rotation: &'a Rotation, mode: Mode) -> Checks<'a> {
        Checks {
            mode,
            policies: &self.settings.policies,
            requested: rotation.requested(),
            name: self.settings.name.as_deref(),
        }
    }

    /// Revokes all previous secrets in memory. Returns the number of this revocation, and how many
    /// secrets it has revoked.
    pub(crate) fn revoke_previous(&self) -> (u64, usize) {
        let (revision, revoked) = {
            let mut memory = self.memory();
            let revoked = memory.revoke_previous();
            (memory.rotation.revision, revoked)
        };
        self.log_revoked(&revoked);
        (revision, revoked.len())
    }

    /// Stores `memory` after an attempt, and publishes its build if there is one. `now` is the time of
    /// the rings.
    ///
    /// Returns whether that was done. It is not done if another rebuild task has taken over, or if
    /// secrets were revoked since the attempt started.
    pub(crate) fn commit(
        &self,
        task: u64,
        mut memory: Memory,
        build: Option<A>,
        now: Instant,
    ) -> bool {
        let revision = memory.rotation.revision;
        let mut revoked = Vec::new();
        let dropped = {
            let mut stored = self.memory();
            if !self.is_newest_task(task) || stored.was_revoked_after(revision) {
                drop(stored);
                let _ = catch(|| drop((memory, build)));
                return false;
            }
            memory.removed_by = stored.removed_by;
            memory.advanced_to = Some((now, revision));
            // Calls since the attempt started, which have found no previous secret.
            while memory.rotation.revision < stored.rotation.revision {
                revoked.append(&mut memory.revoke_previous());
            }
            let memory = std::mem::replace(&mut *stored, memory);
            let generation = self.current.generation() + 1;
            let build = build.and_then(|build| self.current.replace(build, generation));
            (memory, build)
        };
        // The previous build is user code, so it is dropped without a lock.
        let _ = catch(|| drop(dropped));
        self.log_revoked(&revoked);
        true
    }

    /// Ends the rebuild task, when the last clone of the auth is dropped.
    pub(crate) fn close(&self) {
        let task = {
            let mut task = self.task();
            task.id += 1;
            task.is_closed = true;
            self.current.expect_within(Duration::MAX);
            task.abort.take()
        };
        if let Some(task) = task {
            task.abort();
        }
        self.progress
            .send_modify(|progress| progress.is_closed = true);
        #[cfg(feature = "metrics")]
        self.report_state();
    }

    /// Reports the state and the current build in metrics. Must be called without a lock.
    #[cfg(feature = "metrics")]
    pub(crate) fn report_state(&self) {
        let name = self.settings.name.as_deref();
        loop {
            let state = self.progress.borrow().reported_state(&self.current);
            let generation = state.map_or(0, |_| self.current.generation());
            crate::report::state(name, state, generation);
            // If the auth was dropped during the report, this report might have replaced the last one.
            if state.is_none() || !self.progress.borrow().is_closed {
                return;
            }
        }
    }

    /// Changes the progress, and logs the new state if it has changed.
    pub(crate) fn set_state(
        &self,
        state: State,
        attempt: Option<&AttemptLog>,
        change: impl FnOnce(&mut Progress),
    ) {
        let mut is_news = false;
        // The errors of a source are foreign code, so they are not dropped while the progress is locked.
        let mut before = None;
        self.progress.send_modify(|progress| {
            before = Some(progress.clone());
            is_news = progress.state != state && !is_repetition(progress, &state);
            change(progress);
            progress.state = state.clone();
        });
        let _ = catch(|| drop(before));
        #[cfg(feature = "metrics")]
        self.report_state();
        if is_news {
            // A panic of a subscriber must not end the rebuild task.
            let _ = catch(|| self.log_state(&state, attempt));
        }
    }

    fn log_state(&self, state: &State, attempt: Option<&AttemptLog>) {
        let failure = match state {
            State::Failed { failure } | State::Degraded { failure, .. } => Some(failure),
            _ => None,
        };
        macro_rules! event {
            ($level:ident) => {
                tracing::$level!(
                    target: "secretwell::auth",
                    event = "state_changed",
                    name = self.settings.name.as_deref(),
                    state = state.name(),
                    generation = state.generation(),
                    history = state.history().map(VersionHistory::name),
                    mode = %self.settings.mode,
                    origin = %self.source.resolver.origin(),
                    secrets = attempt.and_then(|attempt| describe(&attempt.secrets)),
                    problems = failure.map(tracing::field::display),
                    took = attempt.map(|attempt| tracing::field::debug(attempt.took)),
                    "{} is {}",
                    self.settings.name.as_deref().unwrap_or("auth"),
                    state.name(),
                )
            };
        }
        match state {
            State::Failed { failure } if !failure.is_temporary() => event!(error),
            State::Failed { .. } | State::Degraded { .. } => event!(warn),
            _ => event!(info),
        }
    }

    /// Logs that previous secrets were revoked. `keys` has one key for each of them.
    pub(crate) fn log_revoked(&self, keys: &[SecretKey]) {
        for group in keys.chunk_by(|one, next| one == next) {
            tracing::info!(
                target: "secretwell::auth",
                event = "previous_secrets_revoked",
                name = self.settings.name.as_deref(),
                key = %group[0],
                count = group.len(),
                "previous secrets are revoked and verify no longer",
            );
        }
    }

    pub(crate) fn log_dropped(&self, keys: &[SecretKey]) {
        for group in keys.chunk_by(|one, next| one == next) {
            tracing::warn!(
                target: "secretwell::auth",
                event = "previous_secrets_dropped",
                name = self.settings.name.as_deref(),
                key = %group[0],
                count = group.len(),
                limit = self.settings.timing.max_previous,
                "there are more previous secrets than `max_previous`; the oldest verify no longer, although their grace period has not ended",
            );
        }
    }
}

/// Returns whether `state` belongs to a retry that fails with the same problems as before.
fn is_repetition(before: &Progress, state: &State) -> bool {
    match (&before.failure, state) {
        (Some(_), State::Starting | State::Rotating { .. }) => true,
        (Some(failure), State::Failed { failure: new } | State::Degraded { failure: new, .. }) => {
            failure == new && before.state.name() != "ready"
        }
        _ => false,
    }
}

/// Formats each secret as `AUTH_SECRET@3 fresh from env://`, without its value. Returns `None` if
/// there are no secrets.
fn describe(secrets: &[(SecretKey, Resolved)]) -> Option<String> {
    let describe_one = |(key, secret): &(SecretKey, Resolved)| {
        let version = secret.version.as_ref();
        let version = version.map_or_else(String::new, |version| format!("@{version}"));
        let freshness = match secret.freshness.is_stale() {
            true => "stale",
            false => "fresh",
        };
        format!("{key}{version} {freshness} from {}", secret.origin)
    };
    let texts: Vec<String> = secrets.iter().map(describe_one).collect();
    (!texts.is_empty()).then(|| texts.join(", "))
}

/// Returns the error of a caller whose deadline has passed before the first build.
pub(crate) fn first_build_in_progress() -> NotReady {
    NotReady::unavailable(
        "the first build is still in progress",
        "check that the source responds, or wait longer",
    )
}
