//! The in-memory provider, which is the reference implementation of the contract.

use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;

use crate::backend::{Capabilities, Change, ChangeSender, ChangeStream};
use crate::{
    Error, ErrorKind, KeyPrefix, Origin, Secret, SecretKey, SecretProvider, SecretValue, Version,
};

/// The default of [`MemoryProvider::with_max_versions`].
const MAX_VERSIONS: usize = 16;

/// A provider of secrets in memory, with versions and change notifications.
///
/// Use it in tests, and for values that a program computes itself. Clones share the secrets.
///
/// Each write and each deletion of a secret creates a version with the next number. The newest 16
/// versions of each key are kept ([`with_max_versions`](Self::with_max_versions)). A value is zeroized
/// when its version is dropped and no caller has it.
///
/// ```
/// use secretwell::{MemoryProvider, SecretProvider};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), secretwell::Error> {
/// let provider = MemoryProvider::from_iter([("AUTH_SECRET", "first")]);
/// let previous = provider.get(&"AUTH_SECRET".parse()?).await?;
/// provider.set("AUTH_SECRET", "second")?;
///
/// let current = provider.get(&"AUTH_SECRET".parse()?).await?;
/// assert_ne!(current.version, previous.version);
/// let version = previous.version.expect("the in-memory provider keeps versions");
/// let pinned = provider.get_version(&"AUTH_SECRET".parse()?, &version).await?;
/// assert_eq!(pinned.value, previous.value);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct MemoryProvider {
    origin: Origin,
    store: Arc<Mutex<Store>>,
}

#[derive(Debug)]
struct Store {
    keys: BTreeMap<SecretKey, History>,
    max_versions: usize,
    /// The first error of a pair that `from_iter` could not store.
    invalid_pair: Option<Error>,
    watchers: Vec<ChangeSender>,
}

/// The newest versions of one key.
#[derive(Debug, Default)]
struct History {
    /// Oldest first. `None` marks a deletion.
    versions: VecDeque<Option<SecretValue>>,
    /// The number of older versions that were dropped.
    dropped: u64,
}

impl Default for MemoryProvider {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryProvider {
    /// Creates a provider without secrets.
    pub fn new() -> Self {
        Self {
            origin: Origin::new("memory", ""),
            store: Arc::new(Mutex::new(Store {
                keys: BTreeMap::new(),
                max_versions: MAX_VERSIONS,
                invalid_pair: None,
                watchers: Vec::new(),
            })),
        }
    }

    /// Sets the number of versions to keep for each key, the current one included. The default is 16,
    /// and the minimum is 1.
    ///
    /// Version numbers continue after older versions were dropped. A dropped version is
    /// [`NotFound`](ErrorKind::NotFound).
    #[must_use]
    pub fn with_max_versions(self, count: usize) -> Self {
        let mut store = self.lock();
        let count = count.max(1);
        store.max_versions = count;
        store
            .keys
            .values_mut()
            .for_each(|history| history.truncate(count));
        drop(store);
        self
    }

    /// Writes a new version of a secret and notifies the watchers.
    ///
    /// # Errors
    /// Returns [`ErrorKind::InvalidKey`] if `key` is not a valid key.
    pub fn set(&self, key: impl AsRef<str>, value: impl Into<SecretValue>) -> Result<(), Error> {
        self.push(SecretKey::parse(key)?, Some(value.into()));
        Ok(())
    }

    /// Deletes a secret and notifies the watchers. Does nothing if the secret does not exist. Previous
    /// versions can still be read.
    ///
    /// # Errors
    /// Returns [`ErrorKind::InvalidKey`] if `key` is not a valid key.
    pub fn remove(&self, key: impl AsRef<str>) -> Result<(), Error> {
        let key = SecretKey::parse(key)?;
        if self.lock().current(&key).is_some() {
            self.push(key, None);
        }
        Ok(())
    }

