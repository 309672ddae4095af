//! A serde deserializer for JSON, which documents return for lists and tables.

use std::vec::IntoIter;

use secretwell_core::json::{Json, Object};
use serde::de::value::StrDeserializer;
use serde::de::{DeserializeSeed, Deserializer, EnumAccess, MapAccess, VariantAccess, Visitor};
use serde::forward_to_deserialize_any;

use super::list;
use super::reason::{FieldError, Reason};
use super::scalar::Scalar;

/// A deserializer for a JSON value.
///
/// Strings, numbers and booleans are deserialized like the text of a secret, so that an item of a list accepts the same
/// texts as a field.
#[derive(Clone, Copy)]
pub(super) struct Value<'a>(pub(super) &'a Json<'a>);

impl<'a> Value<'a> {
    /// Returns the text of a string, a number or a boolean.
    fn scalar(self) -> Result<Scalar<'a>, FieldError> {
        match self.0 {
            Json::Literal(text) => Ok(Scalar(text.as_bytes())),
            Json::Text(text) => Ok(Scalar(text.as_bytes())),
            _ => Err(Reason::Rejected.into()),
        }
    }

    fn object(self) -> Result<&'a Object<Json<'a>>, FieldError> {
        match self.0 {
            Json::Object(object) => Ok(object),
            _ => Err(Reason::NOT_AN_OBJECT.into()),
        }
    }

    /// Visits an array.
    pub(super) fn visit_list<'de, V: Visitor<'de>>(
        self,
        length: Option<usize>,
        visitor: V,
    ) -> Result<V::Value, FieldError> {
        match self.0 {
            Json::List(items) => list::visit(items.iter().map(Value).collect(), length, visitor),
            _ => Err(Reason::Expected("a JSON array").into()),
        }
    }
}

/// Implements methods for types that are deserialized from text.
macro_rules! deserialize_scalar {
    ($($method:ident)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FieldError> {
            self.scalar()?.$method(visitor)
        })*
    };
}

