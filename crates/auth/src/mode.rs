//! [`Mode`], which sets how strictly secrets are checked.

use std::fmt;
use std::str::FromStr;

use secretwell_core::{Error, ErrorKind};
use serde::{Deserialize, Serialize};

/// The environment variable that [`Mode::from_env`] reads.
const VARIABLE: &str = "SECRETWELL_MODE";

/// How strictly secrets are checked.
///
/// The mode is set in code or by the environment variable `SECRETWELL_MODE`. It does not depend on
/// the build profile or on the host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", try_from = "String")]
#[non_exhaustive]
pub enum Mode {
    /// Absent and weak secrets are errors. The default.
    #[default]
    Production,
    /// A weak secret is accepted with a warning in the log. An absent secret is replaced by a
    /// random placeholder, which stays the same until the process exits. The log names the key, but
    /// not the placeholder.
    Development,
}

impl Mode {
    /// Reads the mode from the environment variable `SECRETWELL_MODE`, which is `production` or
    /// `development`. Returns [`Mode::Production`] if it is unset or blank.
    ///
    /// # Errors
    /// Returns [`ErrorKind::InvalidConfig`] if the variable has any other value.
    pub fn from_env() -> Result<Self, Error> {
        match std::env::var_os(VARIABLE) {
            None => Ok(Self::default()),
            Some(text) => match text.to_str().map(str::trim) {
                Some("") => Ok(Self::default()),
                Some(text) => text.parse(),
                None => Err(unknown_mode()),
            },
        }
    }
}

impl FromStr for Mode {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text.to_ascii_lowercase().as_str() {
            "production" => Ok(Self::Production),
            "development" => Ok(Self::Development),
            _ => Err(unknown_mode()),
        }
    }
}

fn unknown_mode() -> Error {
    Error::new(ErrorKind::InvalidConfig, "unknown mode").with_hint(format!(
        "set the mode, or the variable {VARIABLE}, to `production` or `development`"
    ))
}

impl TryFrom<String> for Mode {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Production => "production",
            Self::Development => "development",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_names_of_the_modes_parse() {
        assert_eq!("Production".parse::<Mode>().unwrap(), Mode::Production);
        assert_eq!("development".parse::<Mode>().unwrap(), Mode::Development);
        assert_eq!(
            "dev".parse::<Mode>().unwrap_err().kind(),
            ErrorKind::InvalidConfig
        );
        assert_eq!(Mode::default(), Mode::Production);
    }
}
