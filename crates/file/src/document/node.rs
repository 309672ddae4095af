//! The tree of a document in JSON, YAML or TOML.

use std::collections::{BTreeSet, HashSet};
use std::fmt;

use secretwell_core::{Error, KeyPrefix, SecretKey};
use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, Serializer};
use zeroize::Zeroize;

use super::malformed;

/// The name under which the `toml` crate deserializes dates.
const TOML_DATE: &str = "$__toml_private_datetime";

/// A parsed document or a part of it. Its texts are wiped from memory when it is dropped.
pub(crate) enum Node {
    Null,
    Bool(bool),
    Integer(i128),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
}

impl Node {
    /// Parses a JSON document.
    pub(crate) fn from_json(text: &str) -> Result<Self, Error> {
        let node: Self = serde_json::from_str(text).map_err(|error| {
            malformed(format!(
                "line {}, column {}: invalid JSON or a duplicate name",
                error.line(),
                error.column()
            ))
        })?;
        node.require_map()
    }

    /// Parses a YAML document.
    pub(crate) fn from_yaml(text: &str) -> Result<Self, Error> {
        let node: Self = serde_saphyr::from_str(text).map_err(|error| {
            let location = error.location().map_or_else(String::new, |location| {
                format!("line {}, column {}: ", location.line(), location.column())
            });
            malformed(format!("{location}invalid YAML or a duplicate name"))
        })?;
        node.require_map()
    }

    /// Parses a TOML document.
    pub(crate) fn from_toml(text: &str) -> Result<Self, Error> {
        let node: Self = toml::from_str(text).map_err(|error: toml::de::Error| {
            let line = error.span().map_or(0, |span| {
                text[..span.start.min(text.len())].matches('\n').count()
            });
            malformed(format!(
                "line {}: invalid TOML or a duplicate name",
                line + 1
            ))
        })?;
        node.require_map()
    }

    fn require_map(self) -> Result<Self, Error> {
        match self {
            Self::Map(_) => Ok(self),
            _ => Err(malformed(
                "the top level of the document is not a table of names and values",
            )),
        }
    }

    /// Returns the entry for `key`. Returns `None` if it is missing or `null`.
    pub(crate) fn get(&self, key: &SecretKey) -> Option<&Self> {
        key.segments()
            .try_fold(self, |node, segment| node.child(segment))
            .filter(|node| !matches!(node, Self::Null))
    }

    fn child(&self, name: &str) -> Option<&Self> {
        match self {
            Self::Map(entries) => entries
                .iter()
                .find(|(entry, _)| entry == name)
                .map(|(_, node)| node),
            _ => None,
        }
    }

    /// Returns text unchanged, and any other value as compact JSON.
    pub(crate) fn to_bytes(&self) -> Result<Vec<u8>, Error> {
        match self {
            Self::Text(text) => Ok(text.as_bytes().to_vec()),
            // The source error is dropped, because it might quote the value.
            _ => serde_json::to_vec(self)
                .map_err(|_| malformed("the value cannot be represented as JSON")),
        }
    }

    /// Returns the keys below `prefix`, without tables and nulls.
    pub(crate) fn keys(&self, prefix: &KeyPrefix) -> BTreeSet<SecretKey> {
        let mut paths = Vec::new();
        self.collect_paths("", &mut paths);
        let keys = paths.iter().filter_map(|path| SecretKey::parse(path).ok());
        keys.filter(|key| prefix.contains(key)).collect()
    }

    fn collect_paths(&self, path: &str, into: &mut Vec<String>) {
        match self {
            Self::Map(entries) => {
                for (name, node) in entries {
                    let separator = if path.is_empty() { "" } else { "/" };
                    node.collect_paths(&format!("{path}{separator}{name}"), into);
                }
            }
            Self::Null => {}
            _ => into.push(path.to_owned()),
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Self::Text(text) = self {
            text.zeroize();
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;

        impl<'de> Visitor<'de> for Any {
            type Value = Node;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }

            fn visit_unit<E>(self) -> Result<Node, E> {
                Ok(Node::Null)
            }

            fn visit_none<E>(self) -> Result<Node, E> {
                Ok(Node::Null)
            }

            fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
                Node::deserialize(deserializer)
            }

            fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
                Ok(Node::Bool(value))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
                Ok(Node::Integer(value.into()))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
                Ok(Node::Integer(value.into()))
            }

            fn visit_i128<E>(self, value: i128) -> Result<Node, E> {
                Ok(Node::Integer(value))
            }

            fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
                Ok(Node::Float(value))
            }

            fn visit_str<E>(self, text: &str) -> Result<Node, E> {
                Ok(Node::Text(text.to_owned()))
            }

            fn visit_string<E>(self, text: String) -> Result<Node, E> {
                Ok(Node::Text(text))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
                let mut list = Vec::new();
                while let Some(item) = items.next_element()? {
                    list.push(item);
                }
                Ok(Node::List(list))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
                let mut entries: Vec<(String, Node)> = Vec::new();
                let mut names = HashSet::new();
                while let Some(name) = access.next_key::<String>()? {
                    if name == TOML_DATE {
                        return Ok(Node::Text(access.next_value()?));
                    }
                    let value = access.next_value()?;
                    if !names.insert(name.clone()) {
                        return Err(de::Error::custom("duplicate name"));
                    }
                    entries.push((name, value));
                }
                Ok(Node::Map(entries))
            }
        }

        deserializer.deserialize_any(Any)
    }
}

impl Serialize for Node {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Bool(value) => serializer.serialize_bool(*value),
            Self::Integer(value) => serializer.serialize_i128(*value),
            Self::Float(value) => serializer.serialize_f64(*value),
            Self::Text(text) => serializer.serialize_str(text),
            Self::List(items) => serializer.collect_seq(items),
            Self::Map(entries) => {
                let mut map = serializer.serialize_map(Some(entries.len()))?;
                for (name, node) in entries {
                    map.serialize_entry(name, node)?;
                }
                map.end()
            }
        }
    }
}
