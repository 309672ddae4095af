//! Exit statuses, and the failures that lead to them.

use std::process::ExitCode;

use secretwell::{Error, ErrorKind};

/// The section about exit statuses in `--help` and in the manual. 64 to 78 are those of `sysexits.h`. 126
/// and 127 are those of shells.
pub(crate) const EXIT_STATUS: &str = "Exit status:
  0    success
  64   usage: invalid command line
  65   invalid: a secret is not acceptable, or a source returned an invalid response
  66   missing: a required secret is in no source
  69   unavailable: a source cannot be reached at the moment; retry later
  74   output: standard output or a file cannot be written
  77   denied: a source denied the login or the read
  78   configuration: a source, a profile or a name is invalid
  126  run: the program cannot be executed
  127  run: the program was not found
  else run: the exit status of the program; if a signal ends the program, it also ends `run`

If there are several problems, the status is the first that applies in the order 78, 77, 69, 66, 65.";

/// The reason of a failure. The variants are in ascending order of precedence: of several problems, the
/// greatest reason determines the exit status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reason {
    Output,
    Invalid,
    Missing,
    Unavailable,
    Denied,
    Configuration,
    Usage,
    NotExecutable,
    ProgramNotFound,
}

impl Reason {
    pub(crate) fn from_kind(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::NotFound => Self::Missing,
            ErrorKind::Denied | ErrorKind::Unauthenticated => Self::Denied,
            ErrorKind::Unavailable | ErrorKind::RateLimited { .. } | ErrorKind::Timeout => {
                Self::Unavailable
            }
            ErrorKind::InvalidKey | ErrorKind::InvalidConfig | ErrorKind::Unsupported => {
                Self::Configuration
            }
            _ => Self::Invalid,
        }
    }

    pub(crate) fn status(self) -> ExitCode {
        ExitCode::from(match self {
            Self::Usage => 64,
            Self::Invalid => 65,
            Self::Missing => 66,
            Self::Unavailable => 69,
            Self::Output => 74,
            Self::Denied => 77,
            Self::Configuration => 78,
            Self::NotExecutable => 126,
            Self::ProgramNotFound => 127,
        })
    }
}

/// One or more problems that end the command. Each problem is one line of text.
#[derive(Debug)]
pub(crate) struct Failure {
    reason: Reason,
    problems: Vec<String>,
}

impl Failure {
    pub(crate) fn new(reason: Reason, problem: impl Into<String>) -> Self {
        Self::with_problems(reason, vec![problem.into()])
    }

    pub(crate) fn with_problems(reason: Reason, problems: Vec<String>) -> Self {
        Self { reason, problems }
    }

    /// Returns `None` if `errors` is empty.
    pub(crate) fn from_errors(errors: &[Error]) -> Option<Self> {
        let reasons = errors.iter().map(|error| Reason::from_kind(error.kind()));
        Some(Self {
            reason: reasons.max()?,
            problems: errors.iter().map(Error::to_string).collect(),
        })
    }

    pub(crate) fn reason(&self) -> Reason {
        self.reason
    }

    pub(crate) fn problems(&self) -> &[String] {
        &self.problems
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::new(Reason::from_kind(error.kind()), error.to_string())
    }
}
