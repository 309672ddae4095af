//! The strict dialect: what npm `dotenv`, Node.js and python-dotenv read in the same way, and the quoting that shells
//! write. Everything else is refused, so that two programs never get different secrets from one document.

use zeroize::Zeroizing;

use super::scan::{self, BLANKS, Cursor, Fault, Rules, is_edge};
use super::{Entry, Problem, SyntaxError, readers};

const QUOTE_HINT: &str = "put the value in single quotes";
const DIALECT_HINT: &str = "put the value in single quotes, or set `dialect=node`";
const SHELL_HINT: &str = "put the value in single quotes, or set `dialect=shell`";

const HASH: Problem = Problem::new(
    "some readers take a `#` in the value for a comment",
    DIALECT_HINT,
);
const BACKTICKS: Problem = Problem::new("some readers remove the backticks", DIALECT_HINT);
const BACKSLASH: Problem =
    Problem::new("some readers remove the backslash in the value", SHELL_HINT);
const ESCAPE: Problem = Problem::new(
    "readers do not agree on a backslash in the quotes; only `\\n` in double quotes is common",
    "use a value without the backslash, or set `dialect=node` or `dialect=shell`",
);
const REFERENCE: Problem = Problem::new(
    "some readers replace `${` in the value",
    "use a value without `${`, or set `dialect=node`",
);
const EDGE: Problem = Problem::new(
    "some readers remove the blank at the start or end of the value",
    QUOTE_HINT,
);
const TAIL: Problem = Problem::new(
    "text after the closing quote, which readers treat differently",
    "put the whole value in one pair of quotes, or set `dialect=shell`",
);
const SHELL_QUOTE: Problem = Problem::new("bash decodes a quote after `$`", QUOTE_HINT);
const PEM: Problem = Problem::new(
    "the value is the first line of a PEM text",
    "put the whole text in quotes",
);

const RULES: Rules = Rules {
    name_problem: |_| None,
    value,
    readers: readers::of_strict,
};

pub(super) fn parse(text: &str) -> Result<Vec<Entry>, SyntaxError> {
    scan::entries(text, &RULES)
}

fn value(cursor: &mut Cursor<'_>) -> Result<Zeroizing<String>, Fault> {
    // Node.js does not remove tabs.
    let follows_blank = cursor.rest.starts_with(' ');
    cursor.skip(&[' ']);
    match cursor.rest.chars().next() {
        Some(quote @ ('\'' | '"')) => quoted(cursor, quote),
        _ => unquoted(cursor, follows_blank),
    }
}

fn unquoted(cursor: &mut Cursor<'_>, follows_blank: bool) -> Result<Zeroizing<String>, Fault> {
    let line = cursor.line_rest();
    let (value, comment) = line.split_at(line.find('#').unwrap_or(line.len()));
    let is_value_or_comment = match (value, comment.strip_prefix('#')) {
        (_, None) => true,
        // The value might begin with the `#`, as a color does.
        ("", Some(text)) => follows_blank && text.starts_with(BLANKS),
        (value, Some(_)) => value.ends_with(' '),
    };
    let value = value.trim_end_matches(' ');
    if !is_value_or_comment {
        return Err(Fault::Line(HASH));
    }
    if let Some(problem) = problem_of_unquoted(value) {
        return Err(Fault::Line(problem));
    }
    cursor.advance(line.len());
    Ok(Zeroizing::new(value.to_owned()))
}

fn problem_of_unquoted(value: &str) -> Option<Problem> {
    let problems = [
        (value.starts_with('`'), BACKTICKS),
        (
            value.starts_with("$'") || value.starts_with("$\""),
            SHELL_QUOTE,
        ),
        (value.contains('\\'), BACKSLASH),
        (value.contains("${"), REFERENCE),
        (value.starts_with(is_edge) || value.ends_with(is_edge), EDGE),
        (value.starts_with("-----BEGIN "), PEM),
    ];
    problems
        .into_iter()
        .find_map(|(found, problem)| found.then_some(problem))
}

fn quoted(cursor: &mut Cursor<'_>, quote: char) -> Result<Zeroizing<String>, Fault> {
    let start = *cursor;
    let content = cursor.quoted(quote)?;
    if content.ends_with('\\') {
        return Err(Fault::Line(ESCAPE));
    }
    if starts_piece(cursor.rest) {
        *cursor = start;
        return pieces(cursor);
    }
    if !cursor.skip_comment() {
        return Err(Fault::Line(TAIL));
    }
    if content.contains("${") {
        return Err(Fault::Value(REFERENCE));
    }
    match quote {
        '"' => decoded(content),
        _ if content.contains("\\\\") => Err(Fault::Value(ESCAPE)),
        _ => Ok(Zeroizing::new(content.to_owned())),
    }
}

/// Decodes the content of double quotes. `\n` is the only common escape, and a backslash before most characters is
/// kept by all readers.
fn decoded(content: &str) -> Result<Zeroizing<String>, Fault> {
    // Allocated at full size, because growing would leave copies of the value in freed memory.
    let mut value = Zeroizing::new(String::with_capacity(content.len()));
    let mut parts = content.split('\\');
    value.push_str(parts.next().unwrap_or_default());
    for part in parts {
        match part.strip_prefix('n') {
            Some(rest) => {
                value.push('\n');
                value.push_str(rest);
            }
            None if part.is_empty() || part.starts_with(is_escape) => {
                return Err(Fault::Value(ESCAPE));
            }
            None => {
                value.push('\\');
                value.push_str(part);
            }
        }
    }
    Ok(value)
}

/// Returns whether some readers decode `c` after a backslash.
fn is_escape(c: char) -> bool {
    "'abfrtv$`\r\n".contains(c)
}

/// Returns whether `text` continues a value that a shell has quoted in several pieces.
fn starts_piece(text: &str) -> bool {
    text.starts_with(['\'', '"']) || text.starts_with("\\'")
}

/// Reads adjacent pieces such as `'it'\''s'`. Only shells write them, so they have one meaning.
fn pieces(cursor: &mut Cursor<'_>) -> Result<Zeroizing<String>, Fault> {
    let start = *cursor;
    let mut value = Zeroizing::new(String::with_capacity(pieces_length(start)?));
    let refused = |end: &Cursor<'_>, problem: Problem| {
        if start.text_until(end).contains('\n') {
            Fault::Document(
                start
                    .error("a quoted value over several lines that readers end at different lines"),
            )
        } else {
            Fault::Line(problem)
        }
    };
    while starts_piece(cursor.rest) {
        match cursor.rest.chars().next() {
            Some(quote @ ('\'' | '"')) => {
                let piece = cursor.quoted(quote)?;
                if quote == '"' && piece.contains(['\\', '$', '`']) {
                    return Err(refused(cursor, ESCAPE));
                }
                value.push_str(piece);
            }
            _ => {
                cursor.advance(2);
                value.push('\'');
            }
        }
    }
    // Without a blank before it, `#` is a part of the value in a shell.
    if cursor.rest.starts_with('#') || !cursor.skip_comment() {
        return Err(refused(cursor, TAIL));
    }
    Ok(value)
}

/// Returns the number of bytes of the pieces with their quotes.
fn pieces_length(start: Cursor<'_>) -> Result<usize, Fault> {
    let mut end = start;
    while starts_piece(end.rest) {
        match end.rest.chars().next() {
            Some(quote @ ('\'' | '"')) => drop(end.quoted(quote)?),
            _ => end.advance(2),
        }
    }
    Ok(start.text_until(&end).len())
}
