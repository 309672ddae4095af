//! The lines of a document, for the dialects in which quoted values can span lines.

use std::collections::HashSet;

use zeroize::Zeroizing;

use super::readers::{Readers, has_pieces};
use super::{Entry, Problem, SyntaxError};

/// What differs between the dialects.
pub(super) struct Rules {
    /// Returns why the readers of the dialect do not agree on a variable of this name.
    pub(super) name_problem: fn(&str) -> Option<Problem>,
    /// Reads the value after the `=`, up to the end of its last line.
    pub(super) value: fn(&mut Cursor<'_>) -> Result<Zeroizing<String>, Fault>,
    /// Returns the programs that read another value.
    pub(super) readers: fn(raw: &str, value: &str) -> Readers,
}

/// Why a value cannot be read.
#[derive(Debug)]
pub(super) enum Fault {
    /// The end of the value is certain. The cursor is there.
    Value(Problem),
    /// The end of the value is uncertain. It affects only its line, unless a quote is open at the end of the line.
    Line(Problem),
    Document(SyntaxError),
}

const COLON: Problem = Problem::new("a colon in place of `=`", "write `NAME=value`");
const NO_SIGN: Problem = Problem::new("no `=` after a name", "write `NAME=value`");
const NO_NAME: Problem = Problem::new("no name before the `=`", "write `NAME=value`");
const NAME: Problem = Problem::new(
    "the text before the `=` is not a name",
    "write `NAME=value`",
);
const NEXT_LINE: Problem = Problem::new(
    "the value is empty, but some readers take it from the next line",
    "write the value in the line of its name",
);
const PART: Problem = Problem::new(
    "the line looks like a part of a text in several lines",
    "put the whole text in quotes",
);
const INSIDE: Problem = Problem::new(
    "a value in quotes over several lines contains a line that looks like another variable",
    "close the quote in the line before it",
);
const REPEATED: Problem = Problem::new(
    "the name is repeated after a line that some readers combine with this one",
    "remove the repetition, or correct the line before it",
);

/// Returns the entries of `text` in order.
pub(super) fn entries(text: &str, rules: &Rules) -> Result<Vec<Entry>, SyntaxError> {
    check_line_ends(text)?;
    let mut cursor = Cursor::new(text);
    let mut entries = Vec::new();
    let mut names = HashSet::new();
    let mut follows_unclear_line = false;
    let mut has_ended = false;
    while let Some(blank) = cursor.skip_to_entry() {
        let line = cursor.line;
        let before = cursor;
        let Some(name) = head(&mut cursor) else {
            let text = cursor.line_rest();
            follows_unclear_line = !text.contains('=');
            // Node.js reads nothing after such a line.
            has_ended |= text.starts_with('=');
            entries.push(malformed_line(&mut cursor)?);
            continue;
        };
        // Node.js takes other blanks for a part of the name.
        let head = before.text_until(&cursor).trim_end_matches([' ', '=']);
        let has_common_blanks = head.strip_prefix("export ").unwrap_or(head) == name;
        follows_unclear_line |= has_ended || blank == Blank::PartOfName || !has_common_blanks;
        let is_repeated = !names.insert(name);
        let start = cursor;
        let mut value = value(&mut cursor, rules)?;
        let raw = start.text_with_line_end(&cursor);
        if let Some(problem) = (rules.name_problem)(name) {
            value = Err(problem);
        }
        if is_repeated && follows_unclear_line {
            value = Err(REPEATED);
        }
        // Readers that do not know adjacent quotes take the lines of such a value for several entries.
        let has_pieces = raw.contains('\n') && has_pieces(raw);
        follows_unclear_line = has_pieces;
        // npm `dotenv` skips a line with such a name, and then reads the lines of the value.
        if raw.contains('\n') && !name.chars().all(is_common) {
            return Err(SyntaxError {
                line,
                problem: "a value over several lines, and some readers do not accept the name",
            });
        }
        let inside = assignments_inside(raw, line, has_pieces);
        if !inside.is_empty() && !has_pieces {
            value = Err(INSIDE);
        }
        entries.push(entry(name, line, raw, value, rules));
        entries.extend(inside);
    }
    Ok(entries)
}

fn entry(
    name: &str,
    line: usize,
    raw: &str,
    value: Result<Zeroizing<String>, Problem>,
    rules: &Rules,
) -> Entry {
    match value {
        // The last line of a text in Base64, whose other lines are malformed.
        Ok(value) if !value.is_empty() && raw.trim_end().bytes().all(|byte| byte == b'=') => {
            Entry::hidden(name, line, PART)
        }
        Ok(value) => Entry {
            readers: (rules.readers)(raw, &value),
            ..Entry::new(name, line, Ok(value))
        },
        Err(problem) => Entry::new(name, line, Err(problem)),
    }
}

/// Reads a value. The cursor is then at the end of a line.
fn value(
    cursor: &mut Cursor<'_>,
    rules: &Rules,
) -> Result<Result<Zeroizing<String>, Problem>, SyntaxError> {
    let start = *cursor;
    match (rules.value)(cursor) {
        // Some readers skip line ends before a quote.
        Ok(value) if value.is_empty() && start.text_until(cursor).trim().is_empty() => {
            let next = cursor.rest.trim_start();
            Ok(if next.starts_with(QUOTES) {
                Err(NEXT_LINE)
            } else {
                Ok(value)
            })
        }
        Ok(value) => Ok(Ok(value)),
        Err(Fault::Value(problem)) => Ok(Err(problem)),
        Err(Fault::Line(problem)) => {
            *cursor = start;
            cursor.require_closed_quote()?;
            cursor.advance(cursor.line_rest().len());
            Ok(Err(problem))
        }
        Err(Fault::Document(error)) => Err(error),
    }
}

/// Reads `NAME=` or `export NAME=`. Returns `None` and does not move if the line does not begin like this.
fn head<'a>(cursor: &mut Cursor<'a>) -> Option<&'a str> {
    let (before, _) = cursor.line_rest().split_once('=')?;
    let name = without_export(before.trim_matches(BLANKS));
    if !is_plain(name) {
        return None;
    }
    cursor.advance(before.len() + 1);
    Some(name)
}

