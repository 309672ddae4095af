//! JSON objects whose values remain texts.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IntoDeserializer, MapAccess, Visitor};
use serde::forward_to_deserialize_any;
use serde_json::value::RawValue;

use super::date::parse_date;
use crate::sessions::text::has_escapes;

/// The number of members that most objects do not exceed.
const TYPICAL_MEMBERS: usize = 10;

/// The members of a JSON object, in their order. A value is parsed only if it is needed.
///
/// As in JavaScript, the last value of a name counts. Derived implementations of `Deserialize` reject duplicate names.
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

    /// Sets a value. As in JavaScript, it has the place of the first value of this name.
    fn set(&mut self, name: Cow<'a, str>, value: &'a RawValue) {
        match self.0.iter_mut().find(|(known, _)| *known == name) {
            Some((_, known)) => *known = value,
            None => self.0.push((name, value)),
        }
    }

    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &'a RawValue)> {
        self.0.iter().map(|(name, value)| (&**name, *value))
    }
}

/// The object as the input of a type of the user.
impl<'de> Deserializer<'de> for &'de Object<'_> {
    type Error = serde_json::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        let mut members = Members {
            remaining: self.0.iter(),
            value: None,
        };
        let value = visitor.visit_map(&mut members)?;
        match members.remaining.len() {
            0 => Ok(value),
            _ => Err(Error::custom("a member was not read")),
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
        unit_struct newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

/// The members that are not yet read. The types of serde are not usable: their map of members is also a sequence of
/// pairs, and a `RawValue` reads only the `1` of `1e+21` into a `u128`.
struct Members<'de, 'a> {
    remaining: std::slice::Iter<'de, (Cow<'a, str>, &'a RawValue)>,
    value: Option<&'de RawValue>,
}

impl<'de> MapAccess<'de> for Members<'de, '_> {
    type Error = serde_json::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Self::Error> {
        let Some((name, value)) = self.remaining.next() else {
            return Ok(None);
        };
        self.value = Some(value);
        seed.deserialize((**name).into_deserializer()).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(
        &mut self,
        seed: V,
    ) -> Result<V::Value, Self::Error> {
        let value = self.value.take();
        let value = value.ok_or_else(|| Error::custom("a value without a name was requested"))?;
        let mut deserializer = serde_json::Deserializer::from_str(value.get());
        let value = seed.deserialize(&mut deserializer)?;
        deserializer.end()?;
        Ok(value)
    }
}

/// Returns the text of a JSON string, or `None` for another value.
pub(super) fn string(json: &RawValue) -> Option<Cow<'_, str>> {
    let text = json.get().strip_prefix('"')?.strip_suffix('"')?;
    match has_escapes(text) {
        true => serde_json::from_str(json.get()).ok().map(Cow::Owned),
        false => Some(Cow::Borrowed(text)),
    }
}

/// The claims of a cache: the rows of the session and the user, and the others.
pub(super) struct ClaimTexts<'a> {
    pub(super) session: Option<Object<'a>>,
    pub(super) user: Option<Object<'a>>,
    pub(super) others: Object<'a>,
}

#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de> Deserialize<'de> for Object<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ObjectVisitor;

        impl<'de> Visitor<'de> for ObjectVisitor {
            type Value = Object<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Object<'de>, M::Error> {
                let mut object = Object(Vec::with_capacity(TYPICAL_MEMBERS));
                while let Some((Name(name), value)) = map.next_entry()? {
                    object.set(name, value);
                }
                Ok(object)
            }
        }

        deserializer.deserialize_map(ObjectVisitor)
    }
}

impl<'de> Deserialize<'de> for ClaimTexts<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ClaimsVisitor;

        impl<'de> Visitor<'de> for ClaimsVisitor {
            type Value = ClaimTexts<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of claims")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<ClaimTexts<'de>, M::Error> {
                let mut claims = ClaimTexts {
                    session: None,
                    user: None,
                    others: Object(Vec::with_capacity(TYPICAL_MEMBERS)),
                };
                while let Some(Name(name)) = map.next_key()? {
                    match &*name {
                        "session" => claims.session = Some(map.next_value()?),
                        "user" => claims.user = Some(map.next_value()?),
                        _ => claims.others.set(name, map.next_value()?),
                    }
                }
                Ok(claims)
            }
        }

        deserializer.deserialize_map(ClaimsVisitor)
    }
}

/// Returns a date or `None` if the row has no such column. Without result if the package would refuse the column.
pub(super) fn optional_date(row: &Object<'_>, name: &str) -> Option<Option<i64>> {
    match row.get(name) {
        Some(_) => row.date(name).map(Some),
        None => Some(None),
    }
}

/// Returns a text or `None` if the row has no such column. Without result if the package would refuse the column.
pub(super) fn optional_text<'a>(row: &Object<'a>, name: &str) -> Option<Option<Cow<'a, str>>> {
    match row.get(name) {
        Some(json) if json.get() != "null" => string(json).filter(|text| is_text(text)).map(Some),
        _ => Some(None),
    }
}

/// Returns whether `text` can identify a row. Two texts with different unpaired surrogates must not become one.
pub(super) fn is_id(text: &str) -> bool {
    is_text(text) && !text.contains('\u{fffd}')
}

/// Returns whether the package reads `text` as a text. It converts a text that looks like a date.
pub(super) fn is_text(text: &str) -> bool {
    parse_date(text).is_none()
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
