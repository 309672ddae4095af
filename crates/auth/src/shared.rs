//! [`Shared`]: the state that a [`LazyAuth`](crate::LazyAuth), its readers and its rebuild task share.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use secretwell_core::SecretKey;
use secretwell_resolver::{Resolved, Resolver};
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::built::Current;
use crate::decide::{Rotation, Rules};
use crate::mode::Mode;
use crate::panics::catch;
use crate::policy::{Policies, is_secret};
use crate::progress::Progress;
use crate::ring::Timing;
use crate::source::{Results, Source};
use crate::spec::{BuildSpec, Checks, keys};
use crate::state::{NotReady, State, VersionHistory};

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
    /// Ends the wait of the rebuild task.
    pub(crate) wake: Notify,
    /// Ends the wait or the attempt of the rebuild task, because of a revocation.
    pub(crate) interrupt: Notify,
    /// Number of calls of [`LazyAuth::rebuild`](crate::LazyAuth::rebuild).
    pub(crate) requested_rebuilds: AtomicU64,
    memory: Mutex<Memory>,
    /// The newest rebuild task.
    task: Mutex<Option<AbortHandle>>,
    /// The number of rebuild tasks that were started. Only the newest one acts.
    task_id: AtomicU64,
}

/// What is remembered between two attempts, and when a rebuild task replaces another one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Memory {
    pub(crate) rotation: Rotation,
    /// The results that the current build was checked against last.
    pub(crate) results: Results,
    pub(crate) history: VersionHistory,
}

/// What the log of an attempt contains beside the state.
#[derive(Debug, Default)]
pub(crate) struct AttemptLog {
    pub(crate) secrets: Vec<(SecretKey, Resolved)>,
    pub(crate) took: Duration,
}

impl<A> Shared<A> {
    pub(crate) fn new(resolver: Resolver, spec: Box<dyn BuildSpec<A>>, settings: Settings) -> Self {
        let keys = keys(spec.as_ref());
        let named = settings.policies.signing.clone();
        let fields = spec.fields().unwrap_or_default().iter();
        let candidates = match named.is_empty() {
            true => fields
                .filter(|field| is_secret(field))
                .map(|field| field.key.clone())
                .collect(),
            false => named.clone(),
        };
        Self {
            source: Source::new(resolver, keys, settings.revocation_key.clone()),
            rules: Rules {
                timing: settings.timing,
                named,
                candidates,
            },
            spec,
            settings,
            current: Current::default(),
            progress: watch::channel(Progress::idle()).0,
            wake: Notify::new(),
            interrupt: Notify::new(),
            requested_rebuilds: AtomicU64::new(0),
            memory: Mutex::default(),
            task: Mutex::default(),
            task_id: AtomicU64::new(0),
        }
    }

    pub(crate) fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn task(&self) -> MutexGuard<'_, Option<AbortHandle>> {
        self.task.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the number of a new rebuild task. The previous one no longer acts.
    pub(crate) fn next_task_id(&self) -> u64 {
        self.task_id.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Returns whether `id` is the number of the newest rebuild task.
    pub(crate) fn is_newest_task(&self, id: u64) -> bool {
        self.task_id.load(Ordering::Relaxed) == id
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
            let revoked = memory
                .rotation
                .revoke_previous(Instant::now(), SystemTime::now());
            (memory.rotation.revision, revoked)
        };
        self.log_revoked(&revoked);
        self.interrupt.notify_one();
        (revision, revoked.len())
    }

    /// Stores the rotation after an attempt, and publishes its build if there is one.
    ///
    /// Returns whether that was done. It is not done if another rebuild task has taken over, or if
    /// secrets were revoked since the attempt started.
    pub(crate) fn commit(&self, task: u64, memory: Memory, build: Option<A>) -> bool {
        let dropped = {
            let mut stored = self.memory();
            if !self.is_newest_task(task) || stored.rotation.revision != memory.rotation.revision {
                drop(stored);
                let _ = catch(|| drop(build));
                return false;
            }
            let memory = std::mem::replace(&mut *stored, memory);
            let generation = self.current.generation() + 1;
            let build = build.and_then(|build| self.current.replace(build, generation));
            (memory, build)
        };
        // The previous build is user code, so it is dropped without a lock.
        let _ = catch(|| drop(dropped));
        true
    }

    /// Ends the rebuild task, when the last clone of the auth is dropped.
    pub(crate) fn close(&self) {
        self.next_task_id();
        self.current.expect_within(Duration::MAX);
        if let Some(task) = self.task().take() {
            task.abort();
        }
        self.progress
            .send_modify(|progress| progress.is_closed = true);
    }

    /// Changes the progress, and logs the new state if it has changed.
    pub(crate) fn set_state(
        &self,
        state: State,
        attempt: Option<&AttemptLog>,
        change: impl FnOnce(&mut Progress),
    ) {
        let mut is_news = false;
        self.progress.send_modify(|progress| {
            is_news = progress.state != state && !is_repetition(progress, &state);
            change(progress);
            progress.state = state.clone();
        });
        if is_news {
            self.log_state(&state, attempt);
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
