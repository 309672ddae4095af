//! The one error of every provider and of the resolver.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};

use crate::{Origin, SecretKey};

/// Why a secret could not be had: a kind, whether asking again may help, where, which key, and what
/// to do about it.
///
/// The text is one line and never holds a value, a token or a credential; whoever makes an error
/// keeps it so, and the canary of the testkit looks for it. Cloning is cheap, so that everybody who
/// waited for one fetch gets the same error.
///
/// ```
/// use secretwell::{Error, ErrorKind, SecretKey};
///
/// let error = Error::new(ErrorKind::NotFound, "no variable `PORT` is set")
///     .with_key(&SecretKey::parse("PORT")?)
///     .with_hint("set it before the service starts");
/// assert!(!error.is_temporary());
/// assert_eq!(
///     error.to_string(),
///     "PORT: not found: no variable `PORT` is set; set it before the service starts",
/// );
/// # Ok::<(), Error>(())
/// ```
#[derive(Clone)]
pub struct Error(Arc<Inner>);

#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    temporary: bool,
    origin: Option<Origin>,
    key: Option<SecretKey>,
    message: Cow<'static, str>,
    hint: Option<Cow<'static, str>>,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

/// What went wrong, by meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The source was asked and has no such secret. The only kind that falls through a
    /// [`Chain`](crate::Chain) or takes a default.
    NotFound,
    /// The login is good, and it may not read this.
    Denied,
    /// The login itself was refused or has ended, and a fresh one did not help.
    Unauthenticated,
    /// The source could not be reached or could not answer.
    Unavailable,
    /// The source asks for patience.
    RateLimited {
        /// How long it said to wait.
        retry_after: Option<Duration>,
    },
    /// The deadline passed before an answer came.
    Timeout,
    /// The answer came and makes no sense.
    Malformed,
    /// The value came and is not acceptable: it does not parse as what it is meant to be, or it is
    /// too weak for its purpose.
    Invalid,
    /// The answer is larger than the configured limit.
    TooLarge,
    /// The text is no key, or this source cannot have such a key.
    InvalidKey,
    /// The configuration cannot work; nothing was asked.
    InvalidConfig,
    /// The source has no such ability: see [`Capabilities`](crate::backend::Capabilities).
    Unsupported,
}

impl ErrorKind {
    const fn is_temporary(self) -> bool {
        matches!(
            self,
            Self::Unavailable | Self::RateLimited { .. } | Self::Timeout
        )
    }
}

impl Serialize for ErrorKind {
    /// Serializes the kind as its text, such as `not found`.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotFound => "not found",
            Self::Denied => "denied",
            Self::Unauthenticated => "not authenticated",
            Self::Unavailable => "unavailable",
            Self::RateLimited { .. } => "rate limited",
            Self::Timeout => "timed out",
            Self::Malformed => "malformed",
            Self::Invalid => "invalid",
            Self::TooLarge => "too large",
            Self::InvalidKey => "invalid key",
            Self::InvalidConfig => "invalid configuration",
            Self::Unsupported => "unsupported",
        })
    }
}

