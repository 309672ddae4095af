//! The error of typed loading.

use std::fmt;

use secretwell_core::{Error, ErrorKind};

/// All problems that prevented the loading of a type.
///
/// Each problem is an [`Error`] with its key. The kind is
/// [`NotFound`](secretwell_core::ErrorKind::NotFound) for an absent or empty secret, and
/// [`Invalid`](secretwell_core::ErrorKind::Invalid) for a value that does not parse as the type of its
/// field. Other kinds report failed reads.
///
/// The error converts into an [`Error`], so that `?` works in a function that returns one:
///
/// ```
/// use secretwell::{Error, ErrorKind, MemoryProvider, Resolver};
/// use serde::Deserialize;
///
/// #[derive(Debug, Deserialize)]
/// struct Settings {
///     port: u16,
/// }
///
/// async fn settings(resolver: &Resolver) -> Result<Settings, Error> {
///     Ok(resolver.load().await?)
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let error = settings(&Resolver::new(MemoryProvider::new())).await.unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::NotFound);
/// # }
/// ```
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
        !self.problems.is_empty() && self.problems.iter().all(Error::is_temporary)
    }

    /// Returns the name of the type and the number of problems.
    fn title(&self) -> String {
        let count = self.problems.len();
        let plural = if count == 1 { "" } else { "s" };
        format!(
            "{}: {count} problem{plural}",
            short_type_name(self.type_name)
        )
    }
}

/// Returns a single problem as it is. Several problems become one error whose message contains them
/// all.
///
/// That error has the kind of its most decisive problem: a permanent problem before a temporary one,
/// and [`NotFound`](ErrorKind::NotFound) only if all problems have this kind. The error is temporary if
/// [all problems are](LoadError::is_temporary).
impl From<LoadError> for Error {
    fn from(error: LoadError) -> Self {
        if let [problem] = error.problems.as_slice() {
            return problem.clone();
        }
        let rank = |problem: &&Error| match problem.kind() {
            ErrorKind::NotFound => 2,
            _ if problem.is_temporary() => 1,
            _ => 0,
        };
        let decisive = error.problems.iter().min_by_key(rank);
        let kind = decisive.map_or(ErrorKind::Invalid, Error::kind);
        let mut message = error.title();
        for (index, problem) in error.problems.iter().enumerate() {
            let separator = if index == 0 { ':' } else { ',' };
            message.push_str(&format!("{separator} ({}) {problem}", index + 1));
        }
        match error.is_temporary() {
            true => Self::new(kind, message).temporary(),
            false => Self::new(kind, message).permanent(),
        }
    }
}

/// The name of the type and the number of problems, then one line for each problem.
impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.title())?;
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
