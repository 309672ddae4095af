//! Preflight: checks the secrets without starting a build, and reports each key.

use std::fmt;

use secretwell_core::{Error, SecretKey};
use secretwell_resolver::{Freshness, Resolved, Resolver};
use serde::Serialize;

use crate::lazy::LazyAuth;
use crate::mode::Mode;
use crate::policy::{Finding, SecretPolicy, check};
#[cfg(feature = "refuse-list")]
use crate::strength::RefuseList;
use crate::strength::Refused;

/// Result of a preflight, with one [`Check`] for each key. Created by [`LazyAuth::preflight`] and
/// [`PreflightReport::for_keys`].
///
/// It displays as a table with one line for each key. It contains no secret value.
#[derive(Debug, Serialize)]
pub struct PreflightReport {
    mode: Mode,
    origin: String,
    checks: Vec<Check>,
    problems: Vec<Error>,
}

/// Settings of [`PreflightReport::for_keys`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct PreflightOptions {
    mode: Mode,
    refused: Refused,
}

impl PreflightOptions {
    /// Creates settings for a check in `mode`, without a refuse list.
    pub fn new(mode: Mode) -> Self {
        Self {
            mode,
            refused: Refused::default(),
        }
    }

    /// Sets the signing secrets that are refused, in addition to those that are weak. Default: none.
    #[cfg(feature = "refuse-list")]
    #[must_use]
    pub fn refuse_list(mut self, list: RefuseList) -> Self {
        self.refused.list = list;
        self
    }
}

/// Result of the check of one key.
#[derive(Debug, Serialize)]
#[non_exhaustive]
pub struct Check {
    /// The key whose secret was checked.
    pub key: SecretKey,
    /// The requirements that the secret was checked against.
    pub policy: SecretPolicy,
    /// Whether a build can use the secret, with the secret or with the reason.
    #[serde(flatten)]
    pub status: Status,
}

/// Status of one secret in a [`PreflightReport`].
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case", tag = "status", content = "detail")]
#[non_exhaustive]
pub enum Status {
    /// The secret is present and meets its policy.
    Passed(Resolved),
    /// The secret is accepted with a warning. It looks weak in a way that some generators cause, or it is
    /// accepted in [`Mode::Development`] only: it is weak, or it is absent and has a random placeholder.
    Warning(Error),
    /// The secret is absent and optional.
    Absent,
    /// A build would fail because of this secret.
    Failed(Error),
}

impl<A: Send + Sync + 'static> LazyAuth<A> {
    /// Reads and checks every secret as a build in `mode` would, and reports the result.
    ///
    /// Use it at start-up, in tests and in CI. It does not start a build and does not change the
    /// state. The builder closure is not called, so the report does not cover errors of the
    /// closure. Each build repeats the same checks.
    ///
    /// The report names the policy of each key. Before the first build, it is not known which key rings
    /// the builder takes. Name their keys with
    /// [`LazyAuthBuilder::signing`](crate::LazyAuthBuilder::signing), so that they are checked here.
    pub async fn preflight(&self, mode: Mode) -> PreflightReport {
        let shared = self.shared();
        let origin = shared.source.resolver.origin().to_string();
        let fields = match shared.spec.fields() {
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
        let (results, epoch) = shared.source.split(shared.source.read(true).await);
        let rotation = shared.memory().rotation.clone();
        let checks = shared.checks(&rotation, mode);
        // Only the spec knows the defaults of the fields and how their values parse.
        let prepared = shared.spec.prepare(results.clone(), checks);
        let mut problems = prepared.err().unwrap_or_default();
        let read = fields.iter().zip(&results);
        problems.extend(read.filter_map(|(field, result)| {
            let secret = result.as_ref().ok()?;
            rotation.check_revoked(&field.key, secret)
        }));
        let has_placeholder =
            |key: &SecretKey| mode == Mode::Development && shared.spec.has_placeholder(key);
        let check_one = |key: &SecretKey, result: Result<Resolved, Error>| {
            let of_key = |problem: &&Error| problem.key() == Some(key);
            let status = match (problems.iter().find(of_key), result) {
                (Some(problem), _) => Status::Failed(problem.clone()),
                (None, Ok(secret)) => Status::of(checks.check(key, &secret), secret),
                (None, Err(absent)) if has_placeholder(key) => Status::Warning(absent),
                (None, Err(_)) => Status::Absent,
            };
            Check {
                key: key.clone(),
                policy: checks.policy(key),
                status,
            }
        };
        let keys = fields.iter().map(|field| &field.key);
        let checks = keys
            .zip(results)
            .map(|(key, result)| check_one(key, result))
            .collect();
        // The revocation time is not a secret of a build, so it only appears in the report as a problem.
        problems.extend(epoch.err());
        PreflightReport {
            mode,
            origin,
            checks,
            problems,
        }
    }
}

