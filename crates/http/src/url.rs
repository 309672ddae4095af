//! Percent-encoding and options of the URLs that configure a backend.

use std::borrow::Cow;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use secretwell_core::Error;

use crate::config::invalid;

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
    let segments = path.split('/').map(encode);
    Ok(segments.collect::<Vec<_>>().join("/"))
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
            // The message omits the unknown name, because it might be a mistyped secret.
            if !known.contains(&name.as_str()) {
                return Err(invalid("the URL has an unknown option")
                    .with_hint(format!("the options are: {}", known.join(", "))));
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

#[cfg(test)]
mod tests {
    use super::*;

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
