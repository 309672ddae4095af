//! The place of the secrets: what is wrong with the path of a directory or a document.
//!
//! A place that does not exist yet is an absence, because secrets can arrive late. Anything else at the path than what
//! the layout requires is a misconfiguration.

use std::fs::Metadata;
use std::io::Read;
use std::path::{Path, PathBuf};

use secretwell_core::{Error, ErrorKind};

use crate::config::{Config, Format, Layout};
use crate::open::{self, OpenError, shown};

/// Returns the error for a place that could not be opened.
pub(crate) fn explain(config: &Config, error: OpenError) -> Error {
    let path = &config.path;
    match (&error, config.layout) {
        (OpenError::NotADirectory, _) => not_a_directory(config, error),
        (OpenError::IsADirectory, Layout::Document(_)) => misplaced(
            format!("`{}` is a directory, not a document", shown(path)),
            "name the document, or add `?format=directory` to the URL of a directory of secrets",
        ),
        (OpenError::Missing, _) => missing(config),
        _ => error.into_error(path),
    }
}

fn missing(config: &Config) -> Error {
    let path = &config.path;
    if let Ok(target) = std::fs::read_link(path) {
        return OpenError::Dangling(target).into_error(path);
    }
    let (what, hint) = match config.layout {
        Layout::Directory => (
            "the directory",
            "create or mount it, or add a source that has the secret",
        ),
        Layout::Document(_) => ("the file", "create it, or add a source that has the secret"),
    };
    let message = format!("{what} `{}` does not exist", shown(path));
    Error::new(ErrorKind::NotFound, message).with_hint(hint)
}

/// Explains a path of which a part is not a directory.
fn not_a_directory(config: &Config, error: OpenError) -> Error {
    // Without a `/` at the end, with which the path of a regular file cannot be opened.
    let path: &PathBuf = &config.path.components().collect();
    let is_obstacle = |ancestor: &&Path| std::fs::metadata(ancestor).is_ok_and(|it| !it.is_dir());
    let obstacle = path.ancestors().find(is_obstacle);
    match obstacle.and_then(|obstacle| Some((obstacle, std::fs::metadata(obstacle).ok()?))) {
        Some((obstacle, metadata)) if obstacle == path => wrong_kind(config, &metadata),
        Some((obstacle, metadata)) => misplaced(
            format!(
                "`{}` is not reachable: `{}` is {}, not a directory",
                shown(path),
                shown(obstacle),
                kind(&metadata)
            ),
            "correct the path",
        ),
        // The path has changed meanwhile.
        None => Error::new(
            ErrorKind::Unavailable,
            format!("`{}`: its directories are changing", shown(path)),
        )
        .with_source(error),
    }
}

/// Explains a file in the place of a directory.
fn wrong_kind(config: &Config, metadata: &Metadata) -> Error {
    let path = &config.path;
    let message = format!("`{}` is {}, not a directory", shown(path), kind(metadata));
    if !metadata.is_file() {
        return misplaced(message, "correct the path");
    }
    match (config.layout, guess_format(path)) {
        (Layout::Document(_), _) => misplaced(message, "remove the `/` at the end of the path"),
        (Layout::Directory, Some(format)) => misplaced(
            message,
            format!("if it is a document, add `?format={format}` to its URL"),
        ),
        (Layout::Directory, None) => misplaced(
            message,
            "to read this file as one secret, configure the directory that contains it",
        ),
    }
}

fn kind(metadata: &Metadata) -> &'static str {
    match metadata.is_file() {
        true => "a regular file",
        false => open::special_file(metadata.file_type()),
    }
}

fn misplaced(message: String, hint: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidConfig, message).with_hint(hint)
}

/// Guesses the format of a document for a hint, from its name or its first bytes. Returns `None` if it looks like a
/// single value.
fn guess_format(path: &Path) -> Option<Format> {
    let name = path.file_name()?.to_string_lossy().to_lowercase();
    let extensions = [
        ("env", Format::Env),
        ("json", Format::Json),
        ("yaml", Format::Yaml),
        ("yml", Format::Yaml),
        ("toml", Format::Toml),
    ];
    let mut parts = name.split('.').rev();
    let by_name = parts.find_map(|part| extensions.iter().find(|(it, _)| *it == part));
    if let Some((_, format)) = by_name {
        return Some(*format);
    }
    let mut start = zeroize::Zeroizing::new(Vec::with_capacity(200));
    let file = open::open_path(path).ok()?;
    file.take(200).read_to_end(&mut start).ok()?;
    let start = String::from_utf8_lossy(&start);
    let lines = || start.lines().map(str::trim);
    let is_name = |name: &str| {
        let name = name.trim_end().trim_start_matches("export ");
        !name.is_empty()
            && name
                .chars()
                .all(|c| c.is_alphanumeric() || "_-.".contains(c))
    };
    let has = |separator| {
        let mut pairs = lines().filter_map(|line| line.split_once(separator));
        // A single value in base64 can end with `=`.
        pairs.any(|(name, value)| is_name(name) && !value.trim_matches('=').is_empty())
    };
    match () {
        () if start.trim_start().starts_with('{') => Some(Format::Json),
        () if lines().any(|line| line.starts_with('[') && line.ends_with(']')) => {
            Some(Format::Toml)
        }
        () if has("=") => Some(Format::Env),
        () if has(": ") => Some(Format::Yaml),
        () => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn format_of_a_misplaced_document_is_guessed_from_its_name_or_content() {
        let folder = tempfile::tempdir().unwrap();
        for (name, content, format) in [
            ("env.list", "", Some(Format::Env)),
            ("secrets.env.txt", "", Some(Format::Env)),
            ("values.yml.j2", "", Some(Format::Yaml)),
            ("a", "{\n\"A\": 1", Some(Format::Json)),
            ("b", "# secrets\nexport A=1\n", Some(Format::Env)),
            ("c", "A: 1\n", Some(Format::Yaml)),
            ("d", "[db]\nA = 1\n", Some(Format::Toml)),
            ("e", "aGVsbG8gd29ybGQ=\n", None),
            ("f", "s3cr3t\n", None),
        ] {
            let path = folder.path().join(name);
            std::fs::write(&path, content).unwrap();
            assert_eq!(guess_format(&path), format, "{name}");
        }
    }
}
