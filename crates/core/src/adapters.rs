//! Providers around a provider: prefix, rename, deadline.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;

use crate::backend::{Capabilities, Change, ChangeStream};
use crate::{
    Chain, Error, ErrorKind, KeyPrefix, Origin, Secret, SecretKey, SecretProvider, Version,
};

/// Comfort on top of [`SecretProvider`]; every provider has it.
pub trait SecretProviderExt: SecretProvider + Sized {
    /// Asks `next` for what is absent here. See [`Chain`].
    fn or_else(self, next: impl SecretProvider) -> Chain {
        Chain::new(self).or_else(next)
    }

    /// Asks `next` for what is absent here and for what this provider failed to read.
    /// See [`Chain::or_else_on_failure`] for what that costs.
    fn or_else_on_failure(self, next: impl SecretProvider) -> Chain {
        Chain::new(self).or_else_on_failure(next)
    }

    /// Reads every key below `prefix`: with `app`, the key `PORT` is read as `app/PORT`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidKey`] when `prefix` is none.
    fn prefixed(self, prefix: &str) -> Result<Mapped<Self>, Error> {
        Ok(Mapped {
            provider: self,
            mapping: Mapping::Prefix(KeyPrefix::parse(prefix)?),
        })
    }

    /// Reads keys under other names: with `("AUTH_SECRET", "session/KEY")`, the key `AUTH_SECRET`
    /// is read as `session/KEY`. Keys that are not named stay as they are.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidKey`] when a name is no key, [`ErrorKind::InvalidConfig`] when one is
    /// renamed twice.
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
                return Err(Error::new(ErrorKind::InvalidConfig, "renamed twice").with_key(&outer));
            }
        }
        Ok(Mapped {
            provider: self,
            mapping: Mapping::Names(map),
        })
    }

    /// Gives every call at most `deadline`; what takes longer is [`ErrorKind::Timeout`].
    fn with_deadline(self, deadline: Duration) -> WithDeadline<Self> {
        WithDeadline {
            provider: self,
            deadline,
        }
    }
}

impl<P: SecretProvider> SecretProviderExt for P {}

/// A provider whose keys are read under other names. Made by [`SecretProviderExt::prefixed`] and
/// [`SecretProviderExt::renamed`]. Errors name the key that the caller asked for.
#[derive(Debug)]
pub struct Mapped<P> {
    provider: P,
    mapping: Mapping,
}

#[derive(Debug)]
enum Mapping {
    Prefix(KeyPrefix),
    Names(BTreeMap<SecretKey, SecretKey>),
}

impl Mapping {
    fn inward(&self, key: &SecretKey) -> Result<SecretKey, Error> {
        match self {
            Self::Prefix(prefix) => key.with_prefix(prefix),
            Self::Names(names) => Ok(names.get(key).unwrap_or(key).clone()),
        }
    }

    /// Every outer key that is read as `inner`.
    fn outward(&self, inner: &SecretKey) -> Vec<SecretKey> {
        match self {
            Self::Prefix(prefix) => inner.strip_prefix(prefix).into_iter().collect(),
            Self::Names(names) => {
                let renamed = names
                    .iter()
                    .filter(|(_, to)| *to == inner)
                    .map(|(from, _)| from.clone());
                let itself = (!names.contains_key(inner)).then(|| inner.clone());
                renamed.chain(itself).collect()
            }
        }
    }
}

#[async_trait]
impl<P: SecretProvider> SecretProvider for Mapped<P> {
    fn origin(&self) -> &Origin {
        self.provider.origin()
    }

    fn capabilities(&self) -> Capabilities {
        self.provider.capabilities()
    }

    async fn get(&self, key: &SecretKey) -> Result<Secret, Error> {
        self.provider
            .get(&self.mapping.inward(key)?)
            .await
            .map_err(|error| error.with_key(key))
    }

