//! The dialect of a POSIX shell that reads assignments, as `. ./file` does. Nothing is run or expanded: a value that
//! needs it is refused.

use zeroize::Zeroizing;

use super::scan::{BLANKS, Cursor, Fault};
use super::{Entry, Problem, SyntaxError};

const HINT: &str = "put the value in single quotes";

const PARAMETER: Problem = Problem::new("a shell expands the `$` in the value", HINT);
const COMMAND: Problem = Problem::new("a shell runs the text in backticks", HINT);
const TILDE: Problem = Problem::new("a shell expands the `~` in the value", HINT);
const PATTERN: Problem = Problem::new("some shells expand a pattern after `export`", HINT);
const OPERATOR: Problem = Problem::new(
    "one of the characters `;&|<>()`, which a shell takes for an operator",
    HINT,
);
const SECOND_WORD: Problem = Problem::new(
    "text after a blank, which a shell takes for a command",
    HINT,
);
const CARRIAGE_RETURN: Problem = Problem::new(
    "a carriage return, which a shell keeps as a part of the value",
    "save the document with `\\n` as the line end",
);
const NAME: Problem = Problem::new(
    "a shell does not accept the name, or blanks around the `=`",
    "write `NAME=value`, with a name of letters, digits and `_`",
);

const COMMAND_LINE: &str = "a command, which could change any variable";

/// A shell removes it, except in single quotes.
const CONTINUATION: &str = "\\\n";
/// Commands that can change variables or end the reading of the document.
const BUILTINS: [&str; 29] = [
    ".",
    "break",
    "builtin",
    "command",
    "continue",
    "declare",
    "eval",
    "exec",
    "exit",
    "export",
    "for",
    "getopts",
    "if",
    "let",
    "local",
    "mapfile",
    "printf",
    "read",
    "readarray",
    "readonly",
    "return",
    "select",
    "set",
    "shift",
    "source",
    "typeset",
    "unset",
    "until",
    "while",
];

/// Returns the entries of `text` in order.
pub(super) fn parse(text: &str) -> Result<Vec<Entry>, SyntaxError> {
    let mut cursor = Cursor::new(text);
    let mut entries = Vec::new();
    loop {
        let blank = cursor.rest.trim_start_matches([' ', '\t', '\n']);
        cursor.advance(cursor.rest.len() - blank.len());
        match cursor.rest.chars().next() {
            None => return Ok(entries),
            Some('#') => cursor.advance(cursor.line_rest().len()),
            // A blank line of a document with `\r\n`.
            Some('\r') if cursor.line_rest().is_empty() => cursor.advance(1),
            Some(_) => statement(&mut cursor, &mut entries)?,
        }
    }
}

/// Reads assignments up to the end of a line, with or without `export`.
fn statement(cursor: &mut Cursor<'_>, entries: &mut Vec<Entry>) -> Result<(), SyntaxError> {
    let start = *cursor;
    let is_export = skip_export(cursor);
    let first = entries.len();
    loop {
        skip_blanks(cursor);
        let line = cursor.line;
        if cursor.rest.is_empty() || cursor.rest.starts_with(['\n', '#']) {
            return Ok(());
        }
        let name = identifier(cursor.rest);
        let after = &cursor.rest[name.len()..];
        if !name.is_empty() && after.starts_with('=') {
            cursor.advance(name.len() + 1);
            let value_start = *cursor;
            let value = match word(cursor, is_export) {
                Ok(value) => Ok(value),
                Err(Fault::Document(error)) => return Err(error),
                Err(Fault::Line(problem) | Fault::Value(problem)) => {
                    // The line might be a command, for which the variables before are set as well.
                    refuse(&mut entries[first..]);
                    entries.push(Entry::new(name, line, Err(problem)));
                    return skip_line(cursor, value_start, Rest::OfValue, entries);
                }
            };
            entries.push(Entry::new(name, line, value));
        } else if is_export
            && !name.is_empty()
            && (after.is_empty() || after.starts_with([' ', '\t', '\n']))
        {
            // The variable has been assigned before.
            cursor.advance(name.len());
        } else if entries.len() > first {
            refuse(&mut entries[first..]);
            return skip_line(cursor, *cursor, Rest::Word, entries);
        } else {
            return no_assignment(cursor, start, entries);
        }
    }
}

