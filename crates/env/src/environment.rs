//! [`Environment`]: where the variables come from.

use std::ffi::{OsStr, OsString};

use zeroize::Zeroizing;

/// A set of variables that can be read by name.
///
/// The default is the environment of the process. A test, or a program that stores its own settings, can
/// pass another implementation to [`EnvProvider::with_environment`](crate::EnvProvider::with_environment).
pub trait Environment: Send + Sync + 'static {
    /// Returns the value of the variable `name`, or `None` if it is not set.
    fn value(&self, name: &OsStr) -> Option<OsString>;

    /// Returns the names of all variables.
    fn names(&self) -> Vec<OsString>;
}

/// The environment of this process.
pub(crate) struct ProcessEnvironment;

impl Environment for ProcessEnvironment {
    fn value(&self, name: &OsStr) -> Option<OsString> {
        std::env::var_os(name)
    }

    fn names(&self) -> Vec<OsString> {
        let variables = std::env::vars_os();
        // The standard library copies the values as well.
        let name = |(name, value)| {
            drop(Zeroizing::new(bytes(value)));
            name
        };
        variables.map(name).collect()
    }
}

#[cfg(unix)]
pub(crate) fn bytes(text: OsString) -> Vec<u8> {
    use std::os::unix::ffi::OsStringExt;

    text.into_vec()
}

/// Returns a value that is not Unicode in the platform's own superset of UTF-8.
#[cfg(not(unix))]
pub(crate) fn bytes(text: OsString) -> Vec<u8> {
    text.into_encoded_bytes()
}
