//! Finds out which claim does not fit a type, without quoting any value.
//!
//! The messages of `serde_json` contain values. Here, a second deserialization with an own error type
//! collects the names and expectations only. It runs only after the first one has failed.

use std::fmt;

use serde::de::value::StrDeserializer;
use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, Expected, IntoDeserializer,
    MapAccess, SeqAccess, Unexpected, VariantAccess, Visitor,
};
use serde::forward_to_deserialize_any;
use serde_json::{Map, Value};

use super::error::ClaimsError;

/// Texts of this length and longer are never part of an error.
const MIN_QUOTED: usize = 3;

/// The name by which [`serde_json::value::RawValue`] recognizes its own deserializers.
const RAW_VALUE: &str = "$serde_json::private::RawValue";

/// Returns why `claims`, the JSON text of an object, cannot be deserialized into `C`.
#[cold]
pub(super) fn mismatch<C: DeserializeOwned>(claims: &str) -> ClaimsError {
    let unknown = || ClaimsError {
        field: None,
        problem: "the type refuses them".to_owned(),
    };
    let Ok(claims) = serde_json::from_str::<Value>(claims) else {
        return ClaimsError {
            field: None,
            problem: "a number is too large, or they are nested too deeply".to_owned(),
        };
    };
    let root = Claim {
        value: &claims,
        depth: 0,
    };
    match C::deserialize(root) {
        // The types differ in a way that only the text shows, such as a repeated name.
        Ok(_) => unknown(),
        Err(mismatch) => mismatch.describe(&claims),
    }
}

/// Why a claim does not fit.
#[derive(Debug)]
struct Mismatch {
    /// The path to the claim. The last segment is the first.
    path: Vec<Segment>,
    problem: String,
    /// The value that was refused. It is compared, and never part of the description.
    refused: Option<Value>,
}

#[derive(Debug)]
enum Segment {
    Name(String),
    Index(usize),
    /// The key of a map, which is data.
    Key,
    /// A name that the type does not have. It is data, unless it is the name of a claim.
    Unknown(String),
}

impl Mismatch {
    fn new(problem: impl Into<String>) -> Self {
        Self {
            path: Vec::new(),
            problem: problem.into(),
            refused: None,
        }
    }

    fn refusing(mut self, refused: Option<Value>) -> Self {
        self.refused = refused;
        self
    }

    fn within(mut self, segment: Segment) -> Self {
        self.path.push(segment);
        self
    }

    fn describe(self, claims: &Value) -> ClaimsError {
        let problem = match quotes(claims, &self.problem) {
            true => "it has another type or value".to_owned(),
            false => self.problem,
        };
        let is_outermost = self.path.len() == 1;
        let path = self.path.iter().rev();
        let path = path.fold(String::new(), |path, segment| {
            let name = match segment {
                Segment::Index(index) => return format!("{path}[{index}]"),
                Segment::Name(name) => name.as_str(),
                Segment::Unknown(name) if is_outermost => name.as_str(),
                Segment::Key | Segment::Unknown(_) => "*",
            };
            let separator = if path.is_empty() { "" } else { "." };
            format!("{path}{separator}{name}")
        });
        // Flattened fields are deserialized from a copy, so their path is not known.
        let by_value = || only_claim_with(claims.as_object()?, self.refused.as_ref()?);
        let field = Some(path).filter(|path| !path.is_empty());
        ClaimsError {
            field: field.or_else(by_value),
            problem,
        }
    }
}

/// Returns the name of the claim with `value`, if there is only one.
fn only_claim_with(claims: &Map<String, Value>, value: &Value) -> Option<String> {
    let mut equal = claims.iter().filter(|(_, claim)| *claim == value);
    let (name, _) = equal.next()?;
    equal.next().is_none().then(|| name.clone())
}

/// Returns whether `text` quotes a text of `claims`. A `Deserialize` of a user can put one into the
/// description of what it expects.
fn quotes(claims: &Value, text: &str) -> bool {
    match claims {
        Value::String(claim) => claim.len() >= MIN_QUOTED && text.contains(claim.as_str()),
        Value::Number(claim) => {
            let digits = claim.to_string();
            digits.len() >= MIN_QUOTED && text.contains(&digits)
        }
        Value::Array(claims) => claims.iter().any(|claim| quotes(claim, text)),
        Value::Object(claims) => claims.values().any(|claim| quotes(claim, text)),
        Value::Null | Value::Bool(_) => false,
    }
}

