//! What to read, and how strictly.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
/// The form of a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Format {
    /// `NAME=value` lines, as in a `.env` file.
    Env,
    /// JSON.
    Json,
    /// YAML.
    Yaml,
    /// TOML.
    Toml,
}

impl Format {
    /// The format that the name of `path` tells: `.env`, `.env.local`, `prod.env`, `.json`, `.yaml`,
    /// `.yml`, `.toml`.
    pub(crate) fn of(path: &Path) -> Option<Self> {
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

#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) path: PathBuf,
    pub(crate) layout: Layout,
    pub(crate) max_bytes: Option<u64>,
    pub(crate) trim_newline: bool,
    pub(crate) strict_permissions: bool,
}

/// How secrets lie in files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    /// Each in a file of its own, below a root.
    Directory,
    /// All in one file. Without a format, its name has to tell.
    Document(Option<Format>),
}

impl Config {
    pub(crate) fn new(path: PathBuf, layout: Layout) -> Self {
        Self {
            path,
            layout,
            max_bytes: None,
            trim_newline: true,
            strict_permissions: false,
        }
    }

    /// The largest file to read, in bytes.
    pub(crate) fn limit(&self) -> u64 {
        const MIB: u64 = 1 << 20;
        self.max_bytes.unwrap_or(match self.layout {
            Layout::Directory => MIB,
            Layout::Document(_) => 16 * MIB,
        })
    }
}
