//! The builder of the resolver.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use secretwell_core::backend::Link;
use secretwell_core::{SecretKey, SecretProvider};

use crate::audit::{Audit, SecretEvent};
use crate::clock;
use crate::settings::{OnDenied, Settings};
use crate::shared::Shared;
use crate::source::Source;

const MIN_TTL: Duration = Duration::from_millis(1);

/// The settings of a [`Resolver`](crate::Resolver). Created by
/// [`Resolver::builder`](crate::Resolver::builder). The defaults suit most services.
///
/// A chain has several sources. The settings apply to each of them separately.
#[derive(Debug)]
pub struct ResolverBuilder {
    provider: Arc<dyn SecretProvider>,
    ttl: Option<Duration>,
    max_stale: Duration,
    deadline: Duration,
    max_backoff: Duration,
    negative_ttl: Option<Duration>,
    max_entries: usize,
    retry_budget: Option<(u32, u32)>,
    on_denied: OnDenied,
    accept_encrypted: Arc<BTreeSet<SecretKey>>,
    audit: Audit,
    #[cfg(feature = "metrics")]
    source_names: Vec<Arc<str>>,
}

impl ResolverBuilder {
    pub(crate) fn new(provider: Arc<dyn SecretProvider>) -> Self {
        Self {
            provider,
            ttl: None,
            max_stale: Duration::from_secs(24 * 3600),
            deadline: Duration::from_secs(30),
            max_backoff: Duration::from_secs(7 * 60),
            negative_ttl: None,
            max_entries: 1000,
            retry_budget: None,
            on_denied: OnDenied::default(),
            accept_encrypted: Arc::default(),
            audit: Audit::default(),
            #[cfg(feature = "metrics")]
            source_names: Vec::new(),
        }
    }

