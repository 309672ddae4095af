//! JSON objects whose values remain texts.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::date::parse_date;

/// The members of a JSON object, in their order. A value is parsed only if it is needed.
///
/// As in JavaScript, the last value of a name counts.
pub(super) struct Object<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'a> Object<'a> {
    pub(super) fn parse(json: &'a str) -> Option<Self> {
        serde_json::from_str(json).ok()
    }

    pub(super) fn get(&self, name: &str) -> Option<&'a RawValue> {
        let (_, value) = self.0.iter().find(|(known, _)| known == name)?;
        Some(value)
    }

    /// Returns a value that is a string.
    pub(super) fn text(&self, name: &str) -> Option<Cow<'a, str>> {
        string(self.get(name)?)
    }

    /// Returns a string that the package reads as a date, in milliseconds since 1970.
    pub(super) fn date(&self, name: &str) -> Option<i64> {
        parse_date(&self.text(name)?)
    }

    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &'a RawValue)> {
        self.0.iter().map(|(name, value)| (&**name, *value))
    }
}

/// Returns the text of a JSON string, or `None` for another value.
pub(super) fn string(json: &RawValue) -> Option<Cow<'_, str>> {
    let text = json.get().strip_prefix('"')?.strip_suffix('"')?;
    match text.contains('\\') {
        true => serde_json::from_str(json.get()).ok().map(Cow::Owned),
        false => Some(Cow::Borrowed(text)),
    }
}

/// Implemented by hand, because derived implementations reject duplicate names.
impl<'de> Deserialize<'de> for Object<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

        struct ObjectVisitor;

        impl<'de> Visitor<'de> for ObjectVisitor {
            type Value = Object<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Object<'de>, M::Error> {
                // Rows of the tables have about this number of columns.
                let mut members: Vec<(Cow<'de, str>, &RawValue)> = Vec::with_capacity(10);
                while let Some((Name(name), value)) = map.next_entry()? {
                    match members.iter_mut().find(|(known, _)| *known == name) {
                        Some((_, known)) => *known = value,
                        None => members.push((name, value)),
                    }
                }
                Ok(Object(members))
            }
        }

        deserializer.deserialize_map(ObjectVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_value_of_a_name_counts_in_the_first_place() {
        let object = Object::parse(r#"{"a":1,"b": [2, {"a":3}] ,"\u0061":"4\n"}"#).unwrap();
        let members: Vec<_> = object
            .iter()
            .map(|(name, json)| (name, json.get()))
            .collect();
        assert_eq!(members, [("a", r#""4\n""#), ("b", r#"[2, {"a":3}]"#)]);
        assert_eq!(object.text("a").as_deref(), Some("4\n"));
        assert_eq!(object.text("b"), None);
        assert!(object.get("c").is_none());
    }

    #[test]
    fn other_values_and_invalid_json_are_no_objects() {
        for json in [
            "",
            "null",
            "[]",
            r#""a""#,
            r#"{"a":1"#,
            r#"{"a":}"#,
            "{} {}",
            "{a:1}",
        ] {
            assert!(Object::parse(json).is_none(), "{json}");
        }
    }
}
