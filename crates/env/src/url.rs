//! Creation of a provider from an `env://` URL.

use std::collections::HashSet;

use secretwell_core::{Error, ErrorKind};

use crate::config::is_name_char;
use crate::provider::EnvProvider;

const OPTIONS: &str =
    "use `keep_empty=true|false`, `file_suffix=_FILE`, `separator=__` or `encrypted=accept|refuse`";

impl EnvProvider {
    /// Creates a provider from a URL: `env://` for every variable, `env://APP_` for a prefix.
    ///
    /// Options follow a `?` and are joined by `&`, as in `env://APP_?file_suffix=_FILE&separator=__`:
    ///
    /// | option | builder method | default |
    /// | --- | --- | --- |
    /// | `keep_empty=true` | [`keep_empty`](Self::keep_empty) | `false` |
    /// | `file_suffix=_FILE` | [`file_suffix`](Self::file_suffix) | no files |
    /// | `separator=__` | [`separator`](Self::separator) | `_` |
    /// | `encrypted=accept` | [`accept_encrypted`](Self::accept_encrypted) | `refuse` |
    ///
    /// # Errors
    /// Returns [`ErrorKind::InvalidConfig`] if the URL has another scheme, if an option is not valid or is given twice, or if the prefix
    /// or a value contains anything but ASCII letters, digits, `_`, `-` and `.`. The error does not quote the URL.
    pub fn from_url(url: &str) -> Result<Self, Error> {
        let rest = url.strip_prefix("env://").ok_or_else(not_a_prefix)?;
        let (prefix, options) = rest.split_once('?').unwrap_or((rest, ""));
        if !prefix.chars().all(is_name_char) {
            return Err(not_a_prefix());
        }
        let mut provider = Self::with_prefix(prefix);
        let mut names = HashSet::new();
        for option in options.split('&').filter(|option| !option.is_empty()) {
            let name = option.split('=').next().unwrap_or_default();
            provider = provider.option(option)?;
            if !names.insert(name) {
                let message = format!("the option `{name}` is given twice");
                return Err(
                    Error::new(ErrorKind::InvalidConfig, message).with_hint("remove one of them")
                );
            }
        }
        Ok(provider)
    }

    fn option(self, option: &str) -> Result<Self, Error> {
        let is_name = |value: &str| !value.is_empty() && value.chars().all(is_name_char);
        let (name, value) = option.split_once('=').ok_or_else(unknown_option)?;
        Ok(match (name, value) {
            ("keep_empty", "true") => self.keep_empty(),
            ("encrypted", "accept") => self.accept_encrypted(),
            // The defaults.
            ("keep_empty", "false") | ("encrypted", "refuse") => self,
            ("file_suffix", suffix) if is_name(suffix) => self.file_suffix(suffix),
            ("separator", separator) if is_name(separator) => self.separator(separator),
            ("keep_empty" | "encrypted" | "file_suffix" | "separator", _) => {
                let message = format!("the value of the option `{name}` is not valid for `env://`");
                return Err(Error::new(ErrorKind::InvalidConfig, message).with_hint(OPTIONS));
            }
            _ => return Err(unknown_option()),
        })
    }
}

fn not_a_prefix() -> Error {
    Error::new(
        ErrorKind::InvalidConfig,
        "an `env://` URL can contain only a prefix of variable names, and options",
    )
    .with_hint("write it like `env://APP_` or `env://APP_?separator=__`")
}

fn unknown_option() -> Error {
    let message = "an option after the prefix is unknown or has no value";
    Error::new(ErrorKind::InvalidConfig, message).with_hint(OPTIONS)
}
