//! The credentials of the command itself, which the program does not need.

use std::env;

use secretwell::Error;

use crate::variables::Variable;

/// Returns the variables of this process from which the sources at `urls` read their credentials.
///
/// # Errors
/// Returns an error if a URL or a variable is invalid.
pub(crate) fn credentials_in_use(urls: &[String]) -> Result<Vec<String>, Error> {
    let mut names = secretwell::credential_variables(&urls.join(","))?;
    names.retain(|name| env::var_os(name).is_some_and(|value| !value.is_empty()));
    Ok(names)
}

/// Logs the names of `removed` that no secret replaces.
pub(crate) fn log_removed(removed: &[String], variables: &[Variable]) {
    for name in removed {
        if !variables.iter().any(|variable| variable.name == *name) {
            tracing::info!(target: "secretwell::command", event = "credential_removed", name, "the credential `{name}` is not passed to the program");
        }
    }
}
