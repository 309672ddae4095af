//! The cached values, in a map that is optimized for reads.

use std::fmt;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use papaya::{Guard, HashMap};
use secretwell_core::SecretKey;
use tokio::time::Instant;

use crate::Resolved;
use crate::clock::{self, Ticks};

/// A map of values whose reads need no lock and no allocation.
///
/// A read compares the entry with the [coarse clock](crate::clock). It does not depend on the refresher,
/// which might be late or on a runtime that is not running. The recency of reads is measured with a counter that only insertions increment. A
/// read therefore rarely writes.
pub(crate) struct Cache {
    entries: HashMap<SecretKey, Entry, foldhash::fast::RandomState>,
    /// Each insertion increments it by two. Insertions are stamped with odd numbers, reads with even
    /// ones.
    counter: AtomicU64,
}

pub(crate) struct Entry {
    pub(crate) resolved: Resolved,
    pub(crate) times: Times,
    /// The ttl ends at this time of the coarse clock.
    fresh_until: Ticks,
    state: AtomicU8,
    inserted: u64,
    last_read: AtomicU64,
}

/// The times of an entry, in chronological order.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    pub(crate) fetched_at: Instant,
    /// A used entry is refreshed in the background at this time.
    pub(crate) refresh_at: Instant,
    /// The ttl ends at this time.
    pub(crate) expires_at: Instant,
    /// The entry is not even returned as stale after this time.
    pub(crate) unusable_at: Instant,
}

/// How a read must treat an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum EntryState {
    /// The value is returned, and nothing else happens.
    Fresh,
    /// The value is returned, and a refresh is started.
    Due,
    /// The ttl has ended. The value is fetched again. If that fails, the cached value is returned as stale.
    Expired,
    /// The value might have changed. The source must be read first.
    Invalidated,
}

impl Entry {
    pub(crate) fn state(&self) -> EntryState {
        match self.state.load(Ordering::Acquire) {
            0 => EntryState::Fresh,
            1 => EntryState::Due,
            2 => EntryState::Expired,
            _ => EntryState::Invalidated,
        }
    }

    pub(crate) fn set_state(&self, state: EntryState) {
        self.state.store(state as u8, Ordering::Release);
    }

    /// Returns whether a cache hit can return the value: it is fresh, and no refresh must be started.
    #[inline]
    pub(crate) fn is_hit(&self) -> bool {
        self.state() == EntryState::Fresh && clock::ticks() < self.fresh_until
    }

    /// Returns whether the entry has expired or was invalidated.
    pub(crate) fn is_outdated(&self) -> bool {
        matches!(self.state(), EntryState::Expired | EntryState::Invalidated)
    }

    /// Returns whether the entry was read since it was fetched.
    pub(crate) fn is_used(&self) -> bool {
        self.last_read.load(Ordering::Relaxed) > self.inserted
    }
}

impl Cache {
    pub(crate) fn new() -> Self {
        Self {
            entries: HashMap::builder()
                .hasher(foldhash::fast::RandomState::default())
                // Replaced values are zeroized as soon as they have no reader, not in batches of 32.
                .collector(seize::Collector::new().batch_size(1))
                .build(),
            counter: AtomicU64::new(2),
        }
    }

    /// Reads an entry and marks it as used.
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

    pub(crate) fn for_each(&self, mut visit: impl FnMut(&SecretKey, &Entry)) {
        self.entries
            .pin()
            .iter()
            .for_each(|(key, entry)| visit(key, entry));
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Adds or replaces an entry. Then evicts the least recently used entries until at most `max` are
    /// left. Keys for which `is_pinned` returns true are not evicted.
    pub(crate) fn insert(
        &self,
        key: SecretKey,
        resolved: Resolved,
        times: Times,
        max: usize,
        is_pinned: impl Fn(&SecretKey) -> bool,
    ) {
        let inserted = self.counter.fetch_add(2, Ordering::Relaxed) + 1;
        let guard = self.entries.guard();
        let entry = Entry {
            resolved,
            times,
            fresh_until: clock::after(clock::ticks(), times.expires_at - times.fetched_at),
            state: AtomicU8::new(EntryState::Fresh as u8),
            inserted,
            last_read: AtomicU64::new(inserted),
        };
        self.entries.insert(key, entry, &guard);
        while self.entries.len() > max {
            let least_recently_used = self
                .entries
                .iter(&guard)
                .filter(|(key, entry)| entry.inserted != inserted && !is_pinned(key))
                .min_by_key(|(_, entry)| entry.last_read.load(Ordering::Relaxed))
                .map(|(key, _)| key.clone());
            match least_recently_used {
                Some(key) => self.entries.remove(&key, &guard),
                None => break,
            };
        }
        guard.flush();
    }

    /// Removes an entry. Returns whether it existed.
    pub(crate) fn remove(&self, key: &SecretKey) -> bool {
        let guard = self.entries.guard();
        let existed = self.entries.remove(key, &guard).is_some();
        guard.flush();
        existed
    }
}

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache")
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}
