//! What a login is made with.

use std::path::PathBuf;

use secretwell_core::{Error, ErrorKind, SecretValue};
use zeroize::Zeroizing;

/// Something to log in with: at hand, or in a file that is read anew for each login.
#[derive(Debug, Clone)]
pub struct Credential(Place);

#[derive(Debug, Clone)]
enum Place {
    Value(SecretValue),
    File(PathBuf),
}

impl Credential {
    /// At hand.
    pub fn value(value: impl Into<SecretValue>) -> Self {
        Self(Place::Value(value.into()))
    }

    /// In a file, which may be replaced at any time. White space around it is ignored.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self(Place::File(path.into()))
    }

    /// What it is now.
    ///
    /// # Errors
    /// [`ErrorKind::Unauthenticated`]: it is empty, or holds control characters. A file that cannot be
    /// read is a temporary trouble, because it may be mounted a moment later.
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
                        "the credential in `{}` cannot be read",
                        shown.escape_debug()
                    );
                    // It may be mounted a moment later.
                    Error::new(kind, message)
                        .with_hint("is the file there, and may the service read it?")
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
                "the credential is empty, or holds bytes that none may",
            )
            .with_hint("look at where it comes from")),
        }
    }
}

/// A JSON object of texts, such as the body of a login, in a buffer that does not move as it grows.
///
/// # Errors
/// None that is known.
pub fn json_object(fields: &[(&str, &str)]) -> Result<SecretValue, Error> {
    let escaped = |text: &str| 6 * text.len() + 8;
    let most = fields
        .iter()
        .map(|(name, value)| escaped(name) + escaped(value));
    let mut bytes = Zeroizing::new(Vec::with_capacity(most.sum::<usize>() + 2));
    let object: std::collections::BTreeMap<_, _> = fields.iter().copied().collect();
    serde_json::to_writer(&mut *bytes, &object).map_err(|_| {
        Error::new(
            ErrorKind::Invalid,
            "the credential cannot be written as JSON",
        )
    })?;
    Ok(bytes.as_slice().into())
}