    /// Sets the time for which a fetched value is fresh. The minimum is 1 ms.
    ///
    /// Keys in use are refreshed in the background after 75 % to 87.5 % of the ttl. The first refresh after a start,
    /// a failure or a change notification happens after 12.5 % to 87.5 %, so that many processes that have read at
    /// the same time do not refresh at the same time.
    ///
    /// Default: the ttl in the provider's capabilities. It is 1 s for the environment, 60 s for watched
    /// files and 300 s for remote sources. In a chain, each source has its own: a source that does not have
    /// a key is read again after the ttl of that source.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl.max(MIN_TTL));
        self
    }

    /// Sets the time after the ttl for which a value is still returned as stale if its refresh fails.
    /// With zero, stale values are never returned. Default: one day.
    ///
    /// A leased value is also not returned after its lease.
    #[must_use]
    pub fn max_stale(mut self, max_stale: Duration) -> Self {
        self.max_stale = max_stale;
        self
    }

    /// Sets the maximum duration of one call to a source. Default: 30 s.
    ///
    /// In a chain with fallbacks on failure
    /// ([`or_else_on_failure`](secretwell_core::Chain::or_else_on_failure)), each source has an equal share of
    /// it: with one fallback a half, with two fallbacks a third.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Sets the maximum wait between two attempts during an outage. Default: 7 min.
    ///
    /// The wait is an eighth of the duration of the outage so far, and at least 1 s.
    #[must_use]
    pub fn max_backoff(mut self, max_backoff: Duration) -> Self {
        self.max_backoff = max_backoff;
        self
    }

    /// Sets the maximum wait before an absent or denied secret is read again. The first wait is 1 s, which is
    /// also the minimum.
    ///
    /// Default: 30 s, or the ttl if it is shorter.
    #[must_use]
    pub fn negative_ttl(mut self, negative_ttl: Duration) -> Self {
        self.negative_ttl = Some(negative_ttl);
        self
    }

    /// Sets the maximum number of cached keys of each source. Above it, a key that was not read for long is
    /// evicted. Watched keys are never evicted. Default: 1,000.
    #[must_use]
    pub fn max_entries(mut self, max_entries: usize) -> Self {
        self.max_entries = max_entries.max(1);
        self
    }

    /// Sets the retry budget that all keys of a source share: `burst` retries at once, and `per_minute` retries in
    /// the long run. The minimum of both is 1.
    ///
    /// Default: 60 and 60. With a ttl below 20 s, both are 1,200 divided by the ttl in seconds. That is
    /// a rate of 20 retries per ttl.
    #[must_use]
    pub fn retry_budget(mut self, burst: u32, per_minute: u32) -> Self {
        self.retry_budget = Some((burst.max(1), per_minute.max(1)));
        self
    }

    /// Sets what happens to a cached value when the source refuses the secret. Default:
    /// [`OnDenied::Purge`].
    #[must_use]
    pub fn on_denied(mut self, on_denied: OnDenied) -> Self {
        self.on_denied = on_denied;
        self
    }

    /// Accepts values of `keys` that a tool left encrypted, for a service that stores ciphertexts on purpose. Further
    /// calls add keys.
    ///
    /// Default: such a value is [`ErrorKind::Invalid`](secretwell_core::ErrorKind::Invalid) for every key, because it is
    /// not yet the secret. See [`encrypted_by`](secretwell_core::backend::encrypted_by) for what is recognized. The
    /// providers of variables and files refuse such values, too. They have a setting of their own,
    /// `accept_encrypted`, which is sufficient.
    #[must_use]
    pub fn accept_encrypted(mut self, keys: impl IntoIterator<Item = SecretKey>) -> Self {
        Arc::make_mut(&mut self.accept_encrypted).extend(keys);
        self
    }

    /// Sets the names of the sources in metrics, in the order in which a chain reads them. Default: the scheme of each
    /// source, such as `vault`.
    ///
    /// Use it to distinguish sources with the same scheme. A name must not contain a secret.
    #[cfg(feature = "metrics")]
    #[must_use]
    pub fn source_names<N: Into<String>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
        let names = names.into_iter().map(|name| name.into().into());
        self.source_names = names.collect();
        self
    }

    /// Sets a callback for each key that was fetched from a source, with the result. Default: none.
    ///
    /// An absent or failed key is reported with its error. A fetch that several readers share is reported once.
    /// Previous versions, which [`LazyAuth`](https://docs.rs/secretwell/latest/secretwell/auth/struct.LazyAuth.html)
    /// reads at its start, are not reported.
    ///
    /// Callbacks run before the waiting readers get the result, so they must be quick and must not block. A panic of a
    /// callback is logged and has no other effect. A callback that keeps a clone of the resolver keeps it alive
    /// forever.
    #[must_use]
    pub fn on_fetch(mut self, callback: impl Fn(SecretEvent) + Send + Sync + 'static) -> Self {
        self.audit.on_fetch = Some(Arc::new(callback));
        self
    }

    /// Sets a callback for each change of a cached answer by a fetch: a value was replaced by another one, removed
    /// because the source refused it, or found although it was absent. Default: none.
    ///
    /// The first fetch of a key is no change, and neither is a new version with an equal value. The rules for
    /// callbacks are those of [`on_fetch`](Self::on_fetch).
    #[must_use]
    pub fn on_change(mut self, callback: impl Fn(SecretEvent) + Send + Sync + 'static) -> Self {
        self.audit.on_change = Some(Arc::new(callback));
        self
    }

    /// Sets a callback for each key that a reader has requested, with the result and the name of the reader. Default:
    /// none, because it slows down each cache hit.
    ///
    /// [`with_cached`](crate::Resolver::with_cached) reports only hits. A read in this callback is an access as well,
    /// so it would call the callback again without an end. The other rules for callbacks are those of
    /// [`on_fetch`](Self::on_fetch).
    #[must_use]
    pub fn on_access(mut self, callback: impl Fn(SecretEvent) + Send + Sync + 'static) -> Self {
        self.audit.on_access = Some(Arc::new(callback));
        self
    }

    /// Returns the sources of the provider with their settings.
    pub(crate) fn shared(self) -> Shared {
        let mut links = self.provider.links();
        if links.is_empty() {
            links.push(Link::new(self.provider.clone()));
        }
        // A source that hangs must leave time for the sources that are read after its failure.
        let fallbacks = links
            .iter()
            .filter(|link| link.tolerated().next().is_some());
        let shares = u32::try_from(fallbacks.count() + 1).unwrap_or(u32::MAX);
        let now = clock::now();
        #[cfg(feature = "metrics")]
        let mut names = self.source_names.iter();
        let sources = links.into_iter().map(|link| {
            let settings = self.settings(&link, self.deadline / shares);
            let source = Source::new(link, settings, now);
            #[cfg(feature = "metrics")]
            let source = source.with_label(names.next());
            source
        });
        let sources = sources.collect();
        Shared::new(self.provider, sources, self.audit)
    }

    fn settings(&self, link: &Link, deadline: Duration) -> Settings {
        let capabilities = link.provider().capabilities();
        let ttl = self.ttl.unwrap_or(capabilities.ttl.max(MIN_TTL));
        // The default is larger for a short ttl, because reads of such sources are cheap.
        let seconds = u32::try_from(ttl.as_secs()).unwrap_or(u32::MAX).max(1);
        let per_minute = (20 * 60 / seconds).max(60);
        Settings {
            ttl,
            max_stale: self.max_stale,
            deadline,
            max_backoff: self.max_backoff,
            negative_ttl: self
                .negative_ttl
                .unwrap_or(ttl.min(Duration::from_secs(30))),
            max_entries: self.max_entries,
            retry_budget: self.retry_budget.unwrap_or((per_minute, per_minute)),
            on_denied: self.on_denied,
            accept_encrypted: self.accept_encrypted.clone(),
            batch: capabilities.batch,
        }
    }
}
