//! The resolver, which caches secrets and refreshes them in the background.

use std::sync::Arc;

use std::time::Duration;

use secretwell_core::{Error, Origin, SecretKey, SecretProvider, SecretValue};

use crate::backoff::MIN_PAUSE;
use crate::builder::ResolverBuilder;
use crate::clock::{self, Time};
use crate::counters::Counters;
use crate::decide::Reply;
use crate::entry::Entry;
use crate::in_flight::Void;
use crate::link::FORCE_INTERVAL;
use crate::reading::Mode;
use crate::resolved::{Freshness, Resolved};
use crate::shared::Shared;
use crate::source::Source;
use crate::watch::Watch;

/// A cache for the secrets of one provider, with background refresh.
///
/// The resolver implements everything that depends on time, so that providers do not have to:
///
/// - **Cheap hits**: a hit needs one hash and one lookup. With [`with_cached`](Self::with_cached), it
///   needs no lock and no allocation.
/// - **Shared fetches**: all callers that miss the same key share one call to the provider. The missing
///   keys of one [`get_many`](Self::get_many) are fetched in one batch. A cancelled caller does not
///   affect the others.
/// - **Background refresh**: keys in use are refreshed before their ttl ends.
/// - **Stale values**: if a refresh fails, the cached value is returned as
///   [`Stale`](crate::Freshness::Stale) until `max_stale`, with its age and the reason. If the source
///   refuses the secret, the cached value is purged.
/// - **Backoff**: a retry waits an eighth of the duration of the outage. All keys of a source share a retry
///   budget and a circuit breaker.
/// - **No regression**: an older version never replaces a newer one. The late result of a superseded
///   fetch is not cached.
/// - **Separate sources**: the sources of a [`Chain`](secretwell_core::Chain) are cached, refreshed and
///   retried separately. A source that is down affects only the keys that need it.
///
/// Creating a resolver performs no I/O and does not need a tokio runtime. Reads need one. Clones share
/// the cache. The background tasks end when the last clone and the last watch are dropped.
///
/// ```
/// use secretwell::{Freshness, MemoryProvider, Resolver};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), secretwell::Error> {
/// let resolver = Resolver::new(MemoryProvider::from_iter([("AUTH_SECRET", "s3cr3t")]));
///
/// let secret = resolver.get("AUTH_SECRET").await?;
/// assert_eq!(secret.value.expose_text()?, "s3cr3t");
/// assert!(matches!(secret.freshness, Freshness::Fresh));
///
/// let length = resolver.with_cached("AUTH_SECRET", |secret| secret.value.len());
/// assert_eq!(length, Some(6));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Resolver {
    shared: Arc<Shared>,
    /// The name of the reader in access events.
    consumer: Option<Arc<str>>,
}

impl Resolver {
    /// Creates a resolver with the default settings.
    pub fn new(provider: impl SecretProvider) -> Self {
        Self::builder(provider).build()
    }

    /// Returns a builder for a resolver with custom settings.
    pub fn builder(provider: impl SecretProvider) -> ResolverBuilder {
        ResolverBuilder::new(Arc::new(provider))
    }

    /// Returns the origin of the provider.
    pub fn origin(&self) -> &Origin {
        self.shared.provider.origin()
    }

    /// Returns a clone whose reads and watches have the name `consumer` in
    /// [access events](ResolverBuilder::on_access).
    ///
    /// A [`LazyAuth`](https://docs.rs/secretwell/latest/secretwell/auth/struct.LazyAuth.html) with a name reads its
    /// secrets under that name.
    #[must_use]
    pub fn for_consumer(&self, consumer: impl AsRef<str>) -> Self {
        Self {
            shared: self.shared.clone(),
            consumer: Some(consumer.as_ref().into()),
        }
    }

    /// Returns the provider, for operations that are not cached: listing, previous versions, health.
    pub fn provider(&self) -> &Arc<dyn SecretProvider> {
        &self.shared.provider
    }

