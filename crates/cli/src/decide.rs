//! What changes for a running program when its secrets are read again. Nothing here reads a source, a clock or
//! writes a log.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use secretwell::{Error, ErrorKind, Origin, Resolved, Secret, SecretKey, SecretValue};
use tokio::time::Instant;

use crate::args::OnMissing;
use crate::exit::{Failure, Reason};
use crate::fetch::FetchedSecret;
use crate::variables::{Naming, Variable};

/// How long a missing secret is kept by [`OnMissing::Keep`]: the default `max_stale` of a resolver.
pub(crate) const MAX_KEPT: Duration = Duration::from_secs(24 * 60 * 60);

/// The secrets of a program, and their variables.
#[derive(Debug, Clone)]
pub(crate) struct ProgramSecrets {
    pub(crate) secrets: Vec<FetchedSecret>,
    pub(crate) variables: Vec<Variable>,
}

/// The secrets that the program has or is about to get, and the problems of their keys.
#[derive(Debug)]
pub(crate) struct Decider {
    naming: Naming,
    on_missing: OnMissing,
    required: BTreeSet<SecretKey>,
    program: BTreeMap<SecretKey, Secret>,
    problems: BTreeMap<SecretKey, Problem>,
    /// The new keys whose variable names are those of other keys, with the text of the error.
    left_out: BTreeMap<SecretKey, String>,
    /// The last readings that required keys held back.
    blocked: Option<Blocked>,
}

#[derive(Debug, PartialEq)]
struct Blocked {
    problems: Vec<String>,
    values: BTreeMap<SecretKey, SecretValue>,
}

/// Why a key has no new value.
#[derive(Debug)]
struct Problem {
    text: String,
    /// The time of the first read, since the last value, that found the secret missing.
    missing_since: Option<Instant>,
}

/// What a read of a key returned.
enum Reading {
    Value(Secret),
    Missing(Error),
    Failed(String),
}

/// What follows from a read of all keys.
#[derive(Debug, Default)]
pub(crate) struct Decision {
    pub(crate) action: Option<Action>,
    /// The keys whose values the program does not have yet.
    pub(crate) changed: Vec<SecretKey>,
    /// The keys whose values the program has, but will not have in any variable.
    pub(crate) lost: Vec<SecretKey>,
    /// What must be logged, in this order.
    pub(crate) notes: Vec<Note>,
    /// The time of the next decision, even if nothing changes.
    pub(crate) due: Option<Instant>,
}

#[derive(Debug)]
pub(crate) enum Action {
    /// The program must get these secrets.
    Change(ProgramSecrets),
    /// The program must be stopped.
    Stop(Failure),
}

/// A line of the log. The texts are those of errors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Note {
    /// The program gets a secret that it did not have.
    Added(SecretKey),
    /// The program no longer gets a secret.
    Dropped(SecretKey, String),
    /// The program keeps the last value of a secret.
    Kept(SecretKey, String),
    /// A secret that the program does not have cannot be passed to it.
    LeftOut(SecretKey, String),
    /// A secret that had a problem can be read again.
    Recovered(SecretKey),
    /// A required key holds back all changes.
    Blocked(String),
    /// A secret is read from another source than before.
    Moved(SecretKey, Origin),
}

impl Decider {
    /// Creates the state of a program that was started with `secrets`.
    pub(crate) fn new(
        naming: Naming,
        on_missing: OnMissing,
        required: &[SecretKey],
        secrets: &[FetchedSecret],
    ) -> Self {
        let program = secrets.iter().map(|it| (it.key.clone(), it.secret.clone()));
        Self {
            naming,
            on_missing,
            required: required.iter().cloned().collect(),
            program: program.collect(),
            problems: BTreeMap::new(),
            left_out: BTreeMap::new(),
            blocked: None,
        }
    }

