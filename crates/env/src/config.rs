//! The configuration of a provider.

use secretwell_core::{Error, ErrorKind};

#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) prefix: String,
    /// What joins the segments of a key.
    pub(crate) separator: String,
    /// The end of the names of variables that contain the path of a file.
    pub(crate) file_suffix: Option<String>,
    pub(crate) keep_empty: bool,
    pub(crate) accept_encrypted: bool,
    pub(crate) case: CaseRule,
}

/// Whether names that differ only in the case of ASCII letters are the same variable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CaseRule {
    Sensitive,
    Insensitive,
}

impl CaseRule {
    /// The rule of this platform.
    pub(crate) const NATIVE: Self = match cfg!(windows) {
        true => Self::Insensitive,
        false => Self::Sensitive,
    };

    pub(crate) fn is_equal(self, one: &str, other: &str) -> bool {
        match self {
            Self::Sensitive => one == other,
            Self::Insensitive => one.eq_ignore_ascii_case(other),
        }
    }

    /// Returns `name` without `prefix`, or `None` if it does not start with it.
    pub(crate) fn strip_prefix<'a>(self, name: &'a str, prefix: &str) -> Option<&'a str> {
        let (start, rest) = name.split_at_checked(prefix.len())?;
        self.is_equal(start, prefix).then_some(rest)
    }

    /// Returns `name` without `suffix`, or `None` if it does not end with it.
    pub(crate) fn strip_suffix<'a>(self, name: &'a str, suffix: &str) -> Option<&'a str> {
        let (rest, end) = name.split_at_checked(name.len().checked_sub(suffix.len())?)?;
        self.is_equal(end, suffix).then_some(rest)
    }
}

impl Config {
    pub(crate) fn new(prefix: String) -> Self {
        Self {
            prefix,
            separator: "_".to_owned(),
            file_suffix: None,
            keep_empty: false,
            accept_encrypted: false,
            case: CaseRule::NATIVE,
        }
    }

    /// Checks the settings that the builder methods accept as they are.
    pub(crate) fn check(&self) -> Result<(), Error> {
        if self.prefix.contains(['=', '\0']) {
            let message = "the prefix must not contain `=` or NUL, like the names of variables";
            return Err(Error::new(ErrorKind::InvalidConfig, message)
                .with_hint("use a prefix such as `APP_`"));
        }
        check_part("separator", &self.separator)?;
        self.file_suffix
            .as_deref()
            .map_or(Ok(()), |suffix| check_part("file_suffix", suffix))
    }
}

/// Returns whether `c` can be part of a name in the configuration of a provider.
pub(crate) fn is_name_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.')
}

fn check_part(field: &str, text: &str) -> Result<(), Error> {
    match !text.is_empty() && text.chars().all(is_name_char) {
        true => Ok(()),
        false => Err(Error::new(
            ErrorKind::InvalidConfig,
            format!("`{field}` must consist of ASCII letters, digits, `_`, `-` and `.`"),
        )
        .with_hint("use a text such as `__` or `_FILE`")),
    }
}