    /// Returns whether values of `key` are accepted although a tool left them encrypted. See
    /// [`ResolverBuilder::accept_encrypted`](crate::ResolverBuilder::accept_encrypted).
    pub fn accepts_encrypted(&self, key: &SecretKey) -> bool {
        let mut sources = self.shared.sources.iter();
        sources.any(|source| source.settings.accept_encrypted.contains(key))
    }

    /// Returns the provider that has returned `resolved` for `key`, for example to read previous versions of it.
    /// For a chain, it is the provider with the same origin, and among several of them the one whose cached value
    /// is the same. If no provider has this origin, it is the whole chain.
    pub fn provider_of(&self, key: &SecretKey, resolved: &Resolved) -> &Arc<dyn SecretProvider> {
        let sources = &self.shared.sources;
        let is_cached = |source: &&Source| {
            let value = |entry: &Entry| entry.value().map(|cached| cached.value.clone());
            let cached = source.cache.peek(key, value).flatten();
            cached.is_some_and(|cached| cached == resolved.value)
        };
        let from_origin = |source: &&Source| source.origin == resolved.origin;
        let mut candidates = sources.iter().filter(from_origin);
        let cached = candidates.clone().find(is_cached);
        let found = cached.or_else(|| candidates.next());
        found.map_or(&self.shared.provider, |source| source.provider())
    }

    /// Returns the time for which a fetched value is fresh. For a chain, it is the longest time of its sources.
    pub fn ttl(&self) -> Duration {
        let ttls = self.shared.sources.iter().map(|source| source.settings.ttl);
        ttls.max().unwrap_or_default()
    }

    /// Returns the secret of `key` from the cache, or fetches it from the provider.
    ///
    /// # Errors
    /// Returns the error of the fetch. During backoff, no fetch is started, and the error of the last
    /// fetch is returned. The [`ErrorKind`](secretwell_core::ErrorKind) distinguishes absent, refused and
    /// unreachable secrets. A stale value is not an error.
    pub async fn get(&self, key: impl AsRef<str>) -> Result<Resolved, Error> {
        let now = clock::coarse_and_suspension();
        let cached = self.cached(key.as_ref(), Required::NoRefresh, Resolved::clone, now);
        if let Some(resolved) = cached {
            return Ok(resolved);
        }
        // The key is parsed only on a miss, because cached keys are valid.
        self.get_one(SecretKey::parse(key)?, Mode::Cached).await
    }

    async fn get_one(&self, key: SecretKey, mode: Mode) -> Result<Resolved, Error> {
        let mut replies = self.shared.get_many(std::slice::from_ref(&key), mode).await;
        let result = replies.pop().map_or_else(
            || Err(Error::wrong_result_count().with_origin(self.origin())),
            Reply::into_result,
        );
        let consumer = self.consumer.as_ref();
        self.shared.accessed(consumer, &key, &result);
        result
    }

    /// Returns the secrets of `keys`: one result for each key, in order. Missing keys are fetched in
    /// one batch.
    ///
    /// # Errors
    /// The errors are those of [`get`](Self::get).
    pub async fn get_many<K: AsRef<str>>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> Vec<Result<Resolved, Error>> {
        self.read_many(keys, Mode::Cached).await
    }

    async fn read_many<K: AsRef<str>>(
        &self,
        keys: impl IntoIterator<Item = K>,
        mode: Mode,
    ) -> Vec<Result<Resolved, Error>> {
        let (mut valid, mut invalid) = (Vec::new(), Vec::new());
        // The iterator is not kept across a wait, because it might not be `Send`.
        for key in keys.into_iter().map(SecretKey::parse) {
            match key {
                Ok(key) => valid.push(key),
                Err(error) => invalid.push((valid.len() + invalid.len(), error)),
            }
        }
        let replies = self.shared.get_many(&valid, mode).await;
        let mut results: Vec<_> = replies.into_iter().map(Reply::into_result).collect();
        for (key, result) in valid.iter().zip(&results) {
            self.shared.accessed(self.consumer.as_ref(), key, result);
        }
        for (position, error) in invalid {
            results.insert(position, Err(error));
        }
        results
    }

