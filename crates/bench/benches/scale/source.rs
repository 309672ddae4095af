//! The source of the measured resolvers: every key has a value, and every read costs the same.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use secretwell::{Error, Origin, Secret, SecretKey, SecretProvider, Version};
use secretwell_bench::clock::process_cpu_time;
use secretwell_core::backend::{Capabilities, Change, ChangeSender, ChangeStream, join_bounded};
use tokio::sync::watch;

use crate::meter::per;

/// The length of each value in bytes.
pub(crate) const VALUE_BYTES: usize = 32;
/// After this many keys, a read lets other tasks run, as a read over a network does.
const CHUNK: usize = 1000;
/// The number of concurrent reads without batches, as in the default of `SecretProvider::get_many`.
const CONCURRENCY: usize = 16;

/// Whether a source reads many keys in one round trip.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Batch {
    Yes,
    No,
}

/// A source in memory. Clones are the same source.
#[derive(Clone)]
pub(crate) struct Source {
    batch: Batch,
    latency: Duration,
    shared: Arc<Shared>,
}

struct Shared {
    origin: Origin,
    calls: AtomicUsize,
    /// The number of keys that were read.
    keys: watch::Sender<usize>,
    /// The number in the value of every key.
    number: AtomicUsize,
    changes: Mutex<Vec<ChangeSender>>,
}

impl Source {
    pub(crate) fn new(batch: Batch) -> Self {
        Self {
            batch,
            latency: Duration::ZERO,
            shared: Arc::new(Shared {
                origin: Origin::new("bench", ""),
                calls: AtomicUsize::new(0),
                keys: watch::Sender::new(0),
                number: AtomicUsize::new(0),
                changes: Mutex::default(),
            }),
        }
    }

    /// Makes every call take `latency`.
    pub(crate) fn with_latency(self, latency: Duration) -> Self {
        Self { latency, ..self }
    }

    pub(crate) fn calls(&self) -> usize {
        self.shared.calls.load(Ordering::Relaxed)
    }

    /// Returns how many keys were read so far.
    pub(crate) fn keys_read(&self) -> usize {
        *self.shared.keys.borrow()
    }

    /// Waits until `count` keys were read.
    pub(crate) async fn until_read(&self, count: usize) {
        let mut keys = self.shared.keys.subscribe();
        let waited = keys.wait_for(|keys| *keys >= count);
        let waited = tokio::time::timeout(Duration::from_secs(120), waited).await;
        assert!(
            waited.is_ok(),
            "only {} of {count} keys were read",
            self.keys_read()
        );
    }

    /// Changes the value of every key.
    pub(crate) fn change(&self) {
        self.shared.number.fetch_add(1, Ordering::Relaxed);
    }

    /// Notifies the subscribers that any key might have changed.
    pub(crate) fn notify_all(&self) {
        for sender in &*self.shared.changes.lock().expect("not poisoned") {
            sender.send(Change::All);
        }
    }

    /// Returns the CPU time of this source per key, when `keys` are read in calls of at most 1,000.
    pub(crate) async fn own_cost(&self, keys: &[SecretKey]) -> Duration {
        let source = Self::new(self.batch);
        let keys = &keys[..keys.len().min(50_000)];
        let rounds = 50_000 / keys.len();
        let before = process_cpu_time();
        for _ in 0..rounds {
            for chunk in keys.chunks(CHUNK) {
                drop(source.get_many(chunk).await);
            }
        }
        per(process_cpu_time() - before, rounds * keys.len())
    }

    fn read(&self, value: &str, version: u64) -> Secret {
        Secret::new(value).with_version(Version::numbered(version))
    }

    fn value(&self) -> String {
        let number = self.shared.number.load(Ordering::Relaxed);
        format!("{number:0VALUE_BYTES$}")
    }

    fn version(&self) -> u64 {
        self.calls() as u64
    }
}

#[async_trait]
impl SecretProvider for Source {
    fn origin(&self) -> &Origin {
        &self.shared.origin
    }

    fn capabilities(&self) -> Capabilities {
        let capabilities = Capabilities::none().with_versions().with_watch();
        match self.batch {
            Batch::Yes => capabilities.with_batch(),
            Batch::No => capabilities,
        }
    }

    async fn get(&self, _: &SecretKey) -> Result<Secret, Error> {
        Ok(self.read(&self.value(), self.version()))
    }

    async fn get_many(&self, keys: &[SecretKey]) -> Vec<Result<Secret, Error>> {
        self.shared.calls.fetch_add(1, Ordering::Relaxed);
        if !self.latency.is_zero() {
            tokio::time::sleep(self.latency).await;
        }
        let (value, version) = (self.value(), self.version());
        let mut results = Vec::with_capacity(keys.len());
        for chunk in keys.chunks(CHUNK) {
            if !results.is_empty() {
                tokio::task::yield_now().await;
            }
            match self.batch {
                Batch::Yes => {
                    results.extend(chunk.iter().map(|_| Ok(self.read(&value, version))));
                }
                Batch::No => {
                    let reads = chunk.iter().map(|key| self.get(key));
                    results.extend(join_bounded(CONCURRENCY, reads).await);
                }
            }
        }
        self.shared.keys.send_modify(|read| *read += keys.len());
        results
    }

    fn watch(&self) -> Option<ChangeStream> {
        let (sender, stream) = ChangeStream::channel();
        self.shared
            .changes
            .lock()
            .expect("not poisoned")
            .push(sender);
        Some(stream)
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source").finish_non_exhaustive()
    }
}
