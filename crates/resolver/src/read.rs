//! Reads: the sources are asked one after the other, and callers share fetches.

use std::sync::Arc;
use std::time::Duration;

use secretwell_core::backend::combine_errors;
use secretwell_core::{Error, SecretKey};

use crate::Resolved;
use crate::clock::{self, Time, require_runtime, runtime_ended, timeout_at};
use crate::decide::{Decision, Need, Reply, changed, decide, still_refreshing};
use crate::in_flight::{Fetch, MAX_TURN_WAIT};
use crate::link::not_attempted;
use crate::shared::{CHUNK, PreparedFetch, Shared, closed};

/// The maximum number of fetches for one read. A fetch is repeated if it ended without a result, because
/// its runtime was shut down.
const MAX_ATTEMPTS: usize = 3;
/// A caller that has a usable value waits for at most this long for a refresh.
const MAX_WAIT_FOR_REFRESH: Duration = Duration::from_secs(1);
/// A fetch is lost if it has not ended this long after its deadline.
const DEADLINE_MARGIN: Duration = Duration::from_millis(100);

/// How a read treats the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Cached answers are used.
    Cached,
    /// Every source is asked.
    Forced,
}

/// The answers of the sources about one key, as far as they were asked.
#[derive(Debug, Default)]
struct Trail {
    value: Option<Resolved>,
    /// The error of each source. `None` if the source was not asked.
    errors: Vec<Option<Error>>,
    /// The age of an absence that could not be confirmed, and the reason.
    staleness: Option<(Duration, Error)>,
    /// Whether the read needed a fetch.
    missed: bool,
}

impl Trail {
    fn add(&mut self, link: usize, reply: Reply) {
        self.errors.resize(link, None);
        match reply {
            Reply::Value(value) => self.value = Some(value),
            Reply::Absent(error, staleness) => {
                self.errors.push(Some(error));
                self.staleness = self.staleness.take().or(staleness);
            }
            Reply::Failed(error) => self.errors.push(Some(error)),
        }
    }

    fn is_absent(&self) -> bool {
        let mut errors = self.errors.iter().flatten();
        self.value.is_none() && errors.all(Error::is_not_found)
    }
}

impl Shared {
    /// Returns the secrets of `keys`. Missing ones are fetched in one batch from each source.
    pub(crate) async fn get_many(
        self: &Arc<Self>,
        keys: &[SecretKey],
        mode: Mode,
    ) -> Vec<Result<Resolved, Error>> {
        self.start_refresher();
        let last = self.sources.len() - 1;
        let mut trails: Vec<Trail> = keys.iter().map(|_| Trail::default()).collect();
        for link in 0..=last {
            let open = trails.iter().enumerate().filter(|(_, trail)| {
                let errors = trail.errors.iter().map(Option::as_ref);
                trail.value.is_none() && self.sources[link].link.is_next(errors)
            });
            let open: Vec<usize> = open.map(|(index, _)| index).collect();
            let need = match link == last {
                true => Need::Final,
                false => Need::Passing,
            };
            self.ask(link, keys, open, need, mode, &mut trails).await;
        }
        // A key that no source has is looked for again with backoff, in every source.
        if last > 0 && mode == Mode::Cached {
            for link in 0..last {
                let absent = (0..keys.len()).filter(|&index| trails[index].is_absent());
                let absent: Vec<usize> = absent.collect();
                self.ask(link, keys, absent, Need::Final, mode, &mut trails)
                    .await;
            }
        }
        self.count(&trails);
        let results = keys.iter().zip(trails);
        let results = results.map(|(key, trail)| self.conclude(key, trail));
        results.collect()
    }

