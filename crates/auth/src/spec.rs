//! [`BuildSpec`], which turns secrets into a build. It hides the type of the struct of secrets from
//! the rest of the crate.

use std::collections::{BTreeSet, HashMap};
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};

use secretwell_core::{Error, ErrorKind, Origin, SecretKey, SecretValue};
use secretwell_resolver::load::{Loaded, Plan, PlannedField};
use secretwell_resolver::{LoadError, Resolved};
use serde::de::DeserializeOwned;

use crate::context::{BuildContext, BuildError};
use crate::hex::hex;
use crate::mode::Mode;
use crate::panics::{Panicked, catch};
use crate::policy::{Finding, Policies, SecretPolicy, is_secret};

type BuildFuture<A> = Pin<Box<dyn Future<Output = Result<A, BuildError>> + Send>>;
type BuildFn<A> = Box<dyn FnOnce(BuildContext) -> BuildFuture<A> + Send>;

/// The checked secrets of one build, and a function that calls the builder closure with them.
pub(crate) struct BuildInput<A> {
    pub(crate) secrets: Vec<(SecretKey, Resolved)>,
    /// The weaknesses of secrets that are accepted.
    pub(crate) warnings: Vec<Error>,
    pub(crate) build: BuildFn<A>,
}

/// How the secrets of a build are checked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Checks<'a> {
    pub(crate) mode: Mode,
    pub(crate) policies: &'a Policies,
    /// The keys whose rings the current build takes.
    pub(crate) requested: &'a BTreeSet<SecretKey>,
    /// The name of the auth, for its log.
    pub(crate) name: Option<&'a str>,
}

impl Checks<'_> {
    /// Returns the policy of `key`.
    pub(crate) fn policy(&self, key: &SecretKey) -> SecretPolicy {
        self.policies.of(key, self.requested.contains(key))
    }

    /// Checks `secret` against the policy of `key`.
    pub(crate) fn check(&self, key: &SecretKey, secret: &Resolved) -> Option<Finding> {
        let signs = self.requested.contains(key);
        self.policies.check(key, secret, signs, self.mode)
    }

    /// Returns whether the field might contain a secret. The type does not show it if it is a type of the
    /// user, but signing secrets are known by their keys.
    fn is_secret(&self, field: &PlannedField) -> bool {
        is_secret(field) || self.policy(&field.key) != SecretPolicy::Unchecked
    }
}

/// Describes how to build an `A` from secrets.
pub(crate) trait BuildSpec<A>: Send + Sync {
    /// Returns the fields of the struct of secrets.
    fn fields(&self) -> Result<&[PlannedField], Error>;

    /// Checks the results of the resolver, one for each field, and assembles the input of a build.
    ///
    /// A panic of the type of a field is an error.
    fn prepare(
        &self,
        results: Vec<Result<Resolved, Error>>,
        checks: Checks<'_>,
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
            plan: catch(Plan::new).unwrap_or_else(|panicked| Err(type_panicked::<T>(panicked))),
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
        checks: Checks<'_>,
    ) -> Result<Loaded<T>, LoadError> {
        let loaded = plan.assemble(results.clone());
        let Err(error) = &loaded else { return loaded };
        if checks.mode == Mode::Production {
            return loaded;
        }
        let mut any_placeholder = false;
        for (field, result) in plan.fields().iter().zip(&mut results) {
            let is_absent =
                |problem: &Error| problem.is_not_found() && problem.key() == Some(&field.key);
            if checks.is_secret(field) && error.problems().iter().any(is_absent) {
                *result = self.placeholder(&field.key, checks.name);
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
    fn placeholder(&self, key: &SecretKey, name: Option<&str>) -> Result<Resolved, Error> {
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
            name,
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
        checks: Checks<'_>,
    ) -> Result<BuildInput<A>, Vec<Error>> {
        let plan = self.plan.as_ref().map_err(|error| vec![error.clone()])?;
        // A policy that applies to no field does not check anything.
        let unknown = checks.policies.keys().filter(|key| {
            let mut fields = plan.fields().iter();
            !fields.any(|field| field.key == **key)
        });
        let mut problems: Vec<Error> = unknown.map(|key| unknown_key(key, plan.fields())).collect();
        // The strength is checked even if another secret is absent, so that one error lists all
        // problems.
        let mut weak = Vec::new();
        let mut warnings = Vec::new();
        for (field, result) in plan.fields().iter().zip(&results) {
            let Ok(secret) = result else { continue };
            match checks.check(&field.key, secret) {
                Some(Finding::Problem(error)) => weak.push(error),
                Some(Finding::Warning(error)) => warnings.push(error),
                None => {}
            }
        }
        let assembled = catch(|| {
            let loaded = self.load(plan, results, checks)?;
            Ok::<_, LoadError>((loaded, self.build.clone()))
        });
        let assembled = match assembled {
            Ok(Ok(assembled)) => Some(assembled),
            Ok(Err(error)) => {
                problems.extend_from_slice(error.problems());
                None
            }
            Err(panicked) => {
                problems.push(type_panicked::<T>(panicked));
                None
            }
        };
        problems.append(&mut weak);
        let Some((loaded, build)) = assembled.filter(|_| problems.is_empty()) else {
            return Err(problems);
        };
        let value = loaded.value;
        Ok(BuildInput {
            secrets: loaded.secrets,
            warnings,
            build: Box::new(move |context| Box::pin(build(value, context))),
        })
    }

    fn has_placeholder(&self, key: &SecretKey) -> bool {
        self.placeholders().contains_key(key)
    }
}

/// The problem that a setting names a key that no field has.
fn unknown_key(key: &SecretKey, fields: &[PlannedField]) -> Error {
    let known: Vec<&str> = fields.iter().map(|field| field.key.as_str()).collect();
    Error::new(
        ErrorKind::InvalidConfig,
        "a setting names this key, but the loaded type has no such field",
    )
    .with_key(key)
    .with_hint(format!(
        "use the key of a field, after serde renames it: {}",
        known.join(", ")
    ))
}

/// The problem that the code of `T` panicked.
fn type_panicked<T>(Panicked: Panicked) -> Error {
    let name = std::any::type_name::<T>();
    Error::new(
        ErrorKind::Invalid,
        format!("the code of `{name}` panicked while the secrets were loaded into it"),
    )
    .with_hint("see the panic message in the output of the process")
}

/// Returns the keys of `spec`. The list is empty if they cannot be derived from the type.
pub(crate) fn keys<A>(spec: &dyn BuildSpec<A>) -> Vec<SecretKey> {
    spec.fields()
        .unwrap_or_default()
        .iter()
        .map(|field| field.key.clone())
        .collect()
}
