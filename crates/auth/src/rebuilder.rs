//! The background task of a [`LazyAuth`](crate::LazyAuth). It builds, rebuilds on rotation, and
//! publishes the state.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use secretwell_core::{Error, ErrorKind, SecretKey};
use secretwell_resolver::clock;
use secretwell_resolver::{Freshness, Resolved};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::built::{Guard, publish};
use crate::history::load_history;
use crate::lazy::Inner;
use crate::policy::is_secret;
use crate::ring::{Rings, later};
use crate::spec::{BuildInput, keys};
use crate::{BuildContext, Generation, NotReady, State};

/// Maximum delay before a failed build is retried.
const MAX_RETRY_DELAY: Duration = Duration::from_secs(300);
/// The rebuilder shows that it runs once per ttl, within these bounds.
const MIN_HEARTBEAT: Duration = Duration::from_millis(50);
const MAX_HEARTBEAT: Duration = Duration::from_secs(5);
/// The longest time that the reads of one attempt can take.
const MAX_READ: Duration = Duration::from_secs(120);

/// The rebuild task. It runs from the first use of an auth until the auth is dropped or the runtime
/// ends.
///
/// Its loop makes an attempt and then waits for a change notification, a request or a timer.
pub(crate) struct Rebuilder<A> {
    id: u64,
    auth: Weak<Inner<A>>,
    wake: Arc<Notify>,
    rotation: RotationState,
    generation: Generation,
    build_failures: BuildFailures,
}

/// The key rings that the current build was made with. The auth stores a copy, so that the previous
/// secrets are not lost when a new rebuilder replaces one whose runtime ended.
#[derive(Debug, Clone, Default)]
pub(crate) struct RotationState {
    rings: Rings,
    fingerprint: Option<HashMap<SecretKey, (u64, Vec<u64>)>>,
}

/// Failures of the builder closure since the last successful build.
#[derive(Default)]
struct BuildFailures {
    since: Option<Instant>,
    count: u32,
}

/// Result of one attempt to read the secrets and build from them.
struct Outcome {
    /// When the secrets were read. The attempt covers all transitions of the rings up to this time.
    read_at: Instant,
    failure: Option<NotReady>,
    took: Duration,
    secrets: Vec<(SecretKey, Resolved)>,
}

