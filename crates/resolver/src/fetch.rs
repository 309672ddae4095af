//! The task that runs one fetch.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::task::Poll;
use std::time::Duration;

use secretwell_core::backend::require_one_result_per_key;
use secretwell_core::{Error, ErrorKind, Secret, SecretKey};

use crate::clock::{self, Time, timeout_at};
use crate::event;
use crate::in_flight::{Fetch, FetchResults, NewFetch, ResultSender};
use crate::settle::{Jitter, Settled, Settling, update_breaker};
use crate::shared::{CHUNK, PreparedFetch, Shared};

impl Shared {
    /// Runs a prepared fetch in the background. Must be called without the lock of a state.
    pub(crate) fn run(self: &Arc<Self>, prepared: Option<PreparedFetch>) {
        if let Some(PreparedFetch { link, fetch }) = prepared {
            self.spawn(FetchTask::new(self, link, fetch).run());
        }
    }
}

/// A task that calls the provider, stores the results and publishes them to the waiting callers. If
/// it is dropped before that, it abandons the fetch.
#[derive(Debug)]
struct FetchTask {
    shared: Weak<Shared>,
    link: usize,
    id: u64,
    /// The keys to fetch. It is empty before a batch starts, and once the results are stored.
    keys: Vec<SecretKey>,
    /// Whether keys join the fetch until it starts.
    waiting: bool,
    results: ResultSender,
}

impl FetchTask {
    fn new(shared: &Arc<Shared>, link: usize, fetch: NewFetch) -> Self {
        Self {
            shared: Arc::downgrade(shared),
            link,
            id: fetch.id,
            waiting: fetch.keys.is_none(),
            keys: fetch.keys.unwrap_or_default(),
            results: fetch.results,
        }
    }

    async fn run(mut self) {
        self.take_turn().await;
        let Some(shared) = self.shared.upgrade() else {
            return;
        };
        let source = &shared.sources[self.link];
        let (provider, origin) = (source.provider().clone(), source.origin.clone());
        let deadline = source.settings.deadline;
        // The task must not keep the resolver alive during the call.
        drop(shared);

        let started = clock::now();
        let results = match self.keys.is_empty() {
            true => Vec::new(),
            false => {
                let call = catch_panic(|| provider.get_many(&self.keys));
                match timeout_at(started.after(deadline), call).await {
                    Some(Some(results)) => {
                        require_one_result_per_key(results, self.keys.len(), &origin)
                    }
                    Some(None) => vec![Err(panic_error()); self.keys.len()],
                    None => vec![Err(Error::timed_out(deadline)); self.keys.len()],
                }
            }
        };
        drop(provider);
        let took = clock::now().since(started);
        tracing::debug!(target: "secretwell::resolver", event = "fetched",
            %origin,
            keys = self.keys.len(),
            failed = results.iter().filter(|result| result.is_err()).count(),
            ?took,
            "the fetch has completed",
        );
        if let Some(shared) = self.shared.upgrade() {
            let results = self.settle(&shared, results, took).await;
            self.results.send_replace(Some(Arc::new(results)));
        }
    }

    /// Waits until the batch can start, and takes its keys. Callers that run at about the same time join it.
    async fn take_turn(&mut self) {
        if !self.waiting {
            return;
        }
        tokio::task::yield_now().await;
        while let Some((predecessor, until)) = self.start() {
            timeout_at(until, predecessor.results()).await;
        }
    }

    /// Takes the keys of the batch. Returns the batch before, and the time until which this one waits for it,
    /// if it must still wait.
    fn start(&mut self) -> Option<(Fetch, Time)> {
        let shared = self.shared.upgrade()?;
        let now = clock::now();
        let mut state = shared.sources[self.link].state();
        let predecessor = state.in_flight.predecessor(now);
        if predecessor.is_none() {
            self.keys = state.in_flight.start(self.id, now);
            self.waiting = false;
        }
        predecessor
    }

    /// Stores the results, and returns them by key.
    async fn settle(
        &mut self,
        shared: &Arc<Shared>,
        results: Vec<Result<Secret, Error>>,
        took: Duration,
    ) -> FetchResults {
        if self.keys.is_empty() {
            return FetchResults::default();
        }
        let source = &shared.sources[self.link];
        let failures = results.iter().flat_map(|result| result.as_ref().err());
        let failures = failures.filter(|error| !error.is_not_found()).count();
        shared.counts.fetches.fetch_add(1, Ordering::Relaxed);
        shared
            .counts
            .failures
            .fetch_add(failures as u64, Ordering::Relaxed);
        update_breaker(&mut source.state(), &results, clock::now());

        let jitter = source.settings.batch.then(Jitter::new);
        let mut all = FetchResults::default();
        let mut results = results.into_iter();
        while !self.keys.is_empty() {
            let rest = self.keys.split_off(self.keys.len().min(CHUNK));
            let chunk = std::mem::replace(&mut self.keys, rest);
            let chunk = chunk.into_iter().zip(&mut results);
            all.extend(self.settle_chunk(shared, chunk, took, jitter));
            if !self.keys.is_empty() {
                tokio::task::yield_now().await;
            }
        }
        if let Some(next) = source.state().next() {
            shared.expect_by(next);
        }
        shared.wake.notify_one();
        all
    }
}

impl FetchTask {
    fn settle_chunk(
        &self,
        shared: &Arc<Shared>,
        chunk: impl Iterator<Item = (SecretKey, Result<Secret, Error>)>,
        took: Duration,
        jitter: Option<Jitter>,
    ) -> FetchResults {
        let source = &shared.sources[self.link];
        let now = clock::now();
        let settling = Settling {
            id: self.id,
            took,
            now,
            origin: &source.origin,
            cache: &source.cache,
            jitter,
            found_later: &|key| shared.found_later(self.link, key, now),
        };
        let mut settled = Settled::default();
        {
            let mut state = source.state();
            for (key, result) in chunk {
                settling.settle(&mut state, key, result, &mut settled);
            }
        }
        shared.moved(self.link, &settled.moved, now);
        event::log(settled.events);
        Shared::send(settled.signals);
        settled.results
    }
}

impl Drop for FetchTask {
    /// Abandons the fetch, so that the next caller starts a new one.
    fn drop(&mut self) {
        if !self.waiting && self.keys.is_empty() {
            return;
        }
        let Some(shared) = self.shared.upgrade() else {
            return;
        };
        let source = &shared.sources[self.link];
        {
            let now = clock::now();
            let mut state = source.state();
            state.breaker.abandon_probe();
            let mut keys = std::mem::take(&mut self.keys);
            if self.waiting {
                keys = state.in_flight.start(self.id, now);
            }
            for key in keys {
                state.in_flight.finish(&key, self.id);
                state.plan(&source.cache, &key, now, now, false);
            }
        }
        shared.wake.notify_one();
    }
}

fn panic_error() -> Error {
    Error::new(ErrorKind::Unavailable, "the provider panicked")
        .with_hint("see the panic message in the log")
}

/// Returns the output of the future that `call` creates, or `None` if one of them panicked.
async fn catch_panic<F: Future>(call: impl FnOnce() -> F) -> Option<F::Output> {
    let future = catch_unwind(AssertUnwindSafe(call)).ok()?;
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