/// Returns `text` without the word `export` before a name.
pub(super) fn without_export(text: &str) -> &str {
    match text.strip_prefix("export") {
        Some(name) if name.starts_with(BLANKS) => name.trim_start_matches(BLANKS),
        _ => text,
    }
}

/// Returns whether all readers accept `c` in a name.
pub(super) fn is_common(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-')
}

/// Returns whether `name` contains nothing that is syntax for a reader.
fn is_plain(name: &str) -> bool {
    let is_syntax = |c: char| is_edge(c) || "='\"`#$\\".contains(c);
    !name.is_empty()
        && !name.starts_with(';')
        && !name.ends_with(['+', ':'])
        && !name.contains(is_syntax)
}

/// Skips a line that does not begin with `NAME=`. Returns an entry with the name that another reader might find in it.
fn malformed_line(cursor: &mut Cursor<'_>) -> Result<Entry, SyntaxError> {
    let line = cursor.line_rest();
    let (before_sign, sign) = line
        .split_once('=')
        .map_or((line, false), |it| (it.0, true));
    let before_colon = line
        .split_once(':')
        .and_then(|(before, after)| Some((between_edges(before)?, after)));
    for at in [line.find(':'), line.find('=')].into_iter().flatten() {
        let mut after = *cursor;
        after.advance(at + 1);
        after.require_closed_quote()?;
    }
    cursor.require_closed_quote()?;
    let name = without_export(before_sign.trim_matches(BLANKS));
    let number = cursor.line;
    let entry = match before_colon {
        Some((name, "")) if is_plain(name) => {
            return Err(SyntaxError {
                line: number,
                problem: "the line ends with a colon, as in YAML, and some readers take the value from the next line",
            });
        }
        Some((name, after)) if is_plain(name) && after.starts_with(is_edge) => {
            Entry::new(name, number, Err(COLON))
        }
        _ if !sign => {
            let before_comment = line.split('#').next().unwrap_or_default();
            match between_edges(before_comment) {
                Some(name) if is_plain(name) => Entry {
                    is_printable: is_conventional(name),
                    ..Entry::new(name, number, Err(NO_SIGN))
                },
                _ => Entry::hidden("", number, NO_SIGN),
            }
        }
        _ if name.is_empty() => Entry::hidden("", number, NO_NAME),
        _ => {
            let bare = name.strip_suffix('+').or(between_edges(name));
            // python-dotenv removes single quotes around a name.
            let without_quotes = bare.map(|name| name.trim_matches('\''));
            match without_quotes {
                Some(plain) if is_plain(plain) => Entry {
                    is_printable: without_quotes == bare,
                    ..Entry::new(plain, number, Err(NAME))
                },
                _ => Entry::hidden("", number, NAME),
            }
        }
    };
    cursor.advance(line.len());
    Ok(entry)
}

