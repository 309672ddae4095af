//! Watching the secrets of a running program for changes.

use std::time::Duration;

use secretwell::{Resolver, SecretKey};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use crate::fetch::{FetchedSecret, KeySelection, fetch};
use crate::variables::{Naming, Variable};

/// The time without further changes after which a change is reported. Changes in quick succession are thus
/// reported together.
const DEBOUNCE: Duration = Duration::from_millis(500);
/// The maximum time that a change is held back for further changes.
const MAX_DEBOUNCE: Duration = Duration::from_secs(5);
/// The maximum pause between two attempts to read the changed secrets.
const MAX_BACKOFF: Duration = Duration::from_secs(60);

/// Watches the secrets of the program in a background task, and sends all its variables when a value has
/// changed.
///
/// `fetched` and `current` are the secrets and variables that the program was started with. A new version
/// with the same value is not sent. Secrets that are missing or cannot be read are logged and fetched again
/// with backoff. The task ends when the receiver is dropped.
pub(crate) fn watch_variables(
    resolver: Resolver,
    selection: KeySelection,
    naming: Naming,
    fetched: Vec<FetchedSecret>,
    mut current: Vec<Variable>,
) -> mpsc::UnboundedReceiver<Vec<Variable>> {
    let (sender, receiver) = mpsc::unbounded_channel();
    let keys: Vec<SecretKey> = fetched.iter().map(|fetched| fetched.key.clone()).collect();
    // The program keeps a secret that is deleted or becomes empty. So the secrets that it has are required.
    let mut required = non_empty_keys(&fetched);
    tokio::spawn(async move {
        // The keys were read before, so they are valid.
        let Ok(mut watch) = resolver.watch(&keys) else {
            return;
        };
        let Some(current_results) = watch.next().await else {
            return;
        };
        // A value might have changed between the first fetch and the start of the watch.
        let mut has_changed = current_results
            .iter()
            .zip(&fetched)
            .any(|(update, fetched)| {
                let result = update.result.as_ref();
                !result.is_ok_and(|resolved| resolved.value == fetched.secret.value)
            });
        while !sender.is_closed() {
            if !std::mem::take(&mut has_changed) {
                watch.next().await;
            }
            let deadline = Instant::now() + MAX_DEBOUNCE;
            while Instant::now() < deadline && timeout(DEBOUNCE, watch.next()).await.is_ok() {}

            let mut pause = DEBOUNCE;
            let variables = loop {
                let selection = selection.with_required(&required);
                let result = fetch(resolver.provider(), &selection, Duration::ZERO).await;
                let failure = match result {
                    Ok(fetched) => match naming.variables(&fetched) {
                        Ok(variables) => {
                            required = non_empty_keys(&fetched);
                            break variables;
                        }
                        Err(failure) => failure,
                    },
                    Err(failure) => failure,
                };
                for problem in failure.problems() {
                    tracing::warn!(target: "secretwell::command", event = "rotation_skipped", "the program keeps its current secrets: {problem}");
                }
                let _ = timeout(pause, watch.next()).await;
                pause = (pause * 2).min(MAX_BACKOFF);
            };
            if variables != current {
                current.clone_from(&variables);
                let _ = sender.send(variables);
            }
        }
    });
    receiver
}

fn non_empty_keys(fetched: &[FetchedSecret]) -> Vec<SecretKey> {
    let non_empty = fetched
        .iter()
        .filter(|fetched| !fetched.secret.value.is_empty());
    non_empty.map(|fetched| fetched.key.clone()).collect()
}

#[cfg(test)]
mod tests {
    use secretwell::{MemoryProvider, SecretProvider};

    use super::*;

    async fn start_watch(
        memory: &MemoryProvider,
        selection: KeySelection,
    ) -> mpsc::UnboundedReceiver<Vec<Variable>> {
        let fetched = fetch(memory, &selection, Duration::ZERO).await.unwrap();
        let naming = Naming::new("", []);
        let current = naming.variables(&fetched).unwrap();
        let resolver = Resolver::new(memory.clone());
        assert!(resolver.provider().watch().is_some());
        watch_variables(resolver, selection, naming, fetched, current)
    }

    fn values(variables: &[Variable]) -> Vec<&str> {
        let values = variables
            .iter()
            .map(|variable| variable.value.expose_text());
        values.map(Result::unwrap).collect()
    }

    fn only_a() -> KeySelection {
        KeySelection::Only(vec![SecretKey::parse("A").unwrap()])
    }

    async fn assert_no_change(changes: &mut mpsc::UnboundedReceiver<Vec<Variable>>) {
        let change = timeout(Duration::from_secs(60), changes.recv()).await;
        change.unwrap_err();
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_new_value_is_reported_and_a_burst_is_reported_once() {
        let memory = MemoryProvider::from_iter([("A", "1")]);
        let mut changes = start_watch(&memory, only_a()).await;
        memory.set("A", "1").unwrap();
        assert_no_change(&mut changes).await;

        for value in ["2", "3", "4"] {
            memory.set("A", value).unwrap();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert_eq!(values(&changes.recv().await.unwrap()), ["4"]);
        assert_no_change(&mut changes).await;
    }

    #[tokio::test(start_paused = true)]
    async fn change_before_the_watch_starts_is_reported() {
        let memory = MemoryProvider::from_iter([("A", "1")]);
        let fetched = fetch(&memory, &only_a(), Duration::ZERO).await.unwrap();
        let naming = Naming::new("", []);
        let current = naming.variables(&fetched).unwrap();
        memory.set("A", "2").unwrap();
        let resolver = Resolver::new(memory);
        let mut changes = watch_variables(resolver, only_a(), naming, fetched, current);
        assert_eq!(values(&changes.recv().await.unwrap()), ["2"]);
        assert_no_change(&mut changes).await;
    }

    #[tokio::test(start_paused = true)]
    async fn missing_or_empty_value_is_not_reported() {
        let all = KeySelection::All { require: vec![] };
        for selection in [only_a(), all] {
            let memory = MemoryProvider::from_iter([("A", "1"), ("EMPTY", "")]);
            let mut changes = start_watch(&memory, selection.clone()).await;
            memory.set("A", "").unwrap();
            assert_no_change(&mut changes).await;
            memory.remove("A").unwrap();
            assert_no_change(&mut changes).await;
            memory.set("A", "2").unwrap();
            let expected = match selection {
                KeySelection::Only(_) => vec!["2"],
                KeySelection::All { .. } => vec!["2", ""],
            };
            assert_eq!(values(&changes.recv().await.unwrap()), expected);
        }
    }
}