/// Refuses the values of a line that is not a list of assignments.
fn refuse(entries: &mut [Entry]) {
    for entry in entries {
        entry.value = Err(SECOND_WORD);
    }
}

/// Skips a line that does not begin with an assignment. Adds an entry if the line was probably meant to be one.
fn no_assignment<'a>(
    cursor: &mut Cursor<'a>,
    start: Cursor<'a>,
    entries: &mut Vec<Entry>,
) -> Result<(), SyntaxError> {
    let command = start.error(COMMAND_LINE);
    let (before, _) = cursor.line_rest().split_once('=').ok_or(command)?;
    let name = before.trim_end_matches(BLANKS);
    let is_name = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | '-');
    if name.is_empty() || !name.chars().all(is_name) {
        return Err(command);
    }
    entries.push(Entry::new(name, cursor.line, Err(NAME)));
    skip_line(cursor, *cursor, Rest::OfValue, entries)
}

fn skip_export(cursor: &mut Cursor<'_>) -> bool {
    let is_export = cursor
        .rest
        .strip_prefix("export")
        .is_some_and(|rest| rest.starts_with(BLANKS));
    if is_export {
        cursor.advance("export".len());
    }
    is_export
}

/// Skips blanks and line ends after a backslash.
fn skip_blanks(cursor: &mut Cursor<'_>) {
    loop {
        cursor.skip(&BLANKS);
        if !cursor.rest.starts_with(CONTINUATION) {
            break;
        }
        cursor.advance(CONTINUATION.len());
    }
}

/// Returns the name of a variable at the start of `text`, which can be empty.
fn identifier(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let name = &text[..end.unwrap_or(text.len())];
    if name.starts_with(|c: char| c.is_ascii_digit()) {
        ""
    } else {
        name
    }
}

/// What the rest of a line begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rest {
    /// The value with the problem, or its name.
    OfValue,
    /// Another word.
    Word,
}

/// Skips the rest of a line with a problem. Adds an entry for each other variable that the rest could set.
///
/// # Errors
/// Returns an error if the line could continue on the next one, or if it could run a command of the shell itself.
fn skip_line<'a>(
    cursor: &mut Cursor<'a>,
    start: Cursor<'a>,
    rest: Rest,
    entries: &mut Vec<Entry>,
) -> Result<(), SyntaxError> {
    let line = start.line_rest();
    let (code, is_closed) = code(line);
    let count = |c: char| code.matches(c).count();
    let assigns_in_braces = |text: &str| text.split('}').next().is_some_and(|it| it.contains('='));
    let is_complete = cursor.line == start.line
        && is_closed
        && count('`') % 2 == 0
        && count('(') == count(')')
        && count('{') == count('}')
        && !code.contains("<<")
        && !code.contains("$[")
        && !(code.contains("$'") && code.contains('\\'))
        && !code.contains("$((")
        && !code.split("${").skip(1).any(assigns_in_braces)
        && !code.trim_end().ends_with(['|', '&']);
    if !is_complete {
        return Err(start.error("a shell reads more than this line for one value"));
    }
    let mut words = code.split([
        ' ', '\t', '\r', ';', '&', '|', '<', '>', '(', ')', '`', '{', '}',
    ]);
    let is_builtin = |word: &str| BUILTINS.contains(&&*unquoted(word));
    if words.clone().any(is_builtin) {
        return Err(start.error(COMMAND_LINE));
    }
    if rest == Rest::OfValue {
        words.next();
    }
    for word in words {
        let name = unquoted(word.split('=').next().unwrap_or_default());
        if word.contains('=') && !name.is_empty() && identifier(&name) == name {
            entries.push(Entry::new(&name, start.line, Err(SECOND_WORD)));
        }
    }
    *cursor = start;
    cursor.advance(line.len());
    Ok(())
}

/// Returns `word` without the quotes of a name.
fn unquoted(word: &str) -> String {
    word.replace(['\'', '"', '\\'], "")
}

/// Returns `line` without its comment, and whether all quotes are closed.
fn code(line: &str) -> (&str, bool) {
    let mut open = None;
    let mut follows_blank = false;
    let mut chars = line.char_indices();
    while let Some((at, c)) = chars.next() {
        match (open, c) {
            (None, '#') if follows_blank => return (&line[..at], true),
            (None, '\'' | '"') => open = Some(c),
            (Some(quote), _) if quote == c => open = None,
            (None | Some('"'), '\\') if chars.next().is_none() => return (line, false),
            _ => {}
        }
        follows_blank = BLANKS.contains(&c);
    }
    (line, open.is_none())
}

