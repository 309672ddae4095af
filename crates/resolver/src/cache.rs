//! The cached entries of one source, in a map that is optimized for reads.

use std::fmt;

use secretwell_core::SecretKey;

use crate::entry::{Answer, Entry, Times};
use crate::map::Map;
use crate::sync::atomic::{AtomicU32, Ordering};

/// At most this many entries have a place from the start, because the growth of the map moves all entries at once.
const MAX_RESERVED: usize = 100_000;

/// A map of entries whose reads need no lock and no allocation.
///
/// The recency of reads is measured with a counter that only insertions increment. A read therefore rarely
/// writes.
pub(crate) struct Cache {
    entries: Map<Entry>,
    counter: AtomicU32,
}

impl Cache {
    /// Creates a cache that reaches `max_entries` without growing, up to [`MAX_RESERVED`].
    pub(crate) fn new(max_entries: usize) -> Self {
        Self {
            entries: Map::with_capacity(max_entries.min(MAX_RESERVED)),
            counter: AtomicU32::new(2),
        }
    }

    /// Reads an entry and marks it as used.
    #[inline]
    pub(crate) fn read<R>(&self, key: &str, reader: impl FnOnce(&Entry) -> R) -> Option<R> {
        self.entries.with(key, |entry| {
            let entry = entry?;
            let now = self.counter.load(Ordering::Relaxed);
            if entry.last_read.load(Ordering::Relaxed) != now {
                entry.last_read.store(now, Ordering::Relaxed);
            }
            Some(reader(entry))
        })
    }

    /// Reads an entry without marking it as used.
    pub(crate) fn peek<R>(&self, key: &SecretKey, reader: impl FnOnce(&Entry) -> R) -> Option<R> {
        self.with(key, |entry| entry.map(reader))
    }

    /// Calls `reader` with the entry of `key`, if there is one. Does not mark it as used.
    pub(crate) fn with<R>(&self, key: &SecretKey, reader: impl FnOnce(Option<&Entry>) -> R) -> R {
        self.entries.with(key.as_str(), reader)
    }

    /// Adds or replaces the entry of `key`. Returns the mark of its insertion.
    pub(crate) fn insert(&self, key: SecretKey, answer: Answer, times: Times, slot: u32) -> u32 {
        let inserted = self.counter.fetch_add(2, Ordering::Relaxed).wrapping_add(1);
        let entry = Entry::new(answer, times, slot, inserted);
        self.entries.insert(key, entry);
        inserted
    }

    /// Removes the entry of `key`.
    pub(crate) fn remove(&self, key: &SecretKey) {
        self.entries.remove(key);
    }

    /// Drops the replaced and removed entries that have no reader, and so wipes their values.
    pub(crate) fn flush(&self) {
        self.entries.flush();
    }
}

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache")
            .field("len", &self.entries.len())
            .finish_non_exhaustive()
    }
}
