//! Watches, which return the changes of secrets.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use secretwell_core::{Error, SecretKey};
use tokio::runtime::Handle;
use tokio::time::Sleep;

use crate::Resolved;
use crate::clock::{self, require_runtime};
use crate::decide::Reply;
use crate::reading::Mode;
use crate::settle::Seen;
use crate::shared::{CHUNK, Shared};
use crate::signal::Signal;

/// A watch on some keys. Created by [`Resolver::watch`](crate::Resolver::watch).
///
/// [`next`](Self::next) first returns the current results of all keys, and then the results of the keys that
/// have changed. So a reader needs no other call, and no change is lost or returned twice. The watch is also
/// a [`Stream`](futures_core::Stream).
///
/// While the watch exists, its keys are refreshed in the background even if they are not read. Absent
/// keys are polled. Cached values of watched keys are never evicted.
///
/// ```
/// use secretwell::{MemoryProvider, Resolver};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), secretwell::Error> {
/// let memory = MemoryProvider::from_iter([("DB_PASSWORD", "first")]);
/// let mut watch = Resolver::new(memory.clone()).watch(["DB_PASSWORD"])?;
///
/// for expected in ["first", "second"] {
///     for update in watch.next().await.expect("the resolver was not closed") {
///         assert_eq!(update.result?.value.expose_text()?, expected);
///     }
///     memory.set("DB_PASSWORD", "second")?;
/// }
/// # Ok(())
/// # }
/// ```
pub struct Watch {
    shared: Arc<Shared>,
    keys: Arc<[SecretKey]>,
    signal: Arc<Signal>,
    /// The name of the reader in access events.
    consumer: Option<Arc<str>>,
    /// What was returned last for each key. `None` if nothing was returned yet.
    returned: Vec<Option<Seen>>,
    step: Step,
}

enum Step {
    /// The first read of all keys.
    FirstRead(Option<FirstRead>),
    /// Waiting for a change, at most until the refresher is overdue.
    Waiting(Option<Timer>),
}

/// A read, with the runtime that it belongs to. In another runtime its timers would panic or never fire.
struct FirstRead {
    runtime: Option<tokio::runtime::Id>,
    read: Pin<Box<dyn Future<Output = Vec<Reply>> + Send + Sync>>,
}

/// A timer, with the runtime that it belongs to. In another runtime it would never fire.
struct Timer {
    runtime: tokio::runtime::Id,
    sleep: Pin<Box<Sleep>>,
}

/// The result of a watched key.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Update {
    /// The key.
    pub key: SecretKey,
    /// The value, or the reason why there is no value. A value can be stale.
    pub result: Result<Resolved, Error>,
}

impl Update {
    fn new(key: &SecretKey, reply: Reply) -> Self {
        Self {
            key: key.clone(),
            result: reply.into_result(),
        }
    }
}

impl Watch {
    pub(crate) fn new(
        shared: Arc<Shared>,
        keys: Vec<SecretKey>,
        consumer: Option<Arc<str>>,
    ) -> Self {
        let signal = Arc::new(Signal::default());
        let now = clock::now();
        for (link, source) in shared.sources.iter().enumerate() {
            let mut state = source.state();
            for (position, key) in keys.iter().enumerate() {
                state.watch(&source.cache, key, &signal, position);
                let found_later = shared.found_later(link, key, now);
                state.plan(&source.cache, key, now, now, found_later);
            }
        }
        shared.expect_by(now);
        shared.start_refresher();
        shared.wake_refresher();
        Self {
            returned: vec![None; keys.len()],
            step: Step::FirstRead(None),
            shared,
            keys: keys.into(),
            signal,
            consumer,
        }
    }

    /// Returns the keys of the watch.
    pub fn keys(&self) -> &[SecretKey] {
        &self.keys
    }

    /// Waits until at least one key has changed, and returns the changed keys with their results. The first
    /// call reads all keys and returns all results. Returns `None` after the resolver was
    /// [closed](crate::Resolver::close).
    ///
    /// A key changes when its value changes. It also changes when it becomes absent, refused or stale,
    /// and when it recovers. A new version with an equal value is not a change. Changes in quick succession
    /// are returned as one, with the newest result.
    ///
    /// Cancellation is safe: no change is lost. Outside of a tokio runtime, secrets are not refreshed,
    /// so no change is detected.
    pub async fn next(&mut self) -> Option<Vec<Update>> {
        std::future::poll_fn(|context| self.poll_audited(context)).await
    }

