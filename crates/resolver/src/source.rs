//! One source of a resolver: a link with its provider, its cache and its state.

use std::cmp::Ordering;
use std::ops::{Deref, DerefMut};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError};

use secretwell_core::backend::Link;
#[cfg(feature = "metrics")]
use secretwell_core::backend::source_label;
use secretwell_core::{Error, Origin, SecretKey, SecretProvider, SecretValue};

use crate::Resolved;
use crate::cache::Cache;
use crate::clock::Time;
use crate::counters::Counts;
#[cfg(feature = "metrics")]
use crate::counters::Totals;
use crate::decide::{Overtaken, Reply, changed, expired};
use crate::entry::{Mark, Times};
use crate::in_flight::Void;
use crate::link::LinkState;
use crate::settings::Settings;
use crate::sync::{Mutex, MutexGuard};

#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) link: Link,
    pub(crate) origin: Origin,
    pub(crate) settings: Settings,
    /// Whether the provider reports changes.
    pub(crate) notifies: bool,
    pub(crate) cache: Cache,
    pub(crate) counts: Counts,
    /// The value of the label `source` in metrics.
    #[cfg(feature = "metrics")]
    pub(crate) label: Arc<str>,
    /// What was reported of `counts`.
    #[cfg(feature = "metrics")]
    pub(crate) reported: Mutex<Totals>,
    state: Mutex<LinkState>,
}

impl Source {
    pub(crate) fn new(link: Link, settings: Settings, now: Time) -> Self {
        let provider = link.provider();
        Self {
            origin: provider.origin().clone(),
            notifies: provider.capabilities().watch,
            cache: Cache::new(settings.max_entries),
            counts: Counts::default(),
            #[cfg(feature = "metrics")]
            label: source_label(provider.origin()).into(),
            #[cfg(feature = "metrics")]
            reported: Mutex::default(),
            state: Mutex::new(LinkState::new(settings.clone(), now)),
            settings,
            link,
        }
    }

    /// Replaces the label by the configured name of the source, if there is one.
    #[cfg(feature = "metrics")]
    pub(crate) fn with_label(self, name: Option<&Arc<str>>) -> Self {
        match name {
            Some(name) => Self {
                label: name.clone(),
                ..self
            },
            None => self,
        }
    }

    pub(crate) fn provider(&self) -> &Arc<dyn SecretProvider> {
        self.link.provider()
    }

