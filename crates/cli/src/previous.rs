//! Previous values: the value that a secret had before its last change, in a variable of its own.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use secretwell::backend::Link;
use secretwell::{Error, ErrorKind, Secret, SecretKey, SecretProvider, SecretValue, Version};
use tokio::time::{Instant, timeout_at};

use crate::exit::{Failure, Reason};
use crate::fetch::{FetchedSecret, usable};
use crate::variables::{Naming, Variable};

/// The maximum number of versions that are read for one key.
const MAX_VERSIONS: u64 = 50;
/// How long the start of the program waits for previous values.
const PATIENCE: Duration = Duration::from_secs(10);

/// The variables of previous values, and the values that are known.
#[derive(Debug, Clone, Default)]
pub(crate) struct Previous {
    /// The keys, and the variables of their previous values.
    pairs: Vec<(SecretKey, String)>,
    /// How long after a change the previous value is passed.
    grace: Duration,
    replaced: BTreeMap<SecretKey, Replaced>,
}

/// A value that was replaced.
#[derive(Debug, Clone)]
struct Replaced {
    value: SecretValue,
    /// The end of its grace period.
    until: Instant,
}

impl Previous {
    /// Creates the rules for `pairs` of a key and a variable name.
    pub(crate) fn new(pairs: Vec<(SecretKey, String)>, grace: Duration) -> Self {
        Self {
            pairs,
            grace,
            replaced: BTreeMap::new(),
        }
    }

