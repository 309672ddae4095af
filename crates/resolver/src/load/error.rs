//! All that is wrong with a load.

use std::fmt;

use super::short;
use secretwell_core::Error;

/// Everything that kept a type from being loaded.
///
/// Each problem is an [`Error`] with its key: [`NotFound`](secretwell_core::ErrorKind::NotFound) for what is
/// absent or empty, [`Invalid`](secretwell_core::ErrorKind::Invalid) for what does not parse as its field's
/// type, and any other kind for what failed to be read.
#[derive(Debug, Clone)]
pub struct LoadError {
    type_name: &'static str,
    problems: Vec<Error>,
}

impl LoadError {
    /// The problems of loading a `T`. There should be one at least.
    pub fn new<T>(problems: Vec<Error>) -> Self {
        Self {
            type_name: std::any::type_name::<T>(),
            problems,
        }
    }

    /// The problems, in the order of the fields as far as they are about fields.
    pub fn problems(&self) -> &[Error] {
        &self.problems
    }

    /// Whether all of it may pass by itself.
    pub fn is_temporary(&self) -> bool {
        self.problems.iter().all(Error::is_temporary)
    }
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.problems.len();
        let plural = if count == 1 { "" } else { "s" };
        write!(f, "{}: {count} problem{plural}", short(self.type_name))?;
        for (index, problem) in self.problems.iter().enumerate() {
            write!(f, " ({}) {problem}", index + 1)?;
        }
        Ok(())
    }
}

impl std::error::Error for LoadError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.problems.first().map(|problem| problem as _)
    }
}
