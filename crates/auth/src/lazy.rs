//! [`LazyAuth`], with the future [`Get`] and the state subscription [`StateWatch`].

use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use secretwell_resolver::Resolver;
use secretwell_resolver::clock;
use serde::de::DeserializeOwned;
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::built::{Current, Guard, Reader, ThreadViews};
use crate::policy::Policies;
use crate::rebuilder::{Rebuilder, RotationState};
use crate::ring::RotationTiming;
use crate::spec::BuildSpec;
use crate::{BuildContext, BuildError, LazyAuthBuilder, Mode, NotReady, State};

/// A reader with a build waits for at most this long for a rebuilder that was overdue.
const MAX_WAIT_FOR_REBUILDER: Duration = Duration::from_secs(1);

/// A value that is built from secrets on first use and rebuilt when they rotate.
///
/// `A` is the value that the service authenticates with: a JWT verifier, a cookie key, a session
/// codec, an OAuth client or a database pool. A closure builds it from a struct of secrets.
///
/// ```
/// use secretwell::auth::LazyAuth;
/// use secretwell::{ExposeSecret, MemoryProvider, Resolver, SecretString};
/// use serde::Deserialize;
///
/// #[derive(Deserialize)]
/// #[serde(rename_all = "SCREAMING_SNAKE_CASE")]
/// struct Secrets {
///     auth_secret: SecretString,
/// }
///
/// struct Signer(SecretString);
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let memory = MemoryProvider::new();
/// let auth = LazyAuth::new(Resolver::new(memory.clone()), |secrets: Secrets, _| async move {
///     Ok(Signer(secrets.auth_secret))
/// });
///
/// // The secret does not exist yet. The error names the key and its origin.
/// let failure = auth.get().await.unwrap_err();
/// assert!(failure.to_string().contains("AUTH_SECRET"));
///
/// memory.set("AUTH_SECRET", "correct horse battery staple, at length")?;
/// auth.rebuild().await?;
/// assert!(auth.get().await?.0.expose_secret().starts_with("correct"));
/// # Ok(())
/// # }
/// ```
///
/// - **Construction does no I/O and cannot fail.** A `LazyAuth` can be a `static` and can be
///   created before the secrets exist. No secret is read until the first use.
/// - **The first use starts the build.** Concurrent callers share that build, each with its own
///   deadline. A cancelled caller does not stop it. A failed build is retried with backoff, and
///   calls before the next attempt return the same failure.
/// - **It follows rotation.** When the value of a secret changes, the next `A` is built while the
///   current `A` stays in use, and then replaces it. If the new secret is absent, weak, or rejected
///   by the closure, the current `A` stays in use and the state is [`Degraded`](State::Degraded).
/// - **Reads are cheap.** A read of the current build takes no lock, does not wait and does not
///   allocate.
///
/// Clones share the same build, state and background task. The background task ends when the last
/// clone is dropped.
pub struct LazyAuth<A> {
    pub(crate) inner: Arc<Inner<A>>,
    /// The same slot as in `inner`. The copy saves one pointer dereference on each read.
    current: Current<A>,
}

pub(crate) struct Inner<A> {
    pub(crate) resolver: Resolver,
    pub(crate) spec: Box<dyn BuildSpec<A>>,
    pub(crate) settings: Settings,
    pub(crate) current: Current<A>,
    views: ThreadViews,
    pub(crate) progress: watch::Sender<Progress>,
    /// Wakes the rebuilder.
    pub(crate) wake: Arc<Notify>,
    /// Number of calls of [`LazyAuth::rebuild`].
    pub(crate) requested_rebuilds: AtomicU64,
    /// Set when the rebuilder ended together with its runtime, so that the next use restarts it.
    pub(crate) rebuilder_stopped: AtomicBool,
    /// The time of the coarse clock at which the rebuilder is overdue, because its runtime is not running.
    pub(crate) rebuilder_due: AtomicI64,
    /// The number of rebuilders that were started. Only the newest one acts.
    pub(crate) rebuilder_id: AtomicU64,
    /// Whether the next build excludes the previous secrets.
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

/// Progress of the rebuilder, observed by the callers that wait for it.
#[derive(Debug)]
pub(crate) struct Progress {
    pub(crate) state: State,
    /// Number of finished attempts.
    pub(crate) attempts: u64,
    /// How many of the requested rebuilds these attempts have completed.
    pub(crate) completed_rebuilds: u64,
    /// The failure of the last attempt, or `None` if it succeeded.
    pub(crate) failure: Option<NotReady>,
}

impl<A: Send + Sync + 'static> LazyAuth<A> {
    /// Creates an auth whose value is built by `build` from a struct `T` of secrets, with the
    /// default settings.
    ///
    /// The keys of the secrets are the field names of `T`: see
    /// [`Plan`](secretwell_resolver::load::Plan).
    pub fn new<T, F, B>(resolver: Resolver, build: F) -> Self
    where
        T: DeserializeOwned + Send + 'static,
        F: Fn(T, BuildContext) -> B + Clone + Send + Sync + 'static,
        B: Future<Output = Result<A, BuildError>> + Send + 'static,
    {
        LazyAuthBuilder::new(resolver).build(build)
    }

