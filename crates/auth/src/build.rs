//! Checks secrets and calls the builder closure. Both are user code.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use secretwell_core::{Error, ErrorKind, SecretKey, SecretValue};
use secretwell_resolver::Resolved;
use tokio::time::Instant;

use crate::context::{BuildContext, BuildError, Requested, RingRequests};
use crate::decide::{Next, Rotation};
use crate::key_ring::KeyRing;
use crate::panics::{Panicked, catch, catch_future};
use crate::policy::Finding;
use crate::shared::Shared;
use crate::source::Results;
use crate::spec::{BuildInput, keys};
use crate::state::State;

/// Checks the results of the fields in the rebuild task `task`, and assembles the input of a build.
pub(crate) fn prepare<A>(
    shared: &Shared<A>,
    task: u64,
    rotation: &Rotation,
    fields: Results,
) -> Result<BuildInput<A>, Vec<Error>> {
    let _user_code = shared.user_code(task, shared.settings.build_deadline);
    let checks = shared.checks(rotation, shared.settings.mode);
    shared.spec.prepare(fields, checks)
}

/// Builds from `input` in the rebuild task `task`. Returns the rotation with the rings that the builder
/// has requested, and the build.
pub(crate) async fn build<A: Send + Sync + 'static>(
    shared: &Shared<A>,
    task: u64,
    mut next: Next,
    input: BuildInput<A>,
    now: Instant,
) -> Result<(Next, A), Vec<Error>> {
    let generation = shared.current.generation();
    if generation > 0 {
        let history = shared.memory().history;
        let state = State::Rotating {
            generation,
            history,
        };
        shared.set_state(state, None, |_| {});
    }
    shared.memory().rotation.keep_revoked(&next.rotation);
    let requests = RingRequests::default();
    let context = BuildContext {
        mode: shared.settings.mode,
        generation: generation + 1,
        secrets: input.secrets.clone(),
        fields: keys(shared.spec.as_ref()),
        rings: next.rotation.rings.snapshots(now),
        stored_previous: next.rotation.stored_previous(now),
        policies: shared.settings.policies.clone(),
        requests: requests.clone(),
    };
    let (rings, stored) = (context.rings.clone(), context.stored_previous.clone());
    let building = catch_future(move || (input.build)(context));
    let user_code = shared.user_code(task, shared.settings.build_deadline);
    let built = tokio::time::timeout(shared.settings.build_deadline, building).await;
    drop(user_code);
    let Requested {
        keys: requested,
        previous_keys,
        findings,
    } = requests.take();
    let mut problems = Vec::new();
    // One warning for each key. Some secrets are checked before the build and again with their ring.
    let mut warnings = BTreeMap::new();
    for finding in findings.into_values() {
        match finding {
            Finding::Problem(error) => problems.push(error),
            Finding::Warning(error) => drop(warnings.insert(error.key().cloned(), error)),
        }
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    let problem = match built {
        Ok(Ok(Ok(build))) => {
            for warning in input.warnings {
                warnings.insert(warning.key().cloned(), warning);
            }
            for weakness in warnings.into_values() {
                tracing::warn!(target: "secretwell::auth", event = "weak_secret_accepted", name = shared.settings.name.as_deref(), %weakness, "a weak secret is accepted");
            }
            for key in unused_previous(&input.secrets, &previous_keys, &stored) {
                tracing::warn!(target: "secretwell::auth", event = "previous_secret_unused", name = shared.settings.name.as_deref(), %key, "a stored previous secret does not verify, because it is revoked or the revocation time is not known; remove it from the source, and the revocation time before the next rotation");
            }
            let rotation = &mut next.rotation;
            rotation.built(&input.secrets, requested, previous_keys, &shared.rules, now);
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

/// Returns the keys in `previous_keys` whose secret does not verify. `stored` are the secrets that do. A secret
/// that is also the one of another key does.
fn unused_previous<'a>(
    secrets: &'a [(SecretKey, Resolved)],
    previous_keys: &'a BTreeSet<SecretKey>,
    stored: &'a HashMap<SecretKey, Vec<SecretValue>>,
) -> impl Iterator<Item = &'a SecretKey> {
    let is_unused = move |(key, secret): &&(SecretKey, Resolved)| {
        let value = &secret.value;
        let mut current = secrets
            .iter()
            .filter(|(key, _)| !previous_keys.contains(key));
        previous_keys.contains(key)
            && !stored.get(key).is_some_and(|it| it.contains(value))
            && !current.any(|(_, it)| it.value == *value)
    };
    secrets.iter().filter(is_unused).map(|(key, _)| key)
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
