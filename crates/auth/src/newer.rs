//! Reads of the secrets before their ttl ends, because a request or another service shows that they might have
//! changed.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::built::Guard;
use crate::lazy::LazyAuth;
use crate::progress::Progress;
use crate::refresh::{Ended, Refreshes};
use crate::runtime::{has_timer, timeout};
use crate::shared::Shared;
use crate::source::Results;
use crate::state::Generation;

impl<A: Send + Sync + 'static> LazyAuth<A> {
    /// Returns a build that is newer than the generation `used`. Without one, reads the secrets again
    /// and waits for the build from them. Returns `None` if the secrets are unchanged.
    ///
    /// Call it when a request has presented a credential that names an unknown key. The secret might have
    /// been rotated before its ttl has ended. `Rejection::unknown_key` does this for a `Principal` (feature
    /// `tower`).
    ///
    /// The credential might be forged, so this costs at most one read of the source in 10 s, whatever the
    /// number of calls. Concurrent callers share it, each for at most the configured deadline. Calls within
    /// 10 s of the last read return at once. A source that fails is not read more often than the resolver
    /// retries it, and leases are kept. Requests that use the current build do not wait.
    ///
    /// Returns `None` as well if the source cannot be read, if the build fails, if the deadline passes, or if
    /// this is called outside of a tokio runtime, or in one without a timer. The credential is unknown then,
    /// so treat it as invalid. Cancelling this call does not cancel the read.
    pub async fn refresh_if_used(&self, used: Generation) -> Option<Guard<A>> {
        self.newer_than(used, Reason::UnknownKey).await
    }

    /// Reports that another service has rejected the credentials of the build with the generation `used`. Returns a
    /// newer build to try instead, or `None`.
    ///
    /// Call it when a database responds that the password is wrong, or an HTTP service with 401. If there is no newer
    /// build yet, the values of `used` are reported to their source, which discards them, such as the lease of a
    /// database user, without revoking it. Then the secrets are read again. This includes all secrets of the build, so use
    /// one `LazyAuth` for each login. [`Resolver::report_rejected`] describes this for one secret.
    ///
    /// The other service might reject valid credentials, so the reads of the source are limited, whatever the number
    /// of calls. After a read, the next one can start after 1 s. This time doubles with each successful read that follows
    /// soon, up to a minute. A failed read is repeated once. Concurrent callers share a read, each for at most the configured
    /// deadline. Calls that come too early for a read return at once. The current build stays in use until there is a
    /// newer one.
    ///
    /// Returns `None` if the source still has the rejected values, if it cannot be read, if the build fails, if the
    /// deadline passes, or if this is called outside of a tokio runtime, or in one without a timer. Cancelling this
    /// call does not cancel the read.
    ///
    /// ```
    /// use secretwell::auth::{Guard, LazyAuth};
    /// # use secretwell::{MemoryProvider, Resolver, SecretString};
    /// # #[derive(serde::Deserialize)]
    /// # struct Login { password: SecretString }
    /// # struct Connection;
    /// # struct WrongPassword;
    /// # async fn connect(_: &Login) -> Result<Connection, WrongPassword> { Ok(Connection) }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let memory = MemoryProvider::from_iter([("password", "correct horse battery staple, at length")]);
    /// # let login = LazyAuth::new(Resolver::new(memory), |login: Login, _| async move { Ok(login) });
    /// let current = login.get().await?;
    /// let mut connection = connect(&current).await;
    /// if connection.is_err()
    ///     && let Some(newer) = login.report_rejected(Guard::generation(&current)).await
    /// {
    ///     connection = connect(&newer).await;
    /// }
    /// # assert!(connection.is_ok());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// [`Resolver::report_rejected`]: secretwell_resolver::Resolver::report_rejected
    pub async fn report_rejected(&self, used: Generation) -> Option<Guard<A>> {
        self.newer_than(used, Reason::Rejected(used)).await
    }

    /// Returns a build that is newer than the generation `used`. Without one, reads the secrets again because of
    /// `reason`, unless that was done recently, and waits for the build from them.
    async fn newer_than(&self, used: Generation, reason: Reason) -> Option<Guard<A>> {
        let newer = || {
            self.loaded()
                .filter(|guard| Guard::generation(guard) > used)
        };
        let shared = self.shared();
        if let Some(guard) = newer() {
            return Some(guard);
        }
        if !has_timer() {
            return None;
        }
        let mut progress = shared.progress.subscribe();
        let deadline = shared.settings.deadline;
        let attempts = progress.borrow().attempts;
        let refreshes = reason.refreshes(shared);
        let (mut refresh, sender) = refreshes.join(Instant::now(), deadline, attempts);
        if let Some(sender) = sender {
            // The task outlives this call, so that its cancellation does not affect the other callers.
            tokio::spawn(read_again(shared.clone(), reason, sender));
        }
        let started = Instant::now();
        let ended = timeout(deadline, refresh.ended()).await.ok()?;
        if used > ended.generation {
            return newer();
        }
        let is_built = |progress: &Progress| {
            // The rebuild task has decided about the results, or it has failed.
            let is_known = shared.memory().knows(&ended.results);
            let has_failed = progress.attempts > refresh.attempts && progress.failure.is_some();
            (is_known || has_failed || newer().is_some()).then_some(())
        };
        let rest = deadline.saturating_sub(started.elapsed());
        let _ = self.wait_for(&mut progress, rest, is_built).await;
        newer()
    }
}

/// Why the secrets are read again.
#[derive(Debug, Clone, Copy)]
enum Reason {
    /// A request names an unknown key.
    UnknownKey,
    /// Another service has rejected the build with this generation.
    Rejected(Generation),
}

impl Reason {
    /// Forged requests do not delay the read because of a rejected build, so each reason has a limit of its own.
    fn refreshes<A>(self, shared: &Shared<A>) -> &Refreshes {
        match self {
            Self::UnknownKey => &shared.refreshes,
            Self::Rejected(_) => &shared.rejections,
        }
    }

    async fn read<A>(self, shared: &Shared<A>) -> Results {
        let name = shared.settings.name.as_deref();
        match self {
            Self::UnknownKey => {
                tracing::debug!(
                    target: "secretwell::auth",
                    event = "unknown_key",
                    name,
                    "a request names an unknown key, so the secrets are read again",
                );
                shared.source.revalidate().await
            }
            Self::Rejected(generation) => {
                let Some(rejected) = shared.results_of(generation) else {
                    return Results::default();
                };
                tracing::warn!(
                    target: "secretwell::auth",
                    event = "credentials_rejected",
                    name,
                    generation,
                    "another service has rejected the credentials of the current build, so the secrets are read again",
                );
                shared.source.report_rejected(rejected).await
            }
        }
    }
}

/// Reads the secrets because of `reason`. Changes reach the rebuild task as usual.
async fn read_again<A>(shared: Arc<Shared<A>>, reason: Reason, ended: watch::Sender<Ended>) {
    let mut progress = shared.progress.subscribe();
    let closed = progress.wait_for(|progress| progress.is_closed);
    let read = timeout(shared.settings.deadline, reason.read(&shared));
    let read = tokio::select! {
        _ = closed => return,
        read = read => read,
    };
    if let Ok(results) = read {
        let generation = shared.current.generation();
        ended.send_replace(Ended {
            results,
            generation,
        });
    }
}
