//! Chain: several providers with fallback from one to the next.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;

use crate::backend::{
    Capabilities, Change, ChangeStream, Link, Notice, combine_errors, require_one_result_per_key,
};
use crate::{Error, KeyPrefix, Origin, Secret, SecretKey, SecretProvider, SecretValue, Version};

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
    /// The position of each link if the links of nested chains are counted one by one.
    positions: Vec<usize>,
    origin: Origin,
}

impl Chain {
    /// Creates a chain with one provider.
    pub fn new(first: impl SecretProvider) -> Self {
        Self::empty().or_else(first)
    }

    /// Appends a provider. It is read for keys that are absent in all providers before it.
    #[must_use]
    pub fn or_else(self, next: impl SecretProvider) -> Self {
        self.push(Link::new(Arc::new(next)))
    }

    /// Appends a provider. It is read for keys that are absent in the providers before it **or that
    /// they failed to read**. The service might then use a less trusted secret during an outage.
    #[must_use]
    pub fn or_else_on_failure(self, next: impl SecretProvider) -> Self {
        let before = 0..self.links.len();
        self.push(Link::new(Arc::new(next)).after_failure_of(before))
    }

    fn empty() -> Self {
        Self {
            links: Vec::new(),
            positions: Vec::new(),
            origin: Origin::joined([]),
        }
    }

    fn push(mut self, link: Link) -> Self {
        let last = self.links.last().zip(self.positions.last());
        let position = last.map_or(0, |(last, position)| {
            position + last.provider().links().len().max(1)
        });
        self.positions.push(position);
        self.links.push(link);
        self.origin = Origin::joined(self.links.iter().map(|link| link.provider().origin()));
        self
    }

    /// Adds the place of a secret: its origin, unless it has one, and the link that its version belongs to.
    fn with_place(&self, index: usize, result: Result<Secret, Error>) -> Result<Secret, Error> {
        let mut secret = result?;
        let origin = self.links[index].provider().origin();
        secret.origin.get_or_insert_with(|| origin.clone());
        if self.links.len() > 1 {
            secret.version = secret.version.map(|version| {
                let (nested, version) = version.without_link();
                version.in_link(self.positions[index] + nested.unwrap_or(0))
            });
        }
        Ok(secret)
    }

    /// Returns the result of the whole chain, given the results of the links that were read.
    fn conclude(&self, key: &SecretKey, results: Vec<LinkResult>) -> Result<Secret, Error> {
        let mut errors = Vec::new();
        for result in results.into_iter().flatten() {
            match result {
                Ok(secret) => return Ok(secret),
                Err(error) => errors.push(error),
            }
        }
        Err(combine_errors(&self.origin, key, errors))
    }
}

/// The result of a link for one key. `None` if the link was not read.
type LinkResult = Option<Result<Secret, Error>>;