    /// Asks the source at `link` for the keys at the positions `open`.
    async fn ask(
        self: &Arc<Self>,
        link: usize,
        keys: &[SecretKey],
        open: Vec<usize>,
        need: Need,
        mode: Mode,
        trails: &mut [Trail],
    ) {
        if open.is_empty() {
            return;
        }
        let asked: Vec<SecretKey> = open.iter().map(|&index| keys[index].clone()).collect();
        let replies = match mode {
            Mode::Cached => self.read(link, &asked, need).await,
            Mode::Forced => self.force(link, &asked).await,
        };
        for (index, (reply, missed)) in open.into_iter().zip(replies) {
            trails[index].missed |= missed;
            match trails[index].errors.len() > link {
                // The source is asked for the second time. Only a value changes the result.
                true if matches!(reply, Reply::Value(_)) => trails[index].add(link, reply),
                true => {}
                false => trails[index].add(link, reply),
            }
        }
    }

    fn conclude(&self, key: &SecretKey, trail: Trail) -> Result<Resolved, Error> {
        match (trail.value, trail.staleness) {
            (Some(value), None) => Ok(value),
            (Some(value), Some((age, reason))) => Ok(value.stale(age, reason)),
            (None, _) => {
                let errors = trail.errors.into_iter().flatten().collect();
                let error = combine_errors(&self.origin, key, errors);
                Err(error.with_origin(&self.origin).with_key(key))
            }
        }
    }

    fn count(&self, trails: &[Trail]) {
        let (mut hits, mut misses, mut stale) = (0, 0, 0);
        for trail in trails {
            let value = trail.value.as_ref();
            if value.is_some_and(|value| value.freshness.is_stale() || trail.staleness.is_some()) {
                stale += 1;
            } else if trail.missed || value.is_none() {
                misses += 1;
            } else {
                hits += 1;
            }
        }
        self.counts.add(hits, misses, stale);
    }

    /// Reads `keys` from the source at `link`.
    async fn read(
        self: &Arc<Self>,
        link: usize,
        keys: &[SecretKey],
        need: Need,
    ) -> Vec<(Reply, bool)> {
        let mut reading = Reading::new(self, link, keys);
        for _ in 0..MAX_ATTEMPTS {
            let missing = reading.missing();
            if missing.is_empty() {
                break;
            }
            if let Err(error) = self.can_fetch() {
                reading.lost = Some(error);
                break;
            }
            let started = clock::now();
            for (fetch, positions) in reading.serve_or_fetch(missing, need).await {
                reading.wait(fetch, positions, started).await;
            }
        }
        reading.finish()
    }

    /// Fetches `keys` from the source at `link`, regardless of the cache and of earlier failures. Within 1 s of
    /// the last forced refresh of a key, this is an ordinary read.
    async fn force(self: &Arc<Self>, link: usize, keys: &[SecretKey]) -> Vec<(Reply, bool)> {
        if self.can_fetch().is_err() {
            return self.read(link, keys, Need::Final).await;
        }
        let source = &self.sources[link];
        let now = clock::now();
        let due: Vec<SecretKey> = {
            let mut state = source.state();
            let is_due = |key: &&SecretKey| !state.is_forced(key, now);
            let due: Vec<SecretKey> = keys.iter().filter(is_due).cloned().collect();
            state.force(&due, now);
            due
        };
        // A lease is kept if the source cannot be asked for another one.
        let is_admitted = source.state().breaker.is_admitted(now);
        for key in due.iter().filter(|_| is_admitted) {
            source.discard(key, None);
        }
        let (prepared, fetches) = {
            let mut state = source.state();
            let prepared = state.prepare_forced_fetch(due, now);
            let fetches = keys.iter().map(|key| state.in_flight.get(key).cloned());
            let fetches: Vec<Option<Fetch>> = fetches.collect();
            (prepared.ok().flatten(), fetches)
        };
        self.run(prepared.map(|fetch| PreparedFetch { link, fetch }));
        let mut reading = Reading::new(self, link, keys);
        for (position, fetch) in fetches.into_iter().enumerate() {
            if let Some(fetch) = fetch {
                reading.wait_until_done(fetch, vec![position]).await;
            }
        }
        let rest = reading.missing();
        let rest_keys: Vec<SecretKey> = rest.iter().map(|&index| keys[index].clone()).collect();
        let mut replies = reading.replies;
        if !rest.is_empty() {
            let read = self.read(link, &rest_keys, Need::Final).await;
            for (index, reply) in rest.into_iter().zip(read) {
                replies[index] = Some(reply.0);
            }
        }
        let replies = replies.into_iter().flatten();
        replies.map(|reply| (reply, true)).collect()
    }

