//! What the policies of a login allow.

use std::collections::HashMap;

use secretwell_core::{Error, SecretValue};
use secretwell_http::Response;

use super::envelope::parse_data;
use super::failure::denied;

/// The path that reports what the policies of the token allow.
pub(crate) const CAPABILITIES: &str = "/v1/sys/capabilities-self";

/// Creates the body of a request for [`CAPABILITIES`].
pub(crate) fn capabilities_body(paths: &[String]) -> SecretValue {
    serde_json::json!({ "paths": paths }).to_string().into()
}

/// Checks that a read of any of `paths` is allowed, according to a successful response from [`CAPABILITIES`].
///
/// # Errors
/// Returns an error with the first path if no read is allowed.
pub(crate) fn check_capabilities(response: &Response, paths: &[String]) -> Result<(), Error> {
    let capabilities: HashMap<String, Vec<String>> =
        parse_data(response, "it does not describe capabilities")?;
    let is_readable = |path: &String| {
        let mut allowed = capabilities.get(path).into_iter().flatten();
        allowed.any(|capability| matches!(capability.as_str(), "read" | "root"))
    };
    match paths.first() {
        Some(first) if !paths.iter().any(is_readable) => Err(denied("reading", "read", first)),
        _ => Ok(()),
    }
}
