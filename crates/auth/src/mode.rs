//! How strict to be.

use std::fmt;
use std::str::FromStr;

use secretwell_core::{Error, ErrorKind};
use serde::{Deserialize, Serialize};

/// The variable that [`Mode::from_env`] reads.
const VARIABLE: &str = "SECRETWELL_MODE";

/// How strict to be about secrets. Only ever said explicitly or by the variable `SECRETWELL_MODE`:
/// nothing is guessed from how the program was compiled or where it runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Mode {
    /// An absent or weak secret is refused. The default.
    #[default]
    Production,
    /// A weak secret is warned about, and an absent one is replaced by a random one that lasts as
    /// long as the process and is announced in the log.
    Development,
}

impl Mode {
    /// The mode that `SECRETWELL_MODE` says: `production` or `development`; [`Mode::Production`] when
    /// it is not set or blank.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`] when it says anything else.
    pub fn from_env() -> Result<Self, Error> {
        match std::env::var_os(VARIABLE) {
            None => Ok(Self::default()),
            Some(text) => match text.to_str().map(str::trim) {
                Some("") => Ok(Self::default()),
                Some(text) => text.parse(),
                None => Err(unknown()),
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
            _ => Err(unknown()),
        }
    }
}

fn unknown() -> Error {
    Error::new(ErrorKind::InvalidConfig, "an unknown mode").with_hint(format!(
        "write `production` or `development`, as the value of {VARIABLE} too"
    ))
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
    fn modes_parse_and_nothing_else_does() {
        assert_eq!("Production".parse::<Mode>().unwrap(), Mode::Production);
        assert_eq!("development".parse::<Mode>().unwrap(), Mode::Development);
        assert_eq!(
            "dev".parse::<Mode>().unwrap_err().kind(),
            ErrorKind::InvalidConfig
        );
        assert_eq!(Mode::default(), Mode::Production);
    }
}
