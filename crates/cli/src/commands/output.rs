//! The JSON documents of `check`, `list` and `doctor`. `docs/schemas` has their schemas.

use std::process::ExitCode;

use secretwell::backend::Notice;
use secretwell::{Error, ErrorKind, Secret, SecretProvider, Version};
use serde::Serialize;

use super::write_stdout;
use crate::exit::{Failure, Reason};
use crate::notices;
use crate::policies::with_advice_of_command;

/// The version of the documents. It changes if a field is removed or gets another meaning.
const SCHEMA: u8 = 1;

#[derive(Serialize)]
struct Document<'a, T> {
    schema: u8,
    exit_status: u8,
    #[serde(flatten)]
    body: &'a T,
}

/// Writes `body` as one JSON document, and returns the exit status.
pub(super) fn write_json(
    body: &impl Serialize,
    worst: Option<Reason>,
) -> Result<ExitCode, Failure> {
    let document = Document {
        schema: SCHEMA,
        exit_status: worst.map_or(0, Reason::code),
        body,
    };
    let text = serde_json::to_string_pretty(&document).map_err(|error| {
        Failure::new(
            Reason::Output,
            format!("the output cannot be written as JSON: {error}"),
        )
    })?;
    write_stdout(format!("{text}\n").as_bytes())?;
    Ok(worst.map_or(ExitCode::SUCCESS, Reason::status))
}

/// An error, without its cause.
#[derive(Debug, Serialize)]
pub(super) struct Problem {
    kind: ErrorKind,
    temporary: bool,
    key: Option<String>,
    origin: Option<String>,
    message: String,
    hint: Option<String>,
}

impl From<&Error> for Problem {
    fn from(error: &Error) -> Self {
        Self {
            kind: error.kind(),
            temporary: error.is_temporary(),
            key: error.key().map(ToString::to_string),
            origin: error.origin().map(ToString::to_string),
            message: error.message().to_owned(),
            hint: error.hint().map(with_advice_of_command),
        }
    }
}

/// A secret without its value.
#[derive(Debug, Serialize)]
pub(super) struct Listed {
    pub(super) key: String,
    pub(super) version: Option<String>,
    pub(super) origin: String,
}

impl Listed {
    pub(super) fn new(key: &str, secret: &Secret, provider: &dyn SecretProvider) -> Self {
        let origin = secret.origin.as_ref().unwrap_or(provider.origin());
        Self {
            key: key.to_owned(),
            version: shown_version(secret.version.as_ref()),
            origin: origin.to_string(),
        }
    }
}

/// Returns a version with a number. Other versions are only meaningful inside of this process.
pub(super) fn shown_version(version: Option<&Version>) -> Option<String> {
    let version = version.filter(|version| version.number().is_some());
    version.map(ToString::to_string)
}

/// A notice, with its severity.
#[derive(Debug, Serialize)]
pub(super) struct Noticed {
    status: &'static str,
    kind: secretwell::backend::NoticeKind,
    name: String,
    origin: String,
    message: String,
    hint: Option<String>,
}

impl Noticed {
    pub(super) fn new(
        notice: &Notice,
        status: &'static str,
        provider: &dyn SecretProvider,
    ) -> Self {
        Self {
            status,
            kind: notice.kind,
            name: notice.name.clone(),
            origin: notices::origin(notice, provider).to_string(),
            message: notice.message.to_string(),
            hint: notice.hint.as_ref().map(ToString::to_string),
        }
    }
}
