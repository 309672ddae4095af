//! [`User`]: the row of a user in the cookie cache.

use std::borrow::Cow;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::json::{Json, Members};
use super::object::Object;
use super::payload::{has_optional_text, has_valid_dates, is_id, is_text};
use crate::sessions::TokenError;
use crate::sessions::mismatch::mismatch;

/// A row that the package would accept. The package changes two columns when it reads a row: the e-mail address is in
/// lower case, and `emailVerified` is present.
pub(super) struct User<'a> {
    json: &'a str,
    columns: Object<'a>,
    /// The address in lower case.
    email: Cow<'a, str>,
    /// Whether the package changes nothing.
    is_unchanged: bool,
}

impl<'a> User<'a> {
    /// Parses a row, or returns `None` if the package would refuse it.
    pub(super) fn parse(json: &'a str) -> Option<Self> {
        let columns = Object::parse(json)?;
        let email = columns.text("email")?;
        let verified = columns.get("emailVerified");
        let is_valid = is_id(&columns.text("id")?)
            && is_text(&email)
            && is_text(&columns.text("name")?)
            && verified.is_none_or(|json| ["true", "false"].contains(&json.get()))
            && has_valid_dates(&columns)
            && has_optional_text(&columns, "image");
        let is_lower = |byte: u8| byte.is_ascii() && !byte.is_ascii_uppercase();
        let is_unchanged = verified.is_some() && email.bytes().all(is_lower);
        is_valid.then(|| Self {
            json,
            email: match is_unchanged {
                true => email,
                false => email.to_lowercase().into(),
            },
            columns,
            is_unchanged,
        })
    }

    /// Returns the columns for a new cache.
    pub(super) fn members(&self) -> Option<Members<'_>> {
        let mut members = Json::members(&self.columns)?;
        for (name, value) in &mut members {
            if *name == "email" {
                *value = Json::Text(Cow::Borrowed(&self.email));
            }
        }
        if self.columns.get("emailVerified").is_none() {
            members.push(("emailVerified", Json::Canonical("false")));
        }
        Some(members)
    }

    pub(super) fn deserialize<U: DeserializeOwned>(&self) -> Result<U, TokenError> {
        if self.is_unchanged
            && let Ok(user) = serde_json::from_str(self.json)
        {
            return Ok(user);
        }
        // A map has one value for each name, the last.
        let mut columns: Map<String, Value> =
            serde_json::from_str(self.json).map_err(|_| TokenError::Malformed)?;
        columns.insert("email".to_owned(), self.email.as_ref().into());
        let verified = columns.entry("emailVerified");
        verified.or_insert(Value::Bool(false));
        let user = Value::Object(columns);
        U::deserialize(&user).map_err(|_| {
            let mut error = mismatch::<U>(&user.to_string());
            error.field = error.field.map(|field| format!("user.{field}"));
            TokenError::Claims(error)
        })
    }
}
