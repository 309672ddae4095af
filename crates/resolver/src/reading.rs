//! Reads of one source. Callers share fetches.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use secretwell_core::{Error, SecretKey};

use crate::Resolved;
use crate::clock::{self, Time, require_runtime, runtime_ended, timeout_at};
use crate::decide::{
    Decision, Need, Overtaken, Reply, changed, decide, not_attempted, still_refreshing,
};
use crate::entry::Times;
use crate::in_flight::{Fetch, FetchResults};
use crate::link::Joins;
use crate::shared::{CHUNK, PreparedFetch, Shared, closed, collect, pause};

/// The maximum number of fetches for one read. A fetch is repeated if it ended without a result, because
/// its runtime was shut down, or if a change or an invalidation superseded it.
const MAX_ATTEMPTS: usize = 3;
/// A caller that has a usable value waits for at most this long for a refresh.
const MAX_WAIT_FOR_REFRESH: Duration = Duration::from_secs(1);

/// How a read treats the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Cached answers are used.
    Cached,
    /// Every source is read.
    Forced,
    /// Every source is read. Answers from before this time are not fresh.
    ForcedAfter(Time),
    /// Every source is read. The providers know already which value was rejected.
    Rejected,
    /// Every source is read that responds. The providers keep their leases.
    Revalidated,
}

/// How a source is read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ReadRequest {
    pub(crate) link: usize,
    pub(crate) need: Need,
    pub(crate) mode: Mode,
    /// The start of the whole read, which several sources might delay.
    pub(crate) started: Time,
}

impl Shared {
    /// Reads `keys` from a source.
    pub(crate) async fn read(
        self: &Arc<Self>,
        request: ReadRequest,
        keys: &[SecretKey],
    ) -> Vec<(Reply, bool)> {
        let mut reading = Reading::new(self, request.link, keys).await;
        for attempt in 1..=MAX_ATTEMPTS {
            reading.begin(attempt);
            let missing = reading.missing();
            if missing.is_empty() {
                break;
            }
            for (fetch, positions) in reading.serve_or_fetch(missing, request.need).await {
                reading.wait(fetch, positions, request.started).await;
            }
        }
        reading.finish().await
    }

