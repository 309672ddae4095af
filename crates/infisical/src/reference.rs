//! References between secrets, such as `${NAME}` or `${environment.folder.NAME}`, in values that the server
//! has expanded.

use secretwell_core::SecretValue;
use zeroize::Zeroizing;

/// A part of a value that some version of the server replaces with the value of another secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reference<'a> {
    /// The text between the braces, without white space around it.
    pub(crate) name: &'a str,
    /// Whether there is white space around the name. Newer servers do not replace such a reference.
    pub(crate) is_padded: bool,
    start: usize,
    end: usize,
}

/// Returns the references in a value.
///
/// Server versions differ in the characters that they allow in a name. The oldest ones allow every character
/// except `}`, so this function finds the references of all versions. Text that cannot name a secret, such as
/// `${NAME:-default}`, is not a reference.
pub(crate) fn references(text: &str) -> impl Iterator<Item = Reference<'_>> {
    let mut position = 0;
    std::iter::from_fn(move || {
        loop {
            let open = position + text[position..].find("${")?;
            let end = open + text[open..].find('}')?;
            position = end + 1;
            // The innermost braces enclose the name.
            let start = open + text[open..end].rfind("${")?;
            let inner = &text[start + 2..end];
            let name = inner.trim();
            if can_be_name(name) {
                return Some(Reference {
                    name,
                    is_padded: name.len() != inner.len(),
                    start,
                    end: end + 1,
                });
            }
        }
    })
}

fn can_be_name(name: &str) -> bool {
    // Two colons occur in references to other projects.
    let has_single_colon = name.replace("::", "").contains(':');
    !name.is_empty() && !has_single_colon && !name.contains(['$', '{', '"', '\n', '\r'])
}

/// Returns a value in which the references to empty secrets are replaced with nothing, because some servers
/// leave them as they are. Returns `None` if there are no such references. `is_empty` returns whether a name
/// is that of an empty secret. With `padded_is_literal`, padded references are ordinary text.
///
/// # Errors
/// Returns the name of the first other reference.
pub(crate) fn without_empty_references(
    text: &str,
    padded_is_literal: bool,
    is_empty: impl Fn(&str) -> bool,
) -> Result<Option<SecretValue>, &str> {
    if !text.contains("${") {
        return Ok(None);
    }
    // The result is at most as long as the text, so the buffer never grows and leaves no copy behind.
    let mut result = Zeroizing::new(String::with_capacity(text.len()));
    let mut copied = 0;
    for reference in references(text) {
        if reference.is_padded && padded_is_literal {
            continue;
        }
        if !is_empty(reference.name) {
            return Err(reference.name);
        }
        result.push_str(&text[copied..reference.start]);
        copied = reference.end;
    }
    if copied == 0 {
        return Ok(None);
    }
    result.push_str(&text[copied..]);
    Ok(Some(SecretValue::from(result.as_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<&str> {
        references(text).map(|reference| reference.name).collect()
    }

    #[test]
    fn references_with_any_character_are_found() {
        for (text, expected) in [
            ("v--${S 05}", &["S 05"][..]),
            ("${A}${B}", &["A", "B"]),
            ("${prod.auth.X}", &["prod.auth.X"]),
            (
                "${@other-project.prod.db.PASSWORD}",
                &["@other-project.prod.db.PASSWORD"],
            ),
            ("${other::prod.X}", &["other::prod.X"]),
            ("${ü/ñ}", &["ü/ñ"]),
            ("${ KEY }", &["KEY"]),
            ("${A${B}", &["B"]),
            ("${A:-${B}}", &["B"]),
            ("$${A}", &["A"]),
        ] {
            assert_eq!(names(text), expected, "{text}");
        }
        let padded: Vec<_> = references("${ A }${B}").map(|r| r.is_padded).collect();
        assert_eq!(padded, [true, false]);
    }

    #[test]
    fn text_that_cannot_name_a_secret_is_not_a_reference() {
        for text in [
            "",
            "$",
            "${",
            "${}",
            "${  }",
            "}",
            "${A",
            "$A",
            "$(A)",
            "{A}",
            "${A:-default}",
            "${A:?required}",
            "${\"A\"}",
            "${\nA\nB}",
        ] {
            assert!(names(text).is_empty(), "{text}");
        }
    }

    #[test]
    fn only_references_to_empty_secrets_are_removed() {
        let resolve = |text: &'static str, padded_is_literal| {
            let result = without_empty_references(text, padded_is_literal, |name| name == "EMPTY");
            let to_text = |value: SecretValue| value.expose_text().unwrap().to_owned();
            result.map(|value| value.map(to_text))
        };
        assert_eq!(resolve("[${EMPTY}]", false), Ok(Some("[]".into())));
        assert_eq!(resolve("${EMPTY}a${EMPTY}", false), Ok(Some("a".into())));
        assert_eq!(resolve("plain", false), Ok(None));
        assert_eq!(resolve("${EMPTY}${A}", false), Err("A"));
        assert_eq!(resolve("${ A }", false), Err("A"));
        assert_eq!(resolve("${ A }", true), Ok(None));
        assert_eq!(resolve("${ A }${EMPTY}", true), Ok(Some("${ A }".into())));
    }
}