    /// Like [`new`](Self::new), for a builder closure that is synchronous and cannot fail.
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

    /// Returns the current build. Before the first build, starts it and waits for it within the
    /// configured deadline.
    ///
    /// Cancelling this call does not cancel the build.
    ///
    /// # Errors
    /// Returns [`NotReady`] with every problem:
    ///
    /// - if the attempt that this call waits for fails,
    /// - if the last attempt failed and the next attempt is not due yet,
    /// - if the deadline passes,
    /// - if there is no build yet and this is called outside of a tokio runtime.
    #[inline]
    pub fn get(&self) -> Get<'_, A> {
        Get(Step::Check(self))
    }

    /// Like [`get`](Self::get), with a deadline for this call.
    ///
    /// # Errors
    /// The same as for [`get`](Self::get).
    pub async fn get_within(&self, deadline: Duration) -> Result<Guard<A>, NotReady> {
        match self.peek() {
            Some(guard) if !self.inner.needs_rebuilder() => Ok(guard),
            _ => self.start_boxed(deadline).await,
        }
    }

    /// Returns the current build without waiting. Before the first build, starts it and returns an
    /// error.
    ///
    /// # Errors
    /// Returns [`NotReady`] if the first build is still in progress or if the last attempt failed. Before
    /// the first build, also returns it if this is called outside of a tokio runtime.
    pub fn try_get(&self) -> Result<Guard<A>, NotReady> {
        if let Some(guard) = self.current_guard() {
            return Ok(guard);
        }
        require_runtime()?;
        self.ensure_rebuilder();
        match &self.inner.progress.borrow().state {
            State::Failed { failure } => Err(failure.clone()),
            _ => Err(first_build_in_progress()),
        }
    }

    /// Returns the current build, or `None` before the first build. Does not start a build.
    pub fn peek(&self) -> Option<Guard<A>> {
        Guard::new(&self.current)
    }

    /// Calls `reader` with the current value, or returns `None` before the first build. Does not
    /// start a build.
    ///
    /// This is the fastest way to read from many threads without keeping anything. Each thread keeps
    /// the build that it read last until it reads again or the `LazyAuth` is dropped.
    pub fn with<R>(&self, reader: impl FnOnce(&A) -> R) -> Option<R> {
        if self.inner.needs_rebuilder() {
            self.restart_rebuilder();
        }
        self.inner.views.with(&self.current, reader)
    }

    /// Returns a [`Reader`] for a task or a connection that reads repeatedly, or `None` before the
    /// first build. Does not start a build.
    pub fn reader(&self) -> Option<Reader<A>> {
        Reader::new(&self.current)
    }

    /// Returns the current state.
    pub fn state(&self) -> State {
        self.inner.progress.borrow().state.clone()
    }

    /// Subscribes to changes of the state.
    pub fn watch_state(&self) -> StateWatch {
        StateWatch {
            last: self.state(),
            progress: self.inner.progress.subscribe(),
        }
    }

    /// Reads the secrets again and builds from them, even if their values are unchanged. Waits for
    /// the build within the configured deadline. The current build stays in use until then.
    ///
    /// The source is read after this call starts, so a secret that was written before the call is
    /// used. Forced reads are limited to one per second. Within a second of the last one, this
    /// waits until that second is over.
    ///
    /// Cancelling this call does not cancel the rebuild.
    ///
    /// # Errors
    /// Returns [`NotReady`] with every problem if the new build fails, if the deadline passes, or
    /// if this is called outside of a tokio runtime. The previous build stays in use.
    pub async fn rebuild(&self) -> Result<Guard<A>, NotReady> {
        require_runtime()?;
        let ticket = self.inner.requested_rebuilds.fetch_add(1, Ordering::SeqCst) + 1;
        let mut progress = self.inner.progress.subscribe();
        let completed = async {
            loop {
                self.ensure_rebuilder();
                self.inner.wake.notify_one();
                {
                    let now = progress.borrow_and_update();
                    if now.completed_rebuilds >= ticket {
                        return match (&now.failure, self.peek()) {
                            (None, Some(guard)) => Ok(guard),
                            (Some(failure), _) => Err(failure.clone()),
                            (None, None) => Err(NotReady::unavailable(
                                "the rebuild finished without a build",
                                "call `rebuild` again",
                            )),
                        };
                    }
                }
                // This cannot fail, because `self` owns the sender.
                let _ = progress.changed().await;
            }
        };
        let timed_out = || {
            NotReady::unavailable(
                "the rebuild did not finish within the deadline",
                "check that the source responds, or raise the deadline",
            )
        };
        tokio::time::timeout(self.inner.settings.deadline, completed)
            .await
            .unwrap_or_else(|_| Err(timed_out()))
            .inspect_err(NotReady::print_without_subscriber)
    }

    /// Ends the grace period of all previous secrets and rebuilds. Afterwards only the newest
    /// secret of each key signs and verifies, so everything that a previous secret signed is
    /// rejected.
    ///
    /// Use it after a leak: write a new secret first, and then revoke the previous ones.
    ///
    /// A source that keeps old versions returns them to the next process while their grace period
    /// lasts. Delete them at the source as well.
    ///
    /// # Errors
    /// The same as for [`rebuild`](Self::rebuild). If this fails, the next successful build revokes
    /// the previous secrets.
    pub async fn revoke_previous(&self) -> Result<Guard<A>, NotReady> {
        self.inner.revoking.store(true, Ordering::SeqCst);
        self.rebuild().await
    }

    /// Returns the current build, and restarts the rebuilder if its runtime has ended or is not running.
    fn current_guard(&self) -> Option<Guard<A>> {
        let guard = Guard::new(&self.current)?;
        if self.inner.needs_rebuilder() {
            self.restart_rebuilder();
        }
        Some(guard)
    }

    /// Does nothing before the first use, which starts the first rebuilder.
    #[cold]
    fn restart_rebuilder(&self) {
        if tokio::runtime::Handle::try_current().is_ok() {
            self.ensure_rebuilder();
        }
    }

    #[cold]
    fn start_boxed(&self, deadline: Duration) -> StartFuture<'_, A> {
        Box::pin(self.start(deadline))
    }

    /// Returns the current build after its overdue rebuilder was replaced. Waits for the first attempt of
    /// the new one, because the runtime might run its tasks only while a reader waits.
    async fn catch_up(&self, guard: Guard<A>) -> Guard<A> {
        let mut progress = self.inner.progress.subscribe();
        let attempts_before = progress.borrow().attempts;
        self.restart_rebuilder();
        if tokio::runtime::Handle::try_current().is_ok() {
            let attempt = progress.wait_for(|progress| progress.attempts > attempts_before);
            let _ = tokio::time::timeout(MAX_WAIT_FOR_REBUILDER, attempt).await;
        }
        self.peek().unwrap_or(guard)
    }

    async fn start(&self, deadline: Duration) -> Result<Guard<A>, NotReady> {
        if let Some(guard) = self.peek() {
            return Ok(self.catch_up(guard).await);
        }
        require_runtime()?;
        // Subscribing before the first check prevents a missed change.
        let mut progress = self.inner.progress.subscribe();
        let attempts_before = progress.borrow().attempts;
        let first_build = async {
            loop {
                self.ensure_rebuilder();
                if let Some(guard) = self.peek() {
                    return Ok(guard);
                }
                {
                    let now = progress.borrow_and_update();
                    if let Some(failure) = &now.failure {
                        let waited_for = now.attempts > attempts_before;
                        let retry_pending = failure
                            .retry_at()
                            .is_some_and(|retry_at| retry_at > Instant::now());
                        if waited_for || retry_pending && matches!(now.state, State::Failed { .. })
                        {
                            return Err(failure.clone());
                        }
                    }
                }
                // This cannot fail, because `self` owns the sender.
                let _ = progress.changed().await;
            }
        };
        tokio::time::timeout(deadline, first_build)
            .await
            .unwrap_or_else(|_| Err(first_build_in_progress()))
            .inspect_err(NotReady::print_without_subscriber)
    }

    /// Starts the rebuilder unless it runs already. Must be called within a tokio runtime.
    fn ensure_rebuilder(&self) {
        let mut rebuilder = self.inner.lock_rebuilder();
        if rebuilder.as_ref().is_none_or(AbortHandle::is_finished) || self.inner.needs_rebuilder() {
            self.inner.rebuilder_stopped.store(false, Ordering::Relaxed);
            self.inner.rebuilder_due.store(i64::MAX, Ordering::Relaxed);
            self.inner.rebuilder_id.fetch_add(1, Ordering::Relaxed);
            let task = tokio::spawn(Rebuilder::new(&self.inner).run());
            if let Some(late) = rebuilder.replace(task.abort_handle()) {
                late.abort();
            }
        }
    }
}

