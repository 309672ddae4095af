//! All that is wrong with a load.

use std::fmt;

use super::short;
use secretwell_core::Error;

/// Everything that kept a type from being loaded.
///
/// Each problem is an [`Error`] with its key: [`NotFound`](secretwell_core::ErrorKind::NotFound) for what is
/// absent or empty, [`Invalid`](secretwell_core::ErrorKind::Invalid) for what does not parse as its field's
/// type, and any other kind for what failed to be read.
#[derive(Clone)]
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

/// The name of the type and the number of problems, then one line for each problem.
impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.problems.len();
        let plural = if count == 1 { "" } else { "s" };
        write!(f, "{}: {count} problem{plural}", short(self.type_name))?;
        for problem in &self.problems {
            write!(f, "\n  - {problem}")?;
        }
        Ok(())
    }
}

/// `{:?}` prints the same text as `{}`, because a `main` that returns an error prints it with `{:?}`.
/// `{:#?}` prints the fields.
impl fmt::Debug for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !f.alternate() {
            return fmt::Display::fmt(self, f);
        }
        f.debug_struct("LoadError")
            .field("type_name", &self.type_name)
            .field("problems", &self.problems)
            .finish()
    }
}

impl std::error::Error for LoadError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.problems.first().map(|problem| problem as _)
    }
}
