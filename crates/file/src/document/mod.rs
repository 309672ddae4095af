//! Documents: named secrets in one text.

mod json;
mod node;
#[cfg(test)]
mod tests;
mod toml;
mod yaml;

use std::collections::BTreeSet;

use secretwell_core::backend::{Notice, NoticeKind, collect_notices, refuse_encrypted_document};
use secretwell_core::json::Object;
use secretwell_core::{Error, ErrorKind, KeyPrefix, SecretKey, SecretValue};

use crate::config::Syntax;
use crate::dotenv::Variables;
use node::{Entry, Node};

/// A parsed document. Its texts are wiped from memory when it is dropped.
pub(crate) enum Document {
    /// The variables of a `.env` document. Their names have no segments.
    Variables(Variables),
    /// The tree of a document with nested names.
    Tree(Node),
}

/// Parses a document. Error messages name the line and never quote content.
pub(crate) fn parse(syntax: Syntax, bytes: &[u8]) -> Result<Document, Error> {
    refuse_encrypted_document(bytes)?;
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Err(malformed("the document is UTF-16 text").with_hint("save it as UTF-8"));
    }
    // The source error is dropped, because it contains a position inside a secret.
    let text = std::str::from_utf8(bytes)
        .map_err(|_| malformed("the document is not UTF-8 text").with_hint("save it as UTF-8"))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let root = match syntax {
        Syntax::Env(dialect) => return Ok(Document::Variables(Variables::parse(text, dialect)?)),
        // JSON has no empty document, so its writer has not finished.
        Syntax::Json => json::parse(text)?,
        _ if text.trim().is_empty() => Node::Map(Object::default()),
        Syntax::Yaml => yaml::parse(text)?,
        Syntax::Toml => toml::parse(text)?,
    };
    match root {
        Node::Map(_) => Ok(Document::Tree(root)),
        Node::Refused(error) => Err(error),
        _ => Err(malformed(
            "the top level of the document is not a table of names and values",
        )),
    }
}

impl Document {
    /// Returns the value of `key`. Returns `None` if there is no such entry, or if it is `null`.
    ///
    /// # Errors
    /// Returns an error if the entry cannot be represented, or if no name in the document can correspond to the key.
    pub(crate) fn get(&self, key: &SecretKey) -> Result<Option<SecretValue>, Error> {
        match self {
            Self::Variables(variables) => variables.get(key),
            Self::Tree(node) => node.get(key)?.map(Node::to_value).transpose(),
        }
    }

    /// Returns the keys below `prefix`, without tables and nulls.
    ///
    /// # Errors
    /// Returns the error of the table at `prefix`, or of one around it, if it cannot be read.
    pub(crate) fn keys(&self, prefix: &KeyPrefix) -> Result<BTreeSet<SecretKey>, Error> {
        match self {
            Self::Variables(variables) => Ok(variables.keys(prefix)),
            Self::Tree(root) => {
                root.check_table(prefix)?;
                let mut keys = BTreeSet::new();
                root.visit(&mut |entry| match entry {
                    Entry::Key(key, _) if prefix.contains(&key) => drop(keys.insert(key)),
                    _ => {}
                });
                Ok(keys)
            }
        }
    }

    /// Returns what is below `prefix` and is not a readable key.
    ///
    /// # Errors
    /// Returns the error of the table at `prefix`, or of one around it, if it cannot be read.
    pub(crate) fn notices(&self, prefix: &KeyPrefix) -> Result<Vec<Notice>, Error> {
        match self {
            Self::Variables(variables) => Ok(variables.notices(prefix)),
            Self::Tree(root) => {
                root.check_table(prefix)?;
                let mut notices = Vec::new();
                root.visit(&mut |entry| notices.extend(notice(entry, prefix)));
                Ok(collect_notices(notices))
            }
        }
    }
}

/// Returns the notice about an entry that is below `prefix` and that cannot be read.
fn notice(entry: Entry<'_>, prefix: &KeyPrefix) -> Option<Notice> {
    match entry {
        Entry::Key(key, node) => {
            let error = node.refusal().filter(|_| prefix.contains(&key))?;
            let notice = Notice::new(NoticeKind::Unreadable, &key, error.message().to_owned());
            Some(notice.with_key(&key))
        }
        Entry::NotAKey {
            table,
            name,
            reason,
        } => {
            let is_below = match prefix.as_str() {
                "" => true,
                prefix => table
                    .strip_prefix(prefix)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
            };
            let (place, hint) = match table.as_str() {
                "" => (String::new(), "rename it".to_owned()),
                table => (
                    format!(" in the table `{table}`"),
                    format!("rename it, or read the whole table `{table}`"),
                ),
            };
            let message = format!("the name{place} cannot be part of a key: {reason}");
            let notice = Notice::new(NoticeKind::NotAKey, name, message).with_hint(hint);
            is_below.then_some(notice)
        }
    }
}

fn malformed(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::Malformed, message)
}
