//! Runs borrowed futures side by side, a few at a time.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;

/// Awaits all `futures`, at most `limit` at a time, and returns their results in order; for backends
/// that read many secrets side by side.
///
/// Dropping it drops the futures. They are polled by one task, so they wait side by side and do not
/// compute so.
pub async fn join_bounded<F: Future>(
    limit: usize,
    futures: impl IntoIterator<Item = F>,
) -> Vec<F::Output> {
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
                // A place became free: fill it and poll the newcomer.
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
    async fn keeps_order_and_limit() {
        let (now, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let results = join_bounded(
            4,
            (0..40_u64).map(|i| {
                let (now, most) = (&now, &most);
                async move {
                    most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    tokio::time::sleep(Duration::from_millis(40 - i)).await;
                    now.fetch_sub(1, Ordering::SeqCst);
                    i
                }
            }),
        )
        .await;
        assert_eq!(results, (0..40).collect::<Vec<_>>());
        assert_eq!(most.into_inner(), 4);
    }

    #[tokio::test]
    async fn nothing_is_done_at_once() {
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
