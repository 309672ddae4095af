//! [`NotifyHub`]: passes change notifications to the providers that it has wrapped.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use secretwell_core::backend::{Change, ChangeSender, ChangeStream};

use crate::marks::Marks;

/// Passes change notifications to the providers that it has wrapped, and so to their resolvers.
///
/// Clones are the same hub. A [`NotifyService`](crate::NotifyService) is one sender of notifications. Other
/// code, such as the consumer of a message queue, calls [`notify`](Self::notify).
///
/// A hub can wrap several providers, and each of them can have several resolvers. Each of them receives all
/// notifications. Use one hub for each source if they should not.
///
/// ```
/// use secretwell::backend::Change;
/// use secretwell::notify::NotifyHub;
/// use secretwell::{MemoryProvider, Resolver, SecretKey};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), secretwell::Error> {
/// let hub = NotifyHub::new();
/// let secrets = MemoryProvider::from_iter([("API_KEY", "k-1")]);
/// let resolver = Resolver::new(hub.wrap(secrets));
/// assert_eq!(resolver.get("API_KEY").await?.value.expose_text()?, "k-1");
///
/// // The resolver reads the key again.
/// hub.notify(Change::Keys([SecretKey::from_static("API_KEY")].into()));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Default)]
pub struct NotifyHub(Arc<Mutex<Members>>);

#[derive(Default)]
struct Members {
    /// The marks of each wrapped provider that still exists.
    marks: Vec<Weak<Mutex<Marks>>>,
    subscribers: BTreeMap<u64, ChangeSender>,
    next_id: u64,
}

impl NotifyHub {
    /// Creates a hub without providers.
    pub fn new() -> Self {
        Self::default()
    }

    /// Notifies the wrapped providers that secrets might have changed. Can be called in any thread.
    ///
    /// A read of a changed key that starts after this call goes to the source. Notifications are merged, so
    /// that each resolver receives at most 10 per second. Without providers, nothing happens.
    pub fn notify(&self, change: Change) {
        let (marks, subscribers): (Vec<_>, Vec<_>) = {
            let members = self.lock();
            let marks = members.marks.iter().filter_map(Weak::upgrade);
            (
                marks.collect(),
                members.subscribers.values().cloned().collect(),
            )
        };
        for marks in marks {
            lock(&marks).add(&change);
        }
        // A notification wakes tasks, so it is sent without a lock.
        for subscriber in subscribers {
            subscriber.send(change.clone());
        }
    }

    /// Adds the marks of a wrapped provider.
    pub(crate) fn add_marks(&self, marks: &Arc<Mutex<Marks>>) {
        let mut members = self.lock();
        members.marks.retain(|marks| marks.strong_count() > 0);
        members.marks.push(Arc::downgrade(marks));
    }

    /// Returns a stream of all notifications from now on.
    pub(crate) fn subscribe(&self) -> ChangeStream {
        let (sender, stream) = ChangeStream::channel();
        let mut members = self.lock();
        let id = members.next_id;
        members.next_id += 1;
        members.subscribers.insert(id, sender);
        drop(members);
        stream.with_guard(Subscription {
            hub: self.clone(),
            id,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Members> {
        lock(&self.0)
    }
}

/// Shows numbers only, because a provider that contains the hub might be large.
impl fmt::Debug for NotifyHub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let subscribers = self.lock().subscribers.len();
        f.debug_struct("NotifyHub")
            .field("subscribers", &subscribers)
            .finish_non_exhaustive()
    }
}

/// Removes a subscriber when its stream is dropped.
struct Subscription {
    hub: NotifyHub,
    id: u64,
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let sender = self.hub.lock().subscribers.remove(&self.id);
        // Dropping a sender wakes a task, which must not happen under the lock.
        drop(sender);
    }
}

/// Locks a mutex. A panic does not leave its data in a partial state.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn dropped_stream_and_dropped_provider_leave_the_hub() {
        let hub = NotifyHub::new();
        let mut stream = hub.subscribe();
        drop(hub.subscribe());
        for _ in 0..3 {
            hub.add_marks(&Arc::new(Mutex::new(Marks::new())));
        }
        assert_eq!(format!("{hub:?}"), "NotifyHub { subscribers: 1, .. }");
        assert_eq!(hub.lock().marks.len(), 1);
        hub.notify(Change::All);
        assert_eq!(stream.next().await.unwrap().unwrap(), Change::All);
        drop(stream);
        hub.notify(Change::All);
        assert_eq!(hub.lock().subscribers.len(), 0);
    }
}
