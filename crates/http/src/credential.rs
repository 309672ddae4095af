//! Credentials for a login.

use std::fmt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;

use secretwell_core::{Error, ErrorKind, SecretValue};
use zeroize::Zeroizing;

/// The byte order mark, which Windows tools write before a text.
const MARK: char = '\u{FEFF}';

/// A credential for a login: a value in memory, a file that is read again for each login, or a closure that is
/// called for each login.
///
/// ASCII white space and byte order marks around it are ignored, because editors, `echo` and Windows tools add
/// them. A text that is converted to a credential is a value in memory, not the path of a file.
#[derive(Debug, Clone)]
pub struct Credential {
    place: Place,
    format: Option<Format>,
    hint: Option<&'static str>,
    /// The name of the setting with a value in memory.
    setting: Option<String>,
}

/// Extracts a credential from the text around it.
type Format = fn(&SecretValue) -> Result<SecretValue, Error>;

#[derive(Clone)]
enum Place {
    Value(SecretValue),
    File(PathBuf),
    Function(Arc<ReadFn>),
}

type ReadFn =
    dyn Fn() -> Pin<Box<dyn Future<Output = Result<SecretValue, Error>> + Send>> + Send + Sync;

impl Credential {
    /// Creates a credential from a value in memory.
    pub fn value(value: impl Into<SecretValue>) -> Self {
        Self::new(Place::Value(value.into()))
    }

    /// Creates a credential from a file. The file can be replaced at any time.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self::new(Place::File(path.into()))
    }

    /// Creates a credential from a closure that is called for each login.
    ///
    /// The closure should return an error of the kind [`ErrorKind::Unavailable`] if it can succeed later. Its
    /// error must not contain a secret.
    pub fn from_fn<F, Fut>(read: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<SecretValue, Error>> + Send + 'static,
    {
        Self::new(Place::Function(Arc::new(move || Box::pin(read()))))
    }

    /// Replaces the hint of the errors of [`read`](Self::read).
    #[must_use]
    pub fn with_hint(mut self, hint: &'static str) -> Self {
        self.hint = Some(hint);
        self
    }

    /// Sets the name of the setting that a value in memory comes from, such as a variable. Errors name it.
    #[must_use]
    pub fn from_setting(mut self, name: impl Into<String>) -> Self {
        self.setting = Some(name.into());
        self
    }

    /// Returns where the credential comes from, for an error: its file, or the name of its
    /// [setting](Self::from_setting).
    pub fn place(&self) -> Option<String> {
        match (&self.place, &self.setting) {
            (Place::File(path), _) => Some(format!(
                "the file `{}`",
                path.display().to_string().escape_debug()
            )),
            (_, Some(name)) => Some(format!("`{}`", name.escape_debug())),
            (_, None) => None,
        }
    }

    /// Sets a function that extracts the credential from what is stored, such as a JSON document. It gets the
    /// text without white space and byte order marks at its ends. Its error must not contain a secret.
    #[must_use]
    pub fn with_format(mut self, extract: fn(&SecretValue) -> Result<SecretValue, Error>) -> Self {
        self.format = Some(extract);
        self
    }

    fn new(place: Place) -> Self {
        Self {
            place,
            format: None,
            hint: None,
            setting: None,
        }
    }

    /// Returns whether the credential is a value in memory that has only white space.
    pub fn is_blank(&self) -> bool {
        match &self.place {
            Place::Value(value) => trimmed(value.expose_bytes()).is_empty(),
            Place::File(_) | Place::Function(_) => false,
        }
    }

    /// Returns the current value of the credential.
    ///
    /// # Errors
    /// - [`ErrorKind::Unauthenticated`] if the credential is empty, is not UTF-8, or contains control
    ///   characters.
    /// - A temporary error if the file cannot be read, because it might be mounted a moment later. Its
    ///   kind is [`ErrorKind::Unauthenticated`] if the file is missing or not readable for the service,
    ///   and [`ErrorKind::Unavailable`] otherwise. An empty file is a temporary error as well, because its
    ///   content might be written a moment later.
    /// - The error of the closure.
    pub async fn read(&self) -> Result<SecretValue, Error> {
        let text = match &self.place {
            Place::Value(value) => Ok(value.clone()),
            Place::File(path) => read_file(path).await,
            Place::Function(read) => read().await,
        };
        let extracted = match self.format {
            Some(extract) => text.and_then(|text| extract(&trimmed(text.expose_bytes()).into())),
            None => text,
        };
        extracted
            .and_then(|text| {
                let result = checked(&text, self.place());
                // While a file is overwritten, it is empty for a moment.
                let is_unwritten =
                    matches!(self.place, Place::File(_)) && trimmed(text.expose_bytes()).is_empty();
                match is_unwritten {
                    true => result.map_err(Error::temporary),
                    false => result,
                }
            })
            .map_err(|error| match self.hint {
                Some(hint) => error.with_hint(hint),
                None => error,
            })
    }
}

impl From<&str> for Credential {
    fn from(value: &str) -> Self {
        Self::value(value)
    }
}

impl From<String> for Credential {
    fn from(value: String) -> Self {
        Self::value(value)
    }
}

impl From<&String> for Credential {
    fn from(value: &String) -> Self {
        Self::value(value.as_str())
    }
}

/// Omits the value.
impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Value(value) => f.debug_tuple("Value").field(value).finish(),
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Function(_) => f.write_str("Function"),
        }
    }
}