/// Returns the name that is left if every kind of blank is removed, as some readers do.
fn between_edges(text: &str) -> Option<&str> {
    let mut words = text.split(is_edge).filter(|word| !word.is_empty());
    match (words.next(), words.next(), words.next()) {
        (Some(name), None, _) | (Some("export"), Some(name), None) => Some(name),
        _ => None,
    }
}

/// Returns whether some readers remove `c` at the start or end of a name or value.
pub(super) fn is_edge(c: char) -> bool {
    c.is_whitespace() || c.is_control() || c == '\u{feff}'
}

/// Returns whether a line that consists of `name` alone is a name rather than a token without a name: words of capital
/// letters, which end with at most three digits.
pub(super) fn is_conventional(name: &str) -> bool {
    name.split('_').all(|word| {
        let letters = word.trim_end_matches(|c: char| c.is_ascii_digit());
        let digits = word.len() - letters.len();
        letters.chars().all(|c| c.is_ascii_uppercase()) && letters.len() < 15 && digits < 4
    })
}

/// Returns an entry for each variable that seems to be inside of a value over several lines.
fn assignments_inside(raw: &str, line: usize, has_pieces: bool) -> Vec<Entry> {
    let assigned = |(index, text): (usize, &str)| {
        let (before, after) = text.split_once('=')?;
        let name = without_export(before.trim_matches(BLANKS));
        // The quote can also close the value, after a padded Base64 text.
        let closes = after.trim_end().len() == 1 && !is_conventional(name);
        let is_quoted = after.starts_with(QUOTES) && !closes;
        (is_plain(name) && (has_pieces || is_quoted))
            .then(|| Entry::hidden(name, line + index, INSIDE))
    };
    raw.split('\n')
        .enumerate()
        .skip(1)
        .filter_map(assigned)
        .collect()
}

/// Rejects characters that only some readers take for the end of a line.
fn check_line_ends(text: &str) -> Result<(), SyntaxError> {
    let lone = |at: usize| !text[at..].starts_with("\r\n");
    let carriage_return = text
        .match_indices('\r')
        .map(|(at, _)| at)
        .find(|&at| lone(at));
    let separator = text.find(['\u{2028}', '\u{2029}']);
    let Some(at) = carriage_return.into_iter().chain(separator).min() else {
        return Ok(());
    };
    Err(SyntaxError {
        line: text[..at].matches('\n').count() + 1,
        problem: "a carriage return or a Unicode line separator, which only some readers take for the end of a line",
    })
}

/// The blanks that all readers remove.
pub(super) const BLANKS: [char; 2] = [' ', '\t'];
/// The quotes of at least one reader.
const QUOTES: [char; 3] = ['\'', '"', '`'];

/// What precedes an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Blank {
    /// Text that all readers skip.
    Common,
    /// Blanks that Node.js takes for a part of the next name: tabs, blank lines that are not empty, and indented
    /// comments.
    PartOfName,
}