/// Returns whether `link` must be read, given the results of the links before it.
fn is_next(link: &Link, results: &[LinkResult]) -> bool {
    let found = results.iter().flatten().any(Result::is_ok);
    let errors = results.iter().map(|result| result.as_ref()?.as_ref().err());
    !found && link.is_next(errors)
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
        let mut links = self.links.iter().map(|link| link.provider().capabilities());
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
            let result = match is_next(link, &results) {
                true => Some(self.with_place(index, link.provider().get(key).await)),
                false => None,
            };
            results.push(result);
        }
        self.conclude(key, results)
    }

    /// Reads one batch from each link, with the keys that the links before it do not have.
    async fn get_many(&self, keys: &[SecretKey]) -> Vec<Result<Secret, Error>> {
        let mut results: Vec<Vec<LinkResult>> = vec![Vec::new(); keys.len()];
        for (place, link) in self.links.iter().enumerate() {
            let open: Vec<usize> = (0..keys.len())
                .filter(|&index| is_next(link, &results[index]))
                .collect();
            results.iter_mut().for_each(|results| results.push(None));
            if open.is_empty() {
                continue;
            }
            let batch: Vec<SecretKey> = open.iter().map(|&index| keys[index].clone()).collect();
            let origin = link.provider().origin();
            let batch_results = link.provider().get_many(&batch).await;
            let batch_results = require_one_result_per_key(batch_results, batch.len(), origin);
            for (index, result) in open.into_iter().zip(batch_results) {
                results[index][place] = Some(self.with_place(place, result));
            }
        }
        keys.iter()
            .zip(results)
            .map(|(key, results)| self.conclude(key, results))
            .collect()
    }

    /// Reads the version from the provider that returned it. A version that was not returned by this chain is
    /// read from the first provider that has it.
    async fn get_version(&self, key: &SecretKey, version: &Version) -> Result<Secret, Error> {
        let (position, version) = version.clone().without_link();
        let link =
            position.map(|position| self.positions.partition_point(|&at| at <= position) - 1);
        let mut errors = Vec::new();
        for (index, provider) in self.links.iter().map(Link::provider).enumerate() {
            if link.is_some_and(|link| link != index) {
                continue;
            }
            let inner = match position {
                Some(position) if !provider.links().is_empty() => {
                    version.clone().in_link(position - self.positions[index])
                }
                _ => version.clone(),
            };
            match provider.get_version(key, &inner).await {
                Err(error) if error.is_not_found() => errors.push(error),
                result => return self.with_place(index, result),
            }
        }
        Err(combine_errors(&self.origin, key, errors))
    }

    async fn list(&self, prefix: &KeyPrefix) -> Result<Vec<SecretKey>, Error> {
        let mut keys = BTreeSet::new();
        for link in &self.links {
            keys.extend(link.provider().list(prefix).await?);
        }
        Ok(keys.into_iter().collect())
    }

    /// Returns the notices of all providers that can be listed, each with its origin. Fails if one cannot be listed and
    /// the others have no notices.
    async fn notices(&self, prefix: &KeyPrefix) -> Result<Vec<Notice>, Error> {
        let mut notices = Vec::new();
        let mut errors = Vec::new();
        for provider in self.links.iter().map(Link::provider) {
            let origin = provider.origin();
            match provider.notices(prefix).await {
                Ok(own) => notices.extend(own.into_iter().map(|it| it.with_origin(origin))),
                Err(error) => errors.push(error),
            }
        }
        match errors.into_iter().next() {
            Some(error) if notices.is_empty() => Err(error),
            _ => Ok(notices),
        }
    }

    /// Merges the change notifications of all providers that have them.
    fn watch(&self) -> Option<ChangeStream> {
        let streams: Vec<ChangeStream> = self
            .links
            .iter()
            .filter_map(|link| link.provider().watch())
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
            link.provider().health().await?;
        }
        Ok(())
    }

    fn discard(&self, key: &SecretKey, rejected: Option<&SecretValue>) {
        for link in &self.links {
            link.provider().discard(key, rejected);
        }
    }

    /// Returns the links of this chain. A link that has links itself is replaced by them.
    fn links(&self) -> Vec<Link> {
        let mut flat: Vec<Link> = Vec::new();
        for (link, &start) in self.links.iter().zip(&self.positions) {
            let tolerated = link.tolerated();
            let tolerated =
                tolerated.flat_map(|link| self.positions[link]..self.positions[link + 1]);
            let tolerated: Vec<usize> = tolerated.collect();
            let mut inner = link.provider().links();
            if inner.is_empty() {
                inner.push(Link::new(link.provider().clone()));
            }
            flat.extend(inner.into_iter().map(|inner| {
                let own = inner.tolerated().map(|position| start + position);
                let own: Vec<usize> = own.collect();
                Link::new(inner.provider().clone())
                    .after_failure_of(own)
                    .after_failure_of(tolerated.iter().copied())
            }));
        }
        flat
    }
}