    /// Returns the keys whose previous values are passed.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &SecretKey> {
        self.pairs.iter().map(|(key, _)| key)
    }

    /// Checks that no variable of a previous value is the variable of another secret.
    ///
    /// # Errors
    /// Reports every variable name that is invalid or already used.
    pub(crate) fn check(&self, naming: &Naming, secrets: &[FetchedSecret]) -> Result<(), Failure> {
        let mut problems = Vec::new();
        for (index, (key, name)) in self.pairs.iter().enumerate() {
            let mut fail = |problem: &str| {
                let name = name.escape_debug();
                problems.push(format!(
                    "--previous {key}={name}: {problem}; set another variable name"
                ));
            };
            if name.is_empty() || name.contains(['=', '\0']) {
                fail("a variable name must not be empty and must not contain `=` or NUL");
            }
            if self.pairs[..index]
                .iter()
                .any(|(_, earlier)| earlier == name)
            {
                fail("the variable is already used for another previous value");
            }
            let stored = stored_keys(key, name);
            for secret in secrets.iter().filter(|it| !stored.contains(&it.key)) {
                let variables = naming.variables(std::slice::from_ref(secret));
                if variables.is_ok_and(|it| it.iter().any(|variable| variable.name == *name)) {
                    fail(&format!(
                        "the variable is already used for key {}",
                        secret.key
                    ));
                }
            }
        }
        match problems.is_empty() {
            true => Ok(()),
            false => Err(Failure::with_problems(Reason::Configuration, problems)),
        }
    }

    /// Reads the previous values before the first start of the program, from the version histories and from stored
    /// secrets. A value that cannot be read is logged, because a rotation that has just happened then logs users out.
    pub(crate) async fn read(
        &mut self,
        provider: &dyn SecretProvider,
        naming: &Naming,
        secrets: &[FetchedSecret],
    ) {
        let deadline = Instant::now() + PATIENCE;
        for (key, name) in &self.pairs {
            let Some(current) = secrets.iter().find(|it| it.key == *key) else {
                continue;
            };
            let history = read_history(provider, current, self.grace, deadline).await;
            let reason = match history {
                History::Previous(value, age) => {
                    let until = Instant::now() + self.grace.saturating_sub(age);
                    self.replaced.insert(key.clone(), Replaced { value, until });
                    tracing::info!(target: "secretwell::command", event = "previous_read", %key, name, "the previous value was read from the version history: {key}");
                    continue;
                }
                History::NoneInGrace => continue,
                History::Unknown(reason) => reason,
            };
            let find_stored = FindStored {
                provider,
                naming,
                secrets,
                deadline,
            };
            match find_stored.read(current, name).await {
                Stored::Passed => {}
                Stored::Value(value) => {
                    let until = Instant::now() + self.grace;
                    self.replaced.insert(key.clone(), Replaced { value, until });
                }
                Stored::Unknown(problem) => {
                    let reason = problem.map_or(reason, |problem| problem.to_string());
                    let stored = stored_keys(key, name);
                    let stored = stored.first().map_or(name.as_str(), SecretKey::as_str);
                    tracing::warn!(target: "secretwell::command", event = "previous_unknown", %key, name, "the previous value of {key} is unknown: {reason}; if {key} changes while the command is not running, store its previous value as {stored}");
                }
            }
        }
    }

    /// Returns the state after the program has changed from the secrets `before` to the secrets `after`.
    pub(crate) fn after_change(
        &self,
        before: &[FetchedSecret],
        after: &[FetchedSecret],
        now: Instant,
    ) -> Self {
        let mut next = self.clone();
        for key in self.keys() {
            let (Some(old), Some(new)) = (value_of(before, key), value_of(after, key)) else {
                continue;
            };
            if old != new && !old.is_empty() {
                let replaced = Replaced {
                    value: old.clone(),
                    until: now + self.grace,
                };
                next.replaced.insert(key.clone(), replaced);
            }
        }
        next.replaced.retain(|_, replaced| replaced.until > now);
        next
    }

    /// Returns `variables`, and the variables of the previous values.
    ///
    /// A value that was replaced takes precedence over a stored one, because a stored one can be forgotten. A
    /// previous value is never the current one.
    pub(crate) fn variables(
        &self,
        secrets: &[FetchedSecret],
        variables: &[Variable],
        now: Instant,
    ) -> Vec<Variable> {
        let mut all = variables.to_vec();
        for (key, name) in &self.pairs {
            let stored = all.iter().position(|variable| variable.name == *name);
            let stored = stored.map(|index| all.remove(index).value);
            let current = value_of(secrets, key);
            let replaced = self.replaced.get(key);
            let replaced = replaced.filter(|replaced| replaced.until > now);
            let mut known = replaced
                .map(|it| it.value.clone())
                .into_iter()
                .chain(stored);
            let previous = known.find(|value| !value.is_empty() && Some(value) != current);
            all.extend(previous.map(|value| Variable {
                name: name.clone(),
                value,
            }));
        }
        all
    }
}

fn value_of<'a>(secrets: &'a [FetchedSecret], key: &SecretKey) -> Option<&'a SecretValue> {
    let secret = secrets.iter().find(|secret| secret.key == *key);
    secret.map(|secret| &secret.secret.value)
}

/// Returns the keys of secrets that can store the previous value of `key`: the one with the name of the variable, and
/// the one with the name of the key and `_PREVIOUS`.
fn stored_keys(key: &SecretKey, name: &str) -> Vec<SecretKey> {
    let names = [name.to_owned(), format!("{key}_PREVIOUS")];
    let keys = names.iter().filter_map(|name| SecretKey::parse(name).ok());
    keys.filter(|stored| stored != key).collect()
}

/// What the version history of a key contains.
enum History {
    /// The previous value, and the time since it was replaced.
    Previous(SecretValue, Duration),
    /// No value was replaced within the grace period.
    NoneInGrace,
    /// The history cannot be read.
    Unknown(String),
}

