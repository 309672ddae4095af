//! The JSON object of every response, and errors about it.

use std::time::Duration;

use secretwell_core::{Error, ErrorKind};
use secretwell_http::{Response, parse_object};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

/// The JSON object around the data of every response.
#[derive(Deserialize, Default)]
pub(super) struct Envelope<'a> {
    #[serde(borrow, default)]
    pub(super) data: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) auth: Option<&'a RawValue>,
    #[serde(default)]
    pub(super) lease_id: String,
    #[serde(default)]
    pub(super) lease_duration: u64,
    #[serde(default)]
    pub(super) renewable: bool,
    #[serde(default)]
    warnings: Option<Vec<String>>,
    #[serde(default)]
    pub(super) errors: Option<Vec<String>>,
}

impl<'a> Envelope<'a> {
    /// Parses the envelope of an error. Returns an empty one if the body is empty or plain text.
    pub(super) fn of_error(response: &'a Response) -> Self {
        parse_object(&response.body).unwrap_or_default()
    }

    /// Parses the envelope of a successful response.
    pub(super) fn of(response: &'a Response) -> Result<Self, Error> {
        parse_object(&response.body)
            .ok_or_else(|| malformed("it is not the JSON of a Vault server"))
    }

    /// Returns the data of a successful response.
    pub(super) fn data_of(response: &'a Response) -> Result<&'a RawValue, Error> {
        let envelope = Self::of(response)?;
        envelope
            .data
            .ok_or_else(|| malformed("the data is missing"))
    }

    /// Returns whether one of the errors or warnings contains `text`.
    pub(super) fn mentions(&self, text: &str) -> bool {
        let errors = self.errors.iter().flatten();
        errors
            .chain(self.warnings.iter().flatten())
            .any(|line| line.contains(text))
    }

    /// Returns whether the server responded with an empty list of errors. With the status 404, this means
    /// that nothing exists at the path.
    pub(super) fn has_no_reason(&self) -> bool {
        self.errors.as_ref().is_some_and(Vec::is_empty)
    }

    /// Returns whether `text` is the only error.
    pub(super) fn says_only(&self, text: &str) -> bool {
        self.errors
            .as_deref()
            .is_some_and(|errors| errors == [text])
    }
}

/// Parses the data of a successful response. `what` is the error for data of another shape.
pub(super) fn parse_data<T: DeserializeOwned>(
    response: &Response,
    what: &'static str,
) -> Result<T, Error> {
    let data = Envelope::data_of(response)?;
    parse_object(data.get().as_bytes()).ok_or_else(|| malformed(what))
}

pub(super) fn malformed(what: &'static str) -> Error {
    Error::new(ErrorKind::Malformed, format!("unexpected response: {what}"))
        .with_hint("check that the address is that of a Vault or OpenBao server")
}

/// Returns the error for a response whose reason is not known. It means neither an absence nor a refusal, so
/// the request is sent again later.
pub(super) fn unexplained(response: &Response) -> Error {
    let status = response.status.as_u16();
    let message = format!("the server responded with status {status} for an unknown reason");
    Error::new(ErrorKind::Unavailable, message).with_hint("check the server's log")
}

/// Converts a lifetime in seconds. Zero means that there is no expiry.
pub(super) fn lifetime(seconds: u64) -> Option<Duration> {
    (seconds > 0).then(|| Duration::from_secs(seconds))
}