impl<A: Send + Sync + 'static> Rebuilder<A> {
    pub(crate) fn new(auth: &Arc<Inner<A>>) -> Self {
        Self {
            id: auth.rebuilder_id.load(Ordering::Relaxed),
            auth: auth.weak(),
            wake: auth.wake.clone(),
            rotation: auth.rotation().clone(),
            generation: Guard::new(&auth.current).map_or(0, |guard| guard.generation()),
            build_failures: BuildFailures::default(),
        }
    }

    pub(crate) async fn run(mut self) {
        let Some(mut watch) = self
            .auth
            .upgrade()
            .and_then(|auth| auth.resolver.watch(&keys(auth.spec.as_ref())).ok())
        else {
            return;
        };
        watch.next().await;
        loop {
            let Some(auth) = self.auth.upgrade() else {
                return;
            };
            if !self.is_newest(&auth) {
                return;
            }
            let rebuilds = auth.requested_rebuilds.load(Ordering::SeqCst);
            let forced = rebuilds > auth.progress.borrow().completed_rebuilds;
            let attempt = auth.settings.build_deadline.saturating_add(MAX_READ);
            self.promise(&auth, attempt);
            let outcome = self.attempt(&auth, forced).await;
            let wake_at = self.next_wake(&outcome);
            self.publish(&auth, outcome, rebuilds);
            let heartbeat = auth.resolver.ttl().clamp(MIN_HEARTBEAT, MAX_HEARTBEAT);
            self.promise(&auth, heartbeat * 2);
            // The task must not keep the auth alive while it waits.
            drop(auth);
            loop {
                tokio::select! {
                    _ = watch.next() => break,
                    () = self.wake.notified() => break,
                    () = tokio::time::sleep_until(wake_at) => break,
                    () = tokio::time::sleep(heartbeat) => {}
                }
                match self.auth.upgrade() {
                    Some(auth) if self.is_newest(&auth) => self.promise(&auth, heartbeat * 2),
                    _ => return,
                }
            }
        }
    }

    /// Promises to act within `time`. Afterwards, a reader starts another rebuilder on its own runtime.
    fn promise(&self, auth: &Inner<A>, time: Duration) {
        if self.is_newest(auth) {
            let due = clock::coarse().after(time).to_nanos();
            auth.rebuilder_due.store(due, Ordering::Relaxed);
        }
    }

    /// Returns the time of the next attempt if no change notification and no request arrives.
    fn next_wake(&self, outcome: &Outcome) -> Instant {
        let retry = outcome.failure.as_ref().and_then(NotReady::retry_at);
        let transition = self.rotation.rings.next_transition(outcome.read_at);
        let fallback = later(Instant::now(), Duration::from_secs(24 * 3600));
        [retry, transition]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(fallback)
    }

    /// Reads the secrets, and builds if this is a forced rebuild or if a key ring has changed.
    async fn attempt(&mut self, auth: &Arc<Inner<A>>, forced: bool) -> Outcome {
        let started = Instant::now();
        if self.generation == 0 {
            set_state(auth, State::Starting, None);
        }
        let keys = keys(auth.spec.as_ref());
        let revoking = auth.revoking.load(Ordering::SeqCst);
        if revoking {
            // A cached value might be the secret that is revoked.
            keys.iter().for_each(|key| auth.resolver.invalidate(key));
        }
        let results = if forced && !revoking {
            auth.resolver.refresh_after_write(&keys).await
        } else {
            auth.resolver.get_many(&keys).await
        };
        let now = Instant::now();
        let outcome = |failure, secrets| Outcome {
            read_at: now,
            failure,
            took: started.elapsed(),
            secrets,
        };
        let retry_at = auth
            .resolver
            .retry_in(&keys)
            .map_or_else(|| later(now, auth.resolver.ttl()), |wait| later(now, wait));
        let prepared = auth
            .spec
            .prepare(results, auth.settings.mode, &auth.settings.policy);
        let BuildInput {
            secrets,
            accepted_weaknesses,
            build,
        } = match prepared {
            Ok(input) => input,
            Err(problems) => {
                return outcome(Some(NotReady::new(problems, Some(retry_at))), Vec::new());
            }
        };

        let mut rings = self
            .rotation
            .rings
            .rotated(&secrets, auth.settings.timing, now);
        if revoking {
            rings.revoke_previous(now);
        } else {
            // The start must not depend on the history, so a source that hangs here only costs it.
            let history = self.load_history(auth, &mut rings, &secrets, now);
            let loaded = tokio::time::timeout(auth.settings.build_deadline, history).await;
            if loaded.is_err() {
                tracing::warn!(target: "secretwell::auth", event = "history_timed_out", "the version history was not read within the build deadline; previous secrets do not verify");
            }
        }
        let fingerprint = Some(rings.fingerprint(now));
        if fingerprint != self.rotation.fingerprint || forced {
            if self.generation > 0 {
                set_state(
                    auth,
                    State::Rotating {
                        generation: self.generation,
                    },
                    None,
                );
            }
            for weakness in accepted_weaknesses {
                tracing::warn!(target: "secretwell::auth", event = "weak_secret_accepted", %weakness, "development mode: a weak secret is accepted");
            }
            let context = BuildContext {
                mode: auth.settings.mode,
                generation: self.generation + 1,
                secrets: secrets.clone(),
                rings: rings.snapshots(now),
            };
            let building = catch_panic(AssertUnwindSafe(move || build(context)));
            let built = tokio::time::timeout(auth.settings.build_deadline, building).await;
            let problem = match built {
                Ok(Some(Ok(value))) => {
                    self.build_failures = BuildFailures::default();
                    self.generation += 1;
                    self.rotation = RotationState { rings, fingerprint };
                    *auth.rotation() = self.rotation.clone();
                    if revoking {
                        auth.revoking.store(false, Ordering::SeqCst);
                    }
                    publish(&auth.current, value, self.generation);
                    None
                }
                Ok(Some(Err(error))) => {
                    let scrubbed = error.scrubbed(&secrets, &rings.snapshots(now));
                    let problem = Error::new(
                        ErrorKind::Invalid,
                        format!("the builder failed: {}", scrubbed.chain()),
                    );
                    Some(match scrubbed.source {
                        Some(source) => problem.with_source(source),
                        None => problem,
                    })
                }
                Ok(None) => Some(
                    Error::new(ErrorKind::Invalid, "the builder panicked")
                        .with_hint("see the panic message in the output of the process"),
                ),
                Err(_) => Some(
                    Error::new(
                        ErrorKind::Timeout,
                        "the builder did not finish within the build deadline",
                    )
                    .with_hint("check what the builder waits for, or raise the build deadline"),
                ),
            };
            if let Some(problem) = problem {
                let retry_at = self.build_failures.retry_at(Instant::now());
                return outcome(Some(NotReady::new(vec![problem], Some(retry_at))), secrets);
            }
        }
        let stale = staleness(&secrets);
        let failure = (!stale.is_empty()).then(|| NotReady::new(stale, Some(retry_at)));
        outcome(failure, secrets)
    }

    /// Adds the version history of the source to the rings of keys that had no ring before.
    async fn load_history(
        &self,
        auth: &Inner<A>,
        rings: &mut Rings,
        secrets: &[(SecretKey, Resolved)],
        now: Instant,
    ) {
        let fields = auth.spec.fields().unwrap_or_default();
        let can_sign = |key: &SecretKey| {
            fields
                .iter()
                .any(|field| field.key == *key && is_secret(field))
        };
        let new = secrets
            .iter()
            .filter(|(key, _)| can_sign(key) && !self.rotation.rings.contains(key));
        for (key, secret) in new {
            let history = load_history(&auth.resolver, key, secret, auth.settings.timing).await;
            if let Some(history) = history {
                rings.add_history(key, history, now);
            }
        }
    }

    /// Publishes the outcome of an attempt that completes the first `rebuilds` requested rebuilds.
    fn publish(&self, auth: &Inner<A>, outcome: Outcome, rebuilds: u64) {
        let generation = self.generation;
        let state = match &outcome.failure {
            None => State::Ready { generation },
            Some(failure) if generation > 0 => State::Degraded {
                generation,
                failure: failure.clone(),
            },
            Some(failure) => State::Failed {
                failure: failure.clone(),
            },
        };
        set_state(auth, state, Some((&outcome, rebuilds)));
    }
}

