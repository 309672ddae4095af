//! Reads `.env` documents.
//!
//! The form that the tools of the field share, less what is dangerous for secrets: nothing is
//! substituted, so `$` and backticks stand for themselves, and no message quotes a line.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use zeroize::Zeroizing;

/// What is wrong, and in which line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub(crate) struct Flaw {
    line: usize,
    what: &'static str,
}

/// The variables of `text` in order. A name that comes twice has its last value.
///
/// - `NAME=value`, `export NAME=value`, blank lines, and comments from `#` to the end of the line;
///   behind an unquoted value, `#` needs white space before it.
/// - `'…'` is kept to the letter; in `"…"` a backslash makes `\n`, `\r`, `\t`, `\"`, `\\`, `\$` and
///   ``\` `` what they stand for and is kept before anything else. Either may span lines.
/// - Unquoted values lose the white space around them.
pub(crate) fn parse(text: &str) -> Result<Vec<(String, Zeroizing<String>)>, Flaw> {
    let mut reader = Reader {
        rest: text,
        line: 1,
    };
    let mut variables: Vec<(String, Zeroizing<String>)> = Vec::new();
    let mut places: HashMap<String, usize> = HashMap::new();
    while reader.skip_to_entry() {
        let name = reader.name()?;
        let value = reader.value()?;
        match places.entry(name.clone()) {
            Entry::Occupied(place) => variables[*place.get()].1 = value,
            Entry::Vacant(place) => {
                place.insert(variables.len());
                variables.push((name, value));
            }
        }
    }
    Ok(variables)
}

/// Whether a line can give a value to `name`.
pub(crate) fn is_name(name: &str) -> bool {
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
    fn flaw<T>(&self, what: &'static str) -> Result<T, Flaw> {
        Err(Flaw {
            line: self.line,
            what,
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

    fn take_while(&mut self, wanted: impl Fn(char) -> bool) -> &'a str {
        let start = self.rest;
        while self.peek().is_some_and(&wanted) {
            self.next();
        }
        &start[..start.len() - self.rest.len()]
    }

    fn skip_blanks(&mut self) {
        self.take_while(|c| c == ' ' || c == '\t');
    }

    /// Goes past blank lines and comments. `false` at the end.
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

    fn name(&mut self) -> Result<String, Flaw> {
        let mut name = self.take_while(is_name_char);
        self.skip_blanks();
        if name == "export" && self.peek() != Some('=') {
            name = self.take_while(is_name_char);
            self.skip_blanks();
        }
        if name.is_empty() {
            return self.flaw("a name is missing before the `=`");
        }
        match self.peek() {
            Some('=') => self.next(),
            _ => return self.flaw("there is no `=` after the name"),
        };
        Ok(name.to_owned())
    }

    fn value(&mut self) -> Result<Zeroizing<String>, Flaw> {
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
                    Some(_) => self.flaw("there is something after the closing quote"),
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

    /// How many bytes there are before the next `quote` that closes something.
    fn length_to(&self, quote: char) -> usize {
        let mut escaped = false;
        let closes = |c: char| {
            let closes = c == quote && !escaped;
            escaped = quote == '"' && c == '\\' && !escaped;
            closes
        };
        self.rest.find(closes).unwrap_or(self.rest.len())
    }

    fn quoted(&mut self, quote: char) -> Result<Zeroizing<String>, Flaw> {
        let opened = self.line;
        // Sized at once, so that growing leaves no copies of the value behind.
        let mut value = Zeroizing::new(String::with_capacity(self.length_to(quote)));
        loop {
            match self.next() {
                None => {
                    return Err(Flaw {
                        line: opened,
                        what: "a quote is never closed",
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
                        return Err(Flaw {
                            line: opened,
                            what: "a quote is never closed",
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

    fn one(text: &str) -> Result<String, Flaw> {
        let variables = parse(text)?;
        assert_eq!(variables.len(), 1, "{variables:?}");
        assert_eq!(variables[0].0, "K");
        Ok(variables[0].1.to_string())
    }

    #[test]
    fn every_form_of_a_value() {
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
        assert_eq!(parse("export=1").unwrap()[0].0, "export");
    }

    #[test]
    fn flaws_name_their_line_and_quote_nothing() {
        for (text, line) in [
            ("A=1\nc4n4ry", 2),
            ("=c4n4ry", 1),
            ("A='c4n4ry\n\n", 1),
            ("A=\"c4n4ry\\", 1),
            ("A=1\n\nB='c4n4ry' tail", 3),
            ("A c4n4ry=1", 1),
        ] {
            let flaw = parse(text).unwrap_err();
            assert_eq!(flaw.line, line, "{text:?}");
            assert!(!format!("{flaw} {flaw:?}").contains("c4n4ry"));
        }
    }

    #[test]
    fn what_a_value_costs_does_not_grow_with_the_document() {
        let line = |n: usize| format!("A{n}=\"a\\\"b\"\nB{n}='c'\n");
        let text: String = (0..5_000).map(line).collect();
        let mut count = 0;
        let cost = allocation_counter::measure(|| count = parse(&text).unwrap().len());
        assert_eq!(count, 10_000);
        let most = 50 * u64::try_from(text.len()).unwrap();
        assert!(cost.bytes_total < most, "{} of {most}", cost.bytes_total);
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
