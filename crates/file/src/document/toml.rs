//! TOML documents.

use secretwell_core::Error;
use secretwell_core::json::Object;
use toml::Spanned;
use toml::de::{DeTable, DeValue};
use zeroize::Zeroizing;

use super::malformed;
use super::node::Node;

/// Parses a TOML document. Numbers, booleans and dates keep their text.
pub(super) fn parse(text: &str) -> Result<Node, Error> {
    let parsed = DeTable::parse(text).map_err(|error| {
        // The parser's message is dropped, because it quotes the document.
        let at = error.span().map_or(0, |span| span.start.min(text.len()));
        let line = 1 + text.as_bytes()[..at]
            .iter()
            .filter(|byte| **byte == b'\n')
            .count();
        malformed(format!("line {line}: invalid TOML or a duplicate name"))
    })?;
    table(text, parsed.into_inner())
}

fn table(text: &str, table: DeTable<'_>) -> Result<Node, Error> {
    let entry = |(name, value): (Spanned<_>, _)| {
        let name: std::borrow::Cow<'_, str> = name.into_inner();
        Ok((name.into_owned(), node(text, value)?))
    };
    let entries = table.into_iter().map(entry).collect::<Result<_, Error>>()?;
    // The parser refuses duplicate names, with the line.
    Object::new(entries)
        .map(Node::Map)
        .map_err(|_| malformed("duplicate name"))
}

fn node(text: &str, value: Spanned<DeValue<'_>>) -> Result<Node, Error> {
    let span = value.span();
    Ok(match value.into_inner() {
        DeValue::String(value) => Node::Text(Zeroizing::new(value.into_owned())),
        DeValue::Array(items) => {
            let items = items.into_iter().map(|item| node(text, item));
            Node::List(items.collect::<Result<_, _>>()?)
        }
        DeValue::Table(entries) => table(text, entries)?,
        DeValue::Integer(_) | DeValue::Float(_) | DeValue::Boolean(_) | DeValue::Datetime(_) => {
            Node::literal(&text[span])
        }
    })
}
