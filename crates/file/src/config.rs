//! The configuration of a provider and the formats of documents.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

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

/// The dialect of a `.env` document. No dialect substitutes anything.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Dialect {
    /// Accepts only what the common readers of `.env` documents read in the same way.
    #[default]
    Strict,
    /// Reads a document like the npm package `dotenv` and `node --env-file`.
    Node,
    /// Reads a document like `docker run --env-file`: every character after the `=` belongs to the value.
    Docker,
    /// Reads a document like a POSIX shell, without expansions.
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
    pub(crate) accept_encrypted: bool,
}

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

    /// Returns the size limit of a file, in bytes.
    pub(crate) fn limit(&self) -> u64 {
        const MIB: u64 = 1 << 20;
        self.max_bytes.unwrap_or(match self.layout {
            Layout::Directory => MIB,
            Layout::Document(_) => 16 * MIB,
        })
    }
}
