//! The background task of a lazily built auth: starts it, rotates it, and says how it stands.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use secretwell_core::{Error, ErrorKind, SecretKey};
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

/// The longest wait before a build that failed is tried again.
const LONGEST_RETRY: Duration = Duration::from_secs(300);

/// Lives from the first use of an auth until the auth is dropped or its runtime ends.
///
/// One loop does it all: attempt, then wait for whatever makes the next attempt worth while.
pub(crate) struct Rebuilder<A> {
    auth: Weak<Inner<A>>,
    wake: Arc<Notify>,
    rotation: RotationState,
    generation: Generation,
    build_failures: BuildFailures,
}

/// What the build in service was made from. The auth keeps it for the next rebuilder, which must not
/// forget the previous secrets.
#[derive(Debug, Clone, Default)]
pub(crate) struct RotationState {
    rings: Rings,
    fingerprint: Option<HashMap<SecretKey, (u64, Vec<u64>)>>,
}

/// How builds have failed since the last good one.
#[derive(Default)]
struct BuildFailures {
    since: Option<Instant>,
    count: u32,
}

/// How an attempt ended.
struct Outcome {
    /// When the secrets were read: what was due by then has been done.
    at: Instant,
    failure: Option<NotReady>,
    took: Duration,
    secrets: Vec<(SecretKey, Resolved)>,
}