/// Describes the kind of a value. The text of [`Unexpected::Other`] might quote it.
fn kind(found: &Unexpected<'_>) -> &'static str {
    match found {
        Unexpected::Bool(_) => "a boolean",
        Unexpected::Unsigned(_) | Unexpected::Signed(_) => "an integer",
        Unexpected::Float(_) => "a floating-point number",
        Unexpected::Char(_) | Unexpected::Str(_) => "a string",
        Unexpected::Unit | Unexpected::Option => "null",
        Unexpected::Seq => "an array",
        Unexpected::Map => "an object",
        _ => "another kind of value",
    }
}

fn refused(found: &Unexpected<'_>) -> Option<Value> {
    match *found {
        Unexpected::Bool(value) => Some(value.into()),
        Unexpected::Unsigned(value) => Some(value.into()),
        Unexpected::Signed(value) => Some(value.into()),
        Unexpected::Float(value) => Some(value.into()),
        Unexpected::Str(value) => Some(value.into()),
        Unexpected::Unit => Some(Value::Null),
        _ => None,
    }
}

impl de::Error for Mismatch {
    fn custom<T: fmt::Display>(message: T) -> Self {
        // A message can quote the value.
        let is_untagged = message
            .to_string()
            .starts_with("data did not match any variant");
        Self::new(match is_untagged {
            true => "it matches no variant of the enum",
            false => "the type refuses its value",
        })
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        let problem = format!("expected {expected}, found {}", kind(&found));
        Self::new(problem).refusing(refused(&found))
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        let problem = format!(
            "expected {expected}, found {} that is not one",
            kind(&found)
        );
        Self::new(problem).refusing(refused(&found))
    }

    fn invalid_length(_: usize, expected: &dyn Expected) -> Self {
        Self::new(format!("expected {expected}, found another length"))
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        let problem = format!("expected one of {}", list(expected));
        Self::new(problem).refusing(Some(variant.into()))
    }

    fn unknown_field(field: &str, _: &'static [&'static str]) -> Self {
        Self::new("the type does not have it").within(Segment::Unknown(field.to_owned()))
    }

    fn missing_field(field: &'static str) -> Self {
        Self::new("it is missing").within(Segment::Name(field.to_owned()))
    }

    fn duplicate_field(field: &'static str) -> Self {
        Self::new("it is repeated").within(Segment::Name(field.to_owned()))
    }
}

fn list(names: &[&str]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    quoted.join(", ")
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.problem)
    }
}

impl std::error::Error for Mismatch {}

/// Deserializer of one value of the claims.
#[derive(Clone, Copy)]
struct Claim<'de> {
    value: &'de Value,
    /// 0 for the object of all claims.
    depth: usize,
}

impl<'de> Claim<'de> {
    fn inner(self, value: &'de Value) -> Self {
        Self {
            value,
            depth: self.depth + 1,
        }
    }

    fn visit<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Mismatch> {
        match self.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Number(value) => match (value.as_u64(), value.as_i64()) {
                (Some(value), _) => visitor.visit_u64(value),
                (_, Some(value)) => visitor.visit_i64(value),
                (None, None) => visitor.visit_f64(value.as_f64().unwrap_or(f64::NAN)),
            },
            Value::String(value) => visitor.visit_borrowed_str(value),
            Value::Array(values) => visitor.visit_seq(Items {
                array: self,
                values: values.iter().enumerate(),
            }),
            Value::Object(values) => visitor.visit_map(Fields {
                object: self,
                fields,
                values: values.iter(),
                current: None,
            }),
        }
    }
}