    fn push(&self, key: SecretKey, value: Option<SecretValue>) {
        let mut store = self.lock();
        let max_versions = store.max_versions;
        let history = store.keys.entry(key.clone()).or_default();
        history.versions.push_back(value);
        history.truncate(max_versions);
        let watchers = store.watchers.clone();
        // A notification wakes tasks, so it is sent without the lock.
        drop(store);
        for watcher in watchers {
            watcher.send(Change::Keys([key.clone()].into()));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Locks the secrets for reading.
    ///
    /// # Errors
    /// Returns [`ErrorKind::InvalidConfig`] if `from_iter` could not store a pair.
    fn read(&self) -> Result<MutexGuard<'_, Store>, Error> {
        let store = self.lock();
        match &store.invalid_pair {
            Some(error) => Err(error.clone().with_origin(&self.origin)),
            None => Ok(store),
        }
    }

    fn current(&self, store: &Store, key: &SecretKey) -> Result<Secret, Error> {
        let (number, value) = store.current(key).ok_or_else(|| {
            let reason = if store.keys.contains_key(key) {
                "it was deleted"
            } else {
                "it was never set"
            };
            self.not_found(key, reason)
        })?;
        Ok(Secret::new(value.clone()).with_version(Version::numbered(number)))
    }

    fn not_found(&self, key: &SecretKey, reason: impl Into<Cow<'static, str>>) -> Error {
        Error::new(ErrorKind::NotFound, reason)
            .with_origin(&self.origin)
            .with_key(key)
    }
}

impl Store {
    /// Returns the number and value of the newest version, unless it is a deletion.
    fn current(&self, key: &SecretKey) -> Option<(u64, &SecretValue)> {
        let history = self.keys.get(key)?;
        let value = history.versions.back()?.as_ref()?;
        Some((history.newest(), value))
    }
}

impl History {
    fn newest(&self) -> u64 {
        self.dropped + self.versions.len() as u64
    }

    /// Returns the value of the version `number`, unless it is a deletion.
    fn value(&self, number: u64) -> Option<&SecretValue> {
        let index = number.checked_sub(self.dropped)?.checked_sub(1)?;
        self.versions.get(usize::try_from(index).ok()?)?.as_ref()
    }

    fn truncate(&mut self, max_versions: usize) {
        let excess = self.versions.len().saturating_sub(max_versions);
        self.versions.drain(..excess);
        self.dropped += excess as u64;
    }
}

impl<K: AsRef<str>, V: Into<SecretValue>> FromIterator<(K, V)> for MemoryProvider {
    /// Creates a provider with secrets from pairs.
    ///
    /// If a key is not valid, every read and [`health`](SecretProvider::health) return
    /// [`ErrorKind::InvalidConfig`] with that key. To handle the error at the write, use
    /// [`set`](Self::set).
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        let memory = Self::new();
        for (key, value) in pairs {
            match SecretKey::parse(key) {
                Ok(key) => memory.push(key, Some(value.into())),
                Err(error) => {
                    let message = format!("a pair was not stored: {}", error.message());
                    let error = Error::new(ErrorKind::InvalidConfig, message)
                        .with_hint("correct the key of the pair");
                    memory.lock().invalid_pair.get_or_insert(error);
                }
            }
        }
        memory
    }
}

#[async_trait]
impl SecretProvider for MemoryProvider {
    fn origin(&self) -> &Origin {
        &self.origin
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::none()
            .with_versions()
            .with_old_versions()
            .with_watch()
            .with_list()
            .with_batch()
            .with_ttl(Duration::from_secs(1))
    }

    async fn get(&self, key: &SecretKey) -> Result<Secret, Error> {
        self.current(&*self.read()?, key)
    }

    async fn get_many(&self, keys: &[SecretKey]) -> Vec<Result<Secret, Error>> {
        match self.read() {
            Ok(store) => keys.iter().map(|key| self.current(&store, key)).collect(),
            Err(error) => keys
                .iter()
                .map(|key| Err(error.clone().with_key(key)))
                .collect(),
        }
    }

