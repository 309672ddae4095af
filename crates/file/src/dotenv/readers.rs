//! What other programs make of a value: as much as is needed to say that they differ.

use secretwell_core::backend::{Notice, NoticeKind};

use super::scan::BLANKS;
use super::shell::is_expansion;

/// A program that reads `.env` documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reader {
    Npm,
    Python,
    Next,
    Compose,
    Docker,
    Shell,
}

/// A set of programs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Readers(u8);

impl Reader {
    const fn bit(self) -> u8 {
        1 << self as u8
    }

    /// Returns the subject and verb of a sentence.
    pub(super) const fn returns(self) -> &'static str {
        match self {
            Self::Npm => "npm `dotenv` and Node.js return",
            Self::Python => "python-dotenv returns",
            Self::Next => "Next.js returns",
            Self::Compose => "Docker Compose returns",
            Self::Docker => "`docker run --env-file` returns",
            Self::Shell => "a shell returns",
        }
    }
}

impl Readers {
    fn of(readers: impl IntoIterator<Item = (Reader, bool)>) -> Self {
        let bits = readers.into_iter().filter(|(_, differs)| *differs);
        Self(bits.fold(0, |bits, (reader, _)| bits | reader.bit()))
    }

    pub(super) fn contains(self, reader: Reader) -> bool {
        self.0 & reader.bit() != 0
    }

    /// Returns a notice that names the programs which probably load this variable. Docker and shells are left out,
    /// because their syntax differs for most values.
    pub(super) fn notice(self, name: &str, line: usize) -> Option<Notice> {
        let named = [Reader::Npm, Reader::Python, Reader::Next, Reader::Compose];
        let returns: Vec<&str> = named
            .into_iter()
            .filter(|reader| self.contains(*reader))
            .map(Reader::returns)
            .collect();
        if returns.is_empty() {
            return None;
        }
        let message = format!("line {line}: {} another value", returns.join(", "));
        let hint = if self.contains(Reader::Npm) {
            "save the document with `\\n` as the line end"
        } else {
            "if such a program needs the variable, use a value without the characters `$`, `#`, `\\` and without backticks"
        };
        Some(Notice::new(NoticeKind::ReadDifferently, name, message).with_hint(hint))
    }
}

/// Returns the programs that read another value than the strict dialect. `raw` is the text after the `=`.
pub(super) fn of_strict(raw: &str, value: &str) -> Readers {
    let form = Form::of(raw);
    // In a value over several lines, the others return the line end `\n`. They do not read adjacent quotes.
    let is_special = form.is_quoted() && (value.contains("\r\n") || has_pieces(raw));
    Readers::of([
        (Reader::Npm, is_special),
        (Reader::Python, is_special),
        (Reader::Next, is_special || is_replaced_by_next(value)),
        (Reader::Compose, is_changed_by_compose(raw, form)),
        (Reader::Docker, is_changed_by_docker(raw, value)),
        (Reader::Shell, is_changed_by_shell(raw, value, form)),
    ])
}

/// Returns the programs that read another value than the dialect of npm `dotenv` and Node.js.
pub(super) fn of_node(raw: &str, value: &str) -> Readers {
    let form = Form::of(raw);
    let is_literal_elsewhere = match form {
        Form::Backticks => true,
        Form::Unquoted => has_hash_in_text(raw),
        Form::Single => raw.contains("\\\\"),
        Form::Double => has_escape(raw, "\\abfrtv'"),
    };
    let has_line_ends = form.is_quoted() && raw.contains("\r\n");
    Readers::of([
        (Reader::Python, is_literal_elsewhere || has_reference(value)),
        (Reader::Next, is_replaced_by_next(value)),
        (
            Reader::Compose,
            is_literal_elsewhere && form != Form::Single
                || has_line_ends
                || is_changed_by_compose(raw, form),
        ),
        (Reader::Docker, is_changed_by_docker(raw, value)),
        (
            Reader::Shell,
            has_line_ends || is_changed_by_shell(raw, value, form),
        ),
    ])
}

/// How a value is quoted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Unquoted,
    Single,
    Double,
    Backticks,
}

