//! A provider around any other that fails, hangs and lies on command, and counts what it is asked.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use secretwell_core::backend::{Capabilities, ChangeStream};
use secretwell_core::{
    Error, ErrorKind, KeyPrefix, Origin, Secret, SecretKey, SecretProvider, Version,
};

/// What a [`FaultyProvider`] does with one call.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Step {
    /// Asks the inner provider.
    Pass,
    /// Asks the inner provider after this time on tokio's clock.
    Delay(Duration),
    /// Asks the inner provider at once, and hands out its answer after this time.
    Late(Duration),
    /// Fails every key with this error, marked with the key.
    Fail(Error),
    /// Never answers.
    Hang,
    /// Panics.
    Panic,
    /// Answers every key with this.
    Return(Secret),
    /// Asks the inner provider and puts this version in place of its own.
    Version(Version),
    /// Asks the inner provider and leaves out the last result: a broken provider.
    Short,
}

/// Wraps a provider, follows a script and counts. Clones share script, counters and provider.
///
/// One read, [`get`](SecretProvider::get) or [`get_many`](SecretProvider::get_many), takes one step:
/// the next of the script, else the one for [`always`](Self::always), else [`Step::Pass`]. It is
/// counted when it starts, also when its caller gives up on it.
///
/// [`get_version`](SecretProvider::get_version), [`list`](SecretProvider::list) and
/// [`health`](SecretProvider::health) take no step of the script and are not counted, but a
/// [`Step::Fail`] or [`Step::Hang`] that is set for always applies to them too, as a broken network
/// would.
///
/// ```
/// use secretwell::{Error, ErrorKind, MemoryProvider, SecretProvider};
/// use secretwell_testkit::{FaultyProvider, Step};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Error> {
/// let provider = FaultyProvider::new(MemoryProvider::from_iter([("A", "1")]));
/// provider.push(Step::Fail(Error::new(ErrorKind::Unavailable, "unplugged")));
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
    script: VecDeque<Step>,
    always: Option<Step>,
    batches: Vec<Vec<SecretKey>>,
}

impl<P: SecretProvider> FaultyProvider<P> {
    /// Wraps `inner`; every call passes until told otherwise.
    pub fn new(inner: P) -> Self {
        Self {
            inner: Arc::new(inner),
            state: Arc::default(),
            capabilities: None,
        }
    }

    /// Claims these capabilities in place of the inner provider's.
    #[must_use]
    pub fn with_capabilities(mut self, capabilities: Capabilities) -> Self {
        self.capabilities = Some(capabilities);
        self
    }

    /// The provider inside.
    pub fn inner(&self) -> &P {
        &self.inner
    }

    /// Adds a step for the next call that has none yet.
    pub fn push(&self, step: Step) {
        self.script([step]);
    }

    /// The same as [`push`](Self::push): `next(Step::Hang)` reads as what it does.
    pub fn next(&self, step: Step) {
        self.push(step);
    }

    /// Adds steps for the next calls that have none yet.
    pub fn script(&self, steps: impl IntoIterator<Item = Step>) {
        self.lock().script.extend(steps);
    }

    /// Sets the step of every call that the script has none for; `None` lets them pass.
    pub fn always(&self, step: impl Into<Option<Step>>) {
        self.lock().always = step.into();
    }

    /// Forgets the script and lets every call pass. Calls under way stay as they are.
    pub fn heal(&self) {
        let mut state = self.lock();
        state.script.clear();
        state.always = None;
    }

    /// How many reads have started; a `get_many` is one.
    pub fn calls(&self) -> usize {
        self.lock().batches.len()
    }

    /// How many keys those reads asked for.
    pub fn keys_read(&self) -> usize {
        self.lock().batches.iter().map(Vec::len).sum()
    }

