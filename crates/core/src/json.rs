//! JSON whose numbers stay text.
//!
//! A secret is returned as it is written, so `1.10` must not become `1.1`, and a number of 50 digits must keep all of
//! them. This parser therefore converts no number. It accepts exactly RFC 8259, refuses duplicate names, and takes
//! linear time. Decoded texts are wiped from memory when they are dropped.

use std::fmt;

use zeroize::Zeroizing;

use crate::SecretValue;

/// The maximum nesting depth of a document.
const MAX_DEPTH: usize = 128;
/// The maximum number of values of a document, because a value needs much more memory than its text.
const MAX_VALUES: usize = 1_000_000;

/// A JSON value.
#[derive(Clone)]
#[expect(clippy::exhaustive_enums, reason = "JSON has no other values")]
pub enum Json<'a> {
    /// `null`.
    Null,
    /// `true`, `false` or a number, as it is written.
    Literal(&'a str),
    /// A decoded string.
    Text(Zeroizing<String>),
    /// An array.
    List(Vec<Json<'a>>),
    /// An object.
    Object(Object<Json<'a>>),
}

/// Values with unique names, in the order of the document.
#[derive(Clone)]
pub struct Object<T> {
    entries: Vec<(String, T)>,
    /// The positions of the entries, sorted by name.
    sorted: Vec<usize>,
}

/// A syntax error. It contains no part of the document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct SyntaxError {
    /// The line, counted from 1.
    pub line: usize,
    /// The byte in the line, counted from 1.
    pub column: usize,
    /// What is wrong.
    pub reason: &'static str,
}

impl<'a> Json<'a> {
    /// Parses a document.
    ///
    /// # Errors
    /// Returns an error if `text` is not one JSON value, if an object has a duplicate name, if a string contains half of
    /// a surrogate pair, if values are nested more than 128 levels deep, or if there are more than 1,000,000 values.
    pub fn parse(text: &'a str) -> Result<Self, SyntaxError> {
        let mut parser = Parser {
            text,
            at: 0,
            values: 0,
        };
        let parsed = parser.value(0).and_then(|value| {
            parser.skip_white_space();
            match parser.peek() {
                None => Ok(value),
                Some(_) => Err("there is text after the end of the value"),
            }
        });
        parsed.map_err(|reason| parser.error(reason))
    }
}

impl<T> Default for Object<T> {
    fn default() -> Self {
        Self {
            entries: Vec::new(),
            sorted: Vec::new(),
        }
    }
}

impl<T> Object<T> {
    /// Creates an object.
    ///
    /// # Errors
    /// Returns the position of an entry that has the same name as an entry before it.
    pub fn new(entries: Vec<(String, T)>) -> Result<Self, usize> {
        let mut sorted: Vec<usize> = (0..entries.len()).collect();
        // The sort is stable, so that the later one of two equal names is reported.
        sorted.sort_by(|&a, &b| entries[a].0.cmp(&entries[b].0));
        let same_name = |pair: &&[usize]| entries[pair[0]].0 == entries[pair[1]].0;
        match sorted.windows(2).find(same_name) {
            Some(pair) => Err(pair[1]),
            None => Ok(Self { entries, sorted }),
        }
    }

    /// Returns the value of this name.
    pub fn get(&self, name: &str) -> Option<&T> {
        let found = self
            .sorted
            .binary_search_by(|&position| self.entries[position].0.as_str().cmp(name));
        Some(&self.entries[self.sorted[found.ok()?]].1)
    }

    /// Returns the entries in the order of the document.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &T)> {
        self.entries
            .iter()
            .map(|(name, value)| (name.as_str(), value))
    }

    /// Returns the entries in the order of the document.
    pub fn into_entries(self) -> Vec<(String, T)> {
        self.entries
    }

    /// Converts the values.
    pub fn map<U>(self, mut convert: impl FnMut(T) -> U) -> Object<U> {
        let entries = self.entries.into_iter();
        Object {
            entries: entries
                .map(|(name, value)| (name, convert(value)))
                .collect(),
            sorted: self.sorted,
        }
    }
}

/// Prints no value.
impl fmt::Debug for Json<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Json").finish_non_exhaustive()
    }
}

/// Prints the names only.
impl<T> fmt::Debug for Object<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set()
            .entries(self.iter().map(|(name, _)| name))
            .finish()
    }
}

