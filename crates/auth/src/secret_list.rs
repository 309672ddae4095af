//! Lists of secrets in one value, in the form of `BETTER_AUTH_SECRETS`: `2:newer,1:older`.

use std::fmt;

/// One entry of a list.
#[derive(Clone, Copy)]
pub(crate) struct ListEntry<'a> {
    pub(crate) version: u64,
    pub(crate) secret: &'a str,
}

/// The reason why a text is not a list of secrets. It contains no part of the text.
///
/// Positions count from 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ListError {
    NotUtf8,
    NoVersion { position: usize },
    InvalidVersion { position: usize },
    NoSecret { version: u64 },
    Duplicate { version: u64 },
}

/// Returns the entries of a list in their order.
///
/// The rules are those of Better Auth: commas separate the entries, and the first colon of an entry
/// separates its version from its secret. Both are trimmed. The version consists of the leading digits, also
/// after a sign. As in JavaScript, it is exact up to 2^53: a larger one is rounded, and the rounded number is
/// the version in the application's own data.
pub(crate) fn parse(list: &[u8]) -> Result<Vec<ListEntry<'_>>, ListError> {
    let list = std::str::from_utf8(list).map_err(|_| ListError::NotUtf8)?;
    let mut entries: Vec<ListEntry<'_>> = Vec::new();
    for (entry, position) in list.split(',').zip(1..) {
        let (version, secret) = entry
            .split_once(':')
            .ok_or(ListError::NoVersion { position })?;
        let version = parse_version(version).ok_or(ListError::InvalidVersion { position })?;
        let secret = secret.trim_matches(is_javascript_space);
        if secret.is_empty() {
            return Err(ListError::NoSecret { version });
        }
        if entries.iter().any(|entry| entry.version == version) {
            return Err(ListError::Duplicate { version });
        }
        entries.push(ListEntry { version, secret });
    }
    Ok(entries)
}

fn parse_version(text: &str) -> Option<u64> {
    /// 2^64, the first number that is too large.
    const LIMIT: f64 = 18_446_744_073_709_551_616.0;
    let text = text.trim_matches(is_javascript_space);
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let digits = unsigned.bytes().take_while(u8::is_ascii_digit).count();
    let version: f64 = unsigned[..digits].parse().ok()?;
    // `-0` is not negative.
    let is_valid = version < LIMIT && (version == 0.0 || !text.starts_with('-'));
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    is_valid.then_some(version as u64)
}

/// Returns whether `trim()` of JavaScript removes the character. The two programs must read the same secret.
fn is_javascript_space(character: char) -> bool {
    (character.is_whitespace() && character != '\u{85}') || character == '\u{feff}'
}

impl fmt::Display for ListError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotUtf8 => f.write_str("the list of secrets is not UTF-8"),
            Self::NoVersion { position } => {
                write!(f, "entry {position} of the list of secrets has no colon")
            }
            Self::InvalidVersion { position } => write!(
                f,
                "the version of entry {position} of the list of secrets is not a whole number"
            ),
            Self::NoSecret { version } => write!(f, "the secret of version {version} is empty"),
            Self::Duplicate { version } => {
                write!(f, "version {version} occurs twice in the list of secrets")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn list_is_read_like_the_package_reads_it() {
        for (list, expected) in [
            ("2:b,1:a", Ok(vec![(2, "b"), (1, "a")])),
            (" 2 : b ,\t1:a\n", Ok(vec![(2, "b"), (1, "a")])),
            ("1:left:right", Ok(vec![(1, "left:right")])),
            ("1.9:a,02:b,3abc:c", Ok(vec![(1, "a"), (2, "b"), (3, "c")])),
            ("+2:b,-0:a", Ok(vec![(2, "b"), (0, "a")])),
            ("9007199254740993:a", Ok(vec![(9_007_199_254_740_992, "a")])),
            (
                "18446744073709549568:a",
                Ok(vec![(18_446_744_073_709_549_568, "a")]),
            ),
            (
                "9007199254740993:b,9007199254740992:a",
                Err(ListError::Duplicate {
                    version: 9_007_199_254_740_992,
                }),
            ),
            (
                "18446744073709551615:a",
                Err(ListError::InvalidVersion { position: 1 }),
            ),
            ("+-1:a", Err(ListError::InvalidVersion { position: 1 })),
            ("+:a", Err(ListError::InvalidVersion { position: 1 })),
            ("1:\u{feff}a\u{a0}", Ok(vec![(1, "a")])),
            ("1:\u{85}a", Ok(vec![(1, "\u{85}a")])),
            ("1:a,", Err(ListError::NoVersion { position: 2 })),
            ("a", Err(ListError::NoVersion { position: 1 })),
            ("", Err(ListError::NoVersion { position: 1 })),
            ("2:b,v1:a", Err(ListError::InvalidVersion { position: 2 })),
            ("-1:a", Err(ListError::InvalidVersion { position: 1 })),
            (":a", Err(ListError::InvalidVersion { position: 1 })),
            (
                "99999999999999999999:a",
                Err(ListError::InvalidVersion { position: 1 }),
            ),
            ("2:b,1: ", Err(ListError::NoSecret { version: 1 })),
            ("1:a,01:b", Err(ListError::Duplicate { version: 1 })),
        ] {
            let entries = parse(list.as_bytes()).map(|entries| {
                let pairs = entries.iter().map(|entry| (entry.version, entry.secret));
                pairs.collect::<Vec<_>>()
            });
            assert_eq!(entries, expected, "{list:?}");
        }
        assert_eq!(parse(b"1:\xff").err(), Some(ListError::NotUtf8));
    }
}
