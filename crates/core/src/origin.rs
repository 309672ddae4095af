//! Where a secret comes from, in words that are safe to print.

use std::fmt;
use std::sync::Arc;

use serde::{Serialize, Serializer};

/// The place a provider reads from, as a URL without credentials: `env://APP_`, `file:///run/secrets`.
///
/// It stands in every log line and error, so whoever makes one must leave out user info, tokens and
/// query parameters. Cloning is cheap.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Origin(Arc<str>);

impl Origin {
    /// A source of the given scheme: `Origin::new("file", "/run/secrets")` is `file:///run/secrets`.
    pub fn new(scheme: &str, place: impl fmt::Display) -> Self {
        Self(format!("{scheme}://{place}").into())
    }

    /// Several sources asked one after the other, as [`Chain`](crate::Chain) does.
    pub(crate) fn joined<'a>(sources: impl IntoIterator<Item = &'a Origin>) -> Self {
        let texts: Vec<&str> = sources.into_iter().map(Origin::as_str).collect();
        Self(texts.join(",").into())
    }

    /// The source as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The part before `://`, of the first source if there are several.
    pub fn scheme(&self) -> &str {
        self.0.split("://").next().unwrap_or_default()
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Origin({})", self.0)
    }
}

impl Serialize for Origin {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}