    fn poll_audited(&mut self, context: &mut Context<'_>) -> Poll<Option<Vec<Update>>> {
        let updates = ready!(self.poll_next_updates(context));
        for Update { key, result } in updates.iter().flatten() {
            self.shared.accessed(self.consumer.as_ref(), key, result);
        }
        Poll::Ready(updates)
    }

    fn poll_next_updates(&mut self, context: &mut Context<'_>) -> Poll<Option<Vec<Update>>> {
        if let Step::FirstRead(first_read) = &mut self.step {
            let runtime = Handle::try_current().ok().map(|handle| handle.id());
            first_read.take_if(|first_read| first_read.runtime != runtime);
            let (shared, keys) = (&self.shared, &self.keys);
            let FirstRead { read, .. } = first_read.get_or_insert_with(|| {
                let (shared, keys) = (shared.clone(), keys.clone());
                let read = async move { shared.get_many(&keys, Mode::Cached).await };
                let read = Box::pin(read);
                FirstRead { runtime, read }
            });
            let replies = ready!(read.as_mut().poll(context));
            self.step = Step::Waiting(None);
            let replies = self.keys.iter().zip(replies).zip(&mut self.returned);
            let updates = replies.map(|((key, reply), returned)| {
                *returned = Some(Seen::by_caller(&reply));
                Update::new(key, reply)
            });
            return Poll::Ready(Some(updates.collect()));
        }
        loop {
            if self.shared.is_closed() {
                return Poll::Ready(None);
            }
            let changed = self.signal.take(context.waker());
            let updates = self.updates(changed);
            if !updates.is_empty() {
                return Poll::Ready(Some(updates));
            }
            self.shared.start_refresher();
            if !self.poll_overdue(context) {
                return Poll::Pending;
            }
        }
    }

    /// Returns the results of the keys that have changed, if there are any at `positions`.
    ///
    /// Keys that one fetch has read are returned together. A fetch notifies only after it has stored all of them, so
    /// one position might belong to a fetch whose other positions are not known yet.
    fn updates(&mut self, positions: impl IntoIterator<Item = usize>) -> Vec<Update> {
        let now = clock::now();
        let changed = |position: &usize| {
            let reply = self.shared.peek(&self.keys[*position], now);
            reply.is_some_and(|reply| self.is_changed(*position, &reply))
        };
        let positions: Vec<usize> = positions.into_iter().filter(changed).collect();
        if positions.is_empty() {
            return Vec::new();
        }
        let positions: Vec<usize> = match self.keys.len() <= CHUNK {
            true => (0..self.keys.len()).collect(),
            false => positions,
        };
        let mut updates = Vec::new();
        for positions in positions.chunks(CHUNK) {
            let keys: Vec<_> = positions.iter().map(|it| self.keys[*it].clone()).collect();
            let replies = self.shared.peek_together(&keys, now);
            for ((position, key), reply) in positions.iter().zip(&keys).zip(replies) {
                if let Some(reply) = reply.filter(|reply| self.is_changed(*position, reply)) {
                    self.returned[*position] = Some(Seen::by_caller(&reply));
                    updates.push(Update::new(key, reply));
                }
            }
        }
        updates
    }

    /// Returns whether a result differs from the one that was returned last.
    fn is_changed(&self, position: usize, reply: &Reply) -> bool {
        Some(Seen::by_caller(reply)) != self.returned[position]
    }

    /// Returns whether the refresher is overdue. It might belong to a runtime that is not running.
    fn poll_overdue(&mut self, context: &mut Context<'_>) -> bool {
        if require_runtime().is_err() {
            return false;
        }
        let overdue_at = self.shared.refresher_overdue_at().to_instant();
        let (Step::Waiting(timer), Ok(runtime)) = (&mut self.step, Handle::try_current()) else {
            return false;
        };
        let runtime = runtime.id();
        timer.take_if(|timer| timer.runtime != runtime);
        let Timer { sleep, .. } = timer.get_or_insert_with(|| Timer {
            runtime,
            sleep: Box::pin(tokio::time::sleep_until(overdue_at)),
        });
        if sleep.deadline() != overdue_at {
            sleep.as_mut().reset(overdue_at);
        }
        sleep.as_mut().poll(context).is_ready()
    }
}

impl futures_core::Stream for Watch {
    type Item = Vec<Update>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Vec<Update>>> {
        self.poll_audited(context)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        for source in &self.shared.sources {
            let mut state = source.state();
            for key in self.keys.iter() {
                state.unwatch(&source.cache, key, &self.signal);
            }
        }
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch")
            .field("keys", &self.keys)
            .finish_non_exhaustive()
    }
}
