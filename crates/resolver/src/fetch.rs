//! The task that runs one fetch.

use std::sync::{Arc, Weak};
use std::time::Duration;

use secretwell_core::backend::{catch_panic, refuse_encrypted, require_one_result_per_key};
use secretwell_core::{Error, Origin, Secret, SecretKey};
use tokio::sync::watch;
use tracing::{Instrument, Span, field};

use crate::audit::{Audit, SecretEvent};
use crate::clock::{self, Time, runtime_ended, timeout_at};
use crate::counters::Count;
use crate::entry::Times;
use crate::event;
use crate::in_flight::{Fetch, FetchResult, FetchResults, NewFetch, Progress};
use crate::link::update_breaker;
use crate::settle::{Jitter, Settled, Settling};
use crate::shared::{CHUNK, PreparedFetch, Shared};
use crate::source::Source;

/// A batch lets other tasks run at most this often before it starts.
const MAX_ROUNDS: usize = 64;

impl Shared {
    /// Runs a prepared fetch in the background. Must be called without the lock of a state.
    pub(crate) fn run(self: &Arc<Self>, prepared: Option<PreparedFetch>) {
        if let Some(PreparedFetch { link, fetch }) = prepared {
            let span = fetch_span(&self.sources[link].origin);
            let task = FetchTask::new(self, link, fetch, span.clone());
            self.spawn(task.run().instrument(span));
        }
    }

    /// Calls the callbacks for settled results. Must be called without a lock.
    fn audit_fetch(&self, source: &Source, results: &FetchResults, changed: &[SecretKey]) {
        let event = |key: &SecretKey, fetched: &FetchResult| {
            SecretEvent::new(key, &source.origin, &fetched.result)
        };
        if let Some(on_fetch) = &self.audit.on_fetch {
            for (key, fetched) in results {
                Audit::send(on_fetch, event(key, fetched));
            }
        }
        if let Some(on_change) = &self.audit.on_change {
            for key in changed {
                if let Some(fetched) = results.get(key) {
                    Audit::send(on_change, event(key, fetched));
                }
            }
        }
    }
}

/// Creates the span of a fetch. It is not a child of the caller's span, because callers share a fetch, and a child would
/// keep the span of a caller open that does not wait for it.
fn fetch_span(origin: &Origin) -> Span {
    let span = tracing::info_span!(
        target: "secretwell::resolver",
        parent: None,
        "secretwell.fetch",
        %origin,
        keys = field::Empty,
        failed = field::Empty,
        "error.type" = field::Empty,
        "otel.kind" = "client",
        "otel.status_code" = field::Empty,
    );
    span.follows_from(Span::current().id());
    span
}

/// A task that calls the provider, stores the results and publishes them to the waiting callers. If
/// it is dropped before that, it abandons the fetch.
#[derive(Debug)]
struct FetchTask {
    shared: Weak<Shared>,
    link: usize,
    id: u64,
    /// The keys to fetch. It is empty before a batch starts.
    keys: Vec<SecretKey>,
    /// The number of keys whose results are stored.
    settled: usize,
    /// Whether keys join the fetch until it starts.
    waiting: bool,
    progress: watch::Sender<Progress>,
    span: Span,
}

impl FetchTask {
    fn new(shared: &Arc<Shared>, link: usize, fetch: NewFetch, span: Span) -> Self {
        Self {
            shared: Arc::downgrade(shared),
            link,
            id: fetch.id,
            waiting: fetch.keys.is_none(),
            settled: 0,
            keys: fetch.keys.unwrap_or_default(),
            progress: fetch.progress,
            span,
        }
    }

    async fn run(mut self) {
        self.take_turn().await;
        self.progress.send_replace(Progress::Started);
        let Some(shared) = self.shared.upgrade() else {
            return;
        };
        let source = &shared.sources[self.link];
        let (provider, origin) = (source.provider().clone(), source.origin.clone());
        let deadline = source.settings.deadline;
        // The task must not keep the resolver alive during the call.
        drop(shared);

        let started = clock::now();
        let mut called = false;
        let results = match self.requested_wait(started) {
            _ if self.keys.is_empty() => Vec::new(),
            Some(error) => vec![Err(error); self.keys.len()],
            None => {
                called = true;
                let call = catch_panic(|| provider.get_many(&self.keys));
                match timeout_at(started.after(deadline), call).await {
                    Some(Ok(results)) => {
                        require_one_result_per_key(results, self.keys.len(), &origin)
                    }
                    Some(Err(panic)) => vec![Err(panic); self.keys.len()],
                    None => vec![Err(Error::timed_out(deadline)); self.keys.len()],
                }
            }
        };
        drop(provider);
        let took = clock::now().since(started);
        self.log(&origin, &results, took);
        if let Some(shared) = self.shared.upgrade() {
            let results = match called {
                true => self.settle(&shared, results, started, took).await,
                false => self.give_up(&shared, results),
            };
            self.progress
                .send_replace(Progress::Ended(Arc::new(results)));
        }
    }

    fn log(&self, origin: &Origin, results: &[Result<Secret, Error>], took: Duration) {
        let keys = self.keys.len();
        let failed = results.iter().filter(|result| result.is_err()).count();
        self.span.record("keys", keys).record("failed", failed);
        let mut errors = results.iter().filter_map(|result| result.as_ref().err());
        if let Some(error) = errors.find(|error| !error.is_not_found()) {
            self.span.record("error.type", error.kind().name());
            self.span.record("otel.status_code", "ERROR");
        }
        tracing::debug!(target: "secretwell::resolver", event = "fetched", %origin, keys, failed, ?took, "the fetch has completed");
    }

