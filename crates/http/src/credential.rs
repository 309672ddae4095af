//! Credentials for a login.

use std::path::PathBuf;

use secretwell_core::{Error, ErrorKind, SecretValue};
use zeroize::Zeroizing;

/// A credential for a login: a value in memory, or a file that is read again for each login.
#[derive(Debug, Clone)]
pub struct Credential(Place);

#[derive(Debug, Clone)]
enum Place {
    Value(SecretValue),
    File(PathBuf),
}

impl Credential {
    /// Creates a credential from a value in memory.
    pub fn value(value: impl Into<SecretValue>) -> Self {
        Self(Place::Value(value.into()))
    }

    /// Creates a credential from a file. The file can be replaced at any time. ASCII white space around
    /// its content is ignored.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self(Place::File(path.into()))
    }

    /// Returns the current value of the credential.
    ///
    /// # Errors
    /// - [`ErrorKind::Unauthenticated`] if the credential is empty, is not UTF-8, or contains control
    ///   characters.
    /// - A temporary error if the file cannot be read, because it might be mounted a moment later. Its
    ///   kind is [`ErrorKind::Unauthenticated`] if the file is missing or not readable for the service,
    ///   and [`ErrorKind::Unavailable`] otherwise.
    pub async fn read(&self) -> Result<SecretValue, Error> {
        let text = match &self.0 {
            Place::Value(value) => value.clone(),
            Place::File(path) => {
                let shown = path.display().to_string();
                let bytes = tokio::fs::read(path).await.map(Zeroizing::new);
                let bytes = bytes.map_err(|error| {
                    let kind = match error.kind() {
                        std::io::ErrorKind::NotFound | std::io::ErrorKind::PermissionDenied => {
                            ErrorKind::Unauthenticated
                        }
                        _ => ErrorKind::Unavailable,
                    };
                    let message = format!(
                        "the credential file `{}` cannot be read",
                        shown.escape_debug()
                    );
                    // The file might be mounted a moment later.
                    Error::new(kind, message)
                        .with_hint("check that the file exists and that the service can read it")
                        .with_source(error)
                        .temporary()
                })?;
                bytes.trim_ascii().into()
            }
        };
        match text.expose_text() {
            Ok(printable) if !printable.is_empty() && !printable.contains(char::is_control) => {
                Ok(text)
            }
            _ => Err(Error::new(
                ErrorKind::Unauthenticated,
                "the credential is empty, is not UTF-8, or contains control characters",
            )
            .with_hint("check the file, variable or setting that it comes from")),
        }
    }
}

/// Encodes `fields` as a JSON object of strings, such as the body of a login request. The buffer is large
/// enough from the start, so that its growth leaves no copy of a credential behind.
///
/// # Errors
/// Returns [`ErrorKind::Invalid`] if the encoding fails, which is not known to happen.
pub fn json_object(fields: &[(&str, &str)]) -> Result<SecretValue, Error> {
    let escaped_length = |text: &str| 6 * text.len() + 8;
    let lengths = fields
        .iter()
        .map(|(name, value)| escaped_length(name) + escaped_length(value));
    let mut bytes = Zeroizing::new(Vec::with_capacity(lengths.sum::<usize>() + 2));
    let object: std::collections::BTreeMap<_, _> = fields.iter().copied().collect();
    serde_json::to_writer(&mut *bytes, &object).map_err(|_| {
        Error::new(
            ErrorKind::Invalid,
            "the credential cannot be encoded as JSON",
        )
    })?;
    Ok(bytes.as_slice().into())
}
