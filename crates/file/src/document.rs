//! Parses documents of all formats into one tree.

use std::collections::{BTreeSet, HashSet};
use std::fmt;

use secretwell_core::{Error, ErrorKind, KeyPrefix, SecretKey};
use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, Serializer};
use zeroize::Zeroize;

use crate::config::Format;
use crate::dotenv;

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

/// Parses a document. Error messages name the line and never quote content.
pub(crate) fn parse(format: Format, bytes: &[u8]) -> Result<Node, Error> {
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Err(malformed("the document is UTF-16 text").with_hint("save it as UTF-8"));
    }
    // The source error is dropped, because it contains a position inside a secret.
    let text = std::str::from_utf8(bytes)
        .map_err(|_| malformed("the document is not UTF-8 text").with_hint("save it as UTF-8"))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.trim().is_empty() {
        return Ok(Node::Map(Vec::new()));
    }
    let node = match format {
        Format::Env => {
            let variables = dotenv::parse(text).map_err(|error| malformed(error.to_string()))?;
            let entry = |(name, value): (String, zeroize::Zeroizing<String>)| {
                (name, Node::Text(value.as_str().to_owned()))
            };
            Node::Map(variables.into_iter().map(entry).collect())
        }
        Format::Json => serde_json::from_str(text).map_err(|error| {
            malformed(format!(
                "line {}, column {}: invalid JSON or a duplicate name",
                error.line(),
                error.column()
            ))
        })?,
        Format::Yaml => serde_saphyr::from_str(text).map_err(|error| {
            let location = error.location().map_or_else(String::new, |location| {
                format!("line {}, column {}: ", location.line(), location.column())
            });
            malformed(format!("{location}invalid YAML or a duplicate name"))
        })?,
        Format::Toml => toml::from_str(text).map_err(|error: toml::de::Error| {
            let line = error.span().map_or(0, |span| {
                text[..span.start.min(text.len())].matches('\n').count()
            });
            malformed(format!(
                "line {}: invalid TOML or a duplicate name",
                line + 1
            ))
        })?,
    };
    match node {
        Node::Map(_) => Ok(node),
        _ => Err(malformed(
            "the top level of the document is not a table of names and values",
        )),
    }
}

fn malformed(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::Malformed, message)
}

