//! The error type of every provider and of the resolver.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};

use crate::{Origin, SecretKey};

/// The reason why a secret could not be read.
///
/// An error has a [kind](Self::kind) and a message. It can also have a key, an origin, a hint and a
/// source error. [`is_temporary`](Self::is_temporary) reports whether a retry can succeed.
///
/// The text is one line. It must never contain a secret value, a token or a credential. The creator of
/// an error is responsible for that, and the conformance tests of `secretwell-testkit` check it.
///
/// Cloning is cheap. All callers that share one fetch get the same error.
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
    retry_after: Option<Duration>,
    backoff_limit: Option<Duration>,
}

/// The category of an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The source responded, and it does not have the secret. Only this kind makes a
    /// [`Chain`](crate::Chain) continue by default, and only this kind makes typed loading use a
    /// default.
    NotFound,
    /// The login is valid but has no permission to read the secret.
    Denied,
    /// The login was rejected or has expired, and a new login did not help.
    Unauthenticated,
    /// The source could not be reached, or it could not respond properly.
    Unavailable,
    /// The source rejected the request because of too many requests.
    RateLimited {
        /// The wait that the source requested.
        retry_after: Option<Duration>,
    },
    /// The source did not respond before the deadline.
    Timeout,
    /// The source responded, but the response or the value could not be decoded.
    Malformed,
    /// The value was read but is not acceptable. It does not parse as the required type, or it is too
    /// weak for its purpose.
    Invalid,
    /// The response is larger than the configured limit.
    TooLarge,
    /// The text is not a valid key, or this source does not support such a key.
    InvalidKey,
    /// The configuration is invalid. No request was sent, or the source reported that a part of the
    /// configured place does not exist.
    InvalidConfig,
    /// The provider does not support the operation. See
    /// [`Capabilities`](crate::backend::Capabilities).
    Unsupported,
}

impl ErrorKind {
    /// Returns the name of the variant in snake case, such as `not_found`, for labels and fields.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::Denied => "denied",
            Self::Unauthenticated => "unauthenticated",
            Self::Unavailable => "unavailable",
            Self::RateLimited { .. } => "rate_limited",
            Self::Timeout => "timeout",
            Self::Malformed => "malformed",
            Self::Invalid => "invalid",
            Self::TooLarge => "too_large",
            Self::InvalidKey => "invalid_key",
            Self::InvalidConfig => "invalid_config",
            Self::Unsupported => "unsupported",
        }
    }

    const fn is_temporary(self) -> bool {
        matches!(
            self,
            Self::Unavailable | Self::RateLimited { .. } | Self::Timeout
        )
    }
}