impl BuildFailures {
    /// Counts a failure and returns the time of the next build. The first retry is immediate. Later
    /// retries wait for one eighth of the time since the first failure, at least 1 s and at most
    /// [`MAX_RETRY_DELAY`].
    fn retry_at(&mut self, now: Instant) -> Instant {
        let since = *self.since.get_or_insert(now);
        self.count = self.count.saturating_add(1);
        match self.count {
            1 => now,
            _ => now + ((now - since) / 8).clamp(Duration::from_secs(1), MAX_RETRY_DELAY),
        }
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

/// Runs a builder closure in a task. Returns `None` if it panicked.
async fn catch_panic<F, B, R>(build: AssertUnwindSafe<F>) -> Option<R>
where
    F: FnOnce() -> B + Send + 'static,
    B: Future<Output = R> + Send + 'static,
    R: Send + 'static,
{
    let mut task = tokio::task::JoinSet::new();
    task.spawn(async move { (build.0)().await });
    task.join_next().await.and_then(Result::ok)
}

/// Sets the state, and logs it if it has changed.
///
/// `finished` is the outcome of a finished attempt, with the number of rebuilds that it completes.
fn set_state<A>(auth: &Inner<A>, state: State, finished: Option<(&Outcome, u64)>) {
    let mut changed = false;
    auth.progress.send_modify(|progress| {
        // A retry that fails with the same problems is not logged again.
        let is_repetition = matches!(
            (&progress.failure, &state),
            (Some(_), State::Starting | State::Rotating { .. })
        ) || matches!((&progress.failure, &state),
                (Some(before), State::Failed { failure } | State::Degraded { failure, .. })
                if before == failure && progress.state.name() != "ready");
        changed = progress.state != state && !is_repetition;
        if let Some((outcome, rebuilds)) = finished {
            progress.attempts += 1;
            progress.completed_rebuilds = rebuilds;
            progress.failure = outcome.failure.clone();
        }
        progress.state = state.clone();
    });
    if changed {
        log(auth, &state, finished.map(|(outcome, _)| outcome));
    }
}

fn log<A>(auth: &Inner<A>, state: &State, outcome: Option<&Outcome>) {
    macro_rules! event {
        ($level:ident) => {
            tracing::$level!(
                target: "secretwell::auth",
                event = "state_changed",
                state = state.name(),
                generation = state.generation(),
                mode = %auth.settings.mode,
                origin = %auth.resolver.origin(),
                secrets = outcome.and_then(|outcome| describe(&outcome.secrets)),
                problems = outcome.and_then(|o| o.failure.as_ref()).map(tracing::field::display),
                took = outcome.map(|outcome| tracing::field::debug(outcome.took)),
                "auth is {}",
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

/// Formats each secret as `AUTH_SECRET@3 fresh from env://`, without its value. Returns `None` if
/// there are no secrets.
fn describe(secrets: &[(SecretKey, Resolved)]) -> Option<String> {
    let mut text = String::new();
    for (key, secret) in secrets {
        let separator = if text.is_empty() { "" } else { ", " };
        let version = secret
            .version
            .as_ref()
            .map_or_else(String::new, |version| format!("@{version}"));
        let freshness = if secret.freshness.is_stale() {
            "stale"
        } else {
            "fresh"
        };
        text += &format!(
            "{separator}{key}{version} {freshness} from {}",
            secret.origin
        );
    }
    (!text.is_empty()).then_some(text)
}

impl<A> Rebuilder<A> {
    /// Returns whether no other rebuilder has replaced this one.
    fn is_newest(&self, auth: &Inner<A>) -> bool {
        auth.rebuilder_id.load(Ordering::Relaxed) == self.id
    }
}

impl<A> Drop for Rebuilder<A> {
    /// Marks the rebuilder as stopped. If only the runtime has ended, the next use of the auth
    /// starts another rebuilder.
    fn drop(&mut self) {
        let Some(auth) = self.auth.upgrade() else {
            return;
        };
        if !self.is_newest(&auth) {
            return;
        }
        auth.rebuilder_stopped.store(true, Ordering::Relaxed);
        auth.progress.send_modify(|progress| {
            if progress.state == State::Starting {
                progress.state = State::Idle;
            }
        });
    }
}
