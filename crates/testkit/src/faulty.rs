//! A wrapper around a provider that injects faults on command and counts calls.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use secretwell_core::backend::{Capabilities, ChangeStream, Notice};
use secretwell_core::{
    Error, ErrorKind, KeyPrefix, Origin, Secret, SecretKey, SecretProvider, SecretValue, Version,
};

/// What a [`FaultyProvider`] does with one call.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Action {
    /// Calls the inner provider.
    Forward,
    /// Calls the inner provider after this time on tokio's clock.
    Delay(Duration),
    /// Calls the inner provider immediately and returns its result after this time. The result can be
    /// stale by then.
    DelayResult(Duration),
    /// Fails every key with this error, to which the key is added.
    Fail(Error),
    /// Never returns. The call ends only if its caller cancels it.
    Hang,
    /// Panics during the call.
    Panic,
    /// Returns this secret for every key.
    Return(Secret),
    /// Calls the inner provider and replaces the version of its results.
    ReplaceVersion(Version),
    /// Calls the inner provider and omits its last result, as a broken provider might.
    OmitLast,
}

/// A wrapper around a provider that follows a script of [`Action`]s and counts reads.
///
/// Clones share the script, the counters and the inner provider.
///
/// Each read, [`get`](SecretProvider::get) or [`get_many`](SecretProvider::get_many), performs one
/// action: the next one of the script, otherwise the one set with [`always`](Self::always), otherwise
/// [`Action::Forward`]. A read is counted when it starts, even if its caller cancels it.
///
/// [`get_version`](SecretProvider::get_version), [`list`](SecretProvider::list) and
/// [`health`](SecretProvider::health) ignore the script and are not counted. An [`Action::Fail`] or
/// [`Action::Hang`] that is set with [`always`](Self::always) applies to them too, like a broken
/// network.
///
/// ```
/// use secretwell::{Error, ErrorKind, MemoryProvider, SecretProvider};
/// use secretwell_testkit::{Action, FaultyProvider};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Error> {
/// let provider = FaultyProvider::new(MemoryProvider::from_iter([("A", "1")]));
/// provider.push(Action::Fail(Error::new(ErrorKind::Unavailable, "connection refused")));
///
/// assert!(provider.get(&"A".parse()?).await.unwrap_err().is_temporary());
/// assert_eq!(provider.get(&"A".parse()?).await?.value.expose_text()?, "1");
/// assert_eq!(provider.calls(), 2);
/// # Ok(())
/// # }
/// ```
pub struct FaultyProvider<P> {
    inner: Arc<P>,
    state: Arc<Mutex<State>>,
    capabilities: Option<Capabilities>,
}

#[derive(Debug, Default)]
struct State {
    script: VecDeque<Action>,
    always: Option<Action>,
    batches: Vec<Vec<SecretKey>>,
    discarded: Vec<(SecretKey, Option<SecretValue>)>,
}

impl<P: SecretProvider> FaultyProvider<P> {
    /// Wraps `inner` and forwards every call until an action is added.
    pub fn new(inner: P) -> Self {
        Self {
            inner: Arc::new(inner),
            state: Arc::default(),
            capabilities: None,
        }
    }

    /// Sets the capabilities to report instead of those of the inner provider.
    #[must_use]
    pub fn with_capabilities(mut self, capabilities: Capabilities) -> Self {
        self.capabilities = Some(capabilities);
        self
    }

    /// Returns the inner provider.
    pub fn inner(&self) -> &P {
        &self.inner
    }

    /// Appends an action to the script.
    pub fn push(&self, action: Action) {
        self.script([action]);
    }

    /// Appends actions to the script. Each read takes one of them, in order.
    pub fn script(&self, actions: impl IntoIterator<Item = Action>) {
        self.lock().script.extend(actions);
    }

    /// Sets the action of every read after the end of the script. `None` forwards these reads.
    pub fn always(&self, action: impl Into<Option<Action>>) {
        self.lock().always = action.into();
    }

    /// Clears the script and the action of [`always`](Self::always), so every later read is forwarded.
    /// Reads in progress continue with their action.
    pub fn clear_faults(&self) {
        let mut state = self.lock();
        state.script.clear();
        state.always = None;
    }

    /// Returns the number of reads that have started. A `get_many` counts as one.
    pub fn calls(&self) -> usize {
        self.lock().batches.len()
    }

