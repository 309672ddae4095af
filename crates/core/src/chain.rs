//! Chain: several providers with fallback from one to the next.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;

use crate::backend::{Capabilities, Change, ChangeStream, require_one_result_per_key};
use crate::{Error, ErrorKind, KeyPrefix, Origin, Secret, SecretKey, SecretProvider, Version};

/// A provider that reads several providers in order, until one of them has the secret.
///
/// By default, the chain continues only if a key is *absent*. If a provider fails, the chain fails. An
/// outage of the preferred source must not silently replace its secret by a less trusted one. To fall
/// back on failure as well, use [`or_else_on_failure`](Self::or_else_on_failure).
///
/// ```
/// use secretwell::{MemoryProvider, SecretProvider, SecretProviderExt};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), secretwell::Error> {
/// let overrides = MemoryProvider::new();
/// let defaults = MemoryProvider::from_iter([("PORT", "8080")]);
/// let chain = overrides.clone().or_else(defaults);
///
/// assert_eq!(chain.get(&"PORT".parse()?).await?.value.expose_text()?, "8080");
/// overrides.set("PORT", "9090")?;
/// assert_eq!(chain.get(&"PORT".parse()?).await?.value.expose_text()?, "9090");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Chain {
    links: Vec<Link>,
    origin: Origin,
}

#[derive(Debug)]
struct Link {
    provider: Arc<dyn SecretProvider>,
    /// Whether this provider is also read if providers *before* it failed.
    on_failure: bool,
}

impl Chain {
    /// Creates a chain with one provider.
    pub fn new(first: impl SecretProvider) -> Self {
        let origin = first.origin().clone();
        Self {
            links: vec![Link {
                provider: Arc::new(first),
                on_failure: false,
            }],
            origin,
        }
    }

    /// Appends a provider. It is read for keys that are absent in all providers before it.
    #[must_use]
    pub fn or_else(self, next: impl SecretProvider) -> Self {
        self.push(next, false)
    }

    /// Appends a provider. It is read for keys that are absent in the providers before it **or that
    /// they failed to read**. The service might then use a less trusted secret during an outage.
    #[must_use]
    pub fn or_else_on_failure(self, next: impl SecretProvider) -> Self {
        self.push(next, true)
    }

    fn push(mut self, next: impl SecretProvider, on_failure: bool) -> Self {
        self.links.push(Link {
            provider: Arc::new(next),
            on_failure,
        });
        self.origin = Origin::joined(self.links.iter().map(|link| link.provider.origin()));
        self
    }

    /// Returns whether `next` must be read, given the results of the links before it. After a failure,
    /// this is only the case if `next` accepts failures.
    fn falls_through(results: &[Result<Secret, Error>], next: &Link) -> bool {
        results.iter().all(|result| match result {
            Ok(_) => false,
            Err(error) => error.is_not_found() || next.on_failure,
        })
    }

    /// Returns the error for a key that is absent in every link. It contains the message of each link.
    fn absent_everywhere(&self, key: &SecretKey, errors: &[Error]) -> Error {
        let message = match errors {
            [] => "no source has it".to_owned(),
            errors => format!("no source has it: {}", reports(errors)),
        };
        Error::new(ErrorKind::NotFound, message)
            .with_origin(&self.origin)
            .with_key(key)
            .with_hint("add it to one of these sources")
    }

    /// Adds the place of a secret: its origin, unless it has one, and the link that its version belongs to.
    fn with_place(&self, index: usize, result: Result<Secret, Error>) -> Result<Secret, Error> {
        let mut secret = result?;
        let origin = self.links[index].provider.origin();
        secret.origin.get_or_insert_with(|| origin.clone());
        if self.links.len() > 1 {
            secret.version = secret.version.map(|version| version.in_link(index));
        }
        Ok(secret)
    }

    /// Returns the result of the whole chain, given the results of the links that were read. The last
    /// failure is returned, with the messages of the other links. Without a failure, the key is absent.
    fn conclude(
        &self,
        key: &SecretKey,
        results: Vec<Result<Secret, Error>>,
    ) -> Result<Secret, Error> {
        let mut errors = Vec::new();
        for result in results {
            match result {
                Ok(secret) => return Ok(secret),
                Err(error) => errors.push(error),
            }
        }
        if self.links.len() == 1 && errors.len() == 1 {
            return Err(errors.remove(0));
        }
        let Some(index) = errors.iter().rposition(|error| !error.is_not_found()) else {
            return Err(self.absent_everywhere(key, &errors));
        };
        let failure = errors.remove(index);
        if errors.is_empty() {
            return Err(failure);
        }
        let message = format!("{}; other sources: {}", failure.message(), reports(&errors));
        Err(failure.with_message(message))
    }
}

