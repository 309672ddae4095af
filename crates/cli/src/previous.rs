//! Previous values: the value that a secret had before its last change, in a variable of its own.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use secretwell::backend::Link;
use secretwell::{Error, ErrorKind, Secret, SecretKey, SecretProvider, SecretValue, Version};
use tokio::time::{Instant, timeout_at};

use crate::exit::{Failure, Reason};
use crate::fetch::{FetchedSecret, usable};
use crate::variables::{Naming, Variable, can_hold};

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
    /// The values that were replaced, by the variables of their previous values.
    replaced: BTreeMap<String, Replaced>,
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

    /// Logs the previous values that [`variables`](Self::variables) leaves out, because no variable can hold them.
    pub(crate) fn warn(&self, now: Instant) {
        for (key, name) in &self.pairs {
            let replaced = self.replaced.get(name).filter(|it| it.until > now);
            if replaced.is_some_and(|it| !can_hold(name, &it.value)) {
                tracing::warn!(target: "secretwell::command", event = "previous_not_passed", %key, name, "the program does not get the previous value of {key}: it contains a NUL byte or is too large for a variable");
            }
        }
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
            let history = read_history(provider, current, name, self.grace, deadline).await;
            let reason = match history {
                History::Previous(value, age) => {
                    let until = Instant::now() + self.grace.saturating_sub(age);
                    self.replaced
                        .insert(name.clone(), Replaced { value, until });
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
                    self.replaced
                        .insert(name.clone(), Replaced { value, until });
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
        for (key, name) in &self.pairs {
            let (Some(old), Some(new)) = (value_of(before, key), value_of(after, key)) else {
                continue;
            };
            if old != new && !old.is_empty() {
                let replaced = Replaced {
                    value: old.clone(),
                    until: now + self.grace,
                };
                next.replaced.insert(name.clone(), replaced);
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
            let replaced = self.replaced.get(name);
            let replaced = replaced.filter(|it| it.until > now && can_hold(name, &it.value));
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
/// the ones with the name of the key and `_PREVIOUS` or `_previous`.
fn stored_keys(key: &SecretKey, name: &str) -> Vec<SecretKey> {
    let of_key = ["PREVIOUS", "previous"].map(|suffix| format!("{key}_{suffix}"));
    let names = [name.to_owned()].into_iter().chain(of_key);
    let names: Vec<String> = names.collect();
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
    name: &str,
    grace: Duration,
    deadline: Instant,
) -> History {
    let FetchedSecret { key, secret } = current;
    let Some(number) = secret.version.as_ref().and_then(Version::number) else {
        return History::Unknown("the source keeps no versions".into());
    };
    let links = provider.links();
    let sources = links.iter().map(Link::provider);
    let mut matching = sources.filter(|it| Some(it.origin()) == secret.origin.as_ref());
    // A version belongs to the source that returned it.
    let provider = match (matching.next(), matching.next()) {
        (Some(source), None) => &**source,
        _ if links.len() < 2 => provider,
        _ => return History::Unknown("it is not clear which source it belongs to".into()),
    };
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
            // A version that was deleted must not be used. But it might also be too old for the source.
            Ok(Err(error)) if error.is_not_found() => {
                let reason = format!("version {number} is deleted or does not contain it");
                return History::Unknown(reason);
            }
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
            Ok(read) if can_hold(name, &read.value) => History::Previous(read.value, replaced_ago),
            Ok(_) => History::Unknown("no variable can hold the previous version".into()),
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
            if value.is_empty() || !can_hold(name, &value) || value == current.secret.value {
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

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use secretwell::{Chain, MemoryProvider, Origin};

    use super::*;

    const HOUR: Duration = Duration::from_secs(60 * 60);
    const GRACE: Duration = Duration::from_secs(24 * 60 * 60);
    const NAME: &str = "OLD_K";

    /// A source with a version history of the key `K`, and other keys without versions.
    #[derive(Debug)]
    struct Dated {
        /// The values, oldest first, and the hours since they were written. `None` is a deleted version.
        versions: Vec<(Option<&'static str>, u32)>,
        others: MemoryProvider,
    }

    impl Dated {
        fn new(versions: &[(Option<&'static str>, u32)]) -> Self {
            Self {
                versions: versions.to_vec(),
                others: MemoryProvider::new(),
            }
        }

        fn version(&self, number: u64) -> Result<Secret, Error> {
            let index = usize::try_from(number).unwrap() - 1;
            let (value, hours) = self.versions[index];
            let value = value.ok_or_else(|| Error::new(ErrorKind::NotFound, "deleted"))?;
            let created = SystemTime::now() - HOUR * hours;
            let version = Version::numbered(number).with_created_at(created);
            Ok(Secret::new(value).with_version(version))
        }
    }

    #[async_trait]
    impl SecretProvider for Dated {
        fn origin(&self) -> &Origin {
            self.others.origin()
        }

        async fn get(&self, key: &SecretKey) -> Result<Secret, Error> {
            match key.as_str() {
                "K" => self.version(self.versions.len() as u64),
                _ => self.others.get(key).await,
            }
        }

        async fn get_version(&self, _: &SecretKey, version: &Version) -> Result<Secret, Error> {
            self.version(version.number().unwrap())
        }
    }

    fn fetched(name: &str, secret: Secret) -> FetchedSecret {
        let key = SecretKey::parse(name).unwrap();
        FetchedSecret { key, secret }
    }

    fn with(value: &str) -> Vec<FetchedSecret> {
        vec![fetched("K", Secret::new(value))]
    }

    fn rules(grace: Duration) -> Previous {
        let pair = (SecretKey::parse("K").unwrap(), NAME.to_owned());
        Previous::new(vec![pair], grace)
    }

    /// Returns the previous value that the program gets.
    fn passed(previous: &Previous, secrets: &[FetchedSecret]) -> Option<String> {
        let variables = Naming::new("", []).variables(secrets).unwrap();
        let all = previous.variables(secrets, &variables, Instant::now());
        let mut found = all.iter().filter(|variable| variable.name == NAME);
        let value = found
            .next()
            .map(|it| it.value.expose_text().unwrap().to_owned());
        assert!(found.next().is_none());
        value
    }

    /// Returns the previous value that the program gets when the command starts.
    async fn at_start(source: &Dated, grace: Duration) -> Option<String> {
        let secrets = [fetched(
            "K",
            source.version(source.versions.len() as u64).unwrap(),
        )];
        let mut previous = rules(grace);
        previous.read(source, &Naming::new("", []), &secrets).await;
        passed(&previous, &secrets)
    }

    #[tokio::test(start_paused = true)]
    async fn version_history_is_read_within_the_grace_period() {
        let (old, new) = (Some("old"), Some("new"));
        for (versions, expected) in [
            (&[(old, 48), (new, 1)][..], Some("old")),
            (&[(old, 48), (new, 25)], None),
            (&[(new, 1)], None),
            // Versions with the same value are one value.
            (&[(old, 48), (new, 23), (new, 1)], Some("old")),
            (&[(old, 48), (new, 25), (new, 1)], None),
            // An empty version does not count as a value.
            (&[(old, 48), (Some(""), 3), (new, 1)], Some("old")),
            // A deleted version must not be used, nor those before it.
            (&[(None, 48), (new, 1)], None),
            (&[(old, 48), (None, 3), (new, 1)], None),
            (&[(Some("ENC[AES256_GCM,data:x]"), 48), (new, 1)], None),
        ] {
            let value = at_start(&Dated::new(versions), GRACE).await;
            assert_eq!(value.as_deref(), expected, "{versions:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn version_of_another_source_is_never_used() {
        let source = Dated::new(&[(Some("old"), 48), (Some("new"), 1)]);
        let mut secret = source.version(2).unwrap();
        let other = MemoryProvider::from_iter([("K", "other")]);
        secret.origin = Some(other.origin().clone());
        let chain = Chain::new(other).or_else(source);
        let secrets = [fetched("K", secret)];
        let mut previous = rules(GRACE);
        previous.read(&chain, &Naming::new("", []), &secrets).await;
        // Both sources have the same origin.
        assert_eq!(passed(&previous, &secrets), None);
    }

    #[tokio::test(start_paused = true)]
    async fn previous_value_of_the_history_ends_with_the_rest_of_its_grace_period() {
        let source = Dated::new(&[(Some("old"), 48), (Some("new"), 20)]);
        let secrets = [fetched("K", source.version(2).unwrap())];
        let mut previous = rules(GRACE);
        previous.read(&source, &Naming::new("", []), &secrets).await;
        tokio::time::advance(HOUR * 3).await;
        assert_eq!(passed(&previous, &secrets).as_deref(), Some("old"));
        tokio::time::advance(HOUR * 2).await;
        assert_eq!(passed(&previous, &secrets), None);
    }

    #[tokio::test(start_paused = true)]
    async fn stored_value_is_used_if_the_source_keeps_no_versions() {
        for (stored, value, expected) in [
            ("K_PREVIOUS", "old", Some("old")),
            ("K_previous", "old", Some("old")),
            (NAME, "old", Some("old")),
            // The value before is never the current one, empty, or unusable.
            ("K_PREVIOUS", "now", None),
            ("K_PREVIOUS", "", None),
            ("K_PREVIOUS", "a\0b", None),
            ("OTHER", "old", None),
        ] {
            let memory = MemoryProvider::from_iter([(stored, value)]);
            let secrets = with("now");
            let mut previous = rules(GRACE);
            previous.read(&memory, &Naming::new("", []), &secrets).await;
            assert_eq!(passed(&previous, &secrets).as_deref(), expected, "{stored}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn history_takes_precedence_over_a_stored_value() {
        let source = Dated::new(&[(Some("old"), 48), (Some("new"), 1)]);
        source.others.set("K_PREVIOUS", "stored").unwrap();
        assert_eq!(at_start(&source, GRACE).await.as_deref(), Some("old"));
    }

    #[tokio::test(start_paused = true)]
    async fn value_before_a_change_is_passed_for_the_grace_period() {
        let first = rules(GRACE);
        assert_eq!(passed(&first, &with("1")), None);
        let second = first.after_change(&with("1"), &with("2"), Instant::now());
        assert_eq!(passed(&second, &with("2")).as_deref(), Some("1"));
        // A change of other secrets changes nothing.
        let same = second.after_change(&with("2"), &with("2"), Instant::now());
        assert_eq!(passed(&same, &with("2")).as_deref(), Some("1"));
        // Back to the value before.
        let back = second.after_change(&with("2"), &with("1"), Instant::now());
        assert_eq!(passed(&back, &with("1")).as_deref(), Some("2"));
        assert_eq!(passed(&back, &with("2")), None);
        tokio::time::advance(GRACE).await;
        assert_eq!(passed(&second, &with("2")), None);
    }

    #[tokio::test(start_paused = true)]
    async fn value_before_a_change_takes_precedence_over_a_stored_secret() {
        let state = |value: &str| {
            let stored = fetched(NAME, Secret::new("stored"));
            vec![fetched("K", Secret::new(value)), stored]
        };
        let first = rules(GRACE);
        assert_eq!(passed(&first, &state("1")).as_deref(), Some("stored"));
        let second = first.after_change(&state("1"), &state("2"), Instant::now());
        assert_eq!(passed(&second, &state("2")).as_deref(), Some("1"));
        // The stored secret is the current value.
        assert_eq!(passed(&first, &state("stored")), None);
        tokio::time::advance(GRACE).await;
        assert_eq!(passed(&second, &state("2")).as_deref(), Some("stored"));
    }

    #[tokio::test(start_paused = true)]
    async fn value_that_no_variable_can_hold_is_not_passed() {
        // The key is passed in a file, which can contain every value.
        let large = "x".repeat(32 * 4096);
        for value in ["a\0b", &large] {
            let next = rules(GRACE).after_change(&with(value), &with("2"), Instant::now());
            let current = fetched("K", Secret::new("2"));
            let stored = fetched(NAME, Secret::new("stored"));
            assert_eq!(passed(&next, std::slice::from_ref(&current)), None);
            let value = passed(&next, &[current, stored]);
            assert_eq!(value.as_deref(), Some("stored"));
        }
    }

    #[test]
    fn variable_of_another_secret_is_refused() {
        let naming = Naming::new("", []);
        let check = |name: &str, previous: &Previous| {
            previous.check(&naming, &[fetched(name, Secret::new("x"))])
        };
        check("OTHER", &rules(GRACE)).unwrap();
        check(NAME, &rules(GRACE)).unwrap();
        let key = SecretKey::parse("K").unwrap();
        for names in [&["db_X"][..], &["K"], &[""], &["a\0"], &[NAME, NAME]] {
            let pairs = names.iter().map(|it| (key.clone(), (*it).to_owned()));
            let previous = Previous::new(pairs.collect(), GRACE);
            let name = if names == ["K"] { "K" } else { "db/X" };
            let failure = check(name, &previous).unwrap_err();
            assert_eq!(failure.reason(), Reason::Configuration, "{names:?}");
        }
    }
}