/// Reads the value before the current one, if it was replaced within the grace period.
async fn read_history(
    provider: &dyn SecretProvider,
    current: &FetchedSecret,
    grace: Duration,
    deadline: Instant,
) -> History {
    let FetchedSecret { key, secret } = current;
    let Some(number) = secret.version.as_ref().and_then(Version::number) else {
        return History::Unknown("the source keeps no versions".into());
    };
    let links = provider.links();
    let source = links.iter().map(Link::provider);
    let mut source = source.filter(|it| Some(it.origin()) == secret.origin.as_ref());
    // A version belongs to the source that returned it.
    let provider = source.next().map_or(provider, |it| &**it);
    let Some(mut replaced_ago) = age(secret) else {
        return History::Unknown("the source does not report the age of a version".into());
    };
    for number in (number.saturating_sub(MAX_VERSIONS).max(1)..number).rev() {
        if replaced_ago >= grace {
            return History::NoneInGrace;
        }
        let version = Version::numbered(number);
        let read = timeout_at(deadline, provider.get_version(key, &version)).await;
        let read = match read {
            Ok(Ok(read)) => read,
            // The version was deleted, so its value must not be used.
            Ok(Err(error)) if error.is_not_found() => return History::NoneInGrace,
            Ok(Err(error)) if error.kind() == ErrorKind::Unsupported => {
                return History::Unknown("the source keeps no versions".into());
            }
            Ok(Err(error)) => return History::Unknown(error.to_string()),
            Err(_) => return History::Unknown(Error::timed_out(PATIENCE).to_string()),
        };
        if read.value.is_empty() || read.value == secret.value {
            match age(&read) {
                Some(age) if read.value == secret.value => replaced_ago = age,
                _ => {}
            }
            continue;
        }
        return match usable(provider, key, read) {
            Ok(read) if !read.value.expose_bytes().contains(&0) => {
                History::Previous(read.value, replaced_ago)
            }
            Ok(_) => History::Unknown("the previous version contains a NUL byte".into()),
            Err(error) => History::Unknown(error.to_string()),
        };
    }
    match number > MAX_VERSIONS && replaced_ago < grace {
        true => History::Unknown("too many versions have the same value".into()),
        false => History::NoneInGrace,
    }
}

/// Returns the time since a version was written, or zero if its timestamp is in the future.
fn age(secret: &Secret) -> Option<Duration> {
    let created = secret.version.as_ref()?.created_at()?;
    Some(
        SystemTime::now()
            .duration_since(created)
            .unwrap_or_default(),
    )
}

/// What is stored as the previous value of a key.
enum Stored {
    /// The program gets the stored secret anyway, in the same variable. It is followed like all its secrets.
    Passed,
    Value(SecretValue),
    Unknown(Option<Error>),
}

/// Where previous values are stored.
struct FindStored<'a> {
    provider: &'a dyn SecretProvider,
    naming: &'a Naming,
    secrets: &'a [FetchedSecret],
    deadline: Instant,
}

impl FindStored<'_> {
    async fn read(&self, current: &FetchedSecret, name: &str) -> Stored {
        let mut problem = None;
        for stored in stored_keys(&current.key, name) {
            let listed = self.secrets.iter().find(|secret| secret.key == stored);
            let value = match listed {
                Some(listed) => listed.secret.value.clone(),
                None => {
                    let read = timeout_at(self.deadline, self.provider.get(&stored)).await;
                    let read = read.unwrap_or_else(|_| Err(Error::timed_out(PATIENCE)));
                    match read.and_then(|secret| usable(self.provider, &stored, secret)) {
                        Ok(secret) => secret.value,
                        Err(error) => {
                            if !error.is_not_found() {
                                problem = Some(error.with_key(&stored));
                            }
                            continue;
                        }
                    }
                }
            };
            let is_storable = !value.is_empty() && !value.expose_bytes().contains(&0);
            if !is_storable || value == current.secret.value {
                continue;
            }
            let variables = listed.map(|it| self.naming.variables(std::slice::from_ref(it)));
            let is_passed =
                matches!(variables, Some(Ok(it)) if it.iter().any(|it| it.name == name));
            return match is_passed {
                true => Stored::Passed,
                false => Stored::Value(value),
            };
        }
        Stored::Unknown(problem)
    }
}
