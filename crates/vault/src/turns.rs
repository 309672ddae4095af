//! Requests whose results callers share, one at a time.

use std::time::Duration;

use secretwell_core::Error;
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::{Instant, timeout, timeout_at};

/// How much longer than its deadline a turn can take, so that the error of a request itself comes first. A caller
/// who waits for the turn of another one waits this much longer again, so that the error of that turn comes first.
const SLACK: Duration = Duration::from_millis(50);

/// Turns of callers, each of whom requests the same thing.
#[derive(Default)]
pub(crate) struct Turns(Mutex<Option<Failure>>);

/// The failure of the last turn.
pub(crate) struct Failure {
    at: Instant,
    error: Error,
}

impl Turns {
    /// Runs `attempt` when no other caller does. The attempt first checks whether the last turn has already
    /// fetched what it needs. If the last turn has failed while this caller waited for it, returns its error.
    ///
    /// # Errors
    /// Returns the result of `timed_out` after `deadline`, which includes the time of waiting. Its argument is the
    /// time of this call.
    pub(crate) async fn take<T>(
        &self,
        deadline: Duration,
        timed_out: impl Fn(Instant) -> Error,
        attempt: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let called = Instant::now();
        let turn = async {
            let mut failure = self.0.lock().await;
            if let Some(Failure { at, error }) = &*failure
                && called < *at
            {
                return Err(error.clone());
            }
            // A turn that takes too long fails for all callers. Otherwise, each of them would start another one.
            let result = timeout_at(called + deadline + SLACK, attempt).await;
            let result = result.unwrap_or_else(|_| Err(timed_out(called)));
            *failure = result.as_ref().err().map(|error| Failure {
                at: Instant::now(),
                error: error.clone(),
            });
            result
        };
        let result = timeout(deadline + 2 * SLACK, turn).await;
        result.unwrap_or_else(|_| Err(timed_out(called)))
    }

    /// Waits for the end of the current turn. No other turn begins before the guard is dropped.
    pub(crate) async fn wait(&self) -> MutexGuard<'_, Option<Failure>> {
        self.0.lock().await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use secretwell_core::ErrorKind;
    use tokio::time::sleep;

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(20);

    fn slow(_: Instant) -> Error {
        Error::new(ErrorKind::Timeout, "slow")
    }

    /// Runs ten callers at once, whose attempts end after `duration`. Returns their results, the number of
    /// attempts, and the time until the last caller returned.
    async fn ten_callers(duration: Duration) -> (Vec<ErrorKind>, usize, Duration) {
        let (turns, attempts) = (Turns::default(), AtomicUsize::new(0));
        let started = Instant::now();
        let call = async || {
            let attempt = async {
                attempts.fetch_add(1, Ordering::SeqCst);
                sleep(duration).await;
                Err::<(), _>(Error::new(ErrorKind::Unavailable, "down"))
            };
            turns
                .take(DEADLINE, slow, attempt)
                .await
                .unwrap_err()
                .kind()
        };
        let calls = std::iter::repeat_with(call).take(10);
        let kinds = secretwell_core::backend::join_bounded(10, calls).await;
        (kinds, attempts.into_inner(), started.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_callers_share_a_failure() {
        let (kinds, attempts, elapsed) = ten_callers(DEADLINE).await;
        assert_eq!(kinds, [ErrorKind::Unavailable; 10]);
        assert_eq!((attempts, elapsed), (1, DEADLINE));
    }

    #[tokio::test(start_paused = true)]
    async fn each_caller_has_its_own_deadline() {
        let (kinds, attempts, elapsed) = ten_callers(3 * DEADLINE).await;
        assert_eq!((kinds, attempts), (vec![ErrorKind::Timeout; 10], 1));
        assert!(elapsed < DEADLINE + 2 * SLACK, "{elapsed:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn later_caller_starts_another_attempt() {
        let turns = Turns::default();
        let fail = async { Err::<(), _>(Error::new(ErrorKind::Unavailable, "down")) };
        turns.take(DEADLINE, slow, fail).await.unwrap_err();
        turns.take(DEADLINE, slow, async { Ok(()) }).await.unwrap();
        // A cancelled attempt leaves nothing to share.
        let cancelled = turns.take(DEADLINE, slow, sleep_and_fail());
        assert!(timeout(Duration::from_secs(1), cancelled).await.is_err());
        turns.take(DEADLINE, slow, async { Ok(()) }).await.unwrap();
    }

    async fn sleep_and_fail() -> Result<(), Error> {
        sleep(DEADLINE).await;
        Err(Error::new(ErrorKind::Unavailable, "down"))
    }
}
