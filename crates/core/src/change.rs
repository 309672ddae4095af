//! Change notifications: a source reports that secrets might have changed.

use std::any::Any;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use crate::{Error, SecretKey};

/// A change notification: the keys that might have changed, without their values.
///
/// The receiver reads the keys again to get the new values.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change {
    /// At least one of these keys might have changed.
    Keys(BTreeSet<SecretKey>),
    /// The source did not report which keys have changed, so every key must be read again.
    All,
}

impl Change {
    /// Returns whether `key` might have changed.
    pub fn covers(&self, key: &SecretKey) -> bool {
        match self {
            Self::Keys(keys) => keys.contains(key),
            Self::All => true,
        }
    }

    fn merge(&mut self, other: Self) {
        match (self, other) {
            (Self::All, _) => {}
            (merged, Self::All) => *merged = Self::All,
            (Self::Keys(merged), Self::Keys(other)) => merged.extend(other),
        }
    }
}

/// The receiver of a source's change notifications.
///
/// Unread notifications are merged into one. A slow receiver therefore loses no change and does not
/// block the sender. Dropping the stream drops its [guard](Self::with_guard), which stops the watcher.
pub struct ChangeStream {
    shared: Arc<Shared>,
    _guard: Option<Box<dyn Any + Send + Sync>>,
}

/// The sender of change notifications. Clones send to the same stream. The stream ends when the last
/// clone is dropped.
#[derive(Debug)]
pub struct ChangeSender(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    pending: Mutex<Pending>,
    notify: Notify,
}

#[derive(Debug, Default)]
struct Pending {
    change: Option<Change>,
    failure: Option<Error>,
    /// The text of the last reported error, until a change is sent.
    last_failure: Option<String>,
    senders: usize,
    closed: bool,
}

impl ChangeStream {
    /// Creates a stream and its sender.
    pub fn channel() -> (ChangeSender, Self) {
        let shared = Arc::new(Shared::default());
        shared.lock().senders = 1;
        (
            ChangeSender(shared.clone()),
            Self {
                shared,
                _guard: None,
            },
        )
    }

    /// Sets a guard that is dropped together with the stream, such as a file watcher or a task handle.
    #[must_use]
    pub fn with_guard(mut self, guard: impl Any + Send + Sync) -> Self {
        self._guard = Some(Box::new(guard));
        self
    }

    /// Waits for the next notification. Returns `None` when the stream has ended.
    ///
    /// Cancellation is safe: no notification is lost.
    ///
    /// # Errors
    /// Returns an error if notifications might have been missed. The stream continues afterwards. A
    /// repeated error with the same text is returned only once, until a change has been sent.
    pub async fn next(&mut self) -> Option<Result<Change, Error>> {
        loop {
            let notified = self.shared.notify.notified();
            {
                let mut pending = self.shared.lock();
                if let Some(failure) = pending.failure.take() {
                    return Some(Err(failure));
                }
                if let Some(change) = pending.change.take() {
                    return Some(Ok(change));
                }
                if pending.senders == 0 {
                    return None;
                }
            }
            notified.await;
        }
    }
}

impl Drop for ChangeStream {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
    }
}

impl fmt::Debug for ChangeStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChangeStream").finish_non_exhaustive()
    }
}

impl ChangeSender {
    /// Sends a change notification. Returns `false` if the stream has been dropped.
    pub fn send(&self, change: Change) -> bool {
        self.update(|pending| {
            pending.last_failure = None;
            match &mut pending.change {
                Some(unread) => unread.merge(change),
                empty => *empty = Some(change),
            }
        })
    }

    /// Reports that the source cannot be watched at the moment. Returns `false` if the stream has been
    /// dropped.
    pub fn fail(&self, error: Error) -> bool {
        self.update(|pending| {
            let text = error.to_string();
            if pending.last_failure.as_ref() != Some(&text) {
                pending.last_failure = Some(text);
                pending.failure = Some(error);
            }
        })
    }

    fn update(&self, update: impl FnOnce(&mut Pending)) -> bool {
        let mut pending = self.0.lock();
        if pending.closed {
            return false;
        }
        update(&mut pending);
        drop(pending);
        self.0.notify.notify_one();
        true
    }
}

impl Clone for ChangeSender {
    fn clone(&self) -> Self {
        self.0.lock().senders += 1;
        Self(self.0.clone())
    }
}

impl Drop for ChangeSender {
    fn drop(&mut self) {
        self.0.lock().senders -= 1;
        self.0.notify.notify_one();
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    fn keys(names: &[&str]) -> Change {
        Change::Keys(
            names
                .iter()
                .map(|name| SecretKey::parse(name).unwrap())
                .collect(),
        )
    }

    #[tokio::test]
    async fn unread_notifications_are_merged() {
        let (sender, mut stream) = ChangeStream::channel();
        sender.send(keys(&["a"]));
        sender.send(keys(&["b"]));
        assert_eq!(stream.next().await.unwrap().unwrap(), keys(&["a", "b"]));
        sender.send(keys(&["a"]));
        sender.send(Change::All);
        assert_eq!(stream.next().await.unwrap().unwrap(), Change::All);
    }

    #[tokio::test]
    async fn repeated_error_is_reported_once_until_a_change() {
        let (sender, mut stream) = ChangeStream::channel();
        let error = || Error::new(ErrorKind::Unavailable, "the watcher failed");
        sender.fail(error());
        assert!(stream.next().await.unwrap().is_err());
        sender.fail(error());
        sender.send(keys(&["a"]));
        assert!(stream.next().await.unwrap().is_ok());
        sender.fail(error());
        assert!(stream.next().await.unwrap().is_err());
    }

    #[tokio::test]
    async fn stream_ends_without_senders_and_send_fails_without_stream() {
        let (sender, mut stream) = ChangeStream::channel();
        drop(sender.clone());
        assert!(sender.send(Change::All));
        drop(sender);
        assert!(stream.next().await.unwrap().is_ok());
        assert!(stream.next().await.is_none());

        let (sender, stream) = ChangeStream::channel();
        drop(stream);
        assert!(!sender.send(Change::All));
    }
}