    /// Returns the number of keys that all reads have requested.
    pub fn keys_read(&self) -> usize {
        self.lock().batches.iter().map(Vec::len).sum()
    }

    /// Returns the keys of each read, in the order in which the reads started.
    pub fn batches(&self) -> Vec<Vec<SecretKey>> {
        self.lock().batches.clone()
    }

    /// Returns the keys and rejected values of each call of [`discard`](SecretProvider::discard), in order.
    pub fn discarded(&self) -> Vec<(SecretKey, Option<SecretValue>)> {
        self.lock().discarded.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn read(
        &self,
        keys: &[SecretKey],
        inner: impl Future<Output = Vec<Result<Secret, Error>>>,
    ) -> Vec<Result<Secret, Error>> {
        let action = {
            let mut state = self.lock();
            state.batches.push(keys.to_vec());
            let scripted = state.script.pop_front();
            scripted.or_else(|| state.always.clone())
        };
        match action.unwrap_or(Action::Forward) {
            Action::Forward => inner.await,
            Action::Delay(time) => {
                tokio::time::sleep(time).await;
                inner.await
            }
            Action::DelayResult(time) => {
                let results = inner.await;
                tokio::time::sleep(time).await;
                results
            }
            Action::Fail(error) => keys
                .iter()
                .map(|key| Err(self.with_context(&error, key)))
                .collect(),
            Action::Hang => std::future::pending().await,
            Action::Panic => panic!("a FaultyProvider performs Action::Panic"),
            Action::Return(secret) => keys.iter().map(|_| Ok(secret.clone())).collect(),
            Action::ReplaceVersion(version) => {
                let results = inner.await.into_iter();
                results
                    .map(|result| result.map(|secret| secret.with_version(version.clone())))
                    .collect()
            }
            Action::OmitLast => {
                let mut results = inner.await;
                results.pop();
                results
            }
        }
    }

    fn with_context(&self, error: &Error, key: &SecretKey) -> Error {
        error.clone().with_origin(self.origin()).with_key(key)
    }

    /// Applies the action of [`always`](Self::always) to calls that are not reads.
    async fn apply_always(&self) -> Result<(), Error> {
        let always = self.lock().always.clone();
        match always {
            Some(Action::Fail(error)) => Err(error.with_origin(self.origin())),
            Some(Action::Hang) => std::future::pending().await,
            _ => Ok(()),
        }
    }
}

#[async_trait]
impl<P: SecretProvider> SecretProvider for FaultyProvider<P> {
    fn origin(&self) -> &Origin {
        self.inner.origin()
    }

    fn capabilities(&self) -> Capabilities {
        self.capabilities
            .unwrap_or_else(|| self.inner.capabilities())
    }

    async fn get(&self, key: &SecretKey) -> Result<Secret, Error> {
        let inner = async { vec![self.inner.get(key).await] };
        let mut results = self.read(std::slice::from_ref(key), inner).await;
        results.pop().unwrap_or_else(|| {
            let error = Error::new(ErrorKind::Malformed, "the provider returned no result");
            Err(self.with_context(&error, key))
        })
    }

    async fn get_many(&self, keys: &[SecretKey]) -> Vec<Result<Secret, Error>> {
        self.read(keys, self.inner.get_many(keys)).await
    }

    async fn get_version(&self, key: &SecretKey, version: &Version) -> Result<Secret, Error> {
        self.apply_always()
            .await
            .map_err(|error| error.with_key(key))?;
        self.inner.get_version(key, version).await
    }

    async fn list(&self, prefix: &KeyPrefix) -> Result<Vec<SecretKey>, Error> {
        self.apply_always().await?;
        self.inner.list(prefix).await
    }

    async fn notices(&self, prefix: &KeyPrefix) -> Result<Vec<Notice>, Error> {
        self.apply_always().await?;
        self.inner.notices(prefix).await
    }

    fn watch(&self) -> Option<ChangeStream> {
        self.capabilities()
            .watch
            .then(|| self.inner.watch())
            .flatten()
    }

    async fn health(&self) -> Result<(), Error> {
        self.apply_always().await?;
        self.inner.health().await
    }

