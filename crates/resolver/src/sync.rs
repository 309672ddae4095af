//! The locks, the atomic integers and the map that the resolver is built on.
//!
//! The concurrency test replaces them by those of shuttle, which tries many interleavings of the threads.
//! Shuttle does not know the lock-free map, so the test uses a map with a lock.

#[cfg(not(all(test, shuttle)))]
pub(crate) use std::sync::{Mutex, MutexGuard, atomic};

#[cfg(all(test, shuttle))]
pub(crate) use shuttle::sync::{Mutex, MutexGuard, atomic};

use secretwell_core::SecretKey;

/// A map whose reads need no lock and no allocation.
#[cfg(not(all(test, shuttle)))]
pub(crate) struct Map<V>(papaya::HashMap<SecretKey, V, foldhash::fast::RandomState>);

#[cfg(not(all(test, shuttle)))]
impl<V: Send> Map<V> {
    pub(crate) fn with_capacity(capacity: usize) -> Self {
        let map = papaya::HashMap::builder()
            .capacity(capacity)
            .hasher(foldhash::fast::RandomState::default())
            // Replaced values are dropped by `flush`, which needs one system call for many values.
            .collector(seize::Collector::new().batch_size(1024))
            // An incremental resize would keep removed values until later writes.
            .resize_mode(papaya::ResizeMode::Blocking);
        Self(map.build())
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Calls `reader` with the value of `key`, if there is one.
    #[inline]
    pub(crate) fn with<R>(&self, key: &str, reader: impl FnOnce(Option<&V>) -> R) -> R {
        reader(self.0.pin().get(key))
    }

    pub(crate) fn insert(&self, key: SecretKey, value: V) {
        self.0.pin().insert(key, value);
    }

    pub(crate) fn remove(&self, key: &SecretKey) {
        self.0.pin().remove(key);
    }

    /// Drops the replaced and removed values that have no reader.
    pub(crate) fn flush(&self) {
        use papaya::Guard;

        self.0.guard().flush();
    }
}

#[cfg(all(test, shuttle))]
pub(crate) struct Map<V>(Mutex<std::collections::HashMap<SecretKey, std::sync::Arc<V>>>);

#[cfg(all(test, shuttle))]
#[expect(clippy::unwrap_used, reason = "a test")]
impl<V: Send> Map<V> {
    pub(crate) fn with_capacity(_: usize) -> Self {
        Self(Mutex::default())
    }

    pub(crate) fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    pub(crate) fn with<R>(&self, key: &str, reader: impl FnOnce(Option<&V>) -> R) -> R {
        let value = self.0.lock().unwrap().get(key).cloned();
        reader(value.as_deref())
    }

    pub(crate) fn insert(&self, key: SecretKey, value: V) {
        self.0.lock().unwrap().insert(key, value.into());
    }

    pub(crate) fn remove(&self, key: &SecretKey) {
        self.0.lock().unwrap().remove(key);
    }

    pub(crate) fn flush(&self) {}
}
