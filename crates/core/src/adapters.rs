//! Adapters: providers that add a prefix, other key names or a deadline to a provider.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::backend::{
    Capabilities, Change, ChangeStream, Link, Notice, require_one_result_per_key,
};
use crate::{
    Chain, Error, ErrorKind, KeyPrefix, Origin, Secret, SecretKey, SecretProvider, SecretValue,
    Version,
};

/// Adapter methods for every [`SecretProvider`].
pub trait SecretProviderExt: SecretProvider + Sized {
    /// Returns a chain that reads `next` for keys that are absent in this provider. See [`Chain`].
    fn or_else(self, next: impl SecretProvider) -> Chain {
        Chain::new(self).or_else(next)
    }

    /// Returns a chain that reads `next` for keys that are absent in this provider or that it failed to
    /// read. See [`Chain::or_else_on_failure`] for the risk.
    fn or_else_on_failure(self, next: impl SecretProvider) -> Chain {
        Chain::new(self).or_else_on_failure(next)
    }

    /// Returns a provider that reads every key below `prefix`. With the prefix `app`, the key `PORT`
    /// is read as `app/PORT`.
    ///
    /// # Errors
    /// Returns [`ErrorKind::InvalidKey`] if `prefix` is not a valid prefix.
    fn prefixed(self, prefix: &str) -> Result<Mapped<Self>, Error> {
        Ok(Mapped {
            origin: self.origin().clone(),
            mapping: Mapping::Prefix(KeyPrefix::parse(prefix)?),
            provider: self,
        })
    }

    /// Returns a provider that reads keys under other names. With `("AUTH_SECRET", "session/KEY")`, the
    /// key `AUTH_SECRET` is read as `session/KEY`. All other keys are unchanged.
    ///
    /// # Errors
    /// Returns [`ErrorKind::InvalidKey`] if a name is not a valid key. Returns
    /// [`ErrorKind::InvalidConfig`] if a key is renamed twice.
    fn renamed<'a>(
        self,
        names: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Mapped<Self>, Error> {
        let mut map = BTreeMap::new();
        for (outer, inner) in names {
            let outer = SecretKey::parse(outer)?;
            if map
                .insert(outer.clone(), SecretKey::parse(inner)?)
                .is_some()
            {
                return Err(
                    Error::new(ErrorKind::InvalidConfig, "the key is renamed twice")
                        .with_key(&outer)
                        .with_hint("remove one of the two names"),
                );
            }
        }
        Ok(Mapped {
            origin: self.origin().clone(),
            mapping: Mapping::Names(map),
            provider: self,
        })
    }

    /// Returns a provider whose calls fail with [`ErrorKind::Timeout`] after `deadline`.
    fn with_deadline(self, deadline: Duration) -> WithDeadline<Self> {
        WithDeadline {
            provider: self,
            deadline,
        }
    }
}

impl<P: SecretProvider> SecretProviderExt for P {}

/// A provider that reads its keys under other names.
///
/// Created by [`SecretProviderExt::prefixed`] and [`SecretProviderExt::renamed`]. Errors contain the key
/// that the caller requested.
#[derive(Debug)]
pub struct Mapped<P> {
    origin: Origin,
    provider: P,
    mapping: Mapping,
}

#[derive(Debug, Clone)]
enum Mapping {
    Prefix(KeyPrefix),
    Names(BTreeMap<SecretKey, SecretKey>),
}

impl Mapping {
    /// Returns the key that the inner provider uses for `key`.
    fn inner_key(&self, key: &SecretKey) -> Result<SecretKey, Error> {
        match self {
            Self::Prefix(prefix) => key.with_prefix(prefix),
            Self::Names(names) => Ok(names.get(key).unwrap_or(key).clone()),
        }
    }

    /// Returns the prefix of all inner keys whose outer keys are below `prefix`.
    fn inner_prefix(&self, prefix: &KeyPrefix) -> Result<KeyPrefix, Error> {
        match self {
            Self::Prefix(base) => match prefix.as_str() {
                "" => Ok(base.clone()),
                segments => base.join(segments),
            },
            // The inner key of a renamed key can have any prefix.
            Self::Names(_) => Ok(KeyPrefix::root()),
        }
    }

    /// Returns every outer key that is read as `inner`.
    fn outer_keys(&self, inner: &SecretKey) -> Vec<SecretKey> {
        match self {
            Self::Prefix(prefix) => inner.strip_prefix(prefix).into_iter().collect(),
            Self::Names(names) => {
                let renamed = names
                    .iter()
                    .filter(|(_, to)| *to == inner)
                    .map(|(from, _)| from.clone());
                let unchanged = (!names.contains_key(inner)).then(|| inner.clone());
                renamed.chain(unchanged).collect()
            }
        }
    }
}

#[async_trait]
impl<P: SecretProvider> SecretProvider for Mapped<P> {
    fn origin(&self) -> &Origin {
        &self.origin
    }

    fn capabilities(&self) -> Capabilities {
        self.provider.capabilities()
    }

