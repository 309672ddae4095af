//! Words in a value.

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
