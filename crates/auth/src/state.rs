//! Where a lazily built auth stands.

use std::fmt;
use std::sync::{Arc, Once};
use std::time::Duration;

use secretwell_core::{Error, ErrorKind};
use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};
use tokio::time::Instant;

/// Counts the builds that came into service: 1 is the first.
pub type Generation = u64;

/// Where a [`LazyAuth`](crate::LazyAuth) stands. Each change of it is one event in the log.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "state")]
#[non_exhaustive]
pub enum State {
    /// Nobody has asked for it yet.
    Idle,
    /// The first build is under way.
    Starting,
    /// In service.
    Ready {
        /// The build that serves.
        generation: Generation,
    },
    /// In service, while the build from newer secrets is under way.
    Rotating {
        /// The build that serves meanwhile.
        generation: Generation,
    },
    /// In service, and something is the matter: the source cannot be asked, or its newest secrets
    /// are absent, too weak, or were rejected by the builder.
    Degraded {
        /// The build that goes on serving.
        generation: Generation,
        /// What is the matter.
        failure: NotReady,
    },
    /// Not in service: the start failed.
    Failed {
        /// Why. It also tells when the next try comes.
        failure: NotReady,
    },
}

impl State {
    /// Whether it serves.
    pub fn is_serving(&self) -> bool {
        !matches!(self, Self::Idle | Self::Starting | Self::Failed { .. })
    }

    /// The name of the state, as it stands in the log.
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

    /// The build that serves, if one does.
    pub fn generation(&self) -> Option<Generation> {
        match self {
            Self::Ready { generation }
            | Self::Rotating { generation }
            | Self::Degraded { generation, .. } => Some(*generation),
            Self::Idle | Self::Starting | Self::Failed { .. } => None,
        }
    }
}

/// Why there is no auth, or none from the newest secrets: every problem at once.
///
/// Its text is for the log. What a client may see is the HTTP answer that the `tower` feature makes
/// of it, which holds no reason.
#[derive(Clone)]
pub struct NotReady(Arc<Reasons>);

/// Behind a pointer, so that the `Result` of the ready path is small.
struct Reasons {
    problems: Vec<Error>,
    retry_at: Option<Instant>,
}

impl NotReady {
    pub(crate) fn new(problems: Vec<Error>, retry_at: Option<Instant>) -> Self {
        Self(Arc::new(Reasons { problems, retry_at }))
    }

    pub(crate) fn waiting(message: &'static str) -> Self {
        Self::new(vec![Error::new(ErrorKind::Unavailable, message)], None)
    }

    /// Writes the first failure of the process to standard error if no `tracing` subscriber was ever
    /// set. Otherwise a first attempt without a subscriber answers 500 and shows no reason anywhere.
    #[expect(clippy::print_stderr, reason = "there is no log to write to")]
    pub(crate) fn print_without_subscriber(&self) {
        static PRINTED: Once = Once::new();
        if !tracing::dispatcher::has_been_set() {
            PRINTED.call_once(|| {
                eprintln!(
                    "secretwell: {self}\nsecretwell: set a `tracing` subscriber to see all events"
                );
            });
        }
    }

    /// What is wrong, each with its key and source. There is at least one problem.
    pub fn problems(&self) -> &[Error] {
        &self.0.problems
    }

    /// Whether it may pass without anybody changing anything: a start that is still under way, a
    /// source that cannot be reached. An absent or weak secret is not temporary.
    pub fn is_temporary(&self) -> bool {
        self.0.problems.iter().all(Error::is_temporary)
    }

    /// When the next try comes, if that is known.
    pub fn retry_at(&self) -> Option<Instant> {
        self.0.retry_at
    }

    /// How long it is until the next try: at least a second, for `Retry-After`.
    pub fn retry_after(&self) -> Duration {
        let wait = self
            .retry_at()
            .map(|at| at.saturating_duration_since(Instant::now()));
        wait.unwrap_or_default().max(Duration::from_secs(1))
    }
}

/// Equal when the problems read the same, whenever the next try is.
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

/// `{:?}` prints the same text as `{}`, because a `main` that returns an error prints it with `{:?}`.
/// `{:#?}` prints the fields.
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
