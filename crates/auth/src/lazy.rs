//! The lazy auth initializer itself.

use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use secretwell_resolver::Resolver;
use serde::de::DeserializeOwned;
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::built::{Current, Guard, Reader};
use crate::policy::Policies;
use crate::rebuilder::{Rebuilder, RotationState};
use crate::ring::RotationTiming;
use crate::spec::BuildSpec;
use crate::{BuildContext, BuildError, LazyAuthBuilder, Mode, NotReady, State};

/// Something built from secrets on first use, and built anew when they rotate.
///
/// `A` is whatever the service authenticates with: a JWT verifier, a cookie key, a session codec, an
/// OAuth client, a database pool. It is made by a closure from a struct of secrets.
///
/// - **Making one does no I/O and cannot fail.** It may be a `static`, it may be made before the
///   secrets exist, and nothing is asked until somebody wants to use it.
/// - **The first use starts it, once.** Callers who come meanwhile share that start, each within a
///   deadline of its own; one that goes away stops nothing. A start that failed is remembered only
///   until the next try.
/// - **It follows rotation.** When a secret has another value, the next `A` is built beside the one in
///   service, checked, and swapped in. If the new secret is absent, weak, or rejected by the closure,
///   the old `A` goes on serving and the state says [`Degraded`](State::Degraded).
/// - **When it is ready, it costs nothing**: no lock, no wait, no allocation.
///
/// Clones share everything. When the last one is dropped, its background task ends.
///
/// ```
/// use secrecy::{ExposeSecret, SecretString};
/// use secretwell::auth::{LazyAuth, State};
/// use secretwell::{MemoryProvider, Resolver};
/// use serde::Deserialize;
///
/// #[derive(Deserialize)]
/// #[serde(rename_all = "SCREAMING_SNAKE_CASE")]
/// struct Secrets {
///     auth_secret: SecretString,
/// }
///
/// /// What the service checks passwords of the day with.
/// struct Checker(SecretString);
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let memory = MemoryProvider::new();
/// let auth = LazyAuth::new(Resolver::new(memory.clone()), |secrets: Secrets, _| async move {
///     Ok(Checker(secrets.auth_secret))
/// });
/// assert_eq!(auth.state(), State::Idle);
/// assert!(auth.get().await.is_err(), "there is no secret yet, and the error says so");
///
/// memory.set("AUTH_SECRET", "correct horse battery staple, at length")?;
/// auth.rebuild().await?;
/// assert!(auth.get().await?.0.expose_secret().starts_with("correct"));
/// # Ok(())
/// # }
/// ```
pub struct LazyAuth<A> {
    pub(crate) inner: Arc<Inner<A>>,
    /// The same as in `inner`: one pointer less to follow on the ready path.
    current: Current<A>,
}

pub(crate) struct Inner<A> {
    pub(crate) resolver: Resolver,
    pub(crate) spec: Box<dyn BuildSpec<A>>,
    pub(crate) settings: Settings,
    pub(crate) current: Current<A>,
    pub(crate) progress: watch::Sender<Progress>,
    /// Wakes the rebuilder.
    pub(crate) wake: Arc<Notify>,
    /// How many rebuilds have been asked for.
    pub(crate) requests: AtomicU64,
    /// Set when the rebuilder ended with its runtime: somebody must start another.
    pub(crate) rebuilder_stopped: AtomicBool,
    /// Whether the next build leaves the previous secrets out.
    pub(crate) revoking: AtomicBool,
    rebuilder: Mutex<Option<AbortHandle>>,
    rotation: Mutex<RotationState>,
}

#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) mode: Mode,
    pub(crate) deadline: Duration,
    pub(crate) build_deadline: Duration,
    pub(crate) timing: RotationTiming,
    pub(crate) policy: Policies,
}

/// What those who wait look at.
#[derive(Debug)]
pub(crate) struct Progress {
    pub(crate) state: State,
    /// How many attempts have come to an end.
    pub(crate) attempts: u64,
    /// How many requested rebuilds these attempts have covered.
    pub(crate) served: u64,
    /// Why the last attempt failed, if it did.
    pub(crate) failure: Option<NotReady>,
}