/// Returns the origin and message of each error.
fn reports(errors: &[Error]) -> String {
    let reports = errors.iter().map(|error| {
        let origin = error.origin().map_or("unknown source", Origin::as_str);
        format!("{origin} ({})", error.message())
    });
    reports.collect::<Vec<_>>().join(", ")
}

#[async_trait]
impl SecretProvider for Chain {
    fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Returns the features that all providers of the chain have, and the shortest ttl.
    ///
    /// `watch` and `lease` are claimed if any provider has them. Changes in providers without change
    /// notifications are seen after the ttl.
    fn capabilities(&self) -> Capabilities {
        let mut links = self.links.iter().map(|link| link.provider.capabilities());
        let first = links.next().unwrap_or(Capabilities::none());
        links.fold(first, |all, link| Capabilities {
            versions: all.versions && link.versions,
            old_versions: all.old_versions && link.old_versions,
            watch: all.watch || link.watch,
            batch: all.batch && link.batch,
            list: all.list && link.list,
            lease: all.lease || link.lease,
            ttl: all.ttl.min(link.ttl),
        })
    }

    async fn get(&self, key: &SecretKey) -> Result<Secret, Error> {
        let mut results = Vec::with_capacity(self.links.len());
        for (index, link) in self.links.iter().enumerate() {
            if !Self::falls_through(&results, link) {
                continue;
            }
            results.push(self.with_place(index, link.provider.get(key).await));
        }
        self.conclude(key, results)
    }

    /// Reads one batch from each link, with the keys that fell through to it.
    async fn get_many(&self, keys: &[SecretKey]) -> Vec<Result<Secret, Error>> {
        let mut results: Vec<Vec<Result<Secret, Error>>> =
            keys.iter().map(|_| Vec::new()).collect();
        for (place, link) in self.links.iter().enumerate() {
            let open: Vec<usize> = (0..keys.len())
                .filter(|&index| Self::falls_through(&results[index], link))
                .collect();
            if open.is_empty() {
                continue;
            }
            let batch: Vec<SecretKey> = open.iter().map(|&index| keys[index].clone()).collect();
            let origin = link.provider.origin();
            let batch_results = link.provider.get_many(&batch).await;
            let batch_results = require_one_result_per_key(batch_results, batch.len(), origin);
            for (index, result) in open.into_iter().zip(batch_results) {
                results[index].push(self.with_place(place, result));
            }
        }
        keys.iter()
            .zip(results)
            .map(|(key, results)| self.conclude(key, results))
            .collect()
    }

    /// Reads the version from the first provider that has it. Providers that report it as absent are
    /// skipped.
    async fn get_version(&self, key: &SecretKey, version: &Version) -> Result<Secret, Error> {
        let mut errors = Vec::new();
        for (index, link) in self.links.iter().enumerate() {
            match link.provider.get_version(key, version).await {
                Err(error) if error.is_not_found() => errors.push(error),
                // A provider that returns the requested version returns one that has its place already.
                Ok(mut secret) if secret.version.as_ref() == Some(version) => {
                    secret.version = None;
                    let secret = self.with_place(index, Ok(secret))?;
                    return Ok(secret.with_version(version.clone()));
                }
                result => return self.with_place(index, result),
            }
        }
        Err(self.absent_everywhere(key, &errors))
    }

    async fn list(&self, prefix: &KeyPrefix) -> Result<Vec<SecretKey>, Error> {
        let mut keys = BTreeSet::new();
        for link in &self.links {
            keys.extend(link.provider.list(prefix).await?);
        }
        Ok(keys.into_iter().collect())
    }

    /// Merges the change notifications of all providers that have them.
    fn watch(&self) -> Option<ChangeStream> {
        let streams: Vec<ChangeStream> = self
            .links
            .iter()
            .filter_map(|link| link.provider.watch())
            .collect();
        if streams.is_empty() {
            return None;
        }
        let (sender, merged) = ChangeStream::channel();
        let mut forwarders = tokio::task::JoinSet::new();
        for mut stream in streams {
            let sender = sender.clone();
            forwarders.spawn(async move {
                while let Some(notification) = stream.next().await {
                    let open = match notification {
                        Ok(change) => sender.send(change),
                        // Notifications might have been missed, so any key might have changed.
                        Err(error) => sender.send(Change::All) && sender.fail(error),
                    };
                    if !open {
                        return;
                    }
                }
            });
        }
        Some(merged.with_guard(forwarders))
    }

    /// Succeeds if every provider is healthy, because the next read might need any of them.
    async fn health(&self) -> Result<(), Error> {
        for link in &self.links {
            link.provider.health().await?;
        }
        Ok(())
    }
}
