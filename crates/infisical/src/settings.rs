//! The location of the secrets, and how to read them.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The hint of an error about a folder's path.
pub(crate) const FOLDER_NAME_HINT: &str = "use letters, digits, `-` and `_` in folder names";

/// A version of the API for secrets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum ApiVersion {
    /// `/api/v3/secrets/raw`. Every server has it.
    #[serde(rename = "3", alias = "v3")]
    V3,
    /// `/api/v4/secrets`. Only newer servers have it.
    #[serde(rename = "4", alias = "v4")]
    V4,
}

/// The location of the secrets, and how to read them.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) project: Project,
    pub(crate) environment: String,
    /// Starts with a slash, and ends without one unless it is the root.
    pub(crate) folder: String,
    pub(crate) api: Option<ApiVersion>,
    pub(crate) imports: bool,
    pub(crate) expand: bool,
    pub(crate) personal: bool,
    pub(crate) tags: Vec<String>,
}

impl Settings {
    /// Creates settings without a project and an environment.
    pub(crate) fn new() -> Self {
        Self {
            project: Project::Slug(String::new()),
            environment: String::new(),
            folder: "/".into(),
            api: None,
            imports: true,
            expand: true,
            personal: false,
            tags: Vec::new(),
        }
    }
}

/// A project, named by its id or its slug.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Project {
    Id(String),
    Slug(String),
}

impl Project {
    /// Parses a text as an id if it is a UUID, and as a slug otherwise.
    pub(crate) fn parse(text: &str) -> Self {
        let is_id = text.len() == 36
            && text.bytes().enumerate().all(|(index, byte)| match index {
                8 | 13 | 18 | 23 => byte == b'-',
                _ => byte.is_ascii_hexdigit(),
            });
        match is_id {
            true => Self::Id(text.to_owned()),
            false => Self::Slug(text.to_owned()),
        }
    }

    pub(crate) fn as_str(&self) -> &str {
        match self {
            Self::Id(text) | Self::Slug(text) => text,
        }
    }
}

impl fmt::Display for Project {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Returns the path of `folder` relative to `base`, without a slash at its start. It is empty if the two are
/// equal. Returns `None` if `folder` is not below `base`.
pub(crate) fn relative_path<'a>(base: &str, folder: &'a str) -> Option<&'a str> {
    let rest = folder.strip_prefix(base.trim_end_matches('/'))?;
    match rest.strip_prefix('/') {
        Some(below) => Some(below),
        None => rest.is_empty().then_some(rest),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_path_starts_at_a_slash() {
        for (base, folder, expected) in [
            ("/api", "/api", Some("")),
            ("/api", "/api/keys", Some("keys")),
            ("/api", "/api-gateway", None),
            ("/api", "/", None),
            ("/", "/", Some("")),
            ("/", "/api/keys", Some("api/keys")),
        ] {
            assert_eq!(relative_path(base, folder), expected, "{base} {folder}");
        }
    }
}