    /// Calls `reader` with the cached secret of `key`. Returns `None` if no fresh value is cached.
    /// Never waits and never calls the provider.
    ///
    /// After a suspension of the machine, it can return a value whose ttl has ended meanwhile, until another call or
    /// a background task has noticed the suspension. [`get`](Self::get) notices it itself.
    #[inline]
    pub fn with_cached<R>(&self, key: &str, reader: impl FnOnce(&Resolved) -> R) -> Option<R> {
        self.cached(key, Required::Fresh, reader, clock::coarse())
    }

    #[inline]
    fn cached<R>(
        &self,
        key: &str,
        required: Required,
        reader: impl FnOnce(&Resolved) -> R,
        now: Time,
    ) -> Option<R> {
        if !self.shared.is_simple {
            return self.cached_in_chain(key, required, reader, now);
        }
        let source = self.shared.sources.first()?;
        let hit = source.cache.read(key, |entry| {
            let resolved = entry.value().filter(|_| required.is_met(entry, now))?;
            Some(reader(resolved))
        });
        hit.flatten().inspect(|_| source.counts.hit())
    }

    fn cached_in_chain<R>(
        &self,
        key: &str,
        required: Required,
        reader: impl FnOnce(&Resolved) -> R,
        now: Time,
    ) -> Option<R> {
        for source in &self.shared.sources {
            let found = source.cache.read(key, |entry| {
                required.is_met(entry, now).then(|| entry.value().cloned())
            });
            if let Some(resolved) = found.flatten()? {
                source.counts.hit();
                // Before the reader, so that an access is reported even if the reader panics.
                if self.shared.audit.on_access.is_some()
                    && let Ok(key) = SecretKey::parse(key)
                {
                    let (consumer, result) = (self.consumer.as_ref(), Ok(resolved.clone()));
                    self.shared.accessed(consumer, &key, &result);
                }
                return Some(reader(&resolved));
            }
            // This source does not have the key. The next one might.
        }
        None
    }

    /// Fetches `keys` regardless of the cache and of backoff. Resets the backoff. A wait that the source
    /// requested is kept.
    ///
    /// Forced refreshes are limited to one per second and key. Within 1 s of the last one, this method
    /// waits for that refresh if it is still in progress, and is otherwise like [`get`](Self::get). While the
    /// source is down, they are limited to one per second for all keys.
    ///
    /// # Errors
    /// The errors are those of [`get`](Self::get).
    pub async fn refresh<K: AsRef<str>>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> Vec<Result<Resolved, Error>> {
        self.read_many(keys, Mode::Forced).await
    }

    /// Fetches `keys` like [`refresh`](Self::refresh), and guarantees that the fetch starts after this
    /// call. The result therefore includes everything that was written before.
    ///
    /// Within 1 s of the last forced refresh of a key, this method waits until that second is over.
    ///
    /// # Errors
    /// The errors are those of [`get`](Self::get).
    pub async fn refresh_after_write<K: AsRef<str>>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> Vec<Result<Resolved, Error>> {
        let called = clock::now();
        let keys: Vec<K> = keys.into_iter().collect();
        let valid: Vec<SecretKey> = keys.iter().flat_map(SecretKey::parse).collect();
        let last = self.shared.sources.iter().filter_map(|source| {
            let state = source.state();
            valid
                .iter()
                .filter_map(|key| state.forced.get(key))
                .max()
                .copied()
        });
        // Without a runtime, sleeping would panic. The refresh below then returns an error.
        if let Some(last) = last.max()
            && clock::require_runtime().is_ok()
        {
            clock::sleep_until(last.after(FORCE_INTERVAL)).await;
        }
        self.read_many(keys, Mode::ForcedAfter(called)).await
    }

