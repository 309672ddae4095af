//! One call to the provider, from take-off to landing.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Weak};
use std::task::Poll;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::shared::Shared;
use crate::state::FetchResults;
use secretwell_core::{Error, ErrorKind, SecretKey, SecretProvider};

/// Whoever flies a fetch: asks the provider, hands in the answers, and clears up if it cannot.
#[derive(Debug)]
pub(crate) struct FetchTask {
    pub(crate) shared: Weak<Shared>,
    pub(crate) id: u64,
    pub(crate) batch: Vec<SecretKey>,
    pub(crate) results: watch::Sender<Option<Arc<FetchResults>>>,
}

impl FetchTask {
    pub(crate) async fn run(mut self, provider: Arc<dyn SecretProvider>, deadline: Duration) {
        let started = Instant::now();
        let asked = catch_panic(provider.get_many(&self.batch));
        let asked = tokio::time::timeout(deadline, asked).await;
        let panicked = matches!(asked, Ok(None));
        let mut answers = match asked {
            Ok(Some(answers)) => answers,
            Ok(None) => vec![Err(panic_error()); self.batch.len()],
            Err(_) => vec![
                Err(Error::timed_out(deadline).with_origin(provider.origin()));
                self.batch.len()
            ],
        };
        answers.resize_with(self.batch.len(), || {
            Err(Error::wrong_result_count().with_origin(provider.origin()))
        });
        let took = started.elapsed();
        tracing::debug!(target: "secretwell::resolver", event = "fetched",
            origin = %provider.origin(),
            keys = self.batch.len(),
            failed = answers.iter().filter(|answer| answer.is_err()).count(),
            ?took,
            "the provider was called",
        );
        if let Some(shared) = self.shared.upgrade() {
            let outcomes = self.batch.iter().cloned().zip(answers).collect();
            let now = Instant::now();
            let results = shared.settle(self.id, outcomes, took);
            let batch = std::mem::take(&mut self.batch);
            if panicked {
                shared.retry_immediately(&batch, now);
            }
            self.results.send_replace(Some(Arc::new(results)));
        }
    }
}

fn panic_error() -> Error {
    Error::new(ErrorKind::Unavailable, "the provider panicked").with_hint("see its log")
}

/// The outcome of `future`, or `None` if it panicked.
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
            shared.abandon(self.id, &self.batch);
        }
    }
}
