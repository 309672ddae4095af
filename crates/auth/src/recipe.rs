//! From secrets to what is built of them, with the type of the secrets put out of sight.

use std::collections::HashMap;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};

use secretwell_core::{
    Error, ErrorKind, LoadError, Loaded, Plan, PlannedField, Resolved, SecretKey, SecretValue,
    Source,
};
use serde::de::DeserializeOwned;

use crate::hex::hex;
use crate::strength::{Policy, is_secret, too_weak};
use crate::{BuildContext, BuildError, Mode};

pub(crate) type Building<A> = Pin<Box<dyn Future<Output = Result<A, BuildError>> + Send>>;
type Finish<A> = Box<dyn FnOnce(BuildContext) -> Building<A> + Send>;

/// The secrets for one build, found acceptable, and how to go on from there.
pub(crate) struct Ingredients<A> {
    pub(crate) secrets: Vec<(SecretKey, Resolved)>,
    /// What is wrong with them, and good enough for development.
    pub(crate) tolerated: Vec<Error>,
    pub(crate) finish: Finish<A>,
}

/// How to build an `A`.
pub(crate) trait Recipe<A>: Send + Sync {
    /// The secrets that it takes.
    fn fields(&self) -> Result<&[PlannedField], Error>;

    /// Checks `answers`, one for each field, and makes them ingredients.
    fn prepare(
        &self,
        answers: Vec<Result<Resolved, Error>>,
        mode: Mode,
        policy: &Policy,
    ) -> Result<Ingredients<A>, Vec<Error>>;

    /// Whether a stand-in was made up for `key`, because it was absent and needed.
    fn has_made_up(&self, key: &SecretKey) -> bool;
}

pub(crate) struct TypedRecipe<T, F> {
    plan: Result<Plan<T>, Error>,
    build: F,
    /// What stands in for absent secrets in development, the same for the life of the process.
    made_up: Mutex<HashMap<SecretKey, SecretValue>>,
    marker: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned, F> TypedRecipe<T, F> {
    pub(crate) fn new(build: F) -> Self {
        Self {
            plan: Plan::new(),
            build,
            made_up: Mutex::default(),
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
                *answer = self.make_up(&field.key);
                any = true;
            }
        }
        if any { plan.assemble(answers) } else { loaded }
    }

    fn made_up(&self) -> MutexGuard<'_, HashMap<SecretKey, SecretValue>> {
        self.made_up.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn make_up(&self, key: &SecretKey) -> Result<Resolved, Error> {
        let mut made_up = self.made_up();
        if let Some(value) = made_up.get(key) {
            return Ok(Resolved::fixed(value.clone(), made_up_source()));
        }
        let mut random = zeroize::Zeroizing::new([0_u8; 32]);
        getrandom::fill(&mut *random).map_err(|error| {
            Error::new(ErrorKind::Unavailable, "the system has no random numbers").caused_by(error)
        })?;
        let value = SecretValue::from(hex(&*random));
        tracing::warn!(
            %key,
            "development: the secret is absent, so a random one is used until the process ends",
        );
        made_up.insert(key.clone(), value.clone());
        Ok(Resolved::fixed(value, made_up_source()))
    }
}

fn made_up_source() -> Source {
    Source::new("random", "")
}

impl<A, T, F, B> Recipe<A> for TypedRecipe<T, F>
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
        policy: &Policy,
    ) -> Result<Ingredients<A>, Vec<Error>> {
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
        Ok(Ingredients {
            secrets: loaded.secrets,
            tolerated,
            finish,
        })
    }

    fn has_made_up(&self, key: &SecretKey) -> bool {
        self.made_up().contains_key(key)
    }
}

/// What speaks against using `secret` for `field`, unless it is blank and so absent.
pub(crate) fn check(field: &PlannedField, secret: &Resolved, policy: &Policy) -> Option<Error> {
    match secret.value.is_blank() {
        true => None,
        false => too_weak(&field.key, secret, policy.of(field)),
    }
}

/// The keys of `recipe`, as far as they can be known.
pub(crate) fn keys<A>(recipe: &dyn Recipe<A>) -> Vec<SecretKey> {
    recipe
        .fields()
        .unwrap_or_default()
        .iter()
        .map(|field| field.key.clone())
        .collect()
}