    /// Returns the keys that must be read: those of the program, and those that are required.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &SecretKey> {
        self.program.keys().chain(&self.required)
    }

    /// Decides what follows from the `results` of a read of all keys.
    pub(crate) fn decide(
        &mut self,
        results: Vec<(SecretKey, Result<Resolved, Error>)>,
        now: Instant,
    ) -> Decision {
        let mut decision = Decision::default();
        let mut next = self.program.clone();
        let mut values = BTreeMap::new();
        let (mut blocking, mut missing) = (Vec::new(), Vec::new());
        let is_read: BTreeSet<SecretKey> = results.iter().map(|(key, _)| key.clone()).collect();
        self.problems.retain(|key, _| is_read.contains(key));
        for (key, result) in results {
            if let Ok(resolved) = &result {
                values.insert(key.clone(), resolved.value.clone());
            }
            let (problem, is_missing) = match self.reading(&key, result) {
                Reading::Value(secret) => {
                    if self.problems.remove(&key).is_some() {
                        decision.notes.push(Note::Recovered(key.clone()));
                    }
                    // A new secret is often empty until it is written.
                    if !secret.value.is_empty() || self.program.contains_key(&key) {
                        next.insert(key, secret);
                    }
                    continue;
                }
                Reading::Missing(error) => {
                    let text = error.to_string();
                    missing.push(error);
                    (text, true)
                }
                Reading::Failed(text) => (text, false),
            };
            let is_required = self.required.contains(&key);
            let is_held = self.program.contains_key(&key);
            if is_missing && !is_held && !is_required {
                missing.pop();
                self.problems.remove(&key);
                continue;
            }
            let is_new = self.record(&key, &problem, is_missing, now);
            if is_required {
                blocking.push(problem);
                continue;
            }
            let since = self.problems.get(&key).and_then(|it| it.missing_since);
            let since = since.filter(|_| is_missing);
            let is_dropped = match (since, self.on_missing) {
                (Some(_), OnMissing::Drop) => true,
                (Some(since), _) => now.saturating_duration_since(since) >= MAX_KEPT,
                (None, _) => false,
            };
            if is_dropped {
                next.remove(&key);
                decision.notes.push(Note::Dropped(key, problem));
                continue;
            }
            let due = since.map(|since| since + MAX_KEPT);
            decision.due = decision.due.into_iter().chain(due).min();
            if is_new && is_held {
                decision.notes.push(Note::Kept(key, problem));
            } else if is_new {
                decision.notes.push(Note::LeftOut(key, problem));
            }
        }
        if self.on_missing == OnMissing::Stop
            && let Some(failure) = Failure::from_errors(&missing)
        {
            let failure = Failure::with_problems(Reason::Missing, failure.problems().to_vec());
            decision.action = Some(Action::Stop(failure));
            return decision;
        }
        if !blocking.is_empty() {
            decision
                .notes
                .retain(|note| !matches!(note, Note::Dropped(..)));
            self.hold_back(blocking, values, &mut decision.notes);
            return decision;
        }
        self.blocked = None;
        self.apply(next, &mut decision);
        decision
    }

    /// Judges the result of one key.
    fn reading(&self, key: &SecretKey, result: Result<Resolved, Error>) -> Reading {
        let resolved = match result {
            Ok(resolved) => resolved,
            Err(error) if error.is_not_found() => return Reading::Missing(error),
            Err(error) => return Reading::Failed(error.to_string()),
        };
        let is_required = self.required.contains(key);
        if let secretwell::Freshness::Stale { reason, .. } = &resolved.freshness {
            // The value is not confirmed. It can belong to a pair of secrets that are changed together.
            return Reading::Failed(reason.to_string());
        }
        let had_value = self.program.get(key).is_some_and(|it| !it.value.is_empty());
        if resolved.value.is_empty() && (is_required || had_value) {
            let error = Error::new(ErrorKind::NotFound, "the value is empty")
                .with_origin(&resolved.origin)
                .with_key(key)
                .with_hint("set a value");
            return Reading::Missing(error);
        }
        let mut secret = Secret::new(resolved.value);
        secret.version = resolved.version;
        secret.origin = Some(resolved.origin);
        match self.variables(&BTreeMap::from([(key.clone(), secret.clone())])) {
            Ok(_) => Reading::Value(secret),
            Err(failure) => Reading::Failed(failure.problems().join("; ")),
        }
    }

    /// Records the problem of a key. Returns whether it differs from the last one.
    fn record(&mut self, key: &SecretKey, text: &str, is_missing: bool, now: Instant) -> bool {
        let last = self.problems.get(key);
        let is_new = last.is_none_or(|last| without_digits(&last.text) != without_digits(text));
        let since = last.and_then(|last| last.missing_since);
        let problem = Problem {
            text: text.to_owned(),
            missing_since: since.or(is_missing.then_some(now)),
        };
        self.problems.insert(key.clone(), problem);
        is_new
    }

    /// Notes the required keys that hold back a change, unless the last read returned the same.
    fn hold_back(
        &mut self,
        mut problems: Vec<String>,
        values: BTreeMap<SecretKey, SecretValue>,
        notes: &mut Vec<Note>,
    ) {
        let shown = problems.clone();
        problems.iter_mut().for_each(|it| *it = without_digits(it));
        let blocked = Blocked { problems, values };
        if self.blocked.as_ref() != Some(&blocked) {
            notes.extend(shown.into_iter().map(Note::Blocked));
            self.blocked = Some(blocked);
        }
    }

    /// Passes `next` to the program, if it differs from what the program has.
    fn apply(&mut self, mut next: BTreeMap<SecretKey, Secret>, decision: &mut Decision) {
        let mut left_out = BTreeMap::new();
        let variables = match self.variables(&next) {
            Ok(variables) => variables,
            Err(_) => {
                // Two keys have one variable name. The keys of the program take precedence over new ones.
                let (mut accepted, added): (BTreeMap<_, _>, BTreeMap<_, _>) = next
                    .into_iter()
                    .partition(|(key, _)| self.program.contains_key(key));
                for (key, secret) in added {
                    accepted.insert(key.clone(), secret);
                    if let Err(failure) = self.variables(&accepted) {
                        accepted.remove(&key);
                        left_out.insert(key, failure.problems().join("; "));
                    }
                }
                next = accepted;
                match self.variables(&next) {
                    Ok(variables) => variables,
                    Err(failure) => {
                        let problems = failure.problems().iter().cloned();
                        decision.notes.extend(problems.map(Note::Blocked));
                        return;
                    }
                }
            }
        };
        for (key, text) in &left_out {
            if self.left_out.get(key) != Some(text) {
                let note = Note::LeftOut(key.clone(), text.clone());
                decision.notes.push(note);
            }
        }
        self.left_out = left_out;
        let value = |(key, secret): (&SecretKey, &Secret)| (key.clone(), secret.value.clone());
        let values = |of: &BTreeMap<SecretKey, Secret>| of.iter().map(value).collect::<Vec<_>>();
        if values(&next) == values(&self.program) {
            return;
        }
        for (key, secret) in &next {
            let old = self.program.get(key).map(|it| &it.value);
            if old == Some(&secret.value) {
                continue;
            }
            decision.changed.push(key.clone());
            let origins = (self.program.get(key).map(|it| &it.origin), &secret.origin);
            if let (Some(Some(before)), Some(origin)) = origins
                && before != origin
            {
                let note = Note::Moved(key.clone(), origin.clone());
                decision.notes.push(note);
            }
            let is_lost = |old: &SecretValue| {
                !old.is_empty() && next.values().all(|secret| secret.value != *old)
            };
            if old.is_some_and(is_lost) {
                decision.lost.push(key.clone());
            }
        }
        let added = next.keys().filter(|key| !self.program.contains_key(*key));
        decision.notes.extend(added.cloned().map(Note::Added));
        self.problems
            .retain(|key, problem| next.contains_key(key) || problem.missing_since.is_none());
        self.program = next;
        let secrets = fetched(&self.program);
        decision.action = Some(Action::Change(ProgramSecrets { secrets, variables }));
    }

    fn variables(&self, secrets: &BTreeMap<SecretKey, Secret>) -> Result<Vec<Variable>, Failure> {
        self.naming.variables(&fetched(secrets))
    }
}

