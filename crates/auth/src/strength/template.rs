//! Templates, variables and commands, which a shell or a tool should have replaced by a secret.

/// Code that reads a variable or generates a secret, at any place in the value.
const CODE: &[&str] = &[
    "process.env.",
    "process.env[",
    "import.meta.env.",
    "Deno.env.get(",
    "Bun.env.",
    "os.environ",
    "os.getenv(",
    "os.Getenv(",
    "System.getenv(",
    "env::var(",
    "ENV['",
    "ENV[\"",
    "ENV.fetch(",
    "openssl rand",
    "/dev/urandom",
    "/dev/random",
    "crypto.randomBytes",
    "secrets.token_",
    "SecureRandom.",
    "npx auth secret",
    // An unresolved token of the AWS CDK.
    "${Token[",
];

/// The beginning and the end of a value that is a template as a whole, and the check of what is between
/// them.
type Enclosed = (&'static str, &'static str, fn(&[u8]) -> bool);

const ENCLOSED: &[Enclosed] = &[
    ("<", ">", is_words),
    ("&lt;", "&gt;", is_words),
    ("[", "]", is_words),
    ("((", "))", is_words),
    ("`", "`", is_words),
    ("${", "}", is_expression),
    ("#{", "}", is_expression),
    ("#{", "}#", is_expression),
    ("%{", "}", is_expression),
    ("$(", ")", is_expression),
    ("$[", "]", is_expression),
    ("%env(", ")%", is_expression),
    ("{", "}", is_identifier),
    ("$", "", is_name),
    ("$env:", "", is_identifier),
    ("%", "%", is_identifier),
    ("@", "@", is_identifier),
    ("__", "__", is_name),
];

/// Delimiters of templates that can be next to other text.
const BLOCKS: &[(&str, &str)] = &[("{{", "}}"), ("{%", "%}"), ("<%", "%>")];

/// The longest expression between [`BLOCKS`] that is recognized.
const MAX_BLOCK: usize = 256;

/// The shortest name of a variable at the beginning or at the end of the value.
const MIN_NAME: usize = 3;
/// The shortest name of a variable between other text. Random text of all printable characters can
/// contain a shorter one.
const MIN_INNER_NAME: usize = 6;

/// Returns whether the value is or contains a template.
pub(super) fn is_template(value: &[u8]) -> bool {
    let is_enclosed = |(start, end, is_inner): &Enclosed| {
        let inner = value.strip_prefix(start.as_bytes());
        inner
            .and_then(|rest| rest.strip_suffix(end.as_bytes()))
            .is_some_and(is_inner)
    };
    let text = std::str::from_utf8(value).unwrap_or_default();
    CODE.iter().any(|code| text.contains(code))
        || ENCLOSED.iter().any(is_enclosed)
        || has_variable(value)
        || BLOCKS
            .iter()
            .any(|(start, end)| has_block(value, start, end))
}

/// Returns whether the value contains `${NAME}`, `${NAME:-default}`, `#{NAME}`, `$(NAME)` or
/// `$(command ..)`.
fn has_variable(value: &[u8]) -> bool {
    let last = |byte: u8| value.iter().rposition(|other| *other == byte);
    let (last_brace, last_parenthesis) = (last(b'}'), last(b')'));
    value.windows(2).enumerate().any(|(start, opening)| {
        let (close, last_close, operators): (u8, _, &[u8]) = match opening {
            b"${" | b"#{" => (b'}', last_brace, b":-?+=|"),
            b"$(" => (b')', last_parenthesis, b" "),
            _ => return false,
        };
        let inner = &value[start + 2..];
        let name = name_length(inner);
        let end = match inner.get(name) {
            Some(byte) if *byte == close => start + 2 + name,
            Some(byte) if operators.contains(byte) => match last_close {
                Some(end) if end > start => end,
                _ => return false,
            },
            _ => return false,
        };
        let is_at_edge = start == 0 || end + 1 == value.len();
        name >= if is_at_edge { MIN_NAME } else { MIN_INNER_NAME }
    })
}