/// Returns the text of a JSON string, or `None` if it contains half of a surrogate pair or if `json` is another value.
/// `json` must be valid. No copy of the text remains in memory, unlike in the buffer in which `serde_json` decodes escape
/// sequences.
pub fn decode_text(json: &str) -> Option<SecretValue> {
    let text = json.strip_prefix('"')?.strip_suffix('"')?;
    if !text.contains('\\') {
        return Some(text.into());
    }
    match Json::parse(json) {
        Ok(Json::Text(text)) => Some(text.as_str().into()),
        _ => None,
    }
}

/// Returns whether `text` is a JSON number, `true`, `false` or `null`.
pub fn is_literal(text: &str) -> bool {
    matches!(text, "true" | "false" | "null") || number_length(text) == Some(text.len())
}

/// Appends `text` as a JSON string.
pub fn write_text(text: &str, into: &mut String) {
    into.push('"');
    let mut rest = text;
    while let Some(at) = rest.find(|c: char| matches!(c, '"' | '\\' | '\0'..='\x1f')) {
        into.push_str(&rest[..at]);
        match rest.as_bytes()[at] {
            b'"' => into.push_str("\\\""),
            b'\\' => into.push_str("\\\\"),
            b'\n' => into.push_str("\\n"),
            b'\r' => into.push_str("\\r"),
            b'\t' => into.push_str("\\t"),
            control => {
                let hex = |digit: u8| char::from_digit(digit.into(), 16).unwrap_or('0');
                into.push_str("\\u00");
                into.extend([hex(control >> 4), hex(control & 0xf)]);
            }
        }
        rest = &rest[at + 1..];
    }
    into.push_str(rest);
    into.push('"');
}

/// Returns the length of the JSON number at the start of `text`.
fn number_length(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let digits = |from: usize| {
        let rest = bytes.get(from..).unwrap_or_default();
        rest.iter().take_while(|byte| byte.is_ascii_digit()).count()
    };
    let mut at = usize::from(bytes.first() == Some(&b'-'));
    at += match (bytes.get(at)?, digits(at)) {
        (_, 0) => return None,
        (b'0', _) => 1,
        (_, count) => count,
    };
    if bytes.get(at) == Some(&b'.') {
        let count = digits(at + 1);
        if count == 0 {
            return None;
        }
        at += 1 + count;
    }
    if matches!(bytes.get(at), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(bytes.get(at + 1), Some(b'+' | b'-')));
        let count = digits(at + 1 + sign);
        if count == 0 {
            return None;
        }
        at += 1 + sign + count;
    }
    Some(at)
}

/// The reason of an error at the current position.
type Reason = &'static str;

struct Parser<'a> {
    text: &'a str,
    /// The current position, in bytes.
    at: usize,
    /// The number of values so far.
    values: usize,
}

