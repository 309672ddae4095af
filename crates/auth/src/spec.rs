//! From secrets to what is built of them, with the type of the secrets put out of fingerprint.

use std::collections::HashMap;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};

use secretwell_core::{Error, ErrorKind, Origin, SecretKey, SecretValue};
use secretwell_resolver::load::{Loaded, Plan, PlannedField};
use secretwell_resolver::{LoadError, Resolved};
use serde::de::DeserializeOwned;

use crate::hex::hex;
use crate::policy::{Policies, is_secret, too_weak};
use crate::{BuildContext, BuildError, Mode};

pub(crate) type Building<A> = Pin<Box<dyn Future<Output = Result<A, BuildError>> + Send>>;
type Finish<A> = Box<dyn FnOnce(BuildContext) -> Building<A> + Send>;

/// The secrets for one build, found acceptable, and how to go on from there.
pub(crate) struct BuildInput<A> {
    pub(crate) secrets: Vec<(SecretKey, Resolved)>,
    /// What is wrong with them, and good enough for development.
    pub(crate) tolerated: Vec<Error>,
    pub(crate) finish: Finish<A>,
}

/// How to build an `A`.
pub(crate) trait BuildSpec<A>: Send + Sync {
    /// The secrets that it takes.
    fn fields(&self) -> Result<&[PlannedField], Error>;

    /// Checks `answers`, one for each field, and makes them input.
    fn prepare(
        &self,
        answers: Vec<Result<Resolved, Error>>,
        mode: Mode,
        policy: &Policies,
    ) -> Result<BuildInput<A>, Vec<Error>>;

    /// Whether a stand-in was made up for `key`, because it was absent and needed.
    fn has_placeholder(&self, key: &SecretKey) -> bool;
}

pub(crate) struct TypedSpec<T, F> {
    plan: Result<Plan<T>, Error>,
    build: F,
    /// What stands in for absent secrets in development, the same for the life of the process.
    placeholders: Mutex<HashMap<SecretKey, SecretValue>>,
    marker: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned, F> TypedSpec<T, F> {
    pub(crate) fn new(build: F) -> Self {
        Self {
            plan: Plan::new(),
            build,
            placeholders: Mutex::default(),
            marker: PhantomData,
        }
    }

    /// Loads a `T`; in development, a secret that is absent and needed is made up.
    fn load(
        &self,
        plan: &Plan<T>,
        mut answers: Vec<Result<Resolved, Error>>,
        mode: Mode,
    ) -> Result<Loaded<T>, LoadError> {
        let loaded = plan.assemble(answers.clone());
        let Err(error) = &loaded else { return loaded };
        if mode == Mode::Production {
            return loaded;
        }
        let mut any = false;
        for (field, answer) in plan.fields().iter().zip(&mut answers) {
            let absent =
                |problem: &Error| problem.is_not_found() && problem.key() == Some(&field.key);
            if is_secret(field) && error.problems().iter().any(absent) {
                *answer = self.placeholder(&field.key);
                any = true;
            }
        }
        if any { plan.assemble(answers) } else { loaded }
    }

    fn placeholders(&self) -> MutexGuard<'_, HashMap<SecretKey, SecretValue>> {
        self.placeholders
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn placeholder(&self, key: &SecretKey) -> Result<Resolved, Error> {
        let mut placeholders = self.placeholders();
        if let Some(value) = placeholders.get(key) {
            return Ok(Resolved::fixed(value.clone(), placeholder_origin()));
        }
        let mut random = zeroize::Zeroizing::new([0_u8; 32]);
        getrandom::fill(&mut *random).map_err(|error| {
            Error::new(ErrorKind::Unavailable, "the system has no random numbers")
                .with_source(error)
        })?;
        let value = SecretValue::from(hex(&*random));
        tracing::warn!(target: "secretwell::auth", event = "placeholder_generated",
            %key,
            "development mode: the secret is absent; a random one is used until the process exits",
        );
        placeholders.insert(key.clone(), value.clone());
        Ok(Resolved::fixed(value, placeholder_origin()))
    }
}

fn placeholder_origin() -> Origin {
    Origin::new("random", "")
}

impl<A, T, F, B> BuildSpec<A> for TypedSpec<T, F>
where
    T: DeserializeOwned + Send + 'static,
    F: Fn(T, BuildContext) -> B + Clone + Send + Sync + 'static,
    B: Future<Output = Result<A, BuildError>> + Send + 'static,
{
    fn fields(&self) -> Result<&[PlannedField], Error> {
        self.plan.as_ref().map(Plan::fields).map_err(Clone::clone)
    }

    fn prepare(
        &self,
        answers: Vec<Result<Resolved, Error>>,
        mode: Mode,
        policy: &Policies,
    ) -> Result<BuildInput<A>, Vec<Error>> {
        let plan = self.plan.as_ref().map_err(|error| vec![error.clone()])?;
        // Weakness is looked for even where something else is absent, so that all is told at once.
        let mut weak = Vec::new();
        for (field, answer) in plan.fields().iter().zip(&answers) {
            if let Ok(secret) = answer
                && let Some(error) = check(field, secret, policy)
            {
                weak.push(error);
            }
        }
        let tolerated = match mode {
            Mode::Development => std::mem::take(&mut weak),
            Mode::Production => Vec::new(),
        };
        let loaded = self.load(plan, answers, mode).map_err(|error| {
            let mut problems = error.problems().to_vec();
            problems.append(&mut weak);
            problems
        })?;
        if !weak.is_empty() {
            return Err(weak);
        }
        let (build, value) = (self.build.clone(), loaded.value);
        let finish: Finish<A> = Box::new(move |context| Box::pin(build(value, context)));
        Ok(BuildInput {
            secrets: loaded.secrets,
            tolerated,
            finish,
        })
    }

    fn has_placeholder(&self, key: &SecretKey) -> bool {
        self.placeholders().contains_key(key)
    }
}

/// What speaks against using `secret` for `field`, unless it is blank and so absent.
pub(crate) fn check(field: &PlannedField, secret: &Resolved, policy: &Policies) -> Option<Error> {
    match secret.value.is_blank() {
        true => None,
        false => too_weak(&field.key, secret, policy.of(field)),
    }
}

/// The keys of `spec`, as far as they can be known.
pub(crate) fn keys<A>(spec: &dyn BuildSpec<A>) -> Vec<SecretKey> {
    spec.fields()
        .unwrap_or_default()
        .iter()
        .map(|field| field.key.clone())
        .collect()
}