    fn can_fetch(&self) -> Result<(), Error> {
        match self.is_closed() {
            true => Err(closed()),
            false => require_runtime(),
        }
    }
}

/// A read of some keys from one source.
struct Reading<'a> {
    shared: &'a Arc<Shared>,
    link: usize,
    keys: &'a [SecretKey],
    replies: Vec<Option<Reply>>,
    superseded: Vec<bool>,
    /// Whether the key needed a fetch.
    missed: Vec<bool>,
    /// The reason why a fetch ended without a result.
    lost: Option<Error>,
}

impl<'a> Reading<'a> {
    fn new(shared: &'a Arc<Shared>, link: usize, keys: &'a [SecretKey]) -> Self {
        Self {
            shared,
            link,
            keys,
            replies: keys.iter().map(|_| None).collect(),
            superseded: vec![false; keys.len()],
            missed: vec![false; keys.len()],
            lost: None,
        }
    }

    fn missing(&self) -> Vec<usize> {
        let positions = 0..self.keys.len();
        positions.filter(|&i| self.replies[i].is_none()).collect()
    }

    /// Fills in the replies that are available immediately. Returns the fetches to wait for, with the
    /// positions of their keys.
    async fn serve_or_fetch(
        &mut self,
        missing: Vec<usize>,
        need: Need,
    ) -> Vec<(Fetch, Vec<usize>)> {
        let mut waits: Vec<(Fetch, Vec<usize>)> = Vec::new();
        for (index, chunk) in missing.chunks(CHUNK).enumerate() {
            if index > 0 {
                tokio::task::yield_now().await;
            }
            let prepared = self.serve_chunk(chunk, need, &mut waits);
            self.shared.run(prepared.map(|fetch| PreparedFetch {
                link: self.link,
                fetch,
            }));
        }
        waits
    }

    fn serve_chunk(
        &mut self,
        chunk: &[usize],
        need: Need,
        waits: &mut Vec<(Fetch, Vec<usize>)>,
    ) -> Option<crate::in_flight::NewFetch> {
        let source = &self.shared.sources[self.link];
        let now = clock::now();
        let mut state = source.state();
        let (mut fetches, mut retries, mut unanswered) = (Vec::new(), Vec::new(), Vec::new());
        for &position in chunk {
            let key = &self.keys[position];
            let decision = {
                let _used = source.cache.read(key.as_str(), |_| ());
                source
                    .cache
                    .with(key, |entry| decide(&state.known(entry, key), need, now))
            };
            let fetch = match decision {
                Decision::Return(reply) => {
                    self.replies[position] = Some(reply);
                    false
                }
                Decision::ReturnAndFetch(reply) => {
                    self.replies[position] = Some(reply);
                    true
                }
                Decision::Wait | Decision::Fetch => {
                    self.missed[position] = true;
                    unanswered.push(position);
                    matches!(decision, Decision::Fetch)
                }
            };
            if fetch {
                // The repeated read of an absence whose ttl has ended is not a retry.
                let is_retry = state
                    .failures
                    .get(key)
                    .is_some_and(|failure| need == Need::Final || !failure.error.is_not_found());
                match is_retry {
                    true => retries.push(key.clone()),
                    false => fetches.push(key.clone()),
                }
            }
        }
        let prepared = state.prepare_fetch(fetches, retries, now);
        for position in unanswered {
            let key = &self.keys[position];
            if let Some(fetch) = state.in_flight.get(key) {
                match waits.last_mut() {
                    Some((last, positions)) if last.id == fetch.id => positions.push(position),
                    _ => waits.push((fetch.clone(), vec![position])),
                }
                continue;
            }
            // The last error of this key takes precedence over the reason why no fetch is allowed.
            let last_error = state.failures.get(key).map(|failure| failure.error.clone());
            let blocked = prepared.as_ref().err().cloned();
            let error = last_error.or(blocked).unwrap_or_else(not_attempted);
            self.replies[position] = Some(source.stale_or(key, error, now, now));
        }
        prepared.ok().flatten()
    }

