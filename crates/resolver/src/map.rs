//! [`Map`], the map of a cache.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Once, OnceLock, PoisonError};
use std::thread;

use secretwell_core::SecretKey;

use crate::sync::{Mutex, MutexGuard};

/// Whether this process can create lock-free maps without a delay. The schedules of shuttle must not depend on it.
static IS_PREPARED: AtomicBool = AtomicBool::new(cfg!(all(test, shuttle)));

/// A map whose reads need no lock and no allocation.
///
/// The lock-free map needs a barrier between all threads of the process. To prepare it, Linux takes 10 ms or more in
/// a process with several threads (`membarrier`, `MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED`). The first response of a
/// service does not wait for it: until it is prepared, the values are in a map with a lock.
pub(crate) struct Map<V> {
    lock_free: OnceLock<LockFree<V>>,
    /// Empty when there is a lock-free map.
    locked: Mutex<Values<V>>,
    capacity: usize,
    is_prepared: &'static AtomicBool,
}

/// Readers share the values, so that the lock is free while they run.
type Values<V> = HashMap<SecretKey, Arc<V>>;

/// Where the values are.
enum Place<'a, V> {
    LockFree(&'a LockFree<V>),
    Locked(MutexGuard<'a, Values<V>>),
}

impl<V: Send> Map<V> {
    pub(crate) fn with_capacity(capacity: usize) -> Self {
        prepare();
        Self::new(capacity, &IS_PREPARED)
    }

    fn new(capacity: usize, is_prepared: &'static AtomicBool) -> Self {
        Self {
            lock_free: OnceLock::new(),
            locked: Mutex::default(),
            capacity,
            is_prepared,
        }
    }

    pub(crate) fn len(&self) -> usize {
        match self.place() {
            Place::LockFree(map) => map.len(),
            Place::Locked(values) => values.len(),
        }
    }

    /// Calls `reader` with the value of `key`, if there is one.
    #[inline]
    pub(crate) fn with<R>(&self, key: &str, reader: impl FnOnce(Option<&V>) -> R) -> R {
        match self.lock_free.get() {
            Some(map) => map.with(key, reader),
            None => self.with_early(key, reader),
        }
    }

    #[cold]
    fn with_early<R>(&self, key: &str, reader: impl FnOnce(Option<&V>) -> R) -> R {
        match self.place() {
            Place::LockFree(map) => map.with(key, reader),
            Place::Locked(values) => {
                let value = values.get(key).cloned();
                drop(values);
                reader(value.as_deref())
            }
        }
    }

    pub(crate) fn insert(&self, key: SecretKey, value: V) {
        match self.place() {
            Place::LockFree(map) => map.insert(key, value),
            Place::Locked(mut values) => {
                let replaced = values.insert(key, Arc::new(value));
                drop(values);
                drop(replaced);
            }
        }
    }

    pub(crate) fn remove(&self, key: &SecretKey) {
        match self.place() {
            Place::LockFree(map) => map.remove(key),
            Place::Locked(mut values) => {
                let removed = values.remove(key);
                drop(values);
                drop(removed);
            }
        }
    }

    /// Drops the replaced and removed values that have no reader.
    pub(crate) fn flush(&self) {
        if let Some(map) = self.lock_free.get() {
            map.flush();
        }
    }

    /// Returns where the values are. Moves them to a lock-free map if it is prepared and no reader has one of them.
    fn place(&self) -> Place<'_, V> {
        if let Some(map) = self.lock_free.get() {
            return Place::LockFree(map);
        }
        let mut values = self.locked.lock().unwrap_or_else(PoisonError::into_inner);
        // Another thread might have moved them meanwhile.
        if let Some(map) = self.lock_free.get() {
            return Place::LockFree(map);
        }
        let is_unread = |value: &mut Arc<V>| Arc::get_mut(value).is_some();
        if !self.is_prepared.load(Ordering::Acquire) || !values.values_mut().all(is_unread) {
            return Place::Locked(values);
        }
        let map = LockFree::with_capacity(self.capacity);
        for (key, value) in values.drain() {
            if let Some(value) = Arc::into_inner(value) {
                map.insert(key, value);
            }
        }
        Place::LockFree(self.lock_free.get_or_init(|| map))
    }
}

/// Prepares lock-free maps on a thread of its own, once in a process.
fn prepare() {
    static PREPARATION: Once = Once::new();
    fn run() {
        // The preparation is a part of it.
        drop(seize::Collector::new());
        IS_PREPARED.store(true, Ordering::Release);
    }
    if cfg!(all(test, shuttle)) {
        return;
    }
    PREPARATION.call_once(|| {
        let thread = thread::Builder::new().name("secretwell-map".into());
        if thread.spawn(run).is_err() {
            run();
        }
    });
}

#[cfg(not(all(test, shuttle)))]
struct LockFree<V>(papaya::HashMap<SecretKey, V, foldhash::fast::RandomState>);

#[cfg(not(all(test, shuttle)))]
impl<V: Send> LockFree<V> {
    fn with_capacity(capacity: usize) -> Self {
        let map = papaya::HashMap::builder()
            .capacity(capacity)
            .hasher(foldhash::fast::RandomState::default())
            // Replaced values are dropped by `flush`, which needs one system call for many values.
            .collector(seize::Collector::new().batch_size(1024))
            // An incremental resize would keep removed values until later writes.
            .resize_mode(papaya::ResizeMode::Blocking);
        Self(map.build())
    }

    fn len(&self) -> usize {
        self.0.len()
    }

    #[inline]
    fn with<R>(&self, key: &str, reader: impl FnOnce(Option<&V>) -> R) -> R {
        reader(self.0.pin().get(key))
    }

    fn insert(&self, key: SecretKey, value: V) {
        self.0.pin().insert(key, value);
    }

    fn remove(&self, key: &SecretKey) {
        self.0.pin().remove(key);
    }

    fn flush(&self) {
        use papaya::Guard;

        self.0.guard().flush();
    }
}

/// Shuttle does not know the lock-free map, so its test uses a map with a lock.
#[cfg(all(test, shuttle))]
struct LockFree<V>(Mutex<Values<V>>);

#[cfg(all(test, shuttle))]
#[expect(clippy::unwrap_used, reason = "a test")]
impl<V: Send> LockFree<V> {
    fn with_capacity(_: usize) -> Self {
        Self(Mutex::default())
    }

    fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    fn with<R>(&self, key: &str, reader: impl FnOnce(Option<&V>) -> R) -> R {
        let value = self.0.lock().unwrap().get(key).cloned();
        reader(value.as_deref())
    }

    fn insert(&self, key: SecretKey, value: V) {
        self.0.lock().unwrap().insert(key, value.into());
    }

    fn remove(&self, key: &SecretKey) {
        self.0.lock().unwrap().remove(key);
    }

    fn flush(&self) {}
}

#[cfg(test)]
#[cfg(not(shuttle))]
mod tests;