    /// Fetches `keys` from a source, regardless of the cache and of earlier failures. Within 1 s of
    /// the last forced refresh of a key, this is an ordinary read.
    pub(crate) async fn force(
        self: &Arc<Self>,
        request: ReadRequest,
        keys: &[SecretKey],
    ) -> Vec<(Reply, bool)> {
        let source = &self.sources[request.link];
        let started = clock::now();
        let mut reading = Reading::new(self, request.link, keys).await;
        reading.missed.fill(true);
        for attempt in 1..=MAX_ATTEMPTS {
            reading.begin(attempt);
            reading.lost = self.can_fetch().err();
            let missing = reading.missing();
            if missing.is_empty() || reading.lost.is_some() {
                break;
            }
            let mut ordinary = Vec::new();
            // After the first attempt, a fetch that is under way has started after this call.
            let joins = match attempt {
                1 => Joins::Forced,
                _ => Joins::Any,
            };
            let (fetches, blocked) = reading.start_forced(&missing, request.mode, joins);
            for (position, fetch) in missing.into_iter().zip(fetches) {
                let key = &keys[position];
                match (fetch, &blocked) {
                    (Some(fetch), None) => reading.wait_until_done(fetch, vec![position]).await,
                    // The fetch has started before this call, so its result might be older.
                    (Some(fetch), Some(error)) => {
                        reading.wait_until_done(fetch, vec![position]).await;
                        reading.reply_stale(position, error.clone(), clock::now());
                    }
                    (None, Some(error)) => reading.reply_stale(position, error.clone(), started),
                    // The last forced refresh of another caller was less than a second ago.
                    (None, None) if attempt == 1 => match request.mode {
                        Mode::ForcedAfter(time) if source.is_cached(key, clock::now()) => {
                            let reason = source.state().last_error(key);
                            let reason = reason.unwrap_or_else(changed);
                            reading.reply_stale(position, reason, time);
                        }
                        _ => ordinary.push(position),
                    },
                    (None, None) if !source.is_cached(key, clock::now()) => ordinary.push(position),
                    // The value might be the one that was cached before this call.
                    (None, None) => reading.reply_stale(position, changed(), started),
                }
            }
            let ordinary_keys = ordinary.iter().map(|&position| keys[position].clone());
            let ordinary_keys: Vec<SecretKey> = ordinary_keys.collect();
            if !ordinary.is_empty() {
                let replies = self.read(request, &ordinary_keys).await;
                for (position, (reply, _)) in ordinary.into_iter().zip(replies) {
                    reading.replies[position] = Some(reply);
                }
            }
        }
        reading.finish().await
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
    /// What earlier attempts have returned, by position. Few keys need a second attempt.
    earlier: HashMap<usize, Earlier>,
    /// Whether the key needed a fetch.
    missed: Vec<bool>,
    /// The reason why a fetch ended without a result.
    lost: Option<Error>,
    /// The number of removals before the last attempt.
    removals: u64,
    is_last_attempt: bool,
}

/// What earlier attempts have returned for a key.
#[derive(Debug, Default)]
struct Earlier {
    /// Whether a fetch was superseded that this read has waited for.
    is_superseded: bool,
    /// The value of that fetch. It is returned if the next attempt fails.
    superseded: Option<Spare>,
    /// The value of a fetch during which the key was invalidated. It is returned only if that happens
    /// during each attempt.
    void: Option<Spare>,
}

/// A stale value that is returned only if there is no better one.
#[derive(Debug)]
struct Spare {
    value: Resolved,
    times: Times,
}

impl Spare {
    fn usable(self, now: Time) -> Option<Reply> {
        (now < self.times.unusable_at).then_some(Reply::Value(self.value, self.times))
    }
}

impl<'a> Reading<'a> {
    async fn new(shared: &'a Arc<Shared>, link: usize, keys: &'a [SecretKey]) -> Self {
        Self {
            shared,
            link,
            keys,
            replies: collect(keys.iter().map(|_| None)).await,
            earlier: HashMap::new(),
            missed: vec![false; keys.len()],
            lost: None,
            removals: shared.removals(),
            is_last_attempt: false,
        }
    }

    fn begin(&mut self, attempt: usize) {
        self.is_last_attempt = attempt == MAX_ATTEMPTS;
        self.removals = self.shared.removals();
    }

    fn missing(&self) -> Vec<usize> {
        let positions = 0..self.keys.len();
        positions.filter(|&i| self.replies[i].is_none()).collect()
    }

