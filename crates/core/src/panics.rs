//! Conversion of panics of providers into errors.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

use crate::{Error, ErrorKind};

/// Returns the output of the future that `call` creates. If `call`, the future or its drop panics, returns an
/// error of the kind [`ErrorKind::Unavailable`]. The panic hook still reports the panic.
///
/// # Errors
/// Returns an error after a panic.
pub async fn catch_panic<F: Future>(call: impl FnOnce() -> F) -> Result<F::Output, Error> {
    let future = catch_unwind(AssertUnwindSafe(|| Box::pin(call())));
    let output = match future {
        Ok(future) => CatchPanic(Some(future)).await,
        Err(_) => None,
    };
    output.ok_or_else(|| {
        Error::new(ErrorKind::Unavailable, "the provider panicked")
            .with_hint("see the panic message in the output of the process")
    })
}

/// A future that catches the panics of the inner one, also in its drop.
struct CatchPanic<F>(Option<Pin<Box<F>>>);

impl<F: Future> Future for CatchPanic<F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<F::Output>> {
        let Some(future) = &mut self.0 else {
            return Poll::Ready(None);
        };
        let poll = catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context)));
        match poll {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(output)) => Poll::Ready(self.drop_inner().then_some(output)),
            Err(_) => Poll::Ready(None),
        }
    }
}

impl<F> CatchPanic<F> {
    /// Drops the inner future. Returns whether it did not panic.
    fn drop_inner(&mut self) -> bool {
        let inner = self.0.take();
        catch_unwind(AssertUnwindSafe(|| drop(inner))).is_ok()
    }
}

impl<F> Drop for CatchPanic<F> {
    fn drop(&mut self) {
        self.drop_inner();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct PanicsOnDrop;

    impl Drop for PanicsOnDrop {
        fn drop(&mut self) {
            panic!("in the drop");
        }
    }

    #[tokio::test]
    async fn panics_are_errors_wherever_they_happen() {
        assert_eq!(catch_panic(|| async { 1 }).await.unwrap(), 1);
        let in_call = catch_panic(|| -> std::future::Ready<()> { panic!("in the call") }).await;
        let in_future = catch_panic(|| async { panic!("in the future") }).await;
        let in_drop = catch_panic(|| {
            let bomb = PanicsOnDrop;
            std::future::poll_fn(move |_| {
                let _ = &bomb;
                Poll::Ready(())
            })
        })
        .await;
        for result in [in_call, in_future, in_drop] {
            assert!(result.unwrap_err().to_string().contains("panicked"));
        }
    }
}