/// A position in a document.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cursor<'a> {
    pub(super) rest: &'a str,
    pub(super) line: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self {
            rest: text,
            line: 1,
        }
    }

    /// Moves by `length` bytes.
    pub(super) fn advance(&mut self, length: usize) {
        self.line += self.rest[..length].matches('\n').count();
        self.rest = &self.rest[length..];
    }

    pub(super) fn skip(&mut self, blanks: &[char]) {
        self.rest = self.rest.trim_start_matches(blanks);
    }

    /// Returns the text up to the end of the line.
    pub(super) fn line_rest(&self) -> &'a str {
        match self.rest.split_once('\n') {
            Some((line, _)) => line.strip_suffix('\r').unwrap_or(line),
            None => self.rest,
        }
    }

    /// Returns the text between this position and a later one.
    pub(super) fn text_until(&self, end: &Cursor<'_>) -> &'a str {
        &self.rest[..self.rest.len() - end.rest.len()]
    }

    /// Returns the text up to the end of the line of a later position. It can end with a carriage return.
    fn text_with_line_end(&self, end: &Cursor<'_>) -> &'a str {
        let length = end.rest.find('\n').unwrap_or(end.rest.len());
        &self.rest[..self.rest.len() - end.rest.len() + length]
    }

    pub(super) fn error(&self, problem: &'static str) -> SyntaxError {
        SyntaxError {
            line: self.line,
            problem,
        }
    }

    /// Skips blank lines and comments. Returns `None` at the end of the text.
    fn skip_to_entry(&mut self) -> Option<Blank> {
        let mut blank = Blank::Common;
        loop {
            let rest = self.rest.trim_start_matches([' ', '\t', '\r', '\n']);
            let length = self.rest.len() - rest.len();
            let (lines, indent) = match self.rest[..length].rsplit_once('\n') {
                Some((lines, indent)) => (lines, indent),
                None => ("", &self.rest[..length]),
            };
            self.advance(length);
            let next = self.rest.chars().next();
            if lines.contains(BLANKS)
                || indent.contains('\t')
                || next == Some('#') && !indent.is_empty()
            {
                blank = Blank::PartOfName;
            }
            match next {
                None => return None,
                Some('#') => self.advance(self.line_rest().len()),
                Some(_) => return Some(blank),
            }
        }
    }

    /// Returns an error if a quote begins here that is not closed in the same line for every reader.
    fn require_closed_quote(&self) -> Result<(), SyntaxError> {
        let line = self.line_rest();
        let text = line.trim_start();
        let Some(quote) = text.chars().next().filter(|c| QUOTES.contains(c)) else {
            return Ok(());
        };
        let mut ends = text.match_indices(quote).skip(1).peekable();
        let has_end = ends.peek().is_some();
        // For some readers, a backslash before a quote means that the value goes on.
        if ends.any(|(at, _)| !text[..at].ends_with('\\')) {
            return Ok(());
        }
        if has_end && !self.rest[line.len()..].contains(quote) {
            return Ok(());
        }
        Err(self.error("the closing quote is missing in this line, so the lines after it could be a part of the value"))
    }

    /// Reads up to the next `quote`, which must be on the first line of the rest or a later one. The cursor is then
    /// after it.
    pub(super) fn quoted(&mut self, quote: char) -> Result<&'a str, Fault> {
        let Some(end) = self.rest[1..].find(quote) else {
            return Err(Fault::Document(self.error("the closing quote is missing")));
        };
        let content = &self.rest[1..=end];
        self.advance(end + 2);
        Ok(content)
    }

    /// Reads blanks and a comment after a quoted value. Returns `false` if other text follows.
    pub(super) fn skip_comment(&mut self) -> bool {
        let line = self.line_rest();
        let text = line.trim_start_matches(BLANKS);
        let is_comment = text.is_empty() || text.starts_with('#');
        if is_comment {
            self.advance(line.len());
        }
        is_comment
    }
}