    async fn get_many(&self, keys: &[SecretKey]) -> Vec<Result<Secret, Error>> {
        let inner: Vec<_> = keys.iter().map(|key| self.mapping.inward(key)).collect();
        let batch: Vec<SecretKey> = inner.iter().flatten().cloned().collect();
        let mut answers = self.provider.get_many(&batch).await.into_iter();
        let outcomes = inner.into_iter().map(|key| match key {
            Ok(_) => answers
                .next()
                .unwrap_or_else(|| Err(Error::wrong_result_count().with_origin(self.origin()))),
            Err(invalid) => Err(invalid),
        });
        keys.iter()
            .zip(outcomes)
            .map(|(key, outcome)| outcome.map_err(|e| e.with_key(key)))
            .collect()
    }

    async fn get_version(&self, key: &SecretKey, version: &Version) -> Result<Secret, Error> {
        let inner = self.mapping.inward(key)?;
        self.provider
            .get_version(&inner, version)
            .await
            .map_err(|error| error.with_key(key))
    }

    async fn list(&self, prefix: &KeyPrefix) -> Result<Vec<SecretKey>, Error> {
        let inner = match &self.mapping {
            Mapping::Prefix(base) => match prefix.as_str() {
                "" => base.clone(),
                segments => base.join(segments)?,
            },
            // A renamed key may come from anywhere.
            Mapping::Names(_) => KeyPrefix::root(),
        };
        let listed = self.provider.list(&inner).await?;
        let mut keys: Vec<SecretKey> = listed
            .iter()
            .flat_map(|key| self.mapping.outward(key))
            .filter(|key| prefix.contains(key))
            .collect();
        keys.sort();
        Ok(keys)
    }

    fn watch(&self) -> Option<ChangeStream> {
        let mut stream = self.provider.watch()?;
        if let Mapping::Names(names) = &self.mapping
            && names.is_empty()
        {
            return Some(stream);
        }
        let (sender, mapped) = ChangeStream::channel();
        let mapping = self.mapping.clone_for_task();
        let mut forwarder = tokio::task::JoinSet::new();
        forwarder.spawn(async move {
            while let Some(notice) = stream.next().await {
                let heard = match notice {
                    Ok(Change::All) => sender.send(Change::All),
                    Ok(Change::Keys(keys)) => sender.send(Change::Keys(
                        keys.iter().flat_map(|k| mapping.outward(k)).collect(),
                    )),
                    Err(error) => sender.fail(error),
                };
                if !heard {
                    return;
                }
            }
        });
        Some(mapped.with_guard(forwarder))
    }

    async fn health(&self) -> Result<(), Error> {
        self.provider.health().await
    }
}

impl Mapping {
    fn clone_for_task(&self) -> Self {
        match self {
            Self::Prefix(prefix) => Self::Prefix(prefix.clone()),
            Self::Names(names) => Self::Names(names.clone()),
        }
    }
}

/// A provider whose calls end within a deadline. Made by [`SecretProviderExt::with_deadline`].
#[derive(Debug)]
pub struct WithDeadline<P> {
    provider: P,
    deadline: Duration,
}

impl<P: SecretProvider> WithDeadline<P> {
    async fn within<T>(&self, call: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        tokio::time::timeout(self.deadline, call)
            .await
            .unwrap_or_else(|_| Err(self.late()))
    }

    fn late(&self) -> Error {
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
        self.within(self.provider.get(key))
            .await
            .map_err(|error| error.with_key(key))
    }

    async fn get_many(&self, keys: &[SecretKey]) -> Vec<Result<Secret, Error>> {
        tokio::time::timeout(self.deadline, self.provider.get_many(keys))
            .await
            .unwrap_or_else(|_| {
                keys.iter()
                    .map(|key| Err(self.late().with_key(key)))
                    .collect()
            })
    }

    async fn get_version(&self, key: &SecretKey, version: &Version) -> Result<Secret, Error> {
        self.within(self.provider.get_version(key, version))
            .await
            .map_err(|error| error.with_key(key))
    }

    async fn list(&self, prefix: &KeyPrefix) -> Result<Vec<SecretKey>, Error> {
        self.within(self.provider.list(prefix)).await
    }

    fn watch(&self) -> Option<ChangeStream> {
        self.provider.watch()
    }

    async fn health(&self) -> Result<(), Error> {
        self.within(self.provider.health()).await
    }
}
