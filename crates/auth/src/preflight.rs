//! A look at the secrets before anybody needs them.

use std::fmt;

use secretwell_core::{Error, Freshness, PlannedField, Resolved};

use crate::recipe::{check, keys, read};
use crate::strength::is_secret;
use crate::{LazyAuth, Mode};

/// What a start would find, key by key. Made by [`LazyAuth::preflight`]; it prints as a table.
#[derive(Debug)]
pub struct Report {
    mode: Mode,
    source: String,
    findings: Vec<Finding>,
    problems: Vec<Error>,
}

/// What was found of one key.
#[derive(Debug)]
#[non_exhaustive]
pub struct Finding {
    /// The field that the key belongs to.
    pub field: PlannedField,
    /// How it is.
    pub verdict: Verdict,
}

/// How a secret is.
#[derive(Debug)]
pub enum Verdict {
    /// There, and good.
    Good(Resolved),
    /// Accepted in this mode only: weak, or absent and made up, in development.
    Tolerated(Error),
    /// Absent, and optional.
    Optional,
    /// A start fails for it.
    Bad(Error),
}

impl<A: Send + Sync + 'static> LazyAuth<A> {
    /// Reads every secret now and tells what a start in `mode` would find, without starting
    /// anything: for start-up, for tests, for CI. The same checks run again at each build.
    ///
    /// Nothing is built, so what the builder itself would reject is not known.
    pub async fn preflight(&self, mode: Mode) -> Report {
        let inner = &self.inner;
        let source = inner.resolver.source().to_string();
        let fields = match inner.recipe.fields() {
            Ok(fields) => fields,
            Err(error) => {
                return Report {
                    mode,
                    source,
                    findings: Vec::new(),
                    problems: vec![error],
                };
            }
        };
        let answers = read(&inner.resolver, &keys(inner.recipe.as_ref()), true).await;
        let policy = &inner.settings.policy;
        // The recipe has the last word: it knows defaults, and what parses as what.
        let mut problems = match inner.recipe.prepare(answers.clone(), mode, policy) {
            Ok(_) => Vec::new(),
            Err(problems) => problems,
        };
        let strangers = policy
            .keys()
            .filter(|key| !fields.iter().any(|field| field.key == **key));
        problems.extend(strangers.map(unknown_key));
        let findings = fields
            .iter()
            .zip(answers)
            .map(|(field, answer)| {
                let of_field = |problem: &&Error| problem.key() == Some(&field.key);
                let verdict = match (problems.iter().find(of_field), answer) {
                    (Some(problem), _) => Verdict::Bad(problem.clone()),
                    (None, Ok(secret)) if !secret.value.is_blank() => {
                        match check(field, &secret, policy) {
                            Some(weak) => Verdict::Tolerated(weak),
                            None => Verdict::Good(secret),
                        }
                    }
                    (None, Err(absent)) if is_secret(field) && !field.optional => {
                        Verdict::Tolerated(absent)
                    }
                    (None, _) => Verdict::Optional,
                };
                Finding {
                    field: field.clone(),
                    verdict,
                }
            })
            .collect();
        Report {
            mode,
            source,
            findings,
            problems,
        }
    }
}

fn unknown_key(key: &secretwell_core::SecretKey) -> Error {
    Error::new(
        secretwell_core::ErrorKind::InvalidConfig,
        "a strength is set for it, but no field has it",
    )
    .for_key(key)
    .hint("use the key as the loaded type spells it")
}

impl Report {
    /// Whether a start would find all it needs.
    pub fn is_ready(&self) -> bool {
        self.problems.is_empty()
    }

    /// The mode that was asked about.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// What was found, in the order of the fields.
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// What a start would fail for.
    pub fn problems(&self) -> &[Error] {
        &self.problems
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.is_ready() {
            "ready"
        } else {
            "NOT READY"
        };
        writeln!(f, "{} from {}: {verdict}", self.mode, self.source)?;
        let width = self
            .findings
            .iter()
            .map(|finding| finding.field.key.as_str().len())
            .max();
        let width = width.unwrap_or_default();
        for Finding { field, verdict } in &self.findings {
            write!(f, "  {:width$}  ", field.key.as_str())?;
            match verdict {
                Verdict::Good(secret) => {
                    write!(f, "ok        from {}", secret.source)?;
                    if let Some(version) = &secret.version {
                        write!(f, ", version {version}")?;
                    }
                    if let Freshness::Stale { reason, .. } = &secret.freshness {
                        write!(f, ", stale: {reason}")?;
                    }
                    writeln!(f)?;
                }
                Verdict::Tolerated(error) => writeln!(f, "tolerated {error}")?,
                Verdict::Optional => writeln!(f, "absent    optional")?,
                Verdict::Bad(error) => writeln!(f, "PROBLEM   {error}")?,
            }
        }
        let elsewhere = |problem: &&Error| {
            !self
                .findings
                .iter()
                .any(|finding| problem.key() == Some(&finding.field.key))
        };
        for problem in self.problems.iter().filter(elsewhere) {
            writeln!(f, "  PROBLEM   {problem}")?;
        }
        Ok(())
    }
}
