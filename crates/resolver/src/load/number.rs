//! Numbers in the notations of documents and programming languages.

use std::str::FromStr;

/// An integer of at most 128 bits.
pub(super) struct Integer {
    is_negative: bool,
    magnitude: u128,
}

impl Integer {
    /// Parses an integer such as `-12`, `+7`, `1_000`, `0xFF`, `0o17` or `0b101`.
    ///
    /// Leading zeros have no meaning: `0755` is 755.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (is_negative, digits) = split_sign(text);
        let (radix, digits) = match digits.get(..2) {
            Some("0x" | "0X") => (16, &digits[2..]),
            Some("0o" | "0O") => (8, &digits[2..]),
            Some("0b" | "0B") => (2, &digits[2..]),
            _ => (10, digits),
        };
        let mut magnitude = 0_u128;
        for digit in digits_of(digits, radix) {
            let digit = digit?.to_digit(radix)?;
            magnitude = magnitude
                .checked_mul(radix.into())?
                .checked_add(digit.into())?;
        }
        Some(Self {
            is_negative,
            magnitude,
        })
    }

    /// Returns the value in a signed type, if it fits.
    pub(super) fn signed<T: TryFrom<i128>>(&self) -> Option<T> {
        let value = match self.is_negative {
            true => 0_i128.checked_sub_unsigned(self.magnitude)?,
            false => self.magnitude.try_into().ok()?,
        };
        value.try_into().ok()
    }

    /// Returns the value in an unsigned type, if it fits.
    pub(super) fn unsigned<T: TryFrom<u128>>(&self) -> Option<T> {
        let fits = !self.is_negative || self.magnitude == 0;
        self.magnitude.try_into().ok().filter(|_| fits)
    }
}

/// Parses a decimal number such as `0.5`, `-1e-3` or `1_000.25`. Returns `None` if it is too large for the type.
pub(super) fn parse_float<T: FromStr + Into<f64> + Copy>(text: &str) -> Option<T> {
    let (_, digits) = split_sign(text);
    let mut plain = String::with_capacity(text.len());
    plain.push_str(&text[..text.len() - digits.len()]);
    let is_part = |c: char| c.is_ascii_digit() || matches!(c, '.' | 'e' | 'E' | '+' | '-');
    for c in digits_of(digits, 10) {
        plain.push(c.filter(|c| is_part(*c))?);
    }
    let number: T = plain.parse().ok()?;
    number.into().is_finite().then_some(number)
}

fn split_sign(text: &str) -> (bool, &str) {
    match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    }
}

/// Returns the characters without `_`. Yields `None` for a `_` that is not between two digits, and for a text without
/// characters.
fn digits_of(text: &str, radix: u32) -> impl Iterator<Item = Option<char>> {
    let is_digit =
        move |byte: Option<&u8>| byte.is_some_and(|byte| char::from(*byte).is_digit(radix));
    let is_misplaced = move |at: usize| {
        let bytes = text.as_bytes();
        !is_digit(at.checked_sub(1).and_then(|at| bytes.get(at))) || !is_digit(bytes.get(at + 1))
    };
    let missing = text.is_empty().then_some(None);
    let chars = text.char_indices().filter_map(move |(at, c)| match c {
        '_' if is_misplaced(at) => Some(None),
        '_' => None,
        c => Some(Some(c)),
    });
    missing.into_iter().chain(chars)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signed<T: TryFrom<i128>>(text: &str) -> Option<T> {
        Integer::parse(text)?.signed()
    }

    fn unsigned<T: TryFrom<u128>>(text: &str) -> Option<T> {
        Integer::parse(text)?.unsigned()
    }

    #[test]
    fn integers_have_the_notations_of_documents() {
        for (text, value) in [
            ("0", 0),
            ("-0", 0),
            ("+12", 12),
            ("-12", -12),
            ("1_000", 1000),
            ("1_0_0", 100),
            ("0755", 755),
            ("007", 7),
            ("0xFF", 255),
            ("-0xff", -255),
            ("0Xdead_beef", 0xdead_beef),
            ("0o17", 15),
            ("0b1010_1010", 170),
        ] {
            assert_eq!(signed::<i64>(text), Some(value), "{text}");
        }
        for text in [
            "", "+", "-", "--1", "+-1", "_1", "1_", "1__0", "0x", "0x_1", "0b2", "0o8", "0xG",
            "1.0", "1e3", "1 000", "1,000", "٣", "x", "é", "1é", "NaN", "0x-1",
        ] {
            assert!(Integer::parse(text).is_none(), "{text}");
        }
    }

    #[test]
    fn integers_have_the_limits_of_their_type() {
        assert_eq!(unsigned::<u8>("255"), Some(255));
        assert_eq!(unsigned::<u8>("256"), None);
        assert_eq!(unsigned::<u8>("-1"), None);
        assert_eq!(unsigned::<u8>("-0"), Some(0));
        assert_eq!(signed::<i8>("-128"), Some(-128));
        assert_eq!(signed::<i8>("128"), None);
        assert_eq!(signed::<i128>(&i128::MIN.to_string()), Some(i128::MIN));
        assert_eq!(signed::<i128>(&i128::MAX.to_string()), Some(i128::MAX));
        assert_eq!(
            signed::<i128>("170141183460469231731687303715884105728"),
            None
        );
        assert_eq!(
            signed::<i128>("-170141183460469231731687303715884105729"),
            None
        );
        assert_eq!(unsigned::<u128>(&u128::MAX.to_string()), Some(u128::MAX));
        assert_eq!(
            unsigned::<u128>("340282366920938463463374607431768211456"),
            None
        );
    }

    #[test]
    fn floats_are_finite_decimal_numbers() {
        for (text, value) in [
            ("0.5", 0.5),
            ("-0.5", -0.5),
            ("+1", 1.0),
            (".5", 0.5),
            ("5.", 5.0),
            ("1e3", 1000.0),
            ("1E-3", 0.001),
            ("1_000.2_5", 1000.25),
        ] {
            assert_eq!(parse_float::<f64>(text), Some(value), "{text}");
        }
        for text in [
            "",
            "NaN",
            "nan",
            "inf",
            "-inf",
            "+Infinity",
            ".inf",
            "1e400",
            "-1e400",
            "0x10",
            "1_.5",
            "_1",
            "1e_3",
            "1 ",
            "1f",
            "e",
            ".",
            "--1",
        ] {
            assert_eq!(parse_float::<f64>(text), None, "{text}");
        }
        assert_eq!(parse_float::<f32>("1e39"), None);
    }
}
