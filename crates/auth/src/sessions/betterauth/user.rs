//! [`User`]: the row of a user in the cookie cache.

use std::borrow::Cow;

use serde::de::DeserializeOwned;

use super::json::{Json, Members, write_string};
use super::object::{Object, is_id, is_text, optional_date, optional_text};
use crate::sessions::TokenError;
use crate::sessions::mismatch::mismatch;
use crate::sessions::text::{WipedBytes, WipedText};

/// A row that the package would accept. The package changes two columns when it reads a row: the e-mail address is in
/// lower case, and `emailVerified` is present.
pub(super) struct User<'a> {
    columns: Object<'a>,
    /// The address in lower case.
    email: Cow<'a, str>,
    /// Whether the package changes nothing.
    is_unchanged: bool,
}

impl<'a> User<'a> {
    /// Checks a row. Returns `None` if the package would refuse it.
    pub(super) fn new(columns: Object<'a>) -> Option<Self> {
        let email = columns.text("email")?;
        let verified = columns.get("emailVerified");
        let is_valid = is_id(&columns.text("id")?)
            && is_text(&email)
            && is_text(&columns.text("name")?)
            && verified.is_none_or(|json| ["true", "false"].contains(&json.get()))
            && optional_date(&columns, "createdAt").is_some()
            && optional_date(&columns, "updatedAt").is_some()
            && optional_text(&columns, "image").is_some();
        let is_lower = email
            .bytes()
            .all(|byte| byte.is_ascii() && !byte.is_ascii_uppercase());
        is_valid.then(|| Self {
            is_unchanged: is_lower && verified.is_some(),
            email: match is_lower {
                true => email,
                false => email.to_lowercase().into(),
            },
            columns,
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
            && let Ok(user) = U::deserialize(&self.columns)
        {
            return Ok(user);
        }
        // Some types cannot be deserialized from single members.
        let json = self.to_json().ok_or(TokenError::Malformed)?;
        serde_json::from_str(&json).map_err(|_| {
            let mut error = mismatch::<U>(&json);
            error.field = error.field.map(|field| format!("user.{field}"));
            TokenError::Claims(error)
        })
    }

    /// Returns the columns as the package reads them. Other columns keep their text.
    fn to_json(&self) -> Option<WipedText> {
        let mut json = WipedBytes::for_claims();
        for (name, value) in self.columns.iter() {
            json += if json.is_empty() { "{" } else { "," };
            write_string(name, &mut json);
            json += ":";
            match name {
                "email" => write_string(&self.email, &mut json),
                _ => json += value.get(),
            }
        }
        if self.columns.get("emailVerified").is_none() {
            json += r#","emailVerified":false"#;
        }
        json += "}";
        json.into_text()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use serde::Deserialize;
    use serde_json::{Map, Value, json};

    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    struct Ada {
        id: String,
        email: String,
        #[serde(flatten)]
        further: HashMap<String, Value>,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    struct Wrapped(Ada);

    /// With and without a column that the package changes, and with a name that occurs twice.
    #[test]
    fn user_is_read_into_types_of_all_kinds() {
        for json in [
            r#"{"id":"1","email":"ada@example.test","name":"Ada","emailVerified":false,"n":[1.5,{"a":null}]}"#,
            r#"{"id":"1","email":"Ada@Example.Test","name":"Ada","emailVerified":false,"n":[1.5,{"a":null}]}"#,
            r#"{"id":"1","email":"ada@example.test","name":"Ada","n":[1.5,{"a":null}]}"#,
            r#"{"id":"0","email":"ada@example.test","name":"Ada","emailVerified":false,"n":[1.5,{"a":null}],"id":"1"}"#,
        ] {
            let user = User::new(Object::parse(json).unwrap()).unwrap();
            let further = json!({"name": "Ada", "emailVerified": false, "n": [1.5, {"a": null}]});
            let ada = || Ada {
                id: "1".to_owned(),
                email: "ada@example.test".to_owned(),
                further: Map::deserialize(&further).unwrap().into_iter().collect(),
            };
            assert_eq!(user.deserialize(), Ok(ada()), "{json}");
            assert_eq!(user.deserialize(), Ok(Wrapped(ada())), "{json}");
            assert_eq!(user.deserialize(), Ok(Some(ada())), "{json}");
            let value: Value = user.deserialize().unwrap();
            assert_eq!(Ada::deserialize(value).unwrap(), ada(), "{json}");
        }
    }

    #[test]
    fn number_with_an_exponent_or_a_fraction_is_not_truncated() {
        #[derive(Debug, Deserialize)]
        struct Balance {
            balance: u128,
        }

        for (number, expected) in [
            ("1e+21", None),
            ("1.5", None),
            ("1", Some(1)),
            ("18446744073709552000", Some(18_446_744_073_709_552_000)),
        ] {
            let json = format!(
                r#"{{"id":"1","email":"ada@example.test","name":"Ada","emailVerified":false,"balance":{number}}}"#
            );
            let user = User::new(Object::parse(&json).unwrap()).unwrap();
            let balance = user.deserialize().map(|Balance { balance }| balance);
            assert_eq!(balance.ok(), expected, "{number}");
        }
    }

    #[test]
    fn user_is_not_a_sequence() {
        for json in [
            r#"{"id":"1","email":"ada@example.test","name":"Ada","emailVerified":false}"#,
            r#"{"id":"1","email":"Ada@Example.Test","name":"Ada","emailVerified":false}"#,
        ] {
            let user = User::new(Object::parse(json).unwrap()).unwrap();
            assert!(
                user.deserialize::<Vec<(String, Value)>>().is_err(),
                "{json}"
            );
            assert!(
                user.deserialize::<[(String, Value); 4]>().is_err(),
                "{json}"
            );
        }
    }
}