impl<A: Send + Sync + 'static> LazyAuth<A> {
    /// An `A` to be built by `build` from a `T` of secrets, with the default settings.
    ///
    /// The secrets' keys are the names of `T`'s fields: see [`Plan`](secretwell_resolver::load::Plan).
    pub fn new<T, F, B>(resolver: Resolver, build: F) -> Self
    where
        T: DeserializeOwned + Send + 'static,
        F: Fn(T, BuildContext) -> B + Clone + Send + Sync + 'static,
        B: Future<Output = Result<A, BuildError>> + Send + 'static,
    {
        LazyAuthBuilder::new(resolver).build(build)
    }

    /// Like [`new`](Self::new), for a builder that cannot fail and does not wait.
    pub fn infallible<T, F>(resolver: Resolver, build: F) -> Self
    where
        T: DeserializeOwned + Send + 'static,
        F: Fn(T, BuildContext) -> A + Clone + Send + Sync + 'static,
    {
        LazyAuthBuilder::new(resolver).build(move |secrets, context| {
            let built = build(secrets, context);
            async move { Ok(built) }
        })
    }

    /// What is in service; starts it if need be, and waits for that within the configured deadline.
    ///
    /// Cancelling the wait stops nothing: the start goes on for the others.
    ///
    /// # Errors
    /// [`NotReady`] with every reason: when the start that this call waited for fails, when a start
    /// failed a moment ago and the next try is not due yet, when the deadline passes, or outside of a
    /// tokio runtime.
    #[inline]
    pub fn get(&self) -> Get<'_, A> {
        Get(Step::Look(self))
    }

    /// Like [`get`](Self::get), with a deadline of the caller's own.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn get_within(&self, deadline: Duration) -> Result<Guard<A>, NotReady> {
        match self.serving() {
            Some(guard) => Ok(guard),
            None => self.boxed_start(deadline).await,
        }
    }

    /// What is in service, or why there is nothing, without waiting; starts it if need be.
    ///
    /// # Errors
    /// [`NotReady`]: a start is under way, or the last one failed. Outside of a tokio runtime
    /// nothing can be started.
    pub fn try_get(&self) -> Result<Guard<A>, NotReady> {
        if let Some(guard) = self.serving() {
            return Ok(guard);
        }
        within_runtime()?;
        self.ensure_rebuilder();
        match &self.inner.progress.borrow().state {
            State::Failed { failure } => Err(failure.clone()),
            _ => Err(NotReady::waiting("the first start is still under way")),
        }
    }

    /// What is in service, if anything; starts nothing.
    pub fn peek(&self) -> Option<Guard<A>> {
        Guard::new(&self.current)
    }

    /// Hands what is in service to `reader`, or returns `None` if there is nothing; starts nothing.
    ///
    /// The fastest way to read from many threads: each keeps a reference of its own to the build that
    /// it saw last. That build is kept alive until the thread reads again, or the auth is dropped.
    pub fn with<R>(&self, reader: impl FnOnce(&A) -> R) -> Option<R> {
        self.peek().map(|guard| reader(&guard))
    }

    /// Access for a task or a connection that keeps it. `None` before the first build.
    pub fn reader(&self) -> Option<Reader<A>> {
        Reader::new(&self.current)
    }

    /// Where it stands.
    pub fn state(&self) -> State {
        self.inner.progress.borrow().state.clone()
    }

    /// Where it stands, with a wait for the next change.
    pub fn watch_state(&self) -> StateWatch {
        StateWatch {
            last: self.state(),
            progress: self.inner.progress.subscribe(),
        }
    }

    /// Reads the secrets anew and builds from them, even if they are the same, and waits for it
    /// within the configured deadline. What is in service goes on serving meanwhile.
    ///
    /// The source is asked after this was called, and at most once a second: within a second of the
    /// last reading by force, this waits for that second to be over.
    ///
    /// # Errors
    /// [`NotReady`] with every reason why the new build failed. What was in service before still is.
    pub async fn rebuild(&self) -> Result<Guard<A>, NotReady> {
        within_runtime()?;
        let ticket = self.inner.requests.fetch_add(1, Ordering::SeqCst) + 1;
        let mut progress = self.inner.progress.subscribe();
        let served = async {
            loop {
                self.ensure_rebuilder();
                self.inner.wake.notify_one();
                {
                    let now = progress.borrow_and_update();
                    if now.served >= ticket {
                        return match (&now.failure, self.peek()) {
                            (None, Some(guard)) => Ok(guard),
                            (Some(failure), _) => Err(failure.clone()),
                            (None, None) => Err(NotReady::waiting("nothing was built")),
                        };
                    }
                }
                // The sender lives in `self`.
                let _ = progress.changed().await;
            }
        };
        let late = || NotReady::waiting("the rebuild was not done within the deadline");
        tokio::time::timeout(self.inner.settings.deadline, served)
            .await
            .unwrap_or_else(|_| Err(late()))
            .inspect_err(NotReady::print_without_subscriber)
    }

    /// Ends the grace_period of all previous secrets: only the newest of each key signs and verifies from now
    /// on, so whoever holds something that an previous one signed is logged out. For a secret that has
    /// leaked: write another first, and then revoke.
    ///
    /// A source that keeps old versions gives them back to the next process, as long as their grace_period is
    /// not over: delete them there as well.
    ///
    /// # Errors
    /// As [`rebuild`](Self::rebuild). The next build revokes them nevertheless.
    pub async fn revoke_previous(&self) -> Result<Guard<A>, NotReady> {
        self.inner.revoking.store(true, Ordering::SeqCst);
        self.rebuild().await
    }

    /// What is in service, with somebody to keep it current.
    fn serving(&self) -> Option<Guard<A>> {
        let guard = Guard::new(&self.current)?;
        if self.inner.rebuilder_stopped.load(Ordering::Relaxed) {
            self.restart_rebuilder();
        }
        Some(guard)
    }

    #[cold]
    fn restart_rebuilder(&self) {
        if within_runtime().is_ok() {
            self.ensure_rebuilder();
        }
    }

    #[cold]
    fn boxed_start(&self, deadline: Duration) -> Starting<'_, A> {
        Box::pin(self.start(deadline))
    }

    async fn start(&self, deadline: Duration) -> Result<Guard<A>, NotReady> {
        within_runtime()?;
        // Subscribed before the first look, so that no change falls between.
        let mut progress = self.inner.progress.subscribe();
        let attempts = progress.borrow().attempts;
        let started = async {
            loop {
                self.ensure_rebuilder();
                if let Some(guard) = self.peek() {
                    return Ok(guard);
                }
                {
                    let now = progress.borrow_and_update();
                    if let Some(failure) = &now.failure {
                        let waited_for = now.attempts > attempts;
                        let retry_pending = failure
                            .retry_at()
                            .is_some_and(|retry_at| retry_at > Instant::now());
                        if waited_for || retry_pending && matches!(now.state, State::Failed { .. })
                        {
                            return Err(failure.clone());
                        }
                    }
                }
                // The sender lives in `self`.
                let _ = progress.changed().await;
            }
        };
        let late = || NotReady::waiting("the first start is still under way");
        tokio::time::timeout(deadline, started)
            .await
            .unwrap_or_else(|_| Err(late()))
            .inspect_err(NotReady::print_without_subscriber)
    }

    /// Sees to it that somebody starts and rotates. Must be called within a tokio runtime.
    fn ensure_rebuilder(&self) {
        let mut rebuilder = self.inner.lock_rebuilder();
        if rebuilder.as_ref().is_none_or(AbortHandle::is_finished)
            || self.inner.rebuilder_stopped.load(Ordering::Relaxed)
        {
            self.inner.rebuilder_stopped.store(false, Ordering::Relaxed);
            let task = tokio::spawn(Rebuilder::new(&self.inner).run());
            *rebuilder = Some(task.abort_handle());
        }
    }
}

