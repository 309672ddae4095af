//! The body of a successful response.

use secretwell_core::Error;
use secretwell_http::{Response, parse_object};
use serde::Deserialize;

use super::errors::{malformed, request_error};

/// Parses the body of a response. `expected` names its content in an error.
///
/// # Errors
/// Returns the reason if the server refused the request, or [`ErrorKind::Malformed`] if the body is not the
/// expected one.
///
/// [`ErrorKind::Malformed`]: secretwell_core::ErrorKind::Malformed
pub(super) fn parse_success<'a, T: Deserialize<'a>>(
    response: &'a Response,
    expected: &'static str,
) -> Result<T, Error> {
    if !response.status.is_success() {
        return Err(request_error(response));
    }
    parse_object(&response.body).ok_or_else(|| malformed(expected))
}