/// Reads one word: the value of an assignment.
fn word(cursor: &mut Cursor<'_>, is_export: bool) -> Result<Zeroizing<String>, Fault> {
    // Allocated at full size, because growing would leave copies of the value in freed memory.
    let mut value = Zeroizing::new(String::with_capacity(longest_word(cursor.rest)));
    let mut previous = '=';
    while let Some(c) = cursor.rest.chars().next() {
        match c {
            ' ' | '\t' | '\n' => break,
            '\r' => return Err(Fault::Line(CARRIAGE_RETURN)),
            '\'' => value.push_str(cursor.quoted('\'')?),
            '"' => double_quoted(cursor, &mut value)?,
            '\\' if cursor.rest.starts_with(CONTINUATION) => {
                cursor.advance(CONTINUATION.len());
                continue;
            }
            '\\' => {
                cursor.advance(1);
                push_escaped(cursor, &mut value, |_| true);
            }
            '$' if is_expansion(&cursor.rest[1..]) => return Err(Fault::Line(PARAMETER)),
            '`' => return Err(Fault::Line(COMMAND)),
            '~' if matches!(previous, '=' | ':') => return Err(Fault::Line(TILDE)),
            '*' | '?' | '[' | '{' if is_export => return Err(Fault::Line(PATTERN)),
            ';' | '&' | '|' | '<' | '>' | '(' | ')' => return Err(Fault::Line(OPERATOR)),
            c => push(cursor, &mut value, c),
        }
        previous = c;
    }
    Ok(value)
}

fn double_quoted(cursor: &mut Cursor<'_>, value: &mut String) -> Result<(), Fault> {
    let start = *cursor;
    cursor.advance(1);
    loop {
        match cursor.rest.chars().next() {
            None => return Err(Fault::Document(start.error("the closing quote is missing"))),
            Some('"') => {
                cursor.advance(1);
                return Ok(());
            }
            Some('\\') => {
                cursor.advance(1);
                push_escaped(cursor, value, |c| {
                    matches!(c, '$' | '`' | '"' | '\\' | '\n')
                });
            }
            Some('$') if is_expansion_in_quotes(&cursor.rest[1..]) => {
                return Err(Fault::Line(PARAMETER));
            }
            Some('`') => return Err(Fault::Line(COMMAND)),
            Some(c) => push(cursor, value, c),
        }
    }
}

fn push(cursor: &mut Cursor<'_>, value: &mut String, c: char) {
    cursor.advance(c.len_utf8());
    value.push(c);
}

/// Reads the character after a backslash. The backslash is kept if it does not escape that character.
fn push_escaped(cursor: &mut Cursor<'_>, value: &mut String, is_escaped: fn(char) -> bool) {
    match cursor.rest.chars().next() {
        Some('\n') => cursor.advance(1),
        Some(c) if is_escaped(c) => push(cursor, value, c),
        _ => value.push('\\'),
    }
}

/// Returns whether a shell expands a `$` before `text`.
pub(super) fn is_expansion(text: &str) -> bool {
    let after = text.trim_start_matches(CONTINUATION);
    is_expansion_in_quotes(text) || after.starts_with(['\'', '"'])
}

fn is_expansion_in_quotes(text: &str) -> bool {
    let text = text.trim_start_matches(CONTINUATION);
    text.starts_with(|c: char| c.is_ascii_alphanumeric() || "_{(@*#?-$![".contains(c))
}

/// Returns an upper limit for the length of the word at the start of `text`, in bytes.
fn longest_word(text: &str) -> usize {
    let mut open = None;
    let mut is_escaped = false;
    let end = text.find(|c: char| {
        let ends = open.is_none() && !is_escaped && matches!(c, ' ' | '\t' | '\n');
        match open {
            _ if is_escaped => is_escaped = false,
            None | Some('"') if c == '\\' => is_escaped = true,
            None if matches!(c, '\'' | '"') => open = Some(c),
            Some(quote) if quote == c => open = None,
            _ => {}
        }
        ends
    });
    end.unwrap_or(text.len())
}
