//! The configuration of a provider and the formats of documents.

use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The format of a document that contains all secrets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Format {
    /// `NAME=value` lines, as in a `.env` file.
    Env,
    /// A JSON object. Nested objects correspond to the segments of a key.
    Json,
    /// A YAML mapping. Nested mappings correspond to the segments of a key.
    Yaml,
    /// A TOML document. Tables correspond to the segments of a key.
    Toml,
}

impl Format {
    /// Returns the format for a file name such as `.env`, `.env.local`, `prod.env`, `a.json`, `a.yaml`,
    /// `a.yml` or `a.toml`.
    pub(crate) fn from_path(path: &Path) -> Option<Self> {
        let name = path.file_name().and_then(OsStr::to_str)?;
        if name == ".env" || name.starts_with(".env.") {
            return Some(Self::Env);
        }
        match path.extension().and_then(OsStr::to_str)? {
            "env" => Some(Self::Env),
            "json" => Some(Self::Json),
            "yaml" | "yml" => Some(Self::Yaml),
            "toml" => Some(Self::Toml),
            _ => None,
        }
    }
}

impl fmt::Display for Format {
    /// Writes the name, as in a URL.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Env => "env",
            Self::Json => "json",
            Self::Yaml => "yaml",
            Self::Toml => "toml",
        })
    }
}

/// The dialect of a `.env` document.
///
/// Programs read the same line in different ways. A dialect decides what a value is. No dialect substitutes, runs or
/// expands anything: a value for which its readers do so is refused. A line that cannot be read affects its own
/// variable only, unless the lines after it could be a part of its value.
///
/// The page [`.env`](https://docs.rs/secretwell/latest/secretwell/guide/backends/dotenv/index.html) describes the
/// dialects and their differences.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Dialect {
    /// Accepts what npm `dotenv`, Node.js and python-dotenv read in the same way, and quotes such as `'it'\''s'`, which
    /// only shells write.
    #[default]
    Strict,
    /// Reads a document like the npm package `dotenv` and `node --env-file`. A value that these two read differently is
    /// refused.
    Node,
    /// Reads a document like `docker run --env-file`: every character after the `=` belongs to the value.
    Docker,
    /// Reads a document like a POSIX shell. A value that a shell expands is refused. A command fails the document.
    Shell,
}

#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) path: PathBuf,
    pub(crate) layout: Layout,
    pub(crate) dialect: Dialect,
    pub(crate) max_bytes: Option<u64>,
    pub(crate) trim_newline: bool,
    pub(crate) strict_permissions: bool,
    /// The time after which a document that was emptied counts as empty.
    pub(crate) rewrite_grace: Duration,
    pub(crate) accept_encrypted: bool,
}

/// The default of `rewrite_grace`.
const REWRITE_GRACE: Duration = Duration::from_secs(60);
/// The maximum of `rewrite_grace`.
pub(crate) const MAX_REWRITE_GRACE: Duration = Duration::from_secs(3600);

/// How secrets are stored in files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    /// Each secret is one file below a root directory.
    Directory,
    /// All secrets are in one file. Without a format, the file name determines it.
    Document(Option<Format>),
}

/// How the text of a document is parsed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Syntax {
    Env(Dialect),
    Json,
    Yaml,
    Toml,
}

impl Config {
    pub(crate) fn new(path: PathBuf, layout: Layout) -> Self {
        Self {
            path,
            layout,
            dialect: Dialect::default(),
            max_bytes: None,
            trim_newline: true,
            strict_permissions: false,
            rewrite_grace: REWRITE_GRACE,
            accept_encrypted: false,
        }
    }

    /// Returns the syntax of a document in this format.
    pub(crate) fn syntax(&self, format: Format) -> Syntax {
        match format {
            Format::Env => Syntax::Env(self.dialect),
            Format::Json => Syntax::Json,
            Format::Yaml => Syntax::Yaml,
            Format::Toml => Syntax::Toml,
        }
    }

    /// Returns the format of the document. Returns `None` for a directory, or if nothing determines the format.
    pub(crate) fn document_format(&self) -> Option<Format> {
        match self.layout {
            Layout::Directory => None,
            Layout::Document(format) => format.or_else(|| Format::from_path(&self.path)),
        }
    }

    /// Returns the size limit of a file, in bytes.
    pub(crate) fn limit(&self) -> u64 {
        const MIB: u64 = 1 << 20;
        self.max_bytes.unwrap_or(match self.layout {
            Layout::Directory => MIB,
            Layout::Document(_) => 16 * MIB,
        })
    }
}
