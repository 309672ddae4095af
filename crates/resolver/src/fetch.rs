//! The task that runs one fetch.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Weak};
use std::task::Poll;
use std::time::Duration;

use secretwell_core::backend::require_one_result_per_key;
use secretwell_core::{Error, ErrorKind, SecretKey, SecretProvider};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::shared::Shared;
use crate::state::FetchResults;

/// A task that calls the provider, stores the results and publishes them to the waiting callers. If
/// it is dropped before that, it abandons the fetch.
#[derive(Debug)]
pub(crate) struct FetchTask {
    pub(crate) shared: Weak<Shared>,
    pub(crate) id: u64,
    /// The keys to fetch. It is empty once the results are stored.
    pub(crate) batch: Vec<SecretKey>,
    pub(crate) results: watch::Sender<Option<Arc<FetchResults>>>,
}

impl FetchTask {
    pub(crate) async fn run(mut self, provider: Arc<dyn SecretProvider>, deadline: Duration) {
        let started = Instant::now();
        let call = catch_panic(provider.get_many(&self.batch));
        let returned = tokio::time::timeout(deadline, call).await;
        let panicked = matches!(returned, Ok(None));
        let results = match returned {
            Ok(Some(results)) => {
                require_one_result_per_key(results, self.batch.len(), provider.origin())
            }
            Ok(None) => vec![Err(panic_error()); self.batch.len()],
            Err(_) => vec![
                Err(Error::timed_out(deadline).with_origin(provider.origin()));
                self.batch.len()
            ],
        };
        let took = started.elapsed();
        tracing::debug!(target: "secretwell::resolver", event = "fetched",
            origin = %provider.origin(),
            keys = self.batch.len(),
            failed = results.iter().filter(|result| result.is_err()).count(),
            ?took,
            "the fetch has completed",
        );
        if let Some(shared) = self.shared.upgrade() {
            let results = self.batch.iter().cloned().zip(results).collect();
            let now = Instant::now();
            let results = shared.complete_fetch(self.id, results, took);
            let batch = std::mem::take(&mut self.batch);
            if panicked {
                shared.retry_immediately(&batch, now);
            }
            self.results.send_replace(Some(Arc::new(results)));
        }
    }
}

fn panic_error() -> Error {
    Error::new(ErrorKind::Unavailable, "the provider panicked")
        .with_hint("see the panic message in the log")
}

/// Returns the output of `future`, or `None` if it panicked.
async fn catch_panic<F: Future>(future: F) -> Option<F::Output> {
    let mut future = std::pin::pin!(future);
    std::future::poll_fn(|context| {
        let poll = AssertUnwindSafe(|| future.as_mut().poll(context));
        match catch_unwind(poll) {
            Ok(poll) => poll.map(Some),
            Err(_) => Poll::Ready(None),
        }
    })
    .await
}

impl Drop for FetchTask {
    fn drop(&mut self) {
        if !self.batch.is_empty()
            && let Some(shared) = self.shared.upgrade()
        {
            shared.abandon_fetch(self.id, &self.batch);
        }
    }
}