    /// The keys of each read, in the order in which they started.
    pub fn batches(&self) -> Vec<Vec<SecretKey>> {
        self.lock().batches.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn read(
        &self,
        keys: &[SecretKey],
        ask: impl Future<Output = Vec<Result<Secret, Error>>>,
    ) -> Vec<Result<Secret, Error>> {
        let step = {
            let mut state = self.lock();
            state.batches.push(keys.to_vec());
            let scripted = state.script.pop_front();
            scripted.or_else(|| state.always.clone())
        };
        match step.unwrap_or(Step::Pass) {
            Step::Pass => ask.await,
            Step::Delay(time) => {
                tokio::time::sleep(time).await;
                ask.await
            }
            Step::Late(time) => {
                let answers = ask.await;
                tokio::time::sleep(time).await;
                answers
            }
            Step::Fail(error) => keys.iter().map(|key| Err(self.mark(&error, key))).collect(),
            Step::Hang => std::future::pending().await,
            Step::Panic => panic!("the script of this FaultyProvider says: panic"),
            Step::Return(secret) => keys.iter().map(|_| Ok(secret.clone())).collect(),
            Step::Version(version) => {
                let answers = ask.await.into_iter();
                answers
                    .map(|answer| answer.map(|secret| secret.with_version(version.clone())))
                    .collect()
            }
            Step::Short => {
                let mut answers = ask.await;
                answers.pop();
                answers
            }
        }
    }

    fn mark(&self, error: &Error, key: &SecretKey) -> Error {
        error.clone().with_origin(self.origin()).with_key(key)
    }

    /// What a broken network does to calls that are no reads.
    async fn obstacle(&self) -> Result<(), Error> {
        let always = self.lock().always.clone();
        match always {
            Some(Step::Fail(error)) => Err(error.with_origin(self.origin())),
            Some(Step::Hang) => std::future::pending().await,
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
        let ask = async { vec![self.inner.get(key).await] };
        let mut answers = self.read(std::slice::from_ref(key), ask).await;
        answers.pop().unwrap_or_else(|| {
            let error = Error::new(ErrorKind::Malformed, "the provider answered nothing");
            Err(self.mark(&error, key))
        })
    }

    async fn get_many(&self, keys: &[SecretKey]) -> Vec<Result<Secret, Error>> {
        self.read(keys, self.inner.get_many(keys)).await
    }

    async fn get_version(&self, key: &SecretKey, version: &Version) -> Result<Secret, Error> {
        self.obstacle().await.map_err(|error| error.with_key(key))?;
        self.inner.get_version(key, version).await
    }

    async fn list(&self, prefix: &KeyPrefix) -> Result<Vec<SecretKey>, Error> {
        self.obstacle().await?;
        self.inner.list(prefix).await
    }

    fn watch(&self) -> Option<ChangeStream> {
        self.capabilities()
            .watch
            .then(|| self.inner.watch())
            .flatten()
    }

    async fn health(&self) -> Result<(), Error> {
        self.obstacle().await?;
        self.inner.health().await
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

    fn unavailable() -> Step {
        Step::Fail(Error::new(ErrorKind::Unavailable, "unplugged"))
    }

    async fn text(faulty: &FaultyProvider<MemoryProvider>, key: &SecretKey) -> String {
        let secret = faulty.get(key).await.unwrap();
        secret.value.expose_text().unwrap().to_owned()
    }

    #[tokio::test]
    async fn the_script_goes_before_always() {
        let faulty = provider();
        let [a, _] = keys();
        faulty.always(unavailable());
        faulty.script([Step::Pass, Step::Return(Secret::new("x"))]);
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
        faulty.next(unavailable());
        faulty.heal();
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
        faulty.script([Step::Hang, Step::Delay(Duration::from_secs(5))]);
        let limit = Duration::from_secs(60);
        assert!(timeout(limit, faulty.get(&a)).await.is_err());
        assert_eq!(faulty.calls(), 1);
        let start = Instant::now();
        assert!(faulty.get(&a).await.is_ok());
        assert_eq!(start.elapsed(), Duration::from_secs(5));
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_answer_is_the_old_one() {
        let faulty = provider();
        let [a, _] = keys();
        faulty.push(Step::Late(Duration::from_secs(5)));
        let change = async { faulty.inner().set("A", "new").unwrap() };
        let (answer, ()) = tokio::join!(biased; text(&faulty, &a), change);
        assert_eq!(answer, "1");
        assert_eq!(text(&faulty, &a).await, "new");
    }

    #[tokio::test]
    async fn lies_come_out_as_told() {
        let faulty = provider().with_capabilities(Capabilities::none());
        let [a, b] = keys();
        assert!(!faulty.capabilities().list);
        let version = Version::numbered(9);
        faulty.script([Step::Short, Step::Short, Step::Version(version.clone())]);
        assert_eq!(faulty.get_many(&[a.clone(), b]).await.len(), 1);
        let short = faulty.get(&a).await.unwrap_err();
        assert_eq!(short.kind(), ErrorKind::Malformed);
        assert_eq!(faulty.get(&a).await.unwrap().version, Some(version));
    }

    #[tokio::test]
    #[should_panic(expected = "says: panic")]
    async fn a_panic_is_one() {
        let faulty = provider();
        faulty.push(Step::Panic);
        let _ = faulty.get(&keys()[0]).await;
    }
}
