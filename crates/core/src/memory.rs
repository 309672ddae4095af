//! The in-memory provider, which is the reference implementation of the contract.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;

use crate::backend::{Capabilities, Change, ChangeSender, ChangeStream};
use crate::{
    Error, ErrorKind, KeyPrefix, Origin, Secret, SecretKey, SecretProvider, SecretValue, Version,
};

/// A provider of secrets in memory, with versions and change notifications.
///
/// Use it in tests, and for values that a program computes itself. Clones share the secrets.
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

#[derive(Debug, Default)]
struct Store {
    /// Every version of each key, oldest first. `None` marks a deletion.
    keys: BTreeMap<SecretKey, Vec<Option<SecretValue>>>,
    watchers: Vec<ChangeSender>,
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
            store: Arc::default(),
        }
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
        store.keys.entry(key.clone()).or_default().push(value);
        store
            .watchers
            .retain(|watcher| watcher.send(Change::Keys([key.clone()].into())));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self, store: &Store, key: &SecretKey) -> Result<Secret, Error> {
        let (number, value) = store.current(key).ok_or_else(|| {
            let reason = if store.keys.contains_key(key) {
                "it was deleted"
            } else {
                "it was never set"
            };
            Error::new(ErrorKind::NotFound, reason)
                .with_origin(&self.origin)
                .with_key(key)
        })?;
        Ok(Secret::new(value.clone()).with_version(Version::numbered(number)))
    }
}

impl Store {
    /// Returns the number and value of the newest version, unless it is a deletion.
    fn current(&self, key: &SecretKey) -> Option<(u64, &SecretValue)> {
        let versions = self.keys.get(key)?;
        Some((versions.len() as u64, versions.last()?.as_ref()?))
    }
}

impl<K: AsRef<str>, V: Into<SecretValue>> FromIterator<(K, V)> for MemoryProvider {
    /// Creates a provider with secrets from pairs. Pairs with an invalid key are ignored.
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        let memory = Self::new();
        for (key, value) in pairs {
            if let Ok(key) = SecretKey::parse(key) {
                memory.push(key, Some(value.into()));
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
        self.read(&self.lock(), key)
    }

    async fn get_many(&self, keys: &[SecretKey]) -> Vec<Result<Secret, Error>> {
        let store = self.lock();
        keys.iter().map(|key| self.read(&store, key)).collect()
    }

    async fn get_version(&self, key: &SecretKey, version: &Version) -> Result<Secret, Error> {
        let store = self.lock();
        let value = version
            .number()
            .and_then(|number| usize::try_from(number).ok()?.checked_sub(1))
            .and_then(|index| store.keys.get(key)?.get(index)?.clone());
        match value {
            Some(value) => Ok(Secret::new(value).with_version(version.clone())),
            None => Err(Error::new(
                ErrorKind::NotFound,
                format!("version {version} does not exist"),
            )
            .with_origin(&self.origin)
            .with_key(key)),
        }
    }

    async fn list(&self, prefix: &KeyPrefix) -> Result<Vec<SecretKey>, Error> {
        let store = self.lock();
        let live = store.keys.keys().filter(|key| store.current(key).is_some());
        Ok(live.filter(|key| prefix.contains(key)).cloned().collect())
    }

    fn watch(&self) -> Option<ChangeStream> {
        let (sender, stream) = ChangeStream::channel();
        self.lock().watchers.push(sender);
        Some(stream)
    }
}
