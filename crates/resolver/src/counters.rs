//! Counters of what a resolver does with each source, cheap enough for a cache hit. Everything is counted here.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use secretwell_core::Error;

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

/// What is counted for each source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Count {
    /// Reads of keys: a fresh value from the cache, a stale one, one that the read has waited for, and no value.
    Hit,
    Stale,
    Miss,
    Absent,
    Failed,
    /// Calls to the provider.
    Fetch,
    /// Results of fetched keys.
    FetchedValue,
    FetchedAbsence,
    FetchedRefusal,
    FetchedInvalid,
    FetchedUnavailable,
    /// Cached values that were replaced by other ones.
    Rotation,
    /// Change notifications.
    ChangedKeys,
    ChangedAll,
    LostChanges,
}

impl Count {
    const NUMBER: usize = Self::LostChanges as usize + 1;

    /// Returns what counts the result of a fetched key.
    pub(crate) fn of_fetched<T>(result: &Result<T, Error>) -> Self {
        match result {
            Ok(_) => Self::FetchedValue,
            Err(error) if error.is_not_found() => Self::FetchedAbsence,
            Err(error) if error.is_temporary() => Self::FetchedUnavailable,
            Err(error) if error.is_refusal() => Self::FetchedRefusal,
            Err(_) => Self::FetchedInvalid,
        }
    }
}

/// The counts of one source at one time.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Totals([u64; Count::NUMBER]);

impl Totals {
    pub(crate) fn get(&self, count: Count) -> u64 {
        self.0[count as usize]
    }

    /// Replaces these totals by `newer` ones. Returns what was counted in between.
    #[cfg(feature = "metrics")]
    pub(crate) fn advance(&mut self, newer: Self) -> Self {
        let mut difference = Self::default();
        for ((difference, old), new) in difference.0.iter_mut().zip(&mut self.0).zip(newer.0) {
            // Another thread might have reported newer totals already.
            *difference = new.saturating_sub(*old);
            *old = new.max(*old);
        }
        difference
    }
}

impl Counters {
    /// Returns these counters with those of another source.
    pub(crate) fn plus(self, source: &Totals) -> Self {
        let sum = |counts: &[Count]| counts.iter().map(|count| source.get(*count)).sum::<u64>();
        use Count::{Absent, Failed, Miss};
        use Count::{FetchedInvalid, FetchedRefusal, FetchedUnavailable};
        Self {
            hits: self.hits + source.get(Count::Hit),
            misses: self.misses + sum(&[Miss, Absent, Failed]),
            stale: self.stale + source.get(Count::Stale),
            fetches: self.fetches + source.get(Count::Fetch),
            failures: self.failures + sum(&[FetchedRefusal, FetchedInvalid, FetchedUnavailable]),
        }
    }
}

/// The counters of one source.
#[derive(Debug)]
pub(crate) struct Counts {
    hits: Box<[Shard]>,
    others: [AtomicU64; Count::NUMBER],
}

/// A counter on a cache line of its own, so that threads do not slow each other down.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Shard(AtomicU64);

impl Default for Counts {
    fn default() -> Self {
        Self {
            hits: (0..SHARDS).map(|_| Shard::default()).collect(),
            others: Default::default(),
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

    /// Counts one event.
    pub(crate) fn add(&self, count: Count) {
        match count {
            Count::Hit => self.hit(),
            count => drop(self.others[count as usize].fetch_add(1, Ordering::Relaxed)),
        }
    }

    pub(crate) fn read(&self) -> Totals {
        let mut totals = Totals::default();
        for (total, count) in totals.0.iter_mut().zip(&self.others) {
            *total = count.load(Ordering::Relaxed);
        }
        let hits = self.hits.iter();
        totals.0[Count::Hit as usize] = hits.map(|Shard(hits)| hits.load(Ordering::Relaxed)).sum();
        totals
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
        assert_eq!(counts.read().get(Count::Hit), 300_000);
    }
}
