//! How the command ends when it does not end well.

use std::process::ExitCode;

use secretwell::{Error, ErrorKind};

/// The statuses as the manual tells them. They follow `sysexits.h`, and for `run` what shells do.
pub(crate) const EXIT_STATUS: &str = "Exit status:
  0    all is well
  64   usage: the command line makes no sense
  65   invalid: a secret is there and not acceptable, or the answer of a source makes no sense
  66   absent: a secret that is needed is in none of the sources
  69   unavailable: a source cannot be asked now; trying again may help
  74   output: the result could not be written
  77   denied: a source refuses the login or the reading
  78   configuration: a source, a profile or a name cannot work
  126  run: the program cannot be executed
  127  run: there is no such program
  else run: the program's own; a signal that ends the program ends `run` as well

Of several problems, the first in the order 78, 77, 69, 66, 65 counts.";

/// Why it ends. In the order of [`EXIT_STATUS`]'s last line, so that the greatest counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reason {
    Output,
    Invalid,
    Absent,
    Unavailable,
    Denied,
    Configuration,
    Usage,
    NotExecutable,
    NoSuchProgram,
}

impl Reason {
    pub(crate) fn of(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::NotFound => Self::Absent,
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
            Self::Absent => 66,
            Self::Unavailable => 69,
            Self::Output => 74,
            Self::Denied => 77,
            Self::Configuration => 78,
            Self::NotExecutable => 126,
            Self::NoSuchProgram => 127,
        })
    }
}

/// What went wrong: one problem or several, each one line.
#[derive(Debug)]
pub(crate) struct Failure {
    reason: Reason,
    problems: Vec<String>,
}

impl Failure {
    pub(crate) fn new(reason: Reason, problem: impl Into<String>) -> Self {
        Self::several(reason, vec![problem.into()])
    }

    pub(crate) fn several(reason: Reason, problems: Vec<String>) -> Self {
        Self { reason, problems }
    }

    /// `None` when there are no problems.
    pub(crate) fn of(problems: &[Error]) -> Option<Self> {
        let reasons = problems.iter().map(|error| Reason::of(error.kind()));
        Some(Self {
            reason: reasons.max()?,
            problems: problems.iter().map(Error::to_string).collect(),
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
        Self::new(Reason::of(error.kind()), error.to_string())
    }
}
