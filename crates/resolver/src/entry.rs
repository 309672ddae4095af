//! What a source has answered for a key: an entry of the cache, or a failure.

use std::time::Duration;

use secretwell_core::Error;

use crate::Resolved;
use crate::clock::Time;
use crate::sync::atomic::{AtomicU8, AtomicU32, Ordering};

/// An answer of a source about one key, with the times that limit its use.
pub(crate) struct Entry {
    pub(crate) answer: Answer,
    pub(crate) times: Times,
    /// The place of the key in [`Slots`](crate::slots::Slots).
    pub(crate) slot: u32,
    mark: AtomicU8,
    /// The cache's counter at the last read. Insertions are stamped with odd numbers, reads with even ones.
    pub(crate) last_read: AtomicU32,
}

/// What the source has answered.
#[derive(Debug)]
pub(crate) enum Answer {
    Value(Resolved),
    /// The source does not have the key. The error is its message.
    Absent(Error),
}

/// The times of an entry. They are in chronological order, except for the refresh of a short lease.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    pub(crate) fetched_at: Time,
    /// A used entry is refreshed in the background at this time.
    pub(crate) refresh_at: Time,
    /// The ttl ends at this time.
    pub(crate) expires_at: Time,
    /// The entry is not even returned as stale after this time.
    pub(crate) unusable_at: Time,
}

impl Times {
    /// Returns the times of an answer that is not used after `now`.
    pub(crate) fn at(now: Time) -> Self {
        Self {
            fetched_at: now,
            refresh_at: now,
            expires_at: now,
            unusable_at: now,
        }
    }
}

/// What happened to an entry since it was fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Mark {
    None,
    /// The source might have another value. It must be read first. Until it responds, the value is stale.
    Changed,
    /// A consumer has rejected the value. A reader waits for the source, and gets the value as stale only
    /// if the source fails.
    Rejected,
}

/// The failure of the last fetch of a key. An absence is a failure too.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    pub(crate) error: Error,
    /// The time of the first failure since the last success.
    pub(crate) since: Time,
    pub(crate) retry_at: Time,
    /// Whether the retry budget has delayed the retry.
    pub(crate) is_postponed: bool,
}

impl Entry {
    pub(crate) fn new(answer: Answer, times: Times, slot: u32, last_read: u32) -> Self {
        Self {
            answer,
            times,
            slot,
            mark: AtomicU8::new(Mark::None as u8),
            last_read: AtomicU32::new(last_read),
        }
    }

    pub(crate) fn mark(&self) -> Mark {
        match self.mark.load(Ordering::Acquire) {
            0 => Mark::None,
            1 => Mark::Changed,
            _ => Mark::Rejected,
        }
    }

    /// Sets a mark, unless the entry has a stronger one.
    pub(crate) fn set_mark(&self, mark: Mark) {
        self.mark.fetch_max(mark as u8, Ordering::AcqRel);
    }

    /// Returns whether the source has confirmed the answer within the ttl.
    #[inline]
    pub(crate) fn is_fresh(&self, now: Time) -> bool {
        now < self.times.expires_at && self.mark() == Mark::None
    }

    /// Returns whether the answer can be used while or after a refresh fails.
    pub(crate) fn is_usable(&self, now: Time) -> bool {
        now < self.times.unusable_at
    }

    /// Returns whether the entry was read since it was fetched.
    pub(crate) fn is_used(&self) -> bool {
        self.last_read().is_multiple_of(2)
    }

    /// Returns the mark of the last read.
    pub(crate) fn last_read(&self) -> u32 {
        self.last_read.load(Ordering::Relaxed)
    }

    pub(crate) fn value(&self) -> Option<&Resolved> {
        match &self.answer {
            Answer::Value(resolved) => Some(resolved),
            Answer::Absent(_) => None,
        }
    }

    pub(crate) fn absence(&self) -> Option<&Error> {
        match &self.answer {
            Answer::Value(_) => None,
            Answer::Absent(error) => Some(error),
        }
    }

    /// Returns the time since the source gave this answer.
    pub(crate) fn age(&self, now: Time) -> Duration {
        now.since(self.times.fetched_at)
    }
}
