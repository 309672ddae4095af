//! [`State`] of a [`LazyAuth`](crate::LazyAuth), and [`NotReady`], the reason why it has no build
//! or an outdated one.

use std::fmt;
use std::io::Write as _;
use std::sync::{Arc, Once};
use std::time::Duration;

use secretwell_core::{Error, ErrorKind};
use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};
use tokio::time::Instant;

/// Number of a successful build. The first build is number 1.
pub type Generation = u64;

/// State of a [`LazyAuth`](crate::LazyAuth).
///
/// Each change is logged as one event, `state_changed`. Retries that fail with the same problems
/// are not logged again.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "state")]
#[non_exhaustive]
pub enum State {
    /// The `LazyAuth` was not used yet, so no secret was read.
    Idle,
    /// The first build is in progress.
    Starting,
    /// The current build is up to date.
    Ready {
        /// The number of the current build.
        generation: Generation,
        /// Whether all previous secrets are known.
        history: VersionHistory,
    },
    /// The current build is in use while its successor is built.
    Rotating {
        /// The number of the current build, which is the previous one after the rotation.
        generation: Generation,
        /// Whether all previous secrets are known.
        history: VersionHistory,
    },
    /// The current build is in use, but the last attempt failed. The source is unreachable, or a
    /// secret is absent, too weak, or rejected by the builder closure.
    Degraded {
        /// The number of the current build, which is the last successful one.
        generation: Generation,
        /// Whether all previous secrets are known.
        history: VersionHistory,
        /// The failure of the last attempt.
        failure: NotReady,
    },
    /// There is no build, because the last attempt failed.
    Failed {
        /// The failure of the last attempt. [`NotReady::retry_at`] is the time of the next one.
        failure: NotReady,
    },
}

impl State {
    /// Returns whether there is a build that can be used.
    pub fn is_serving(&self) -> bool {
        !matches!(self, Self::Idle | Self::Starting | Self::Failed { .. })
    }

    /// Returns the name of the state, as it appears in the log.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Starting => "starting",
            Self::Ready { .. } => "ready",
            Self::Rotating { .. } => "rotating",
            Self::Degraded { .. } => "degraded",
            Self::Failed { .. } => "failed",
        }
    }

    /// Returns the number of the current build, or `None` before the first build.
    pub fn generation(&self) -> Option<Generation> {
        match self {
            Self::Ready { generation, .. }
            | Self::Rotating { generation, .. }
            | Self::Degraded { generation, .. } => Some(*generation),
            Self::Idle | Self::Starting | Self::Failed { .. } => None,
        }
    }

    /// Returns whether all previous secrets are known, or `None` before the first build.
    pub fn history(&self) -> Option<VersionHistory> {
        match self {
            Self::Ready { history, .. }
            | Self::Rotating { history, .. }
            | Self::Degraded { history, .. } => Some(*history),
            Self::Idle | Self::Starting | Self::Failed { .. } => None,
        }
    }
}

/// Whether all previous secrets verify whose grace period has not ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum VersionHistory {
    /// All previous secrets verify that the source can return.
    #[default]
    Complete,
    /// A previous secret is left out, so what it has signed might be rejected.
    ///
    /// - A version could not be read yet. The read is retried in the background.
    /// - The rules for signing secrets refuse a version. It is logged once, as the event
    ///   `previous_version_refused`, and counts until its grace period ends.
    /// - There are more previous secrets than
    ///   [`max_previous`](crate::LazyAuthBuilder::max_previous). This is logged as the event
    ///   `previous_secrets_dropped`, and counts until the grace period of the dropped secrets ends. With the
    ///   limit 0, it does not count.
    Incomplete,
}

impl VersionHistory {
    /// Returns the name of the variant, as it appears in the log.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Incomplete => "incomplete",
        }
    }
}

/// Failure of a build, with every problem of its secrets.
///
/// The text names keys and origins, so it is for the log and not for clients. With the feature
/// `tower`, a `Rejection` that is created from it is the response for clients. It contains no reason.
#[derive(Clone)]
pub struct NotReady(Arc<Inner>);

