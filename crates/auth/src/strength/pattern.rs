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
    different <= MAX_FEW || most * 5 > value.len() * 3 || is_periodic(value)
}

/// Returns whether the value is a text of fewer than [`MAX_PERIOD`] bytes, at least twice in a row.
fn is_periodic(value: &[u8]) -> bool {
    let periods = 1..MAX_PERIOD.min(value.len() / 2 + 1);
    periods
        .into_iter()
        .any(|period| value[period..] == value[..value.len() - period])
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
        ] {
            assert_eq!(is_pattern(&value), expected, "{value:?}");
        }
        // 60 percent of one byte, and one more.
        let mut value = cycle(21, 20);
        value.extend([200; 30]);
        assert!(!is_pattern(&value));
        value.push(200);
        assert!(is_pattern(&value));
    }
}
