//! A look at the secrets before anybody needs them.

use std::fmt;

use secretwell_core::{Error, ErrorKind, Freshness, Resolved, Resolver, SecretKey};

use crate::recipe::{check, keys};
use crate::strength::too_weak;
use crate::{LazyAuth, Mode, Strength};

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
    /// Its key.
    pub key: SecretKey,
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
        let answers = inner
            .resolver
            .refresh_now(&keys(inner.recipe.as_ref()))
            .await;
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
        let made_up = |key: &SecretKey| mode == Mode::Development && inner.recipe.has_made_up(key);
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
                    (None, absent) if made_up(&field.key) => Verdict::Tolerated(match absent {
                        Ok(secret) => blank(&field.key, &secret),
                        Err(absent) => absent,
                    }),
                    (None, _) => Verdict::Optional,
                };
                Finding {
                    key: field.key.clone(),
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

fn blank(key: &SecretKey, secret: &Resolved) -> Error {
    Error::new(ErrorKind::NotFound, "it is there and empty")
        .at(&secret.source)
        .for_key(key)
}

fn unknown_key(key: &SecretKey) -> Error {
    Error::new(
        ErrorKind::InvalidConfig,
        "a strength is set for it, but no field has it",
    )
    .for_key(key)
    .hint("use the key as the loaded type spells it")
}

impl Report {
    /// What a program finds that needs all of `keys`, each of this strength. There is nobody to make up
    /// for an absent one, so that is a problem in development as well.
    pub async fn of(resolver: &Resolver, keys: &[(SecretKey, Strength)], mode: Mode) -> Self {
        let names: Vec<SecretKey> = keys.iter().map(|(key, _)| key.clone()).collect();
        let answers = resolver.refresh_now(&names).await;
        let findings = keys.iter().zip(answers).map(|((key, strength), answer)| {
            let verdict = match answer {
                Err(error) => Verdict::Bad(error),
                Ok(secret) if secret.value.is_blank() => Verdict::Bad(blank(key, &secret)),
                Ok(secret) => match (too_weak(key, &secret, *strength), mode) {
                    (None, _) => Verdict::Good(secret),
                    (Some(weak), Mode::Development) => Verdict::Tolerated(weak),
                    (Some(weak), Mode::Production) => Verdict::Bad(weak),
                },
            };
            Finding {
                key: key.clone(),
                verdict,
            }
        });
        let findings: Vec<Finding> = findings.collect();
        let problem = |finding: &Finding| match &finding.verdict {
            Verdict::Bad(error) => Some(error.clone()),
            _ => None,
        };
        Self {
            mode,
            source: resolver.source().to_string(),
            problems: findings.iter().filter_map(problem).collect(),
            findings,
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
            .map(|finding| finding.key.as_str().len())
            .max();
        let width = width.unwrap_or_default();
        for Finding { key, verdict } in &self.findings {
            write!(f, "  {:width$}  ", key.as_str())?;
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
                .any(|finding| problem.key() == Some(&finding.key))
        };
        for problem in self.problems.iter().filter(elsewhere) {
            writeln!(f, "  PROBLEM   {problem}")?;
        }
        Ok(())
    }
}