impl<'a> Parser<'a> {
    fn value(&mut self, depth: usize) -> Result<Json<'a>, Reason> {
        if depth > MAX_DEPTH {
            return Err("values are nested too deeply");
        }
        self.values += 1;
        if self.values > MAX_VALUES {
            return Err("the document has more than 1,000,000 values");
        }
        self.skip_white_space();
        match self.peek() {
            Some(b'{') => self.object(depth),
            Some(b'[') => self.list(depth),
            Some(b'"') => self.text().map(Json::Text),
            _ => self.literal(),
        }
    }

    fn object(&mut self, depth: usize) -> Result<Json<'a>, Reason> {
        let mut entries = Vec::new();
        let mut positions = Vec::new();
        self.at += 1;
        if !self.skip(b'}') {
            loop {
                self.skip_white_space();
                positions.push(self.at);
                if self.peek() != Some(b'"') {
                    return Err("a name in double quotes is missing");
                }
                let name = std::mem::take(&mut *self.text()?);
                if !self.skip(b':') {
                    return Err("the `:` after a name is missing");
                }
                entries.push((name, self.value(depth + 1)?));
                if self.skip(b'}') {
                    break;
                }
                if !self.skip(b',') {
                    return Err("a `,` or `}` is missing");
                }
            }
        }
        Object::new(entries).map(Json::Object).map_err(|duplicate| {
            self.at = positions[duplicate];
            "duplicate name"
        })
    }

    fn list(&mut self, depth: usize) -> Result<Json<'a>, Reason> {
        let mut items = Vec::new();
        self.at += 1;
        if !self.skip(b']') {
            loop {
                items.push(self.value(depth + 1)?);
                if self.skip(b']') {
                    break;
                }
                if !self.skip(b',') {
                    return Err("a `,` or `]` is missing");
                }
            }
        }
        Ok(Json::List(items))
    }

    fn literal(&mut self) -> Result<Json<'a>, Reason> {
        let rest = &self.text[self.at..];
        let word = ["true", "false", "null"].map(|word| rest.starts_with(word).then_some(word));
        let length = match word.into_iter().flatten().next() {
            Some(word) => word.len(),
            None => number_length(rest).ok_or("a value is missing or malformed")?,
        };
        self.at += length;
        Ok(match &rest[..length] {
            "null" => Json::Null,
            literal => Json::Literal(literal),
        })
    }

    /// Decodes the string at the current position.
    fn text(&mut self) -> Result<Zeroizing<String>, Reason> {
        let text = self.text;
        let (start, end) = (self.at + 1, self.end_of_text()?);
        // A decoded string is not longer than its source, so it is never moved while it grows.
        let mut decoded = Zeroizing::new(String::with_capacity(end - start));
        self.at = start;
        while let Some(length) = text[self.at..end].find('\\') {
            decoded.push_str(&text[self.at..self.at + length]);
            self.at += length;
            decoded.push(self.escape()?);
        }
        decoded.push_str(&text[self.at..end]);
        self.at = end + 1;
        Ok(decoded)
    }

    /// Returns the position of the quote that ends the string at the current position.
    fn end_of_text(&mut self) -> Result<usize, Reason> {
        let bytes = self.text.as_bytes();
        let mut at = self.at + 1;
        loop {
            match bytes.get(at) {
                Some(b'"') => return Ok(at),
                Some(b'\\') => at += 2,
                Some(0..=0x1f) => {
                    self.at = at;
                    return Err("a string contains a control character or a line break");
                }
                Some(_) => at += 1,
                None => return Err("a string has no end"),
            }
        }
    }

    /// Decodes the escape sequence at the current position.
    fn escape(&mut self) -> Result<char, Reason> {
        let byte = self.text.as_bytes().get(self.at + 1);
        let char = match byte {
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'b') => '\x08',
            Some(b'f') => '\x0c',
            Some(&byte @ (b'"' | b'\\' | b'/')) => char::from(byte),
            Some(b'u') => return self.unicode_escape(),
            _ => return Err("an escape sequence is invalid"),
        };
        self.at += 2;
        Ok(char)
    }

    fn unicode_escape(&mut self) -> Result<char, Reason> {
        const LONE_SURROGATE: Reason = "a string contains half of a surrogate pair";
        let unit = |at: usize| {
            let digits = self.text.get(at..at + 6)?.strip_prefix("\\u")?;
            let is_hex = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
            u16::from_str_radix(digits, 16).ok().filter(|_| is_hex)
        };
        let first = unit(self.at).ok_or("an escape sequence is invalid")?;
        let second = match first {
            0xd800..0xdc00 => Some(unit(self.at + 6).ok_or(LONE_SURROGATE)?),
            _ => None,
        };
        let mut decoded = char::decode_utf16([first].into_iter().chain(second));
        let char = decoded.next().and_then(Result::ok).ok_or(LONE_SURROGATE)?;
        self.at += if second.is_some() { 12 } else { 6 };
        Ok(char)
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// Skips white space, and `byte` after it. Returns whether `byte` was there.
    fn skip(&mut self, byte: u8) -> bool {
        self.skip_white_space();
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn skip_white_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn error(&self, reason: Reason) -> SyntaxError {
        let before = &self.text.as_bytes()[..self.at.min(self.text.len())];
        let line_start = before.iter().rposition(|byte| *byte == b'\n');
        SyntaxError {
            line: 1 + before.iter().filter(|byte| **byte == b'\n').count(),
            column: before.len() - line_start.map_or(0, |at| at + 1) + 1,
            reason,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes a value as compact JSON, literals as they are.
    fn write(json: &Json<'_>, into: &mut String) {
        match json {
            Json::Null => into.push_str("null"),
            Json::Literal(literal) => into.push_str(literal),
            Json::Text(text) => write_text(text, into),
            Json::List(items) => {
                into.push('[');
                for (index, item) in items.iter().enumerate() {
                    into.push_str(if index == 0 { "" } else { "," });
                    write(item, into);
                }
                into.push(']');
            }
            Json::Object(object) => {
                into.push('{');
                for (index, (name, value)) in object.iter().enumerate() {
                    into.push_str(if index == 0 { "" } else { "," });
                    write_text(name, into);
                    into.push(':');
                    write(value, into);
                }
                into.push('}');
            }
        }
    }

    fn round_trip(text: &str) -> String {
        let mut written = String::new();
        write(&Json::parse(text).unwrap(), &mut written);
        written
    }

    fn reason(text: &str) -> (usize, usize, &'static str) {
        let Err(error) = Json::parse(text) else {
            panic!("{text}")
        };
        (error.line, error.column, error.reason)
    }

    #[test]
    fn literals_stay_as_they_are_written() {
        let fifty = "12345678901234567890123456789012345678901234567890";
        for literal in [
            "0",
            "-0",
            "1.10",
            "12e03",
            "1E+5",
            "-1.5e-300",
            "true",
            "false",
            "null",
            fifty,
        ] {
            assert_eq!(
                round_trip(&format!(" [ {literal} ]\n")),
                format!("[{literal}]")
            );
            assert!(is_literal(literal));
        }
        for other in [
            "", "-", "007", "+1", "1.", ".5", "1e", "1e+", "0x1", "1_000", "NaN", "inf", "True",
            "nullx",
        ] {
            assert!(!is_literal(other), "{other}");
            assert!(Json::parse(other).is_err(), "{other}");
            assert!(Json::parse(&format!("[{other}, 1]")).is_err(), "{other}");
        }
    }

    #[test]
    fn strings_are_decoded_and_written_back() {
        let text = r#""\"\\\/\b\f\n\r\t\u0000\u001F\u00e9\uD83D\ude00é😀\u007f""#;
        let Json::Text(decoded) = Json::parse(text).unwrap() else {
            panic!("not a string")
        };
        assert_eq!(*decoded, "\"\\/\x08\x0c\n\r\t\0\x1fé😀é😀\x7f");
        let mut written = String::new();
        write_text(&decoded, &mut written);
        assert_eq!(
            written,
            "\"\\\"\\\\/\\u0008\\u000c\\n\\r\\t\\u0000\\u001fé😀é😀\x7f\""
        );
        assert_eq!(round_trip(&written), written);
        for half in [
            r#""\ud83d""#,
            r#""\ud83dx""#,
            r#""\ud83d\n""#,
            r#""\ud83d\u0041""#,
            r#""\ude00""#,
        ] {
            assert!(reason(half).2.contains("surrogate"), "{half}");
        }
        for bad in [
            r#""\x""#,
            r#""\u12""#,
            r#""\u+123""#,
            r#""\u123é""#,
            "\"a\nb\"",
            "\"a\tb\"",
            "\"",
            "\"\\\"",
            "'a'",
        ] {
            assert!(Json::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn structure_is_checked() {
        assert_eq!(
            round_trip(r#" { "b" : [ ] , "a" : { "x" : null } } "#),
            r#"{"b":[],"a":{"x":null}}"#
        );
        for bad in [
            "",
            " ",
            "[",
            "[1",
            "[1,",
            "[1,]",
            "[,1]",
            "[1 2]",
            "]",
            "{",
            "{\"a\"",
            "{\"a\":",
            "{\"a\":1",
            "{\"a\":1,}",
            "{\"a\" 1}",
            "{a:1}",
            "{1:1}",
            "{\"a\":1 \"b\":2}",
            "1 2",
            "[]]",
            "\u{a0}1",
            "\u{feff}1",
            "// c\n1",
        ] {
            assert!(Json::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn duplicate_names_are_refused_after_decoding() {
        assert_eq!(
            reason("{\"a\": 1,\n \"b\": 2,\n  \"\\u0061\": 3}"),
            (3, 3, "duplicate name")
        );
        assert_eq!(reason("[{\"\": 1, \"\": 2}]").2, "duplicate name");
        let object = match Json::parse(r#"{"b":1,"a":2,"":3}"#).unwrap() {
            Json::Object(object) => object,
            _ => panic!("not an object"),
        };
        assert!(matches!(object.get("a"), Some(Json::Literal("2"))));
        assert!(matches!(object.get(""), Some(Json::Literal("3"))));
        assert!(object.get("c").is_none());
    }

    #[test]
    fn depth_is_limited_and_cost_is_linear() {
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        assert!(Json::parse(&nested(MAX_DEPTH + 1)).is_ok());
        assert_eq!(
            reason(&nested(MAX_DEPTH + 2)).2,
            "values are nested too deeply"
        );
        assert_eq!(reason(&nested(1_000_000)).2, "values are nested too deeply");
        let many = |count: usize| format!("[{}0]", "0,".repeat(count - 2));
        assert!(Json::parse(&many(MAX_VALUES)).is_ok());
        assert_eq!(
            reason(&many(MAX_VALUES + 1)).2,
            "the document has more than 1,000,000 values"
        );
        // Quadratic cost would take hours.
        let quotes = format!("[{}\"", "\"\\\"\",".repeat(100_000));
        assert_eq!(reason(&quotes).2, "a string has no end");
        let names: String = (0..50_000).map(|n| format!("\"k{n}\":0,")).collect();
        assert!(Json::parse(&format!("{{{names}\"k\":0}}")).is_ok());
    }
}
