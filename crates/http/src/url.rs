//! Percent-encoding and options of the URLs that configure a backend.

use std::borrow::Cow;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use secretwell_core::Error;

use crate::error::invalid;

/// The characters that are encoded in a path segment and in a query value: all except letters, digits
/// and RFC 3986's other unreserved characters.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// Percent-encodes each segment of a path and keeps the slashes between them. Leading and trailing
/// slashes are removed.
///
/// # Errors
/// Returns [`ErrorKind::InvalidConfig`](secretwell_core::ErrorKind::InvalidConfig) if a segment is empty,
/// is `.` or `..`, or contains a control character. A server would resolve such a path to another one.
pub fn encode_path(path: &str) -> Result<String, Error> {
    let path = path.trim_matches('/');
    let is_invalid =
        |segment: &str| matches!(segment, "" | "." | "..") || segment.contains(char::is_control);
    if path.split('/').any(is_invalid) {
        return Err(invalid(
            "a path must not have an empty segment, `.`, `..` or a control character",
        ));
    }
    let mut encoded = String::with_capacity(path.len());
    for (index, segment) in path.split('/').enumerate() {
        if index > 0 {
            encoded.push('/');
        }
        encoded.extend(utf8_percent_encode(segment, ENCODED));
    }
    Ok(encoded)
}

/// Percent-encodes a query value or one segment of a path.
pub fn encode(text: &str) -> String {
    utf8_percent_encode(text, ENCODED).to_string()
}

/// Decodes a percent-encoded text.
///
/// # Errors
/// Returns [`ErrorKind::InvalidConfig`](secretwell_core::ErrorKind::InvalidConfig) if the decoded text is
/// not UTF-8.
pub fn decode(text: &str) -> Result<String, Error> {
    percent_decode_str(text)
        .decode_utf8()
        .map(Cow::into_owned)
        .map_err(|_| invalid("the URL has a percent-encoded part that is not UTF-8"))
}

/// The options of a URL: the parameters after its `?`.
#[derive(Debug)]
pub struct UrlOptions(Vec<(String, String)>);

impl UrlOptions {
    /// Parses `query`, which can contain the options `known`. `credentials` lists options that are always
    /// rejected, each with the variable that should contain the credential instead.
    ///
    /// # Errors
    /// Returns [`ErrorKind::InvalidConfig`](secretwell_core::ErrorKind::InvalidConfig) if an option is
    /// unknown, is a credential, or occurs twice.
    pub fn parse(query: &str, known: &[&str], credentials: &[(&str, &str)]) -> Result<Self, Error> {
        let mut options: Vec<(String, String)> = Vec::new();
        for option in query.split('&').filter(|option| !option.is_empty()) {
            let (name, value) = option.split_once('=').unwrap_or((option, ""));
            let (name, value) = (decode(name)?, decode(value)?);
            if let Some((_, variable)) = credentials.iter().find(|(secret, _)| *secret == name) {
                return Err(
                    invalid("a URL must not contain credentials").with_hint(format!(
                        "store the credential in a file and set `{name}_file`, or set `{variable}`"
                    )),
                );
            }
            if !known.contains(&name.as_str()) {
                return Err(unknown_option(&name, known));
            }
            if options.iter().any(|(other, _)| *other == name) {
                return Err(invalid(format!("the URL has the option `{name}` twice")));
            }
            options.push((name, value));
        }
        Ok(Self(options))
    }

    /// Returns the value of an option, or `None` if the URL does not have it.
    pub fn get(&self, name: &str) -> Option<&str> {
        let (_, value) = self.0.iter().find(|(known, _)| known == name)?;
        Some(value)
    }

    /// Returns the value of an option that is either true or false, or `None` if the URL does not have it.
    ///
    /// # Errors
    /// Returns [`ErrorKind::InvalidConfig`](secretwell_core::ErrorKind::InvalidConfig) if the
    /// [value is neither](parse_flag).
    pub fn flag(&self, name: &str) -> Result<Option<bool>, Error> {
        self.get(name)
            .map(|text| parse_flag(name, text))
            .transpose()
    }