    async fn get(&self, key: &SecretKey) -> Result<Secret, Error> {
        self.provider
            .get(&self.mapping.inner_key(key)?)
            .await
            .map_err(|error| error.with_key(key))
    }

    async fn get_many(&self, keys: &[SecretKey]) -> Vec<Result<Secret, Error>> {
        let inner: Vec<_> = keys.iter().map(|key| self.mapping.inner_key(key)).collect();
        let batch: Vec<SecretKey> = inner.iter().flatten().cloned().collect();
        let batch_results = self.provider.get_many(&batch).await;
        let mut batch_results =
            require_one_result_per_key(batch_results, batch.len(), self.origin()).into_iter();
        let results = inner.into_iter().map(|key| {
            let missing = || Err(Error::wrong_result_count().with_origin(self.origin()));
            key.and_then(|_| batch_results.next().unwrap_or_else(missing))
        });
        keys.iter()
            .zip(results)
            .map(|(key, result)| result.map_err(|error| error.with_key(key)))
            .collect()
    }

    async fn get_version(&self, key: &SecretKey, version: &Version) -> Result<Secret, Error> {
        let inner = self.mapping.inner_key(key)?;
        self.provider
            .get_version(&inner, version)
            .await
            .map_err(|error| error.with_key(key))
    }

    async fn list(&self, prefix: &KeyPrefix) -> Result<Vec<SecretKey>, Error> {
        let inner = self.mapping.inner_prefix(prefix)?;
        let listed = self.provider.list(&inner).await?;
        let mut keys: Vec<SecretKey> = listed
            .iter()
            .flat_map(|key| self.mapping.outer_keys(key))
            .filter(|key| prefix.contains(key))
            .collect();
        keys.sort();
        Ok(keys)
    }

    /// Returns the notices of the provider. A notice of a renamed key has the first key that is read under its name.
    async fn notices(&self, prefix: &KeyPrefix) -> Result<Vec<Notice>, Error> {
        let inner = self.mapping.inner_prefix(prefix)?;
        let notices = self.provider.notices(&inner).await?;
        let outer = |notice: Notice| {
            let keys = notice
                .key
                .iter()
                .flat_map(|key| self.mapping.outer_keys(key));
            let key = keys.into_iter().find(|key| prefix.contains(key));
            // A notice without a key belongs to the whole source.
            let belongs = notice.key.is_none() || key.is_some();
            belongs.then_some(Notice { key, ..notice })
        };
        Ok(notices.into_iter().filter_map(outer).collect())
    }

    fn watch(&self) -> Option<ChangeStream> {
        let mut stream = self.provider.watch()?;
        if let Mapping::Names(names) = &self.mapping
            && names.is_empty()
        {
            return Some(stream);
        }
        let (sender, mapped) = ChangeStream::channel();
        let mapping = self.mapping.clone();
        let mut forwarder = tokio::task::JoinSet::new();
        forwarder.spawn(async move {
            while let Some(notification) = stream.next().await {
                let open = match notification {
                    Ok(Change::All) => sender.send(Change::All),
                    Ok(Change::Keys(keys)) => sender.send(Change::Keys(
                        keys.iter()
                            .flat_map(|key| mapping.outer_keys(key))
                            .collect(),
                    )),
                    Err(error) => sender.fail(error),
                };
                if !open {
                    return;
                }
            }
        });
        Some(mapped.with_guard(forwarder))
    }

    async fn health(&self) -> Result<(), Error> {
        self.provider.health().await
    }

    fn discard(&self, key: &SecretKey, rejected: Option<&SecretValue>) {
        if let Ok(inner) = self.mapping.inner_key(key) {
            self.provider.discard(&inner, rejected);
        }
    }

    fn links(&self) -> Vec<Link> {
        let map = |link: Link| {
            let mapping = self.mapping.clone();
            link.map(|provider| {
                let origin = provider.origin().clone();
                Arc::new(Mapped {
                    origin,
                    provider,
                    mapping,
                })
            })
        };
        self.provider.links().into_iter().map(map).collect()
    }
}

/// A provider whose calls fail after a deadline. Created by [`SecretProviderExt::with_deadline`].
#[derive(Debug)]
pub struct WithDeadline<P> {
    provider: P,
    deadline: Duration,
}

impl<P: SecretProvider> WithDeadline<P> {
    async fn limit<T>(&self, call: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        tokio::time::timeout(self.deadline, call)
            .await
            .unwrap_or_else(|_| Err(self.timeout_error()))
    }

    fn timeout_error(&self) -> Error {
        Error::timed_out(self.deadline).with_origin(self.origin())
    }
}

#[async_trait]
impl<P: SecretProvider> SecretProvider for WithDeadline<P> {
    fn origin(&self) -> &Origin {
        self.provider.origin()
    }

    fn capabilities(&self) -> Capabilities {
        self.provider.capabilities()
    }

    async fn get(&self, key: &SecretKey) -> Result<Secret, Error> {
        self.limit(self.provider.get(key))
            .await
            .map_err(|error| error.with_key(key))
    }

