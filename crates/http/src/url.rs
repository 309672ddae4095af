//! URLs that name a source: their escapes and their options.

use std::borrow::Cow;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use secretwell_core::Error;

use crate::config::invalid;

/// What stays as it is in a segment of a path and in a value of a query.
const KEPT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// A path as a server takes it: each segment escaped, the slashes kept.
///
/// # Errors
/// [`ErrorKind::InvalidConfig`](secretwell_core::ErrorKind::InvalidConfig): an empty segment, `.` or
/// `..`, or a control character, because servers would read another path.
pub fn encode_path(path: &str) -> Result<String, Error> {
    let path = path.trim_matches('/');
    let bad =
        |segment: &str| matches!(segment, "" | "." | "..") || segment.contains(char::is_control);
    if path.split('/').any(bad) {
        return Err(invalid(
            "a path has an empty segment, `.`, `..` or a control character",
        ));
    }
    let segments = path.split('/').map(encode);
    Ok(segments.collect::<Vec<_>>().join("/"))
}

/// A value of a query, or one segment of a path, escaped.
pub fn encode(text: &str) -> String {
    utf8_percent_encode(text, KEPT).to_string()
}

/// What an escaped text stands for.
///
/// # Errors
/// [`ErrorKind::InvalidConfig`](secretwell_core::ErrorKind::InvalidConfig): it is no UTF-8.
pub fn decode(text: &str) -> Result<String, Error> {
    percent_decode_str(text)
        .decode_utf8()
        .map(Cow::into_owned)
        .map_err(|_| invalid("the URL has an escape that is no UTF-8"))
}

/// The options of a URL: what stands behind its `?`.
#[derive(Debug)]
pub struct UrlOptions(Vec<(String, String)>);

impl UrlOptions {
    /// Parses a query of the options `known`. Those of `credentials` are refused, each with the
    /// variable that it belongs into.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`](secretwell_core::ErrorKind::InvalidConfig): an unknown option, one
    /// that stands twice, or a credential.
    pub fn parse(query: &str, known: &[&str], credentials: &[(&str, &str)]) -> Result<Self, Error> {
        let mut options: Vec<(String, String)> = Vec::new();
        for option in query.split('&').filter(|option| !option.is_empty()) {
            let (name, value) = option.split_once('=').unwrap_or((option, ""));
            let (name, value) = (decode(name)?, decode(value)?);
            if let Some((_, variable)) = credentials.iter().find(|(secret, _)| *secret == name) {
                return Err(
                    invalid("a URL must not hold credentials").with_hint(format!(
                        "put it into a file and name that by `{name}_file`, or into `{variable}`"
                    )),
                );
            }
            if !known.contains(&name.as_str()) {
                return Err(invalid("the URL has an option that there is none of")
                    .with_hint(format!("there are: {}", known.join(", "))));
            }
            if options.iter().any(|(other, _)| *other == name) {
                return Err(invalid(format!("the URL has the option `{name}` twice")));
            }
            options.push((name, value));
        }
        Ok(Self(options))
    }

    /// The value of an option, if it is there.
    pub fn get(&self, name: &str) -> Option<&str> {
        let (_, value) = self.0.iter().find(|(known, _)| known == name)?;
        Some(value)
    }

    /// The value of an option that must be there.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`](secretwell_core::ErrorKind::InvalidConfig): it is not.
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
    fn paths_are_escaped_by_segment() {
        assert_eq!(
            encode_path("/app/my db+ä%/").unwrap(),
            "app/my%20db%2B%C3%A4%25"
        );
        for bad in ["", "/", "a//b", "a/../b", ".", "a\nb"] {
            assert!(encode_path(bad).is_err(), "{bad:?}");
        }
    }
}
