//! One call to the provider, from take-off to landing.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Weak};
use std::task::Poll;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::ledger::Landed;
use super::shared::Shared;
use crate::adapters::{timed_out, too_few_answers};
use crate::{Error, ErrorKind, SecretKey, SecretProvider};

/// Whoever flies a flight: asks the provider, hands in the answers, and clears up if it cannot.
#[derive(Debug)]
pub(crate) struct Crew {
    pub(crate) shared: Weak<Shared>,
    pub(crate) id: u64,
    pub(crate) batch: Vec<SecretKey>,
    pub(crate) landed: watch::Sender<Option<Arc<Landed>>>,
}

impl Crew {
    pub(crate) async fn fly(mut self, provider: Arc<dyn SecretProvider>, deadline: Duration) {
        let started = Instant::now();
        let asked = unpanicked(provider.get_many(&self.batch));
        let asked = tokio::time::timeout(deadline, asked).await;
        let panicked = matches!(asked, Ok(None));
        let mut answers = match asked {
            Ok(Some(answers)) => answers,
            Ok(None) => vec![Err(panic_error()); self.batch.len()],
            Err(_) => vec![Err(timed_out(provider.source(), deadline)); self.batch.len()],
        };
        answers.resize_with(self.batch.len(), || Err(too_few_answers(provider.source())));
        let took = started.elapsed();
        tracing::debug!(
            source = %provider.source(),
            keys = self.batch.len(),
            failed = answers.iter().filter(|answer| answer.is_err()).count(),
            ?took,
            "asked",
        );
        if let Some(shared) = self.shared.upgrade() {
            let outcomes = self.batch.iter().cloned().zip(answers).collect();
            let now = Instant::now();
            let landed = shared.settle(self.id, outcomes, took);
            let batch = std::mem::take(&mut self.batch);
            if panicked {
                shared.excuse(&batch, now);
            }
            self.landed.send_replace(Some(Arc::new(landed)));
        }
    }
}

fn panic_error() -> Error {
    Error::new(ErrorKind::Unavailable, "the provider panicked").hint("see its log")
}

/// The outcome of `future`, or `None` if it panicked.
async fn unpanicked<F: Future>(future: F) -> Option<F::Output> {
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

impl Drop for Crew {
    fn drop(&mut self) {
        if !self.batch.is_empty()
            && let Some(shared) = self.shared.upgrade()
        {
            shared.abandon(self.id, &self.batch);
        }
    }
}
