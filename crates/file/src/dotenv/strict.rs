//! The strict dialect.
//!
//! It accepts the syntax that common tools share, with two differences that protect secrets. Nothing is
//! substituted, so `$` and backticks are literal. No error message quotes a line.

use zeroize::Zeroizing;

use super::{Entry, SyntaxError};

/// Returns the entries of `text` in order.
///
/// - Lines have the form `NAME=value` or `export NAME=value`. Blank lines are ignored.
/// - Comments start with `#` and end with the line. After an unquoted value, `#` needs white space
///   before it.
/// - `'…'` is literal. In `"…"` the escapes are `\n`, `\r`, `\t`, `\"`, `\\`, `\$` and ``\` ``. A backslash
///   before any other character is kept. Quoted values can span lines.
/// - White space around unquoted values is removed.
pub(super) fn parse(text: &str) -> Result<Vec<Entry>, SyntaxError> {
    let mut reader = Reader {
        rest: text,
        line: 1,
    };
    let mut entries = Vec::new();
    while reader.skip_to_entry() {
        let line = reader.line;
        let name = reader.name()?;
        let value = Ok(reader.value()?);
        entries.push(Entry { name, line, value });
    }
    Ok(entries)
}

/// Returns whether `name` can be the name of a variable.
pub(super) fn is_name(name: &str) -> bool {
    name.chars().all(is_name_char)
}

fn is_name_char(c: char) -> bool {
    !c.is_whitespace() && !matches!(c, '=' | '#' | '\'' | '"')
}

struct Reader<'a> {
    rest: &'a str,
    line: usize,
}

