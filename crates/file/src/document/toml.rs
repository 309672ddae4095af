//! TOML documents.

use secretwell_core::Error;
use secretwell_core::json::Object;
use toml::Spanned;
use toml::de::{DeTable, DeValue};
use zeroize::Zeroizing;

use super::malformed;
use super::node::Node;

/// The maximum nesting depth of a document.
const MAX_DEPTH: usize = 128;

/// Parses a TOML document. Numbers, booleans and dates keep their text.
pub(super) fn parse(text: &str) -> Result<Node, Error> {
    let parsed = DeTable::parse(text).map_err(|error| {
        // The parser's message is dropped, because it quotes the document.
        let line = line(text, error.span().map_or(0, |span| span.start));
        malformed(format!("line {line}: invalid TOML or a duplicate name"))
    })?;
    let root = parsed.into_inner();
    if let Some(at) = too_deep(&root) {
        let line = line(text, at);
        dismantle(root);
        return Err(malformed(format!(
            "line {line}: invalid TOML: values are nested too deeply"
        )));
    }
    table(text, root)
}

/// Returns the line of a position.
fn line(text: &str, at: usize) -> usize {
    let before = &text.as_bytes()[..at.min(text.len())];
    1 + before.iter().filter(|byte| **byte == b'\n').count()
}

/// Returns the position of a value that is nested too deeply.
///
/// The parser limits the depth of brackets and the length of a dotted name, but not their combination, and a thread
/// has too little memory for a recursion over it.
fn too_deep(root: &DeTable<'_>) -> Option<usize> {
    let mut open: Vec<_> = root.values().map(|value| (value, 1)).collect();
    while let Some((value, depth)) = open.pop() {
        if depth > MAX_DEPTH {
            return Some(value.span().start);
        }
        match value.get_ref() {
            DeValue::Array(items) => open.extend(items.iter().map(|item| (item, depth + 1))),
            DeValue::Table(table) => open.extend(table.values().map(|value| (value, depth + 1))),
            _ => {}
        }
    }
    None
}

/// Drops a table without a recursion.
fn dismantle(root: DeTable<'_>) {
    let mut open: Vec<_> = root.into_iter().map(|(_, value)| value).collect();
    while let Some(value) = open.pop() {
        match value.into_inner() {
            DeValue::Array(items) => open.extend(items),
            DeValue::Table(table) => open.extend(table.into_iter().map(|(_, value)| value)),
            _ => {}
        }
    }
}

fn table(text: &str, table: DeTable<'_>) -> Result<Node, Error> {
    // The parser sorts the names.
    let mut entries: Vec<_> = table.into_iter().collect();
    entries.sort_by_key(|(name, _)| name.span().start);
    let entry = |(name, value): (Spanned<_>, _)| {
        let name: std::borrow::Cow<'_, str> = name.into_inner();
        Ok((name.into_owned(), node(text, value)?))
    };
    let entries = entries
        .into_iter()
        .map(entry)
        .collect::<Result<_, Error>>()?;
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
        DeValue::Integer(_) | DeValue::Float(_) if !is_number(&text[span.clone()]) => {
            let line = line(text, span.start);
            return Err(malformed(format!(
                "line {line}: invalid TOML: a value without quotes is not a number, a boolean or a date"
            )));
        }
        DeValue::Integer(_) | DeValue::Float(_) | DeValue::Boolean(_) | DeValue::Datetime(_) => {
            Node::literal(&text[span])
        }
    })
}

/// Returns whether `text` is a number of TOML. The parser leaves this check to the conversion of the number.
fn is_number(text: &str) -> bool {
    let prefixes = [("0x", 16), ("0o", 8), ("0b", 2)];
    let with_prefix = |(prefix, radix)| Some((text.strip_prefix(prefix)?, radix));
    if let Some((digits, radix)) = prefixes.into_iter().find_map(with_prefix) {
        return is_digits(digits, radix);
    }
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    if matches!(unsigned, "inf" | "nan") {
        return true;
    }
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (unsigned, None),
    };
    let (integer, fraction) = match mantissa.split_once('.') {
        Some((integer, fraction)) => (integer, Some(fraction)),
        None => (mantissa, None),
    };
    let is_decimal = |digits: &str| is_digits(digits, 10);
    is_decimal(integer)
        && (integer == "0" || !integer.starts_with('0'))
        && fraction.is_none_or(is_decimal)
        && exponent.is_none_or(|it| is_decimal(it.strip_prefix(['+', '-']).unwrap_or(it)))
}

/// Returns whether `text` consists of digits, with single `_` between them.
fn is_digits(text: &str, radix: u32) -> bool {
    let is_group = |group: &str| !group.is_empty() && group.chars().all(|c| c.is_digit(radix));
    text.split('_').all(is_group)
}
