//! The body of a successful response.

use secretwell_core::Error;
use secretwell_http::Response;
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
    // One check of the whole body is much faster than one of each text in it.
    let text = std::str::from_utf8(&response.body).map_err(|_| malformed(expected))?;
    serde_json::from_str(text).map_err(|_| malformed(expected))
}
