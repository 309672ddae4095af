//! `.env` documents.

mod docker;
#[cfg(test)]
mod hostile;
mod node;
mod readers;
mod scan;
mod shell;
mod strict;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};

use secretwell_core::backend::{Notice, NoticeKind};
use secretwell_core::{Error, ErrorKind, KeyPrefix, SecretKey, SecretValue};
use zeroize::Zeroizing;

use crate::config::Dialect;
use readers::{Reader, Readers};

/// How many lines of a document are reported. The number of the other lines is reported, too.
const MAX_NOTICES: usize = 200;

/// The variables of a document. A duplicate name has its last value.
pub(crate) struct Variables {
    by_name: HashMap<String, Entry>,
    /// Lines that set no variable, with the number of the line.
    unnamed: Vec<(usize, Problem)>,
}

/// A line, or several lines, that set a variable.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The name. It is empty if the line has no name.
    pub(crate) name: String,
    /// The number of the first line, counted from 1.
    pub(crate) line: usize,
    pub(crate) value: Result<Zeroizing<String>, Problem>,
    /// Whether the name is certainly not a part of a secret.
    is_printable: bool,
    /// The programs that read another value.
    readers: Readers,
}

/// Why a line cannot be read. It affects only the variable of that line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) message: &'static str,
    pub(crate) hint: Option<&'static str>,
}

/// A syntax error after which the rest of the document could mean something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub(crate) struct SyntaxError {
    /// The number of the line, counted from 1.
    pub(crate) line: usize,
    pub(crate) problem: &'static str,
}

/// Returns the entries of `text` in order.
///
/// # Errors
/// Returns an error if no entry of the document can be trusted.
pub(crate) fn parse(text: &str, dialect: Dialect) -> Result<Vec<Entry>, SyntaxError> {
    match dialect {
        Dialect::Strict => strict::parse(text),
        Dialect::Node => node::parse(text),
        Dialect::Docker => Ok(docker::parse(text)),
        Dialect::Shell => shell::parse(text),
    }
}

impl Variables {
    /// Parses a document. Error messages name the line and never quote content.
    pub(crate) fn parse(text: &str, dialect: Dialect) -> Result<Self, Error> {
        let entries = parse(text, dialect).map_err(|error| malformed(error.to_string()))?;
        let mut variables = Self {
            by_name: HashMap::with_capacity(entries.len()),
            unnamed: Vec::new(),
        };
        for entry in entries {
            match entry.value {
                Err(problem) if entry.name.is_empty() => {
                    variables.unnamed.push((entry.line, problem));
                }
                _ => drop(variables.by_name.insert(entry.name.clone(), entry)),
            }
        }
        if variables.by_name.contains_key("sops_mac") {
            let message = "the document is encrypted by SOPS";
            return Err(Error::new(ErrorKind::Invalid, message)
                .with_hint("decrypt it before it is deployed"));
        }
        Ok(variables)
    }

    /// Returns the value of the variable for `key`.
    ///
    /// # Errors
    /// Returns [`ErrorKind::InvalidKey`] if no variable can have such a name, or [`ErrorKind::Malformed`] if the line of
    /// the variable cannot be read.
    pub(crate) fn get(&self, key: &SecretKey) -> Result<Option<SecretValue>, Error> {
        let name = key.as_str().replace('/', "_");
        if !is_name(&name) {
            let message =
                "a name in `.env` consists of letters, digits, `_`, `-`, `.`, `[` and `]`";
            return Err(Error::new(ErrorKind::InvalidKey, message).with_hint("rename the key"));
        }
        let Some(entry) = self.by_name.get(&name) else {
            return Ok(None);
        };
        match &entry.value {
            Ok(value) => Ok(Some(value.as_str().into())),
            Err(problem) => Err(problem.error(entry.line)),
        }
    }

    /// Returns the keys below `prefix`. Names have no separator, so a name is below every prefix that it starts with.
    pub(crate) fn keys(&self, prefix: &KeyPrefix) -> BTreeSet<SecretKey> {
        let readable = self.by_name.values().filter(|entry| entry.value.is_ok());
        readable
            .filter_map(|entry| entry.key_below(prefix))
            .collect()
    }

