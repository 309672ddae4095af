//! References between secrets, such as `${NAME}` or `${environment.folder.NAME}`, in values that the server
//! has expanded.

use secretwell_core::SecretValue;
use zeroize::Zeroizing;

/// A part of a value that some version of the server replaces with the value of another secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reference<'a> {
    /// The text between the braces, without white space around it.
    pub(crate) name: &'a str,
    /// Whether only older servers replace such a reference: there is white space around the name, or the name
    /// has a character that newer servers do not accept.
    pub(crate) is_legacy: bool,
    /// Whether the name has such a character. The text is more likely code than a reference.
    pub(crate) is_unusual: bool,
    start: usize,
    end: usize,
}

/// Returns the references in a value.
///
/// Server versions differ in the characters that they allow in a name. The oldest ones allow every character
/// except `}`, so this function finds the references of all versions. The operators of a shell, such as that of
/// `${NAME:-default}`, are not part of a name.
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
            if !name.is_empty() && !has_shell_operator(name) {
                let is_unusual = is_unusual(name);
                return Some(Reference {
                    name,
                    is_legacy: is_unusual || name.len() != inner.len(),
                    is_unusual,
                    start,
                    end: end + 1,
                });
            }
        }
    })
}

fn has_shell_operator(name: &str) -> bool {
    [":-", ":?", ":=", ":+"]
        .iter()
        .any(|operator| name.contains(operator))
}

fn is_unusual(name: &str) -> bool {
    // Two colons occur in references to other projects.
    name.replace("::", "")
        .contains([':', '$', '{', '"', '\n', '\r'])
}

/// The meaning of a reference in an expanded value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// It is ordinary text.
    Text,
    /// It leads to an empty secret. Some servers leave such a reference as it is.
    Empty,
    Unresolved,
}

/// Returns a value in which the references to empty secrets are replaced with nothing. Returns `None` if there are
/// no such references.
///
/// # Errors
/// Returns the name of the first unresolved reference.
pub(crate) fn without_empty_references(
    text: &str,
    meaning: impl Fn(&Reference<'_>) -> Meaning,
) -> Result<Option<SecretValue>, &str> {
    if !text.contains("${") {
        return Ok(None);
    }
    // The result is at most as long as the text, so the buffer never grows and leaves no copy in freed memory.
    let mut result = Zeroizing::new(String::with_capacity(text.len()));
    let mut copied = 0;
    for reference in references(text) {
        match meaning(&reference) {
            Meaning::Text => {}
            Meaning::Unresolved => return Err(reference.name),
            Meaning::Empty => {
                result.push_str(&text[copied..reference.start]);
                copied = reference.end;
            }
        }
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
            ("v--${S:5}", &["S:5"]),
            ("${\"A\"}", &["\"A\""]),
            ("${A$1}${A{1}", &["A$1", "A{1"]),
            ("${A\nB}", &["A\nB"]),
        ] {
            assert_eq!(names(text), expected, "{text}");
        }
        let kinds = references("${ A }${B}${S:5}").map(|r| (r.is_legacy, r.is_unusual));
        let kinds: Vec<_> = kinds.collect();
        assert_eq!(kinds, [(true, false), (false, false), (true, true)]);
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
            "${A:=x}",
            "${A:+x}",
        ] {
            assert!(names(text).is_empty(), "{text}");
        }
    }

    #[test]
    fn only_references_to_empty_secrets_are_removed() {
        let resolve = |text: &'static str, legacy_is_text| {
            let meaning = |reference: &Reference<'_>| match reference.name {
                _ if reference.is_legacy && legacy_is_text => Meaning::Text,
                "EMPTY" => Meaning::Empty,
                _ => Meaning::Unresolved,
            };
            let result = without_empty_references(text, meaning);
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