/// Returns an error outside of a tokio runtime, because the rebuilder is a tokio task.
fn require_runtime() -> Result<(), NotReady> {
    let runtime = tokio::runtime::Handle::try_current();
    runtime
        .map(drop)
        .map_err(|_| {
            NotReady::unavailable(
                "no tokio runtime is running, so the build cannot start",
                "call this within a tokio runtime",
            )
        })
        .inspect_err(NotReady::print_without_subscriber)
}

fn first_build_in_progress() -> NotReady {
    NotReady::unavailable(
        "the first build is still in progress",
        "check that the source responds, or wait longer",
    )
}

impl LazyAuth<()> {
    /// Returns a builder with the default settings. The type of the auth is the output type of the
    /// closure that [`LazyAuthBuilder::build`] takes.
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
            completed_rebuilds: 0,
            failure: None,
        };
        let inner = Inner {
            resolver,
            spec,
            settings,
            current: Current::default(),
            views: ThreadViews::default(),
            progress: watch::channel(idle).0,
            wake: Arc::default(),
            requested_rebuilds: AtomicU64::new(0),
            rebuilder_stopped: AtomicBool::new(false),
            rebuilder_due: AtomicI64::new(i64::MAX),
            rebuilder_id: AtomicU64::new(0),
            revoking: AtomicBool::new(false),
            rebuilder: Mutex::new(None),
            rotation: Mutex::default(),
        };
        Self {
            current: inner.current.clone(),
            inner: Arc::new(inner),
        }
    }

    /// Returns the resolver that the secrets are read through.
    pub fn resolver(&self) -> &Resolver {
        &self.inner.resolver
    }
}