    /// Returns what is below `prefix` and is not a readable key, and what other programs read differently.
    pub(crate) fn notices(&self, prefix: &KeyPrefix) -> Vec<Notice> {
        let mut entries: Vec<&Entry> = self
            .by_name
            .values()
            .filter(|entry| entry.starts_with(prefix))
            .collect();
        entries.sort_by_key(|entry| entry.line);
        let unnamed = self
            .unnamed
            .iter()
            .map(|&(line, problem)| (line, problem.notice("", line)));
        let named = entries
            .iter()
            .filter_map(|entry| Some((entry.line, entry.notice(prefix)?)));
        let mut by_line: Vec<(usize, Notice)> = unnamed.chain(named).collect();
        by_line.sort_by_key(|(line, _)| *line);
        let omitted = by_line.get(MAX_NOTICES).map(|(line, first)| {
            let count = by_line.len() - MAX_NOTICES;
            let message = format!("line {line}: the first of {count} lines that are not reported");
            Notice::new(first.kind, "", message)
        });
        by_line.truncate(MAX_NOTICES);
        let by_line = by_line.into_iter().map(|(_, notice)| notice);
        by_line.chain(omitted).chain(summaries(&entries)).collect()
    }
}

/// Returns one notice for each program that reads values differently because of its syntax alone. One notice per value
/// would hide the others.
fn summaries(entries: &[&Entry]) -> impl Iterator<Item = Notice> {
    [Reader::Docker, Reader::Shell]
        .into_iter()
        .filter_map(|reader| {
            let mut differing = entries
                .iter()
                .filter(|entry| entry.readers.contains(reader));
            let first = differing.next()?.line;
            let message = format!(
                "line {first}: {} another value here and for {} other variables",
                reader.returns(),
                differing.count(),
            );
            Some(Notice::new(NoticeKind::ReadDifferently, "", message))
        })
}

impl Entry {
    /// Returns an entry with a name and a value.
    fn new(name: &str, line: usize, value: Result<Zeroizing<String>, Problem>) -> Self {
        Self {
            name: name.to_owned(),
            line,
            value,
            is_printable: true,
            readers: Readers::default(),
        }
    }

    /// Returns an entry for a line without `=`, or one whose name might be a part of a secret.
    fn hidden(name: &str, line: usize, problem: Problem) -> Self {
        Self {
            is_printable: false,
            ..Self::new(name, line, Err(problem))
        }
    }

    /// Returns whether the variable is below `prefix`.
    fn starts_with(&self, prefix: &KeyPrefix) -> bool {
        prefix.as_str().is_empty() || self.name.starts_with(&variable_prefix(prefix))
    }

    /// Returns the key of the variable below `prefix`, if the name can be a key.
    fn key_below(&self, prefix: &KeyPrefix) -> Option<SecretKey> {
        if !is_name(&self.name) {
            return None;
        }
        if prefix.as_str().is_empty() {
            return SecretKey::parse(&self.name).ok();
        }
        let rest = self.name.strip_prefix(&variable_prefix(prefix))?;
        SecretKey::parse(format!("{}/{rest}", prefix.as_str())).ok()
    }

    /// Returns what the operator should know about this entry. It names the variable only if the name is certainly not
    /// a part of a secret.
    fn notice(&self, prefix: &KeyPrefix) -> Option<Notice> {
        let key = self.key_below(prefix);
        let name = if self.is_printable && is_short_name(&self.name) {
            &*self.name
        } else {
            ""
        };
        let notice = match &self.value {
            Err(problem) => problem.notice(name, self.line),
            Ok(value) if key.is_none() => {
                let name = if value.is_empty() { "" } else { name };
                let message = format!("line {}: the name cannot be a key", self.line);
                Notice::new(NoticeKind::NotAKey, name, message).with_hint(
                    "use letters, digits and `_`, because other names cannot be requested",
                )
            }
            Ok(_) => self.readers.notice(name, self.line)?,
        };
        Some(match key {
            Some(key) if !name.is_empty() => notice.with_key(&key),
            _ => notice,
        })
    }
}

/// Returns what the names of the variables below `prefix` start with.
fn variable_prefix(prefix: &KeyPrefix) -> String {
    format!("{}_", prefix.as_str()).replace('/', "_")
}

/// Returns whether `name` can be the name of a variable. Names are restricted, so that a URL or a token is not taken
/// for one.
fn is_name(name: &str) -> bool {
    let is_allowed = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '[' | ']');
    !name.is_empty() && name.chars().all(is_allowed)
}

/// Returns whether `name` is short and looks like a name or a path of names.
fn is_short_name(name: &str) -> bool {
    name.len() <= 64 && name.split('/').all(is_name)
}

impl Problem {
    const fn new(message: &'static str, hint: &'static str) -> Self {
        Self {
            message,
            hint: Some(hint),
        }
    }

    fn error(self, line: usize) -> Error {
        let error = malformed(format!("line {line}: {}", self.message));
        match self.hint {
            Some(hint) => error.with_hint(hint),
            None => error,
        }
    }

    fn notice(self, name: &str, line: usize) -> Notice {
        let message = format!("line {line}: {}", self.message);
        let notice = Notice::new(NoticeKind::Unreadable, name, message);
        match self.hint {
            Some(hint) => notice.with_hint(hint),
            None => notice,
        }
    }
}

fn malformed(message: impl Into<Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::Malformed, message)
}
