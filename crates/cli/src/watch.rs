//! Watching the secrets of a running program for changes.

use std::collections::BTreeSet;
use std::time::Duration;

use secretwell::{Resolver, SecretKey};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

use crate::args::OnMissing;
use crate::decide::{Action, Decider, Note};
use crate::fetch::{FetchedSecret, KeySelection};
use crate::listing::Listing;
use crate::variables::Naming;

/// The time without further changes after which a change is reported. Changes in quick succession are thus
/// reported together.
const DEBOUNCE: Duration = Duration::from_millis(500);
/// The maximum time that a change is held back for further changes.
const MAX_DEBOUNCE: Duration = Duration::from_secs(5);

/// What is watched, and what follows from missing secrets.
#[derive(Debug)]
pub(crate) struct Watched {
    pub(crate) selection: KeySelection,
    pub(crate) naming: Naming,
    pub(crate) on_missing: OnMissing,
    /// The maximum age of a list of keys, instead of the one that the source suggests.
    pub(crate) ttl: Option<Duration>,
}

/// Watches the secrets of the program in a background task, and sends what the program must do.
///
/// `fetched` are the secrets that the program was started with. A new version with the same value is not
/// sent. The task ends when the receiver is dropped.
pub(crate) fn watch_secrets(
    resolver: Resolver,
    watched: Watched,
    fetched: &[FetchedSecret],
) -> mpsc::UnboundedReceiver<Action> {
    let (sender, receiver) = mpsc::unbounded_channel();
    let Watched {
        selection,
        naming,
        on_missing,
        ttl,
    } = watched;
    let mut decider = Decider::new(naming, on_missing, selection.required(), fetched);
    tokio::spawn(async move {
        let mut listing = match selection {
            KeySelection::Only(_) => Listing::empty(),
            KeySelection::All { .. } => Listing::start(resolver.provider(), ttl),
        };
        loop {
            let keys: BTreeSet<SecretKey> = decider.keys().chain(listing.keys()).cloned().collect();
            let keys: Vec<SecretKey> = keys.into_iter().collect();
            // The keys were read or listed before, so they are valid.
            let Ok(mut watch) = resolver.watch(&keys) else {
                return;
            };
            // The first call returns all current results. A value might have changed since it was fetched.
            if watch.next().await.is_none() {
                return;
            }
            let mut is_first = true;
            let mut due = None;
            let mut lists_new_keys = false;
            while !lists_new_keys {
                let changed = async {
                    tokio::select! {
                        updates = watch.next() => updates.is_some(),
                        () = listing.changed() => {
                            lists_new_keys = listing.keys().any(|key| keys.binary_search(key).is_err());
                            true
                        }
                    }
                };
                tokio::select! {
                    // The first read is not a change, but it might differ from what the program has.
                    () = std::future::ready(()), if is_first => {}
                    is_open = changed => if !is_open { return },
                    () = at(due) => {}
                    () = sender.closed() => return,
                }
                if lists_new_keys {
                    break;
                }
                is_first = false;
                let deadline = Instant::now() + MAX_DEBOUNCE;
                while Instant::now() < deadline
                    && let Ok(Some(_)) = timeout(DEBOUNCE, watch.next()).await
                {}

                let results = resolver.get_many(&keys).await;
                let results = keys.iter().cloned().zip(results).collect();
                let decision = decider.decide(results, Instant::now());
                decision.notes.iter().for_each(log);
                due = decision.due;
                if let Some(action) = decision.action {
                    let _ = sender.send(action);
                }
            }
        }
    });
    receiver
}

/// Waits until `time`, or forever.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

fn log(note: &Note) {
    match note {
        Note::Added(key) => {
            tracing::info!(target: "secretwell::command", event = "secret_added", %key, "a secret was added: {key}");
        }
        Note::Dropped(key, problem) => {
            tracing::warn!(target: "secretwell::command", event = "secret_dropped", %key, "the program no longer gets a missing secret: {problem}");
        }
        Note::Kept(key, problem) => {
            tracing::warn!(target: "secretwell::command", event = "secret_kept", %key, "the program keeps the last value: {problem}");
        }
        Note::LeftOut(key, problem) => {
            tracing::warn!(target: "secretwell::command", event = "new_secret_left_out", %key, "a new secret is not passed to the program: {problem}");
        }
        Note::Recovered(key) => {
            tracing::info!(target: "secretwell::command", event = "secret_recovered", %key, "the secret can be read again: {key}");
        }
        Note::Blocked(problem) => {
            tracing::warn!(target: "secretwell::command", event = "rotation_skipped", "the program keeps its current secrets: {problem}");
        }
    }
}
