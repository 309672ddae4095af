//! Watching the set of keys that the sources list.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use secretwell::backend::ChangeStream;
use secretwell::{ErrorKind, KeyPrefix, SecretKey, SecretProvider};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout, timeout_at};

/// The minimum pause between two lists of a source.
const MIN_PAUSE: Duration = Duration::from_millis(250);
/// How long a change waits for the lists that might belong to it.
const PATIENCE: Duration = Duration::from_secs(2);
/// The pause after a failed list. Each further pause is twice as long, up to the ttl.
const FIRST_BACKOFF: Duration = Duration::from_secs(5);

/// The keys that the sources list, one set for each source.
///
/// Each source is listed at once, after each of its change notifications, and at the latest after its ttl. A
/// source that cannot be listed does not affect the others.
#[derive(Debug)]
pub(crate) struct Listing {
    lists: Vec<BTreeSet<SecretKey>>,
    receiver: mpsc::UnboundedReceiver<(usize, BTreeSet<SecretKey>)>,
    /// One for each source. A request ends when it is dropped.
    requests: Vec<mpsc::UnboundedSender<Request>>,
}

/// A request to list a source now.
type Request = oneshot::Sender<()>;

impl Listing {
    /// Starts to list the sources of `provider` in the background. `ttl` replaces those of the sources.
    pub(crate) fn start(provider: &Arc<dyn SecretProvider>, ttl: Option<Duration>) -> Self {
        let mut sources: Vec<_> = provider
            .links()
            .iter()
            .map(|it| it.provider().clone())
            .collect();
        if sources.is_empty() {
            sources.push(provider.clone());
        }
        let lists = vec![BTreeSet::new(); sources.len()];
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut requests = Vec::new();
        for (index, source) in sources.into_iter().enumerate() {
            let ttl = ttl.unwrap_or(source.capabilities().ttl).max(MIN_PAUSE);
            let (request, requested) = mpsc::unbounded_channel();
            requests.push(request);
            tokio::spawn(list_source(source, ttl, index, sender.clone(), requested));
        }
        Self {
            lists,
            receiver,
            requests,
        }
    }

    /// Returns a listing of no keys, which never changes.
    pub(crate) fn empty() -> Self {
        let (_, receiver) = mpsc::unbounded_channel();
        Self {
            lists: Vec::new(),
            receiver,
            requests: Vec::new(),
        }
    }

    /// Returns the keys that at least one source has listed.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &SecretKey> {
        self.lists.iter().flatten()
    }

    /// Lists the sources now, because another change was detected that new keys might belong to. Waits at most 2 s.
    pub(crate) async fn refresh(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        let send = |request: &mpsc::UnboundedSender<Request>| {
            let (sender, ended) = oneshot::channel();
            request.send(sender).ok().map(|()| ended)
        };
        let all: Vec<_> = self.requests.iter().filter_map(send).collect();
        for ended in all {
            let _ = timeout_at(deadline, ended).await;
        }
        while let Ok((index, keys)) = self.receiver.try_recv() {
            self.lists[index] = keys;
        }
    }

    /// Waits until a source lists other keys. Cancellation is safe.
    pub(crate) async fn changed(&mut self) {
        match self.receiver.recv().await {
            Some((index, keys)) => self.lists[index] = keys,
            None => std::future::pending().await,
        }
    }
}

