//! Concurrent execution of borrowed futures with a limit.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;

/// Awaits all `futures`, at most `limit` and at least one at a time, and returns their results in order.
///
/// Backends use it to read many secrets concurrently. The futures are polled by one task, so they are
/// concurrent but not parallel. Dropping the returned future drops all of them.
pub async fn join_bounded<F: Future>(
    limit: usize,
    futures: impl IntoIterator<Item = F>,
) -> Vec<F::Output> {
    // A limit of 0 would never start a future.
    let limit = limit.max(1);
    let mut waiting: VecDeque<(usize, F)> = futures.into_iter().enumerate().collect();
    let mut results: Vec<Option<F::Output>> = waiting.iter().map(|_| None).collect();
    let mut running: Vec<(usize, Pin<Box<F>>)> = Vec::with_capacity(limit.min(waiting.len()));

    poll_fn(|context| {
        loop {
            while running.len() < limit
                && let Some((index, future)) = waiting.pop_front()
            {
                running.push((index, Box::pin(future)));
            }
            let before = running.len();
            running.retain_mut(|(index, future)| match future.as_mut().poll(context) {
                Poll::Ready(output) => {
                    results[*index] = Some(output);
                    false
                }
                Poll::Pending => true,
            });
            match (running.is_empty(), running.len() == before) {
                (true, _) if waiting.is_empty() => return Poll::Ready(()),
                (false, true) => return Poll::Pending,
                // A future has completed: start the next one and poll again.
                _ => {}
            }
        }
    })
    .await;

    results.into_iter().flatten().collect()
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