impl<A: Send + Sync + 'static> Rebuilder<A> {
    pub(crate) fn new(auth: &Arc<Inner<A>>) -> Self {
        Self {
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
            .map(|auth| auth.resolver.watch(&keys(auth.spec.as_ref())))
        else {
            return;
        };
        loop {
            let Some(auth) = self.auth.upgrade() else {
                return;
            };
            let served = auth.requests.load(Ordering::SeqCst);
            let forced = served > auth.progress.borrow().served;
            let outcome = self.attempt(&auth, forced).await;
            let wake = self.next_wake(&outcome);
            self.publish(&auth, outcome, served);
            drop(auth);
            tokio::select! {
                _ = watch.changed() => {}
                () = self.wake.notified() => {}
                () = tokio::time::sleep_until(wake) => {}
            }
        }
    }

    /// When to look again if nothing happens.
    fn next_wake(&self, outcome: &Outcome) -> Instant {
        let retry = outcome.failure.as_ref().and_then(NotReady::retry_at);
        let transition = self.rotation.rings.next_transition(outcome.at);
        let never = later(Instant::now(), Duration::from_secs(24 * 3600));
        [retry, transition]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(never)
    }

    /// Reads the secrets, and builds if what a build would see has changed.
    async fn attempt(&mut self, auth: &Arc<Inner<A>>, forced: bool) -> Outcome {
        let started = Instant::now();
        if self.generation == 0 {
            set_state(auth, State::Starting, None);
        }
        let keys = keys(auth.spec.as_ref());
        let revoking = auth.revoking.load(Ordering::SeqCst);
        if revoking {
            // Even an answer of a moment ago may be the secret that is to go.
            keys.iter().for_each(|key| auth.resolver.invalidate(key));
        }
        let answers = if forced && !revoking {
            auth.resolver.refresh_after_write(&keys).await
        } else {
            auth.resolver.get_many(&keys).await
        };
        let now = Instant::now();
        let outcome = |failure, secrets| Outcome {
            at: now,
            failure,
            took: started.elapsed(),
            secrets,
        };
        let retry_at = auth
            .resolver
            .retry_at(&keys)
            .unwrap_or_else(|| later(now, auth.resolver.ttl()));
        let prepared = auth
            .spec
            .prepare(answers, auth.settings.mode, &auth.settings.policy);
        let BuildInput {
            secrets,
            tolerated,
            finish,
        } = match prepared {
            Ok(input) => input,
            Err(problems) => {
                return outcome(Some(NotReady::new(problems, Some(retry_at))), Vec::new());
            }
        };

        let mut rings = self
            .rotation
            .rings
            .with(&secrets, auth.settings.timing, now);
        if revoking {
            rings.revoke_previous(now);
        } else {
            self.load_history(auth, &mut rings, &secrets, now).await;
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
            for weakness in tolerated {
                tracing::warn!(target: "secretwell::auth", event = "weak_secret_accepted", %weakness, "development mode: a weak secret is accepted");
            }
            let context = BuildContext {
                mode: auth.settings.mode,
                generation: self.generation + 1,
                secrets: secrets.clone(),
                rings: rings.snapshots(now),
            };
            let building = catch_panic(AssertUnwindSafe(move || finish(context)));
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
                        format!("the builder failed: {}", scrubbed.text),
                    );
                    Some(match scrubbed.source {
                        Some(source) => problem.with_source(source),
                        None => problem,
                    })
                }
                Ok(None) => Some(
                    Error::new(ErrorKind::Invalid, "the builder panicked").with_hint("see its log"),
                ),
                Err(_) => Some(
                    Error::new(ErrorKind::Timeout, "the builder took too long")
                        .with_hint("look at what it waits for, or raise the build deadline"),
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

    /// Adds what the source remembers to the rings of keys that are new here.
    async fn load_history(
        &self,
        auth: &Inner<A>,
        rings: &mut Rings,
        secrets: &[(SecretKey, Resolved)],
        now: Instant,
    ) {
        let fields = auth.spec.fields().unwrap_or_default();
        let signs = |key: &SecretKey| {
            fields
                .iter()
                .any(|field| field.key == *key && is_secret(field))
        };
        let new = secrets
            .iter()
            .filter(|(key, _)| signs(key) && !self.rotation.rings.holds(key));
        for (key, secret) in new {
            let history = load_history(&auth.resolver, key, secret, auth.settings.timing).await;
            if let Some(history) = history {
                rings.remember(key, history, now);
            }
        }
    }

    fn publish(&self, auth: &Inner<A>, outcome: Outcome, served: u64) {
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
        set_state(auth, state, Some((&outcome, served)));
    }
}

impl BuildFailures {
    /// When to build again: at once after the first failure, then after an eighth of the time that
    /// it has failed for, at least a second.
    fn retry_at(&mut self, now: Instant) -> Instant {
        let since = *self.since.get_or_insert(now);
        self.count = self.count.saturating_add(1);
        match self.count {
            1 => now,
            _ => now + ((now - since) / 8).clamp(Duration::from_secs(1), LONGEST_RETRY),
        }
    }
}

/// One problem for each secret that the source could not confirm.
fn staleness(secrets: &[(SecretKey, Resolved)]) -> Vec<Error> {
    secrets
        .iter()
        .filter_map(|(key, secret)| match &secret.freshness {
            Freshness::Stale { reason, .. } => Some(reason.clone().with_key(key)),
            _ => None,
        })
        .collect()
}

/// Runs a builder; `None` when it panicked.
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

/// Makes `state` the state, and says so in the log if it is another one.
fn set_state<A>(auth: &Inner<A>, state: State, end: Option<(&Outcome, u64)>) {
    let mut changed = false;
    auth.progress.send_modify(|progress| {
        // A retry of a failed start that fails alike is no news.
        let quiet = matches!(
            (&progress.failure, &state),
            (Some(_), State::Starting | State::Rotating { .. })
        ) || matches!((&progress.failure, &state),
                (Some(before), State::Failed { failure } | State::Degraded { failure, .. })
                if before == failure && progress.state.name() != "ready");
        changed = progress.state != state && !quiet;
        if let Some((outcome, served)) = end {
            progress.attempts += 1;
            progress.served = served;
            progress.failure = outcome.failure.clone();
        }
        progress.state = state.clone();
    });
    if changed {
        log(auth, &state, end.map(|(outcome, _)| outcome));
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

/// `AUTH_SECRET@3 fresh from env://`, for each secret.
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

impl<A> Drop for Rebuilder<A> {
    /// The runtime has ended, or the auth is gone. Whoever waits shall start anew.
    fn drop(&mut self) {
        let Some(auth) = self.auth.upgrade() else {
            return;
        };
        auth.rebuilder_stopped.store(true, Ordering::Relaxed);
        auth.progress.send_modify(|progress| {
            if progress.state == State::Starting {
                progress.state = State::Idle;
            }
        });
    }
}