    /// Fetches `keys` before their ttl ends, because they might have changed. For example, a request has
    /// presented a token that an unknown key has signed.
    ///
    /// Unlike [`refresh`](Self::refresh), this respects backoff, and dynamic credentials are kept: a key that
    /// has failed is fetched when its retry is due. It is therefore safe to call this because of a request
    /// that might be forged. Calls are limited to one per second and key, like forced refreshes.
    ///
    /// # Errors
    /// The errors are those of [`get`](Self::get).
    pub async fn revalidate<K: AsRef<str>>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> Vec<Result<Resolved, Error>> {
        self.read_many(keys, Mode::Revalidated).await
    }

    /// Reports that the value `rejected` of `key` was rejected by its consumer, for example by a database.
    /// Returns the secret to use instead.
    ///
    /// If the cached value is another one, it is returned. Otherwise the provider discards the rejected
    /// value, and the secret is fetched like with [`refresh`](Self::refresh).
    ///
    /// # Errors
    /// Returns the error of the fetch, also if the rejected value could still be returned as stale. Within 1 s
    /// of the last forced refresh, no fetch is started, and a temporary error is returned. If the source still
    /// has the rejected value, that value is returned without an error. Compare the values to detect this.
    pub async fn report_rejected(
        &self,
        key: impl AsRef<str>,
        rejected: &SecretValue,
    ) -> Result<Resolved, Error> {
        let key = SecretKey::parse(key)?;
        let mut results = self
            .report_rejected_together([(key, rejected.clone())])
            .await;
        results
            .pop()
            .unwrap_or_else(|| Err(Error::wrong_result_count().with_origin(self.origin())))
    }

    /// Like [`report_rejected`](Self::report_rejected) for values that the consumer uses together, such as a user
    /// and a password. Fetches all of them in one batch. Returns one result for each key, in order.
    ///
    /// # Errors
    /// The errors are those of [`report_rejected`](Self::report_rejected).
    pub async fn report_rejected_together(
        &self,
        rejected: impl IntoIterator<Item = (SecretKey, SecretValue)>,
    ) -> Vec<Result<Resolved, Error>> {
        let rejected: Vec<(SecretKey, SecretValue)> = rejected.into_iter().collect();
        // Also at the sources after that of the cached value, because they are read if it is deleted.
        for source in &self.shared.sources {
            for (key, value) in &rejected {
                source.reject(key, value, clock::now());
            }
        }
        self.shared.wake_refresher();
        let other = |(key, value): &(SecretKey, SecretValue)| {
            let cached = self.with_cached(key.as_str(), Resolved::clone);
            cached.filter(|cached| cached.value != *value)
        };
        let cached: Vec<Option<Resolved>> = rejected.iter().map(other).collect();
        let missing = rejected.iter().zip(&cached);
        let missing = missing.filter(|(_, cached)| cached.is_none());
        let missing: Vec<&SecretKey> = missing.map(|((key, _), _)| key).collect();
        let mut fetched = self.read_many(missing, Mode::Rejected).await.into_iter();
        let results = rejected.iter().zip(cached).map(|((_, value), cached)| {
            let result = match cached {
                Some(cached) => Ok(cached),
                None => fetched
                    .next()
                    .unwrap_or_else(|| Err(Error::wrong_result_count().with_origin(self.origin()))),
            };
            match result {
                Ok(Resolved {
                    value: stale,
                    freshness: Freshness::Stale { reason, .. },
                    ..
                }) if stale == *value => Err(reason),
                result => result,
            }
        });
        results.collect()
    }