/// Outside of a tokio runtime nothing can be started.
fn within_runtime() -> Result<(), NotReady> {
    let runtime = tokio::runtime::Handle::try_current();
    runtime
        .map(drop)
        .map_err(|_| NotReady::waiting("there is no tokio runtime here to start it in"))
}

impl LazyAuth<()> {
    /// Settings of your own, for an auth of any type: what the closure makes decides.
    pub fn builder(resolver: Resolver) -> LazyAuthBuilder {
        LazyAuthBuilder::new(resolver)
    }
}

impl<A> LazyAuth<A> {
    pub(crate) fn assemble(
        resolver: Resolver,
        spec: Box<dyn BuildSpec<A>>,
        settings: Settings,
    ) -> Self {
        let idle = Progress {
            state: State::Idle,
            attempts: 0,
            served: 0,
            failure: None,
        };
        let inner = Inner {
            resolver,
            spec,
            settings,
            current: Current::default(),
            progress: watch::channel(idle).0,
            wake: Arc::default(),
            requests: AtomicU64::new(0),
            rebuilder_stopped: AtomicBool::new(false),
            revoking: AtomicBool::new(false),
            rebuilder: Mutex::new(None),
            rotation: Mutex::default(),
        };
        Self {
            current: inner.current.clone(),
            inner: Arc::new(inner),
        }
    }

