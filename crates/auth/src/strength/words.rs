//! The text and the words in a value.

/// Returns the words of `value`: the longest runs of letters, cut where a capital letter follows a small
/// one. Bytes above 127 count as letters.
pub(super) fn words(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    let is_same_word = |left: &u8, right: &u8| {
        is_letter(*left)
            && is_letter(*right)
            && !(left.is_ascii_lowercase() && right.is_ascii_uppercase())
    };
    value.chunk_by(is_same_word).filter(|run| is_letter(run[0]))
}

/// Returns the value without quotes and white space around it, for rules that compare the value with a text.
/// Some tools leave both, and copied text has invisible characters. All other rules measure the bytes as they
/// are, because the ends of a binary secret can look like white space.
pub(super) fn text(value: &[u8]) -> &[u8] {
    let Ok(text) = std::str::from_utf8(value) else {
        return value.trim_ascii();
    };
    let text = text.trim_matches(is_invisible);
    let inner = |(open, close): &(char, char)| text.strip_prefix(*open)?.strip_suffix(*close);
    QUOTES.iter().find_map(inner).unwrap_or(text).as_bytes()
}

const QUOTES: [(char, char); 4] = [
    ('"', '"'),
    ('\'', '\''),
    ('\u{201c}', '\u{201d}'),
    ('\u{2018}', '\u{2019}'),
];

fn is_invisible(c: char) -> bool {
    // Soft hyphen, marks of direction, characters without a width, byte order mark.
    c.is_whitespace()
        || matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2060}'..='\u{2064}' | '\u{feff}')
}

fn is_letter(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || !byte.is_ascii()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_end_at_digits_punctuation_and_capital_letters() {
        let words_of = |text: &'static str| -> Vec<&str> {
            let texts = words(text.as_bytes()).map(|word| std::str::from_utf8(word).unwrap());
            texts.collect()
        };
        assert_eq!(
            words_of("my-secretKey_2 JWTToken"),
            ["my", "secret", "Key", "JWTToken"]
        );
        assert_eq!(words_of("42--"), [""; 0]);
        assert_eq!(words_of("größe 1"), ["größe"]);
    }
}
