//! [`BuildSpec`], which turns secrets into a build. It hides the type of the struct of secrets from
//! the rest of the crate.

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

type BuildFuture<A> = Pin<Box<dyn Future<Output = Result<A, BuildError>> + Send>>;
type BuildFn<A> = Box<dyn FnOnce(BuildContext) -> BuildFuture<A> + Send>;

/// The checked secrets of one build, and a function that calls the builder closure with them.
pub(crate) struct BuildInput<A> {
    pub(crate) secrets: Vec<(SecretKey, Resolved)>,
    /// Problems that are errors in production and warnings in development.
    pub(crate) accepted_weaknesses: Vec<Error>,
    pub(crate) build: BuildFn<A>,
}

/// Describes how to build an `A` from secrets.
pub(crate) trait BuildSpec<A>: Send + Sync {
    /// Returns the fields of the struct of secrets.
    fn fields(&self) -> Result<&[PlannedField], Error>;

    /// Checks the results of the resolver, one for each field, and assembles the input of a build.
    fn prepare(
        &self,
        results: Vec<Result<Resolved, Error>>,
        mode: Mode,
        policy: &Policies,
    ) -> Result<BuildInput<A>, Vec<Error>>;

    /// Returns whether a placeholder was generated for `key`.
    fn has_placeholder(&self, key: &SecretKey) -> bool;
}

/// The [`BuildSpec`] of a struct `T` and a builder closure `F`.
pub(crate) struct TypedSpec<T, F> {
    plan: Result<Plan<T>, Error>,
    build: F,
    /// Random values for absent secrets in development. They stay the same until the process exits.
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

    /// Assembles a `T`. In development, uses placeholders for required secrets that are absent.
    fn load(
        &self,
        plan: &Plan<T>,
        mut results: Vec<Result<Resolved, Error>>,
        mode: Mode,
    ) -> Result<Loaded<T>, LoadError> {
        let loaded = plan.assemble(results.clone());
        let Err(error) = &loaded else { return loaded };
        if mode == Mode::Production {
            return loaded;
        }
        let mut any_placeholder = false;
        for (field, result) in plan.fields().iter().zip(&mut results) {
            let is_absent =
                |problem: &Error| problem.is_not_found() && problem.key() == Some(&field.key);
            if is_secret(field) && error.problems().iter().any(is_absent) {
                *result = self.placeholder(&field.key);
                any_placeholder = true;
            }
        }
        if any_placeholder {
            plan.assemble(results)
        } else {
            loaded
        }
    }

    fn placeholders(&self) -> MutexGuard<'_, HashMap<SecretKey, SecretValue>> {
        self.placeholders
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the placeholder for `key`, and generates it on the first call.
    fn placeholder(&self, key: &SecretKey) -> Result<Resolved, Error> {
        let mut placeholders = self.placeholders();
        if let Some(value) = placeholders.get(key) {
            return Ok(Resolved::fixed(value.clone(), placeholder_origin()));
        }
        let mut random = zeroize::Zeroizing::new([0_u8; 32]);
        getrandom::fill(&mut *random).map_err(|error| {
            Error::new(
                ErrorKind::Unavailable,
                "the operating system returned no random bytes for a placeholder",
            )
            .with_key(key)
            .with_source(error)
        })?;
        let value = SecretValue::from(hex(&*random));
        tracing::warn!(target: "secretwell::auth", event = "placeholder_generated",
            %key,
            "development mode: the secret is absent; a random placeholder is used until the process exits",
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
        results: Vec<Result<Resolved, Error>>,
        mode: Mode,
        policy: &Policies,
    ) -> Result<BuildInput<A>, Vec<Error>> {
        let plan = self.plan.as_ref().map_err(|error| vec![error.clone()])?;
        // The strength is checked even if another secret is absent, so that one error lists all
        // problems.
        let mut weak = Vec::new();
        for (field, result) in plan.fields().iter().zip(&results) {
            if let Ok(secret) = result
                && let Some(error) = check(field, secret, policy)
            {
                weak.push(error);
            }
        }
        let accepted_weaknesses = match mode {
            Mode::Development => std::mem::take(&mut weak),
            Mode::Production => Vec::new(),
        };
        let loaded = self.load(plan, results, mode).map_err(|error| {
            let mut problems = error.problems().to_vec();
            problems.append(&mut weak);
            problems
        })?;
        if !weak.is_empty() {
            return Err(weak);
        }
        let (build, value) = (self.build.clone(), loaded.value);
        Ok(BuildInput {
            secrets: loaded.secrets,
            accepted_weaknesses,
            build: Box::new(move |context| Box::pin(build(value, context))),
        })
    }

    fn has_placeholder(&self, key: &SecretKey) -> bool {
        self.placeholders().contains_key(key)
    }
}

/// Returns an error if `secret` does not meet the policy of `field`. A blank secret counts as
/// absent and is not checked.
pub(crate) fn check(field: &PlannedField, secret: &Resolved, policy: &Policies) -> Option<Error> {
    match secret.value.is_blank() {
        true => None,
        false => too_weak(&field.key, secret, policy.of(field)),
    }
}

/// Returns the keys of `spec`. The list is empty if they cannot be derived from the type.
pub(crate) fn keys<A>(spec: &dyn BuildSpec<A>) -> Vec<SecretKey> {
    spec.fields()
        .unwrap_or_default()
        .iter()
        .map(|field| field.key.clone())
        .collect()
}