    fn discard(&self, key: &SecretKey, rejected: Option<&SecretValue>) {
        self.lock().discarded.push((key.clone(), rejected.cloned()));
        self.inner.discard(key, rejected);
    }
}

impl<P> Clone for FaultyProvider<P> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            state: self.state.clone(),
            capabilities: self.capabilities,
        }
    }
}

impl<P: fmt::Debug> fmt::Debug for FaultyProvider<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultyProvider")
            .field("inner", &self.inner)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use secretwell_core::MemoryProvider;
    use tokio::time::{Instant, timeout};

    use super::*;

    fn provider() -> FaultyProvider<MemoryProvider> {
        FaultyProvider::new(MemoryProvider::from_iter([("A", "1"), ("B", "2")]))
    }

    fn keys() -> [SecretKey; 2] {
        ["A", "B"].map(|key| key.parse().unwrap())
    }

    fn unavailable() -> Action {
        Action::Fail(Error::new(ErrorKind::Unavailable, "connection refused"))
    }

    async fn text(faulty: &FaultyProvider<MemoryProvider>, key: &SecretKey) -> String {
        let secret = faulty.get(key).await.unwrap();
        secret.value.expose_text().unwrap().to_owned()
    }

    #[tokio::test]
    async fn the_script_takes_precedence_over_always() {
        let faulty = provider();
        let [a, _] = keys();
        faulty.always(unavailable());
        faulty.script([Action::Forward, Action::Return(Secret::new("x"))]);
        let shared = faulty.clone();
        assert_eq!(text(&shared, &a).await, "1");
        assert_eq!(text(&shared, &a).await, "x");
        let error = shared.get(&a).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.key()),
            (ErrorKind::Unavailable, Some(&a))
        );
        assert!(shared.health().await.is_err());
        assert!(shared.list(&KeyPrefix::root()).await.is_err());
        faulty.always(None);
        assert!(shared.health().await.is_ok());
        faulty.push(unavailable());
        faulty.clear_faults();
        assert!(shared.get(&a).await.is_ok());
    }

    #[tokio::test]
    async fn reads_are_counted_once_with_their_keys() {
        let faulty = provider();
        let both = keys();
        faulty.get_many(&both).await;
        faulty.get(&both[1]).await.unwrap();
        assert_eq!((faulty.calls(), faulty.keys_read()), (2, 3));
        assert_eq!(faulty.batches(), [both.to_vec(), vec![both[1].clone()]]);
    }

    #[tokio::test(start_paused = true)]
    async fn delays_and_hangs_are_counted_when_they_start() {
        let faulty = provider();
        let [a, _] = keys();
        faulty.script([Action::Hang, Action::Delay(Duration::from_secs(5))]);
        let limit = Duration::from_secs(60);
        assert!(timeout(limit, faulty.get(&a)).await.is_err());
        assert_eq!(faulty.calls(), 1);
        let start = Instant::now();
        assert!(faulty.get(&a).await.is_ok());
        assert_eq!(start.elapsed(), Duration::from_secs(5));
    }

    #[tokio::test(start_paused = true)]
    async fn a_delayed_result_is_stale() {
        let faulty = provider();
        let [a, _] = keys();
        faulty.push(Action::DelayResult(Duration::from_secs(5)));
        let change = async { faulty.inner().set("A", "new").unwrap() };
        let (stale, ()) = tokio::join!(biased; text(&faulty, &a), change);
        assert_eq!(stale, "1");
        assert_eq!(text(&faulty, &a).await, "new");
    }

    #[tokio::test]
    async fn replaced_versions_and_omitted_results_are_returned() {
        let faulty = provider().with_capabilities(Capabilities::none());
        let [a, b] = keys();
        assert!(!faulty.capabilities().list);
        let version = Version::numbered(9);
        faulty.script([
            Action::OmitLast,
            Action::OmitLast,
            Action::ReplaceVersion(version.clone()),
        ]);
        assert_eq!(faulty.get_many(&[a.clone(), b]).await.len(), 1);
        let short = faulty.get(&a).await.unwrap_err();
        assert_eq!(short.kind(), ErrorKind::Malformed);
        assert_eq!(faulty.get(&a).await.unwrap().version, Some(version));
    }

    #[tokio::test]
    #[should_panic(expected = "Action::Panic")]
    async fn panic_action_panics() {
        let faulty = provider();
        faulty.push(Action::Panic);
        let _ = faulty.get(&keys()[0]).await;
    }
}