    /// Locks the state. While it is locked, nothing is logged and no code of others is called.
    pub(crate) fn state(&self) -> StateGuard<'_> {
        StateGuard {
            state: self.state.lock().unwrap_or_else(PoisonError::into_inner),
            garbage: Garbage {
                errors: Vec::new(),
                cache: &self.cache,
                retired: false,
            },
        }
    }

    /// Returns whether the cache has a usable value of `key`.
    pub(crate) fn has_value(&self, key: &SecretKey, now: Time) -> bool {
        let usable = |entry: &crate::entry::Entry| entry.value().is_some() && entry.is_usable(now);
        self.cache.peek(key, usable).unwrap_or(false)
    }

    /// Returns whether the cache has a usable answer about `key`.
    pub(crate) fn is_cached(&self, key: &SecretKey, now: Time) -> bool {
        let is_usable = self.cache.peek(key, |entry| entry.is_usable(now));
        is_usable.unwrap_or(false)
    }

    /// Returns why an answer with these `times` is not returned as it is. `value` is `None` for an absence.
    /// `has_removals` is true if answers were removed since the read of the answer began.
    pub(crate) fn overtaken(
        &self,
        key: &SecretKey,
        times: &Times,
        value: Option<&Resolved>,
        has_removals: bool,
        now: Time,
    ) -> Option<Overtaken> {
        if let Some(outlived) = self.outlived(key, times, has_removals, now) {
            return Some(outlived);
        }
        if now >= times.expires_at {
            return Some(Overtaken::Stale(expired()));
        }
        let cached = self.cache.peek(key, |entry| {
            // Two answers can have the same time.
            let is_same = match (entry.value(), value) {
                (Some(cached), Some(value)) => {
                    cached.value == value.value && cached.version == value.version
                }
                (None, None) => true,
                _ => false,
            };
            match (entry.times.fetched_at.cmp(&times.fetched_at), entry.mark()) {
                // The answer was not stored.
                (Ordering::Less, _) => None,
                (Ordering::Equal, Mark::None) if is_same => None,
                (Ordering::Equal, Mark::Rejected) => Some(Overtaken::Unusable(changed())),
                _ => Some(Overtaken::Stale(changed())),
            }
        });
        cached.flatten()
    }

    /// Returns why an answer with these `times` is not even returned as stale.
    pub(crate) fn outlived(
        &self,
        key: &SecretKey,
        times: &Times,
        has_removals: bool,
        now: Time,
    ) -> Option<Overtaken> {
        if now >= times.unusable_at {
            return Some(Overtaken::Unusable(expired()));
        }
        // An invalidation or a refusal has removed the answer, or it was evicted.
        let is_removed = has_removals && self.cache.peek(key, |_| ()).is_none();
        is_removed.then(|| Overtaken::Unusable(changed()))
    }

    /// Returns the cached answer as stale with the reason `error`. `since` is the start of the failed fetch. A
    /// value that was cached after it is returned as fresh.
    pub(crate) fn stale_or(&self, key: &SecretKey, error: Error, since: Time, now: Time) -> Reply {
        let cached = self.cache.peek(key, |entry| {
            // Another fetch cached the value during the failed fetch.
            if entry.is_fresh(now) && entry.times.fetched_at > since {
                return Some(Reply::fresh(entry));
            }
            entry
                .is_usable(now)
                .then(|| Reply::stale(entry, now, error.clone()))
        });
        cached.flatten().unwrap_or_else(|| {
            let error = error.with_origin(&self.origin).with_key(key);
            Reply::without_value(error)
        })
    }

    /// Returns whether a reader can get the cached answer as stale while a fetch is under way.
    pub(crate) fn can_be_stale(&self, key: &SecretKey, now: Time) -> bool {
        let usable = self.cache.peek(key, |entry| {
            entry.is_usable(now) && entry.mark() != Mark::Rejected
        });
        usable.unwrap_or(false)
    }

    /// Removes the cached answer, the failure and the fetch of `key`.
    pub(crate) fn invalidate(&self, key: &SecretKey, reason: Void, now: Time) {
        let mut state = self.state();
        state.in_flight.invalidate(key, reason);
        state.recover(key);
        state.remove(&self.cache, key);
        if reason == Void::OlderAccepted {
            state.guards.remove(key);
        }
        state.plan(&self.cache, key, now, now, false);
    }

    /// Marks the cached value of `key` if it is `rejected`, and notifies the provider.
    pub(crate) fn reject(&self, key: &SecretKey, rejected: &SecretValue, now: Time) {
        let mut state = self.state();
        let mut is_repeated = false;
        let is_rejected = self.cache.peek(key, |entry| {
            let is_rejected = entry
                .value()
                .is_some_and(|cached| cached.value == *rejected);
            if is_rejected {
                is_repeated = entry.mark() == Mark::Rejected;
                entry.set_mark(Mark::Rejected);
            }
            is_rejected
        });
        // A fetch that has started might return the rejected value, unless it has started after an earlier
        // report of that value.
        if is_rejected != Some(false) && !is_repeated {
            state.in_flight.outdate(key);
        }
        if is_rejected == Some(true) {
            state.plan(&self.cache, key, now, now, false);
        }
        drop(state);
        if is_rejected != Some(false) {
            self.discard(key, Some(rejected));
        }
    }

    /// Notifies the provider that a consumer has rejected a value, or that the next read must go to the source.
    pub(crate) fn discard(&self, key: &SecretKey, rejected: Option<&SecretValue>) {
        let call = AssertUnwindSafe(|| self.provider().discard(key, rejected));
        if catch_unwind(call).is_err() {
            tracing::error!(target: "secretwell::resolver", event = "provider_panicked", origin = %self.origin, %key, "the provider panicked in `discard`");
        }
    }
}

/// The locked state of a source. What is removed from it is dropped after the lock.
pub(crate) struct StateGuard<'a> {
    state: MutexGuard<'a, LinkState>,
    // The fields are dropped in this order.
    garbage: Garbage<'a>,
}

/// What was removed from the state or from the cache.
struct Garbage<'a> {
    errors: Vec<Error>,
    cache: &'a Cache,
    retired: bool,
}

impl Drop for StateGuard<'_> {
    fn drop(&mut self) {
        (self.garbage.errors, self.garbage.retired) = self.state.take_garbage();
    }
}

impl Drop for Garbage<'_> {
    fn drop(&mut self) {
        if self.retired {
            self.cache.flush();
        }
    }
}

impl Deref for StateGuard<'_> {
    type Target = LinkState;

    fn deref(&self) -> &LinkState {
        &self.state
    }
}

impl DerefMut for StateGuard<'_> {
    fn deref_mut(&mut self) -> &mut LinkState {
        &mut self.state
    }
}