impl Serialize for ErrorKind {
    /// Serializes the [name](Self::name) of the variant.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
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
    /// Creates an error of the given kind. `message` states briefly what was observed. It must not
    /// contain a secret value.
    ///
    /// The kinds `Unavailable`, `RateLimited` and `Timeout` are temporary by default.
    pub fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self(Arc::new(Inner {
            kind,
            temporary: kind.is_temporary(),
            origin: None,
            key: None,
            message: message.into(),
            hint: None,
            source: None,
            retry_after: None,
            backoff_limit: None,
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

    /// Creates the error of a consumer that needs a value for one that is empty. Providers return an empty value
    /// unchanged. It is not an absence, so no default replaces it.
    pub fn empty_value() -> Self {
        Self::new(ErrorKind::Invalid, "the value is empty")
            .with_hint("set a value, or remove the secret")
    }

    /// Creates the error of a provider that returned more or fewer results than requested keys.
    pub fn wrong_result_count() -> Self {
        Self::new(
            ErrorKind::Malformed,
            "the provider did not return one result for each requested key",
        )
        .with_hint("report this to the author of the provider")
    }

    /// Replaces the message, and keeps everything else.
    #[must_use]
    pub fn with_message(mut self, message: impl Into<Cow<'static, str>>) -> Self {
        self.inner().message = message.into();
        self
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

    /// Marks the error as temporary, regardless of its kind.
    #[must_use]
    pub fn temporary(mut self) -> Self {
        self.inner().temporary = true;
        self
    }

    /// Marks the error as permanent, regardless of its kind.
    #[must_use]
    pub fn permanent(mut self) -> Self {
        self.inner().temporary = false;
        self
    }

    /// Sets how long the source asked to wait, for an error of any kind. An error of the kind
    /// [`RateLimited`](ErrorKind::RateLimited) that states a wait keeps that one.
    #[must_use]
    pub fn with_retry_after(mut self, wait: Duration) -> Self {
        self.inner().retry_after = Some(wait);
        self
    }

    /// Sets the longest backoff before the next attempt. It is for a failure that says nothing about the
    /// source, such as the response of a gateway: the source might be available again at any time. A wait
    /// that was [requested](Self::with_retry_after) is not shortened.
    #[must_use]
    pub fn with_backoff_limit(mut self, limit: Duration) -> Self {
        self.inner().backoff_limit = Some(limit);
        self
    }

    fn inner(&mut self) -> &mut Inner {
        Arc::make_mut(&mut self.0)
    }

    /// Returns the category of the error.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Returns whether the same request can succeed later without a change of configuration or data.
    pub fn is_temporary(&self) -> bool {
        self.0.temporary
    }

    /// Returns whether the source responded that it does not have the secret.
    pub fn is_not_found(&self) -> bool {
        self.kind() == ErrorKind::NotFound
    }

    /// Returns whether the source refused the secret: its kind is [`NotFound`](ErrorKind::NotFound),
    /// [`Denied`](ErrorKind::Denied) or [`Unauthenticated`](ErrorKind::Unauthenticated), and it is
    /// permanent.
    pub fn is_refusal(&self) -> bool {
        let refused = matches!(
            self.kind(),
            ErrorKind::NotFound | ErrorKind::Denied | ErrorKind::Unauthenticated
        );
        refused && !self.is_temporary()
    }

    /// Returns the wait that the source requested: the one of [`RateLimited`](ErrorKind::RateLimited), or the
    /// one that was [set](Self::with_retry_after).
    pub fn retry_after(&self) -> Option<Duration> {
        match self.0.kind {
            ErrorKind::RateLimited {
                retry_after: Some(wait),
            } => Some(wait),
            _ => self.0.retry_after,
        }
    }

    /// Returns the longest backoff before the next attempt, if it was [set](Self::with_backoff_limit).
    pub fn backoff_limit(&self) -> Option<Duration> {
        self.0.backoff_limit
    }

    /// Returns the origin at which the error occurred.
    pub fn origin(&self) -> Option<&Origin> {
        self.0.origin.as_ref()
    }

    /// Returns the key that was requested.
    pub fn key(&self) -> Option<&SecretKey> {
        self.0.key.as_ref()
    }

    /// Returns the message without the kind, key, origin and hint.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// Returns the next step for the person who reads the error, if it was [set](Self::with_hint).
    pub fn hint(&self) -> Option<&str> {
        self.0.hint.as_deref()
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
            .field("retry_after", &self.retry_after())
            .field("backoff_limit", &self.0.backoff_limit)
            .finish()
    }
}

impl Serialize for Error {
    /// Serializes the fields of the error, without its source.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("Error", 7)?;
        fields.serialize_field("kind", &self.0.kind)?;
        fields.serialize_field("temporary", &self.0.temporary)?;
        fields.serialize_field("origin", &self.0.origin)?;
        fields.serialize_field("key", &self.0.key)?;
        fields.serialize_field("message", &self.0.message)?;
        fields.serialize_field("hint", &self.0.hint)?;
        let retry_after = self.retry_after().map(|wait| wait.as_secs_f64());
        fields.serialize_field("retry_after_seconds", &retry_after)?;
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
    fn display_is_one_line_with_key_origin_and_hint() {
        let error = Error::new(ErrorKind::Denied, "permission denied")
            .with_origin(&Origin::new("vault", "host/secret"))
            .with_key(&SecretKey::parse("A").unwrap())
            .with_hint("grant `read` on it");
        assert_eq!(
            error.to_string(),
            "A from vault://host/secret: denied: permission denied; grant `read` on it"
        );
    }

    #[test]
    fn first_origin_is_kept() {
        let (inner, outer) = (Origin::new("env", ""), Origin::new("chain", ""));
        let error = Error::new(ErrorKind::NotFound, "x")
            .with_origin(&inner)
            .with_origin(&outer);
        assert_eq!(error.origin(), Some(&inner));
    }

    #[test]
    fn kind_determines_temporary_unless_overridden() {
        assert!(Error::new(ErrorKind::Unavailable, "x").is_temporary());
        assert!(!Error::new(ErrorKind::Malformed, "x").is_temporary());
        assert!(
            !Error::new(ErrorKind::Unavailable, "x")
                .permanent()
                .is_temporary()
        );
    }

    #[test]
    fn temporary_login_failure_is_not_a_refusal() {
        let error = Error::new(ErrorKind::Unauthenticated, "x");
        assert!(error.is_refusal());
        assert!(!error.temporary().is_refusal());
        assert!(!Error::new(ErrorKind::Timeout, "x").is_refusal());
    }

    #[test]
    fn requested_wait_belongs_to_errors_of_any_kind() {
        let (stated, set) = (Duration::from_secs(2), Duration::from_secs(7));
        let limited = |retry_after| Error::new(ErrorKind::RateLimited { retry_after }, "x");
        assert_eq!(
            limited(Some(stated)).with_retry_after(set).retry_after(),
            Some(stated)
        );
        assert_eq!(limited(None).with_retry_after(set).retry_after(), Some(set));
        let error = Error::new(ErrorKind::Unavailable, "x");
        assert_eq!((error.retry_after(), error.backoff_limit()), (None, None));
        let error = error.with_retry_after(set).with_backoff_limit(stated);
        assert_eq!(
            (error.retry_after(), error.backoff_limit()),
            (Some(set), Some(stated))
        );
    }

    #[test]
    fn error_has_the_size_of_a_pointer() {
        assert_eq!(size_of::<Error>(), size_of::<usize>());
    }
}
