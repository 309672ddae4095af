//! The cached entries of one source, in a map that is optimized for reads.

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};

use papaya::{Guard, HashMap};
use secretwell_core::SecretKey;

use crate::entry::{Answer, Entry, Times};

/// A map of entries whose reads need no lock and no allocation.
///
/// The recency of reads is measured with a counter that only insertions increment. A read therefore rarely
/// writes.
pub(crate) struct Cache {
    entries: HashMap<SecretKey, Entry, foldhash::fast::RandomState>,
    counter: AtomicU32,
}

impl Cache {
    pub(crate) fn new() -> Self {
        Self {
            entries: HashMap::builder()
                .hasher(foldhash::fast::RandomState::default())
                // Replaced values are zeroized as soon as they have no reader, not in batches of 32.
                .collector(seize::Collector::new().batch_size(1))
                .build(),
            counter: AtomicU32::new(2),
        }
    }

    /// Reads an entry and marks it as used.
    #[inline]
    pub(crate) fn read<R>(&self, key: &str, reader: impl FnOnce(&Entry) -> R) -> Option<R> {
        let entries = self.entries.pin();
        let entry = entries.get(key)?;
        let now = self.counter.load(Ordering::Relaxed);
        if entry.last_read.load(Ordering::Relaxed) != now {
            entry.last_read.store(now, Ordering::Relaxed);
        }
        Some(reader(entry))
    }

    /// Reads an entry without marking it as used.
    pub(crate) fn peek<R>(&self, key: &SecretKey, reader: impl FnOnce(&Entry) -> R) -> Option<R> {
        self.entries.pin().get(key).map(reader)
    }

    /// Calls `reader` with the entry of `key`, if there is one.
    pub(crate) fn with<R>(&self, key: &SecretKey, reader: impl FnOnce(Option<&Entry>) -> R) -> R {
        reader(self.entries.pin().get(key))
    }

    /// Returns how many insertions ago the entry was read.
    pub(crate) fn idle(&self, entry: &Entry) -> u32 {
        let now = self.counter.load(Ordering::Relaxed);
        now.wrapping_sub(entry.last_read.load(Ordering::Relaxed))
    }

    /// Adds or replaces the entry of `key`.
    pub(crate) fn insert(&self, key: SecretKey, answer: Answer, times: Times, slot: u32) {
        let inserted = self.counter.fetch_add(2, Ordering::Relaxed).wrapping_add(1);
        let guard = self.entries.guard();
        let entry = Entry::new(answer, times, slot, inserted);
        self.entries.insert(key, entry, &guard);
        guard.flush();
    }

    /// Removes the entry of `key`.
    pub(crate) fn remove(&self, key: &SecretKey) {
        let guard = self.entries.guard();
        self.entries.remove(key, &guard);
        guard.flush();
    }
}

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache")
            .field("len", &self.entries.len())
            .finish_non_exhaustive()
    }
}