impl Status {
    fn of(finding: Option<Finding>, secret: Resolved) -> Self {
        match finding {
            None => Self::Passed(secret),
            Some(Finding::Warning(weak)) => Self::Warning(weak),
            Some(Finding::Problem(weak)) => Self::Failed(weak),
        }
    }
}

impl PreflightReport {
    /// Reads and checks `keys`, each with its policy, for a program that requires all of them.
    ///
    /// This generates no placeholders, so an absent secret is a problem in [`Mode::Development`]
    /// too.
    pub async fn for_keys(
        resolver: &Resolver,
        keys: &[(SecretKey, SecretPolicy)],
        options: &PreflightOptions,
    ) -> Self {
        let PreflightOptions { mode, refused } = options;
        let names: Vec<SecretKey> = keys.iter().map(|(key, _)| key.clone()).collect();
        let results = resolver.refresh(&names).await;
        let checks = keys.iter().zip(results).map(|((key, policy), result)| {
            let status = match result {
                Err(error) => Status::Failed(error),
                Ok(secret) if secret.value.is_empty() => {
                    let error = Error::empty_value().with_origin(&secret.origin);
                    Status::Failed(error.with_key(key))
                }
                Ok(secret) => {
                    let finding = check(key, &secret, *policy, refused, *mode);
                    Status::of(finding, secret)
                }
            };
            Check {
                key: key.clone(),
                policy: *policy,
                status,
            }
        });
        let checks: Vec<Check> = checks.collect();
        let problem = |check: &Check| match &check.status {
            Status::Failed(error) => Some(error.clone()),
            _ => None,
        };
        Self {
            mode: *mode,
            origin: resolver.origin().to_string(),
            problems: checks.iter().filter_map(problem).collect(),
            checks,
        }
    }

    /// Returns whether all checks passed, so that a build would have all secrets that it requires.
    pub fn is_ready(&self) -> bool {
        self.problems.is_empty()
    }

    /// Returns the mode that the secrets were checked in.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Returns the checks, one for each key, in the order of the fields or of the given keys.
    pub fn checks(&self) -> &[Check] {
        &self.checks
    }

    /// Returns every problem that would make a build fail.
    pub fn problems(&self) -> &[Error] {
        &self.problems
    }

    /// Returns what a build would accept with a warning, such as words in place of random bytes.
    pub fn warnings(&self) -> impl Iterator<Item = &Error> {
        self.checks.iter().filter_map(|check| match &check.status {
            Status::Warning(error) => Some(error),
            _ => None,
        })
    }
}

/// Displays an error of a key that the line begins with.
struct WithoutKey<'a>(&'a Error);

