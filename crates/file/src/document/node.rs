//! The tree of a document in JSON, YAML or TOML.

use secretwell_core::json::{self, Object};
use secretwell_core::{Error, KeyPrefix, SecretKey, SecretValue};
use zeroize::Zeroizing;

use super::malformed;

/// A parsed document or a part of it. Its texts are wiped from memory when it is dropped.
///
/// A value keeps the text of the document, because every conversion makes another secret of some value: `007`, `1.10`,
/// `no`, or a number of 50 digits.
#[derive(Clone)]
pub(crate) enum Node {
    Null,
    /// A number, a boolean, a date or another text without quotes, as it is written.
    Literal(Zeroizing<String>),
    /// A text in quotes or a block, decoded.
    Text(Zeroizing<String>),
    List(Vec<Node>),
    Map(Object<Node>),
    /// An entry that cannot be read. Its error does not affect the others.
    Refused(Error),
}

/// An entry of a document that is not a table.
pub(super) enum Entry<'a> {
    Key(SecretKey, &'a Node),
    /// An entry or a table whose name cannot be part of a key.
    NotAKey {
        /// The path of the table around it. The outermost table has an empty path.
        table: String,
        name: &'a str,
        /// The reason why the name cannot be part of a key.
        reason: String,
    },
}

impl Node {
    pub(super) fn literal(text: &str) -> Self {
        Self::Literal(Zeroizing::new(text.to_owned()))
    }

    /// Returns the entry for `key`, or the refused table that contains it. Returns `None` if the entry is missing or
    /// `null`.
    ///
    /// # Errors
    /// Returns an error if the entry is missing, and a name with `/` in it reads like the key.
    pub(super) fn get(&self, key: &SecretKey) -> Result<Option<&Self>, Error> {
        let mut node = Some(self);
        for segment in key.segments() {
            node = match node {
                Some(Self::Map(object)) => object.get(segment),
                Some(Self::Refused(_)) => node,
                _ => None,
            };
        }
        match node {
            None | Some(Self::Null) if self.reads_like(key.as_str()) => {
                let message = "the document has no such table, but a name that contains `/`";
                Err(malformed(message).with_hint("write the part before the `/` as a table"))
            }
            None | Some(Self::Null) => Ok(None),
            node => Ok(node),
        }
    }

    /// Returns whether names that contain `/`, or tables, lead to an entry for `path`.
    fn reads_like(&self, path: &str) -> bool {
        let Self::Map(object) = self else {
            return false;
        };
        let is_void = |name: &str| {
            object
                .get(name)
                .is_none_or(|node| matches!(node, Self::Null))
        };
        let mut separators = path.match_indices('/').map(|(at, _)| at);
        !is_void(path)
            || separators.any(|at| {
                let inner = object.get(&path[..at]);
                inner.is_some_and(|inner| inner.reads_like(&path[at + 1..]))
            })
    }

    /// Checks that no table at `prefix` or around it is refused.
    pub(super) fn check_table(&self, prefix: &KeyPrefix) -> Result<(), Error> {
        let mut node = self;
        // The root has an empty prefix.
        let segments = prefix.as_str().split('/').filter(|it| !it.is_empty());
        for segment in segments {
            match node {
                Self::Map(object) => match object.get(segment) {
                    Some(inner) => node = inner,
                    None => return Ok(()),
                },
                _ => break,
            }
        }
        match node {
            Self::Refused(error) => Err(error.clone()),
            _ => Ok(()),
        }
    }

    /// Returns the error of a refused value, or of one in a list.
    pub(super) fn refusal(&self) -> Option<&Error> {
        match self {
            Self::Refused(error) => Some(error),
            Self::List(items) => items.iter().find_map(Self::refusal),
            Self::Map(object) => object.iter().find_map(|(_, node)| node.refusal()),
            Self::Null | Self::Literal(_) | Self::Text(_) => None,
        }
    }

    /// Returns a scalar as it is, and a list or a table as compact JSON.
    ///
    /// # Errors
    /// Returns the error of a refused entry in it.
    pub(super) fn to_value(&self) -> Result<SecretValue, Error> {
        match self {
            Self::Literal(text) | Self::Text(text) => Ok(text.as_str().into()),
            _ => {
                let mut json = Zeroizing::new(String::with_capacity(self.longest_json()));
                self.write_json(&mut json)?;
                Ok(json.as_str().into())
            }
        }
    }