impl<'de> Deserializer<'de> for Claim<'de> {
    type Error = Mismatch;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        self.visit(&[], visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Mismatch> {
        self.visit(fields, visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        match self.value {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Mismatch> {
        match name {
            // Only a deserializer of `serde_json` knows how to create a `RawValue`.
            RAW_VALUE => {
                let raw = self.value.deserialize_newtype_struct(name, visitor);
                raw.map_err(de::Error::custom)
            }
            _ => visitor.visit_newtype_struct(self),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Mismatch> {
        let (name, content) = match self.value {
            Value::String(name) => (name, None),
            Value::Object(variants) if variants.len() == 1 => {
                let variant = variants.iter().next();
                let (name, content) = variant.ok_or_else(|| Mismatch::new("it is empty"))?;
                (name, Some(self.inner(content)))
            }
            _ => return Err(Mismatch::new("expected a variant of an enum")),
        };
        visitor.visit_enum(Variant { name, content })
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit
        unit_struct seq tuple tuple_struct map identifier
    }
}

struct Items<'de, I> {
    array: Claim<'de>,
    values: I,
}

impl<'de, I: Iterator<Item = (usize, &'de Value)>> SeqAccess<'de> for Items<'de, I> {
    type Error = Mismatch;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Mismatch> {
        let Some((index, value)) = self.values.next() else {
            return Ok(None);
        };
        let item = seed.deserialize(self.array.inner(value));
        item.map(Some)
            .map_err(|mismatch| mismatch.within(Segment::Index(index)))
    }
}

struct Fields<'de, I> {
    object: Claim<'de>,
    /// The fields of the struct, or nothing for a map or a struct with flattened fields.
    fields: &'static [&'static str],
    values: I,
    current: Option<(&'de str, &'de Value)>,
}

impl<'de, I: Iterator<Item = (&'de String, &'de Value)>> MapAccess<'de> for Fields<'de, I> {
    type Error = Mismatch;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Mismatch> {
        self.current = self.values.next().map(|(key, value)| (&**key, value));
        let Some((key, _)) = self.current else {
            return Ok(None);
        };
        seed.deserialize(Key(key)).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Mismatch> {
        let Some((key, value)) = self.current.take() else {
            return Err(Mismatch::new("a value without a name was requested"));
        };
        let is_name = self.object.depth == 0 || self.fields.contains(&key);
        let segment = || match is_name {
            true => Segment::Name(key.to_owned()),
            false => Segment::Key,
        };
        let value = seed.deserialize(self.object.inner(value));
        value.map_err(|mismatch| mismatch.within(segment()))
    }
}

/// Deserializer of a name in an object. A map can have numbers as keys.
struct Key<'de>(&'de str);

macro_rules! numbers {
    ($($function:ident $number:ident $visit:ident)*) => {$(
        fn $function<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
            match self.0.parse::<$number>() {
                Ok(number) => visitor.$visit(number),
                Err(_) => visitor.visit_borrowed_str(self.0),
            }
        }
    )*};
}

impl<'de> Deserializer<'de> for Key<'de> {
    type Error = Mismatch;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        visitor.visit_borrowed_str(self.0)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Mismatch> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Mismatch> {
        visitor.visit_enum(Variant {
            name: self.0,
            content: None,
        })
    }

    numbers! {
        deserialize_bool bool visit_bool
        deserialize_i8 i8 visit_i8
        deserialize_i16 i16 visit_i16
        deserialize_i32 i32 visit_i32
        deserialize_i64 i64 visit_i64
        deserialize_i128 i128 visit_i128
        deserialize_u8 u8 visit_u8
        deserialize_u16 u16 visit_u16
        deserialize_u32 u32 visit_u32
        deserialize_u64 u64 visit_u64
        deserialize_u128 u128 visit_u128
        deserialize_f32 f32 visit_f32
        deserialize_f64 f64 visit_f64
    }

    forward_to_deserialize_any! {
        char str string bytes byte_buf unit unit_struct seq tuple tuple_struct map struct identifier
        ignored_any
    }
}

struct Variant<'de> {
    name: &'de str,
    content: Option<Claim<'de>>,
}

impl<'de> EnumAccess<'de> for Variant<'de> {
    type Error = Mismatch;
    type Variant = Content<'de>;

    fn variant_seed<V: DeserializeSeed<'de>>(
        self,
        seed: V,
    ) -> Result<(V::Value, Content<'de>), Mismatch> {
        let name: StrDeserializer<'de, Mismatch> = self.name.into_deserializer();
        Ok((seed.deserialize(name)?, Content(self.content)))
    }
}

/// The content of a variant, if it has any.
struct Content<'de>(Option<Claim<'de>>);

impl<'de> Content<'de> {
    fn required(self) -> Result<Claim<'de>, Mismatch> {
        self.0
            .ok_or_else(|| Mismatch::new("the variant of the enum has no content"))
    }
}

impl<'de> VariantAccess<'de> for Content<'de> {
    type Error = Mismatch;

    fn unit_variant(self) -> Result<(), Mismatch> {
        match self.0 {
            None => Ok(()),
            Some(content) => serde::Deserialize::deserialize(content),
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Mismatch> {
        seed.deserialize(self.required()?)
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Mismatch> {
        self.required()?.deserialize_any(visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Mismatch> {
        self.required()?.visit(fields, visitor)
    }
}

#[cfg(test)]
mod tests;