impl fmt::Display for WithoutKey<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(error) = self;
        if let Some(origin) = error.origin() {
            write!(f, "from {origin}: ")?;
        }
        write!(f, "{}: {}", error.kind(), error.message())?;
        match error.hint() {
            Some(hint) => write!(f, "; {hint}"),
            None => Ok(()),
        }
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
        for Check {
            key,
            policy,
            status,
        } in &self.checks
        {
            write!(f, "  {:width$}  ", key.as_str())?;
            match status {
                Status::Passed(secret) => {
                    write!(f, "ok        from {}", secret.origin)?;
                    // A version without a number is only meaningful inside of this process.
                    let version = secret.version.as_ref();
                    if let Some(version) = version.filter(|version| version.number().is_some()) {
                        write!(f, ", version {version}")?;
                    }
                    if *policy == SecretPolicy::Unchecked {
                        f.write_str(", strength not checked")?;
                    }
                    if let Freshness::Stale { reason, .. } = &secret.freshness {
                        write!(f, ", stale: {reason}")?;
                    }
                    writeln!(f)?;
                }
                Status::Warning(error) => writeln!(f, "warning   {}", WithoutKey(error))?,
                Status::Absent => writeln!(f, "absent    optional")?,
                Status::Failed(error) => writeln!(f, "PROBLEM   {}", WithoutKey(error))?,
            }
        }
        let has_no_check = |problem: &&Error| {
            !self
                .checks
                .iter()
                .any(|check| problem.key() == Some(&check.key))
        };
        for problem in self.problems.iter().filter(has_no_check) {
            writeln!(f, "  PROBLEM   {problem}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use secretwell_core::{ErrorKind, MemoryProvider};

    use super::*;

    const STRONG: &str = "kT8xQbM2wJpZrLdVn5hGs9YcE4uAf7Ri";
    const WORDS: &str = "correct horse battery staple ok!";
    const SHORT: &str = "c4n4ry";

    /// Returns the report about one key with this value and policy.
    async fn report(value: Option<&str>, policy: SecretPolicy, mode: Mode) -> PreflightReport {
        let memory: MemoryProvider = value.iter().map(|value| ("A", *value)).collect();
        let keys = [(SecretKey::from_static("A"), policy)];
        PreflightReport::for_keys(&Resolver::new(memory), &keys, &PreflightOptions::new(mode)).await
    }

    /// A check that passes here must not fail in the service, and the other way round.
    #[tokio::test]
    async fn keys_are_checked_against_their_policy_and_the_mode() {
        use Mode::{Development, Production};
        use SecretPolicy::{SigningKey, SigningKeyList, Unchecked};

        let list = |old: &str| format!("2:{STRONG},1:{old}");
        let (weak_list, worded_list) = (list(SHORT), list(WORDS));
        let worded_and_weak_list = format!("2:{WORDS},1:{SHORT}");
        for (value, policy, mode, expected) in [
            (Some(STRONG), SigningKey, Production, "ok"),
            (Some(SHORT), SigningKey, Production, "PROBLEM"),
            (Some(SHORT), SigningKey, Development, "warning"),
            (Some(SHORT), Unchecked, Production, "ok"),
            (Some(WORDS), SigningKey, Production, "warning"),
            (Some(&*weak_list), SigningKeyList, Production, "PROBLEM"),
            (Some(&*weak_list), SigningKeyList, Development, "warning"),
            (Some(&*worded_list), SigningKeyList, Production, "warning"),
            // The warning about the first secret does not hide the problem of the second one.
            (
                Some(&*worded_and_weak_list),
                SigningKeyList,
                Production,
                "PROBLEM",
            ),
            (Some(STRONG), SigningKeyList, Production, "PROBLEM"),
            // A list that cannot be parsed has no secrets in any mode.
            (Some(STRONG), SigningKeyList, Development, "PROBLEM"),
            (Some(""), SigningKey, Development, "PROBLEM"),
            (Some(""), Unchecked, Production, "PROBLEM"),
            // The command generates no placeholders.
            (None, SigningKey, Development, "PROBLEM"),
            (None, Unchecked, Production, "PROBLEM"),
        ] {
            let report = report(value, policy, mode).await;
            let text = report.to_string();
            let line = text.lines().nth(1).unwrap();
            assert!(
                line.trim_start().starts_with(&format!("A  {expected} ")),
                "{value:?}: {text}"
            );
            let (is_problem, is_warning) = (expected == "PROBLEM", expected == "warning");
            assert_eq!(report.is_ready(), !is_problem, "{text}");
            assert_eq!(report.problems().len(), usize::from(is_problem), "{text}");
            assert_eq!(report.warnings().count(), usize::from(is_warning), "{text}");
            assert_eq!(report.mode(), mode);
            let json = format!("{report:?} {text}");
            for secret in [STRONG, SHORT, "horse"] {
                assert!(!json.contains(secret), "{json}");
            }
        }
    }

    #[tokio::test]
    async fn checks_are_in_the_order_of_the_keys() {
        let memory = MemoryProvider::from_iter([("B", STRONG), ("A", SHORT)]);
        let key = SecretKey::from_static;
        let keys = [
            (key("B"), SecretPolicy::SigningKey),
            (key("C"), SecretPolicy::SigningKey),
            (key("A"), SecretPolicy::SigningKey),
            (key("B"), SecretPolicy::Unchecked),
        ];
        let options = PreflightOptions::new(Mode::Production);
        let report = PreflightReport::for_keys(&Resolver::new(memory), &keys, &options).await;
        let checked = report
            .checks()
            .iter()
            .map(|check| (check.key.clone(), check.policy));
        assert_eq!(checked.collect::<Vec<_>>(), keys);
        let kinds: Vec<_> = report.problems().iter().map(Error::kind).collect();
        assert_eq!(kinds, [ErrorKind::NotFound, ErrorKind::Invalid]);
    }

    #[cfg(feature = "refuse-list")]
    #[tokio::test]
    async fn refused_secret_is_a_problem_although_it_is_strong() {
        let memory = MemoryProvider::from_iter([("A", STRONG)]);
        let keys = [(SecretKey::from_static("A"), SecretPolicy::SigningKey)];
        let list = RefuseList::parse(STRONG.as_bytes()).unwrap();
        let options = PreflightOptions::new(Mode::Production).refuse_list(list);
        let report = PreflightReport::for_keys(&Resolver::new(memory), &keys, &options).await;
        assert!(!report.is_ready(), "{report}");
    }
}
