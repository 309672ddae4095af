//! Values that might be weak. They are accepted with a warning, because no estimate separates them from
//! the output of some generators.

use std::fmt;

use super::words::words;

/// A passphrase of this many random words is strong.
const MIN_WORDS: usize = 6;
/// Random words can repeat, but hardly so often that fewer are different.
const MIN_DIFFERENT_WORDS: usize = 4;
/// Minimum of the Shannon entropy in bits for each byte. Of 100,000 random values of 32 hexadecimal
/// digits, 10 are below 3 and none is below 2.75.
const MIN_ENTROPY: f64 = 2.75;

/// Why a value might be weak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Suspicion {
    Words,
    FewCharacters,
    Date,
}

impl fmt::Display for Suspicion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Words => "words in place of random bytes",
            Self::FewCharacters => "few different characters",
            Self::Date => "a date in place of random bytes",
        })
    }
}

pub(super) fn suspicion(value: &[u8]) -> Option<Suspicion> {
    if is_few_words(value) {
        Some(Suspicion::Words)
    } else if entropy(value) < MIN_ENTROPY {
        Some(Suspicion::FewCharacters)
    } else if is_date(value) {
        Some(Suspicion::Date)
    } else {
        None
    }
}

/// Returns whether the value begins with a date such as `2026-01-31`, and has no letters but those of a time.
fn is_date(value: &[u8]) -> bool {
    let form = b"0000-00-00";
    let has_form = |(byte, form): (&u8, &u8)| match form {
        b'0' => byte.is_ascii_digit(),
        _ => b"-./".contains(byte),
    };
    let is_of_time = |byte: &u8| byte.is_ascii_digit() || b"-+./:,_ TZ".contains(byte);
    value.len() >= form.len()
        && value.iter().zip(form).all(has_form)
        && value.iter().all(is_of_time)
}

/// Returns whether the value consists of letters, blanks and punctuation, with the capital letters of
/// written words, and has fewer than [`MIN_WORDS`] words.
fn is_few_words(value: &[u8]) -> bool {
    let is_text = std::str::from_utf8(value).is_ok_and(|text| {
        !text
            .chars()
            .any(|char| char.is_numeric() || char.is_control())
    });
    if !is_text || !words(value).all(is_written) {
        return false;
    }
    // Random printable characters have letters between punctuation, but hardly words.
    let long = words(value).map(<[u8]>::len).filter(|length| *length >= 3);
    if long.sum::<usize>() * 2 < value.len() {
        return false;
    }
    let mut different: Vec<&[u8]> = Vec::new();
    let mut count = 0;
    for word in words(value).filter(|word| word.len() > 1) {
        count += 1;
        if different.len() < MIN_DIFFERENT_WORDS && !different.contains(&word) {
            different.push(word);
        }
        if count >= MIN_WORDS && different.len() == MIN_DIFFERENT_WORDS {
            return false;
        }
    }
    true
}

/// Returns whether `word` has no capital letters, only those, or one at its beginning. Random letters have
/// them in other places.
fn is_written(word: &[u8]) -> bool {
    let has_capital = |bytes: &[u8]| bytes.iter().any(u8::is_ascii_uppercase);
    !has_capital(&word[1..]) || !word.iter().any(u8::is_ascii_lowercase)
}

/// Returns the Shannon entropy of the bytes of `value`, in bits for each byte.
fn entropy(value: &[u8]) -> f64 {
    let mut counts = [0_u32; 256];
    for byte in value {
        let count = &mut counts[usize::from(*byte)];
        *count = count.saturating_add(1);
    }
    let length: f64 = counts.iter().copied().map(f64::from).sum();
    let shares = counts.iter().filter(|count| **count > 0);
    shares
        .map(|count| f64::from(*count) / length)
        .map(|share| -share * share.log2())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_words_and_few_characters_are_suspicious() {
        for (value, expected) in [
            ("the quick brown fox jumps over it", None),
            ("quick brown foxes jump over dogs", None),
            ("correct horse battery staple ok!", Some(Suspicion::Words)),
            ("CorrectHorseBatteryStaplePlease!", Some(Suspicion::Words)),
            (
                "dog cat dog cat dog cat dog cat cow",
                Some(Suspicion::Words),
            ),
            ("qpwoeirutyalskdjfhgzmxncbvplokmij", Some(Suspicion::Words)),
            ("qPwoEIrutYAlskDjfhgzMXncbVPloKmij", None),
            ("größe straße brücke über schlösser", Some(Suspicion::Words)),
            (
                "11223344551122334455112233441122",
                Some(Suspicion::FewCharacters),
            ),
            ("2026-01-31T17:45:09.123456+00:00", Some(Suspicion::Date)),
            ("kT&(xQ[bM/-wJ!pZ?~rL;d<Vn=_h:G}s", None),
            ("2026-01-31-K7gNU3sdo+OL0wNhqoVW", None),
        ] {
            assert_eq!(suspicion(value.as_bytes()), expected, "{value}");
        }
    }
}