impl<P: SecretProvider> FromIterator<P> for Chain {
    /// Creates a chain of providers, each of which is read for keys that are absent in the ones before
    /// it. A chain without providers has no secrets.
    fn from_iter<I: IntoIterator<Item = P>>(providers: I) -> Self {
        providers.into_iter().fold(Self::empty(), Self::or_else)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::backend::{ChangeSender, NoticeKind};
    use crate::{ErrorKind, MemoryProvider};

    /// A source whose notices and change notifications are those of the test.
    #[derive(Debug)]
    struct Scripted {
        origin: Origin,
        notices: Result<Vec<Notice>, Error>,
        changes: Mutex<Option<ChangeStream>>,
    }

    impl Scripted {
        fn new(name: &str, notices: Result<Vec<Notice>, Error>) -> (Self, ChangeSender) {
            let (sender, stream) = ChangeStream::channel();
            let scripted = Self {
                origin: Origin::new("scripted", name),
                notices,
                changes: Mutex::new(Some(stream)),
            };
            (scripted, sender)
        }
    }

    #[async_trait]
    impl SecretProvider for Scripted {
        fn origin(&self) -> &Origin {
            &self.origin
        }

        async fn get(&self, key: &SecretKey) -> Result<Secret, Error> {
            Err(Error::new(ErrorKind::NotFound, "empty").with_key(key))
        }

        async fn notices(&self, _: &KeyPrefix) -> Result<Vec<Notice>, Error> {
            self.notices.clone()
        }

        fn watch(&self) -> Option<ChangeStream> {
            self.changes.lock().unwrap().take()
        }
    }

    fn notice(name: &str) -> Notice {
        Notice::new(NoticeKind::NotAKey, name, "message")
    }

    fn unavailable() -> Error {
        Error::new(ErrorKind::Unavailable, "no response")
    }

    #[tokio::test]
    async fn failed_source_hides_no_notices_of_the_others() {
        let elsewhere = Origin::new("nested", "");
        let (first, _) = Scripted::new("first", Err(unavailable()));
        let own = vec![notice("a"), notice("b").with_origin(&elsewhere)];
        let (second, _) = Scripted::new("second", Ok(own));
        let chain = Chain::new(first).or_else(second);
        let notices = chain.notices(&KeyPrefix::root()).await.unwrap();
        let origins: Vec<_> = notices
            .iter()
            .map(|it| it.origin.clone().unwrap())
            .collect();
        assert_eq!(origins, [Origin::new("scripted", "second"), elsewhere]);

        // Without any notice, an error must not look like a source in order.
        let (failed, _) = Scripted::new("failed", Err(unavailable()));
        let chain = Chain::new(MemoryProvider::new()).or_else(failed);
        let error = chain.notices(&KeyPrefix::root()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
    }

    #[tokio::test]
    async fn failed_watch_of_one_source_makes_every_key_be_read_again() {
        let (first, first_sender) = Scripted::new("first", Ok(Vec::new()));
        let (second, second_sender) = Scripted::new("second", Ok(Vec::new()));
        let mut stream = Chain::new(first).or_else(second).watch().unwrap();
        assert!(first_sender.fail(unavailable()));
        let error = stream.next().await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert_eq!(stream.next().await.unwrap().unwrap(), Change::All);
        // The other source is still watched, also after the end of the first one.
        drop(first_sender);
        let key = SecretKey::parse("A").unwrap();
        second_sender.send(Change::Keys([key.clone()].into()));
        let change = stream.next().await.unwrap().unwrap();
        assert_eq!(change, Change::Keys([key].into()));
        drop(second_sender);
        assert!(stream.next().await.is_none());
    }

    #[tokio::test]
    async fn sources_are_not_watched_after_the_stream_is_dropped() {
        let (first, sender) = Scripted::new("first", Ok(Vec::new()));
        let chain = Chain::new(first);
        drop(chain.watch().unwrap());
        tokio::task::yield_now().await;
        assert!(!sender.send(Change::All));
        // The source has no other stream.
        assert!(chain.watch().is_none());
    }
}
