//! Reads one value from one secret.

use std::fmt;
use std::str::FromStr;

use serde::de::value::{SeqDeserializer, StrDeserializer};
use serde::de::{
    self, DeserializeSeed, Deserializer, EnumAccess, IntoDeserializer, VariantAccess, Visitor,
};

use super::trace::is_duration;
use secretwell_core::{KeyPrefix, SecretKey};

/// Why a value, or a struct, could not be made.
///
/// Everything formatted that serde or a type's own implementation has to say is thrown away,
/// because it may quote the value ("relative URL without a base: s3cr3t"). Only what is fixed at
/// compile time is kept.
#[derive(Debug)]
pub(super) struct Flaw {
    pub(super) what: What,
    pub(super) place: Option<Place>,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum What {
    Missing(&'static str),
    Twice(&'static str),
    NotText,
    NotOneOf(&'static [&'static str]),
    NeedsData,
    Rejected,
}

#[derive(Debug)]
pub(super) enum Place {
    Secret(SecretKey),
    Struct(KeyPrefix),
}

impl Flaw {
    /// Keeps the innermost place that is stated_wait.
    pub(super) fn at(mut self, place: impl FnOnce() -> Place) -> Self {
        self.place.get_or_insert_with(place);
        self
    }
}

impl From<What> for Flaw {
    fn from(what: What) -> Self {
        Self { what, place: None }
    }
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.what {
            What::Missing(name) => write!(f, "`{name}` is missing"),
            What::Twice(name) => {
                write!(f, "`{name}` is given under two names; set only one of them")
            }
            What::NotText => f.write_str("the value is not UTF-8 text"),
            What::NotOneOf(names) => write!(f, "the value is none of `{}`", names.join("`, `")),
            What::NeedsData => f.write_str("the value names a variant that holds data"),
            What::Rejected => f.write_str("the value was not accepted"),
        }
    }
}

impl std::error::Error for Flaw {}

impl de::Error for Flaw {
    fn custom<T: fmt::Display>(_: T) -> Self {
        What::Rejected.into()
    }

    fn missing_field(field: &'static str) -> Self {
        What::Missing(field).into()
    }

    fn duplicate_field(field: &'static str) -> Self {
        What::Twice(field).into()
    }

    fn unknown_variant(_: &str, expected: &'static [&'static str]) -> Self {
        What::NotOneOf(expected).into()
    }
}

/// The bytes of one secret, to be read as whatever type its field has.
#[derive(Clone, Copy)]
pub(super) struct Text<'a> {
    bytes: &'a [u8],
    /// Stands in for a secret that is not there, so that the fields after it can be looked at too.
    sample: bool,
}

impl<'a> Text<'a> {
    pub(super) fn of(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            sample: false,
        }
    }

    pub(super) fn sample(text: &'a str) -> Self {
        Self {
            bytes: text.as_bytes(),
            sample: true,
        }
    }

    fn text(self) -> Result<&'a str, Flaw> {
        std::str::from_utf8(self.bytes).map_err(|_| What::NotText.into())
    }

    fn parse<T: FromStr>(self) -> Result<T, Flaw> {
        self.text()?
            .trim()
            .parse()
            .map_err(|_| What::Rejected.into())
    }

    fn items(self) -> Result<impl Iterator<Item = Self>, Flaw> {
        let sample = self.sample;
        let items = self.text()?.split(',').map(str::trim);
        Ok(items.map(move |item| Self {
            bytes: item.as_bytes(),
            sample,
        }))
    }
}

macro_rules! parses {
    ($($method:ident => $visit:ident)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Flaw> {
            visitor.$visit(self.parse()?)
        })*
    };
}

macro_rules! gives_text {
    ($($method:ident)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Flaw> {
            visitor.visit_str(self.text()?)
        })*
    };
}

impl<'de> Deserializer<'de> for Text<'_> {
    type Error = Flaw;

    gives_text! { deserialize_any deserialize_str deserialize_string deserialize_identifier }

    parses! {
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

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Flaw> {
        match self.text()?.trim().to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" | "on" => visitor.visit_bool(true),
            "false" | "0" | "no" | "off" => visitor.visit_bool(false),
            _ => Err(What::Rejected.into()),
        }
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Flaw> {
        visitor.visit_bytes(self.bytes)
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Flaw> {
        visitor.visit_bytes(self.bytes)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Flaw> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Flaw> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Flaw> {
        visitor.visit_seq(SeqDeserializer::new(self.items()?))
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Flaw> {
        if self.sample {
            return visitor.visit_seq(SeqDeserializer::new(std::iter::repeat_n(self, len)));
        }
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, Flaw> {
        self.deserialize_tuple(len, visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Flaw> {
        let first = variants.first().filter(|_| self.sample);
        visitor.visit_enum(Variant(first.copied().unwrap_or(self.text()?.trim())))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Flaw> {
        if !is_duration(name, fields) {
            return Err(What::Rejected.into());
        }
        let text = if self.sample {
            "1s"
        } else {
            self.text()?.trim()
        };
        let duration = humantime::parse_duration(text).map_err(|_| What::Rejected)?;
        let parts = [duration.as_secs(), u64::from(duration.subsec_nanos())];
        visitor.visit_seq(SeqDeserializer::new(parts.into_iter()))
    }

    fn deserialize_map<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Flaw> {
        Err(What::Rejected.into())
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Flaw> {
        visitor.visit_unit()
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Flaw> {
        visitor.visit_unit()
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Flaw> {
        visitor.visit_unit()
    }
}

impl<'de> IntoDeserializer<'de, Flaw> for Text<'_> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

/// The name of an enum's variant.
struct Variant<'a>(&'a str);

impl<'de> EnumAccess<'de> for Variant<'_> {
    type Error = Flaw;
    type Variant = WithoutData;

    fn variant_seed<V: DeserializeSeed<'de>>(
        self,
        seed: V,
    ) -> Result<(V::Value, WithoutData), Flaw> {
        let name = StrDeserializer::<Flaw>::new(self.0);
        Ok((seed.deserialize(name)?, WithoutData))
    }
}

struct WithoutData;

impl<'de> VariantAccess<'de> for WithoutData {
    type Error = Flaw;

    fn unit_variant(self) -> Result<(), Flaw> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, _: T) -> Result<T::Value, Flaw> {
        Err(What::NeedsData.into())
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, _: V) -> Result<V::Value, Flaw> {
        Err(What::NeedsData.into())
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Flaw> {
        Err(What::NeedsData.into())
    }
}
