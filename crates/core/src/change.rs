//! Change notifications: a source reports that secrets might have changed.

use std::any::Any;
use std::collections::BTreeSet;
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use futures_core::Stream;

use crate::{Error, SecretKey};

/// The maximum number of keys in merged notifications. More keys count as a change of all keys, so that the memory
/// of a stream that is never read is bounded.
const MAX_MERGED_KEYS: usize = 10_000;

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
        if let (Self::Keys(merged), Self::Keys(other)) = (&mut *self, other) {
            merged.extend(other);
            if merged.len() <= MAX_MERGED_KEYS {
                return;
            }
        }
        *self = Self::All;
    }
}

/// The receiver of a source's change notifications.
///
/// Unread notifications are merged into one. A slow receiver therefore loses no change and does not
/// block the sender. More than 10,000 merged keys become [`Change::All`]. Dropping the stream drops its
/// [guard](Self::with_guard), which stops the watcher.
///
/// Use [`next`](Self::next), or the combinators of `futures` or `tokio-stream`: the type implements
/// [`Stream`].
pub struct ChangeStream {
    shared: Arc<Shared>,
    _guard: Option<Box<dyn Any + Send + Sync>>,
}

/// The sender of change notifications. Clones send to the same stream. The stream ends when the last
/// clone is dropped.
#[derive(Debug)]
pub struct ChangeSender(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared(Mutex<Pending>);

#[derive(Debug, Default)]
struct Pending {
    change: Option<Change>,
    failure: Option<Error>,
    /// The text of the last reported error, until a change is sent.
    last_failure: Option<String>,
    senders: usize,
    closed: bool,
    /// Wakes the task that waits for the next notification.
    waker: Option<Waker>,
}

impl Pending {
    /// Returns the next item of the stream: the failure first, then the change, then the end.
    fn take_next(&mut self) -> Poll<Option<Result<Change, Error>>> {
        if let Some(failure) = self.failure.take() {
            return Poll::Ready(Some(Err(failure)));
        }
        match self.change.take() {
            Some(change) => Poll::Ready(Some(Ok(change))),
            None if self.senders == 0 => Poll::Ready(None),
            None => Poll::Pending,
        }
    }
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
        poll_fn(|context| Pin::new(&mut *self).poll_next(context)).await
    }
}

/// The items are the results of [`ChangeStream::next`].
impl Stream for ChangeStream {
    type Item = Result<Change, Error>;

    fn poll_next(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Change, Error>>> {
        // Wakers are cloned and dropped outside of the lock, because an executor implements both.
        let waker = context.waker().clone();
        let mut pending = self.shared.lock();
        let next = pending.take_next();
        let replaced = match next {
            Poll::Ready(_) => Some(waker),
            Poll::Pending => pending.waker.replace(waker),
        };
        drop(pending);
        drop(replaced);
        next
    }
}

impl Drop for ChangeStream {
    fn drop(&mut self) {
        let mut pending = self.shared.lock();
        pending.closed = true;
        let waker = pending.waker.take();
        drop(pending);
        drop(waker);
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

    /// Reports that the source cannot be watched at the moment, so that every key might have changed. An error
    /// with the text of the last one is sent as [`Change::All`]. Returns `false` if the stream has been dropped.
    pub fn fail(&self, error: Error) -> bool {
        self.update(|pending| {
            let text = error.to_string();
            if pending.last_failure.as_ref() == Some(&text) {
                pending.change = Some(Change::All);
            } else {
                pending.last_failure = Some(text);
                pending.failure = Some(error);
            }
        })
    }

    /// Returns whether the stream has been dropped.
    pub(crate) fn is_closed(&self) -> bool {
        self.0.lock().closed
    }

    fn update(&self, update: impl FnOnce(&mut Pending)) -> bool {
        let mut pending = self.0.lock();
        if pending.closed {
            return false;
        }
        update(&mut pending);
        unlock_and_wake(pending);
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
        let mut pending = self.0.lock();
        pending.senders -= 1;
        unlock_and_wake(pending);
    }
}

/// Wakes the receiver after unlocking, because waking runs code of its executor.
fn unlock_and_wake(mut pending: MutexGuard<'_, Pending>) {
    let waker = pending.waker.take();
    drop(pending);
    if let Some(waker) = waker {
        waker.wake();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;
    use crate::ErrorKind;

    /// Counts how often its waker is called.
    #[derive(Default)]
    struct Counter(AtomicUsize);

    impl Wake for Counter {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

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
    async fn number_of_unread_keys_is_bounded() {
        let (sender, mut stream) = ChangeStream::channel();
        let name = |number: usize| format!("K{number}");
        for number in (0..MAX_MERGED_KEYS).chain(0..MAX_MERGED_KEYS) {
            sender.send(keys(&[&name(number)]));
        }
        let Change::Keys(unread) = stream.next().await.unwrap().unwrap() else {
            panic!("repeated keys are counted once")
        };
        assert_eq!(unread.len(), MAX_MERGED_KEYS);
        for number in 0..=MAX_MERGED_KEYS {
            sender.send(keys(&[&name(number)]));
        }
        sender.send(keys(&["other"]));
        assert_eq!(stream.next().await.unwrap().unwrap(), Change::All);
        sender.send(keys(&["other"]));
        assert_eq!(stream.next().await.unwrap().unwrap(), keys(&["other"]));
    }

    #[tokio::test]
    async fn waiting_receiver_is_woken_by_a_change_a_failure_and_the_end() {
        let (sender, mut stream) = ChangeStream::channel();
        let receiver = tokio::spawn(async move {
            let items = [
                stream.next().await,
                stream.next().await,
                stream.next().await,
            ];
            items.map(|item| item.map(|result| result.is_ok()))
        });
        tokio::task::yield_now().await;
        assert!(sender.send(Change::All));
        tokio::task::yield_now().await;
        assert!(sender.fail(Error::new(ErrorKind::Unavailable, "the watcher failed")));
        tokio::task::yield_now().await;
        drop(sender);
        assert_eq!(receiver.await.unwrap(), [Some(true), Some(false), None]);
    }

    #[tokio::test]
    async fn cancelled_wait_loses_no_notification() {
        let (sender, mut stream) = ChangeStream::channel();
        let mut context = Context::from_waker(Waker::noop());
        assert!(
            std::pin::pin!(stream.next())
                .poll(&mut context)
                .is_pending()
        );
        sender.send(keys(&["a"]));
        let mut pinned = std::pin::pin!(stream);
        let next = poll_fn(|context| pinned.as_mut().poll_next(context)).await;
        assert_eq!(next.unwrap().unwrap(), keys(&["a"]));
    }

    #[test]
    fn dropped_stream_keeps_no_waker() {
        let (sender, mut stream) = ChangeStream::channel();
        let count = Arc::new(Counter::default());
        let waker = Waker::from(count.clone());
        let mut context = Context::from_waker(&waker);
        for _ in 0..3 {
            assert!(Pin::new(&mut stream).poll_next(&mut context).is_pending());
        }
        assert_eq!(
            Arc::strong_count(&count),
            3,
            "only the newest waker is kept"
        );
        sender.send(Change::All);
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        assert!(Pin::new(&mut stream).poll_next(&mut context).is_ready());
        assert!(Pin::new(&mut stream).poll_next(&mut context).is_pending());
        drop(stream);
        assert_eq!(Arc::strong_count(&count), 2);
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