// The pointer keeps the `Result` of the ready path small.
struct Inner {
    problems: Vec<Error>,
    retry_at: Option<Instant>,
}

impl NotReady {
    /// Creates the failure of an attempt, and [reports](Self::print_without_subscriber) it.
    pub(crate) fn new(problems: Vec<Error>, retry_at: Option<Instant>) -> Self {
        let failure = Self(Arc::new(Inner { problems, retry_at }));
        failure.print_without_subscriber();
        failure
    }

    /// Creates a failure with one temporary problem, which is not the result of an attempt.
    pub(crate) fn unavailable(message: &'static str, hint: &'static str) -> Self {
        let problem = Error::new(ErrorKind::Unavailable, message).with_hint(hint);
        let problems = vec![problem];
        let retry_at = None;
        Self(Arc::new(Inner { problems, retry_at }))
    }

    /// Prints the first failure of the process if there is no `tracing` subscriber.
    pub(crate) fn print_without_subscriber(&self) {
        static PRINTED: Once = Once::new();
        print_without_subscriber(&PRINTED, self);
    }

    /// Returns every problem, each with its key and origin where they are known. The list is not
    /// empty.
    pub fn problems(&self) -> &[Error] {
        &self.0.problems
    }

    /// Returns whether the failure might end without a change of secrets or configuration.
    ///
    /// A build that is still in progress and an unreachable source are temporary. An absent or weak
    /// secret is not.
    pub fn is_temporary(&self) -> bool {
        self.0.problems.iter().all(Error::is_temporary)
    }

    /// Returns the time of the next attempt, or `None` if it is not known.
    pub fn retry_at(&self) -> Option<Instant> {
        self.0.retry_at
    }

    /// Returns the time until the next attempt, at least 1 s. It is the value for `Retry-After`.
    pub fn retry_after(&self) -> Duration {
        let wait = self
            .retry_at()
            .map(|at| at.saturating_duration_since(Instant::now()));
        wait.unwrap_or_default().max(Duration::from_secs(1))
    }
}

/// Prints a problem to standard error if no `tracing` subscriber was ever set, once per `printed`.
/// Without a subscriber, the reason of a 500 response would not appear anywhere.
pub(crate) fn print_without_subscriber(printed: &Once, problem: impl fmt::Display) {
    if !tracing::dispatcher::has_been_set() {
        printed.call_once(|| {
            // `eprintln` panics if nobody reads standard error any more.
            let _ = writeln!(
                std::io::stderr(),
                "secretwell: {problem}\nsecretwell: set a `tracing` subscriber to see all events"
            );
        });
    }
}

/// Compares the texts of the problems, and ignores the time of the next attempt.
impl PartialEq for NotReady {
    fn eq(&self, other: &Self) -> bool {
        let texts = |failure: &Self| {
            failure
                .problems()
                .iter()
                .map(Error::to_string)
                .collect::<Vec<_>>()
        };
        texts(self) == texts(other)
    }
}

impl fmt::Display for NotReady {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not ready:")?;
        for (index, problem) in self.0.problems.iter().enumerate() {
            write!(f, " ({}) {problem}", index + 1)?;
        }
        Ok(())
    }
}

/// `{:?}` prints the same text as `{}`, because a `main` that returns an error prints it with
/// `{:?}`. `{:#?}` prints the fields.
impl fmt::Debug for NotReady {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !f.alternate() {
            return fmt::Display::fmt(self, f);
        }
        f.debug_struct("NotReady")
            .field("problems", &self.0.problems)
            .finish_non_exhaustive()
    }
}

impl Serialize for NotReady {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("NotReady", 2)?;
        fields.serialize_field("problems", self.problems())?;
        fields.serialize_field("retry_after_seconds", &self.retry_after().as_secs_f64())?;
        fields.end()
    }
}

impl std::error::Error for NotReady {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.problems.first().map(|problem| problem as _)
    }
}