    /// Accepts the version that the source returns next for each of `keys`, even if it is older than a version
    /// that was seen before.
    ///
    /// The resolver refuses older versions, because a replica that lags behind its source would otherwise
    /// bring back a replaced secret. After a restore from a backup, the older version is the right one. It is
    /// accepted by itself when the source has confirmed it three times over at least 60 s. This method
    /// accepts it at once.
    ///
    /// The cached values of `keys` are removed, and results of fetches that have started before are not used.
    /// Texts that are not valid keys are ignored.
    pub fn accept_older_versions<K: AsRef<str>>(&self, keys: impl IntoIterator<Item = K>) {
        for key in keys.into_iter().flat_map(SecretKey::parse) {
            self.shared.invalidate(&key, Void::OlderAccepted);
        }
        self.shared.wake_refresher();
    }

    /// Removes `key` from the cache, so that the next read fetches it. The result of an in-flight fetch
    /// of `key` is not cached. The newest known version is remembered, so that an older one is still refused.
    ///
    /// Each call causes another fetch. If many callers find out that a value does not work, let them call
    /// [`report_rejected`](Self::report_rejected) instead: they share one fetch.
    pub fn invalidate(&self, key: impl AsRef<str>) {
        // Nothing is cached for a text that is not a key.
        if let Ok(key) = SecretKey::parse(key) {
            self.shared.invalidate(&key, Void::Invalidated);
            self.shared.wake_refresher();
        }
    }

    /// Returns a watch that keeps `keys` fresh and returns their changes.
    ///
    /// Within a tokio runtime, the keys are refreshed from now on. Otherwise they are refreshed from the first
    /// call of [`Watch::next`] on.
    ///
    /// # Errors
    /// Returns [`ErrorKind::InvalidKey`](secretwell_core::ErrorKind::InvalidKey) if one of `keys` is not a
    /// valid key.
    pub fn watch<K: AsRef<str>>(&self, keys: impl IntoIterator<Item = K>) -> Result<Watch, Error> {
        let keys: Result<Vec<SecretKey>, Error> = keys.into_iter().map(SecretKey::parse).collect();
        Ok(Watch::new(
            self.shared.clone(),
            keys?,
            self.consumer.clone(),
        ))
    }

    /// Returns the time until the next retry of a failed key in `keys`. Returns `None` if none of them has
    /// failed.
    pub fn retry_in<K: AsRef<str>>(&self, keys: impl IntoIterator<Item = K>) -> Option<Duration> {
        let keys = keys.into_iter().flat_map(SecretKey::parse);
        let retry_at = keys.filter_map(|key| self.shared.retry_at(&key)).min()?;
        // A retry that is already due is running or blocked, so the returned time is in the future.
        Some(retry_at.since(clock::now()).max(MIN_PAUSE))
    }

    /// Returns what the resolver has done so far.
    pub fn counters(&self) -> Counters {
        let sources = self.shared.sources.iter();
        sources.fold(Counters::default(), |counters, source| {
            counters.plus(&source.counts.read())
        })
    }

    /// Ends the background tasks and the fetches of this resolver and of its clones, and waits for their end,
    /// at most 1 s. A task of a runtime that is not running ends when it runs again. Afterwards, reads return
    /// cached values, and fail if they need the source. Watches end. A second call returns immediately.
    ///
    /// Without this call, the tasks end by themselves when the last clone and the last watch are dropped.
    pub async fn close(&self) {
        self.shared.close().await;
    }

    /// Returns the number of cached values.
    pub fn len(&self) -> usize {
        let values = self
            .shared
            .sources
            .iter()
            .map(|source| source.state().values);
        values.sum()
    }

    /// Returns whether no value is cached.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What a read needs of a cached answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Required {
    /// It must be fresh.
    Fresh,
    /// It must be fresh, and its refresh must not be due.
    NoRefresh,
}

impl Required {
    #[inline]
    fn is_met(self, entry: &Entry, now: Time) -> bool {
        entry.is_fresh(now) && (self == Self::Fresh || now < entry.times.refresh_at)
    }
}

impl ResolverBuilder {
    /// Creates the resolver. This performs no I/O and does not need a tokio runtime.
    pub fn build(self) -> Resolver {
        Resolver {
            shared: Arc::new(self.shared()),
            consumer: None,
        }
    }
}
