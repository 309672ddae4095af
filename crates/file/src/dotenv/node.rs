//! The dialect of npm `dotenv` and of Node.js. Where these two differ, a value is refused.

use zeroize::Zeroizing;

use super::scan::{self, Cursor, Fault, Rules, is_common, is_edge};
use super::{Entry, Problem, SyntaxError, readers};

const QUOTE_HINT: &str = "put the value in single quotes";

const NAME: Problem = Problem::new(
    "npm `dotenv` skips a line with such a name, and Node.js does not",
    "use letters, digits and `_`",
);
const EDGE: Problem = Problem::new(
    "only one of npm `dotenv` and Node.js removes the blank at the start or end of the value",
    QUOTE_HINT,
);
const ESCAPED_QUOTE: Problem = Problem::new(
    "npm `dotenv` and Node.js differ in a quote after a backslash",
    "use another kind of quotes around the value",
);
const RETURN: Problem = Problem::new(
    "npm `dotenv` decodes `\\r` in the value, and Node.js does not",
    "put the value in single quotes",
);
const TAIL: Problem = Problem::new(
    "text after the closing quote, which npm `dotenv` and Node.js treat differently",
    "put the whole value in one pair of quotes",
);

const RULES: Rules = Rules {
    name_problem,
    value,
    readers: readers::of_node,
};

pub(super) fn parse(text: &str) -> Result<Vec<Entry>, SyntaxError> {
    scan::entries(text, &RULES)
}

fn name_problem(name: &str) -> Option<Problem> {
    (!name.chars().all(is_common)).then_some(NAME)
}

fn value(cursor: &mut Cursor<'_>) -> Result<Zeroizing<String>, Fault> {
    cursor.skip(&[' ']);
    match cursor.rest.chars().next() {
        Some(quote @ ('\'' | '"' | '`')) => quoted(cursor, quote),
        _ => unquoted(cursor),
    }
}

fn unquoted(cursor: &mut Cursor<'_>) -> Result<Zeroizing<String>, Fault> {
    let line = cursor.line_rest();
    let value = line.split('#').next().unwrap_or_default().trim_matches(' ');
    if value.starts_with(is_edge) || value.ends_with(is_edge) {
        return Err(Fault::Line(EDGE));
    }
    cursor.advance(line.len());
    Ok(Zeroizing::new(value.to_owned()))
}

fn quoted(cursor: &mut Cursor<'_>, quote: char) -> Result<Zeroizing<String>, Fault> {
    let content = cursor.quoted(quote)?;
    if content.ends_with('\\') {
        return Err(Fault::Line(ESCAPED_QUOTE));
    }
    if !cursor.skip_comment() {
        return Err(Fault::Line(TAIL));
    }
    if quote == '"' && content.contains("\\r") {
        return Err(Fault::Value(RETURN));
    }
    // Both replace the text `\n`, also after another backslash. The result is never longer than the content.
    let mut value = Zeroizing::new(String::with_capacity(content.len()));
    let mut rest = content;
    while let Some(at) = rest.find(['\r', '\\']) {
        let (before, after) = rest.split_at(at);
        value.push_str(before);
        rest = match after.strip_prefix("\\n") {
            Some(after) if quote == '"' => {
                value.push('\n');
                after
            }
            _ => {
                // Line ends become `\n`.
                if after.starts_with('\\') {
                    value.push('\\');
                }
                &after[1..]
            }
        };
    }
    value.push_str(rest);
    Ok(value)
}
