//! The values at hand, laid out for reading.

use std::fmt;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use papaya::{Guard, HashMap};
use tokio::time::Instant;

use crate::Resolved;
use secretwell_core::SecretKey;

/// A map of values that is read without a lock, a clock or an allocation.
///
/// What time does to an entry is written into its [`State`] by the refresher, so that a reader need not
/// ask the clock. How recently an entry was read is a number that only moves when an entry is added,
/// so that readers hardly ever write.
pub(crate) struct Cache {
    entries: HashMap<SecretKey, Entry, foldhash::fast::RandomState>,
    /// Moves by two with each insertion: entries are born odd, reads are stamped even.
    clock: AtomicU64,
}

pub(crate) struct Entry {
    pub(crate) resolved: Resolved,
    pub(crate) times: Times,
    state: AtomicU8,
    born: u64,
    last_read: AtomicU64,
}

/// The life of an entry, in order.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    pub(crate) fetched: Instant,
    pub(crate) refresh: Instant,
    pub(crate) expires: Instant,
    pub(crate) unusable: Instant,
}

/// What a reader may do with an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum EntryState {
    /// Take it.
    Fresh,
    /// Take it, and see to it that it is read again.
    Due,
    /// Look closer: it is past its ttl.
    Expired,
    /// Ask the source first: the value may have changed.
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

    /// Whether it is past its ttl or in doubt.
    pub(crate) fn is_past(&self) -> bool {
        matches!(self.state(), EntryState::Expired | EntryState::Invalidated)
    }

    /// Whether anybody has read it since it was fetched.
    pub(crate) fn is_used(&self) -> bool {
        self.last_read.load(Ordering::Relaxed) > self.born
    }
}

impl Cache {
    pub(crate) fn new() -> Self {
        Self {
            entries: HashMap::builder()
                .hasher(foldhash::fast::RandomState::default())
                // Replaced values are wiped as soon as nobody reads them, not in batches of 32.
                .collector(seize::Collector::new().batch_size(1))
                .build(),
            clock: AtomicU64::new(2),
        }
    }

    /// Reads an entry and counts that as a use.
    pub(crate) fn read<R>(&self, key: &str, reader: impl FnOnce(&Entry) -> R) -> Option<R> {
        let entries = self.entries.pin();
        let entry = entries.get(key)?;
        let now = self.clock.load(Ordering::Relaxed);
        if entry.last_read.load(Ordering::Relaxed) != now {
            entry.last_read.store(now, Ordering::Relaxed);
        }
        Some(reader(entry))
    }

    /// Looks at an entry without using it.
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

    /// Adds or replaces an entry, then puts out the least recently read ones above `max`, sparing
    /// those that `keep` names.
    pub(crate) fn insert(
        &self,
        key: SecretKey,
        resolved: Resolved,
        times: Times,
        max: usize,
        keep: impl Fn(&SecretKey) -> bool,
    ) {
        let born = self.clock.fetch_add(2, Ordering::Relaxed) + 1;
        let guard = self.entries.guard();
        let entry = Entry {
            resolved,
            times,
            state: AtomicU8::new(EntryState::Fresh as u8),
            born,
            last_read: AtomicU64::new(born),
        };
        self.entries.insert(key, entry, &guard);
        while self.entries.len() > max {
            let coldest = self
                .entries
                .iter(&guard)
                .filter(|(key, entry)| entry.born != born && !keep(key))
                .min_by_key(|(_, entry)| entry.last_read.load(Ordering::Relaxed))
                .map(|(key, _)| key.clone());
            match coldest {
                Some(key) => self.entries.remove(&key, &guard),
                None => break,
            };
        }
        guard.flush();
    }

    pub(crate) fn remove(&self, key: &SecretKey) -> bool {
        let guard = self.entries.guard();
        let was_there = self.entries.remove(key, &guard).is_some();
        guard.flush();
        was_there
    }
}

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache")
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}