    /// Where the secrets come from.
    pub fn resolver(&self) -> &Resolver {
        &self.inner.resolver
    }
}

impl<A> Inner<A> {
    fn lock_rebuilder(&self) -> MutexGuard<'_, Option<AbortHandle>> {
        self.rebuilder
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn rotation(&self) -> MutexGuard<'_, RotationState> {
        self.rotation.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn weak(self: &Arc<Self>) -> Weak<Self> {
        Arc::downgrade(self)
    }
}

impl<A> Drop for Inner<A> {
    fn drop(&mut self) {
        if let Some(rebuilder) = self.lock_rebuilder().take() {
            rebuilder.abort();
        }
    }
}

impl<A> Clone for LazyAuth<A> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            current: self.current.clone(),
        }
    }
}

impl<A> fmt::Debug for LazyAuth<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LazyAuth")
            .field("source", self.inner.resolver.origin())
            .field("mode", &self.inner.settings.mode)
            .field("state", &self.inner.progress.borrow().state)
            .finish_non_exhaustive()
    }
}

/// The future of [`LazyAuth::get`]. Written by hand, because the compiler inlines it that way: when
/// the auth is ready, it costs no more than the look at it.
#[must_use = "futures do nothing unless polled"]
pub struct Get<'a, A>(Step<'a, A>);

/// Two words, because each that is written costs as much as the rest of the look.
enum Step<'a, A> {
    Look(&'a LazyAuth<A>),
    Start(Starting<'a, A>),
}

type Starting<'a, A> = Pin<Box<dyn Future<Output = Result<Guard<A>, NotReady>> + Send + 'a>>;

impl<A: Send + Sync + 'static> Future for Get<'_, A> {
    type Output = Result<Guard<A>, NotReady>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Step::Look(auth) = self.0 {
            match auth.serving() {
                Some(guard) => return Poll::Ready(Ok(guard)),
                None => self.0 = Step::Start(auth.boxed_start(auth.inner.settings.deadline)),
            }
        }
        match &mut self.0 {
            Step::Start(start) => start.as_mut().poll(context),
            Step::Look(_) => Poll::Pending,
        }
    }
}

impl<A> fmt::Debug for Get<'_, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Get").finish_non_exhaustive()
    }
}

/// Follows the state of a [`LazyAuth`]. Made by [`LazyAuth::watch_state`].
#[derive(Debug, Clone)]
pub struct StateWatch {
    /// The state that was handed out last.
    last: State,
    progress: watch::Receiver<Progress>,
}

impl StateWatch {
    /// The state now.
    pub fn current(&self) -> State {
        self.progress.borrow().state.clone()
    }

    /// Waits until the state is another than the one that this watch has returned last, or was made
    /// in, and returns it; the states between are skipped. `None` when the auth was dropped.
    pub async fn changed(&mut self) -> Option<State> {
        let last = self.last.clone();
        self.wait_for(|state| *state != last).await
    }

    /// Waits until `wanted` is true of the state, and returns it. `None` when the auth was dropped.
    pub async fn wait_for(&mut self, mut wanted: impl FnMut(&State) -> bool) -> Option<State> {
        let state = {
            let progress = self.progress.wait_for(|progress| wanted(&progress.state));
            progress.await.ok()?.state.clone()
        };
        self.last = state.clone();
        Some(state)
    }
}
