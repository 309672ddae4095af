//! Follows the secrets of a running program.

use std::time::Duration;

use secretwell::{Error, Resolved, Resolver, SecretKey};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use crate::environment::{Naming, Variable};
use crate::read::{Found, Wanted, read};

/// How long nothing must have changed, so that what changes together is told together, and the longest
/// that this may take.
const QUIET: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(5);
/// The longest wait before what could not be read is read again.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Tells the variables of the program whenever they are others than before: a version that changed alone is
/// no change. What is absent or cannot be read changes nothing either; that is logged, and looked at again.
pub(crate) fn follow(
    resolver: Resolver,
    wanted: Wanted,
    naming: Naming,
    found: Vec<Found>,
    mut known: Vec<Variable>,
) -> mpsc::UnboundedReceiver<Vec<Variable>> {
    let (tell, news) = mpsc::unbounded_channel();
    let keys: Vec<SecretKey> = found.iter().map(|found| found.key.clone()).collect();
    // What the program has, it goes on to have: that a secret is gone or empty is no news.
    let mut held = with_value(&found);
    tokio::spawn(async move {
        let answers = resolver.get_many(&keys).await;
        let mut watch = resolver.watch(&keys);
        let is_same = |(answer, found): (&Result<Resolved, Error>, &Found)| {
            answer
                .as_ref()
                .is_ok_and(|now| now.value == found.secret.value)
        };
        // What has changed since the program's secrets were read is news, too.
        let mut is_old = !answers.iter().zip(&found).all(is_same);
        while !tell.is_closed() {
            if !std::mem::take(&mut is_old) {
                watch.changed().await;
            }
            let end = Instant::now() + LONGEST;
            while Instant::now() < end && timeout(QUIET, watch.changed()).await.is_ok() {}

            let mut pause = QUIET;
            let new = loop {
                let wanted = wanted.with(&held);
                let found = read(resolver.provider(), &wanted, Duration::ZERO).await;
                let failure = match found {
                    Ok(found) => match naming.variables(&found) {
                        Ok(new) => {
                            held = with_value(&found);
                            break new;
                        }
                        Err(failure) => failure,
                    },
                    Err(failure) => failure,
                };
                for problem in failure.problems() {
                    tracing::warn!(target: "secretwell::command", event = "rotation_skipped", "the program keeps its current secrets: {problem}");
                }
                let _ = timeout(pause, watch.changed()).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            };
            if new != known {
                known.clone_from(&new);
                let _ = tell.send(new);
            }
        }
    });
    news
}

/// The keys of secrets that are not empty.
fn with_value(found: &[Found]) -> Vec<SecretKey> {
    let found = found.iter().filter(|found| !found.secret.value.is_blank());
    found.map(|found| found.key.clone()).collect()
}

#[cfg(test)]
mod tests {
    use secretwell::{MemoryProvider, SecretProvider};

    use super::*;

    async fn following(
        memory: &MemoryProvider,
        wanted: Wanted,
    ) -> mpsc::UnboundedReceiver<Vec<Variable>> {
        let found = read(memory, &wanted, Duration::ZERO).await.unwrap();
        let naming = Naming::new("", []);
        let known = naming.variables(&found).unwrap();
        let resolver = Resolver::new(memory.clone());
        assert!(resolver.provider().watch().is_some());
        follow(resolver, wanted, naming, found, known)
    }

    fn values(variables: &[Variable]) -> Vec<&str> {
        let values = variables
            .iter()
            .map(|variable| variable.value.expose_text());
        values.map(Result::unwrap).collect()
    }

    fn only_a() -> Wanted {
        Wanted::Only(vec![SecretKey::parse("A").unwrap()])
    }

    async fn assert_quiet(news: &mut mpsc::UnboundedReceiver<Vec<Variable>>) {
        let nothing = timeout(Duration::from_secs(60), news.recv()).await;
        nothing.unwrap_err();
    }

    #[tokio::test(start_paused = true)]
    async fn only_another_value_is_news_and_a_burst_is_told_once() {
        let memory = MemoryProvider::from_iter([("A", "1")]);
        let mut news = following(&memory, only_a()).await;
        memory.set("A", "1").unwrap();
        assert_quiet(&mut news).await;

        for value in ["2", "3", "4"] {
            memory.set("A", value).unwrap();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert_eq!(values(&news.recv().await.unwrap()), ["4"]);
        assert_quiet(&mut news).await;
    }

    #[tokio::test(start_paused = true)]
    async fn what_has_changed_before_it_is_followed_is_news() {
        let memory = MemoryProvider::from_iter([("A", "1")]);
        let found = read(&memory, &only_a(), Duration::ZERO).await.unwrap();
        let naming = Naming::new("", []);
        let known = naming.variables(&found).unwrap();
        memory.set("A", "2").unwrap();
        let resolver = Resolver::new(memory);
        let mut news = follow(resolver, only_a(), naming, found, known);
        assert_eq!(values(&news.recv().await.unwrap()), ["2"]);
        assert_quiet(&mut news).await;
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_absent_or_blank_changes_nothing_until_it_is_good() {
        let all = Wanted::All { require: vec![] };
        for wanted in [only_a(), all] {
            let memory = MemoryProvider::from_iter([("A", "1"), ("EMPTY", "")]);
            let mut news = following(&memory, wanted.clone()).await;
            memory.set("A", " ").unwrap();
            assert_quiet(&mut news).await;
            memory.remove("A").unwrap();
            assert_quiet(&mut news).await;
            memory.set("A", "2").unwrap();
            let expected = match wanted {
                Wanted::Only(_) => vec!["2"],
                Wanted::All { .. } => vec!["2", ""],
            };
            assert_eq!(values(&news.recv().await.unwrap()), expected);
        }
    }
}