    async fn get_version(&self, key: &SecretKey, version: &Version) -> Result<Secret, Error> {
        let store = self.read()?;
        let history = store.keys.get(key);
        let value = version
            .number()
            .and_then(|number| history?.value(number))
            .ok_or_else(|| self.not_found(key, format!("version {version} does not exist")))?;
        Ok(Secret::new(value.clone()).with_version(version.clone()))
    }

    async fn list(&self, prefix: &KeyPrefix) -> Result<Vec<SecretKey>, Error> {
        let store = self.read()?;
        let live = store.keys.keys().filter(|key| store.current(key).is_some());
        Ok(live.filter(|key| prefix.contains(key)).cloned().collect())
    }

    async fn health(&self) -> Result<(), Error> {
        self.read().map(drop)
    }

    fn watch(&self) -> Option<ChangeStream> {
        let (sender, stream) = ChangeStream::channel();
        let mut store = self.lock();
        store.watchers.retain(|watcher| !watcher.is_closed());
        store.watchers.push(sender);
        Some(stream)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> SecretKey {
        SecretKey::from_static("A")
    }

    async fn version(provider: &MemoryProvider, number: u64) -> Result<String, ErrorKind> {
        let secret = provider
            .get_version(&key(), &Version::numbered(number))
            .await;
        let secret = secret.map_err(|error| error.kind())?;
        Ok(secret.value.expose_text().unwrap().to_owned())
    }

    #[tokio::test]
    async fn history_is_bounded_and_version_numbers_continue() {
        let provider = MemoryProvider::new();
        for number in 1..=100_000 {
            provider.set("A", number.to_string()).unwrap();
        }
        let current = provider.get(&key()).await.unwrap();
        assert_eq!(current.version, Some(Version::numbered(100_000)));
        assert_eq!(version(&provider, 100_000).await.unwrap(), "100000");
        assert_eq!(version(&provider, 99_985).await.unwrap(), "99985");
        for missing in [99_984, 1, 0, 100_001, u64::MAX] {
            assert_eq!(version(&provider, missing).await, Err(ErrorKind::NotFound));
        }
        let store = provider.lock();
        assert_eq!(store.keys[&key()].versions.len(), MAX_VERSIONS);
    }

    #[tokio::test]
    async fn lower_limit_drops_versions_at_once_and_keeps_the_current_one() {
        let provider = MemoryProvider::from_iter([("A", "1"), ("A", "2"), ("A", "3")]);
        let provider = provider.with_max_versions(2);
        assert_eq!(version(&provider, 1).await, Err(ErrorKind::NotFound));
        assert_eq!(version(&provider, 2).await.unwrap(), "2");

        let provider = provider.with_max_versions(0);
        assert_eq!(version(&provider, 2).await, Err(ErrorKind::NotFound));
        assert_eq!(version(&provider, 3).await.unwrap(), "3");
    }

    #[tokio::test]
    async fn deletion_is_a_version() {
        let provider = MemoryProvider::from_iter([("A", "1")]).with_max_versions(2);
        provider.remove("A").unwrap();
        provider.remove("A").unwrap();
        assert_eq!(version(&provider, 1).await.unwrap(), "1");
        assert_eq!(version(&provider, 2).await, Err(ErrorKind::NotFound));
        provider.set("A", "3").unwrap();
        assert_eq!(version(&provider, 1).await, Err(ErrorKind::NotFound));
        assert_eq!(version(&provider, 3).await.unwrap(), "3");
    }

    #[tokio::test]
    async fn pair_with_an_invalid_key_fails_every_read() {
        let provider = MemoryProvider::from_iter([("A", "1"), ("../A", "2"), ("/", "3")]);
        let errors = [
            provider.get(&key()).await.unwrap_err(),
            provider.get_many(&[key()]).await.remove(0).unwrap_err(),
            provider
                .get_version(&key(), &Version::numbered(1))
                .await
                .unwrap_err(),
            provider.list(&KeyPrefix::root()).await.unwrap_err(),
            provider.health().await.unwrap_err(),
        ];
        for error in errors {
            assert_eq!(error.kind(), ErrorKind::InvalidConfig);
            assert!(error.to_string().contains("`../A`"), "{error}");
        }
    }
}
