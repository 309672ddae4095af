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

/// Returns the scheme of `origin` as the value of the label `source` of a metric.
///
/// A label must have few values. A scheme that is not a short word, for example because a backend has put a path into
/// it, is `other`.
pub fn source_label(origin: &Origin) -> &str {
    /// Longer texts are not the name of a kind of source.
    const MAX_LENGTH: usize = 24;
    let scheme = origin.scheme();
    let is_word = scheme.starts_with(|first: char| first.is_ascii_lowercase())
        && scheme.len() <= MAX_LENGTH
        && scheme
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    if is_word { scheme } else { "other" }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_of_a_source_is_its_scheme_and_never_a_path_or_a_key() {
        let label = |scheme: &str| source_label(&Origin::new(scheme, "/run/secrets")).to_owned();
        assert_eq!(
            ["vault", "aws-sm", "k8s"].map(label),
            ["vault", "aws-sm", "k8s"]
        );
        for scheme in [
            "",
            "/run/secrets",
            "AUTH_SECRET",
            "a/b",
            "a\"b",
            "a\nb",
            "1st",
            "é",
        ] {
            assert_eq!(label(scheme), "other", "{scheme}");
        }
        assert_eq!(label(&"a".repeat(25)), "other");
        let chain = [Origin::new("env", "APP_"), Origin::new("vault", "host/app")];
        assert_eq!(source_label(&Origin::joined(&chain)), "env");
    }
}
