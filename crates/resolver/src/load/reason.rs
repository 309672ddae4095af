//! The error of deserializing a value or a struct.

use std::fmt;

use secretwell_core::{Error, ErrorKind, KeyPrefix, SecretKey};
use serde::de;

/// The error of deserializing a value or a struct.
///
/// The formatted messages of serde and of `Deserialize` implementations are dropped, because they might
/// contain the value, as in "relative URL without a base: s3cr3t". Only texts that are fixed at compile
/// time are kept.
#[derive(Debug)]
pub(super) struct FieldError {
    pub(super) reason: Reason,
    pub(super) place: Option<Place>,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Reason {
    MissingField(&'static str),
    DuplicateField(&'static str),
    NotText,
    /// The value does not have this form.
    Expected(&'static str),
    /// The text begins like a JSON array, but it is not one.
    NotAList,
    /// The item at this position of a comma-separated list is empty. Positions are counted from 1.
    EmptyItem(usize),
    /// A list has another number of items than its type.
    Length {
        expected: usize,
        found: usize,
    },
    UnknownVariant(&'static [&'static str]),
    /// The value is only the name of a variant that has data.
    VariantWithData(&'static str),
    Rejected,
    /// The value is text that was rejected, and it has white space around it, which could be the reason.
    OuterWhiteSpace,
    /// A `Deserialize` implementation or another part of the user's type panicked.
    Panicked,
}

impl Reason {
    pub(super) const AN_OBJECT: Self =
        Self::Expected("a list, but a JSON object or a table of a document");
    pub(super) const NOT_AN_OBJECT: Self =
        Self::Expected("a JSON object, such as `{\"name\": \"value\"}`");
}

/// The secret or the struct that an error is about.
#[derive(Debug)]
pub(super) enum Place {
    Secret(SecretKey),
    Struct {
        prefix: KeyPrefix,
        type_name: &'static str,
    },
}

impl FieldError {
    /// Sets the place, unless the error already has one. The innermost place is set first.
    pub(super) fn with_place(mut self, place: impl FnOnce() -> Place) -> Self {
        self.place.get_or_insert_with(place);
        self
    }
}

impl From<Reason> for FieldError {
    fn from(reason: Reason) -> Self {
        Self {
            reason,
            place: None,
        }
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.reason {
            Reason::MissingField(name) => write!(f, "`{name}` is missing"),
            Reason::DuplicateField(name) => {
                write!(f, "`{name}` is set under two names; set only one of them")
            }
            Reason::NotText => f.write_str("the value is not UTF-8 text"),
            Reason::Expected(form) => write!(f, "the value is not {form}"),
            Reason::NotAList => f.write_str(
                "the value begins with `[` but is not a JSON array; write a JSON array, or items separated by commas",
            ),
            Reason::EmptyItem(position) => write!(
                f,
                "item {position} of the list is empty; remove the comma, or write a JSON array"
            ),
            Reason::Length { expected, found } => {
                write!(f, "the list has {found} items, but {expected} are required")
            }
            Reason::UnknownVariant(names) => {
                write!(f, "the value is not one of `{}`", names.join("`, `"))
            }
            Reason::VariantWithData(name) => write!(
                f,
                "the enum variant `{name}` has data; write it as the JSON object {{\"{name}\": …}}"
            ),
            Reason::Rejected => f.write_str("the value was not accepted"),
            Reason::OuterWhiteSpace => {
                f.write_str("the value was not accepted; remove the white space around it")
            }
            Reason::Panicked => f.write_str("the code that deserializes it panicked"),
        }
    }
}

impl std::error::Error for FieldError {}

impl From<FieldError> for Error {
    fn from(error: FieldError) -> Self {
        Self::new(ErrorKind::Invalid, error.to_string())
    }
}

impl de::Error for FieldError {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Reason::Rejected.into()
    }

    fn missing_field(field: &'static str) -> Self {
        Reason::MissingField(field).into()
    }

    fn duplicate_field(field: &'static str) -> Self {
        Reason::DuplicateField(field).into()
    }

    fn unknown_variant(_: &str, expected: &'static [&'static str]) -> Self {
        Reason::UnknownVariant(expected).into()
    }
}
