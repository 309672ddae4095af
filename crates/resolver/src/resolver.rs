//! The resolver, which caches secrets and refreshes them in the background.

use std::sync::Arc;

use secretwell_core::{Error, Origin, SecretKey, SecretProvider, Version};
use tokio::time::Instant;

use crate::backoff;
use crate::builder::{Config, ResolverBuilder};
use crate::resolved::Resolved;
use crate::shared::{FORCE_INTERVAL, Shared};
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
/// - **Backoff**: a retry waits an eighth of the duration of the outage. All keys share one retry budget
///   and one circuit breaker.
/// - **No regression**: an older version never replaces a newer one. The late result of a superseded
///   fetch is not cached.
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

    pub(crate) fn with(provider: Arc<dyn SecretProvider>, config: Config) -> Self {
        Self {
            shared: Arc::new(Shared::new(provider, config)),
        }
    }

    /// Returns the origin of the provider.
    pub fn origin(&self) -> &Origin {
        self.shared.provider.origin()
    }

    /// Returns the provider, for operations that are not cached: listing, previous versions, health.
    pub fn provider(&self) -> &Arc<dyn SecretProvider> {
        &self.shared.provider
    }

    /// Returns the time for which a fetched value is fresh.
    pub fn ttl(&self) -> std::time::Duration {
        self.shared.config.ttl
    }

    /// Returns the secret of `key` from the cache, or fetches it from the provider.
    ///
    /// # Errors
    /// Returns the error of the fetch. During backoff, no fetch is started, and the error of the last
    /// fetch is returned. The [`ErrorKind`](secretwell_core::ErrorKind) distinguishes absent, refused and
    /// unreachable secrets. A stale value is not an error.
    pub async fn get(&self, key: impl AsRef<str>) -> Result<Resolved, Error> {
        if let Some(resolved) = self.with_cached(key.as_ref(), Resolved::clone) {
            return Ok(resolved);
        }
        // The key is parsed only on a miss, because cached keys are valid.
        let key = SecretKey::parse(key)?;
        let mut results = self.shared.get_many(std::slice::from_ref(&key)).await;
        results
            .pop()
            .unwrap_or_else(|| Err(Error::wrong_result_count().with_origin(self.origin())))
    }

    /// Returns the secrets of `keys`: one result for each key, in order. Missing keys are fetched in
    /// one batch.
    pub async fn get_many(&self, keys: &[SecretKey]) -> Vec<Result<Resolved, Error>> {
        self.shared.get_many(keys).await
    }

    /// Calls `reader` with the cached secret of `key`. Returns `None` if no fresh value is cached.
    /// Never waits and never calls the provider.
    pub fn with_cached<R>(&self, key: &str, reader: impl FnOnce(&Resolved) -> R) -> Option<R> {
        self.shared
            .cache
            .read(key, |entry| entry.is_hit().then(|| reader(&entry.resolved)))
            .flatten()
    }

    /// Fetches `keys` regardless of the cache and of backoff. Resets the backoff.
    ///
    /// Forced refreshes are limited to one per second and key. Within 1 s of the last one, this method
    /// returns the result of that refresh without waiting.
    pub async fn refresh(&self, keys: &[SecretKey]) -> Vec<Result<Resolved, Error>> {
        self.shared.refresh(keys).await
    }

    /// Fetches `keys` like [`refresh`](Self::refresh), and guarantees that the fetch starts after this
    /// call. The result therefore includes everything that was written before.
    ///
    /// Within 1 s of the last forced refresh of a key, this method waits until that second is over.
    pub async fn refresh_after_write(&self, keys: &[SecretKey]) -> Vec<Result<Resolved, Error>> {
        let last = {
            let state = self.shared.state();
            let forced = keys.iter().filter_map(|key| state.forced.get(key));
            forced.max().copied()
        };
        // Without a runtime, sleeping would panic. The refresh below then returns an error.
        if let Some(last) = last
            && tokio::runtime::Handle::try_current().is_ok()
        {
            tokio::time::sleep_until(last + FORCE_INTERVAL).await;
        }
        self.shared.refresh(keys).await
    }

    /// Reports that `version` of `key` was rejected by its consumer, for example by a database. Returns
    /// the secret to use instead.
    ///
    /// If the cached secret already has another version, it is returned. Otherwise the secret is fetched
    /// like with [`refresh`](Self::refresh).
    ///
    /// # Errors
    /// Returns the same errors as [`get`](Self::get). If the source still has the rejected version, that
    /// version is returned without an error. Compare the versions to detect this.
    pub async fn report_rejected(
        &self,
        key: &SecretKey,
        version: Option<&Version>,
    ) -> Result<Resolved, Error> {
        let cached = self.with_cached(key.as_str(), Resolved::clone);
        match cached {
            Some(cached) if cached.version.as_ref() != version => Ok(cached),
            _ => {
                let mut results = self.refresh(std::slice::from_ref(key)).await;
                results
                    .pop()
                    .unwrap_or_else(|| Err(Error::wrong_result_count().with_origin(self.origin())))
            }
        }
    }

    /// Removes `key` from the cache, so that the next read fetches it. The result of an in-flight fetch
    /// of `key` is not cached.
    pub fn invalidate(&self, key: &SecretKey) {
        self.shared.invalidate(key);
    }

    /// Returns a watch that keeps `keys` fresh and reports their changes.
    pub fn watch(&self, keys: &[SecretKey]) -> Watch {
        Watch::new(self.shared.clone(), keys)
    }

    /// Returns the time of the next retry of a failed key in `keys`. Returns `None` if none of them has
    /// failed.
    pub fn retry_at(&self, keys: &[SecretKey]) -> Option<Instant> {
        let state = self.shared.state();
        let failures = keys.iter().filter_map(|key| state.failures.get(key));
        // A retry that is already due is running or blocked, so the returned time is in the future.
        let earliest = Instant::now() + backoff::MIN_WAIT / 10;
        let retry_at = failures
            .map(|failure| failure.retry_at)
            .min()?
            .max(earliest);
        Some(
            state
                .breaker
                .open_until()
                .map_or(retry_at, |open_until| retry_at.max(open_until)),
        )
    }

    /// Returns the number of cached values.
    pub fn len(&self) -> usize {
        self.shared.cache.len()
    }

    /// Returns whether no value is cached.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
