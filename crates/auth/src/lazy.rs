//! [`LazyAuth`], with its future [`Get`].

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use secretwell_resolver::Resolver;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::built::{Current, Guard, ThreadViews};
use crate::progress::{Progress, StateWatch};
use crate::reader::Reader;
use crate::rebuilder::{ensure, restart};
use crate::runtime::{Expired, require_runtime, timeout};
use crate::shared::{RESPONSE_TIME, Settings, Shared, first_build_in_progress};
use crate::spec::BuildSpec;
use crate::state::{NotReady, State};

/// A reader with a build waits for at most this long for a rebuild task that was late.
pub(crate) const MAX_WAIT_FOR_TASK: Duration = Duration::from_secs(1);
/// The coarse clock lags behind the timers by at most this time.
const CLOCK_RESOLUTION: Duration = Duration::from_millis(10);

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
    /// The same slot as in `inner`. The copy saves a pointer dereference on each read.
    current: Current<A>,
}

/// What the clones of an auth share. The background task has no reference to it, so that dropping the
/// last clone ends the task.
pub(crate) struct Inner<A> {
    shared: Arc<Shared<A>>,
    views: ThreadViews,
}

impl<A: Send + Sync + 'static> LazyAuth<A> {
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
    /// - if there is no build yet and this is called outside of a tokio runtime, or in one without a
    ///   timer.
    #[inline]
    pub fn get(&self) -> Get<'_, A> {
        Get(Step::Check(self))
    }

    /// Like [`get`](Self::get), with a deadline for this call.
    ///
    /// # Errors
    /// The same as for [`get`](Self::get).
    pub async fn get_within(&self, deadline: Duration) -> Result<Guard<A>, NotReady> {
        match self.loaded() {
            Some(guard) if !self.current.is_overdue() => Ok(guard),
            _ => self.start_boxed(deadline).await,
        }
    }

    /// Waits until there is a build, for at most `deadline`, and returns it. Starts the first build.
    ///
    /// Unlike [`get`](Self::get), this does not return the failure of an attempt while there is time
    /// for another one. Use it in tests after writing a secret, and in a program that must not accept
    /// requests before it can authenticate them.
    ///
    /// Cancelling this call does not cancel the build.
    ///
    /// # Errors
    /// Returns the failure of the last attempt if the deadline passes. Also returns [`NotReady`] if this
    /// is called outside of a tokio runtime, or in one without a timer.
    pub async fn ready(&self, deadline: Duration) -> Result<Guard<A>, NotReady> {
        if self.loaded().is_some() {
            return self.get_within(deadline).await;
        }
        require_runtime()?;
        let mut progress = self.shared().progress.subscribe();
        let built = self.wait_for(&mut progress, deadline, |_| self.loaded());
        built
            .await
            .map_err(|expired| {
                let failure = progress.borrow().failure.clone();
                expired.failure(|| failure.unwrap_or_else(first_build_in_progress))
            })
            .inspect_err(NotReady::print_without_subscriber)
    }

    /// Returns the current build without waiting. Before the first build, starts it and returns an
    /// error.
    ///
    /// # Errors
    /// Returns [`NotReady`] if the first build is still in progress or if the last attempt failed. Before
    /// the first build, also returns it if this is called outside of a tokio runtime, or in one without
    /// a timer.
    pub fn try_get(&self) -> Result<Guard<A>, NotReady> {
        if let Some(guard) = self.peek() {
            return Ok(guard);
        }
        require_runtime()?;
        ensure(self.shared());
        self.shared().wake();
        match &self.shared().progress.borrow().state {
            State::Failed { failure } => Err(failure.clone()),
            _ => Err(first_build_in_progress()),
        }
    }

    /// Returns the current build, or `None` before the first build. Does not start the first build.
    pub fn peek(&self) -> Option<Guard<A>> {
        let guard = self.loaded()?;
        if self.current.is_overdue() {
            restart(self.shared());
        }
        Some(guard)
    }

    /// Calls `reader` with the current value, or returns `None` before the first build. Does not
    /// start the first build.
    ///
    /// This is the fastest way to read from many threads without keeping anything. Each thread keeps
    /// the build that it read last until it reads again or the `LazyAuth` is dropped.
    pub fn with<R>(&self, reader: impl FnOnce(&A) -> R) -> Option<R> {
        if self.current.is_overdue_awake() {
            restart(self.shared());
        }
        self.inner.views.with(&self.current, reader)
    }

    /// Returns the current state.
    ///
    /// A build that no background task keeps up to date, because its runtime is not running, is
    /// [`Degraded`](State::Degraded). Within a tokio runtime, this starts another task for it.
    pub fn state(&self) -> State {
        let state = self.shared().progress.borrow().observe(&self.current);
        if state.is_serving() && self.current.is_overdue() {
            restart(self.shared());
        }
        state
    }

    /// Subscribes to changes of the state.
    pub fn watch_state(&self) -> StateWatch {
        let task = Arc::new(self.current.clone());
        StateWatch::new(self.shared().progress.subscribe(), task)
    }

    /// Returns a [`Reader`] for a task or a connection that reads repeatedly, or `None` before the
    /// first build. Does not start the first build.
    pub fn reader(&self) -> Option<Reader<A>> {
        Reader::new(self.shared())
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
    /// if this is called outside of a tokio runtime or in one without a timer. The previous build stays
    /// in use.
    pub async fn rebuild(&self) -> Result<Guard<A>, NotReady> {
        require_runtime()?;
        let shared = self.shared();
        let mut progress = shared.progress.subscribe();
        let ticket = shared.requested_rebuilds.fetch_add(1, Ordering::SeqCst) + 1;
        let deadline = shared.settings.deadline;
        let completed = self.wait_for(&mut progress, deadline, |progress| {
            (progress.completed_rebuilds >= ticket).then(|| self.result(&progress.rebuild_failure))
        });
        completed
            .await
            .unwrap_or_else(|expired| Err(expired.failure(timed_out)))
            .inspect_err(NotReady::print_without_subscriber)
    }

    /// Revokes all previous secrets. Afterwards, only the newest secret of each key signs and verifies,
    /// so everything that a previous secret signed is rejected.
    ///
    /// Use it after a leak: write a new secret first, and then revoke the previous ones.
    ///
    /// 1. The previous secrets in memory are revoked at once, and a build without them replaces the
    ///    current one. This needs no source, so it also works while the source is unreachable.
    /// 2. Then the source is read. If it returns a newer secret, the one in memory is revoked as well.
    ///    If it cannot be read, this is retried in the background until it succeeds.
    ///
    /// A revoked value is not accepted again by this `LazyAuth`, from any source. If the source returns it
    /// as the current secret, the attempt fails and the current build stays in use. A value that is also the
    /// current secret of another key stays valid for that key until it is replaced there.
    /// The auth remembers the last 4,096 revoked secrets, until the process exits. The cache of the
    /// resolver does not change.
    ///
    /// If a replica lags in step 2, the newer secret arrives later. It revokes the one in memory only if the
    /// source reports creation times. Check that [`state`](Self::state) and the log show the newest version.
    ///
    /// # Other processes
    /// This affects the secrets of one process only. A source that keeps old versions returns them to
    /// the next process while their grace period lasts. Write a
    /// [revocation time](crate::LazyAuthBuilder::revocation_key) to the source to revoke them in all
    /// processes, or delete the old versions.
    ///
    /// # Errors
    /// Returns [`NotReady`] if the build fails. Also returns it if no previous secret was in memory and
    /// the source could not be read within the configured deadline. Cancelling this call does not cancel
    /// the revocation.
    pub async fn revoke_previous(&self) -> Result<Guard<A>, NotReady> {
        require_runtime()?;
        let shared = self.shared();
        let mut progress = shared.progress.subscribe();
        let (ticket, revoked) = shared.revoke_previous();
        let deadline = shared.settings.deadline;
        let confirmed = self.wait_for(&mut progress, deadline, |progress| {
            (progress.confirmed_revocations >= ticket)
                .then(|| self.result(&progress.confirmation_failure))
        });
        let confirmed = confirmed.await;
        let is_applied = revoked > 0 && progress.borrow().applied_revocations >= ticket;
        match (confirmed, self.loaded()) {
            (Ok(Ok(guard)), _) => Ok(guard),
            (_, Some(guard)) if is_applied => Ok(guard),
            (Ok(Err(failure)), _) => Err(failure),
            (Err(expired), _) => Err(expired.failure(timed_out)),
        }
        .inspect_err(NotReady::print_without_subscriber)
    }

    pub(crate) fn loaded(&self) -> Option<Guard<A>> {
        Guard::new(&self.current)
    }

    /// Returns the result of the attempt that `progress` reports.
    fn result(&self, failure: &Option<NotReady>) -> Result<Guard<A>, NotReady> {
        match (failure, self.loaded()) {
            (None, Some(guard)) => Ok(guard),
            (Some(failure), _) => Err(failure.clone()),
            (None, None) => Err(first_build_in_progress()),
        }
    }

    /// Waits until `condition` returns a value for the progress of the rebuild task, for at most
    /// `deadline`. Starts another task if that one does not respond.
    pub(crate) async fn wait_for<R>(
        &self,
        progress: &mut watch::Receiver<Progress>,
        deadline: Duration,
        mut condition: impl FnMut(&Progress) -> Option<R>,
    ) -> Result<R, Expired> {
        let shared = self.shared();
        let poll = async {
            loop {
                ensure(shared);
                if let Some(result) = condition(&progress.borrow_and_update()) {
                    return Ok(result);
                }
                shared.wake();
                let patience = shared.current.due_in().min(RESPONSE_TIME) + CLOCK_RESOLUTION;
                // The sender exists, because `self` owns it.
                let changed = timeout(patience, progress.changed()).await;
                if let Err(Expired::ShuttingDown) = changed {
                    return Err(Expired::ShuttingDown);
                }
            }
        };
        timeout(deadline, poll).await.flatten()
    }

    #[cold]
    fn start_boxed(&self, deadline: Duration) -> StartFuture<'_, A> {
        Box::pin(self.start(deadline))
    }

    async fn start(&self, deadline: Duration) -> Result<Guard<A>, NotReady> {
        if let Some(guard) = self.loaded() {
            return Ok(self.catch_up(guard, deadline).await);
        }
        require_runtime()?;
        // Subscribing before the first check prevents a missed change.
        let mut progress = self.shared().progress.subscribe();
        let attempts_before = progress.borrow().attempts;
        let first_build = self.wait_for(&mut progress, deadline, |progress| {
            if let Some(guard) = self.loaded() {
                return Some(Ok(guard));
            }
            let failure = progress.failure.as_ref()?;
            let retry_at = failure.retry_at();
            let is_pending = retry_at.is_some_and(|retry_at| retry_at > Instant::now())
                && matches!(progress.state, State::Failed { .. });
            let was_attempted = progress.attempts > attempts_before;
            (was_attempted || is_pending).then(|| Err(failure.clone()))
        });
        first_build
            .await
            .unwrap_or_else(|expired| Err(expired.failure(first_build_in_progress)))
            .inspect_err(NotReady::print_without_subscriber)
    }

    /// Returns the current build after its late rebuild task was replaced. Waits for the first attempt
    /// of the new one, because the runtime might run its tasks only while a reader waits.
    async fn catch_up(&self, guard: Guard<A>, deadline: Duration) -> Guard<A> {
        let mut progress = self.shared().progress.subscribe();
        let attempts_before = progress.borrow().attempts;
        if restart(self.shared()) {
            let attempt = progress.wait_for(|progress| progress.attempts > attempts_before);
            let _ = timeout(deadline.min(MAX_WAIT_FOR_TASK), attempt).await;
        }
        self.loaded().unwrap_or(guard)
    }
}

