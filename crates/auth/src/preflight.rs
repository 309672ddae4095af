//! A look at the secrets before anybody needs them.

use std::fmt;

use secretwell_core::{Error, ErrorKind, SecretKey};
use secretwell_resolver::{Freshness, Resolved, Resolver};
use serde::Serialize;

use crate::policy::too_weak;
use crate::spec::{check, keys};
use crate::{LazyAuth, Mode, SecretPolicy};

/// What a start would find, key by key. Made by [`LazyAuth::preflight`]; it prints as a table.
#[derive(Debug, Serialize)]
pub struct PreflightReport {
    mode: Mode,
    origin: String,
    checks: Vec<Check>,
    problems: Vec<Error>,
}

/// What was found of one key.
#[derive(Debug, Serialize)]
#[non_exhaustive]
pub struct Check {
    /// Its key.
    pub key: SecretKey,
    /// How it is.
    pub status: Status,
}

/// How a secret is.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Status {
    /// There, and good.
    Passed(Resolved),
    /// Accepted in this mode only: weak, or absent and made up, in development.
    Warning(Error),
    /// Absent, and optional.
    Absent,
    /// A start fails for it.
    Failed(Error),
}

impl<A: Send + Sync + 'static> LazyAuth<A> {
    /// Reads every secret now and tells what a start in `mode` would find, without starting
    /// anything: for start-up, for tests, for CI. The same checks run again at each build.
    ///
    /// Nothing is built, so what the builder itself would reject is not known.
    pub async fn preflight(&self, mode: Mode) -> PreflightReport {
        let inner = &self.inner;
        let origin = inner.resolver.origin().to_string();
        let fields = match inner.spec.fields() {
            Ok(fields) => fields,
            Err(error) => {
                return PreflightReport {
                    mode,
                    origin,
                    checks: Vec::new(),
                    problems: vec![error],
                };
            }
        };
        let answers = inner.resolver.refresh(&keys(inner.spec.as_ref())).await;
        let policy = &inner.settings.policy;
        // The spec has the last word: it knows defaults, and what parses as what.
        let mut problems = match inner.spec.prepare(answers.clone(), mode, policy) {
            Ok(_) => Vec::new(),
            Err(problems) => problems,
        };
        let strangers = policy
            .keys()
            .filter(|key| !fields.iter().any(|field| field.key == **key));
        problems.extend(strangers.map(unknown_key));
        let placeholders =
            |key: &SecretKey| mode == Mode::Development && inner.spec.has_placeholder(key);
        let checks = fields
            .iter()
            .zip(answers)
            .map(|(field, answer)| {
                let of_field = |problem: &&Error| problem.key() == Some(&field.key);
                let status = match (problems.iter().find(of_field), answer) {
                    (Some(problem), _) => Status::Failed(problem.clone()),
                    (None, Ok(secret)) if !secret.value.is_blank() => {
                        match check(field, &secret, policy) {
                            Some(weak) => Status::Warning(weak),
                            None => Status::Passed(secret),
                        }
                    }
                    (None, absent) if placeholders(&field.key) => Status::Warning(match absent {
                        Ok(secret) => blank(&field.key, &secret),
                        Err(absent) => absent,
                    }),
                    (None, _) => Status::Absent,
                };
                Check {
                    key: field.key.clone(),
                    status,
                }
            })
            .collect();
        PreflightReport {
            mode,
            origin,
            checks,
            problems,
        }
    }
}

fn blank(key: &SecretKey, secret: &Resolved) -> Error {
    Error::new(ErrorKind::NotFound, "it is there and empty")
        .with_origin(&secret.origin)
        .with_key(key)
}

fn unknown_key(key: &SecretKey) -> Error {
    Error::new(
        ErrorKind::InvalidConfig,
        "a policy is set for this key, but the type has no such field",
    )
    .with_key(key)
    .with_hint("write the key as the type spells it")
}

impl PreflightReport {
    /// What a program finds that needs all of `keys`, each of this strength. There is nobody to make up
    /// for an absent one, so that is a problem in development as well.
    pub async fn for_keys(
        resolver: &Resolver,
        keys: &[(SecretKey, SecretPolicy)],
        mode: Mode,
    ) -> Self {
        let names: Vec<SecretKey> = keys.iter().map(|(key, _)| key.clone()).collect();
        let answers = resolver.refresh(&names).await;
        let checks = keys.iter().zip(answers).map(|((key, strength), answer)| {
            let status = match answer {
                Err(error) => Status::Failed(error),
                Ok(secret) if secret.value.is_blank() => Status::Failed(blank(key, &secret)),
                Ok(secret) => match (too_weak(key, &secret, *strength), mode) {
                    (None, _) => Status::Passed(secret),
                    (Some(weak), Mode::Development) => Status::Warning(weak),
                    (Some(weak), Mode::Production) => Status::Failed(weak),
                },
            };
            Check {
                key: key.clone(),
                status,
            }
        });
        let checks: Vec<Check> = checks.collect();
        let problem = |check: &Check| match &check.status {
            Status::Failed(error) => Some(error.clone()),
            _ => None,
        };
        Self {
            mode,
            origin: resolver.origin().to_string(),
            problems: checks.iter().filter_map(problem).collect(),
            checks,
        }
    }

    /// Whether a start would find all it needs.
    pub fn is_ready(&self) -> bool {
        self.problems.is_empty()
    }

    /// The mode that was asked about.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// What was found, in the order of the fields.
    pub fn checks(&self) -> &[Check] {
        &self.checks
    }

    /// What a start would fail for.
    pub fn problems(&self) -> &[Error] {
        &self.problems
    }
}

impl fmt::Display for PreflightReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let status = if self.is_ready() {
            "ready"
        } else {
            "NOT READY"
        };
        writeln!(f, "{} from {}: {status}", self.mode, self.origin)?;
        let width = self
            .checks
            .iter()
            .map(|check| check.key.as_str().len())
            .max();
        let width = width.unwrap_or_default();
        for Check { key, status } in &self.checks {
            write!(f, "  {:width$}  ", key.as_str())?;
            match status {
                Status::Passed(secret) => {
                    write!(f, "ok        from {}", secret.origin)?;
                    if let Some(version) = &secret.version {
                        write!(f, ", version {version}")?;
                    }
                    if let Freshness::Stale { reason, .. } = &secret.freshness {
                        write!(f, ", stale: {reason}")?;
                    }
                    writeln!(f)?;
                }
                Status::Warning(error) => writeln!(f, "tolerated {error}")?,
                Status::Absent => writeln!(f, "absent    optional")?,
                Status::Failed(error) => writeln!(f, "PROBLEM   {error}")?,
            }
        }
        let elsewhere = |problem: &&Error| {
            !self
                .checks
                .iter()
                .any(|check| problem.key() == Some(&check.key))
        };
        for problem in self.problems.iter().filter(elsewhere) {
            writeln!(f, "  PROBLEM   {problem}")?;
        }
        Ok(())
    }
}