/// Returns whether the value contains a block such as `{{ secrets.AUTH_SECRET }}`.
fn has_block(value: &[u8], start: &str, end: &str) -> bool {
    let starts = value.windows(2).enumerate();
    let mut starts = starts.filter(|(_, bytes)| *bytes == start.as_bytes());
    starts.any(|(at, _)| {
        let rest = &value[at + 2..];
        let rest = &rest[..rest.len().min(MAX_BLOCK)];
        let Some(length) = rest.windows(2).position(|bytes| bytes == end.as_bytes()) else {
            return false;
        };
        let inner = &rest[..length];
        let is_at_edge = at == 0 || at + 2 + length + 2 == value.len();
        let expression = inner.iter().skip_while(|byte| b" -=.$#/{".contains(byte));
        let name = expression.take_while(|byte| byte.is_ascii_alphanumeric() || **byte == b'_');
        name.count() >= MIN_NAME && (is_at_edge || inner.contains(&b' '))
    })
}

/// Returns the length of the name at the beginning of `text`, in upper case or in lower case. Names in
/// mixed case are not recognized, because random text contains them more often.
fn name_length(text: &[u8]) -> usize {
    let count = |is_name_byte: fn(&u8) -> bool| text.iter().take_while(|b| is_name_byte(b)).count();
    match text.first() {
        Some(b'A'..=b'Z' | b'_') => {
            count(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || *byte == b'_')
        }
        Some(b'a'..=b'z') => {
            count(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_.".contains(byte))
        }
        _ => 0,
    }
}

fn is_name(text: &[u8]) -> bool {
    text.len() >= MIN_NAME && name_length(text) == text.len()
}

/// Returns whether `text` is a name in any case.
fn is_identifier(text: &[u8]) -> bool {
    let is_name_byte = |byte: &u8| byte.is_ascii_alphanumeric() || b"_.".contains(byte);
    text.len() >= MIN_NAME
        && text.iter().all(is_name_byte)
        && text.first().is_some_and(|byte| !byte.is_ascii_digit())
}

/// Returns whether `text` is the expression of a variable or a command: words, and what calls functions.
fn is_expression(text: &[u8]) -> bool {
    let is_call_byte = |byte: &u8| b"()[]\"@#$&".contains(byte);
    text.len() >= MIN_NAME
        && text
            .iter()
            .all(|byte| is_word_byte(byte) || is_call_byte(byte))
        && text.iter().any(u8::is_ascii_alphabetic)
}

/// Returns whether `text` consists of words with punctuation, but without quotes, as JSON has them.
fn is_words(text: &[u8]) -> bool {
    text.len() >= MIN_NAME
        && text.iter().all(is_word_byte)
        && text.iter().any(u8::is_ascii_alphabetic)
}

fn is_word_byte(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || b" -_.,:;!?'/|+=*".contains(byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_need_a_name_and_an_end() {
        for template in [
            "${KEY}",
            "${db.key}",
            "a${KEY}",
            "${KEY}a",
            "a${SECRET}a",
            "${KEY:?it is not set}",
            "${authSecret}",
            "$(KEY)",
            "a$(cat file)",
            "x{{ key }}x",
            "{{key}}",
            "<% key %>",
            "{AUTH_SECRET}",
            "{AuthSecret}",
            "%AuthSecret%",
            "#{AuthSecret}#",
            "%{lookup('auth')}",
            "${file(\"auth.txt\")}",
            "$(cat \"$FILE\")",
            "a${Token[TOKEN.12]}",
            "{{{auth}}}",
            "$env:AuthSecret",
        ] {
            assert!(is_template(template.as_bytes()), "{template}");
        }
        for other in [
            "",
            "$",
            "${",
            "${}",
            "${KEY",
            "a${KEY}a",
            "${KEY:-",
            "$()",
            "$(KEY",
            "a{{key}}a",
            "{{ }}",
            "{{",
            "{{}}",
            "{\"kty\":\"oct\"}",
            "[\"a\",\"b\"]",
            "<>",
            "$2y$10$abcdefghijk",
            "p@$$w0rd",
            "a<b>c",
        ] {
            assert!(!is_template(other.as_bytes()), "{other}");
        }
    }

    #[test]
    fn hostile_values_take_linear_time() {
        for part in ["${AAA:", "{{ ", "$(", "<%", "#{a.", "${A}"] {
            let value = part.repeat((1 << 17) / part.len());
            assert!(!is_template(value.as_bytes()) || part == "${A}", "{part}");
        }
    }
}
