//! Errors of the configuration.

use std::borrow::Cow;

use secretwell_core::{Error, ErrorKind};

pub(crate) fn invalid(message: impl Into<Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidConfig, message)
}