impl<A> LazyAuth<A> {
    pub(crate) fn assemble(
        resolver: Resolver,
        spec: Box<dyn BuildSpec<A>>,
        settings: Settings,
    ) -> Self {
        let shared = Arc::new(Shared::new(resolver, spec, settings));
        #[cfg(feature = "metrics")]
        shared.report_state();
        Self {
            current: shared.current.clone(),
            inner: Arc::new(Inner {
                shared,
                views: ThreadViews::default(),
            }),
        }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared<A>> {
        &self.inner.shared
    }

    /// Returns the resolver that the secrets are read through.
    pub fn resolver(&self) -> &Resolver {
        &self.shared().source.resolver
    }

    /// Returns the name of this auth in the log, if it has one.
    pub fn name(&self) -> Option<&str> {
        self.shared().settings.name.as_deref()
    }
}

impl<A> Drop for Inner<A> {
    fn drop(&mut self) {
        self.shared.close();
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
        let state = self.shared().progress.borrow().observe(&self.current);
        f.debug_struct("LazyAuth")
            .field("name", &self.name())
            .field("origin", self.resolver().origin())
            .field("mode", &self.shared().settings.mode)
            .field("state", &state)
            .finish_non_exhaustive()
    }
}

fn timed_out() -> NotReady {
    NotReady::unavailable(
        "the rebuild did not finish within the deadline",
        "check that the source responds, or raise the deadline",
    )
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
                Some(guard) if !auth.current.is_overdue() => return Poll::Ready(Ok(guard)),
                _ => self.0 = Step::Start(auth.start_boxed(auth.shared().settings.deadline)),
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