impl Error {
    /// Creates an error of the given kind. `message` states what was observed, briefly and without a
    /// secret value.
    pub fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self(Arc::new(Inner {
            kind,
            temporary: kind.is_temporary(),
            origin: None,
            key: None,
            message: message.into(),
            hint: None,
            source: None,
        }))
    }

    /// Creates the error of a call that did not finish within `deadline`.
    pub fn timed_out(deadline: Duration) -> Self {
        Self::new(
            ErrorKind::Timeout,
            format!("no response within {deadline:?}"),
        )
        .with_hint("check that the source is reachable, or raise the deadline")
    }

    /// Creates the error of a provider that returned a number of results other than the number of
    /// requested keys.
    pub fn wrong_result_count() -> Self {
        Self::new(
            ErrorKind::Malformed,
            "the provider did not return one result for each requested key",
        )
    }

    /// Adds the next step for the person who reads the error, as an imperative sentence.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<Cow<'static, str>>) -> Self {
        self.inner().hint = Some(hint.into());
        self
    }

    /// Sets the origin, unless the error already has one.
    #[must_use]
    pub fn with_origin(mut self, origin: &Origin) -> Self {
        if self.0.origin.is_none() {
            self.inner().origin = Some(origin.clone());
        }
        self
    }

    /// Sets the key, and replaces any other key.
    #[must_use]
    pub fn with_key(mut self, key: &SecretKey) -> Self {
        self.inner().key = Some(key.clone());
        self
    }

    /// Sets the underlying error. Its text must not contain a secret either.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.inner().source = Some(Arc::from(source.into()));
        self
    }

    /// Marks the error as temporary, whatever its kind says.
    #[must_use]
    pub fn temporary(mut self) -> Self {
        self.inner().temporary = true;
        self
    }

    /// Marks the error as permanent, whatever its kind says.
    #[must_use]
    pub fn permanent(mut self) -> Self {
        self.inner().temporary = false;
        self
    }

    fn inner(&mut self) -> &mut Inner {
        Arc::make_mut(&mut self.0)
    }

    /// What went wrong.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Whether the same question may be answered later without anybody changing anything.
    pub fn is_temporary(&self) -> bool {
        self.0.temporary
    }

    /// Whether the source was asked and has no such secret.
    pub fn is_not_found(&self) -> bool {
        self.kind() == ErrorKind::NotFound
    }

    /// Whether the source answered, and the answer is no: the secret is gone, may not be read, or
    /// the login is refused. What may be answered otherwise a moment later is no refusal.
    pub fn is_refusal(&self) -> bool {
        let says_no = matches!(
            self.kind(),
            ErrorKind::NotFound | ErrorKind::Denied | ErrorKind::Unauthenticated
        );
        says_no && !self.is_temporary()
    }

    /// Where it went wrong.
    pub fn origin(&self) -> Option<&Origin> {
        self.0.origin.as_ref()
    }

    /// The key that was asked for.
    pub fn key(&self) -> Option<&SecretKey> {
        self.0.key.as_ref()
    }

    /// What was seen, without kind, key, source and advice.
    pub fn message(&self) -> &str {
        &self.0.message
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = &*self.0;
        match (&inner.key, &inner.origin) {
            (Some(key), Some(origin)) => write!(f, "{key} from {origin}: ")?,
            (Some(key), None) => write!(f, "{key}: ")?,
            (None, Some(origin)) => write!(f, "{origin}: ")?,
            (None, None) => {}
        }
        write!(f, "{}: {}", inner.kind, inner.message)?;
        match &inner.hint {
            Some(hint) => write!(f, "; {hint}"),
            None => Ok(()),
        }
    }
}

/// `{:?}` prints the same text as `{}`, because a `main` that returns an error prints it with `{:?}`.
/// `{:#?}` prints the fields.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !f.alternate() {
            return fmt::Display::fmt(self, f);
        }
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("temporary", &self.0.temporary)
            .field("origin", &self.0.origin)
            .field("key", &self.0.key)
            .field("message", &self.0.message)
            .field("hint", &self.0.hint)
            .field("source", &self.0.source)
            .finish()
    }
}

impl Serialize for Error {
    /// Serializes the fields of the error, without its source.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("Error", 6)?;
        fields.serialize_field("kind", &self.0.kind)?;
        fields.serialize_field("temporary", &self.0.temporary)?;
        fields.serialize_field("origin", &self.0.origin)?;
        fields.serialize_field("key", &self.0.key)?;
        fields.serialize_field("message", &self.0.message)?;
        fields.serialize_field("hint", &self.0.hint)?;
        fields.end()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_one_line_with_key_source_and_advice() {
        let error = Error::new(ErrorKind::Denied, "may not read")
            .with_origin(&Origin::new("vault", "host/secret"))
            .with_key(&SecretKey::parse("A").unwrap())
            .with_hint("ask for read on it");
        assert_eq!(
            error.to_string(),
            "A from vault://host/secret: denied: may not read; ask for read on it"
        );
    }

    #[test]
    fn the_first_source_stays() {
        let (near, far) = (Origin::new("env", ""), Origin::new("chain", ""));
        let error = Error::new(ErrorKind::NotFound, "x")
            .with_origin(&near)
            .with_origin(&far);
        assert_eq!(error.origin(), Some(&near));
    }

    #[test]
    fn temporary_follows_the_kind_unless_told() {
        assert!(Error::new(ErrorKind::Unavailable, "x").is_temporary());
        assert!(!Error::new(ErrorKind::Malformed, "x").is_temporary());
        assert!(
            !Error::new(ErrorKind::Unavailable, "x")
                .permanent()
                .is_temporary()
        );
    }

    #[test]
    fn a_passing_trouble_of_the_login_is_no_refusal() {
        let error = Error::new(ErrorKind::Unauthenticated, "x");
        assert!(error.is_refusal());
        assert!(!error.temporary().is_refusal());
        assert!(!Error::new(ErrorKind::Timeout, "x").is_refusal());
    }

    #[test]
    fn an_error_is_one_word() {
        assert_eq!(size_of::<Error>(), size_of::<usize>());
    }
}