impl Form {
    fn of(raw: &str) -> Self {
        match raw.trim_start().chars().next() {
            Some('\'') => Self::Single,
            Some('"') => Self::Double,
            Some('`') => Self::Backticks,
            _ => Self::Unquoted,
        }
    }

    fn is_quoted(self) -> bool {
        self != Self::Unquoted
    }
}

/// Next.js replaces the last reference, then the one before it. It stops at a `$` that begins no reference.
fn is_replaced_by_next(value: &str) -> bool {
    let mut dollars = value.rmatch_indices('$').map(|(at, _)| at);
    let last = dollars.find(|&at| !value[..at].ends_with('\\'));
    let begins_reference = |at: usize| {
        let after = &value[at + 1..];
        after
            .strip_prefix('{')
            .unwrap_or(after)
            .starts_with(is_word)
    };
    value.contains("\\$") || last.is_some_and(begins_reference)
}

fn is_changed_by_compose(raw: &str, form: Form) -> bool {
    let is_reference = |(at, _)| {
        raw[at + 1..].starts_with(|c: char| c.is_ascii_alphabetic() || matches!(c, '_' | '{' | '$'))
    };
    let has_reference = raw.match_indices('$').any(is_reference);
    match form {
        Form::Single => false,
        Form::Double => has_reference || has_escape(raw, "abfrtv$\\0"),
        // Compose takes a comment for the value if it directly follows the blanks after the `=`.
        Form::Unquoted if raw.trim_start_matches(BLANKS).starts_with('#') => true,
        Form::Unquoted | Form::Backticks => has_reference || raw.contains("\\$"),
    }
}

fn is_changed_by_docker(raw: &str, value: &str) -> bool {
    raw.split('\n')
        .next()
        .map(|line| line.strip_suffix('\r').unwrap_or(line))
        != Some(value)
}

/// Returns whether a POSIX shell runs, expands or removes something, or takes the value for two words.
fn is_changed_by_shell(raw: &str, value: &str, form: Form) -> bool {
    let is_expanded = || {
        let mut dollars = raw.match_indices('$');
        raw.contains('`') || dollars.any(|(at, _)| is_expansion(&raw[at + 1..]))
    };
    // A shell keeps a carriage return before the line end, and a `#` that follows no blank.
    let is_extended = || {
        let without_return = raw.strip_suffix('\r').unwrap_or_default();
        without_return.ends_with(['\'', '"', '`']) || after_first_quotes(raw).starts_with('#')
    };
    match form {
        Form::Single => is_extended(),
        Form::Double => is_expanded() || has_escape(raw, "n\\\"$`\n") || is_extended(),
        Form::Backticks => !value.is_empty() || is_extended(),
        Form::Unquoted => {
            let word = raw
                .split(" #")
                .next()
                .unwrap_or_default()
                .trim_end_matches(' ');
            let is_syntax = |c: char| " \t\r'\"\\;&|<>()#".contains(c);
            word.contains(is_syntax)
                || word.starts_with('~')
                || word.contains(":~")
                || is_expanded()
        }
    }
}

/// Returns whether several quoted pieces follow each other.
pub(super) fn has_pieces(raw: &str) -> bool {
    after_first_quotes(raw).starts_with(['\'', '"', '\\'])
}

fn after_first_quotes(raw: &str) -> &str {
    let text = raw.trim_start();
    let parts = text
        .chars()
        .next()
        .and_then(|quote| text[quote.len_utf8()..].split_once(quote));
    parts.map_or("", |(_, after)| after)
}

fn has_reference(value: &str) -> bool {
    value.split("${").skip(1).any(|after| after.contains('}'))
}

/// Returns whether a `#` follows other text than a blank.
fn has_hash_in_text(raw: &str) -> bool {
    raw.match_indices('#')
        .next()
        .is_some_and(|(at, _)| !raw[..at].ends_with([' ', '\t']))
}

/// Returns whether `text` contains a backslash before one of `escaped`.
fn has_escape(text: &str, escaped: &str) -> bool {
    let is_escaped = |after: &str| match after.chars().next() {
        Some(c) => escaped.contains(c),
        // The part between two backslashes is empty.
        None => escaped.contains('\\'),
    };
    text.split('\\').skip(1).any(is_escaped)
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}