impl Node {
    /// Returns the entry for `key`. Returns `None` if it is missing or `null`.
    pub(crate) fn get(&self, format: Format, key: &SecretKey) -> Option<&Self> {
        let entry = match format {
            Format::Env => self.child(&key.as_str().replace('/', "_")),
            _ => key
                .segments()
                .try_fold(self, |node, segment| node.child(segment)),
        };
        entry.filter(|node| !matches!(node, Self::Null))
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
    pub(crate) fn keys(&self, format: Format, prefix: &KeyPrefix) -> BTreeSet<SecretKey> {
        let mut paths = Vec::new();
        self.collect_paths("", &mut paths);
        if let (Format::Env, Some(joined)) =
            (format, Some(prefix.as_str()).filter(|p| !p.is_empty()))
        {
            // Names in `.env` have no separator. A name is below every prefix that it starts with.
            let start = format!("{}_", joined.replace('/', "_"));
            let below = |path: &String| Some(format!("{joined}/{}", path.strip_prefix(&start)?));
            paths = paths.iter().filter_map(below).collect();
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn text(format: Format, document: &str, key: &str) -> Option<String> {
        let node = parse(format, document.as_bytes()).unwrap();
        let bytes = node
            .get(format, &SecretKey::parse(key).unwrap())?
            .to_bytes()
            .unwrap();
        Some(String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn values_are_returned_as_text_or_compact_json() {
        let json = r#"{"s":"a\nb","n":1.5,"i":12345678901234567890,"b":true,"z":null,"e":"",
                       "db":{"user":"u","ports":[1, "2", null]}}"#;
        let yaml = "s: \"a\\nb\"\nn: 1.5\ni: 12345678901234567890\nb: true\nz: null\ne: ''\n\
                    db:\n  user: u\n  ports: [1, '2', null]\n";
        for (format, document) in [(Format::Json, json), (Format::Yaml, yaml)] {
            let text = |key| text(format, document, key);
            assert_eq!(text("s").as_deref(), Some("a\nb"));
            assert_eq!(text("n").as_deref(), Some("1.5"));
            assert_eq!(text("i").as_deref(), Some("12345678901234567890"));
            assert_eq!(text("b").as_deref(), Some("true"));
            assert_eq!(text("e").as_deref(), Some(""));
            assert_eq!(text("z"), None);
            assert_eq!(text("db/user").as_deref(), Some("u"));
            assert_eq!(text("db/ports").as_deref(), Some(r#"[1,"2",null]"#));
            assert_eq!(
                text("db").as_deref(),
                Some(r#"{"user":"u","ports":[1,"2",null]}"#)
            );
            assert_eq!(text("db/none"), None);
            assert_eq!(text("s/deeper"), None);
        }
        let toml = "s = 'x'\nday = 2026-01-02T03:04:05Z\n[db]\nport = 5432\nlist = [1.0, 2.5]\n";
        assert_eq!(
            text(Format::Toml, toml, "day").as_deref(),
            Some("2026-01-02T03:04:05Z")
        );
        assert_eq!(text(Format::Toml, toml, "db/port").as_deref(), Some("5432"));
        assert_eq!(
            text(Format::Toml, toml, "db/list").as_deref(),
            Some("[1.0,2.5]")
        );
        assert_eq!(
            text(Format::Env, "DB_PORT=5432", "DB/PORT").as_deref(),
            Some("5432")
        );
    }

    #[test]
    fn empty_documents_and_byte_order_marks_are_accepted() {
        for format in [Format::Env, Format::Json, Format::Yaml, Format::Toml] {
            assert_eq!(text(format, "", "K"), None);
            assert_eq!(text(format, " \n", "K"), None);
        }
        assert_eq!(
            text(Format::Json, "\u{feff}{\"K\":\"v\"}", "K").as_deref(),
            Some("v")
        );
        assert_eq!(
            text(Format::Env, "\u{feff}K=v\r\n", "K").as_deref(),
            Some("v")
        );
        assert_eq!(
            text(Format::Toml, "\u{feff}K='v'", "K").as_deref(),
            Some("v")
        );
        assert_eq!(
            text(Format::Yaml, "\u{feff}K: v", "K").as_deref(),
            Some("v")
        );
    }

    #[test]
    fn errors_of_malformed_documents_contain_no_content() {
        let deep = "[".repeat(10_000) + &"]".repeat(10_000);
        let deep = |prefix: &str, suffix: &str| format!("{prefix}{deep}{suffix}");
        let (json, yaml, toml) = (deep("{\"a\":", "}"), deep("a: ", ""), deep("a = ", ""));
        let bomb = "a: &a [c4n4ry]\n".to_owned()
            + &(1..30)
                .map(|i| format!("{0}: &{0} [{1}, {1}, {1}]\n", name(i), alias(i - 1)))
                .collect::<String>();
        fn name(i: u8) -> char {
            char::from(b'a' + i % 26)
        }
        fn alias(i: u8) -> String {
            format!("*{}", name(i))
        }
        for (format, document) in [
            (Format::Json, "{\"a\":\"c4n4ry"),
            (Format::Json, "{\"a\":\"c4n4ry\",\"a\":1}"),
            (Format::Json, "[\"c4n4ry\"]"),
            (Format::Json, json.as_str()),
            (Format::Yaml, "a: c4n4ry\na: b"),
            (Format::Yaml, "a: [c4n4ry"),
            (Format::Yaml, "- c4n4ry"),
            (Format::Yaml, yaml.as_str()),
            (Format::Yaml, bomb.as_str()),
            (Format::Toml, "a = c4n4ry"),
            (Format::Toml, "a = 'c4n4ry'\na = 1"),
            (Format::Toml, toml.as_str()),
            (Format::Env, "c4n4ry"),
        ] {
            let Err(error) = parse(format, document.as_bytes()) else {
                panic!("{format:?} {}", &document[..document.len().min(40)])
            };
            assert_eq!(error.kind(), ErrorKind::Malformed);
            assert!(!format!("{error} {error:?}").contains("c4n4ry"));
        }
        for bytes in [&b"\xff\xfeK\0"[..], b"\xfe\xff\0K", b"K=\xff"] {
            assert_eq!(
                parse(Format::Env, bytes).err().unwrap().kind(),
                ErrorKind::Malformed
            );
        }
    }
}