impl<'de> Deserializer<'de> for Value<'_> {
    type Error = FieldError;

    deserialize_scalar! {
        deserialize_bool deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64
        deserialize_i128 deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64
        deserialize_u128 deserialize_f32 deserialize_f64 deserialize_char deserialize_str
        deserialize_string deserialize_bytes deserialize_byte_buf deserialize_identifier
    }

    /// Called by types that accept several forms of input. A number that is not an integer stays text, because a
    /// floating-point number can be another number.
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FieldError> {
        match self.0 {
            Json::Null => visitor.visit_unit(),
            Json::Literal("true") => visitor.visit_bool(true),
            Json::Literal("false") => visitor.visit_bool(false),
            Json::Literal(text) => match (text.parse(), text.parse()) {
                (Ok(number), _) => visitor.visit_u64(number),
                (_, Ok(number)) => visitor.visit_i64(number),
                _ => visitor.visit_str(text),
            },
            Json::Text(text) => visitor.visit_str(text),
            Json::List(_) => self.visit_list(None, visitor),
            Json::Object(object) => Entries::visit(object, visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FieldError> {
        match self.0 {
            Json::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, FieldError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FieldError> {
        self.visit_list(None, visitor)
    }

    fn deserialize_tuple<V: Visitor<'de>>(
        self,
        length: usize,
        visitor: V,
    ) -> Result<V::Value, FieldError> {
        self.visit_list(Some(length), visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        length: usize,
        visitor: V,
    ) -> Result<V::Value, FieldError> {
        self.visit_list(Some(length), visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FieldError> {
        Entries::visit(self.object()?, visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, FieldError> {
        match self.scalar() {
            Ok(scalar) => scalar.deserialize_struct(name, fields, visitor),
            Err(_) => self.deserialize_map(visitor),
        }
    }

    /// Accepts the name of a variant without data, or an object of the name and the data.
    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, FieldError> {
        if let Ok(scalar) = self.scalar() {
            return scalar.deserialize_enum(name, variants, visitor);
        }
        let mut entries = self.object()?.iter();
        match (entries.next(), entries.next()) {
            (Some((variant, data)), None) => visitor.visit_enum(Variant {
                name: variant,
                data: Value(data),
            }),
            _ => Err(Reason::Expected("a JSON object of one variant and its data").into()),
        }
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FieldError> {
        visitor.visit_unit()
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, FieldError> {
        visitor.visit_unit()
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FieldError> {
        visitor.visit_unit()
    }
}

/// The entries of an object, for a map or a struct.
struct Entries<'a> {
    rest: IntoIter<(&'a str, &'a Json<'a>)>,
    value: Option<&'a Json<'a>>,
}

impl<'a> Entries<'a> {
    /// Passes all entries to `visitor`.
    fn visit<'de, V: Visitor<'de>>(
        object: &'a Object<Json<'a>>,
        visitor: V,
    ) -> Result<V::Value, FieldError> {
        let mut entries = Self {
            rest: object.iter().collect::<Vec<_>>().into_iter(),
            value: None,
        };
        let value = visitor.visit_map(&mut entries)?;
        match entries.rest.len() {
            0 => Ok(value),
            _ => Err(Reason::Rejected.into()),
        }
    }
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = FieldError;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, FieldError> {
        let Some((name, value)) = self.rest.next() else {
            return Ok(None);
        };
        self.value = Some(value);
        seed.deserialize(Name(name)).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(
        &mut self,
        seed: V,
    ) -> Result<V::Value, FieldError> {
        let value = self.value.take().ok_or(Reason::Rejected)?;
        seed.deserialize(Value(value))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.rest.len())
    }
}

/// A deserializer for a name in an object.
///
/// A name has one notation. Otherwise two names, such as `80` and `0x50`, could be one entry of a map, and one of their
/// values would be dropped.
struct Name<'a>(&'a str);

impl<'a> Name<'a> {
    fn scalar(&self) -> Scalar<'a> {
        Scalar(self.0.as_bytes())
    }

    /// Returns the scalar of a name that has no white space around it.
    fn trimmed(&self) -> Result<Scalar<'a>, FieldError> {
        match self.0.trim_ascii().len() == self.0.len() {
            true => Ok(self.scalar()),
            false => Err(Reason::Expected("a name without white space around it").into()),
        }
    }
}

macro_rules! deserialize_name {
    ($($method:ident: $type:ty)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FieldError> {
            const FORM: Reason = Reason::Expected("a name of decimal digits, such as `80`");
            match self.0.parse::<$type>() {
                Ok(number) if number.to_string() == self.0 => self.scalar().$method(visitor),
                _ => Err(FORM.into()),
            }
        })*
    };
}

impl<'de> Deserializer<'de> for Name<'_> {
    type Error = FieldError;

    deserialize_name! {
        deserialize_i8: i8
        deserialize_i16: i16
        deserialize_i32: i32
        deserialize_i64: i64
        deserialize_i128: i128
        deserialize_u8: u8
        deserialize_u16: u16
        deserialize_u32: u32
        deserialize_u64: u64
        deserialize_u128: u128
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FieldError> {
        match self.0 {
            "true" | "false" => self.scalar().deserialize_bool(visitor),
            _ => Err(Reason::Expected("the name `true` or `false`").into()),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, FieldError> {
        self.trimmed()?.deserialize_enum(name, variants, visitor)
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FieldError> {
        self.trimmed()?.deserialize_char(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FieldError> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, FieldError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FieldError> {
        visitor.visit_str(self.0)
    }

    forward_to_deserialize_any! {
        f32 f64 str string bytes byte_buf unit unit_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

/// An enum variant with its data.
struct Variant<'a> {
    name: &'a str,
    data: Value<'a>,
}

impl<'de, 'a> EnumAccess<'de> for Variant<'a> {
    type Error = FieldError;
    type Variant = Value<'a>;

    fn variant_seed<V: DeserializeSeed<'de>>(
        self,
        seed: V,
    ) -> Result<(V::Value, Value<'a>), FieldError> {
        let name = StrDeserializer::<FieldError>::new(self.name);
        Ok((seed.deserialize(name)?, self.data))
    }
}

impl<'de> VariantAccess<'de> for Value<'_> {
    type Error = FieldError;

    fn unit_variant(self) -> Result<(), FieldError> {
        match self.0 {
            Json::Null => Ok(()),
            _ => Err(Reason::Expected("an enum variant without data").into()),
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(
        self,
        seed: T,
    ) -> Result<T::Value, FieldError> {
        seed.deserialize(self)
    }

    fn tuple_variant<V: Visitor<'de>>(
        self,
        length: usize,
        visitor: V,
    ) -> Result<V::Value, FieldError> {
        self.visit_list(Some(length), visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, FieldError> {
        self.deserialize_map(visitor)
    }
}
