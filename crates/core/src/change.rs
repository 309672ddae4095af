//! Push notices: a source says that something may have changed.

use std::any::Any;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use crate::{Error, SecretKey};

/// What a source says has changed. A notice is a hint to look again, never a value.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change {
    /// These keys may have changed.
    Keys(BTreeSet<SecretKey>),
    /// Any key may have changed.
    All,
}

impl Change {
    /// Whether `key` may have changed.
    pub fn covers(&self, key: &SecretKey) -> bool {
        match self {
            Self::Keys(keys) => keys.contains(key),
            Self::All => true,
        }
    }

    fn merge(&mut self, other: Self) {
        match (self, other) {
            (Self::All, _) => {}
            (mine, Self::All) => *mine = Self::All,
            (Self::Keys(mine), Self::Keys(theirs)) => mine.extend(theirs),
        }
    }
}

/// The receiving end of a source's notices.
///
/// Notices that nobody has read yet are merged into one, so a slow reader loses nothing and holds
/// nothing up. Dropping the stream ends what feeds it.
pub struct ChangeStream {
    shared: Arc<Shared>,
    _feeder: Option<Box<dyn Any + Send + Sync>>,
}

/// The sending end. Clones send to the same stream; the stream ends when the last one is dropped.
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
    reported: Option<String>,
    senders: usize,
    closed: bool,
}

impl ChangeStream {
    /// A stream and its sender.
    pub fn channel() -> (ChangeSender, Self) {
        let shared = Arc::new(Shared::default());
        shared.lock().senders = 1;
        (
            ChangeSender(shared.clone()),
            Self {
                shared,
                _feeder: None,
            },
        )
    }

    /// The same stream, keeping `feeder` (a watcher, a task's guard) alive for as long as it lives.
    #[must_use]
    pub fn with_guard(mut self, feeder: impl Any + Send + Sync) -> Self {
        self._feeder = Some(Box::new(feeder));
        self
    }

    /// Waits for the next notice. `None` means that no more will come.
    ///
    /// An error says that notices may have been missed; the stream goes on. The same error is told
    /// once until something else happens. Cancelling the wait loses nothing.
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
    /// Tells of a change. `false` when nobody listens any more.
    pub fn send(&self, change: Change) -> bool {
        self.with(|pending| {
            pending.reported = None;
            match &mut pending.change {
                Some(waiting) => waiting.merge(change),
                none => *none = Some(change),
            }
        })
    }

    /// Tells that the source cannot be watched at the moment. `false` when nobody listens any more.
    pub fn fail(&self, error: Error) -> bool {
        self.with(|pending| {
            let text = error.to_string();
            if pending.reported.as_ref() != Some(&text) {
                pending.reported = Some(text);
                pending.failure = Some(error);
            }
        })
    }

    fn with(&self, update: impl FnOnce(&mut Pending)) -> bool {
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
    async fn the_same_error_is_told_once() {
        let (sender, mut stream) = ChangeStream::channel();
        let error = || Error::new(ErrorKind::Unavailable, "gone");
        sender.fail(error());
        assert!(stream.next().await.unwrap().is_err());
        sender.fail(error());
        sender.send(keys(&["a"]));
        assert!(stream.next().await.unwrap().is_ok());
        sender.fail(error());
        assert!(stream.next().await.unwrap().is_err());
    }

    #[tokio::test]
    async fn both_ends_notice_the_end_of_the_other() {
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