    /// Returns a length that the JSON of the node does not exceed. A buffer that grows leaves copies in freed memory.
    fn longest_json(&self) -> usize {
        // An escape sequence has up to six characters. The rest is for quotes, brackets, and for a separator and a colon
        // after them.
        let text = |text: &str| 6 * text.len() + 4;
        match self {
            Self::Null | Self::Refused(_) => 4,
            Self::Literal(value) | Self::Text(value) => text(value),
            Self::List(items) => items.iter().map(Self::longest_json).sum::<usize>() + 4,
            Self::Map(object) => {
                let entries = object.iter();
                let lengths = entries.map(|(name, node)| text(name) + node.longest_json());
                lengths.sum::<usize>() + 4
            }
        }
    }

    /// Appends the node as JSON. A literal that JSON does not have, such as `007`, becomes a string.
    fn write_json(&self, into: &mut String) -> Result<(), Error> {
        match self {
            Self::Null => into.push_str("null"),
            Self::Literal(text) if json::is_literal(text) => into.push_str(text),
            Self::Literal(text) | Self::Text(text) => json::write_text(text, into),
            Self::List(items) => {
                into.push('[');
                for (index, item) in items.iter().enumerate() {
                    into.push_str(if index == 0 { "" } else { "," });
                    item.write_json(into)?;
                }
                into.push(']');
            }
            Self::Map(object) => {
                into.push('{');
                for (index, (name, node)) in object.iter().enumerate() {
                    into.push_str(if index == 0 { "" } else { "," });
                    json::write_text(name, into);
                    into.push(':');
                    node.write_json(into)?;
                }
                into.push('}');
            }
            Self::Refused(error) => return Err(error.clone()),
        }
        Ok(())
    }

    /// Calls `visit` with each entry, without tables and nulls.
    pub(super) fn visit<'a>(&'a self, visit: &mut impl FnMut(Entry<'a>)) {
        self.visit_below("", visit);
    }

    fn visit_below<'a>(&'a self, table: &str, visit: &mut impl FnMut(Entry<'a>)) {
        let Self::Map(object) = self else { return };
        for (name, node) in object.iter().filter(|(_, node)| !node.is_void()) {
            let path = match table {
                "" => name.to_owned(),
                table => format!("{table}/{name}"),
            };
            let key = match SecretKey::parse(&path) {
                _ if name.contains('/') => {
                    Err("it contains `/`, which joins the segments of a key".to_owned())
                }
                parsed => parsed.map_err(|error| error.message().to_owned()),
            };
            match key {
                Ok(_) if matches!(node, Self::Map(_)) => node.visit_below(&path, visit),
                Ok(key) => visit(Entry::Key(key, node)),
                Err(reason) => visit(Entry::NotAKey {
                    table: table.to_owned(),
                    name,
                    reason,
                }),
            }
        }
    }

    /// Returns whether the node is null or a table without other entries.
    fn is_void(&self) -> bool {
        match self {
            Self::Null => true,
            Self::Map(object) => object.iter().all(|(_, node)| node.is_void()),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A buffer that is too small leaves copies in freed memory, and one that is much too large wastes memory.
    #[test]
    fn buffer_of_json_is_large_enough_and_not_much_larger() {
        // Each of these characters needs the longest escape sequence.
        let escaped = "\u{1}".repeat(9);
        let text = || Node::Text(escaped.clone().into());
        let list = |count: usize| Node::List((0..count).map(|_| text()).collect());
        let table = |count: usize| {
            let entry = |number| (escaped.repeat(number + 1), text());
            Node::Map(Object::new((0..count).map(entry).collect()).unwrap())
        };
        for (node, nodes) in [
            (Node::Null, 1),
            (text(), 1),
            (list(0), 1),
            (list(1), 2),
            (list(5), 6),
            (table(0), 1),
            (table(1), 3),
            (table(5), 11),
            (Node::List(vec![table(2), list(2), Node::Null]), 10),
        ] {
            let mut json = String::new();
            node.write_json(&mut json).unwrap();
            let longest = node.longest_json();
            assert!(
                (json.len()..=json.len() + 4 * nodes).contains(&longest),
                "{json}: {longest}"
            );
        }
    }
}
