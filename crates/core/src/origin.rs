//! Origins: printable labels of the places that secrets come from.

use std::fmt;
use std::sync::Arc;

use serde::{Serialize, Serializer};

/// The label of the place that a provider reads from, such as `env://APP_` or `file:///run/secrets`.
///
/// The label is a URL without credentials. It is part of error messages and log lines. The creator
/// must leave out user info, tokens and query parameters. Cloning is cheap.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Origin(Arc<str>);

impl Origin {
    /// Creates an origin: `Origin::new("file", "/run/secrets")` is `file:///run/secrets`.
    pub fn new(scheme: &str, place: impl fmt::Display) -> Self {
        Self(format!("{scheme}://{place}").into())
    }

    /// Creates the origin of a [`Chain`](crate::Chain): the origins of its providers, joined by commas.
    pub(crate) fn joined<'a>(origins: impl IntoIterator<Item = &'a Origin>) -> Self {
        let texts: Vec<&str> = origins.into_iter().map(Origin::as_str).collect();
        Self(texts.join(",").into())
    }

    /// Returns the origin as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the part before `://`. For the origin of a chain, this is the scheme of its first
    /// provider.
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
