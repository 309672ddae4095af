//! Counters of what a resolver does, cheap enough for a cache hit.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// The number of shards of the hit counter. All threads above this number share the last one.
const SHARDS: usize = 64;

/// What a resolver has done since it was created. Returned by [`Resolver::counters`](crate::Resolver::counters).
///
/// The numbers never decrease. They are read one after the other, so they can be a few events apart.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct Counters {
    /// The number of keys that were returned fresh from the cache.
    pub hits: u64,
    /// The number of keys whose read waited for the source, or found no value.
    pub misses: u64,
    /// The number of keys that were returned stale.
    pub stale: u64,
    /// The number of calls to providers. A batch is one call.
    pub fetches: u64,
    /// The number of keys whose fetch failed. An absent key is not counted.
    pub failures: u64,
}

#[derive(Debug)]
pub(crate) struct Counts {
    hits: Box<[Shard]>,
    misses: AtomicU64,
    stale: AtomicU64,
    pub(crate) fetches: AtomicU64,
    pub(crate) failures: AtomicU64,
}

/// A counter on a cache line of its own, so that threads do not slow each other down.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Shard(AtomicU64);

impl Default for Counts {
    fn default() -> Self {
        Self {
            hits: (0..SHARDS).map(|_| Shard::default()).collect(),
            misses: AtomicU64::default(),
            stale: AtomicU64::default(),
            fetches: AtomicU64::default(),
            failures: AtomicU64::default(),
        }
    }
}

impl Counts {
    /// Counts one hit.
    #[inline]
    pub(crate) fn hit(&self) {
        let shard = thread_shard();
        let Some(Shard(hits)) = self.hits.get(shard) else {
            return;
        };
        if shard < SHARDS - 1 {
            // No other thread writes to this shard, so this needs no atomic addition.
            hits.store(
                hits.load(Ordering::Relaxed).wrapping_add(1),
                Ordering::Relaxed,
            );
        } else {
            hits.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn add(&self, hits: u64, misses: u64, stale: u64) {
        if let Some(Shard(shared)) = self.hits.last() {
            shared.fetch_add(hits, Ordering::Relaxed);
        }
        self.misses.fetch_add(misses, Ordering::Relaxed);
        self.stale.fetch_add(stale, Ordering::Relaxed);
    }

    pub(crate) fn read(&self) -> Counters {
        let hits = self
            .hits
            .iter()
            .map(|Shard(hits)| hits.load(Ordering::Relaxed));
        Counters {
            hits: hits.sum(),
            misses: self.misses.load(Ordering::Relaxed),
            stale: self.stale.load(Ordering::Relaxed),
            fetches: self.fetches.load(Ordering::Relaxed),
            failures: self.failures.load(Ordering::Relaxed),
        }
    }
}

thread_local! {
    static SHARD: Cell<usize> = const { Cell::new(usize::MAX) };
    /// Returns the number of the thread when the thread ends.
    static NUMBER: Number = Number::take();
}

/// The numbers that ended threads have returned, and the next new one.
static NUMBERS: Mutex<(Vec<usize>, usize)> = Mutex::new((Vec::new(), 0));

struct Number(usize);

impl Number {
    fn take() -> Self {
        let mut numbers = NUMBERS.lock().unwrap_or_else(PoisonError::into_inner);
        let (free, next) = &mut *numbers;
        Self(free.pop().unwrap_or_else(|| {
            *next += 1;
            *next - 1
        }))
    }
}

impl Drop for Number {
    fn drop(&mut self) {
        // Until the thread has ended, it uses the shard that all others share.
        SHARD.set(SHARDS - 1);
        let mut numbers = NUMBERS.lock().unwrap_or_else(PoisonError::into_inner);
        numbers.0.push(self.0);
    }
}

#[inline]
fn thread_shard() -> usize {
    match SHARD.get() {
        usize::MAX => new_shard(),
        shard => shard,
    }
}

#[cold]
fn new_shard() -> usize {
    let number = NUMBER.try_with(|number| number.0).unwrap_or(usize::MAX);
    let shard = number.min(SHARDS - 1);
    SHARD.set(shard);
    shard
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hits_of_many_threads_are_counted_exactly() {
        let counts = Counts::default();
        for _ in 0..3 {
            std::thread::scope(|scope| {
                for _ in 0..100 {
                    scope.spawn(|| (0..1000).for_each(|_| counts.hit()));
                }
            });
        }
        assert_eq!(counts.read().hits, 300_000);
    }
}
