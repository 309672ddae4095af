//! Concurrent execution of borrowed futures with a limit.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

/// Awaits all `futures`, at most `limit` and at least one at a time, and returns their results in order.
///
/// Backends use it to read many secrets concurrently. The futures are polled by one task, so they are
/// concurrent but not parallel. Dropping the returned future drops all of them.
///
/// All futures are collected before the first one starts, and moved then. A large future, such as that of a
/// request, should therefore be boxed in a small one: `async { Box::pin(request()).await }`.
pub async fn join_bounded<F: Future>(
    limit: usize,
    futures: impl IntoIterator<Item = F>,
) -> Vec<F::Output> {
    let futures: Vec<F> = futures.into_iter().collect();
    let mut results: Vec<Option<F::Output>> = futures.iter().map(|_| None).collect();
    let mut waiting = futures.into_iter().enumerate();
    let task = Arc::new(Mutex::new(Waker::noop().clone()));
    // A limit of 0 would never start a future.
    let first = waiting.by_ref().take(limit.max(1));
    let mut running: Vec<_> = first.map(|next| Running::new(next, &task)).collect();

    poll_fn(|context| {
        lock(&task).clone_from(context.waker());
        running.retain_mut(|running| {
            while let Poll::Ready(output) = running.poll_if_woken() {
                results[running.index] = Some(output);
                match waiting.next() {
                    Some(next) => running.replace(next),
                    None => return false,
                }
            }
            true
        });
        match running.is_empty() {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    })
    .await;

    results.into_iter().flatten().collect()
}

/// A future that has started. The next one takes its place.
struct Running<F> {
    index: usize,
    future: Pin<Box<F>>,
    signal: Arc<Signal>,
    waker: Waker,
}

impl<F: Future> Running<F> {
    fn new((index, future): (usize, F), task: &Arc<Mutex<Waker>>) -> Self {
        let signal = Arc::new(Signal {
            is_woken: AtomicBool::new(true),
            task: Arc::clone(task),
        });
        Self {
            index,
            future: Box::pin(future),
            waker: Waker::from(Arc::clone(&signal)),
            signal,
        }
    }

    fn replace(&mut self, (index, future): (usize, F)) {
        self.index = index;
        self.future.set(future);
        self.signal.is_woken.store(true, Ordering::Release);
    }

    /// Polls the future, unless it waits. A wake-up of one future would otherwise cost a poll of all.
    fn poll_if_woken(&mut self) -> Poll<F::Output> {
        match self.signal.is_woken.swap(false, Ordering::AcqRel) {
            true => {
                let mut context = Context::from_waker(&self.waker);
                self.future.as_mut().poll(&mut context)
            }
            false => Poll::Pending,
        }
    }
}

/// Records that one future can make progress, and wakes the task of all.
struct Signal {
    is_woken: AtomicBool,
    task: Arc<Mutex<Waker>>,
}

impl Wake for Signal {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.is_woken.store(true, Ordering::Release);
        // The waker is code of the runtime, so it must not run under the lock.
        let task = lock(&self.task).clone();
        task.wake();
    }
}

fn lock(task: &Mutex<Waker>) -> MutexGuard<'_, Waker> {
    task.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn results_keep_their_order_and_concurrency_is_limited() {
        let (active, peak) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let results = join_bounded(
            4,
            (0..40_u64).map(|i| {
                let (active, peak) = (&active, &peak);
                async move {
                    peak.fetch_max(active.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    tokio::time::sleep(Duration::from_millis(40 - i)).await;
                    active.fetch_sub(1, Ordering::SeqCst);
                    i
                }
            }),
        )
        .await;
        assert_eq!(results, (0..40).collect::<Vec<_>>());
        assert_eq!(peak.into_inner(), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_woken_future_is_polled() {
        let polls = AtomicUsize::new(0);
        let counted = async |seconds| {
            let mut sleep = std::pin::pin!(tokio::time::sleep(Duration::from_secs(seconds)));
            poll_fn(|context| {
                polls.fetch_add(1, Ordering::SeqCst);
                sleep.as_mut().poll(context)
            })
            .await;
        };
        join_bounded(10, (1..=10).map(counted)).await;
        // Each future is polled when it starts and when its time is over.
        assert_eq!(polls.into_inner(), 20);
    }

    #[tokio::test]
    async fn empty_input_and_ready_futures_complete() {
        assert!(
            join_bounded(4, Vec::<std::future::Ready<()>>::new())
                .await
                .is_empty()
        );
        assert_eq!(
            join_bounded(1, (0..3).map(std::future::ready)).await,
            [0, 1, 2]
        );
    }
}