    /// Fills in the replies that are available immediately. Returns the fetches to wait for, with the
    /// positions of their keys. Returns no fetches if nothing can be fetched.
    async fn serve_or_fetch(
        &mut self,
        missing: Vec<usize>,
        need: Need,
    ) -> Vec<(Fetch, Vec<usize>)> {
        self.lost = self.shared.can_fetch().err();
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
            state.drop_lost(key, now);
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
        if self.lost.is_some() {
            return None;
        }
        let prepared = state.prepare_fetch(&source.cache, fetches, retries, now);
        for position in unanswered {
            let key = &self.keys[position];
            if let Some(fetch) = state.in_flight.get(key) {
                match waits.last_mut() {
                    Some((last, positions)) if last.id == fetch.id => positions.push(position),
                    _ => waits.push((fetch.clone(), vec![position])),
                }
                continue;
            }
            // The last error of this key takes precedence over the reason why no fetch is allowed. An
            // absence does not, because it is due to be checked again.
            let last_error = state.last_error(key);
            let last_error = last_error.filter(|error| !error.is_not_found());
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
        if !positions.iter().all(self.is_usable()) {
            return self.wait_until_done(fetch, positions).await;
        }
        let until = started.after(MAX_WAIT_FOR_REFRESH);
        if timeout_at(until, fetch.clone().results()).await.is_some() {
            return self.wait_until_done(fetch, positions).await;
        }
        // A value might have been rejected or invalidated meanwhile.
        let (usable, rest): (Vec<usize>, Vec<usize>) =
            positions.into_iter().partition(self.is_usable());
        let source = &self.shared.sources[self.link];
        for (count, position) in usable.into_iter().enumerate() {
            pause(count).await;
            // The reason of the last failure is more useful than the long duration of this fetch.
            let last_error = source.state().last_error(&self.keys[position]);
            let error = last_error.filter(|error| !error.is_not_found());
            let error = error.unwrap_or_else(still_refreshing);
            self.reply_stale(position, error, fetch.created_at);
        }
        if !rest.is_empty() {
            self.wait_until_done(fetch, rest).await;
        }
    }

    /// Returns whether the key at a position has a cached answer that can be returned during a fetch.
    fn is_usable(&self) -> impl Fn(&usize) -> bool {
        let source = &self.shared.sources[self.link];
        let now = clock::now();
        move |&position| {
            let key = &self.keys[position];
            source.can_be_stale(key, now) || self.shared.has_fallback(self.link, key, now)
        }
    }

    /// Replies with the cached answer as stale, or with `error`.
    fn reply_stale(&mut self, position: usize, error: Error, since: Time) {
        let source = &self.shared.sources[self.link];
        let key = &self.keys[position];
        let reply = source.stale_or(key, error, since, clock::now());
        self.replies[position] = Some(reply);
    }

    /// Starts a forced fetch of the keys at `positions`. Returns the fetch of each key that is under way, and the
    /// reason if no fetch was started.
    fn start_forced(
        &self,
        positions: &[usize],
        mode: Mode,
        joins: Joins,
    ) -> (Vec<Option<Fetch>>, Option<Error>) {
        let source = &self.shared.sources[self.link];
        let now = clock::now();
        let keys = positions
            .iter()
            .map(|&position| self.keys[position].clone());
        let keys: Vec<SecretKey> = keys.collect();
        // The provider must drop what it keeps before the fetch starts. A lease is kept if the source cannot be
        // called for another one.
        if !matches!(mode, Mode::Rejected | Mode::Revalidated) {
            let state = source.state();
            let is_admitted = state.breaker.is_admitted(now);
            let due = state.due_for_force(&keys, joins, now);
            drop(state);
            for key in due.iter().filter(|_| is_admitted) {
                source.discard(key, None);
            }
        }
        let (prepared, fetches) = {
            let mut state = source.state();
            let mut due = state.due_for_force(&keys, joins, now);
            let prepared = match mode {
                Mode::Revalidated => {
                    due.retain(|key| !state.is_backing_off(key, now));
                    state.prepare_revalidation(&source.cache, &due, now)
                }
                _ => state.prepare_forced_fetch(due.clone(), now),
            };
            // A forced refresh that did not start does not limit the next one.
            if prepared.is_ok() {
                state.force(&due, now);
            }
            let fetches = keys.iter().map(|key| state.in_flight.get(key).cloned());
            let fetches: Vec<Option<Fetch>> = fetches.collect();
            (prepared, fetches)
        };
        let link = self.link;
        match prepared {
            Ok(fetch) => {
                self.shared
                    .run(fetch.map(|fetch| PreparedFetch { link, fetch }));
                (fetches, None)
            }
            Err(error) => (fetches, Some(error)),
        }
    }

    async fn wait_until_done(&mut self, mut fetch: Fetch, positions: Vec<usize>) {
        let source = &self.shared.sources[self.link];
        let until = fetch.overdue_at(source.settings.longest_call());
        let (id, created_at) = (fetch.id, fetch.created_at);
        // On a machine that is very busy, a task might start later. The last attempt waits for it.
        let start_until = match self.is_last_attempt {
            true => until,
            false => fetch.start_by,
        };
        let started = timeout_at(start_until, fetch.started()).await;
        let results = match started {
            Some(()) => timeout_at(until, fetch.results()).await,
            None => None,
        };
        match results {
            Some(Some(results)) => self.take(&results, positions, created_at).await,
            Some(None) => self.lost = Some(runtime_ended()),
            None => {
                // The next caller, or this one, starts a fetch on its own runtime.
                let mut state = source.state();
                state.breaker.abandon_probe();
                for position in positions {
                    let key = &self.keys[position];
                    state.in_flight.lose(key, id);
                    // A forced refresh without a result does not limit the next one.
                    state.forced.remove(key);
                }
                self.lost = Some(Error::timed_out(source.settings.deadline));
            }
        }
    }

    /// Fills in the replies of a fetch that was created at `created_at`.
    async fn take(&mut self, results: &FetchResults, positions: Vec<usize>, created_at: Time) {
        let source = &self.shared.sources[self.link];
        let now = clock::now();
        let has_removals = self.shared.removals() != self.removals;
        for (count, position) in positions.into_iter().enumerate() {
            pause(count).await;
            let key = &self.keys[position];
            let Some(fetched) = results.get(key) else {
                self.lost = Some(runtime_ended());
                continue;
            };
            let age = now.since(created_at);
            let times = fetched.times;
            let spare = |reason: Error| {
                let value = fetched.result.clone().ok()?.stale(age, reason);
                Some(Spare { value, times })
            };
            if fetched.is_void {
                self.lost = Some(changed());
                self.earlier.entry(position).or_default().void = spare(changed());
                continue;
            }
            if fetched.superseded {
                // One more attempt. The source might change faster than it can be read.
                let earlier = self.earlier.entry(position).or_default();
                if !std::mem::replace(&mut earlier.is_superseded, true) {
                    earlier.superseded = spare(changed());
                    self.lost = Some(changed());
                    continue;
                }
            }
            let value = fetched.result.as_ref();
            let is_answer = value.err().is_none_or(Error::is_not_found);
            if is_answer
                && let Some(overtaken) =
                    source.overtaken(key, &times, value.ok(), has_removals, now)
            {
                self.lost = Some(overtaken.reason().clone());
                if let Overtaken::Stale(reason) = overtaken {
                    self.earlier.entry(position).or_default().superseded = spare(reason);
                }
                continue;
            }
            let reply = match fetched.result.clone() {
                Ok(resolved) if fetched.superseded => {
                    Reply::Value(resolved.stale(age, changed()), times)
                }
                Ok(resolved) => Reply::Value(resolved, times),
                Err(error) if error.is_not_found() && !source.has_value(key, now) => {
                    Reply::Absent(error, fetched.superseded.then(|| (age, changed())))
                }
                // Another fetch, which is newer or under way, decides whether the key is absent.
                Err(error) if error.is_not_found() => {
                    source.stale_or(key, changed(), created_at, now)
                }
                Err(error) => source.stale_or(key, error, created_at, now),
            };
            self.replies[position] = Some(reply);
        }
    }

    /// Returns the replies. The second part is true if a fetch was needed.
    async fn finish(mut self) -> Vec<(Reply, bool)> {
        let source = &self.shared.sources[self.link];
        let now = clock::now();
        let replies = self.replies.into_iter().zip(self.missed).enumerate();
        let replies = replies.map(|(position, (reply, missed))| {
            let key = &self.keys[position];
            let earlier = self.earlier.remove(&position).unwrap_or_default();
            let void = earlier.void.and_then(|spare| spare.usable(now));
            let superseded = earlier.superseded.and_then(|spare| spare.usable(now));
            let reply = reply.or(void);
            let reply = reply.unwrap_or_else(|| {
                let error = self.lost.clone().unwrap_or_else(runtime_ended);
                source.stale_or(key, error, now, now)
            });
            let reply = reply.or_superseded(superseded);
            (reply.located(&source.origin, key), missed)
        });
        collect(replies).await
    }
}