    async fn get_many(&self, keys: &[SecretKey]) -> Vec<Result<Secret, Error>> {
        tokio::time::timeout(self.deadline, self.provider.get_many(keys))
            .await
            .unwrap_or_else(|_| {
                keys.iter()
                    .map(|key| Err(self.timeout_error().with_key(key)))
                    .collect()
            })
    }

    async fn get_version(&self, key: &SecretKey, version: &Version) -> Result<Secret, Error> {
        self.limit(self.provider.get_version(key, version))
            .await
            .map_err(|error| error.with_key(key))
    }

    async fn list(&self, prefix: &KeyPrefix) -> Result<Vec<SecretKey>, Error> {
        self.limit(self.provider.list(prefix)).await
    }

    async fn notices(&self, prefix: &KeyPrefix) -> Result<Vec<Notice>, Error> {
        self.limit(self.provider.notices(prefix)).await
    }

    fn watch(&self) -> Option<ChangeStream> {
        self.provider.watch()
    }

    async fn health(&self) -> Result<(), Error> {
        self.limit(self.provider.health()).await
    }

    fn discard(&self, key: &SecretKey, rejected: Option<&SecretValue>) {
        self.provider.discard(key, rejected);
    }

    /// Each link has the whole deadline.
    fn links(&self) -> Vec<Link> {
        let deadline = self.deadline;
        let limit = |link: Link| link.map(|provider| Arc::new(WithDeadline { provider, deadline }));
        self.provider.links().into_iter().map(limit).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemoryProvider;
    use crate::backend::NoticeKind;

    /// A source with notices, which never responds for the prefix `hangs`.
    #[derive(Debug)]
    struct Noticed(Origin, Vec<Notice>);

    impl Noticed {
        fn new(keys: &[Option<&str>]) -> Self {
            let notice = |key: &Option<&str>| {
                let notice = Notice::new(NoticeKind::Unreadable, "name", "message");
                match key {
                    Some(key) => notice.with_key(&SecretKey::parse(key).unwrap()),
                    None => notice,
                }
            };
            Self(
                Origin::new("noticed", ""),
                keys.iter().map(notice).collect(),
            )
        }
    }

    #[async_trait]
    impl SecretProvider for Noticed {
        fn origin(&self) -> &Origin {
            &self.0
        }

        async fn get(&self, key: &SecretKey) -> Result<Secret, Error> {
            Err(Error::new(ErrorKind::NotFound, "empty").with_key(key))
        }

        async fn notices(&self, prefix: &KeyPrefix) -> Result<Vec<Notice>, Error> {
            if prefix.as_str() == "hangs" {
                std::future::pending::<()>().await;
            }
            Ok(self.1.clone())
        }
    }

    async fn keys_of_notices(provider: &impl SecretProvider, prefix: &str) -> Vec<Option<String>> {
        let prefix = KeyPrefix::parse(prefix).unwrap();
        let notices = provider.notices(&prefix).await.unwrap();
        let key = |notice: Notice| notice.key.map(|key| key.to_string());
        notices.into_iter().map(key).collect()
    }

    #[test]
    fn key_with_two_names_is_an_invalid_configuration() {
        let provider = MemoryProvider::new();
        let error = provider
            .clone()
            .renamed([("A", "B"), ("A", "C")])
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        assert!(error.to_string().starts_with("A: "), "{error}");
        // Two keys can be read under one name.
        provider.clone().renamed([("A", "C"), ("B", "C")]).unwrap();
        for names in [("A", "../B"), ("A//B", "C")] {
            let error = provider.clone().renamed([names]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidKey);
        }
    }

    #[tokio::test]
    async fn notices_have_the_keys_of_the_caller() {
        let all = [Some("app/A"), Some("app/deep/B"), Some("other/C"), None];
        let key = |key: &str| Some(key.to_owned());
        let prefixed = Noticed::new(&all).prefixed("app").unwrap();
        let root = keys_of_notices(&prefixed, "").await;
        assert_eq!(root, [key("A"), key("deep/B"), None]);
        assert_eq!(
            keys_of_notices(&prefixed, "deep").await,
            [key("deep/B"), None]
        );
        let renamed = Noticed::new(&all)
            .renamed([("X", "app/A"), ("other/C", "app/deep/B")])
            .unwrap();
        // Nobody can read `other/C` of the source.
        let root = keys_of_notices(&renamed, "").await;
        assert_eq!(root, [key("X"), key("other/C"), None]);
        assert_eq!(
            keys_of_notices(&renamed, "other").await,
            [key("other/C"), None]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn request_for_notices_ends_at_the_deadline() {
        let limited = Noticed::new(&[None]).with_deadline(Duration::from_secs(2));
        assert_eq!(keys_of_notices(&limited, "").await, [None]);
        let started = tokio::time::Instant::now();
        let hangs = KeyPrefix::parse("hangs").unwrap();
        let error = limited.notices(&hangs).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout);
        assert_eq!(error.origin(), Some(limited.origin()));
        assert_eq!(started.elapsed().as_secs(), 2);
    }
}