    /// Waits for a fetch. The wait ends on the clock of the caller, because the task of the fetch might belong
    /// to a runtime that is not running. A caller that has usable values waits for at most
    /// [`MAX_WAIT_FOR_REFRESH`].
    async fn wait(&mut self, fetch: Fetch, positions: Vec<usize>, started: Time) {
        let source = &self.shared.sources[self.link];
        let now = clock::now();
        let mut can_be_stale = positions.iter().map(|&p| &self.keys[p]);
        if !can_be_stale.all(|key| source.can_be_stale(key, now)) {
            return self.wait_until_done(fetch, positions).await;
        }
        let until = started.after(MAX_WAIT_FOR_REFRESH);
        match timeout_at(until, fetch.clone().results()).await {
            Some(_) => self.wait_until_done(fetch, positions).await,
            None => {
                let now = clock::now();
                for position in positions {
                    let key = &self.keys[position];
                    let error = still_refreshing().with_origin(&source.origin).with_key(key);
                    let reply = source.stale_or(key, error, fetch.created_at, now);
                    self.replies[position] = Some(reply);
                }
            }
        }
    }

    async fn wait_until_done(&mut self, fetch: Fetch, positions: Vec<usize>) {
        let source = &self.shared.sources[self.link];
        let deadline = source.settings.deadline;
        let turn = match source.settings.batch {
            true => MAX_TURN_WAIT,
            false => Duration::ZERO,
        };
        let until = fetch
            .created_at
            .after(deadline)
            .after(turn + DEADLINE_MARGIN);
        let (id, created_at) = (fetch.id, fetch.created_at);
        let results = timeout_at(until, fetch.results()).await;
        let now = clock::now();
        match results {
            Some(Some(results)) => {
                for position in positions {
                    let key = &self.keys[position];
                    let Some(fetched) = results.get(key) else {
                        self.lost = Some(runtime_ended());
                        continue;
                    };
                    let reply = match (fetched.result.clone(), fetched.superseded) {
                        // One more attempt. The source might change faster than it can be read.
                        (_, true) if !self.superseded[position] => {
                            self.superseded[position] = true;
                            continue;
                        }
                        (Ok(resolved), true) => {
                            Reply::Value(resolved.stale(now.since(created_at), changed()))
                        }
                        (Ok(resolved), false) => Reply::Value(resolved),
                        (Err(error), _) => source.stale_or(key, error, created_at, now),
                    };
                    self.replies[position] = Some(reply);
                }
            }
            Some(None) => self.lost = Some(runtime_ended()),
            None => {
                // The next caller, or this one, starts a fetch on its own runtime.
                let mut state = source.state();
                state.breaker.abandon_probe();
                for position in positions {
                    state.in_flight.lose(&self.keys[position], id);
                }
                self.lost = Some(Error::timed_out(deadline));
            }
        }
    }

    /// Returns the replies. The second part tells whether a fetch was needed.
    fn finish(self) -> Vec<(Reply, bool)> {
        let source = &self.shared.sources[self.link];
        let now = clock::now();
        let replies = self.replies.into_iter().zip(self.keys).zip(self.missed);
        let replies = replies.map(|((reply, key), missed)| {
            let reply = reply.unwrap_or_else(|| {
                let error = self.lost.clone().unwrap_or_else(runtime_ended);
                let error = error.with_origin(&source.origin).with_key(key);
                source.stale_or(key, error, now, now)
            });
            (reply, missed)
        });
        replies.collect()
    }
}
