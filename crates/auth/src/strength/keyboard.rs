//! Values that follow the keys of a keyboard, the alphabet or the digits.

/// Rows and columns of keys: QWERTY, QWERTZ, AZERTY and the digits with their symbols.
const ROWS: &[&[u8]] = &[
    b"1234567890-=",
    b"!@#$%^&*()_+",
    b"qwertyuiop[]",
    b"asdfghjkl;'",
    b"zxcvbnm,./",
    b"qwertzuiop",
    b"yxcvbnm,.-",
    b"azertyuiop",
    b"qsdfghjklm",
    b"wxcvbn,;:!",
    b"1qaz",
    b"2wsx",
    b"3edc",
    b"4rfv",
    b"5tgb",
    b"6yhn",
    b"7ujm",
    b"8ik,",
    b"9ol.",
    b"0p;/",
];

/// For each ASCII byte, the set of bytes that are beside it.
static NEIGHBOURS: [u128; 128] = neighbours();

/// Shorter values are too short in any case.
const MIN_LENGTH: usize = 8;

/// Returns whether at least 70 percent of the neighbouring bytes of the value are equal, consecutive, or
/// beside each other on a keyboard. In hexadecimal digits, 20 percent are.
pub(super) fn is_walk(value: &[u8]) -> bool {
    if value.len() < MIN_LENGTH {
        return false;
    }
    let is_step = |pair: &&[u8]| {
        let (left, right) = (pair[0].to_ascii_lowercase(), pair[1].to_ascii_lowercase());
        let row = NEIGHBOURS.get(usize::from(left)).copied().unwrap_or(0);
        left.abs_diff(right) <= 1 || (right.is_ascii() && row >> right & 1 == 1)
    };
    let steps = value.windows(2).filter(is_step).count();
    steps * 10 >= (value.len() - 1) * 7
}

const fn neighbours() -> [u128; 128] {
    let mut neighbours = [0; 128];
    let mut row = 0;
    while row < ROWS.len() {
        let mut key = 1;
        while key < ROWS[row].len() {
            let (left, right) = (ROWS[row][key - 1], ROWS[row][key]);
            neighbours[left as usize] |= 1 << right;
            neighbours[right as usize] |= 1 << left;
            key += 1;
        }
        row += 1;
    }
    neighbours
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn walks_are_found_in_both_directions_and_in_any_case() {
        for walk in [
            "qwertyuiopasdfghjklzxcvbnm123456",
            "MnBvCxZlKjHgFdSaPoIuYtReWq098765",
            "1qaz2wsx3edc4rfv5tgb6yhn7ujm8ik,",
            "!@#$%^&*()_+!@#$%^&*()_+qwertyui",
            "abcdefghijklmnopqrstuvwxyz012345",
            "azertyuiopqsdfghjklmwxcvbn123456",
        ] {
            assert!(is_walk(walk.as_bytes()), "{walk}");
        }
        let bytes: Vec<u8> = (100..164).collect();
        assert!(is_walk(&bytes));
        for other in [
            "",
            "abc",
            "correct horse battery staple",
            "8f14e45fceea167a5a36dedd4bea2543",
        ] {
            assert!(!is_walk(other.as_bytes()), "{other}");
        }
    }
}
