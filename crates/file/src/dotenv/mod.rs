//! `.env` documents.

mod strict;

use std::collections::{BTreeSet, HashMap};

use secretwell_core::backend::Notice;
use secretwell_core::{Error, ErrorKind, KeyPrefix, SecretKey};
use zeroize::Zeroizing;

use crate::config::Dialect;

/// The variables of a document. A duplicate name has its last value.
pub(crate) struct Variables {
    by_name: HashMap<String, Entry>,
    notices: Vec<Notice>,
}

/// A line, or several lines, that set a variable.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The name. It is empty if the line has no name.
    pub(crate) name: String,
    /// The number of the first line, counted from 1.
    pub(crate) line: usize,
    pub(crate) value: Result<Zeroizing<String>, Problem>,
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

impl Variables {
    /// Parses a document. Error messages name the line and never quote content.
    pub(crate) fn parse(text: &str, dialect: Dialect) -> Result<Self, Error> {
        let _ = dialect;
        let entries = strict::parse(text).map_err(|error| malformed(error.to_string()))?;
        let mut variables = Self {
            by_name: HashMap::with_capacity(entries.len()),
            notices: Vec::new(),
        };
        for entry in entries {
            variables.by_name.insert(entry.name.clone(), entry);
        }
        Ok(variables)
    }

    /// Returns the value of the variable for `key`.
    ///
    /// # Errors
    /// Returns [`ErrorKind::InvalidKey`] if no variable can have such a name, or [`ErrorKind::Malformed`] if the line of
    /// the variable cannot be read.
    pub(crate) fn get(&self, key: &SecretKey) -> Result<Option<Vec<u8>>, Error> {
        if !strict::is_name(key.as_str()) {
            let message = "a name in `.env` cannot contain white space, quotes, `=` or `#`";
            return Err(Error::new(ErrorKind::InvalidKey, message).with_hint("rename the key"));
        }
        let Some(entry) = self.by_name.get(&key.as_str().replace('/', "_")) else {
            return Ok(None);
        };
        match &entry.value {
            Ok(value) => Ok(Some(value.as_bytes().to_vec())),
            Err(problem) => Err(problem.error(entry.line)),
        }
    }

    /// Returns the keys below `prefix`. Names have no separator, so a name is below every prefix that it starts with.
    pub(crate) fn keys(&self, prefix: &KeyPrefix) -> BTreeSet<SecretKey> {
        let below = |name: &String| match prefix.as_str() {
            "" => Some(name.clone()),
            joined => {
                let start = format!("{}_", joined.replace('/', "_"));
                Some(format!("{joined}/{}", name.strip_prefix(&start)?))
            }
        };
        let paths = self.by_name.keys().filter_map(below);
        paths
            .filter_map(|path| SecretKey::parse(path).ok())
            .filter(|key| prefix.contains(key))
            .collect()
    }

    /// Returns what is below `prefix` and is not a readable key.
    pub(crate) fn notices(&self, prefix: &KeyPrefix) -> Vec<Notice> {
        let below = |notice: &&Notice| notice.key.as_ref().is_none_or(|it| prefix.contains(it));
        self.notices.iter().filter(below).cloned().collect()
    }
}

impl Problem {
    fn error(self, line: usize) -> Error {
        let error = malformed(format!("line {line}: {}", self.message));
        match self.hint {
            Some(hint) => error.with_hint(hint),
            None => error,
        }
    }
}

fn malformed(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::Malformed, message)
}
