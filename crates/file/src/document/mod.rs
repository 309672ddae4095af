//! Documents: named secrets in one text.

mod node;

use std::collections::BTreeSet;

use secretwell_core::backend::{Notice, refuse_encrypted_document};
use secretwell_core::{Error, ErrorKind, KeyPrefix, SecretKey};

use crate::config::Syntax;
use crate::dotenv::Variables;
use node::Node;

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
    Ok(match syntax {
        Syntax::Env(dialect) => Document::Variables(Variables::parse(text, dialect)?),
        _ if text.trim().is_empty() => Document::Tree(Node::Map(Vec::new())),
        Syntax::Json => Document::Tree(Node::from_json(text)?),
        Syntax::Yaml => Document::Tree(Node::from_yaml(text)?),
        Syntax::Toml => Document::Tree(Node::from_toml(text)?),
    })
}

impl Document {
    /// Returns the value of `key`. Returns `None` if there is no such entry, or if it is `null`.
    ///
    /// # Errors
    /// Returns an error if the entry cannot be represented, or if no name in the document can correspond to the key.
    pub(crate) fn get(&self, key: &SecretKey) -> Result<Option<Vec<u8>>, Error> {
        match self {
            Self::Variables(variables) => variables.get(key),
            Self::Tree(node) => node.get(key).map(Node::to_bytes).transpose(),
        }
    }

    /// Returns the keys below `prefix`, without tables and nulls.
    pub(crate) fn keys(&self, prefix: &KeyPrefix) -> BTreeSet<SecretKey> {
        match self {
            Self::Variables(variables) => variables.keys(prefix),
            Self::Tree(node) => node.keys(prefix),
        }
    }

    /// Returns what is below `prefix` and is not a readable key.
    pub(crate) fn notices(&self, prefix: &KeyPrefix) -> Vec<Notice> {
        match self {
            Self::Variables(variables) => variables.notices(prefix),
            Self::Tree(_) => Vec::new(),
        }
    }
}

fn malformed(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::Malformed, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Dialect;

    const ENV: Syntax = Syntax::Env(Dialect::Strict);

    fn text(syntax: Syntax, document: &str, key: &str) -> Option<String> {
        let document = parse(syntax, document.as_bytes()).unwrap();
        let bytes = document.get(&SecretKey::parse(key).unwrap()).unwrap()?;
        Some(String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn values_are_returned_as_text_or_compact_json() {
        let json = r#"{"s":"a\nb","n":1.5,"i":12345678901234567890,"b":true,"z":null,"e":"",
                       "db":{"user":"u","ports":[1, "2", null]}}"#;
        let yaml = "s: \"a\\nb\"\nn: 1.5\ni: 12345678901234567890\nb: true\nz: null\ne: ''\n\
                    db:\n  user: u\n  ports: [1, '2', null]\n";
        for (syntax, document) in [(Syntax::Json, json), (Syntax::Yaml, yaml)] {
            let text = |key| text(syntax, document, key);
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
            text(Syntax::Toml, toml, "day").as_deref(),
            Some("2026-01-02T03:04:05Z")
        );
        assert_eq!(text(Syntax::Toml, toml, "db/port").as_deref(), Some("5432"));
        assert_eq!(
            text(Syntax::Toml, toml, "db/list").as_deref(),
            Some("[1.0,2.5]")
        );
        assert_eq!(
            text(ENV, "DB_PORT=5432", "DB/PORT").as_deref(),
            Some("5432")
        );
    }

    #[test]
    fn empty_documents_and_byte_order_marks_are_accepted() {
        for syntax in [ENV, Syntax::Json, Syntax::Yaml, Syntax::Toml] {
            assert_eq!(text(syntax, "", "K"), None);
            assert_eq!(text(syntax, " \n", "K"), None);
        }
        assert_eq!(
            text(Syntax::Json, "\u{feff}{\"K\":\"v\"}", "K").as_deref(),
            Some("v")
        );
        assert_eq!(text(ENV, "\u{feff}K=v\r\n", "K").as_deref(), Some("v"));
        assert_eq!(
            text(Syntax::Toml, "\u{feff}K='v'", "K").as_deref(),
            Some("v")
        );
        assert_eq!(
            text(Syntax::Yaml, "\u{feff}K: v", "K").as_deref(),
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
        for (syntax, document) in [
            (Syntax::Json, "{\"a\":\"c4n4ry"),
            (Syntax::Json, "{\"a\":\"c4n4ry\",\"a\":1}"),
            (Syntax::Json, "[\"c4n4ry\"]"),
            (Syntax::Json, json.as_str()),
            (Syntax::Yaml, "a: c4n4ry\na: b"),
            (Syntax::Yaml, "a: [c4n4ry"),
            (Syntax::Yaml, "- c4n4ry"),
            (Syntax::Yaml, yaml.as_str()),
            (Syntax::Yaml, bomb.as_str()),
            (Syntax::Toml, "a = c4n4ry"),
            (Syntax::Toml, "a = 'c4n4ry'\na = 1"),
            (Syntax::Toml, toml.as_str()),
            (ENV, "c4n4ry"),
        ] {
            let Err(error) = parse(syntax, document.as_bytes()) else {
                panic!("{syntax:?} {}", &document[..document.len().min(40)])
            };
            assert_eq!(error.kind(), ErrorKind::Malformed);
            assert!(!format!("{error} {error:?}").contains("c4n4ry"));
        }
        for bytes in [&b"\xff\xfeK\0"[..], b"\xfe\xff\0K", b"K=\xff"] {
            assert_eq!(
                parse(ENV, bytes).err().unwrap().kind(),
                ErrorKind::Malformed
            );
        }
    }
}
