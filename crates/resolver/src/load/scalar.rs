//! A serde deserializer for the text of one value: all types except lists, tables and enums with data.

use std::str::FromStr;

use serde::de::value::{SeqDeserializer, StrDeserializer};
use serde::de::{DeserializeSeed, Deserializer, EnumAccess, VariantAccess, Visitor};

use super::number::{Integer, parse_float};
use super::reason::{FieldError, Reason};
use super::shape::is_duration;

/// A deserializer for the bytes of one value.
#[derive(Clone, Copy)]
pub(super) struct Scalar<'a>(pub(super) &'a [u8]);

impl<'a> Scalar<'a> {
    pub(super) fn text(self) -> Result<&'a str, FieldError> {
        std::str::from_utf8(self.0).map_err(|_| Reason::NotText.into())
    }

    /// Returns the text without white space around it.
    pub(super) fn trimmed(self) -> Result<&'a str, FieldError> {
        self.text().map(str::trim_ascii)
    }

    fn integer(self) -> Result<Integer, FieldError> {
        Integer::parse(self.trimmed()?).ok_or(Reason::Rejected.into())
    }
}

macro_rules! visit_integers {
    ($($method:ident => $visit:ident, $convert:ident)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FieldError> {
            visitor.$visit(self.integer()?.$convert().ok_or(Reason::Rejected)?)
        })*
    };
}

macro_rules! visit_floats {
    ($($method:ident => $visit:ident)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FieldError> {
            const FORM: Reason = Reason::Expected("a finite decimal number, such as `0.5`");
            visitor.$visit(parse_float(self.trimmed()?).ok_or(FORM)?)
        })*
    };
}

macro_rules! visit_text {
    ($($method:ident)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FieldError> {
            visitor.visit_str(self.text()?)
        })*
    };
}

macro_rules! reject {
    ($($method:ident($($argument:ty),*))*) => {
        $(fn $method<V: Visitor<'de>>(self, $(_: $argument,)* _: V) -> Result<V::Value, FieldError> {
            Err(Reason::Rejected.into())
        })*
    };
}

impl<'de> Deserializer<'de> for Scalar<'_> {
    type Error = FieldError;

    visit_text! { deserialize_any deserialize_str deserialize_string deserialize_identifier }

    visit_integers! {
        deserialize_i8 => visit_i8, signed
        deserialize_i16 => visit_i16, signed
        deserialize_i32 => visit_i32, signed
        deserialize_i64 => visit_i64, signed
        deserialize_i128 => visit_i128, signed
        deserialize_u8 => visit_u8, unsigned
        deserialize_u16 => visit_u16, unsigned
        deserialize_u32 => visit_u32, unsigned
        deserialize_u64 => visit_u64, unsigned
        deserialize_u128 => visit_u128, unsigned
    }

    visit_floats! { deserialize_f32 => visit_f32 deserialize_f64 => visit_f64 }

    reject! {
        deserialize_seq()
        deserialize_tuple(usize)
        deserialize_tuple_struct(&'static str, usize)
        deserialize_map()
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FieldError> {
        let text = self.trimmed()?;
        visitor.visit_char(char::from_str(text).map_err(|_| Reason::Rejected)?)
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FieldError> {
        const FORM: &str = "`true` or `false`, `yes` or `no`, `on` or `off`, `1` or `0`";
        let text = self.trimmed()?;
        let is_one_of = |words: [&str; 4]| words.iter().any(|word| text.eq_ignore_ascii_case(word));
        if is_one_of(["true", "1", "yes", "on"]) {
            visitor.visit_bool(true)
        } else if is_one_of(["false", "0", "no", "off"]) {
            visitor.visit_bool(false)
        } else {
            Err(Reason::Expected(FORM).into())
        }
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FieldError> {
        visitor.visit_bytes(self.0)
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FieldError> {
        visitor.visit_bytes(self.0)
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

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, FieldError> {
        visitor.visit_enum(Variant {
            name: self.trimmed()?,
            variants,
        })
    }

    /// Accepts a [`Duration`](std::time::Duration), the only struct that has a text.
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, FieldError> {
        const FORM: Reason = Reason::Expected("a duration with a unit, such as `30s` or `5m`");
        if !is_duration(name, fields) {
            return Err(Reason::Rejected.into());
        }
        let duration = humantime::parse_duration(self.trimmed()?).map_err(|_| FORM)?;
        let parts = [duration.as_secs(), u64::from(duration.subsec_nanos())];
        visitor.visit_seq(SeqDeserializer::new(parts.into_iter()))
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

/// The name of an enum variant. A variant with data is an error.
struct Variant<'a> {
    name: &'a str,
    variants: &'static [&'static str],
}

impl Variant<'_> {
    fn has_data<T>(&self) -> Result<T, FieldError> {
        let name = self.variants.iter().find(|name| **name == self.name);
        // The name is an alias if the list does not contain it.
        Err(name
            .map_or(Reason::Rejected, |name| Reason::VariantWithData(name))
            .into())
    }
}

impl<'de> EnumAccess<'de> for Variant<'_> {
    type Error = FieldError;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(
        self,
        seed: V,
    ) -> Result<(V::Value, Self), FieldError> {
        let name = StrDeserializer::<FieldError>::new(self.name);
        Ok((seed.deserialize(name)?, self))
    }
}

impl<'de> VariantAccess<'de> for Variant<'_> {
    type Error = FieldError;

    fn unit_variant(self) -> Result<(), FieldError> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, _: T) -> Result<T::Value, FieldError> {
        self.has_data()
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, _: V) -> Result<V::Value, FieldError> {
        self.has_data()
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, FieldError> {
        self.has_data()
    }
}
