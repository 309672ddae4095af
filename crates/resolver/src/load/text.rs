//! A serde deserializer for the text or bytes of one secret.

use std::fmt;
use std::str::FromStr;

use secretwell_core::{Error, ErrorKind, KeyPrefix, SecretKey};
use serde::de::value::{SeqDeserializer, StrDeserializer};
use serde::de::{
    self, DeserializeSeed, Deserializer, EnumAccess, IntoDeserializer, VariantAccess, Visitor,
};

use super::trace::is_duration;

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
    UnknownVariant(&'static [&'static str]),
    VariantWithData,
    Rejected,
    /// A `Deserialize` implementation or another part of the user's type panicked.
    Panicked,
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
            Reason::UnknownVariant(names) => {
                write!(f, "the value is not one of `{}`", names.join("`, `"))
            }
            Reason::VariantWithData => {
                f.write_str("the value names an enum variant with data, which cannot be loaded")
            }
            Reason::Rejected => f.write_str("the value was not accepted"),
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

/// A deserializer for the bytes of one secret.
#[derive(Clone, Copy)]
pub(super) struct Text<'a> {
    bytes: &'a [u8],
    /// Whether the bytes are a sample value for an absent or invalid secret. Samples let serde continue
    /// with the fields after it.
    is_sample: bool,
}

impl<'a> Text<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            is_sample: false,
        }
    }

    pub(super) fn sample(text: &'a str) -> Self {
        Self {
            bytes: text.as_bytes(),
            is_sample: true,
        }
    }

    fn text(self) -> Result<&'a str, FieldError> {
        std::str::from_utf8(self.bytes).map_err(|_| Reason::NotText.into())
    }

    fn parse<T: FromStr>(self) -> Result<T, FieldError> {
        self.text()?
            .trim()
            .parse()
            .map_err(|_| Reason::Rejected.into())
    }

    fn items(self) -> Result<impl Iterator<Item = Self>, FieldError> {
        let is_sample = self.is_sample;
        let items = self.text()?.split(',').map(str::trim);
        Ok(items.map(move |item| Self {
            bytes: item.as_bytes(),
            is_sample,
        }))
    }
}

macro_rules! visit_parsed {
    ($($method:ident => $visit:ident)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FieldError> {
            visitor.$visit(self.parse()?)
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

impl<'de> Deserializer<'de> for Text<'_> {
    type Error = FieldError;

    visit_text! { deserialize_any deserialize_str deserialize_string deserialize_identifier }

    visit_parsed! {
        deserialize_i8 => visit_i8
        deserialize_i16 => visit_i16
        deserialize_i32 => visit_i32
        deserialize_i64 => visit_i64
        deserialize_i128 => visit_i128
        deserialize_u8 => visit_u8
        deserialize_u16 => visit_u16
        deserialize_u32 => visit_u32
        deserialize_u64 => visit_u64
        deserialize_u128 => visit_u128
        deserialize_f32 => visit_f32
        deserialize_f64 => visit_f64
        deserialize_char => visit_char
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FieldError> {
        let text = self.text()?.trim();
        let is_one_of = |words: [&str; 4]| words.iter().any(|word| text.eq_ignore_ascii_case(word));
        if is_one_of(["true", "1", "yes", "on"]) {
            visitor.visit_bool(true)
        } else if is_one_of(["false", "0", "no", "off"]) {
            visitor.visit_bool(false)
        } else {
            Err(Reason::Rejected.into())
        }
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FieldError> {
        visitor.visit_bytes(self.bytes)
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FieldError> {
        visitor.visit_bytes(self.bytes)
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

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FieldError> {
        visitor.visit_seq(SeqDeserializer::new(self.items()?))
    }

    fn deserialize_tuple<V: Visitor<'de>>(
        self,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, FieldError> {
        if self.is_sample {
            return visitor.visit_seq(SeqDeserializer::new(std::iter::repeat_n(self, len)));
        }
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, FieldError> {
        self.deserialize_tuple(len, visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, FieldError> {
        let first = variants.first().filter(|_| self.is_sample);
        visitor.visit_enum(Variant(first.copied().unwrap_or(self.text()?.trim())))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, FieldError> {
        if !is_duration(name, fields) {
            return Err(Reason::Rejected.into());
        }
        let text = if self.is_sample {
            "1s"
        } else {
            self.text()?.trim()
        };
        let duration = humantime::parse_duration(text).map_err(|_| Reason::Rejected)?;
        let parts = [duration.as_secs(), u64::from(duration.subsec_nanos())];
        visitor.visit_seq(SeqDeserializer::new(parts.into_iter()))
    }

    fn deserialize_map<V: Visitor<'de>>(self, _: V) -> Result<V::Value, FieldError> {
        Err(Reason::Rejected.into())
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

impl<'de> IntoDeserializer<'de, FieldError> for Text<'_> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

/// A deserializer for an enum variant without data, given its name.
struct Variant<'a>(&'a str);

impl<'de> EnumAccess<'de> for Variant<'_> {
    type Error = FieldError;
    type Variant = UnitVariant;

    fn variant_seed<V: DeserializeSeed<'de>>(
        self,
        seed: V,
    ) -> Result<(V::Value, UnitVariant), FieldError> {
        let name = StrDeserializer::<FieldError>::new(self.0);
        Ok((seed.deserialize(name)?, UnitVariant))
    }
}

struct UnitVariant;

impl<'de> VariantAccess<'de> for UnitVariant {
    type Error = FieldError;

    fn unit_variant(self) -> Result<(), FieldError> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, _: T) -> Result<T::Value, FieldError> {
        Err(Reason::VariantWithData.into())
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, _: V) -> Result<V::Value, FieldError> {
        Err(Reason::VariantWithData.into())
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, FieldError> {
        Err(Reason::VariantWithData.into())
    }
}
