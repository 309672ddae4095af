//! The one error of every provider and of the resolver.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::{SecretKey, Source};

/// Why a secret could not be had: a kind, whether asking again may help, where, which key, and what
/// to do about it.
///
/// The text is one line and never holds a value, a token or a credential; whoever makes an error
/// keeps it so, and the canary of the testkit looks for it. Cloning is cheap, so that everybody who
/// waited for one fetch gets the same error.
///
/// ```
/// use secretwell_core::{Error, ErrorKind, SecretKey};
///
/// let error = Error::new(ErrorKind::NotFound, "no variable `PORT` is set")
///     .for_key(&SecretKey::parse("PORT")?)
///     .hint("set it before the service starts");
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
    source: Option<Source>,
    key: Option<SecretKey>,
    message: Cow<'static, str>,
    hint: Option<Cow<'static, str>>,
    cause: Option<Arc<dyn StdError + Send + Sync>>,
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
    /// The source has no such ability: see [`Capabilities`](crate::Capabilities).
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
    /// An error of the given kind. `message` says what was seen, in a few words and without a value.
    pub fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self(Arc::new(Inner {
            kind,
            temporary: kind.is_temporary(),
            source: None,
            key: None,
            message: message.into(),
            hint: None,
            cause: None,
        }))
    }

    /// The same error with advice for whoever reads it: what to do, in an imperative sentence.
    pub fn hint(mut self, hint: impl Into<Cow<'static, str>>) -> Self {
        self.inner().hint = Some(hint.into());
        self
    }

    /// The same error, marked with the source, unless it has one already.
    pub fn at(mut self, source: &Source) -> Self {
        if self.0.source.is_none() {
            self.inner().source = Some(source.clone());
        }
        self
    }

    /// The same error, marked with the key in place of any other.
    pub fn for_key(mut self, key: &SecretKey) -> Self {
        self.inner().key = Some(key.clone());
        self
    }

    /// The same error with its cause. The cause's own text must be as free of secrets as ours.
    pub fn caused_by(mut self, cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.inner().cause = Some(Arc::from(cause.into()));
        self
    }

    /// The same error, overriding what its kind says about whether asking again may help.
    pub fn with_temporary(mut self, temporary: bool) -> Self {
        self.inner().temporary = temporary;
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
    pub fn origin(&self) -> Option<&Source> {
        self.0.source.as_ref()
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
        match (&inner.key, &inner.source) {
            (Some(key), Some(source)) => write!(f, "{key} from {source}: ")?,
            (Some(key), None) => write!(f, "{key}: ")?,
            (None, Some(source)) => write!(f, "{source}: ")?,
            (None, None) => {}
        }
        write!(f, "{}: {}", inner.kind, inner.message)?;
        match &inner.hint {
            Some(hint) => write!(f, "; {hint}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("temporary", &self.0.temporary)
            .field("source", &self.0.source)
            .field("key", &self.0.key)
            .field("message", &self.0.message)
            .field("cause", &self.0.cause)
            .finish_non_exhaustive()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.cause.as_deref().map(|cause| cause as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_one_line_with_key_source_and_advice() {
        let error = Error::new(ErrorKind::Denied, "may not read")
            .at(&Source::new("vault", "host/secret"))
            .for_key(&SecretKey::parse("A").unwrap())
            .hint("ask for read on it");
        assert_eq!(
            error.to_string(),
            "A from vault://host/secret: denied: may not read; ask for read on it"
        );
    }

    #[test]
    fn the_first_source_stays() {
        let (near, far) = (Source::new("env", ""), Source::new("chain", ""));
        let error = Error::new(ErrorKind::NotFound, "x").at(&near).at(&far);
        assert_eq!(error.origin(), Some(&near));
    }

    #[test]
    fn temporary_follows_the_kind_unless_told() {
        assert!(Error::new(ErrorKind::Unavailable, "x").is_temporary());
        assert!(!Error::new(ErrorKind::Malformed, "x").is_temporary());
        assert!(
            !Error::new(ErrorKind::Unavailable, "x")
                .with_temporary(false)
                .is_temporary()
        );
    }

    #[test]
    fn a_passing_trouble_of_the_login_is_no_refusal() {
        let error = Error::new(ErrorKind::Unauthenticated, "x");
        assert!(error.is_refusal());
        assert!(!error.with_temporary(true).is_refusal());
        assert!(!Error::new(ErrorKind::Timeout, "x").is_refusal());
    }

    #[test]
    fn an_error_is_one_word() {
        assert_eq!(size_of::<Error>(), size_of::<usize>());
    }
}