    /// Returns the value of a required option.
    ///
    /// # Errors
    /// Returns [`ErrorKind::InvalidConfig`](secretwell_core::ErrorKind::InvalidConfig) if the URL does not
    /// have it.
    pub fn required(&self, name: &str) -> Result<String, Error> {
        self.get(name).map(str::to_owned).ok_or_else(|| {
            invalid(format!("the login needs `{name}`"))
                .with_hint(format!("add `&{name}=…` to the URL"))
        })
    }
}

/// Parses the setting `name`, which is either true or false: `true`, `t` or `1`, or `false`, `f` or `0`, also with
/// capitals.
///
/// # Errors
/// Returns [`ErrorKind::InvalidConfig`](secretwell_core::ErrorKind::InvalidConfig) if `text` is something else.
pub fn parse_flag(name: &str, text: &str) -> Result<bool, Error> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(invalid(format!("`{name}` is neither true nor false"))
            .with_hint("set it to `true` or `false`, or unset it")),
    }
}

/// Returns the error for an option that does not exist. Names the nearest one that does.
fn unknown_option(name: &str, known: &[&str]) -> Error {
    let is_like_an_option =
        (1..=32).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    // Another text might be a secret, so the message omits it.
    if !is_like_an_option {
        return invalid("the URL has an unknown option")
            .with_hint(format!("the options are: {}", known.join(", ")));
    }
    let error = invalid(format!("the URL has the unknown option `{name}`"));
    let distance = |option: &&&str| match option.contains(name) || name.contains(**option) {
        true => 1,
        false => edit_distance(name, option),
    };
    match known.iter().min_by_key(distance) {
        Some(nearest) if distance(&nearest) <= 2 => {
            error.with_hint(format!("write `{nearest}` if you mean that option"))
        }
        _ => error.with_hint(format!("the options are: {}", known.join(", "))),
    }
}

/// Returns the number of characters to insert, remove or replace that turn one text into the other.
fn edit_distance(left: &str, right: &str) -> usize {
    let mut distances: Vec<usize> = (0..=right.chars().count()).collect();
    for (row, left) in left.chars().enumerate() {
        let mut diagonal = row;
        distances[0] = row + 1;
        for (column, right) in right.chars().enumerate() {
            let replaced = diagonal + usize::from(left != right);
            diagonal = distances[column + 1];
            distances[column + 1] = replaced.min(distances[column].min(diagonal) + 1);
        }
    }
    distances.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_option_is_named_with_the_nearest_one() {
        const KNOWN: &[&str] = &["auth", "namespace", "role", "secret_id_file"];
        for (option, expected) in [
            ("role_id=x", "unknown option `role_id`; write `role` if"),
            (
                "namspace=x",
                "unknown option `namspace`; write `namespace` if",
            ),
            (
                "secret_id=x",
                "unknown option `secret_id`; write `secret_id_file` if",
            ),
            (
                "color=x",
                "unknown option `color`; the options are: auth, namespace",
            ),
            ("hvs.CAESIJ", "has an unknown option; the options are: auth"),
        ] {
            let error = UrlOptions::parse(option, KNOWN, &[]).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
        }
        assert_eq!(edit_distance("kitten", "sitting"), 3);
        assert_eq!(edit_distance("", "abc"), 3);
    }

    #[test]
    fn paths_are_encoded_by_segment() {
        assert_eq!(
            encode_path("/app/my db+ä%/").unwrap(),
            "app/my%20db%2B%C3%A4%25"
        );
        for bad in ["", "/", "a//b", "a/../b", ".", "a\nb"] {
            assert!(encode_path(bad).is_err(), "{bad:?}");
        }
    }
}