    /// Waits until the batch can start, and takes its keys. Callers that run at about the same time join it.
    async fn take_turn(&mut self) {
        if !self.waiting {
            return;
        }
        self.gather().await;
        while let Some((predecessor, until)) = self.start() {
            timeout_at(until, predecessor.results()).await;
        }
    }

    /// Lets other tasks run until no key has joined the batch for two rounds.
    async fn gather(&self) {
        let (mut keys, mut idle) = (0, 0);
        for _ in 0..MAX_ROUNDS {
            tokio::task::yield_now().await;
            let Some(shared) = self.shared.upgrade() else {
                return;
            };
            let joined = shared.sources[self.link].state().in_flight.waiting_keys();
            idle = if joined == keys { idle + 1 } else { 0 };
            if idle == 2 {
                return;
            }
            keys = joined;
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

    /// Returns the error of a source that has requested a wait since this fetch was created.
    fn requested_wait(&self, now: Time) -> Option<Error> {
        let shared = self.shared.upgrade()?;
        let state = shared.sources[self.link].state();
        state.breaker.requested_wait(now)
    }

    /// Ends a fetch that did not call the provider.
    fn give_up(
        &mut self,
        shared: &Arc<Shared>,
        results: Vec<Result<Secret, Error>>,
    ) -> FetchResults {
        let source = &shared.sources[self.link];
        let now = clock::now();
        let mut state = source.state();
        state.breaker.abandon_probe();
        let earliest = state.breaker.open_until().unwrap_or(now).max(now);
        state.in_flight.end(self.id);
        let keys = std::mem::take(&mut self.keys).into_iter();
        let results = keys.zip(results).map(|(key, result)| {
            let superseded = !state.in_flight.finish(&key, self.id);
            state.plan(&source.cache, &key, earliest, now, false);
            let error = result.err().unwrap_or_else(runtime_ended);
            let result = Err(error.with_origin(&source.origin).with_key(&key));
            let result = FetchResult {
                result,
                times: Times::at(now),
                superseded,
                is_void: false,
            };
            (key, result)
        });
        results.collect()
    }

    /// Stores the results, and returns them by key.
    async fn settle(
        &mut self,
        shared: &Arc<Shared>,
        results: Vec<Result<Secret, Error>>,
        started: Time,
        took: Duration,
    ) -> FetchResults {
        let source = &shared.sources[self.link];
        source.counts.add(Count::Fetch);
        #[cfg(feature = "metrics")]
        {
            let errors = results.iter().filter_map(|result| result.as_ref().err());
            let failed = errors.filter(|error| !error.is_not_found()).count();
            crate::report::fetched(source, took, results.len(), failed);
        }
        update_breaker(&mut source.state(), &self.keys, &results, clock::now());

        let is_batch = source.settings.batch;
        let jitter = is_batch.then(|| Jitter::new(source.state().first_refresh(started)));
        // A map that grows would move all results at once.
        let mut all = FetchResults::with_capacity_and_hasher(self.keys.len(), Default::default());
        let mut results = results.into_iter();
        while self.settled < self.keys.len() {
            let end = self.keys.len().min(self.settled + CHUNK);
            let chunk = self.keys[self.settled..end].iter().cloned();
            all.extend(self.settle_chunk(shared, chunk.zip(&mut results), (started, took), jitter));
            self.settled = end;
            tokio::task::yield_now().await;
        }
        source.state().in_flight.end(self.id);
        if let Some(next) = source.state().next() {
            shared.expect_by(next);
        }
        shared.wake_refresher();
        all
    }

    fn settle_chunk(
        &self,
        shared: &Arc<Shared>,
        chunk: impl Iterator<Item = (SecretKey, Result<Secret, Error>)>,
        (started, took): (Time, Duration),
        jitter: Option<Jitter>,
    ) -> FetchResults {
        let source = &shared.sources[self.link];
        // The source has answered within the deadline, even if the runtime was idle afterwards.
        let now = started.after(took.min(source.settings.deadline));
        let settling = Settling {
            id: self.id,
            started,
            now,
            took,
            origin: &source.origin,
            cache: &source.cache,
            jitter,
            is_passing: self.link + 1 < shared.sources.len(),
            detects_changes: cfg!(feature = "metrics") || shared.audit.on_change.is_some(),
            found_later: &|key| shared.found_later(self.link, key, now),
        };
        let usable = |key: &SecretKey, secret| match source.settings.accept_encrypted.contains(key)
        {
            true => Ok(secret),
            false => refuse_encrypted(secret),
        };
        let mut settled = Settled::default();
        {
            let mut state = source.state();
            for (key, result) in chunk {
                let result = result.and_then(|secret| usable(&key, secret));
                source.counts.add(Count::of_fetched(&result));
                settling.settle(&mut state, key, result, &mut settled);
            }
            if settled.has_removals {
                shared.count_removal();
            }
        }
        for _ in 0..settled.rotations {
            source.counts.add(Count::Rotation);
        }
        shared.moved(self.link, &settled.moved, now);
        event::log(settled.events);
        shared.audit_fetch(source, &settled.results, &settled.changed);
        Shared::send(settled.signals);
        settled.results
    }
}

impl Drop for FetchTask {
    /// Abandons the fetch, so that the next caller starts a new one.
    fn drop(&mut self) {
        if !self.waiting && self.settled == self.keys.len() {
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
            let mut keys = self.keys.split_off(self.settled);
            if self.waiting {
                keys = state.in_flight.start(self.id, now);
            }
            state.in_flight.end(self.id);
            for key in keys {
                state.in_flight.finish(&key, self.id);
                // A forced refresh without a result does not limit the next one.
                state.forced.remove(&key);
                state.plan(&source.cache, &key, now, now, false);
            }
        }
        shared.wake_refresher();
    }
}
