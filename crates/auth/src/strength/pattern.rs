//! Values that repeat themselves.

/// Shorter values are too short in any case.
const MIN_LENGTH: usize = 8;
/// A pattern of this length can be a strong secret itself, even if the value repeats it.
const MAX_PERIOD: usize = 32;
/// A value with so few different bytes is a pattern, such as the nil UUID.
const MAX_FEW: usize = 5;

/// Returns whether the value repeats a short pattern, or has hardly any different bytes.
pub(super) fn is_pattern(value: &[u8]) -> bool {
    if value.len() < MIN_LENGTH {
        return false;
    }
    let mut counts = [0_usize; 256];
    for byte in value {
        counts[usize::from(*byte)] += 1;
    }
    let different = counts.iter().filter(|count| **count > 0).count();
    let most = counts.iter().max().copied().unwrap_or_default();
    different <= MAX_FEW
        || most * 5 > value.len() * 3
        // Padding, or text in UTF-16. In 32 random bytes, so many are zero once in 10¹² values.
        || counts[0] * 4 >= value.len()
        || is_periodic(value)
}

/// Returns whether the value repeats a text of fewer than [`MAX_PERIOD`] bytes, perhaps with small changes
/// such as a number at its end.
///
/// At least half of the bytes are equal to the ones that are one period before them, and fewer than
/// [`MAX_PERIOD`] bytes are not. In 32 random decimal digits, this is so once in 10 million values.
fn is_periodic(value: &[u8]) -> bool {
    let limit = MAX_PERIOD.min(value.len() / 2 + 1);
    (1..limit).any(|period| {
        let pairs = value[period..].iter().zip(value);
        let differences = pairs.filter(|(byte, before)| byte != before);
        let new = period + differences.take(limit).count();
        new < limit
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_of_patterns_are_exact() {
        let cycle = |period: u8, length: usize| -> Vec<u8> {
            (0..period)
                .map(|byte| byte * 7)
                .cycle()
                .take(length)
                .collect()
        };
        for (value, expected) in [
            (cycle(31, 62), true),
            (cycle(31, 61), false),
            (cycle(32, 64), false),
            (cycle(16, 32), true),
            (cycle(16, 40), true),
            (cycle(16, 31), false),
            (cycle(5, 9), true),
            (cycle(6, 11), false),
            // 31 bytes are new.
            ([cycle(29, 60), cycle(3, 2)].concat(), true),
            ([cycle(29, 60), b"xyz".to_vec()].concat(), false),
            // Half of the bytes are repeated, and one less.
            ([cycle(8, 20), (100..112).collect()].concat(), false),
            ([cycle(8, 24), (100..108).collect()].concat(), true),
            (b"abcd1abcd2abcd3abcd4abcd5abcd6ab".to_vec(), true),
        ] {
            assert_eq!(is_pattern(&value), expected, "{value:?}");
        }
        // A quarter of zeros.
        let mut value: Vec<u8> = (1..31).collect();
        value.extend([0; 9]);
        assert!(!is_pattern(&value));
        value.push(0);
        assert!(is_pattern(&value));
        // 60 percent of one byte, and one more.
        let mut value: Vec<u8> = (0..40).collect();
        value.extend([200; 60]);
        assert!(!is_pattern(&value));
        value.push(200);
        assert!(is_pattern(&value));
    }
}