impl<'a> Reader<'a> {
    fn error<T>(&self, problem: &'static str) -> Result<T, SyntaxError> {
        Err(SyntaxError {
            line: self.line,
            problem,
        })
    }

    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.rest = &self.rest[c.len_utf8()..];
        self.line += usize::from(c == '\n');
        Some(c)
    }

    fn take_while(&mut self, accepts: impl Fn(char) -> bool) -> &'a str {
        let start = self.rest;
        while self.peek().is_some_and(&accepts) {
            self.next();
        }
        &start[..start.len() - self.rest.len()]
    }

    fn skip_blanks(&mut self) {
        self.take_while(|c| c == ' ' || c == '\t');
    }

    /// Skips blank lines and comments. Returns `false` at the end of the text.
    fn skip_to_entry(&mut self) -> bool {
        loop {
            self.take_while(char::is_whitespace);
            match self.peek() {
                None => return false,
                Some('#') => drop(self.take_while(|c| c != '\n')),
                Some(_) => return true,
            }
        }
    }

    fn name(&mut self) -> Result<String, SyntaxError> {
        let mut name = self.take_while(is_name_char);
        self.skip_blanks();
        if name == "export" && self.peek() != Some('=') {
            name = self.take_while(is_name_char);
            self.skip_blanks();
        }
        if name.is_empty() {
            return self.error("missing name before `=`");
        }
        match self.peek() {
            Some('=') => self.next(),
            _ => return self.error("missing `=` after the name"),
        };
        Ok(name.to_owned())
    }

    fn value(&mut self) -> Result<Zeroizing<String>, SyntaxError> {
        self.skip_blanks();
        match self.peek() {
            Some(quote @ ('\'' | '"')) => {
                self.next();
                let value = self.quoted(quote)?;
                self.skip_blanks();
                self.take_while(|c| c == '\r');
                match self.peek() {
                    None | Some('\n') => Ok(value),
                    Some('#') => {
                        self.take_while(|c| c != '\n');
                        Ok(value)
                    }
                    Some(_) => self.error("unexpected text after the closing quote"),
                }
            }
            _ => {
                let line = self.take_while(|c| c != '\n');
                let comment = line.char_indices().find(|&(at, c)| {
                    c == '#'
                        && line[..at]
                            .chars()
                            .next_back()
                            .is_none_or(char::is_whitespace)
                });
                let end = comment.map_or(line.len(), |(at, _)| at);
                Ok(Zeroizing::new(line[..end].trim().to_owned()))
            }
        }
    }

    /// Returns the number of bytes before the next unescaped `quote`.
    fn length_to(&self, quote: char) -> usize {
        let mut escaped = false;
        let closes = |c: char| {
            let closes = c == quote && !escaped;
            escaped = quote == '"' && c == '\\' && !escaped;
            closes
        };
        self.rest.find(closes).unwrap_or(self.rest.len())
    }

    fn quoted(&mut self, quote: char) -> Result<Zeroizing<String>, SyntaxError> {
        let opened = self.line;
        // Allocated at full size, because growing would leave copies of the value in freed memory.
        let mut value = Zeroizing::new(String::with_capacity(self.length_to(quote)));
        loop {
            match self.next() {
                None => {
                    return Err(SyntaxError {
                        line: opened,
                        problem: "missing closing quote",
                    });
                }
                Some(c) if c == quote => return Ok(Zeroizing::new(value.as_str().to_owned())),
                Some('\\') if quote == '"' => match self.next() {
                    Some('n') => value.push('\n'),
                    Some('r') => value.push('\r'),
                    Some('t') => value.push('\t'),
                    Some(c @ ('"' | '\\' | '$' | '`')) => value.push(c),
                    Some(c) => value.extend(['\\', c]),
                    None => {
                        return Err(SyntaxError {
                            line: opened,
                            problem: "missing closing quote",
                        });
                    }
                },
                Some(c) => value.push(c),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Result<String, SyntaxError> {
        let entry = parse(text)?.pop().expect("an entry");
        assert_eq!(entry.name, "K");
        Ok(entry.value.expect("a value").to_string())
    }

    #[test]
    fn all_value_forms_are_parsed() {
        for (text, value) in [
            ("K=v", "v"),
            ("K = v ", "v"),
            ("export K=v", "v"),
            ("  export\tK=v\r\n", "v"),
            ("K=", ""),
            ("K=\n# end", ""),
            ("K=a b # comment", "a b"),
            ("K=a#b", "a#b"),
            ("K= # comment", ""),
            ("# before\n\nK=v\n", "v"),
            ("K='a # \"b\" \\n $c'", "a # \"b\" \\n $c"),
            (
                "K=\"a # 'b'\\n\\t\\\"\\\\ \\$c \\` \\x\" # comment",
                "a # 'b'\n\t\"\\ $c ` \\x",
            ),
            (
                "K=\"-----BEGIN\nline\r\n-----END\"",
                "-----BEGIN\nline\r\n-----END",
            ),
            ("K='two\nlines'\r\n", "two\nlines"),
            ("K=$(id) `id` ${HOME} $HOME", "$(id) `id` ${HOME} $HOME"),
            ("K=a=b==", "a=b=="),
            ("K=it's", "it's"),
            ("K=1\nK=2", "2"),
        ] {
            assert_eq!(one(text).as_deref(), Ok(value), "{text:?}");
        }
        assert_eq!(parse("export=1").unwrap()[0].name, "export");
    }

    #[test]
    fn errors_name_the_line_and_quote_no_content() {
        for (text, line) in [
            ("A=1\nc4n4ry", 2),
            ("=c4n4ry", 1),
            ("A='c4n4ry\n\n", 1),
            ("A=\"c4n4ry\\", 1),
            ("A=1\n\nB='c4n4ry' tail", 3),
            ("A c4n4ry=1", 1),
        ] {
            let error = parse(text).unwrap_err();
            assert_eq!(error.line, line, "{text:?}");
            assert!(!format!("{error} {error:?}").contains("c4n4ry"));
        }
    }

    #[test]
    fn allocation_is_linear_in_document_size() {
        let line = |n: usize| format!("A{n}=\"a\\\"b\"\nB{n}='c'\n");
        let text: String = (0..5_000).map(line).collect();
        let mut count = 0;
        let cost = allocation_counter::measure(|| count = parse(&text).unwrap().len());
        assert_eq!(count, 10_000);
        let limit = 50 * u64::try_from(text.len()).unwrap();
        assert!(cost.bytes_total < limit, "{} of {limit}", cost.bytes_total);
    }

    #[test]
    fn arbitrary_text_never_panics() {
        let pieces = [
            "A", "=", "'", "\"", "\\", "#", "\n", "\r", " ", "export ", "ß", "$", "\u{feff}",
        ];
        for seed in 0..20_000_usize {
            let (mut seed, mut text) = (seed, String::new());
            for _ in 0..5 {
                text.push_str(pieces[seed % pieces.len()]);
                seed /= pieces.len();
            }
            let _ = parse(&text);
        }
    }
}
