//! The error of typed loading.

use std::fmt;

use secretwell_core::Error;

/// All problems that prevented the loading of a type.
///
/// Each problem is an [`Error`] with its key. The kind is
/// [`NotFound`](secretwell_core::ErrorKind::NotFound) for an absent or empty secret, and
/// [`Invalid`](secretwell_core::ErrorKind::Invalid) for a value that does not parse as the type of its
/// field. Other kinds report failed reads.
#[derive(Clone)]
pub struct LoadError {
    type_name: &'static str,
    problems: Vec<Error>,
}

impl LoadError {
    /// Creates the error for a `T` from its problems. There should be at least one.
    pub fn new<T>(problems: Vec<Error>) -> Self {
        Self {
            type_name: std::any::type_name::<T>(),
            problems,
        }
    }

    /// Returns the problems in the order of the fields. Problems without a field are last.
    pub fn problems(&self) -> &[Error] {
        &self.problems
    }

    /// Returns whether all problems are temporary, so that a retry can succeed.
    pub fn is_temporary(&self) -> bool {
        self.problems.iter().all(Error::is_temporary)
    }
}

/// The name of the type and the number of problems, then one line for each problem.
impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.problems.len();
        let plural = if count == 1 { "" } else { "s" };
        let type_name = short_type_name(self.type_name);
        write!(f, "{type_name}: {count} problem{plural}")?;
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

/// Returns the name of a type without module paths, such as `Option<String>`.
pub(crate) fn short_type_name(type_name: &str) -> String {
    let mut shortened = String::new();
    for piece in type_name.split_inclusive(|c: char| !c.is_alphanumeric() && !"_:{}".contains(c)) {
        shortened.push_str(piece.rsplit("::").next().unwrap_or_default());
    }
    shortened
}