fn fetched(secrets: &BTreeMap<SecretKey, Secret>) -> Vec<FetchedSecret> {
    let fetched = |(key, secret): (&SecretKey, &Secret)| FetchedSecret {
        key: key.clone(),
        secret: secret.clone(),
    };
    secrets.iter().map(fetched).collect()
}

/// Removes times and counts, which differ between two errors of the same kind.
fn without_digits(text: &str) -> String {
    text.chars().filter(|c| !c.is_ascii_digit()).collect()
}

#[cfg(test)]
mod tests {
    use secretwell::{MemoryProvider, Resolver, SecretProvider};

    use super::*;

    /// Reads all keys of the decider and `added` from a new resolver, and decides.
    async fn decide(decider: &mut Decider, memory: &MemoryProvider, added: &[&str]) -> Decision {
        let added: Vec<SecretKey> = added.iter().map(|it| key(it)).collect();
        let keys: BTreeSet<SecretKey> = decider.keys().chain(&added).cloned().collect();
        let keys: Vec<SecretKey> = keys.into_iter().collect();
        let results = Resolver::new(memory.clone()).get_many(&keys).await;
        let results = keys.into_iter().zip(results).collect();
        decider.decide(results, Instant::now())
    }

    fn decider(on_missing: OnMissing, required: &[&str], program: &[(&str, &str)]) -> Decider {
        let required: Vec<SecretKey> = required.iter().map(|it| key(it)).collect();
        let program = program.iter().map(|(name, value)| FetchedSecret {
            key: key(name),
            secret: Secret::new(*value),
        });
        let program: Vec<FetchedSecret> = program.collect();
        let mut naming = Naming::new("", []);
        naming.upcase = true;
        Decider::new(naming, on_missing, &required, &program)
    }