impl<A> Inner<A> {
    /// Returns whether a reader must start a rebuilder on its own runtime.
    #[inline]
    fn needs_rebuilder(&self) -> bool {
        self.rebuilder_stopped.load(Ordering::Relaxed)
            || clock::coarse().to_nanos() > self.rebuilder_due.load(Ordering::Relaxed)
    }

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
            .field("origin", self.inner.resolver.origin())
            .field("mode", &self.inner.settings.mode)
            .field("state", &self.inner.progress.borrow().state)
            .finish_non_exhaustive()
    }
}

/// The future of [`LazyAuth::get`].
// It is a named type and not an `async fn`, so that the compiler inlines the read of a ready auth.
#[must_use = "futures do nothing unless polled"]
pub struct Get<'a, A>(Step<'a, A>);

// The enum has two machine words. Each further word would make the ready path measurably slower.
enum Step<'a, A> {
    Check(&'a LazyAuth<A>),
    Start(StartFuture<'a, A>),
}

type StartFuture<'a, A> = Pin<Box<dyn Future<Output = Result<Guard<A>, NotReady>> + Send + 'a>>;

impl<A: Send + Sync + 'static> Future for Get<'_, A> {
    type Output = Result<Guard<A>, NotReady>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Step::Check(auth) = self.0 {
            match Guard::new(&auth.current) {
                Some(guard) if !auth.inner.needs_rebuilder() => return Poll::Ready(Ok(guard)),
                _ => self.0 = Step::Start(auth.start_boxed(auth.inner.settings.deadline)),
            }
        }
        match &mut self.0 {
            Step::Start(start) => start.as_mut().poll(context),
            Step::Check(_) => Poll::Pending,
        }
    }
}

impl<A> fmt::Debug for Get<'_, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Get").finish_non_exhaustive()
    }
}

/// Subscription to the state of a [`LazyAuth`]. Created by [`LazyAuth::watch_state`].
#[derive(Debug, Clone)]
pub struct StateWatch {
    /// The state that was returned last.
    last: State,
    progress: watch::Receiver<Progress>,
}

impl StateWatch {
    /// Returns the current state.
    pub fn current(&self) -> State {
        self.progress.borrow().state.clone()
    }

    /// Waits until the state differs from the state that this watch returned last, and returns the
    /// new state. The first call compares with the state at the time of [`LazyAuth::watch_state`].
    ///
    /// Intermediate states can be skipped. Returns `None` after the auth was dropped.
    pub async fn changed(&mut self) -> Option<State> {
        let last = self.last.clone();
        self.wait_for(|state| *state != last).await
    }

    /// Waits until `condition` returns true for the state, and returns that state. Returns `None`
    /// after the auth was dropped.
    pub async fn wait_for(&mut self, mut condition: impl FnMut(&State) -> bool) -> Option<State> {
        let state = {
            let progress = self
                .progress
                .wait_for(|progress| condition(&progress.state));
            progress.await.ok()?.state.clone()
        };
        self.last = state.clone();
        Some(state)
    }
}
