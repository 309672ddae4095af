//! Panics of user code. They become failures, so that they neither end a background task nor start a loop.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

/// The code panicked. The panic message is in the output of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Panicked;

/// Calls `code` and catches its panic.
pub(crate) fn catch<R>(code: impl FnOnce() -> R) -> Result<R, Panicked> {
    // After a panic, the values that `code` has used are dropped or replaced, and not used again.
    catch_unwind(AssertUnwindSafe(code)).map_err(|_| Panicked)
}

/// Returns a future that catches the panics of `future`: when it is created, polled and dropped.
pub(crate) fn catch_future<F: Future>(future: impl FnOnce() -> F) -> CatchPanic<F> {
    CatchPanic(catch(|| Box::pin(future())).ok())
}

/// The future of [`catch_future`]. The inner future is dropped after a panic.
pub(crate) struct CatchPanic<F>(Option<Pin<Box<F>>>);

impl<F: Future> Future for CatchPanic<F> {
    type Output = Result<F::Output, Panicked>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(future) = &mut self.0 else {
            return Poll::Ready(Err(Panicked));
        };
        match catch(|| future.as_mut().poll(context)) {
            Ok(poll) => poll.map(Ok),
            Err(panicked) => {
                self.discard();
                Poll::Ready(Err(panicked))
            }
        }
    }
}

impl<F> CatchPanic<F> {
    fn discard(&mut self) {
        let future = self.0.take();
        let _ = catch(|| drop(future));
    }
}

impl<F> Drop for CatchPanic<F> {
    fn drop(&mut self) {
        self.discard();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct PanicsOnDrop;

    impl Drop for PanicsOnDrop {
        fn drop(&mut self) {
            panic!("this drop panics");
        }
    }

    #[tokio::test]
    async fn panic_of_a_future_is_an_error() {
        assert_eq!(catch_future(|| async { 1 }).await, Ok(1));
        let panics = catch_future(|| async { panic!("this future panics") });
        assert_eq!(panics.await, Err::<(), _>(Panicked));
        let creation = catch_future(|| -> std::future::Ready<()> { panic!("no future") });
        assert_eq!(creation.await, Err(Panicked));
        drop(catch_future(|| {
            let value = PanicsOnDrop;
            async move { drop(value) }
        }));
    }
}
