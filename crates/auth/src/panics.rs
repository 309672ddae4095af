//! Panics of user code. They become failures, so that they neither end a background task nor start a loop.

use std::panic::{AssertUnwindSafe, catch_unwind};

use secretwell_core::backend::catch_panic;

/// The code panicked. The panic message is in the output of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Panicked;

/// Calls `code` and catches its panic.
pub(crate) fn catch<R>(code: impl FnOnce() -> R) -> Result<R, Panicked> {
    // After a panic, the values that `code` has used are dropped or replaced, and not used again.
    catch_unwind(AssertUnwindSafe(code)).map_err(|_| Panicked)
}

/// Awaits the future that `code` creates and catches its panics: when it is created, polled and dropped.
pub(crate) async fn catch_future<F: Future>(
    code: impl FnOnce() -> F,
) -> Result<F::Output, Panicked> {
    catch_panic(code).await.map_err(|_| Panicked)
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