    fn key(text: &str) -> SecretKey {
        SecretKey::parse(text).unwrap()
    }

    /// The kinds and keys of the notes.
    fn notes(decision: &Decision) -> Vec<String> {
        let short = |note: &Note| match note {
            Note::Added(key) => format!("added {key}"),
            Note::Dropped(key, _) => format!("dropped {key}"),
            Note::Kept(key, _) => format!("kept {key}"),
            Note::LeftOut(key, _) => format!("left out {key}"),
            Note::Recovered(key) => format!("recovered {key}"),
            Note::Blocked(problem) => format!("blocked {}", &problem[..1]),
            Note::Moved(key, origin) => format!("moved {key} to {origin}"),
        };
        decision.notes.iter().map(short).collect()
    }

    const NONE: [&str; 0] = [];

    #[tokio::test(start_paused = true)]
    async fn problem_is_noted_when_it_changes_and_not_again() {
        let memory = MemoryProvider::from_iter([("A", "1")]);
        let mut decider = decider(OnMissing::Keep, &[], &[("A", "1"), ("B", "b")]);
        for expected in [&["kept B"][..], &[]] {
            assert_eq!(notes(&decide(&mut decider, &memory, &[]).await), expected);
        }
        memory.set("B", "").unwrap();
        for expected in [&["kept B"][..], &[]] {
            assert_eq!(notes(&decide(&mut decider, &memory, &[]).await), expected);
        }
        // A change of another key does not repeat the problem.
        memory.set("A", "2").unwrap();
        let decision = decide(&mut decider, &memory, &[]).await;
        assert!(matches!(decision.action, Some(Action::Change(_))));
        assert_eq!(notes(&decision), NONE);
        memory.set("B", "b").unwrap();
        let decision = decide(&mut decider, &memory, &[]).await;
        assert_eq!(notes(&decision), ["recovered B"]);
        assert!(decision.action.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn required_key_is_noted_at_each_change_that_it_holds_back() {
        let memory = MemoryProvider::from_iter([("A", "1")]);
        let mut decider = decider(OnMissing::Keep, &["B"], &[("A", "1"), ("B", "b")]);
        for value in ["1", "2", "3"] {
            memory.set("A", value).unwrap();
            for expected in [&["blocked B"][..], &[]] {
                let decision = decide(&mut decider, &memory, &[]).await;
                assert_eq!(notes(&decision), expected);
                assert!(decision.action.is_none());
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn required_key_also_holds_back_that_another_one_is_dropped() {
        let memory = MemoryProvider::from_iter([("A", "1")]);
        let program = [("A", "1"), ("B", "b"), ("C", "c")];
        let mut decider = decider(OnMissing::Drop, &["B"], &program);
        let decision = decide(&mut decider, &memory, &[]).await;
        assert_eq!(notes(&decision), ["blocked B"]);
        memory.set("B", "b").unwrap();
        let decision = decide(&mut decider, &memory, &[]).await;
        assert_eq!(notes(&decision), ["recovered B", "dropped C"]);
        assert!(decision.action.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn new_key_with_the_name_of_another_one_is_left_out() {
        let memory = MemoryProvider::from_iter([("A", "1"), ("a", "x"), ("b", "y")]);
        let mut decider = decider(OnMissing::Keep, &[], &[("A", "1")]);
        let decision = decide(&mut decider, &memory, &["a", "b"]).await;
        assert_eq!(notes(&decision), ["left out a", "added b"]);
        let Some(Action::Change(program)) = decision.action else {
            panic!("b must be passed");
        };
        let names: Vec<&str> = program.variables.iter().map(|it| &*it.name).collect();
        assert_eq!(names, ["A", "B"]);
        // It is noted once.
        memory.set("A", "2").unwrap();
        let decision = decide(&mut decider, &memory, &["a", "b"]).await;
        assert_eq!(notes(&decision), NONE);
        assert!(decision.action.is_some());
        // The name is free now.
        let _ = decider_without(&mut decider, &memory, "A").await;
        let decision = decide(&mut decider, &memory, &["a", "b"]).await;
        assert_eq!(notes(&decision), ["added a"]);
    }

    /// Lets a day pass without the key `name`.
    async fn decider_without(
        decider: &mut Decider,
        memory: &MemoryProvider,
        name: &str,
    ) -> Decision {
        memory.remove(name).unwrap();
        let first = decide(decider, memory, &[]).await;
        assert_eq!(first.due, Some(Instant::now() + MAX_KEPT));
        tokio::time::advance(MAX_KEPT).await;
        let decision = decide(decider, memory, &[]).await;
        assert_eq!(notes(&decision), [format!("dropped {name}")]);
        decision
    }

    #[tokio::test(start_paused = true)]
    async fn replaced_value_is_lost_unless_another_secret_has_it() {
        let memory = MemoryProvider::from_iter([("A", "1"), ("B", "b"), ("C", "c")]);
        let mut decider = decider(OnMissing::Keep, &[], &[("A", "1"), ("B", "b"), ("C", "")]);
        for (name, value) in [("A", "2"), ("B", "b2"), ("B_PREVIOUS", "b")] {
            memory.set(name, value).unwrap();
        }
        let decision = decide(&mut decider, &memory, &["B_PREVIOUS"]).await;
        assert_eq!(decision.changed, ["A", "B", "B_PREVIOUS", "C"].map(key));
        assert_eq!(decision.lost, [key("A")]);
        assert!(decide(&mut decider, &memory, &[]).await.changed.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn change_to_the_value_of_another_source_is_noted() {
        let memory = MemoryProvider::from_iter([("A", "2"), ("B", "b")]);
        let mut decider = decider(OnMissing::Keep, &[], &[("A", "1"), ("B", "b")]);
        for secret in decider.program.values_mut() {
            secret.origin = Some(Origin::new("file", "/strong"));
        }
        let decision = decide(&mut decider, &memory, &[]).await;
        let expected = format!("moved A to {}", memory.origin());
        assert_eq!(notes(&decision), [expected]);
        assert_eq!(notes(&decide(&mut decider, &memory, &[]).await), NONE);
    }

    #[tokio::test(start_paused = true)]
    async fn no_secret_is_in_a_note() {
        let memory =
            MemoryProvider::from_iter([("A", "c4n4ry\0"), ("B", "ENC[AES256_GCM,c4n4ry]")]);
        let mut decider = decider(OnMissing::Keep, &[], &[("A", "c4n4ry"), ("B", "c4n4ry")]);
        let decision = decide(&mut decider, &memory, &[]).await;
        assert_eq!(notes(&decision), ["kept A", "kept B"]);
        assert!(!format!("{decision:?} {decider:?}").contains("c4n4ry"));
    }
}