/// Lists one source until the receiver is dropped.
async fn list_source(
    source: Arc<dyn SecretProvider>,
    ttl: Duration,
    index: usize,
    sender: mpsc::UnboundedSender<(usize, BTreeSet<SecretKey>)>,
    mut requests: mpsc::UnboundedReceiver<Request>,
) {
    // No change is missed, because the subscription starts before the first list.
    let mut changes = source.watch();
    let mut last = None;
    let mut last_error = None;
    let mut requested = None;
    let mut backoff = FIRST_BACKOFF;
    loop {
        let pause = match source.list(&KeyPrefix::root()).await {
            Ok(keys) => {
                let keys: BTreeSet<_> = keys.into_iter().collect();
                if last.as_ref() != Some(&keys) {
                    last = Some(keys.clone());
                    let _ = sender.send((index, keys));
                }
                (last_error, backoff) = (None, FIRST_BACKOFF);
                ttl
            }
            Err(error) => {
                let pause = backoff
                    .min(ttl)
                    .max(error.retry_after().unwrap_or_default());
                backoff = backoff.saturating_mul(2);
                let kind = Some(error.kind());
                // A source without secrets is not a failure. Its keys are read one by one.
                if last_error != kind && !error.is_not_found() {
                    let origin = source.origin();
                    tracing::warn!(target: "secretwell::command", event = "keys_not_listed", %origin, "new secrets are not detected: {error}");
                }
                last_error = kind;
                pause
            }
        };
        drop(requested.take());
        // A source that has failed is not listed before the end of its pause.
        let has_failed = last_error.is_some_and(|kind| kind != ErrorKind::NotFound);
        let waiting = wait(&mut changes, pause);
        tokio::pin!(waiting);
        while requested.is_none() {
            tokio::select! {
                () = &mut waiting => break,
                Some(request) = requests.recv() => requested = Some(request).filter(|_| !has_failed),
                () = sender.closed() => return,
            }
        }
    }
}

/// Waits for a change notification, at least [`MIN_PAUSE`] and at most `pause`.
async fn wait(changes: &mut Option<ChangeStream>, pause: Duration) {
    sleep(MIN_PAUSE).await;
    let rest = pause.saturating_sub(MIN_PAUSE);
    match changes {
        None => sleep(rest).await,
        Some(stream) => {
            if let Ok(None) = timeout(rest, stream.next()).await {
                *changes = None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use secretwell::{Chain, MemoryProvider};

    use super::*;

    async fn names(listing: &mut Listing) -> Vec<String> {
        listing.changed().await;
        let names: BTreeSet<String> = listing.keys().map(SecretKey::to_string).collect();
        names.into_iter().collect()
    }

    #[tokio::test(start_paused = true)]
    async fn keys_of_all_sources_are_listed_again_after_notifications() {
        let first = MemoryProvider::from_iter([("A", "1")]);
        let second = MemoryProvider::from_iter([("A", "2"), ("B", "2")]);
        let provider: Arc<dyn SecretProvider> =
            Arc::new(Chain::new(first.clone()).or_else(second.clone()));
        let mut listing = Listing::start(&provider, Some(Duration::from_secs(3600)));
        names(&mut listing).await;
        assert_eq!(names(&mut listing).await, ["A", "B"]);
        first.set("C", "1").unwrap();
        assert_eq!(names(&mut listing).await, ["A", "B", "C"]);
        // The other source still lists the key.
        first.remove("A").unwrap();
        assert_eq!(names(&mut listing).await, ["A", "B", "C"]);
        second.remove("A").unwrap();
        assert_eq!(names(&mut listing).await, ["B", "C"]);
        // A new value is not a new key.
        second.set("B", "3").unwrap();
        timeout(Duration::from_secs(60), listing.changed())
            .await
            .unwrap_err();
    }

    #[tokio::test(start_paused = true)]
    async fn refreshed_listing_contains_new_keys() {
        let memory = MemoryProvider::from_iter([("A", "1")]);
        let provider: Arc<dyn SecretProvider> = Arc::new(memory.clone());
        let mut listing = Listing::start(&provider, Some(Duration::from_secs(3600)));
        names(&mut listing).await;
        for name in ["B", "C"] {
            memory.set(name, "1").unwrap();
            listing.refresh().await;
            assert!(listing.keys().any(|key| key.as_str() == name));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn empty_listing_never_changes() {
        let mut listing = Listing::empty();
        listing.refresh().await;
        timeout(Duration::from_secs(60), listing.changed())
            .await
            .unwrap_err();
        assert_eq!(listing.keys().count(), 0);
    }
}
