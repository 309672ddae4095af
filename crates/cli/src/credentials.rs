//! The credentials of the command itself, which the program does not need.

use std::collections::BTreeMap;
use std::env;
use std::os::unix::ffi::OsStringExt;

use secretwell::{Error, SecretValue};

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

/// Returns the values of the variables `names` of this process.
pub(crate) fn values_of(names: &[String]) -> BTreeMap<String, SecretValue> {
    let value = |name: &String| {
        let value = env::var_os(name)?.into_vec();
        Some((name.clone(), SecretValue::from(value)))
    };
    names.iter().filter_map(value).collect()
}

/// Logs the names of `removed` that no secret replaces.
pub(crate) fn log_removed(removed: &[String], variables: &[Variable]) {
    for name in removed {
        if !variables.iter().any(|variable| variable.name == *name) {
            tracing::info!(target: "secretwell::command", event = "credential_removed", name, "the credential `{name}` is not passed to the program");
        }
    }
}
