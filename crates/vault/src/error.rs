//! Errors that several modules create.

use std::borrow::Cow;

use secretwell_core::{Error, ErrorKind};

/// Returns the error for a setting that is not valid.
pub(crate) fn invalid(message: impl Into<Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidConfig, message)
}

/// Returns the error for a capability that the provider does not have.
pub(crate) fn unsupported(what: &'static str) -> Error {
    Error::new(ErrorKind::Unsupported, what).with_hint("see the provider's capabilities")
}