async fn read_file(path: &Path) -> Result<SecretValue, Error> {
    let bytes = tokio::fs::read(path).await.map(Zeroizing::new);
    let bytes = bytes.map_err(|error| {
        let kind = match error.kind() {
            std::io::ErrorKind::NotFound | std::io::ErrorKind::PermissionDenied => {
                ErrorKind::Unauthenticated
            }
            _ => ErrorKind::Unavailable,
        };
        let shown = path.display().to_string();
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
    Ok(bytes.as_slice().into())
}

/// Removes what is around the credential, and checks that a header or a JSON text can contain it.
fn checked(credential: &SecretValue, place: Option<String>) -> Result<SecretValue, Error> {
    const UTF_16_MARKS: [&[u8]; 2] = [b"\xFF\xFE", b"\xFE\xFF"];
    let invalid = |problem: &'static str| {
        let place = place.as_deref().map(|place| format!(" from {place}"));
        let message = format!("the credential{} {problem}", place.unwrap_or_default());
        Error::new(ErrorKind::Unauthenticated, message)
            .with_hint("check the file, variable or setting that it comes from")
    };
    let bytes = credential.expose_bytes();
    if UTF_16_MARKS.iter().any(|mark| bytes.starts_with(mark)) {
        return Err(invalid("is encoded as UTF-16")
            .with_hint("store it as UTF-8, without a byte order mark"));
    }
    let bytes = trimmed(bytes);
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.is_empty() && !text.contains(char::is_control) => Ok(bytes.into()),
        _ => Err(invalid(
            "is empty, is not UTF-8, or contains control characters",
        )),
    }
}

/// Removes ASCII white space and byte order marks at both ends of a setting, as a [`Credential`] does.
#[must_use]
pub fn trim_setting(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_ascii_whitespace() || c == MARK)
}

/// Removes the same as [`trim_setting`] from a text whose encoding is not checked.
pub(crate) fn trimmed(mut bytes: &[u8]) -> &[u8] {
    let mut mark = [0; 4];
    let mark = MARK.encode_utf8(&mut mark).as_bytes();
    loop {
        bytes = bytes.trim_ascii();
        let rest = bytes.strip_prefix(mark).or(bytes.strip_suffix(mark));
        match rest {
            Some(rest) => bytes = rest,
            None => return bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn line_ends_and_byte_order_marks_are_trimmed_everywhere() {
        for text in [
            "token\n",
            "\u{FEFF}token\r\n",
            " \t\u{FEFF}\r\n token\u{FEFF}\n",
        ] {
            let file =
                std::env::temp_dir().join(format!("secretwell-credential-{}", fastrand::u64(..)));
            std::fs::write(&file, text).unwrap();
            assert_eq!(trim_setting(text), "token", "{text:?}");
            let function = move || async move { Ok(text.into()) };
            for credential in [
                Credential::value(text),
                Credential::file(&file),
                Credential::from_fn(function),
            ] {
                let read = credential.read().await.unwrap();
                assert_eq!(read.expose_text().unwrap(), "token", "{text:?}");
            }
            std::fs::remove_file(&file).unwrap();
        }
    }

    #[tokio::test]
    async fn unusable_credentials_are_refused_with_a_reason() {
        let message = async |bytes: &[u8]| {
            let error = Credential::value(bytes).read().await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unauthenticated);
            error.message().to_owned()
        };
        assert!(message(b"\xFF\xFEt\0").await.contains("UTF-16"));
        for unusable in [&b""[..], b" \n", b"a\nb", b"a\0", b"\xFF"] {
            assert!(message(unusable).await.contains("is empty"));
        }
        let credential = Credential::value("").from_setting("APP_TOKEN");
        let error = credential.read().await.unwrap_err();
        assert!(
            error
                .message()
                .contains("credential from `APP_TOKEN` is empty"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn empty_file_is_a_temporary_failure() {
        let file = std::env::temp_dir().join(format!("secretwell-empty-{}", fastrand::u64(..)));
        for (text, is_temporary) in [("", true), ("\n", true), ("a\0b", false)] {
            std::fs::write(&file, text).unwrap();
            let error = Credential::file(&file).read().await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unauthenticated);
            assert_eq!(error.is_temporary(), is_temporary, "{text:?}");
        }
        std::fs::remove_file(&file).unwrap();
        assert!(
            !Credential::value("")
                .read()
                .await
                .unwrap_err()
                .is_temporary()
        );
    }

    #[tokio::test]
    async fn credential_is_extracted_from_its_format() {
        let after_colon = |text: &SecretValue| {
            let (_, token) = text.expose_text()?.split_once(':').unwrap();
            Ok(token.into())
        };
        let credential = Credential::value("\u{FEFF}{\n\"token\": abc \n").with_format(after_colon);
        let read = credential.read().await.unwrap();
        assert_eq!(read.expose_text().unwrap(), "abc");
        assert!(Credential::from(" \n").is_blank());
        assert!(!credential.is_blank());
    }

    #[tokio::test]
    async fn hint_of_the_configuration_replaces_the_general_one() {
        let credential = Credential::file("/nonexistent/token").with_hint("set `TOKEN`");
        let error = credential.read().await.unwrap_err();
        assert!(error.to_string().ends_with("; set `TOKEN`"), "{error}");
        assert!(error.is_temporary());
    }
}
