//! Secrets kept at hand: read once, refreshed behind, handed out in nanoseconds.

use std::sync::Arc;

use tokio::time::Instant;

use crate::backoff;
use crate::builder::{Config, ResolverBuilder};
use crate::cache::EntryState;
use crate::resolved::Resolved;
use crate::shared::{FORCE_INTERVAL, Shared};
use crate::watch::Watch;
use secretwell_core::{Error, Origin, SecretKey, SecretProvider, Version};

/// Keeps the secrets of one provider at hand.
///
/// Everything that has to do with time and trouble is here, so that providers need none of it:
///
/// - **A hit** costs a hash and a snapshot-up: no lock, no clock, no allocation with
///   [`with_cached`](Self::with_cached).
/// - **Single fetch**: any number of callers who miss the same key share one call to the provider,
///   and the keys of one [`get_many`](Self::get_many) travel in one batch. A caller that goes away
///   stops nothing for the others.
/// - **Refresh ahead**: keys in use are read again in the background before their ttl is over.
/// - **Trouble**: when the source cannot be asked, the cached value goes on, marked
///   [`Stale`](Freshness::Stale) with its age and the reason, until `max_stale`. When the source says
///   no, it is purged. Retries wait an eighth of the time that the trouble has lasted, share one
///   budget, and stop at a circuit breaker.
/// - **Nothing goes back**: an older version, or the late answer of a call that a newer one has
///   overtaken, changes nothing.
///
/// Making one does no I/O and needs no runtime; the first read does. Clones share everything; when
/// the last one is dropped, its background tasks end.
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
    /// A resolver with the default settings.
    pub fn new(provider: impl SecretProvider) -> Self {
        Self::builder(provider).build()
    }

    /// A resolver with settings of your own.
    pub fn builder(provider: impl SecretProvider) -> ResolverBuilder {
        ResolverBuilder::new(Arc::new(provider))
    }

    pub(crate) fn with(provider: Arc<dyn SecretProvider>, config: Config) -> Self {
        Self {
            shared: Arc::new(Shared::new(provider, config)),
        }
    }

    /// Where the secrets come from.
    pub fn origin(&self) -> &Origin {
        self.shared.provider.origin()
    }

    /// The provider itself, for what has no place in a cache: listing, earlier versions, health.
    pub fn provider(&self) -> &Arc<dyn SecretProvider> {
        &self.shared.provider
    }

    /// For how long an answer counts as fresh.
    pub fn ttl(&self) -> std::time::Duration {
        self.shared.config.ttl
    }

    /// The secret of `key`: the cached one, or else the provider's.
    ///
    /// # Errors
    /// What the provider said, now or at its last try; [`ErrorKind`](secretwell_core::ErrorKind) tells
    /// absent, refused and unreachable apart. A value that is merely stale is no error.
    pub async fn get(&self, key: impl AsRef<str>) -> Result<Resolved, Error> {
        if let Some(resolved) = self.with_cached(key.as_ref(), Resolved::clone) {
            return Ok(resolved);
        }
        // The syntax of a key is checked on a miss only: what is cached was checked before.
        let key = SecretKey::parse(key)?;
        let mut answers = self.shared.get_many(std::slice::from_ref(&key)).await;
        answers
            .pop()
            .unwrap_or_else(|| Err(Error::wrong_result_count().with_origin(self.origin())))
    }

    /// The secrets of `keys`: one result per key, in order. What is missing is read in one batch.
    pub async fn get_many(&self, keys: &[SecretKey]) -> Vec<Result<Resolved, Error>> {
        self.shared.get_many(keys).await
    }

    /// Hands the cached secret of `key` to `reader`, or returns `None` when there is none that is
    /// fresh. Never waits and never asks the provider.
    pub fn with_cached<R>(&self, key: &str, reader: impl FnOnce(&Resolved) -> R) -> Option<R> {
        self.shared
            .cache
            .read(key, |entry| {
                (entry.state() == EntryState::Fresh).then(|| reader(&entry.resolved))
            })
            .flatten()
    }

    /// Reads `keys` again, whatever is cached and however recently they failed; retries start afresh.
    ///
    /// Rate-limited without making anyone wait: within a second of the last forced reading of a
    /// key, that reading's result is returned.
    pub async fn refresh(&self, keys: &[SecretKey]) -> Vec<Result<Resolved, Error>> {
        self.shared.refresh(keys).await
    }

    /// Reads `keys` again as [`refresh`](Self::refresh) does, for whoever must see what was
    /// written before this was called: within a second of the last forced reading of a key, it waits
    /// for that second to be over.
    pub async fn refresh_after_write(&self, keys: &[SecretKey]) -> Vec<Result<Resolved, Error>> {
        let last = {
            let state = self.shared.state();
            let forced = keys.iter().filter_map(|key| state.forced.get(key));
            forced.max().copied()
        };
        // Outside of a runtime there is no clock to wait for, and nothing can be read either.
        if let Some(last) = last
            && tokio::runtime::Handle::try_current().is_ok()
        {
            tokio::time::sleep_until(last + FORCE_INTERVAL).await;
        }
        self.shared.refresh(keys).await
    }

    /// Tells that `version` of `key` was refused where it was used ("the database did not accept
    /// this password") and returns what to use instead: the cached secret if it is another version by
    /// now, or else what the provider has, read again as by [`refresh`](Self::refresh).
    ///
    /// # Errors
    /// As [`get`](Self::get). The same version coming back is no error: compare.
    pub async fn report_rejected(
        &self,
        key: &SecretKey,
        version: Option<&Version>,
    ) -> Result<Resolved, Error> {
        let cached = self.with_cached(key.as_str(), Resolved::clone);
        match cached {
            Some(cached) if cached.version.as_ref() != version => Ok(cached),
            _ => {
                let mut answers = self.refresh(std::slice::from_ref(key)).await;
                answers
                    .pop()
                    .unwrap_or_else(|| Err(Error::wrong_result_count().with_origin(self.origin())))
            }
        }
    }

    /// Forgets `key`: the next read asks the provider, and whatever is being read of it right now is
    /// not kept.
    pub fn invalidate(&self, key: &SecretKey) {
        self.shared.invalidate(key);
    }

    /// Keeps `keys` fresh and tells when one of them changes.
    pub fn watch(&self, keys: &[SecretKey]) -> Watch {
        Watch::new(self.shared.clone(), keys)
    }

    /// When the provider is asked next about those of `keys` that failed; `None` when none did.
    pub fn retry_at(&self, keys: &[SecretKey]) -> Option<Instant> {
        let state = self.shared.state();
        let retries = keys.iter().filter_map(|key| state.failures.get(key));
        // What is due this moment is being asked for, or has to wait for something else.
        let soon = Instant::now() + backoff::FLOOR / 10;
        let soonest = retries.map(|failure| failure.retry_at).min()?.max(soon);
        Some(
            state
                .breaker
                .open_until()
                .map_or(soonest, |open| soonest.max(open)),
        )
    }

    /// How many values are cached.
    pub fn len(&self) -> usize {
        self.shared.cache.len()
    }

    /// Whether no value is cached.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
